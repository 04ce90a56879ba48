"""Held-out measures against scikit-learn, against loops, and under no effect at all."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage as sklearns_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from moralprobe.geometry.held_out import ledoit_wolf_shrinkage, measure, prepare


def planted(n: int = 600, d: int = 12, distance: float = 2.0, seed: int = 0):
    """Two pairs of classes; the first pair lies `distance` apart, the second coincides."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 2, n)
    first = rng.random(n) < 0.4
    X = rng.normal(size=(n, d)) @ np.diag(np.linspace(0.5, 2, d))
    X[:, 3] += distance * ((pairs == 0) & first)
    return X.astype(np.float32), pairs, np.arange(n) % 5, first


def naive(X, pairs, folds, first, counts=None, within=None):
    """Loops over folds and pairs, the covariance within classes taken from the rows themselves.

    `within` names the classes that the covariance is of, where that isn't the rows' own.
    """
    X = X.astype(np.float64)
    counts = np.ones(len(X)) if counts is None else counts.astype(float)
    within = first if within is None else within
    n_pairs = pairs.max() + 1
    won, compared, distances = np.zeros(n_pairs), np.zeros(n_pairs), [[] for _ in range(n_pairs)]
    for fold in range(folds.max() + 1):
        train, test = folds != fold, folds == fold
        rest, around = X[train].copy(), X[train].copy()
        for k in range(n_pairs):
            mine = pairs[train] == k
            around[mine] -= around[mine].mean(0)
            for side in (True, False):
                rows = mine & (within[train] == side)
                rest[rows] -= rest[rows].mean(0)
        shrinkage = sklearns_shrinkage(around, assume_centered=True)
        n, d = rest.shape
        S = (1 - shrinkage) * rest.T @ rest / n
        S += np.eye(d) * shrinkage * np.trace(around.T @ around) / n / d
        for k in range(n_pairs):
            centre = lambda rows, k=k: np.average(  # noqa: E731
                X[rows & (pairs == k)], axis=0, weights=counts[rows & (pairs == k)]
            )
            delta = centre(train & first) - centre(train & ~first)
            direction = np.linalg.solve(S, delta)
            distances[k].append(direction @ (centre(test & first) - centre(test & ~first)))
            a, b = (np.flatnonzero(test & (pairs == k) & side) for side in (first, ~first))
            for i in a:
                for j in b:
                    gap = (X[i] - X[j]) @ direction
                    weight = counts[i] * counts[j]
                    won[k] += weight * (0.5 if (X[i] == X[j]).all() else gap > 0)
                    compared[k] += weight
    return won / compared, np.array([np.mean(d) for d in distances])


def test_both_measures_equal_loops_for_data_resamples_and_permutations() -> None:
    X, pairs, folds, first = planted(n=160, d=6)
    X[8] = X[3]  # equal states tie
    rng = np.random.default_rng(1)
    counts = np.stack([np.ones(160, int), *rng.multinomial(160, np.full(160, 1 / 160), 3)])
    read_outs = prepare(X, pairs, folds)
    got = measure(read_outs, first[None], (counts, counts))
    for b in range(4):
        auroc, crossnobis = naive(X, pairs, folds, first, counts[b])
        np.testing.assert_allclose(got.auroc[b], auroc, atol=2e-3)
        np.testing.assert_allclose(got.crossnobis[b], crossnobis, rtol=1e-3, atol=1e-4)
    shuffled = np.stack([rng.permutation(first) for _ in range(3)])
    got = measure(read_outs, shuffled)
    for b in range(3):
        auroc, crossnobis = naive(X, pairs, folds, shuffled[b])
        np.testing.assert_allclose(got.auroc[b], auroc, atol=2e-3)
        np.testing.assert_allclose(got.crossnobis[b], crossnobis, rtol=1e-3, atol=1e-4)


