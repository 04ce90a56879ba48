from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from moralprobe.geometry import gradient as of_gradient
from moralprobe.geometry.gradient import (
    partial_correlation,
    pearson,
    permuted_rank_correlations,
    prototype_similarity,
    rank_correlations,
    spearman_interval,
)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(30, 6)).astype(np.float32)
    groups = np.concatenate([np.arange(26), [0, 0, 1, 25]])  # some texts stand several times
    X[26:] = X[groups[26:]]
    prototypes = (rng.random((4, 30)) < 0.4).astype(int)
    return X, prototypes, groups


def test_paper_similarity_is_circular_and_equals_the_formula(rows) -> None:
    X, prototypes, _ = rows
    got = prototype_similarity(X, prototypes)
    for b in range(4):
        centre = X[prototypes[b] == 1].mean(0)
        assert got[b] == pytest.approx([cosine(x, centre) for x in X], abs=1e-5)


def test_audited_similarity_leaves_the_whole_text_group_out(rows) -> None:
    X, prototypes, groups = rows
    got = prototype_similarity(X, prototypes, groups)
    for b in range(4):
        for i in range(30):
            others = (prototypes[b] == 1) & (groups != groups[i])
            assert got[b, i] == pytest.approx(cosine(X[i], X[others].mean(0)), abs=1e-4)


def test_no_other_prototype_gives_no_number() -> None:
    X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    got = prototype_similarity(X, np.array([[1, 0, 0]]), np.array([0, 1, 2]))
    assert np.isnan(got[0, 0]) and np.isfinite(got[0, 1:]).all()


def test_leaving_out_removes_the_circular_gain() -> None:
    """Pure noise: the paper's gradient is positive by construction, the audited one is not."""
    circular, left_out = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(60, 20)).astype(np.float32)
        score = rng.permutation(np.repeat([0.25, 0.5, 1.0], 20))
        prototypes = (score == 1)[None]
        for groups, into in ((None, circular), (np.arange(60), left_out)):
            into.append(spearmanr(score, prototype_similarity(X, prototypes, groups)[0]).statistic)
    assert np.mean(circular) > 0.15
    assert abs(np.mean(left_out)) < 3 * np.std(left_out, ddof=1) / np.sqrt(40)


def test_rank_correlations_equal_scipy_on_repeated_rows() -> None:
    rng = np.random.default_rng(4)
    n = 60
    s, y, z = rng.normal(size=n), rng.choice([0.125, 0.5, 1.0], n), rng.integers(5, 12, n)
    counts = np.concatenate(
        [np.ones((1, n), np.uint8), rng.integers(0, 4, (7, n)).astype(np.uint8)]
    )
    got = rank_correlations(np.tile(s, (8, 1)), y, z, counts)
    for b in range(8):
        # Repeats of a row are equal in similarity; a trace of jitter ranks them as the weights do.
        rows = np.repeat(np.arange(n), counts[b])
        order = np.lexsort((np.arange(len(rows)), s[rows]))
        jittered = np.empty(len(rows))
        jittered[order] = np.arange(len(rows))
        mid = np.array([jittered[rows == r].mean() for r in rows])
        r_sy, r_sz, r_yz = (
            spearmanr(y[rows], mid).statistic,
            spearmanr(z[rows], mid).statistic,
            spearmanr(y[rows], z[rows]).statistic,
        )
        assert got.score[b] == pytest.approx(r_sy, abs=2e-3 if b else 1e-12)
        assert got.length[b] == pytest.approx(r_sz, abs=2e-3 if b else 1e-12)
        partial = (r_sy - r_sz * r_yz) / np.sqrt((1 - r_sz**2) * (1 - r_yz**2))
        assert got.score_given_length[b] == pytest.approx(partial, abs=3e-3 if b else 1e-12)


def test_partial_correlation_equals_that_of_residuals() -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(size=200)
    x, y = z + rng.normal(size=200), -z + rng.normal(size=200)
    residual = lambda a: a - np.polyval(np.polyfit(z, a, 1), z)  # noqa: E731
    expected = np.corrcoef(residual(x), residual(y))[0, 1]
    r = np.corrcoef([x, y, z])
    assert partial_correlation(r[0, 1], r[0, 2], r[1, 2]) == pytest.approx(expected, abs=1e-12)
    # texts of one length: nothing to take out
    assert partial_correlation(np.array([0.3]), np.array([np.nan]), np.array([np.nan]))[0] == 0.3
    # a score that length decides leaves nothing to correlate
    assert np.isnan(partial_correlation(np.array([0.3]), np.array([0.3]), np.array([1.0])))[0]


@pytest.mark.parametrize("cells", [1 << 18, 100])
def test_permuted_correlations_equal_scipy_column_by_column(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_gradient, "_CELLS", cells)  # all five sets at a time, or two
    rng = np.random.default_rng(7)
    n = 50
    y = rng.choice([0.125, 0.25, 1.0], n)
    score = np.stack([rng.permutation(y) for _ in range(5)])
    similarity, z = rng.normal(size=(5, n)), rng.integers(4, 9, n)
    got = permuted_rank_correlations(similarity, score, z)
    for b in range(5):
        assert got.score[b] == pytest.approx(
            spearmanr(score[b], similarity[b]).statistic, abs=1e-12
        )
        assert got.length[b] == pytest.approx(spearmanr(z, similarity[b]).statistic, abs=1e-12)
        one = rank_correlations(similarity[b : b + 1], score[b], z, np.ones((1, n)))
        assert got.score_given_length[b] == pytest.approx(one.score_given_length[0], abs=1e-12)
    assert len(permuted_rank_correlations(similarity[:0], score[:0], z).score) == 0


