"""What a linear read-out makes of texts that it hasn't seen: AUROC and crossnobis distance.

Both are cross-validated, and every resample and permutation repeats the whole cross-validation.
Resampling or shuffling only the scores that one round of read-outs gave would leave out that the
read-outs depend on the labels too: the fold that a label is tested in is a fold that others are
trained on, so that such a null is too narrow by a factor of about the square root of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Bools, Counts, Floats, Ints, blocks

FOLDS: Final = 5
_CHUNK: Final = 128  # sets of weights at a time


class HeldOut(NamedTuple):
    """Two measures of every pair of classes under many sets of weights, each [b, pairs]."""

    auroc: NDArray[np.float64]
    crossnobis: NDArray[np.float64]


@dataclass(frozen=True)
class _Block:
    """The rows of one pair in one fold, ordered by state; equal states stand once.

    `first` [m] are rows of `X` that hold them; `tested` [m, d] are whitened by the fold's own
    read-out.
    """

    rows: Ints
    starts: Ints
    X: Floats
    first: Ints
    tested: NDArray[np.float32]

    @property
    def states(self) -> NDArray[np.float32]:
        """The distinct states as they are, [m, d]; copied when they are read."""
        return np.asarray(self.X[self.first], np.float32)

    def sums(self, weights: Counts) -> NDArray[np.float32]:
        """Return the weight of each distinct state, [b, m]."""
        mine = weights[:, self.rows].astype(np.float32)
        if len(self.starts) == mine.shape[1]:
            return mine
        return np.add.reduceat(mine, self.starts, axis=1)


@dataclass(frozen=True)
class ReadOuts:
    """All that doesn't depend on which class of its pair a row is in.

    `blocks[k][f]` are the rows of pair k in fold f. `whiten[f]` [d, d] makes a unit matrix of C,
    the covariance around the pairs' means in the folds other than f; `kept[f]` is the share that
    shrinking left of it, `train[f]` how many rows it is of.
    """

    blocks: list[list[_Block]]
    whiten: list[NDArray[np.float32]]
    kept: list[float]
    train: list[int]


def prepare(X: Floats, pairs: Ints, folds: Ints) -> ReadOuts:
    """Prepare the read-outs of some rows.

    Args:
        X: [n, d] hidden states.
        pairs: [n] pair of opposed classes (0, 1, ...) that each row belongs to.
        folds: [n] fold of each row.
    """
    n_pairs, n_folds = int(pairs.max()) + 1, int(folds.max()) + 1
    onehot = (pairs[:, None] == np.arange(n_pairs)).astype(X.dtype)
    parts = [np.flatnonzero(folds == f) for f in range(n_folds)]
    gram = [X[rows].T @ X[rows] for rows in parts]
    sums = [onehot[rows].T @ X[rows] for rows in parts]
    all_gram = np.sum(gram, axis=0, dtype=np.float64)
    all_sums = np.sum(sums, axis=0, dtype=np.float64)
    whiten, kept, train = [], [], []
    for f in range(n_folds):
        others = parts[:f] + parts[f + 1 :]
        counts = np.sum([onehot[rows].sum(0, dtype=np.float64) for rows in others], axis=0)
        means = (all_sums - sums[f]) / np.maximum(counts, 1)[:, None]
        scatter = all_gram - gram[f] - (means * counts[:, None]).T @ means
        squared = np.concatenate([_squared_lengths(X[rows], pairs[rows], means) for rows in others])
        shrinkage = _shrinkage(squared, scatter)
        whiten.append(_whitening(scatter / len(squared), shrinkage))
        kept.append(1 - shrinkage)
        train.append(len(squared))
    blocks = [
        [_block(X, np.flatnonzero((pairs == k) & (folds == f)), whiten[f]) for f in range(n_folds)]
        for k in range(n_pairs)
    ]
    return ReadOuts(blocks, whiten, kept, train)


def _whitening(covariance: Floats, shrinkage: float) -> NDArray[np.float32]:
    """Return W [d, d] with W W' the inverse of a covariance that is shrunk to its mean variance."""
    from scipy.linalg.lapack import dtrtri

    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance
    # A trace of identity keeps the factorisation possible where some dimension never varies.
    shrunk.flat[:: d + 1] += (shrinkage + 1e-9) * np.trace(covariance) / d
    inverse, _ = dtrtri(np.linalg.cholesky(shrunk), lower=1)
    return np.ascontiguousarray(inverse.T, np.float32)


