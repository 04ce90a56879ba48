"""The share of variance that predictions explain, under many sets of row weights."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats, blocks

_CHUNK: Final = 32  # sets of weights at a time


def r2(Y: Floats, predicted: Floats, weights: Counts) -> NDArray[np.float64]:
    """Return the share of variance that predictions explain, under many sets of row weights.

    Args:
        Y: [n, m] targets.
        predicted: [n, m] out of fold.
        weights: [b, n] counts of a resample.

    Returns:
        [b, m], at most 1 and below 0 where the mean would predict better; nan where a target
        doesn't vary. It equals scikit-learn's `r2_score` on the rows repeated by
        their weights.
    """
    Y = Y.astype(np.float64)
    columns = np.concatenate([np.square(Y - predicted), Y, np.square(Y)], axis=1)
    w = weights.astype(np.float64)
    error, total, square = np.split(w @ columns, 3, axis=1)
    spread = square - total**2 / w.sum(1)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12 * np.maximum(square, 1), 1 - error / spread, np.nan)


def weighted_r2(Y: Floats, predicted: NDArray[np.floating], weights: Floats) -> NDArray[np.float64]:
    """Return R2 of predictions that each set of row weights has of its own, [b, m].

    Args:
        Y: [n, m] targets.
        predicted: [n, b, m] out of fold.
        weights: [b, n] of a resample.
    """
    parts = [np.empty((0, Y.shape[1]))]
    for some in blocks(len(weights), _CHUNK):
        w = weights[some].astype(np.float64)
        errors = ((Y[:, j, None] - predicted[:, some, j]) ** 2 for j in range(Y.shape[1]))
        lost = np.stack([np.einsum("bn,nb->b", w, error) for error in errors], axis=1)
        square = w @ np.square(Y)
        spread = square - (w @ Y) ** 2 / w.sum(1)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            varies = spread > 1e-12 * np.maximum(square, 1)
            parts.append(np.where(varies, 1 - lost / spread, np.nan))
    return np.concatenate(parts)


def adjusted_r2(r2: Floats, n: int, p: int) -> Floats:
    """Return R2 adjusted for the number of features; nan where rows are too few.

    Adjusting punishes width whatever the model knows: with no signal at all it gives about
    -p / (n - p - 1), so that models of different width can't be compared by it.
    """
    if n - p - 1 <= 0:
        return np.full_like(r2, np.nan)
    return np.asarray(1 - (1 - r2) * (n - 1) / (n - p - 1))


def r2_growth(Y: Floats, n: int, value: float = 0.0) -> float:
    """Return how much variance the mean R2 of targets gains for each unit by which it rises.

    From zero 4 / n of one target, of a larger R2 less; of several, over as many as they are worth
    uncorrelated, m^2 over the sum of their squared correlations: those of what is left and of what
    is predicted are taken to be alike.

    Args:
        Y: [rows, m] targets that vary.
        n: independent rows.
        value: the R2 that it rises from; none below 0.

    Source: Wishart (1931) on one, 4 R2 (1 - R2)^2 / n, of which this is the slope.
    """
    correlation = np.atleast_2d(np.corrcoef(Y, rowvar=False))
    alone = len(correlation) ** 2 / float(np.square(correlation).sum())
    v = max(value, 0.0)
    return 4 * max((1 - v) * (1 - 3 * v), 0.0) / (n * alone)
