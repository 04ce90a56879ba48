from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moralprobe.geometry import uncertainty
from moralprobe.geometry.draws import (
    Draws,
    as_spread,
    combined,
    mean_draws,
    narrowed,
    resampled,
    resampled_two,
)
from moralprobe.geometry.measure import (
    NullSays,
    gain,
    not_enough,
    permutation_p,
    summarise,
    upper_p,
)
from moralprobe.geometry.uncertainty import (
    PermutationKeys,
    bootstrap_counts,
    difference_interval,
    false_discovery,
    group_folds,
    length_bins,
    permutations,
    strata_of,
)


def test_bootstrap_draws_every_group_as_often_as_chance_says() -> None:
    counts = bootstrap_counts(50, 2000, seed=0)
    assert (counts.sum(1) == 50).all()
    assert counts.mean() == 1.0 and counts.var() == pytest.approx(0.98, abs=0.03)
    np.testing.assert_array_equal(counts, bootstrap_counts(50, 2000, seed=0))


def test_more_rows_than_two_bytes_count_are_permuted_whole() -> None:
    n = (1 << 16) + 5
    rng = np.random.default_rng(0)
    keys = PermutationKeys(n, 1, seed=0)
    moved = permutations(np.arange(n), np.zeros(n, int), rng.random(n), keys)
    np.testing.assert_array_equal(np.sort(moved[0]), np.arange(n))


def test_permutations_keep_groups_together_and_inside_strata() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4, 5, 6])
    strata = np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 1])
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 0, 1, 0])
    moved = permutations(groups, strata, labels, PermutationKeys(7, 300, seed=1))
    for result in moved:
        np.testing.assert_array_equal(np.sort(result), np.arange(10))
        np.testing.assert_array_equal(strata[result], strata)
        for rows in ([0, 1], [2, 3], [4, 5]):
            assert len(set(groups[result[rows]])) == 1, "labels of one text stay together"
    # groups 0 and 1 change places, as do 3 and 4; group 2 has no partner
    assert {tuple(r[:2]) for r in moved} == {(0, 1), (2, 3)}
    assert (moved[:, 4:6] == [4, 5]).all()
    assert {r[6] for r in moved} == {6, 7}


def test_keys_are_the_same_however_many_are_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = PermutationKeys(7, 10, seed=5)
    whole = np.concatenate([drawn for _, drawn in keys.blocks()])
    monkeypatch.setattr(uncertainty, "_KEYS", 21)
    places, parts = zip(*keys.blocks(), strict=True)
    assert [len(part) for part in parts] == [3, 3, 3, 1] and places[-1] == slice(9, 10)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    labels = np.arange(7.0)
    some = permutations(np.arange(7), np.zeros(7, int), labels, keys)
    monkeypatch.undo()
    every = permutations(np.arange(7), np.zeros(7, int), labels, keys)
    np.testing.assert_array_equal(some, every)


def test_every_permutation_of_a_cell_is_as_likely() -> None:
    labels = np.array([3.0, 1.0, 2.0])
    moved = permutations(np.arange(3), np.zeros(3, int), labels, PermutationKeys(3, 6000, seed=2))
    found, counts = np.unique(moved, axis=0, return_counts=True)
    assert len(found) == 6 and counts.min() > 900


def test_a_text_under_two_axes_is_given_like_labels() -> None:
    rng = np.random.default_rng(3)
    shared, virtue = np.arange(200), rng.random(200) < 0.4
    keys = PermutationKeys(260, 400, seed=3)
    here = virtue[permutations(shared, np.zeros(200, int), virtue, keys)]
    # The second axis holds the same texts and sixty of its own.
    groups, labels = np.arange(260), np.concatenate([virtue, rng.random(60) < 0.4])
    there = labels[permutations(groups, np.zeros(260, int), labels, keys)][:, :200]
    assert np.mean(here == there) > 0.9
    chance = np.mean(here[:-1] == there[1:])
    assert chance < 0.6


def test_length_bins_hold_like_lengths_and_enough_rows() -> None:
    lengths = np.random.default_rng(0).integers(5, 20, 400)
    bins = length_bins(lengths)
    assert bins.max() <= 9
    for a, b in zip(range(bins.max()), range(1, bins.max() + 1), strict=True):
        assert lengths[bins == a].max() <= lengths[bins == b].min()
    assert len(set(length_bins(np.full(30, 7)))) == 1
    assert (length_bins(lengths[:12]) == 0).all(), "too few rows for bins"