def measure(
    read_outs: ReadOuts, first: Bools, weights: tuple[Counts, Counts] | None = None
) -> HeldOut:
    """Cross-validate the read-outs under many sets of weights, or of classes.

    For each fold, from the other folds: the direction inv(S) (c_plus - c_minus), with S the
    covariance within classes. In the fold itself, AUROC is the area under the ROC curve of the rows
    projected on it, ties counting one half, folds by their number of compared pairs; crossnobis is
    the projected difference of the fold's two centres, averaged over folds, whose expectation is
    zero where the classes don't differ (Walther et al. 2016).

    Args:
        read_outs: from `prepare`.
        first: [b, n] whether a row is in the first class of its pair; [1, n] with weights.
        weights: [b, n] how often rows count where they train and where they are tested (a resample:
            S is that of the first set, which is the data as they are). None where every row counts
            once, and sets differ in their classes (a permutation: S is that of each set's own).

    Returns:
        [b, pairs] each; nan where a class has no weight.
    """
    found: list[HeldOut] = []
    kept: list[_Classes] | None = None
    for chunk in blocks(len(first if weights is None else weights[0]), _CHUNK):
        if weights is None:
            trained = tested = first[chunk], ~first[chunk]
        else:
            trained, tested = ((w[chunk] * first, w[chunk] * ~first) for w in weights)
        values, kept = _measure(read_outs, tested, trained, kept, relabelled=weights is None)
        found.append(values)
    if not found:
        empty = np.empty((0, len(read_outs.blocks)))
        return HeldOut(empty, empty)
    return HeldOut(*(np.concatenate(column) for column in zip(*found, strict=True)))


@dataclass(frozen=True)
class _Classes:
    """What the class centres add to a fold's covariance C, under one set of weights or many.

    C, the covariance around the pairs' means, is that within classes plus what the centres add:
    C = S + D' diag(c) D, with D [pairs, d] the centres' differences and
    c_k = (1 - shrinkage) n_plus n_minus / (n_k N). So one factorisation serves every labelling:
    where C is whitened to the identity, S is I - D' diag(c) D, and by Woodbury's identity its
    inverse is I + D' K D, with K = inv(I - diag(c) D D') diag(c).
    """

    delta: Floats  # D, whitened [b, pairs, d]
    kernel: NDArray[np.float64]  # K [b, pairs, pairs]

    def directions(self, delta: Floats) -> Floats:
        """Return inv(S) delta, whitened [b, pairs, d]."""
        inner = delta @ self.delta.swapaxes(1, 2)
        directions: Floats = delta + (inner @ self.kernel).astype(delta.dtype) @ self.delta
        return directions


