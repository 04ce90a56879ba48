"""Win rates and what is said of judges, against the formulas written out and against others' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from moralprobe.errors import DataError, NumericError
from moralprobe.evaluation.pairwise import (
    MISSING,
    RIDGE,
    Pairs,
    agreement,
    difference,
    judge_statistics,
    length_controlled,
    li2026_win_rate,
    prompt_mean,
    win_rate,
)

NAN = math.nan


def pairs_of(rng: np.random.Generator, n: int, seeds: int, p: float, lost: float = 0.0) -> Pairs:
    """A judge who names the arm with probability p, ties in a fifth, in each order by itself."""

    def answers() -> np.ndarray:
        x = np.where(rng.random((n, seeds)) < p, 1.0, 0.0)
        x[rng.random((n, seeds)) < 0.2] = 0.5
        x[rng.random((n, seeds)) < lost] = NAN
        return x

    return Pairs(answers(), answers())


def test_a_win_rate_is_the_mean_over_prompts_of_the_mean_over_seeds() -> None:
    first = np.array([[1.0, 1.0, 0.5], [0.0, NAN, 1.0], [NAN, 1.0, NAN], [1.0, 0.0, 0.0]])
    second = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0], [1.0, NAN, NAN], [0.5, 0.0, 1.0]])
    found = win_rate(Pairs(first, second))
    means = []
    for a, b in zip(first, second, strict=True):
        scores = [(x + y) / 2 for x, y in zip(a, b, strict=True) if not math.isnan(x + y)]
        if scores:
            means.append(sum(scores) / len(scores))
    assert found.value == pytest.approx(sum(means) / len(means))
    assert (found.prompts, found.pairs, found.missing) == (3, 8, 4)
    # A missing order is no tie, and seeds don't make a prompt count more.
    assert found.value != pytest.approx(np.nanmean((first + second) / 2))


def test_a_missing_order_is_left_out_whatever_the_other_said() -> None:
    said = Pairs(np.array([[1.0], [1.0], [0.0]]), np.array([[1.0], [NAN], [0.0]]))
    assert win_rate(said).value == 0.5
    assert win_rate(said).missing == 1


def test_an_interval_is_that_of_resampled_prompts_and_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    seeds_alike = np.repeat(rng.random((100, 1)) < 0.6, 5, axis=1).astype(np.float64)
    found = win_rate(Pairs(seeds_alike, seeds_alike))
    p = found.value
    half = 1.96 * math.sqrt(p * (1 - p) / 100)
    assert found.low == pytest.approx(p - half, abs=0.02)
    assert found.high == pytest.approx(p + half, abs=0.02)
    held = 0
    for k in range(200):
        said = pairs_of(np.random.default_rng([1, k]), 60, 2, 0.7, lost=0.05)
        estimate = win_rate(said, seed=k)
        held += estimate.low <= 0.8 * 0.7 + 0.2 * 0.5 <= estimate.high
    assert 180 <= held <= 199  # 95 % of 200, and three standard errors


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.05, 1.0), (0.0, 0.0, 0.95)])
def test_no_interval_is_empty_where_all_prompts_say_the_same(
    value: float, low: float, high: float
) -> None:
    from scipy.stats import binomtest

    n = 40
    said = Pairs(np.full((n, 2), value), np.full((n, 2), value))
    found = win_rate(said)
    exact = binomtest(round(value * n), n).proportion_ci(0.95, method="exact")
    assert found.value == value
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    tied = prompt_mean(np.full((n, 1), 0.5))
    assert tied.low == pytest.approx(0.5 * (exact.low if value else 1 - exact.high))
    one = prompt_mean(np.full((1, 1), value))
    assert (one.low, one.high) == pytest.approx((0.025, 1.0) if value else (0.0, 0.975))


def test_two_arms_are_compared_on_the_pairs_that_both_have() -> None:
    rng = np.random.default_rng(2)
    a, b = (pairs_of(rng, 80, 3, p, lost=0.1).scores for p in (0.8, 0.5))
    found = difference(a, b)
    means = []
    for x, y in zip(a, b, strict=True):
        both = [i - j for i, j in zip(x, y, strict=True) if not math.isnan(i + j)]
        if both:
            means.append(sum(both) / len(both))
    assert found.value == pytest.approx(np.mean(means))
    assert found.prompts == len(means) and found.missing == int(np.isnan(a + b).sum())
    assert 0 < found.low < found.value < found.high
    assert difference(b, a).value == pytest.approx(-found.value)
    held = 0
    for k in range(200):
        a, b = (pairs_of(np.random.default_rng([2, k, arm]), 50, 2, 0.6).scores for arm in (0, 1))
        nothing = difference(a, b, seed=k)
        held += nothing.low < 0 < nothing.high
    assert 180 <= held <= 199


def test_what_two_arms_share_leaves_their_difference() -> None:
    """Hard prompts are hard for both: unpaired, the interval would be far wider."""
    rng = np.random.default_rng(3)
    shared = (rng.random((200, 1)) < 0.5).astype(np.float64)
    control = shared.copy()
    control[:10] = 0.5 * control[:10]
    found = difference(shared, control)
    assert found.high - found.low < 0.2 * 1.96 * 2 * math.sqrt(0.5 / 200)


def naive_fit(y: np.ndarray, delta: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    from scipy.optimize import minimize

    t = np.tanh(delta / delta.std())

    def loss(x: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-(x[0] + x[1] * t)))
        one = y * np.log(p) + (1 - y) * np.log(1 - p)
        return float(-(weights * one).sum() + RIDGE / 2 * (x**2).sum())

    theta, gain = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8}).x
    return float(theta), float(gain)


def lengths(rng: np.random.Generator, n: int, seeds: int, mean: float = 80) -> np.ndarray:
    return np.round(rng.normal(mean, 120, (n, seeds)))


def test_a_length_controlled_win_rate_is_the_logistic_fit_at_equal_length() -> None:
    rng = np.random.default_rng(4)
    delta = lengths(rng, 150, 3)
    scores = pairs_of(rng, 150, 3, 0.6, lost=0.05).scores
    there = np.isfinite(scores)
    delta[~there] = NAN
    found = length_controlled(scores, delta)
    weights = (there / np.maximum(there.sum(1, keepdims=True), 1))[there]
    theta, gain = naive_fit(scores[there], delta[there], weights)
    assert found.win_rate.value == pytest.approx(1 / (1 + math.exp(-theta)), abs=1e-5)
    assert found.gain.value == pytest.approx(gain, abs=1e-4)
    # scikit-learn knows no fractions: a score is a win with its weight and a loss with the rest.
    y, t = scores[there], np.tanh(delta[there] / delta[there].std())
    model = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000)
    model.fit(
        np.concatenate([t, t])[:, None],
        np.repeat([1, 0], len(y)),
        sample_weight=np.concatenate([weights * y, weights * (1 - y)]),
    )
    assert found.win_rate.value == pytest.approx(1 / (1 + math.exp(-model.intercept_[0])), abs=1e-3)
    assert found.gain.value == pytest.approx(model.coef_[0, 0], abs=1e-2)
    assert found.win_rate.low < found.win_rate.value < found.win_rate.high
    assert found.win_rate.missing == int((~there).sum())


def test_a_judge_who_likes_length_alone_gives_a_half_at_equal_length() -> None:
    rng = np.random.default_rng(5)
    delta = lengths(rng, 400, 2)
    p = 1 / (1 + np.exp(-2.5 * np.tanh(delta / delta.std())))
    scores = (rng.random(delta.shape) < p).astype(np.float64)
    found = length_controlled(scores, delta)
    assert prompt_mean(scores).low > 0.6
    assert found.win_rate.low < 0.5 < found.win_rate.high
    assert abs(found.win_rate.value - 0.5) < 0.06
    assert found.gain.low < 2.5 < found.gain.high and found.gain.low > 0
    # Shuffled against the lengths, it isn't explained by them.
    shuffled = rng.permutation(scores.ravel()).reshape(scores.shape)
    assert length_controlled(shuffled, delta).win_rate.low > 0.55


def test_a_better_arm_stays_better_at_equal_length() -> None:
    held = 0
    for k in range(100):
        rng = np.random.default_rng([6, k])
        delta = lengths(rng, 120, 2)
        p = 1 / (1 + np.exp(-(0.7 + 1.5 * np.tanh(delta / 120))))
        scores = (rng.random(delta.shape) < p).astype(np.float64)
        estimate = length_controlled(scores, delta, seed=k).win_rate
        held += estimate.low <= 1 / (1 + math.exp(-0.7)) <= estimate.high
    assert 89 <= held <= 100


def test_separable_data_stay_finite() -> None:
    rng = np.random.default_rng(7)
    delta = lengths(rng, 100, 1)
    found = length_controlled((delta > 0).astype(np.float64), delta)
    assert abs(found.win_rate.value - 0.5) < 0.15
    assert found.gain.value > 5 and math.isfinite(found.gain.high)
    theta, gain = naive_fit((delta.ravel() > 0).astype(float), delta.ravel(), np.ones(100))
    assert found.gain.value == pytest.approx(gain, rel=1e-3)
    assert found.win_rate.value == pytest.approx(1 / (1 + math.exp(-theta)), abs=1e-3)
    assert 0 <= found.win_rate.low <= found.win_rate.value <= found.win_rate.high <= 1
    always = length_controlled(np.ones((50, 1)), delta[:50])
    assert always.win_rate.value == 1 and 0.9 < always.win_rate.low < 0.95
    nearly = np.ones((50, 1))
    nearly[0] = 0
    assert 0.9 < length_controlled(nearly, delta[:50]).win_rate.value < 1


def test_lengths_that_explain_nothing_are_said() -> None:
    scores = pairs_of(np.random.default_rng(8), 30, 1, 0.7).scores
    equal = length_controlled(scores, np.zeros((30, 1)))
    assert equal.win_rate.value == pytest.approx(prompt_mean(scores).value, abs=1e-3)
    assert equal.gain.value == 0
    with pytest.raises(NumericError, match="longer by 7"):
        length_controlled(scores, np.full((30, 1), 7.0))
    with pytest.raises(DataError, match="no lengths"):
        length_controlled(scores, np.full((30, 1), NAN))
    with pytest.raises(DataError, match="no lengths"):
        length_controlled(scores, np.ones((30, 2)))


def test_the_published_design_counts_one_order_and_failures_as_ties() -> None:
    arm_second = np.array([[1.0], [1.0], [0.5], [NAN], [0.0], [1.0]])
    found = li2026_win_rate(Pairs(np.zeros((6, 1)), arm_second))
    assert found.value == 3 / 6
    assert (found.wins, found.ties, found.losses, found.failures) == (3, 2, 1, 1)
    # Always the second: all is won by that design, and half by both orders.
    n = 20
    second = Pairs(np.zeros((n, 1)), np.ones((n, 1)))
    assert li2026_win_rate(second).value == 1
    assert win_rate(second).value == 0.5


def test_a_judge_is_known_by_its_answers() -> None:
    n = 50
    always_first = Pairs(np.ones((n, 1)), np.zeros((n, 1)))
    found = judge_statistics(always_first)
    assert found.position_bias.value == 0.5 and found.self_consistency.value == 0
    assert judge_statistics(Pairs(np.zeros((n, 1)), np.ones((n, 1)))).position_bias.value == -0.5
    rng = np.random.default_rng(9)
    sure = (rng.random((n, 2)) < 0.7).astype(np.float64)
    found = judge_statistics(Pairs(sure, sure))
    assert found.position_bias.value == 0 and found.self_consistency.value == 1
    assert found.missing == 0
    # Names the first in a third of prompts, the arm in a third, and ties in a third.
    first = np.array([[1.0, 1.0, 0.5]] * 30).reshape(-1, 1)
    second = np.array([[0.0, 1.0, 0.5]] * 30).reshape(-1, 1)
    second[0] = NAN
    found = judge_statistics(Pairs(first, second))
    assert found.position_bias.value == pytest.approx(29 / 89 * 0.5)
    assert found.self_consistency.value == pytest.approx(60 / 89)
    assert found.position_bias.low > 0 and found.position_bias.missing == 1
    assert found.missing == pytest.approx(1 / 180)


def test_kappa_is_that_of_scikit_learn_and_zero_by_chance() -> None:
    rng = np.random.default_rng(10)
    a, b = pairs_of(rng, 300, 2, 0.6, lost=0.05), pairs_of(rng, 300, 2, 0.6, lost=0.05)
    mixed = rng.random((300, 2)) < 0.6
    c = Pairs(
        np.where(mixed, a.arm_first, b.arm_first), np.where(mixed, a.arm_second, b.arm_second)
    )
    for other, related in ((b, False), (c, True)):
        found = agreement(a, other)
        both = np.isfinite(a.scores) & np.isfinite(other.scores)
        mine, theirs = (
            [1 if s > 0.5 else -1 if s < 0.5 else 0 for s in j.scores[both]] for j in (a, other)
        )
        assert found.value == pytest.approx(cohen_kappa_score(mine, theirs))
        assert found.pairs == int(both.sum()) and found.missing == 600 - found.pairs
        assert found.low < found.value < found.high
        assert (found.low > 0.3) if related else (found.low < 0 < found.high)


def test_two_judges_who_always_name_the_first_dont_agree_on_an_arm() -> None:
    first = Pairs(np.ones((30, 1)), np.zeros((30, 1)))
    assert math.isnan(agreement(first, first).value)
    rng = np.random.default_rng(11)
    sure = (rng.random((40, 1)) < 0.5).astype(np.float64)
    same = agreement(Pairs(sure, sure), Pairs(sure, sure))
    assert same.value == 1 and math.isnan(same.low)
    assert agreement(Pairs(sure, sure), Pairs(1 - sure, 1 - sure)).value < -0.9


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="two orders don't match"):
        Pairs(np.ones((3, 1)), np.ones((3, 2)))
    with pytest.raises(DataError, match="two orders don't match"):
        Pairs(np.ones(3), np.ones(3))
    with pytest.raises(DataError, match=r"0\.7 is no answer of a judge"):
        Pairs(np.full((2, 1), 0.7), np.ones((2, 1)))
    with pytest.raises(DataError, match="inf is no answer"):
        Pairs(np.full((2, 1), np.inf), np.ones((2, 1)))
    lost = Pairs(np.full((2, 1), MISSING), np.ones((2, 1)))
    for measure in (win_rate, judge_statistics):
        with pytest.raises(DataError, match="nothing to average"):
            measure(lost)
    with pytest.raises(DataError, match="share no pair"):
        agreement(lost, lost)
    with pytest.raises(DataError, match="can't be compared"):
        agreement(lost, Pairs(np.ones((3, 1)), np.ones((3, 1))))
    with pytest.raises(DataError, match="can't be compared"):
        difference(np.ones((2, 1)), np.ones((3, 1)))
    empty = np.empty((0, 1))
    with pytest.raises(DataError, match="nothing to count"):
        li2026_win_rate(Pairs(empty, empty))
    with pytest.raises(DataError, match="nothing to average"):
        win_rate(Pairs(empty, empty))