def test_topics_join_the_strata_only_where_rows_are_many() -> None:
    rng = np.random.default_rng(0)
    lengths, topics = rng.integers(5, 15, 3000), rng.integers(0, 20, 3000)
    assert len(np.unique(strata_of(lengths, topics))) > 100
    assert len(np.unique(strata_of(lengths[:100], topics[:100]))) <= 10


def test_folds_never_part_a_group_and_ignore_row_order() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 200)
    folds = group_folds(groups, 5, seed=0)
    assert set(folds) == set(range(5))
    for g in range(40):
        assert len(set(folds[groups == g])) <= 1
    order = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(group_folds(groups[order], 5, seed=0), folds[order])


def test_p_values_count_the_smaller_tail_twice() -> None:
    null = np.arange(999.0)
    assert permutation_p(1e6, null) == pytest.approx(2 / 1000)
    assert permutation_p(-1.0, null) == pytest.approx(2 / 1000)
    assert permutation_p(499.0, null) == 1.0
    assert np.isnan(permutation_p(1.0, np.empty(0)))
    assert np.isnan(permutation_p(np.nan, null))


def test_p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(2)
    p = np.array([permutation_p(rng.normal(), rng.normal(size=199)) for _ in range(4000)])
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.025)


def test_false_discovery_equals_the_definition() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.5])
    q = false_discovery(p)
    assert np.isnan(q[2])
    np.testing.assert_allclose(q[[0, 1, 3, 4]], [0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])


def test_summaries_and_means() -> None:
    one = Draws(0.2, np.array([0.1, 0.3]), np.array([-0.1, 0.1]), 10)
    two = Draws(-0.4, np.array([-0.5, -0.3]), np.array([0.0, 0.0]), 20)
    both = mean_draws([one, two], 7)
    assert both.value == pytest.approx(-0.1) and both.n == 7
    np.testing.assert_allclose(both.boot, [-0.2, 0.0])
    assert mean_draws([one, two], 7, absolute=True).value == pytest.approx(0.3)
    many = replace(one, boot=np.tile(one.boot, 20))
    measure = summarise("m", "c", many, "rho")
    assert (measure.ci_low, measure.ci_high) == pytest.approx((0.1, 0.3))
    few = not_enough("m", "c", "rho", have=3, needed=5, of="prototypes")
    assert np.isnan(few.value) and few.status == "not enough data (prototypes: 3, needed 5)"