def _measure(
    read_outs: ReadOuts,
    tested: tuple[Counts, Counts],
    trained: tuple[Counts, Counts],
    first: list[_Classes] | None,
    *,
    relabelled: bool,
) -> tuple[HeldOut, list[_Classes]]:
    """Measure one chunk; return each fold's classes under the very first set of weights too."""
    blocks, b = read_outs.blocks, len(tested[0])
    pairs, folds = len(blocks), len(read_outs.whiten)
    weights = [[np.stack([x.sums(w) for w in trained]) for x in row] for row in blocks]
    counts = np.array([[w.sum(2, dtype=np.float64) for w in row] for row in weights])
    sums = np.array(  # [pairs, folds, 2, b, d]
        [
            [w @ x.states for x, w in zip(row, wrow, strict=True)]
            for row, wrow in zip(blocks, weights, strict=True)
        ]
    )
    all_sums, all_counts = sums.sum(1), counts.sum(1)
    won, compared = np.zeros((2, b, pairs))
    distances = np.full((folds, b, pairs), np.nan)
    firsts = []
    for f in range(folds):
        others = all_counts - counts[:, f]  # [pairs, 2, b]
        usable = (others > 0).all(1).T  # [b, pairs]
        share = _shares(others).astype(np.float32)[..., None]
        # [pairs, b, d], then whitened by one product
        delta = (all_sums - sums[:, f]) * share
        delta = (delta[:, 0] - delta[:, 1]) @ read_outs.whiten[f]
        own = _classes(delta.swapaxes(0, 1), others, read_outs.kept[f] / read_outs.train[f])
        firsts.append(_Classes(own.delta[:1], own.kernel[:1]) if first is None else first[f])
        directions = (own if relabelled else firsts[f]).directions(own.delta)
        for k in range(pairs):
            scores = directions[:, k] @ blocks[k][f].tested.T
            here = np.stack([blocks[k][f].sums(w) for w in tested])
            inside = here.sum(2, dtype=np.float64)
            contrast = here * _shares(inside)[..., None]
            distance = np.einsum("bm,bm->b", contrast[0] - contrast[1], scores)
            measurable = usable[:, k] & (inside > 0).all(0)
            distances[f, :, k] = np.where(measurable, distance, np.nan)
            w, c = _won(scores, *here)
            won[:, k] += np.where(usable[:, k], w, 0)
            compared[:, k] += np.where(usable[:, k], c, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = np.where(compared > 0, won / compared, np.nan)
        measured = np.isfinite(distances)
        crossnobis = np.where(measured, distances, 0).sum(0) / measured.sum(0)
    return HeldOut(auroc, crossnobis), firsts


def _shares(counts: Floats) -> NDArray[np.float64]:
    """Return what one row adds to its centre; zero where a class has no weight."""
    return np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)


def _classes(delta: Floats, counts: Floats, scale: float) -> _Classes:
    product, total = counts[:, 0] * counts[:, 1], np.maximum(counts.sum(1), 1)
    c = (scale * product / total).T[:, :, None]  # [b, pairs, 1]
    inner = (delta @ delta.swapaxes(1, 2)).astype(np.float64)
    unit = np.eye(inner.shape[1])
    return _Classes(delta, np.linalg.inv(unit - c * inner) @ (c * unit))


def _won(scores: Floats, plus: Floats, minus: Floats) -> tuple[Floats, Floats]:
    """Return the weight of pairs that the first class wins, and of all pairs, each [b]."""
    order = np.argsort(scores, axis=1)
    plus, minus = np.take_along_axis(plus, order, 1), np.take_along_axis(minus, order, 1)
    # Equal states stand once here, so that half of what a state ties with is its own.
    below = np.cumsum(minus, axis=1, dtype=np.float64) - minus / 2
    won = np.einsum("bn,bn->b", plus, below, dtype=np.float64)
    return won, plus.sum(1, dtype=np.float64) * minus.sum(1, dtype=np.float64)


def _block(X: Floats, rows: Ints, whiten: NDArray[np.float32]) -> _Block:
    states = np.ascontiguousarray(X[rows], np.float32)
    if len(rows) == 0:
        return _Block(rows, rows, X, rows, states)
    keys = states.view(np.dtype((np.void, states.shape[1] * states.itemsize))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    return _Block(rows[order], starts, X, rows[first], states[first] @ whiten)


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
    return _shrinkage(_squared_lengths(X, labels, centres), scatter)


def _squared_lengths(X: Floats, labels: Ints, centres: Floats) -> Floats:
    """Return the squared lengths of rows less their centres, [n]."""
    own = (X @ centres.T.astype(X.dtype))[np.arange(len(X)), labels]
    found: Floats = np.einsum("nd,nd->n", X, X) - 2 * own + np.sum(centres**2, axis=1)[labels]
    return found


def _shrinkage(squared: Floats, scatter: Floats) -> float:
    n, d = len(squared), len(scatter)
    covariance = scatter / n
    mean_variance = float(np.trace(covariance)) / d
    spread = float(np.sum(covariance**2))
    delta = (spread - d * mean_variance**2) / d
    beta = (float(np.sum(np.square(squared, dtype=np.float64))) / n - spread) / (n * d)
    return 1.0 if delta <= 0 else float(np.clip(beta / delta, 0, 1))
