"""Are opposed categories separated? Cosine of centres, held-out AUROC, crossnobis distance.

The paper's measure is the cosine of two centres (arXiv 2603.15615, categorical indifference). It
can't tell "same direction" from "no difference in noise", so the audited mode adds two measures
that are held out: what a linear read-out makes of texts that it hasn't seen, and a squared distance
whose expectation is zero where there is no separation (Walther et al. 2016).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats, Ints

FOLDS: Final = 5


def cosine_of_centres(X: Floats, plus: Counts, minus: Counts) -> NDArray[np.float64]:
    """Return the cosine between two weighted centres, for many sets of weights, [b].

    Args:
        X: [n, d] centred hidden states.
        plus: [b, n] weights of the rows in the first centre (counts, 0 for rows outside it).
        minus: [b, n] weights in the second.

    Returns:
        [b] in [-1, 1]; nan where a centre has no weight.

    Source: cos(mean of P_k+, mean of P_k-), section 3.1 of the method; bootstrap and permutation
    differ from the observed value in the weights alone.
    """
    a = plus.astype(X.dtype) @ X
    b = minus.astype(X.dtype) @ X
    dots = np.einsum("bd,bd->b", a, b, dtype=np.float64)
    norms = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(
        b.astype(np.float64), axis=1
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, np.clip(dots / norms, -1, 1), np.nan)


def held_out_scores(X: Floats, labels: Ints, folds: Ints, pairs: Ints) -> NDArray[np.float64]:
    """Score every row along the direction that tells its pair of classes apart, never seeing it.

    For each fold, from the other folds: the direction inv(S) (c_plus - c_minus) with S the
    within-class covariance pooled over all classes and shrunk towards a multiple of the identity
    (Ledoit and Wolf 2004).

    Args:
        X: [n, d] hidden states.
        labels: [n] class of each row; 2k and 2k + 1 are the opposed classes of pair k.
        folds: [n] fold of each row.
        pairs: [n] which pair's direction scores the row.

    Returns:
        [n] held-out scores, relative to the midpoint of the two training centres.
    """
    from scipy.linalg import cho_factor, cho_solve

    n_classes = int(labels.max()) + 1 + (int(labels.max()) + 1) % 2
    scores = np.full(len(X), np.nan)
    onehot = np.zeros((len(X), n_classes), X.dtype)
    onehot[np.arange(len(X)), labels] = 1
    parts = [np.flatnonzero(folds == f) for f in range(int(folds.max()) + 1)]
    gram = [X[rows].T @ X[rows] for rows in parts]
    sums = [onehot[rows].T @ X[rows] for rows in parts]
    all_gram = np.sum(gram, axis=0, dtype=np.float64)
    all_sums = np.sum(sums, axis=0, dtype=np.float64)
    all_counts = onehot.sum(0, dtype=np.float64)
    for f, test in enumerate(parts):
        counts = all_counts - onehot[test].sum(0)
        centres = (all_sums - sums[f]) / np.maximum(counts, 1)[:, None]
        scatter = all_gram - gram[f] - (centres * counts[:, None]).T @ centres
        train = folds != f
        covariance = _shrunk(X[train], labels[train], centres, scatter)
        plus, minus = centres[0::2], centres[1::2]
        directions = cho_solve(cho_factor(covariance), (plus - minus).T)  # [d, pairs]
        middle = np.einsum("kd,dk->k", (plus + minus) / 2, directions)
        projected = X[test] @ directions.astype(X.dtype) - middle
        scores[test] = projected[np.arange(len(test)), pairs[test]]
    return scores


def _shrunk(X: Floats, labels: Ints, centres: Floats, scatter: Floats) -> NDArray[np.float64]:
    """Return the Ledoit-Wolf shrinkage of a within-class covariance.

    Equals sklearn.covariance.ledoit_wolf on the rows minus their class centres, from the scatter
    matrix that is there already.
    """
    n, d = X.shape
    covariance = scatter / n
    dots = X @ centres.T.astype(X.dtype)
    own = dots[np.arange(n), labels]
    squared = np.einsum("nd,nd->n", X, X) - 2 * own + np.sum(centres**2, axis=1)[labels]
    mean_variance = float(np.trace(covariance)) / d
    spread = float(np.sum(covariance**2))
    delta = (spread - d * mean_variance**2) / d
    beta = (float(np.sum(np.square(squared, dtype=np.float64))) / n - spread) / (n * d)
    shrinkage = 1.0 if delta <= 0 else float(np.clip(beta / delta, 0, 1))
    # A trace of identity keeps the factorisation possible where some dimension never varies.
    covariance = (1 - shrinkage) * covariance
    covariance.flat[:: d + 1] += (shrinkage + 1e-9) * mean_variance
    return np.asarray(covariance, np.float64)


def weighted_auroc(
    scores: Floats, positive: Counts, negative: Counts, folds: Ints
) -> NDArray[np.float64]:
    """Return the area under the ROC curve within folds, for many sets of weights, [b].

    Scores of different folds come from different read-outs, so only rows of one fold are compared;
    folds count by their number of compared pairs. Ties count one half.

    Args:
        scores: [n] held-out scores.
        positive: [b, n] weight of each row as a positive.
        negative: [b, n] weight as a negative.
        folds: [n] fold of each row.
    """
    won = np.zeros(len(positive))
    compared = np.zeros(len(positive))
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        rows = rows[np.argsort(scores[rows], kind="stable")]
        ties = np.flatnonzero(np.diff(scores[rows], prepend=np.nan) != 0)
        pos, neg = positive[:, rows].astype(np.float32), negative[:, rows].astype(np.float32)
        if len(ties) < len(rows):
            pos, neg = np.add.reduceat(pos, ties, axis=1), np.add.reduceat(neg, ties, axis=1)
        below = np.cumsum(neg, axis=1) - neg / 2
        won += np.einsum("bn,bn->b", pos, below, dtype=np.float64)
        compared += pos.sum(1, dtype=np.float64) * neg.sum(1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(compared > 0, won / compared, np.nan)


def crossnobis(
    scores: Floats, positive: Counts, negative: Counts, folds: Ints
) -> NDArray[np.float64]:
    """Return the cross-validated squared Mahalanobis distance, for many sets of weights, [b].

    With a direction inv(S) (c_plus - c_minus) from the other folds, the distance is the difference
    of the two classes' mean held-out scores, averaged over folds: its expectation is zero where
    the classes don't differ, and it can be negative.

    Args:
        scores: [n] held-out scores of `held_out_scores`.
        positive: [b, n] weight of each row as one of the first class.
        negative: [b, n] weight as one of the second.
        folds: [n] fold of each row.

    Source: Walther et al. (2016), crossvalidated Mahalanobis distance.
    """
    distances = []
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        s = scores[rows]
        pos, neg = positive[:, rows].astype(np.float64), negative[:, rows].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            distances.append(pos @ s / pos.sum(1) - neg @ s / neg.sum(1))
    stacked = np.stack(distances)
    usable = np.isfinite(stacked).any(0)
    result = np.full(stacked.shape[1], np.nan)
    result[usable] = np.nanmean(stacked[:, usable], axis=0)
    return result
