"""The area under the ROC curve of read-outs: resampled, permuted, and how it moves with scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats
from moralprobe.geometry.recoverability import Folds


def weighted_auroc(
    folds: Folds, scores: Floats, labels: Counts, weights: Counts
) -> NDArray[np.float64]:
    """Return the area under the ROC curve within folds under many sets of row weights, [b].

    Read-outs of different folds differ in their offset, so that only rows of one fold are compared;
    folds count by their number of compared pairs.

    Args:
        folds: from `gather`.
        scores: [n]; ties count one half.
        labels: [n] booleans.
        weights: [b, n] counts of a resample.
    """
    won, compared = np.zeros((2, len(weights)))
    for part in folds.parts:
        rows = folds.order[part]
        rows = rows[np.argsort(scores[rows])]
        w = weights[:, rows].astype(np.float64)
        positive = w * labels[rows]
        negative = w - positive
        starts = np.flatnonzero(np.diff(scores[rows], prepend=np.nan) != 0)
        if len(starts) < len(rows):  # equal scores stand once
            positive, negative = (np.add.reduceat(x, starts, axis=1) for x in (positive, negative))
        won += np.einsum("bn,bn->b", positive, np.cumsum(negative, axis=1) - negative / 2)
        compared += positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(compared > 0, won / compared, np.nan))


def permuted_auroc(
    folds: Folds, scores: NDArray[np.float32], labels: Counts
) -> NDArray[np.float64]:
    """Return the area under the ROC curve within folds of many sets of scores and labels, [b].

    Args:
        folds: from `gather`.
        scores: [n, b] fp32 in the order of the folds; two that differ in the last bit only count
            as equal.
        labels: [n, b] booleans.
    """
    # A label travels in the last bit of its score: values sort several times faster than indices.
    bits = scores.view(np.uint32) & np.uint32(0xFFFFFFFE) | labels.astype(np.uint32)
    won, compared = np.zeros((2, scores.shape[1]))
    for part in folds.parts:
        mine = np.sort(np.ascontiguousarray(bits[part].T).view(np.float32), axis=1)
        ordered = (mine.view(np.uint32) & np.uint32(1)).astype(np.float32)
        m = ordered.shape[1]
        positive = ordered.sum(1, dtype=np.float64)
        ranks = (ordered @ (np.arange(m, dtype=np.float32) - m / 2)).astype(np.float64)
        won += ranks + positive * (m / 2 + 1) - positive * (positive + 1) / 2
        compared += positive * (m - positive)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(compared > 0, won / compared, np.nan))
