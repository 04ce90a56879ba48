from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from moralprobe.geometry.separation import (
    _shrunk,
    cosine_of_centres,
    crossnobis,
    held_out_scores,
    weighted_auroc,
)


def planted(n: int = 600, d: int = 12, distance: float = 2.0, seed: int = 0):
    """Two pairs of classes; the first pair lies `distance` apart, the second coincides."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 2, n)
    second = rng.integers(0, 2, n)
    X = rng.normal(size=(n, d)) @ np.diag(np.linspace(0.5, 2, d))
    X[:, 3] += distance * ((pairs == 0) & (second == 0))
    folds = np.arange(n) % 5
    return X.astype(np.float32), 2 * pairs + second, folds, pairs


def test_cosine_equals_the_formula_and_resamples_equal_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 7)).astype(np.float32)
    virtue = np.arange(40) < 15
    counts = rng.integers(0, 3, (6, 40))
    got = cosine_of_centres(X, counts * virtue, counts * ~virtue)
    for b in range(6):
        rows = np.repeat(np.arange(40), counts[b])
        a, c = X[rows[virtue[rows]]].mean(0), X[rows[~virtue[rows]]].mean(0)
        assert got[b] == pytest.approx(a @ c / np.linalg.norm(a) / np.linalg.norm(c), abs=1e-5)
    assert np.isnan(cosine_of_centres(X, np.zeros((1, 40)), np.ones((1, 40))))[0]


def test_shrinkage_equals_scikit_learn() -> None:
    X, labels, _, _ = planted()
    X = X.astype(np.float64)
    centres = np.stack([X[labels == k].mean(0) for k in range(4)])
    rest = X - centres[labels]
    expected, _ = ledoit_wolf(rest, assume_centered=True)
    np.testing.assert_allclose(
        _shrunk(X, labels, centres, rest.T @ rest), expected, rtol=1e-6, atol=1e-8
    )


def test_held_out_scores_equal_scikit_learns_discriminant_fold_by_fold() -> None:
    X, labels, folds, pairs = planted()
    got = held_out_scores(X, labels, folds, pairs)
    for fold in range(5):
        train, test = folds != fold, folds == fold
        centres = np.stack([X[train & (labels == k)].mean(0) for k in range(4)]).astype(np.float64)
        rest = X[train] - centres[labels[train]]
        covariance, _ = ledoit_wolf(rest, assume_centered=True)
        for k in range(2):
            w = np.linalg.solve(covariance, centres[2 * k] - centres[2 * k + 1])
            rows = test & (pairs == k)
            expected = (X[rows] - (centres[2 * k] + centres[2 * k + 1]) / 2) @ w
            np.testing.assert_allclose(got[rows], expected, rtol=1e-3, atol=1e-3)
    # an independent read-out ranks held-out rows nearly the same way
    train, test = (folds != 0) & (pairs == 0), (folds == 0) & (pairs == 0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(
        X[train], labels[train] == 0
    )
    assert np.corrcoef(lda.decision_function(X[test]), got[test])[0, 1] > 0.98


def test_auroc_equals_scikit_learn_with_ties_and_resamples() -> None:
    rng = np.random.default_rng(2)
    scores = np.round(rng.normal(size=80), 1)
    positive = rng.random(80) < 0.4
    one_fold = np.zeros(80, int)
    counts = np.concatenate([np.ones((1, 80), int), rng.integers(0, 3, (5, 80))])
    got = weighted_auroc(scores, counts * positive, counts * ~positive, one_fold)
    for b in range(6):
        rows = np.repeat(np.arange(80), counts[b])
        assert got[b] == pytest.approx(roc_auc_score(positive[rows], scores[rows]), abs=1e-6)


def test_auroc_compares_within_folds_only() -> None:
    scores = np.array([0.0, 1.0, 100.0, 101.0])
    positive = np.array([[0, 1, 0, 1]])
    folds = np.array([0, 0, 1, 1])
    assert weighted_auroc(scores, positive, 1 - positive, folds)[0] == 1.0
    shifted = scores + 1000 * (folds == 0)
    assert weighted_auroc(shifted, positive, 1 - positive, folds)[0] == 1.0


def test_crossnobis_equals_the_naive_distance() -> None:
    X, labels, folds, pairs = planted()
    scores = held_out_scores(X, labels, folds, pairs)
    mine = pairs == 0
    got = crossnobis(
        scores[mine], (labels[mine] == 0)[None], (labels[mine] == 1)[None], folds[mine]
    )[0]
    naive = []
    for fold in range(5):
        train, test = folds != fold, folds == fold
        centre = lambda rows: X[rows].astype(np.float64).mean(0)  # noqa: E731
        rest = np.concatenate(
            [X[train & (labels == k)] - centre(train & (labels == k)) for k in range(4)]
        )
        covariance, _ = ledoit_wolf(rest, assume_centered=True)
        delta = [
            centre(part & (labels == 0)) - centre(part & (labels == 1)) for part in (train, test)
        ]
        naive.append(delta[0] @ np.linalg.solve(covariance, delta[1]))
    assert got == pytest.approx(np.mean(naive), rel=1e-3)


def test_planted_separation_is_found_and_its_absence_too() -> None:
    found, absent = [], []
    for seed in range(20):
        X, labels, folds, pairs = planted(seed=seed)
        scores = held_out_scores(X, labels, folds, pairs)
        for k, into in ((0, found), (1, absent)):
            mine = pairs == k
            first, second = (labels[mine] == 2 * k)[None], (labels[mine] == 2 * k + 1)[None]
            into.append(
                (
                    weighted_auroc(scores[mine], first, second, folds[mine])[0],
                    crossnobis(scores[mine], first, second, folds[mine])[0],
                )
            )
    found, absent = np.array(found), np.array(absent)
    assert (found[:, 0] > 0.8).all() and (found[:, 1] > 1).all()
    # Without separation AUROC is one half and the distance zero, on average over the draws.
    for column, null in ((0, 0.5), (1, 0.0)):
        mean, sem = absent[:, column].mean(), absent[:, column].std(ddof=1) / np.sqrt(20)
        assert abs(mean - null) < 3 * sem
    assert (absent[:, 1] < 0).any(), "an unbiased distance falls below zero where there is none"