def test_rows_may_count_otherwise_where_they_are_tested() -> None:
    """Tested rows that count none at all leave the read-outs of the others as they were."""
    X, pairs, folds, first = planted(n=200, d=5)
    read_outs = prepare(X, pairs, folds)
    tested = (folds < 3).astype(int)[None]
    ones = np.ones_like(tested)
    got = measure(read_outs, first[None], (ones, tested))
    whole = measure(read_outs, first[None], (ones, ones))
    alone = [
        measure(read_outs, first[None], (ones, ones * (folds == f))).crossnobis for f in range(5)
    ]
    np.testing.assert_allclose(got.crossnobis, np.mean(alone[:3], axis=0), rtol=1e-5)
    np.testing.assert_allclose(whole.crossnobis, np.mean(alone, axis=0), rtol=1e-5)


def test_chunks_change_nothing() -> None:
    X, pairs, folds, first = planted(n=100, d=4)
    counts = np.random.default_rng(0).integers(0, 3, (300, 100))
    counts[0] = 1
    read_outs = prepare(X, pairs, folds)
    whole = measure(read_outs, first[None], (counts, counts))
    some = [0, 200, 299]
    part = measure(read_outs, first[None], (counts[some], counts[some]))
    np.testing.assert_allclose(whole.auroc[some], part.auroc, atol=1e-6)
    np.testing.assert_allclose(whole.crossnobis[some], part.crossnobis, rtol=1e-5)
    rng = np.random.default_rng(1)
    shuffled = np.stack([rng.permutation(first) for _ in range(300)])
    whole, part = measure(read_outs, shuffled), measure(read_outs, shuffled[some])
    np.testing.assert_allclose(whole.auroc[some], part.auroc, atol=1e-6)
    np.testing.assert_allclose(whole.crossnobis[some], part.crossnobis, rtol=1e-4, atol=1e-5)


def test_an_independent_discriminant_ranks_held_out_rows_the_same_way() -> None:
    X, pairs, folds, first = planted()
    got = measure(prepare(X, pairs, folds), first[None]).auroc[0, 0]
    rocs = []
    for fold in range(5):
        train, test = (folds != fold) & (pairs == 0), (folds == fold) & (pairs == 0)
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(
            X[train], first[train]
        )
        rocs.append(roc_auc_score(first[test], lda.decision_function(X[test])))
    assert got == pytest.approx(np.mean(rocs), abs=0.02)


def test_shrinkage_equals_scikit_learn() -> None:
    X, pairs, _, _ = planted()
    X = X.astype(np.float64)
    centres = np.stack([X[pairs == k].mean(0) for k in range(2)])
    rest = X - centres[pairs]
    got = ledoit_wolf_shrinkage(X, pairs, centres, rest.T @ rest)
    assert got == pytest.approx(sklearns_shrinkage(rest, assume_centered=True), rel=1e-9)


def test_swapping_the_classes_changes_nothing() -> None:
    X, pairs, folds, first = planted(n=200, d=4)
    read_outs = prepare(X, pairs, folds)
    got = measure(read_outs, first[None])
    swapped = measure(read_outs, ~first[None])
    np.testing.assert_allclose(swapped.auroc, got.auroc, atol=1e-6)
    np.testing.assert_allclose(swapped.crossnobis, got.crossnobis, rtol=1e-5)


def test_a_class_without_weight_gives_no_number() -> None:
    X, pairs, folds, first = planted(n=100, d=4)
    first[pairs == 1] = True
    ones = np.ones((1, 100), int)
    got = measure(prepare(X, pairs, folds), first[None], (ones, ones))
    assert np.isfinite(got.auroc[0, 0]) and np.isnan(got.auroc[0, 1])
    assert np.isfinite(got.crossnobis[0, 0]) and np.isnan(got.crossnobis[0, 1])


def test_planted_separation_is_found_and_its_absence_too() -> None:
    found = []
    for seed in range(20):
        X, pairs, folds, first = planted(seed=seed)
        got = measure(prepare(X, pairs, folds), first[None])
        found.append((got.auroc[0], got.crossnobis[0]))
    auroc, crossnobis = np.array(found).transpose(1, 2, 0)
    assert (auroc[0] > 0.8).all() and (crossnobis[0] > 1).all()
    # Without separation AUROC is one half and the distance zero, on average over the draws.
    for values, null in ((auroc[1], 0.5), (crossnobis[1], 0.0)):
        assert abs(values.mean() - null) < 3 * values.std(ddof=1) / np.sqrt(20)
    assert (crossnobis[1] < 0).any(), "an unbiased distance falls below zero where there is none"