def sets_of_weights(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """The data as they are, resamples at half strength, and the first half of them whole."""
    counts = rng.multinomial(n, np.ones(n) / n, draws)
    return np.concatenate([np.ones((1, n)), (1 + counts) / 2, counts[: draws // 2]])


def products(x: np.ndarray, y: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The mean over pairs of w_i x_i v_j y_j."""
    return ((w @ x) * (v @ y) - (w * v) @ (x * y)) / (w.sum(1) * v.sum(1) - (w * v).sum(1))


@pytest.mark.parametrize("mean", [0.0, 0.1, 1.0])
def test_resamples_spread_as_samples_do_whatever_share_belongs_to_pairs(mean: float) -> None:
    """The mean over pairs of x_i x_j: with mean 0 all of its variance belongs to pairs."""
    rng = np.random.default_rng(11)
    n = 60
    ones = np.ones((1, n))
    samples = [products(x, x, ones, ones)[0] for x in mean + rng.standard_normal((4000, n))]
    plain, found = [], []
    for x in mean + rng.standard_normal((300, n)):
        w = sets_of_weights(rng, n, 200)
        draws = resampled(products(x, x, w, w), 200, np.empty(0), n)
        plain.append(draws.boot.var())
        found.append(narrowed(draws, least=0).var())
    if mean == 0:
        assert np.mean(plain) > 1.9 * np.var(samples) and np.mean(found) < 0.75 * np.mean(plain)
    # What is taken off is an estimate that can't exceed the whole, and a quarter of it is left.
    assert 0.85 < np.mean(found) / np.var(samples) < 1.7


def test_of_two_parts_only_what_they_do_together_is_in_excess() -> None:
    rng = np.random.default_rng(12)
    n = 60
    w = sets_of_weights(rng, n, 200)
    half, whole = w[:201], w[201:]
    same = np.ones_like(whole)
    trained = np.concatenate([half, whole, whole, same])
    tested = np.concatenate([half, whole, same, whole])
    x, y = rng.standard_normal((2, n))
    draws = resampled_two(products(x, y, trained, tested), 200, np.empty(0), n)
    assert draws.excess.var() > 0.3 * draws.boot.var()
    # Each part by itself moves the mean along a straight line: there is nothing to take off.
    apart = products(x, np.ones(n), trained, np.ones_like(tested))
    np.testing.assert_allclose(resampled_two(apart, 200, np.empty(0), n).excess, 0, atol=1e-12)


def test_differences_and_means_take_the_excess_along() -> None:
    one, two = (
        Draws(0.5, np.array([0.4, 0.6]), np.empty(0), 9, np.array([0.1, x])) for x in (0.1, -0.1)
    )
    np.testing.assert_allclose(combined([one, two], [1, -1]).excess, [0, 0.2])
    np.testing.assert_allclose(mean_draws([one, two], 9).excess, [0.1, 0])


def test_an_interval_reaches_farther_to_where_the_statistic_varies_more() -> None:
    rng = np.random.default_rng(13)
    about = rng.normal(0, 1, 4000)
    about -= about.mean()
    tight, wide = rng.normal(0, 0.3, 999), rng.normal(0, 1.7, 999)
    low, high = [], []
    for null in (np.empty(0), tight, wide):
        m = summarise("x", "c", Draws(4.0, 4 + about, null, 9), "squared distance")
        low.append(4 - m.ci_low)
        high.append(m.ci_high - 4)
    assert low[0] == pytest.approx(high[0], abs=0.15), "without a null it is symmetric"
    assert high[1] > high[0] + 0.2 and low[1] < low[0] - 0.2
    assert high[2] < high[0] - 0.2 and low[2] > low[0] + 0.2


def test_a_null_that_keeps_what_strata_explain_does_not_say_where_nothing_is() -> None:
    rng = np.random.default_rng(17)
    about, null = rng.normal(0, 0.1, 999), rng.normal(0, 0.03, 999)
    null -= null.mean()

    def ends(unit: str, middle: float, value: float = 0.6) -> tuple[float, float]:
        m = summarise("x", "c", Draws(value, value + about, middle + null, 9), unit)
        return m.ci_low, m.ci_high

    for unit, middle in (("AUROC", 0.5), ("squared distance", 0.0), ("ARI", 0.0)):
        assert ends(unit, middle) == pytest.approx(ends(unit, 0.7))
    assert ends("rho", 0.0) != pytest.approx(ends("rho", 0.7), abs=1e-3), "any value may be null"
    # A held-out R2 of nothing isn't above zero, but may lie below.
    assert ends("R2", 0.0) == pytest.approx(ends("R2", 0.7))
    assert ends("R2", 0.0) != pytest.approx(ends("R2", -0.5), abs=1e-3)
    shifted = summarise("x", "c", Draws(0.6, 0.6 + about, 0.7 + null, 9), "R2", null_value=-0.5)
    assert (shifted.ci_low, shifted.ci_high) == pytest.approx(ends("R2", -0.5))


def test_a_null_that_is_not_the_statistics_says_nothing_of_its_interval() -> None:
    rng = np.random.default_rng(19)
    about, null = rng.normal(0, 0.2, 999), rng.normal(0, 0.01, 999)
    draws = Draws(0.1, 0.1 + about, null, 9)
    bare = Draws(0.1, 0.1 + about, np.empty(0), 9)
    says: tuple[tuple[str, NullSays], ...] = (("rho", "apart"), ("cosine", "decides"))
    for unit, null_says in says:
        a, b = (summarise("x", "c", d, unit, null=null_says) for d in (draws, bare))
        assert (a.ci_low, a.ci_high) == (b.ci_low, b.ci_high) and np.isfinite(a.null_low)
    told, spreads = (summarise("x", "c", draws, "rho", null=x) for x in ("decides", "spreads"))
    assert told.ci_low > 0 > spreads.ci_low > a.ci_low and told.p < 0.05


def test_intervals_of_a_skewed_mean_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(14)
    n, covered = 40, []
    for _ in range(1500):
        x = rng.exponential(size=n)
        boot = rng.multinomial(n, np.ones(n) / n, 400) @ x / n
        m = summarise("x", "c", Draws(float(x.mean()), boot, np.empty(0), n), "dimensions")
        covered.append(m.ci_low <= 1 <= m.ci_high)
    # The plain percentiles cover 0.92 here; the standard error of a share is 0.006.
    assert np.mean(covered) > 0.93


def test_p_values_above_count_one_tail() -> None:
    null = np.array([0.0] * 50 + list(np.linspace(0.1, 1, 49)))
    assert upper_p(1.1, null) == pytest.approx(0.01)
    assert upper_p(0.0, null) == 1.0 and np.isnan(upper_p(np.nan, null))
    assert np.isnan(upper_p(1.0, np.empty(0)))


def test_draws_take_the_spread_of_a_whole_repetition() -> None:
    rng = np.random.default_rng(15)
    draws = Draws(0.5, 0.7 + 0.01 * rng.standard_normal(500), np.empty(0), 9, np.ones(3))
    again = rng.normal(0.6, 0.05, 200)
    found = as_spread(replace(draws, excess=np.empty(0)), again)
    assert found.boot.std() == pytest.approx(again.std()) and found.boot.mean() == pytest.approx(
        0.5
    )
    assert len(found.excess) == 0, "the repetition says it all"
    # Where nothing jumps the resamples are as wide as they were.
    still = as_spread(replace(draws, excess=np.empty(0)), rng.normal(0.6, 0.001, 200))
    assert still.boot.std() == pytest.approx(draws.boot.std())


def test_few_resamples_have_no_interval() -> None:
    rng = np.random.default_rng(16)
    m = summarise("x", "c", Draws(0.7, rng.normal(size=19), np.empty(0), 9), "AUROC")
    assert m.value == 0.7 and np.isnan([m.ci_low, m.ci_high]).all()
    m = summarise("x", "mean_abs", Draws(0.02, rng.normal(0.02, 0.1, 99), np.empty(0), 9), "rho")
    assert m.ci_low == 0.0, "a mean of absolute values isn't negative"


def test_a_difference_of_symmetric_intervals_is_theirs_in_quadrature() -> None:
    assert difference_interval((0.5, 0.2, 0.8), (0.1, -0.3, 0.5)) == pytest.approx((-0.1, 0.9))
    assert difference_interval((0.5, 0.4, 0.8), (0.1, 0.1, 0.1)) == pytest.approx((0.3, 0.7))


def test_the_interval_of_a_difference_of_correlations_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n, z, rho = 40, 1.96 / np.sqrt(37), (0.6, 0.2)

    def drawn(r: float) -> tuple[float, float, float]:
        x = rng.standard_normal((2, n))
        value = float(np.corrcoef(x[0], r * x[0] + np.sqrt(1 - r * r) * x[1])[0, 1])
        return value, *np.tanh(np.arctanh(value) + np.array([-z, z]))

    intervals = [difference_interval(drawn(rho[0]), drawn(rho[1])) for _ in range(1000)]
    covered = np.mean([low < rho[0] - rho[1] < high for low, high in intervals])
    # The standard error of a share of 0.95 in 1000 is 0.007.
    assert covered == pytest.approx(0.95, abs=0.02)


def test_a_gain_is_the_interval_of_the_paired_difference() -> None:
    rng = np.random.default_rng(8)
    shared = rng.normal(size=2000)
    mine = Draws(0.7, 0.7 + 0.1 * shared + 0.01 * rng.normal(size=2000), np.empty(0), 50)
    words = Draws(0.6, 0.6 + 0.1 * shared, np.empty(0), 50)
    a, b = (summarise("auroc", "mean", draws, "AUROC") for draws in (mine, words))
    assert a.ci_low < b.ci_high, "side by side the intervals overlap"
    low, high = gain(a, b)
    difference = mine.boot - words.boot
    expected = np.quantile(difference, [0.025, 0.975]) - (difference.mean() - 0.1)
    # Their skewness is accounted for too.
    assert (low, high) == pytest.approx(
        tuple(expected), abs=1e-3
    ) and 0.07 < low < 0.1 < high < 0.13
    bare = summarise("auroc", "mean", Draws(0.6, np.empty(0), np.empty(0), 50), "AUROC")
    assert np.isnan(gain(a, bare)).all()
