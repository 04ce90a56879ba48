"""How much of the human judgement a linear read-out recovers from texts that it hasn't seen.

Closed-form ridge, cross-validated twice over whole text groups: the inner folds choose the penalty,
the outer ones test. All of it, every fold and every penalty, comes from one pass over the states
that keeps each fold's counts, sums and products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Floats, Ints, blocks

PENALTIES: Final = tuple(float(x) for x in np.geomspace(0.01, 10, 5))
"""Ridge penalties tried, in units of the number of training rows: features have variance one."""
_KEPT: Final = 1 << 27  # numbers in the inverses that are kept
_BLOCK: Final = 4096  # rows that are turned to double precision at a time
_LABELS: Final = 1 << 22  # of a [rows, draws] block of permuted labels


@dataclass
class Folds:
    """The sufficient statistics of each fold of some rows' hidden states.

    `order` [n] sorts the rows by fold; `X` [n, d] are their states in that order, `parts[f]` where
    fold f stands in it; `counts` [f]; `sums` [f, d]; `gram` [f, d, d].
    """

    X: Floats
    order: Ints
    parts: list[slice]
    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    gram: NDArray[np.float64]
    _readers: dict[tuple[int, int, type[np.floating]], _Reader] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many folds there are."""
        return len(self.parts)

    def ordered(self, shuffles: Ints) -> Ints:
        """Return permutations of the rows [b, n] as the null functions take them, [n, b]."""
        in_order = bool((np.diff(self.order) > 0).all())
        return np.ascontiguousarray(shuffles.T if in_order else shuffles.T[self.order])

    def standardised(self, *without: int) -> _Train:
        """Return the statistics of all folds but some, features at mean 0 and variance 1."""
        n = float(self.counts.sum() - self.counts[list(without)].sum())
        mean = (self.sums.sum(0) - self.sums[list(without)].sum(0)) / n
        # One fold after the other: at 4,096 dimensions a product is 134 MB.
        covariance = -np.outer(mean, mean)
        for f in range(self.n):
            if f not in without:
                covariance += self.gram[f] / n
        scale = np.sqrt(np.maximum(np.diag(covariance), 0))
        # A feature that doesn't vary stays as it is, at zero.
        scale = np.where(scale > 1e-9 * np.abs(mean), scale, 1.0)
        covariance /= scale
        covariance /= scale[:, None]
        return _Train(n, mean, scale, covariance)

    def reader(self, f: int, penalty: int, dtype: type[np.floating]) -> _Reader:
        """Return what turns products with the targets into the read-out of all folds but f."""
        key = (f, penalty, dtype)
        if key not in self._readers:
            train = self.standardised(f)
            train.correlation.flat[:: len(train.mean) + 1] += PENALTIES[penalty]
            inverse = np.linalg.inv(train.correlation)
            inverse /= train.scale
            inverse /= train.scale[:, None]
            if len(self._readers) * inverse.size > _KEPT:  # the oldest makes room
                del self._readers[next(iter(self._readers))]
            self._readers[key] = _Reader(train.n, train.mean, train.scale, inverse.astype(dtype))
        return self._readers[key]


class _Train(NamedTuple):
    n: float
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    correlation: NDArray[np.float64]


class _Reader(NamedTuple):
    n: float
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    inverse: Floats


def gather(X: Floats, folds: Ints) -> Folds:
    """Read the states once and keep each fold's counts, sums and products.

    Args:
        X: [n, d] hidden states.
        folds: [n] fold of each row, 0 to k - 1; rows of one text group share a fold.
    """
    k, d = int(folds.max()) + 1, X.shape[1]
    order = np.argsort(folds, kind="stable")
    edges = np.cumsum([0, *np.bincount(folds, minlength=k)])
    parts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    if (np.diff(folds) < 0).any():  # a design's targets stand in order: no copy
        X = X[order]
    sums, gram = np.zeros((k, d)), np.zeros((k, d, d))
    for f, part in enumerate(parts):
        for start in range(part.start, part.stop, _BLOCK):
            block = X[start : min(start + _BLOCK, part.stop)].astype(np.float64)
            sums[f] += block.sum(0)
            gram[f] += block.T @ block
    return Folds(X, order, parts, np.diff(edges).astype(float), sums, gram)


