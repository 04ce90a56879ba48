"""What a linear read-out makes of texts that it hasn't seen: AUROC and crossnobis distance.

Both are cross-validated, and every resample and permutation repeats the whole cross-validation.
Resampling or shuffling only the scores that one round of read-outs gave would leave out that the
read-outs depend on the labels too: the fold that a label is tested in is a fold that others are
trained on, so that such a null is too narrow by a factor of about the square root of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats, Ints

FOLDS: Final = 5
_CHUNK: Final = 128  # sets of weights at a time


class HeldOut(NamedTuple):
    """Two measures of every pair of classes under many sets of weights, each [b, pairs]."""

    auroc: NDArray[np.float64]
    crossnobis: NDArray[np.float64]


@dataclass(frozen=True)
class _Block:
    """The rows of one pair in one fold, ordered by state; equal states stand once."""

    rows: Ints
    starts: Ints
    states: NDArray[np.float32]

    def sums(self, weights: Counts) -> NDArray[np.float32]:
        """Return the weight of each distinct state, [b, m]."""
        mine = weights[:, self.rows].astype(np.float32)
        if len(self.starts) == mine.shape[1]:
            return mine
        return np.add.reduceat(mine, self.starts, axis=1)


@dataclass(frozen=True)
class ReadOuts:
    """All that doesn't depend on which class of its pair a row is in.

    `blocks[k][f]` are the rows of pair k in fold f; `factors[f]` is the Cholesky factor of the
    covariance around the pairs' means in the folds other than f, `kept[f]` the share that shrinking
    left of it, `train[f]` how many rows it is of.
    """

    blocks: list[list[_Block]]
    factors: list[Any]
    kept: list[float]
    train: list[int]


def prepare(X: Floats, pairs: Ints, folds: Ints) -> ReadOuts:
    """Prepare the read-outs of some rows.

    Args:
        X: [n, d] hidden states.
        pairs: [n] pair of opposed classes (0, 1, ...) that each row belongs to.
        folds: [n] fold of each row.
    """
    from scipy.linalg import cho_factor

    n_pairs, n_folds = int(pairs.max()) + 1, int(folds.max()) + 1
    d = X.shape[1]
    blocks = [
        [_block(X, np.flatnonzero((pairs == k) & (folds == f))) for f in range(n_folds)]
        for k in range(n_pairs)
    ]
    onehot = (pairs[:, None] == np.arange(n_pairs)).astype(X.dtype)
    parts = [np.flatnonzero(folds == f) for f in range(n_folds)]
    gram = [X[rows].T @ X[rows] for rows in parts]
    sums = [onehot[rows].T @ X[rows] for rows in parts]
    all_gram = np.sum(gram, axis=0, dtype=np.float64)
    all_sums = np.sum(sums, axis=0, dtype=np.float64)
    factors, kept, train = [], [], []
    for f in range(n_folds):
        rows = np.flatnonzero(folds != f)
        counts = onehot[rows].sum(0, dtype=np.float64)
        means = (all_sums - sums[f]) / np.maximum(counts, 1)[:, None]
        scatter = all_gram - gram[f] - (means * counts[:, None]).T @ means
        shrinkage = ledoit_wolf_shrinkage(X[rows], pairs[rows], means, scatter)
        covariance = (1 - shrinkage) * scatter / len(rows)
        # A trace of identity keeps the factorisation possible where some dimension never varies.
        covariance.flat[:: d + 1] += (shrinkage + 1e-9) * np.trace(scatter) / len(rows) / d
        factors.append(cho_factor(covariance, overwrite_a=True))
        kept.append(1 - shrinkage)
        train.append(len(rows))
    return ReadOuts(blocks, factors, kept, train)


def measure(read_outs: ReadOuts, plus: Counts, minus: Counts, *, relabelled: bool) -> HeldOut:
    """Cross-validate the read-outs under many sets of weights.

    For each fold, from the other folds: the direction inv(S) (c_plus - c_minus), with S the
    covariance within classes. In the fold itself, AUROC is the area under the ROC curve of the rows
    projected on it, ties counting one half, folds by their number of compared pairs; crossnobis is
    the projected difference of the fold's two centres, averaged over folds, whose expectation is
    zero where the classes don't differ (Walther et al. 2016).

    Args:
        read_outs: from `prepare`.
        plus: [b, n] weight of each row as one of the first class of its pair.
        minus: [b, n] weight as one of the second.
        relabelled: whether the sets differ in which rows are in which class (a permutation: S is
            that of each set's own classes) or in how often rows count (a resample: S is that of the
            first set, which is the data as they are).

    Returns:
        [b, pairs] each; nan where a class has no weight.
    """
    found: list[HeldOut] = []
    first: list[_Classes] | None = None
    for start in range(0, len(plus), _CHUNK):
        sets = plus[start : start + _CHUNK], minus[start : start + _CHUNK]
        values, first = _measure(read_outs, *sets, first, relabelled=relabelled)
        found.append(values)
    if not found:
        empty = np.empty((0, len(read_outs.blocks)))
        return HeldOut(empty, empty)
    return HeldOut(*(np.concatenate(column) for column in zip(*found, strict=True)))


@dataclass(frozen=True)
class _Classes:
    """What the class centres add to a fold's covariance C, under one set of weights or many.

    C, the covariance around the pairs' means, is that within classes plus what the centres add:
    C = S + D diag(c) D', with D [d, pairs] the centres' differences and
    c_k = (1 - shrinkage) n_plus n_minus / (n_k N). So one factorisation serves every labelling, and
    by Woodbury's identity inv(S) = inv(C) + U K U', with U = inv(C) D and
    K = inv(I - diag(c) D' U) diag(c).
    """

    delta: Floats  # [pairs, b, d]
    solved: Floats  # U, [pairs, b, d]
    kernel: NDArray[np.float64]  # K, [b, pairs, pairs]

    def of_first(self) -> _Classes:
        return _Classes(self.delta[:, :1], self.solved[:, :1], self.kernel[:1])

    def directions(self, solved: Floats) -> Floats:
        """Turn inv(C) delta into inv(S) delta, [pairs, b, d]."""
        inner = np.einsum("ibd,jbd->bij", self.delta, solved)
        directions: Floats = solved + np.einsum(
            "ibd,bij->jbd", self.solved, self.kernel @ inner, optimize=True
        )
        return directions


def _measure(
    read_outs: ReadOuts,
    plus: Counts,
    minus: Counts,
    first: list[_Classes] | None,
    *,
    relabelled: bool,
) -> tuple[HeldOut, list[_Classes]]:
    """Measure one chunk; return each fold's classes under the very first set of weights too."""
    blocks = read_outs.blocks
    weights = [[(b.sums(plus), b.sums(minus)) for b in row] for row in blocks]
    sums = np.stack(  # [pairs, folds, 2, b, d]
        [
            [[w @ b.states for w in ws] for b, ws in zip(row, wrow, strict=True)]
            for row, wrow in zip(blocks, weights, strict=True)
        ]
    )
    counts = np.array([[[w.sum(1, dtype=np.float64) for w in ws] for ws in row] for row in weights])
    won, compared = np.zeros((2, len(plus), len(blocks)))
    distances = np.full((len(read_outs.factors), len(plus), len(blocks)), np.nan)
    firsts = []
    for f in range(len(read_outs.factors)):
        others = counts.sum(1) - counts[:, f]  # [pairs, 2, b]
        delta = _difference(sums.sum(1) - sums[:, f], others)  # [pairs, b, d]
        usable = np.isfinite(delta[:, :, 0])
        own = _classes(read_outs, f, np.where(usable[:, :, None], delta, 0), others)
        firsts.append(own.of_first() if first is None else first[f])
        directions = (own if relabelled else firsts[f]).directions(own.solved)
        tested = _difference(sums[:, f], counts[:, f])
        distance = np.einsum("kbd,kbd->bk", tested, directions, dtype=np.float64)
        distances[f] = np.where(usable.T, distance, np.nan)
        for k, row in enumerate(blocks):
            w, c = _won(directions[k].astype(np.float32) @ row[f].states.T, *weights[k][f])
            won[:, k] += np.where(usable[k], w, 0)
            compared[:, k] += np.where(usable[k], c, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = np.where(compared > 0, won / compared, np.nan)
        folds = np.isfinite(distances)
        crossnobis = np.where(folds, distances, 0).sum(0) / folds.sum(0)
    return HeldOut(auroc, crossnobis), firsts


def _difference(sums: Floats, counts: Floats) -> Floats:
    """Return the difference of two classes' centres, [pairs, b, d]; nan where one is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        centres: Floats = sums / counts[..., None].astype(sums.dtype)
    difference: Floats = centres[:, 0] - centres[:, 1]
    return difference


def _classes(read_outs: ReadOuts, f: int, delta: Floats, counts: Floats) -> _Classes:
    from scipy.linalg import cho_solve

    k, b, d = delta.shape
    flat = np.asfortranarray(delta.reshape(k * b, d).T, dtype=np.float64)
    solved = cho_solve(read_outs.factors[f], flat, overwrite_b=True).T.reshape(k, b, d)
    product, total = counts[:, 0] * counts[:, 1], np.maximum(counts.sum(1), 1)
    c = (read_outs.kept[f] * product / total / read_outs.train[f]).T[:, :, None]  # [b, pairs, 1]
    inner = np.einsum("ibd,jbd->bij", delta, solved, dtype=np.float64)
    kernel = np.linalg.inv(np.eye(k) - c * inner) @ (c * np.eye(k))
    return _Classes(delta, solved, kernel)


def _won(scores: Floats, plus: Floats, minus: Floats) -> tuple[Floats, Floats]:
    """Return the weight of pairs that the first class wins, and of all pairs, each [b]."""
    order = np.argsort(scores, axis=1)
    plus, minus = np.take_along_axis(plus, order, 1), np.take_along_axis(minus, order, 1)
    # Equal states stand once here, so that half of what a state ties with is its own.
    below = np.cumsum(minus, axis=1, dtype=np.float64) - minus / 2
    won = np.einsum("bn,bn->b", plus, below, dtype=np.float64)
    return won, plus.sum(1, dtype=np.float64) * minus.sum(1, dtype=np.float64)


def _block(X: Floats, rows: Ints) -> _Block:
    states = np.ascontiguousarray(X[rows], np.float32)
    if len(rows) == 0:
        return _Block(rows, rows, states)
    keys = states.view(np.dtype((np.void, states.shape[1] * states.itemsize))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    return _Block(rows[order], starts, states[first])


def ledoit_wolf_shrinkage(X: Floats, labels: Ints, centres: Floats, scatter: Floats) -> float:
    """Return how far to shrink a covariance towards a multiple of the identity, in [0, 1].

    Equals scikit-learn's `ledoit_wolf_shrinkage` on the rows minus their centres, from the scatter
    matrix that is there already (Ledoit and Wolf 2004).

    Args:
        X: [n, d] rows.
        labels: [n] which centre is a row's own.
        centres: [k, d].
        scatter: [d, d] sum of the centred rows' outer products.
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
    return 1.0 if delta <= 0 else float(np.clip(beta / delta, 0, 1))
