"""The share of variance that predictions explain, under many sets of row weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats


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
    w = weights.astype(np.float64)
    total = w.sum(1)
    lost = np.stack(
        [np.einsum("bn,nb->b", w, np.square(y[:, None] - p)) for y, p in _columns(Y, predicted)], 1
    )
    square = w @ np.square(Y)
    spread = square - (w @ Y) ** 2 / total[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        varies = spread > 1e-12 * np.maximum(square, 1)
        return np.asarray(np.where(varies, 1 - lost / spread, np.nan))


def _columns(Y: Floats, predicted: Floats) -> Iterator[tuple[Floats, Floats]]:
    for j in range(Y.shape[1]):
        yield Y[:, j], predicted[:, :, j]