def choose_penalties(folds: Folds, Y: Floats) -> NDArray[np.int64]:
    """Choose a penalty for each outer fold and target, by the squared error in the inner folds.

    Outer fold f never takes part: the read-out is fitted without f and g and tested on g, for every
    other fold g.

    Args:
        folds: from `gather`.
        Y: [n, m] targets; in single precision where they are, else in double.

    Returns:
        [folds, m] positions in `PENALTIES`.
    """
    if Y.shape[1] == 0:
        return np.empty((folds.n, 0), np.int64)
    Y = Y[folds.order]
    if Y.dtype != np.float32:
        Y = Y.astype(np.float64)
    return _best_penalties(folds, *_products(folds, Y))


def _best_penalties(folds: Folds, cross: Floats, totals: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose penalties by what `_products` gives of the targets."""
    k, dtype = folds.n, cross.dtype
    errors = np.zeros((k, len(PENALTIES), cross.shape[2]))
    for f in range(k):
        for g in range(f + 1, k):
            train = folds.standardised(f, g)
            y_sum = totals.sum(0) - totals[f] - totals[g]
            products = cross.sum(0) - cross[f] - cross[g] - np.outer(train.mean, y_sum)
            products /= train.scale[:, None] * train.n
            correlation = train.correlation.astype(dtype, copy=False)
            products = products.astype(dtype, copy=False)
            scale = train.scale[:, None].astype(dtype)
            diagonal = correlation.flat[:: len(train.mean) + 1].copy()
            for p, penalty in enumerate(PENALTIES):
                correlation.flat[:: len(train.mean) + 1] = diagonal + dtype.type(penalty)
                W = np.linalg.solve(correlation, products) / scale
                offset = y_sum / train.n - train.mean @ W
                for outer, tested in ((f, g), (g, f)):
                    errors[outer, p] += _squared_error(
                        folds, tested, W, offset, cross[tested], totals[tested]
                    )
    return np.asarray(errors.argmin(1), np.int64)


def _squared_error(
    folds: Folds, f: int, W: Floats, offset: Floats, cross: Floats, total: Floats
) -> Floats:
    """Return the squared error of a read-out in fold f, less the targets' own squares, [m]."""
    explained = np.einsum("dm,dm->m", W, cross) + offset * total
    predicted = np.einsum("dm,dm->m", W, folds.gram[f].astype(W.dtype, copy=False) @ W)
    predicted = predicted + 2 * offset * (folds.sums[f] @ W) + folds.counts[f] * offset**2
    return np.asarray(predicted - 2 * explained)


def choose_again(folds: Folds, Y: Floats, predicted: Floats, weights: Floats) -> NDArray[np.int64]:
    """Choose penalties as `choose_penalties` would of weighted rows, [folds, b, m].

    Args:
        folds: from `gather`.
        Y: [n, m] targets.
        predicted: [n, m] out of fold.
        weights: [b, n] of a resample, about 1.
    """
    n, m = Y.shape
    products = [_products(folds, np.empty((n, 0), np.float32))]
    for some in blocks(len(weights), _LABELS // max(1, Y.size)):
        targets = reweighted(Y, predicted, weights[some])
        products.append(_products(folds, targets[folds.order].reshape(n, -1)))
    cross, totals = (np.concatenate(part, axis=-1) for part in zip(*products, strict=True))
    return _best_penalties(folds, cross, totals).reshape(folds.n, len(weights), m)


def out_of_fold(folds: Folds, Y: Floats, penalties: Ints) -> NDArray[np.float64]:
    """Predict every row by the read-out of the other folds.

    Args:
        folds: from `gather`.
        Y: [n, m] targets.
        penalties: [folds, m] from `choose_penalties`.

    Returns:
        [n, m]; equals scikit-learn's StandardScaler and Ridge with alpha the penalty times the
        number of training rows.
    """
    predicted = np.empty(Y.shape)
    Y = Y[folds.order].astype(np.float64)
    cross, totals = _products(folds, Y)
    for f, part in enumerate(folds.parts):
        train = folds.standardised(f)
        centre = (totals.sum(0) - totals[f]) / train.n
        products = (cross.sum(0) - cross[f]) / train.n - np.outer(train.mean, centre)
        products /= train.scale[:, None]
        diagonal = train.correlation.flat[:: len(train.mean) + 1].copy()
        states = folds.X[part].astype(np.float64)
        for p in np.unique(penalties[f]):
            mine = np.flatnonzero(penalties[f] == p)
            train.correlation.flat[:: len(train.mean) + 1] = diagonal + PENALTIES[p]
            W = np.linalg.solve(train.correlation, products[:, mine]) / train.scale[:, None]
            read = states @ W + (centre[mine] - train.mean @ W)
            predicted[folds.order[part][:, None], mine] = read
    return predicted


def reduced_rank(
    folds: Folds, Y: Floats, penalty: Ints, ranks: Sequence[int]
) -> NDArray[np.floating]:
    """Predict every row by reduced-rank ridge regression on all targets together.

    Args:
        folds: from `gather`.
        Y: [n, c, m] c sets of m targets, in the precision that the arithmetic is to have.
        penalty: [folds] position in `PENALTIES`, one for all targets of a fold; or [folds, c].
        ranks: how many directions of the hidden space the read-out may use.

    Returns:
        The predictions [ranks, n, c, m].

    Source: Izenman (1975); the leading directions of the fitted values, here with a ridge.
    """
    n, c, m = Y.shape
    dtype = Y.dtype
    cross, totals = _products(folds, Y[folds.order].reshape(n, c * m))
    predicted = np.empty((len(ranks), n, c, m), dtype)
    of_column = penalty if penalty.ndim == 1 else np.repeat(penalty, m, axis=1)
    for f, W, offset, products in _read_outs(folds, cross, totals, of_column):
        part = folds.parts[f]
        # The covariance of the fitted values, with the ridge's share.
        fitted = np.einsum("dci,dcj->cij", W.reshape(len(W), c, m), products.reshape(len(W), c, m))
        _, directions = np.linalg.eigh(fitted)
        centre = (totals.sum(0) - totals[f]) / (folds.counts.sum() - folds.counts[f])
        around = folds.X[part].astype(dtype, copy=False) @ W + (offset - centre).astype(dtype)
        around = around.reshape(len(around), c, m).swapaxes(0, 1)
        for r, rank in enumerate(ranks):
            lead = directions[:, :, ::-1][:, :, :rank].astype(dtype)
            # What is left out is predicted by the training mean.
            kept = around @ (lead @ lead.swapaxes(1, 2)) + centre.reshape(c, 1, m).astype(dtype)
            predicted[r, folds.order[part]] = kept.swapaxes(0, 1)
    return predicted


def reweighted(Y: Floats, predicted: Floats, weights: Floats) -> NDArray[np.float32]:
    """Return targets that train the read-outs as weighted rows would, [n, b, m].

    A row that counts w times pulls its read-outs by w - 1 residuals more. To train on its target,
    moved by as many residuals, is the same to first order, and one solution serves every set of
    weights: the features' covariance stays.

    Args:
        Y: [n, m] targets.
        predicted: [n, m] out of fold.
        weights: [b, n] of a resample, about 1.
    """
    residual = (Y - predicted).astype(np.float32)
    more = weights.T.astype(np.float32) - 1
    return np.asarray(Y[:, None].astype(np.float32) + more[:, :, None] * residual[:, None])


def read_again(
    folds: Folds, Y: Floats, predicted: Floats, penalties: Ints, weights: Floats
) -> NDArray[np.float32]:
    """Predict every row by read-outs of weighted rows, [n, b, m].

    Args:
        folds: from `gather`.
        Y: [n, m] targets.
        predicted: [n, m] out of fold.
        penalties: [folds, m] from `choose_penalties`, or [folds, b, m] from `choose_again`.
        weights: [b, n] of a resample, about 1.
    """
    targets = reweighted(Y, predicted, weights)
    n, b, m = targets.shape
    each = penalties if penalties.ndim == 3 else penalties[:, None]
    each = np.broadcast_to(each, (folds.n, b, m)).reshape(folds.n, b * m)
    again = np.empty((n, b * m), np.float32)
    again[folds.order] = _predict(folds, targets.reshape(n, b * m)[folds.order], each)
    return again.reshape(n, b, m)


def permuted(
    folds: Folds, y: Floats, penalty: Ints, shuffles: Ints, *, at_once: int = _LABELS
) -> Iterator[tuple[Floats, Floats]]:
    """Yield what is predicted of one target's labels when they are shuffled.

    The penalties stay those of the labels as they are.

    Args:
        folds: from `gather`.
        y: [n] target.
        penalty: [folds] from `choose_penalties`.
        shuffles: [n, b] permutations of the rows, from `Folds.ordered`.
        at_once: numbers in a block of labels, or of their products.

    Yields:
        Shuffled targets and their predictions, both [n, c] in the order of `folds`.
    """
    y = y.astype(np.float32)
    for some in blocks(shuffles.shape[1], at_once // max(len(y), folds.sums.size)):
        labels = y.take(shuffles[:, some])
        yield labels, _predict(folds, labels, penalty)


def permuted_r2(
    folds: Folds, y: Floats, penalty: Ints, shuffles: Ints, *, at_once: int = _LABELS
) -> NDArray[np.float64]:
    """Return the share of variance explained when one target's labels are shuffled, [b].

    The same as `r2` of what `permuted` yields, without predicting a row: the squared error follows
    from each fold's products.

    Args:
        folds: from `gather`.
        y: [n] target.
        penalty: [folds] from `choose_penalties`.
        shuffles: [n, b] permutations of the rows, from `Folds.ordered`.
        at_once: numbers in a block of labels, or of their products.
    """
    found = []
    single = y.astype(np.float32)
    for some in blocks(shuffles.shape[1], at_once // max(len(y), folds.sums.size)):
        labels = single.take(shuffles[:, some])
        cross, totals = _products(folds, labels)
        explained = np.zeros(labels.shape[1])
        for f, W, offset, _ in _read_outs(folds, cross, totals, penalty):
            half = folds.gram[f].astype(np.float32) @ W
            explained += 2 * (np.einsum("dc,dc->c", W, cross[f]) + offset * totals[f])
            explained -= np.einsum("dc,dc->c", W, half)
            explained -= offset * (2 * (folds.sums[f] @ W) + folds.counts[f] * offset)
        found.append(explained)
    n, mean = len(y), y.mean(dtype=np.float64)
    square = np.square(y, dtype=np.float64).sum()
    spread = square - n * mean**2
    if spread <= 1e-12 * max(square, 1.0):
        return np.full(shuffles.shape[1], np.nan)
    gained = np.concatenate(found) if found else np.empty(0)
    return np.asarray(1 - (square - gained) / spread)


def _products(folds: Folds, Y: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Return each fold's products with targets and their sums, [folds, d, m] and [folds, m]."""
    dtype = Y.dtype
    cross = np.stack([folds.X[part].astype(dtype, copy=False).T @ Y[part] for part in folds.parts])
    totals = np.stack([Y[part].sum(0, dtype=np.float64) for part in folds.parts])
    return cross, totals


def _read_outs(
    folds: Folds, cross: Floats, totals: NDArray[np.float64], penalty: Ints
) -> Iterator[tuple[int, Floats, NDArray[np.float64], Floats]]:
    """Yield each fold with what the other folds give: weights [d, m], offsets, products.

    `penalty` is [folds], or [folds, m] where targets have penalties of their own.
    """
    dtype = cross.dtype.type
    all_cross, all_totals = cross.sum(0), totals.sum(0)
    for f in range(folds.n):
        chosen = np.unique(penalty[f])
        reader = folds.reader(f, int(chosen[0]), dtype)
        centre = (all_totals - totals[f]) / reader.n
        products = (all_cross - cross[f]) / dtype(reader.n)
        products -= np.outer(reader.mean, centre).astype(dtype)
        W = reader.inverse @ products
        for p in chosen[1:]:
            mine = penalty[f] == p
            W[:, mine] = folds.reader(f, int(p), dtype).inverse @ products[:, mine]
        yield f, W, centre - reader.mean @ W, products


def _predict(folds: Folds, Y: Floats, penalty: Ints) -> Floats:
    """Predict targets [n, m] that stand in the order of the folds, in the targets' precision."""
    dtype = Y.dtype.type
    predicted = np.empty(Y.shape, dtype)
    if Y.shape[1] == 0:
        return predicted
    for f, W, offset, _ in _read_outs(folds, *_products(folds, Y), penalty):
        part = folds.parts[f]
        np.matmul(folds.X[part].astype(dtype, copy=False), W, out=predicted[part])
        predicted[part] += offset.astype(dtype)
    return predicted
