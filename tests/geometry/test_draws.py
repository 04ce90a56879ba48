"""Resamples of statistics whose parts are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from moralprobe.geometry.draws import (
    Draws,
    _levels,
    interval,
    narrowed,
    resampled,
    resampled_two,
    spread_of_choice,
)
from moralprobe.geometry.measure import permutation_p

N, DRAWS, WHOLE = 60, 50, 20
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, N))
COUNTS = RNG.multinomial(N, [1 / N] * N, DRAWS)
ONCE = np.ones((1, N))


def mean(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (weights @ x) / N


def test_a_mean_moves_whole_and_has_no_excess() -> None:
    values = mean(np.concatenate([ONCE, (1 + COUNTS) / 2, COUNTS[:WHOLE]]), X)
    draws = resampled(values, DRAWS, np.empty(0), N)
    np.testing.assert_allclose(draws.boot, mean(COUNTS, X))
    np.testing.assert_allclose(draws.excess, 0, atol=1e-12)


def test_the_excess_of_a_square_is_what_pairs_of_units_add() -> None:
    values = mean(np.concatenate([ONCE, (1 + COUNTS) / 2, COUNTS[:WHOLE]]), X) ** 2
    draws = resampled(values, DRAWS, np.empty(0), N)
    moved = mean(COUNTS, X) - X.mean()
    np.testing.assert_allclose(draws.boot, X.mean() ** 2 + 2 * X.mean() * moved + moved**2 / 2)
    np.testing.assert_allclose(draws.excess, moved[:WHOLE] ** 2)


def test_the_excess_of_a_product_is_what_either_side_alone_does_not_move() -> None:
    whole = COUNTS[:WHOLE]
    same = np.ones_like(whole)
    trained = np.concatenate([ONCE, (1 + COUNTS) / 2, whole, whole, same])
    tested = np.concatenate([ONCE, (1 + COUNTS) / 2, whole, same, whole])
    values = mean(trained, X) * mean(tested, Y)
    draws = resampled_two(values, DRAWS, np.empty(0), N)
    moved = (mean(whole, X) - X.mean()) * (mean(whole, Y) - Y.mean())
    np.testing.assert_allclose(draws.excess, moved, atol=1e-12)


def test_narrowing_takes_the_variance_of_the_excess_off() -> None:
    values = mean(np.concatenate([ONCE, (1 + COUNTS) / 2, COUNTS[:WHOLE]]), X + 0.3) ** 2
    draws = resampled(values, DRAWS, np.empty(0), N)
    left = draws.boot.var() - draws.excess.var()
    assert left > draws.boot.var() / 2.25  # else the least share would stand here
    np.testing.assert_allclose(narrowed(draws).var(), left)


def test_a_choice_made_again_widens_by_what_it_adds() -> None:
    rng = np.random.default_rng(9)
    kept = rng.standard_normal(40)
    assert spread_of_choice(5 + 2 * kept, kept) == pytest.approx(2)
    assert spread_of_choice(kept / 2, kept) == 1.0, "it is never said to be narrower"
    assert spread_of_choice(kept[:1], kept[:1]) == spread_of_choice(kept[:0], kept[:0]) == 1.0
    draws = Draws(3.0, 2.0 + rng.standard_normal(500), np.empty(0), 9)
    low, high = interval(draws)
    assert interval(draws, wider=2.0) == pytest.approx((2 * low - 3, 2 * high - 3))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spread", [0.4, 1.0, 3.0])
def test_an_interval_holds_no_effect_where_a_test_does_not_reject_it(
    sign: int, spread: float
) -> None:
    rng = np.random.default_rng(4)
    null, about = rng.standard_normal(999), spread * rng.standard_normal(400)
    null -= null.mean()
    edge = np.quantile(sign * null, 0.975, method="weibull")
    for value in np.linspace(0.2, 6, 80):
        low, high = interval(Draws(sign * value, about, null, 9))
        assert low < sign * value < high
        assert (low <= 0 <= high) == (value <= edge)


def test_far_from_no_effect_the_resamples_decide_and_near_it_the_null() -> None:
    rng = np.random.default_rng(5)
    null, about = rng.standard_normal(999), 2 * rng.standard_normal(400)
    null -= null.mean()

    def reaches(value: float) -> tuple[float, float]:
        """What the resamples say, and what is told."""
        draws = Draws(value, about, null, 9)
        levels = _levels(draws, narrowed(draws), 0.0)
        by_resamples = -np.quantile(narrowed(draws), levels[0], method="weibull")
        return float(by_resamples), value - interval(draws, null_value=0.0)[0]

    n = np.quantile(null, 0.975, method="weibull")
    arm, near = reaches(1.001 * n)
    assert near < 0.75 * arm and near == pytest.approx(n, rel=0.01)
    # The reach solves x^2 = a^2 + (n^2 - a^2) (x / off)^4, where a is that of the resamples.
    arm, x = reaches(9.0)
    assert x**2 == pytest.approx(arm**2 + (n**2 - arm**2) * (x / 9) ** 4)
    arm, far = reaches(90.0)
    assert far == pytest.approx(arm, rel=1e-4)


def test_one_sided_statistics_are_tested_by_the_upper_tail_alone() -> None:
    rng = np.random.default_rng(6)
    null = rng.exponential(size=999)
    about = rng.standard_normal(400)
    lower, upper = np.quantile(null, [0.95, 0.975], method="weibull")
    draws = Draws(float(lower + upper) / 2, about, null, 9)
    assert interval(draws)[0] <= null.mean() < interval(draws, one_sided=True)[0]
    small = Draws(float(np.quantile(null, 0.01)), 0.01 * about, null, 9)
    assert interval(small)[1] < null.mean() <= interval(small, one_sided=True)[1]


def test_a_null_that_can_not_say_so_excludes_nothing() -> None:
    about = np.random.default_rng(8).standard_normal(400)
    few = np.linspace(-1, 1, 38)  # p of a value above all of them is more than 0.05
    assert permutation_p(1.2, few) > 0.05
    assert interval(Draws(1.2, about, few, 9)) == interval(
        Draws(1.2, about, few, 9), null_decides=False
    )
    far = np.array([*np.zeros(980), *np.full(19, 1000.0)])  # its mean lies above its 97.5 %
    low, high = interval(Draws(25.0, about, far, 9))
    assert low <= 25 <= high
    nulls = np.linspace(-1, 1, 99)
    told, untold = (interval(Draws(0.5, 0.1 * about, nulls, 9), null_decides=x) for x in (1, 0))
    assert told[0] <= 0 < untold[0]


def test_what_varies_more_the_larger_it_is_reaches_farther_up() -> None:
    about = np.random.default_rng(7).standard_normal(2000)
    about -= about.mean()
    draws = Draws(5.0, about, np.empty(0), 9)
    low, high = interval(draws)
    grown = interval(draws, growth=2.0)
    assert grown[0] == low
    x, a = grown[1] - 5, 1.959964 * about.std()
    assert x**2 == pytest.approx(a**2 + 1.959964**2 * 2 * x)
    assert interval(draws, growth=1e-9)[1] == pytest.approx(high, abs=0.1)
    # Below no effect nothing grows: the reach is counted from there.
    below = interval(Draws(-0.5, about, 9 * about[:999], 9), null_value=0.0, growth=2.0)[1] + 0.5
    assert below**2 == pytest.approx(a**2 + 1.959964**2 * 2 * (below - 0.5))
    # A value so far below no effect that a test says so stays below it.
    null = 0.2 * about[:999]
    assert interval(Draws(-3.0, 0.2 * about, null, 9), null_value=0.0, growth=2.0)[1] < 0
