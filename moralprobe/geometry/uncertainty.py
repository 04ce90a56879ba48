"""Resampling that respects how the data came about: whole text groups, matched strata.

A text that stands in several rows has one hidden state, so rows aren't independent: the bootstrap
draws text groups, and permutations move the labels of whole groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Bools, Floats, Ints, blocks

_KEYS: Final = 1 << 21  # random numbers at a time


def bootstrap_counts(n_groups: int, draws: int, seed: int) -> NDArray[np.uint8]:
    """Return how often each text group stands in each resample, [draws, n_groups].

    Every resample draws n_groups groups with replacement.
    """
    rng = np.random.default_rng([seed, 1])
    counts = np.empty((draws, n_groups), np.uint8)
    for b in range(draws):
        counts[b] = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)
    return counts


@dataclass(frozen=True)
class PermutationKeys:
    """The random numbers that permutations of text groups follow, drawn anew at each reading."""

    n_groups: int
    draws: int
    seed: int

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield which draws, and their keys [some draws, n_groups]."""
        rng = np.random.default_rng([self.seed, 2])
        for some in blocks(self.draws, _KEYS // max(1, self.n_groups)):
            yield some, rng.random((some.stop - some.start, self.n_groups), np.float32)


def permutations(
    groups: Ints, strata: Ints, labels: Floats | Ints | Bools, keys: PermutationKeys
) -> Ints:
    """Return permutations of rows that move whole text groups within strata, [draws, n].

    Row i of a permuted set takes the label of row `result[b, i]`. A group changes places with
    groups of as many rows in the same stratum only, so that labels of one text stay together.
    Within a cell every permutation is as likely as any other, but it is drawn by the groups' keys:
    the group with the r-th smallest key takes the r-th smallest label. So a text that stands under
    several axes is given like labels in all of them, as it has in the data, and a mean over axes
    has a null as wide as it should be.

    Args:
        groups: [n] text group of each row.
        strata: [n] stratum of each row; of a group that straddles strata, its first row's counts.
        labels: [n] what is permuted, as numbers that can be ordered.
        keys: the same for all axes.
    """
    n = len(groups)
    order = np.argsort(groups, kind="stable")
    names, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    mean = np.add.reduceat(np.asarray(labels, np.float64)[order], starts) / sizes if n else starts
    cells = np.stack([strata[order[starts]], sizes], axis=1)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    cell = cell.ravel()
    # The smallest numbers that hold them: these are the largest arrays of a design.
    dtype: type[np.integer] = np.uint16 if n <= 1 << 16 else np.int32
    result = np.tile(np.arange(n, dtype=dtype), (keys.draws, 1))
    moved = []
    for c in range(cell.max(initial=-1) + 1):
        members = np.flatnonzero(cell == c)
        if len(members) > 1:
            rows = order[starts[members][:, None] + np.arange(sizes[members[0]])]
            by_label = rows[np.argsort(mean[members], kind="stable")]
            moved.append((names[members], rows.ravel(), by_label.astype(dtype)))
    for some, drawn in keys.blocks():
        for mine, places, by_label in moved:  # by_label [groups, rows each]
            by_key = np.argsort(drawn[:, mine], axis=1)  # [draws, groups]
            taken = np.empty((len(drawn), *by_label.shape), dtype)
            np.put_along_axis(taken, by_key[:, :, None], by_label[None], axis=1)
            result[some, places] = taken.reshape(len(drawn), len(places))
    return np.asarray(result)


def length_bins(
    lengths: Ints | Floats, *, most: int = 10, rows_each: int = 15
) -> NDArray[np.int64]:
    """Return a bin of similar text length for each row, [n], by quantiles.

    At most `most` bins, and so few that each holds about `rows_each` rows.
    """
    k = int(np.clip(len(lengths) // rows_each, 1, most))
    edges = np.unique(np.quantile(lengths, np.arange(1, k) / k)) if k > 1 else np.empty(0)
    bins: NDArray[np.int64] = np.searchsorted(edges, lengths, side="right").astype(np.int64)
    return bins


def strata_of(lengths: Ints | Floats, topics: Ints, *, rows_each: int = 5) -> NDArray[np.int64]:
    """Return strata matched on length, and on topic too where there are rows enough for both.

    Args:
        lengths: [n] tokens of each row's text.
        topics: [n] topic of each row's text.
        rows_each: topics join in where a cell then holds about so many rows.
    """
    bins = length_bins(lengths)
    n_topics = len(np.unique(topics))
    if len(lengths) < rows_each * (bins.max(initial=0) + 1) * n_topics:
        return bins
    _, cells = np.unique(np.stack([bins, topics], axis=1), axis=0, return_inverse=True)
    return cells.ravel().astype(np.int64)


def group_folds(groups: Ints, k: int, seed: int) -> NDArray[np.int64]:
    """Return a fold for each row, [n]; rows of one text group share a fold.

    A group's fold depends on the seed and on the sorted group numbers, not on the rows' order.
    """
    names, index = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng([seed, 3]).permutation(len(names)) % k
    return fold[index].astype(np.int64)


def difference_interval(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the interval of the difference a - b of two independent estimates.

    Args:
        a: value, lower and upper end of its interval.
        b: the same, at the same level of confidence.

    Source: Zou 2007, "Toward using confidence intervals to compare correlations", equation 15: it
    needs neither symmetric intervals nor the draws behind them.
    """
    (x, x_low, x_high), (y, y_low, y_high) = a, b
    low = x - y - float(np.hypot(x - x_low, y_high - y))
    high = x - y + float(np.hypot(x_high - x, y - y_low))
    return low, high


def false_discovery(p: Floats) -> NDArray[np.float64]:
    """Return Benjamini-Hochberg q values over the finite entries of `p`; nan elsewhere."""
    from scipy.stats import false_discovery_control

    q = np.full(len(p), np.nan)
    finite = np.isfinite(p)
    if finite.any():
        q[finite] = false_discovery_control(np.asarray(p)[finite], method="bh")
    return q