def test_pearson_equals_numpy_on_repeated_rows() -> None:
    rng = np.random.default_rng(8)
    s, y = rng.normal(size=(4, 30)), rng.choice([0.125, 0.5, 1.0], 30)
    counts = rng.integers(0, 4, (4, 30))
    got = pearson(s, y[None], counts)
    for b in range(4):
        rows = np.repeat(np.arange(30), counts[b])
        assert got[b] == pytest.approx(np.corrcoef(s[b, rows], y[rows])[0, 1], abs=1e-12)
    assert pearson(s, y[None], np.ones((1, 1)))[2] == pytest.approx(np.corrcoef(s[2], y)[0, 1])
    assert np.isnan(pearson(s, np.ones((1, 30)), np.ones((1, 1)))).all()


def test_a_drawn_row_without_similarity_gives_no_correlation() -> None:
    s = np.array([[0.1, 0.4, np.nan, 0.2]] * 2)
    got = rank_correlations(
        s,
        np.array([0.5, 1, 1, 0.5]),
        np.array([3, 4, 5, 6]),
        np.array([[1, 1, 1, 1], [2, 1, 0, 1]]),
    )
    assert np.isnan(got.score[0]) and np.isfinite(got.score[1])


def residual(values: np.ndarray, Z: np.ndarray) -> np.ndarray:
    Z = np.column_stack([np.ones(len(Z)), Z])
    return values - Z @ np.linalg.lstsq(Z, values, rcond=None)[0]


def test_given_surface_equals_the_correlation_of_rank_residuals() -> None:
    rng = np.random.default_rng(5)
    n = 90
    surface = np.stack([rng.integers(4, 9, n), rng.normal(size=n), rng.integers(0, 3, n)], axis=1)
    score = rng.choice([0.0, 0.5, 1.0], n) + (surface[:, 1] > 0)
    similarity = (rng.normal(size=(4, n)) + surface[:, 1]).astype(np.float32)
    Z = np.column_stack([rankdata(z) for z in surface.T])

    def naive(s: np.ndarray, y: np.ndarray) -> float:
        return float(np.corrcoef(residual(rankdata(s), Z), residual(rankdata(y), Z))[0, 1])

    weights = np.ones((4, n), np.uint8)
    found = rank_correlations(similarity, score, surface[:, 0], weights, surface)
    expected = [naive(s, score) for s in similarity]
    assert found.score_given_surface == pytest.approx(expected, abs=1e-6)
    assert np.abs(found.score_given_surface).max() < 0.35 < found.score.min(), "it was the surface"
    scores = np.stack([rng.permutation(score) for _ in range(4)])
    shuffled = permuted_rank_correlations(similarity, scores, surface[:, 0], surface)
    expected = [naive(s, y) for s, y in zip(similarity, scores, strict=True)]
    assert shuffled.score_given_surface == pytest.approx(expected, abs=1e-6)


def test_given_a_surface_of_length_alone_is_given_length_and_copies_change_nothing() -> None:
    rng = np.random.default_rng(6)
    n = 60
    length = rng.integers(4, 30, n)
    score, similarity = rng.normal(size=n), rng.normal(size=(3, n)).astype(np.float32)
    weights = np.concatenate([np.ones((1, n)), rng.integers(0, 3, (2, n))])
    constant = np.ones(n)
    one = rank_correlations(similarity, score, length, weights, length[:, None])
    two = rank_correlations(
        similarity, score, length, weights, np.stack([length, length, constant], axis=1)
    )
    assert one.score_given_surface == pytest.approx(two.score_given_surface, abs=1e-9)
    assert one.score_given_surface[0] == pytest.approx(one.score_given_length[0], abs=1e-9)
    # A resample keeps the surface's ranks among all rows.
    assert one.score_given_surface[1:] == pytest.approx(one.score_given_length[1:], abs=0.05)
    nothing = rank_correlations(similarity, score, length, weights)
    assert np.isnan(nothing.score_given_surface).all()


def test_a_sparse_features_rank_correlation_and_its_resamples_are_scipys() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(90) < 0.6, 0.0, rng.random(90))
    score = rng.choice([0.125, 0.375, 0.5, 1.0], 90) + (values > 0.5)
    rho, low, high = spearman_interval(values, score, draws=200, seed=1)
    assert rho == pytest.approx(spearmanr(values, score).statistic)
    again = np.random.default_rng([1, 3])
    drawn = []
    for _ in range(200):
        rows = again.integers(0, 90, 90)
        drawn.append(spearmanr(values[rows], score[rows]).statistic)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert np.isnan(spearman_interval(np.zeros(90), score, draws=10, seed=1)[1])
