"""Representational similarity: which texts lie near each other, and what would put them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Floats, Ints


@dataclass(frozen=True)
class ModelGeometries:
    """Dissimilarities that a reader of labels or of words would see between some texts.

    `matrices[name]` [n, n] with zeros on the diagonal; `moral` are the names of those that follow
    from labels, of which `features[name]` [n, k] give the dissimilarity as squared distance.
    `weights` [1 + b + h, n] are those of resamples, the first all ones; `shuffles` [p, n] permute
    the labels. `inner` [1 + b + h, m, m] and `sums` [1 + b + h, m] are the matrices' weighted
    products and sums over pairs, `null_inner` [p, m, m] those of permuted labels.
    """

    matrices: dict[str, NDArray[np.float32]]
    features: dict[str, NDArray[np.float32]]
    weights: NDArray[np.uint8]
    shuffles: Ints
    inner: NDArray[np.float64]
    sums: NDArray[np.float64]
    null_inner: NDArray[np.float64]
    pairs: NDArray[np.float64]

    @property
    def names(self) -> tuple[str, ...]:
        """The model geometries, those that follow from labels first."""
        return tuple(self.matrices)

    @property
    def moral(self) -> tuple[str, ...]:
        """The names of those that follow from labels."""
        return tuple(self.features)


def squared_distances(features: Floats) -> NDArray[np.float32]:
    """Return the squared Euclidean distances between rows, [n, n]."""
    F = np.asarray(features, np.float32)
    squares = np.einsum("nk,nk->n", F, F)
    distances = squares[:, None] + squares - 2 * (F @ F.T)
    np.fill_diagonal(distances, 0)
    clipped: NDArray[np.float32] = np.maximum(distances, 0).astype(np.float32)
    return clipped


def model_geometries(
    features: Mapping[str, Floats],
    others: Mapping[str, Floats],
    weights: NDArray[np.uint8],
    shuffles: Ints,
) -> ModelGeometries:
    """Prepare the model geometries of some texts, for every layer at once.

    Args:
        features: [n, k] label features whose squared distances are the geometry: foundation tags,
            polarity, intensity.
        others: [n, n] dissimilarities that labels don't enter: text length, words, valence.
        weights: [1 + b + h, n] resamples, the first as the data are.
        shuffles: [p, n] permutations of the labels.
    """
    moral = {name: np.asarray(F, np.float32).reshape(len(F), -1) for name, F in features.items()}
    matrices = {name: _scaled(squared_distances(F)) for name, F in moral.items()}
    matrices |= {name: _scaled(np.asarray(D, np.float32)) for name, D in others.items()}
    names = list(matrices)
    m = len(names)
    w = weights.astype(np.float32)
    inner = np.empty((len(w), m, m))
    for i, j in combinations(range(m), 2):
        inner[:, i, j] = inner[:, j, i] = _pair_sums(w, matrices[names[i]] * matrices[names[j]])
    for i in range(m):
        inner[:, i, i] = _pair_sums(w, np.square(matrices[names[i]]))
    sums = np.stack([_pair_sums(w, matrices[name]) for name in names], axis=1)
    null_inner = np.repeat(inner[:1], len(shuffles), axis=0)
    for i, name in enumerate(names[: len(moral)]):
        for j in range(len(moral), m):
            found = _permuted_sums(moral[name], matrices[names[j]], shuffles, matrices[name])
            null_inner[:, i, j] = null_inner[:, j, i] = found
    counts = weights.sum(1, dtype=np.float64)
    # A text drawn twice is no pair: distance zero to itself says nothing.
    pairs = (counts**2 - np.square(weights, dtype=np.float64).sum(1)) / 2
    return ModelGeometries(matrices, moral, weights, shuffles, inner, sums, null_inner, pairs)


def _scaled(D: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a dissimilarity at standard deviation 1 over pairs; left alone where it never varies.

    Single precision holds products of matrices only if they are of a size.
    """
    upper = D[np.triu_indices(len(D), 1)]
    spread = float(upper.std(dtype=np.float64)) if len(upper) else 0.0
    scaled = D / np.float32(spread) if spread > 1e-9 else D.copy()
    np.fill_diagonal(scaled, 0)
    return scaled.astype(np.float32)


def _pair_sums(weights: NDArray[np.float32], M: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum over pairs of w_i w_j M_ij, [b]."""
    sums: NDArray[np.float64] = np.einsum("bn,bn->b", weights @ M, weights, dtype=np.float64)
    return sums / 2


def _permuted_sums(
    features: NDArray[np.float32], M: NDArray[np.float32], shuffles: Ints, D: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the sum over pairs of D_ij M_ij when the labels behind D are permuted, [p].

    With squared distances the sum is a quadratic form of the label features: no matrix is permuted.
    """
    square = np.einsum("nk,nk->n", features, features)
    rows = M.sum(1, dtype=np.float64)
    total = square[shuffles] @ rows
    for k in range(features.shape[1]):
        y = features[shuffles, k]
        total -= np.einsum("bn,bn->b", y @ M, y, dtype=np.float64)
    distances = squared_distances(features)
    largest = np.unravel_index(int(distances.argmax()), distances.shape)
    scale = float(D[largest] / distances[largest]) if distances[largest] > 0 else 1.0
    return np.asarray(scale * total)


@dataclass(frozen=True)
class Similarity:
    """Each model geometry's correlation with the hidden one, and the variance it alone explains.

    `correlation` [1 + b + h, m] as the data are and resampled; `null_correlation` and `null_unique`
    [p, m] with labels permuted; where labels don't enter, the null is that of texts in any order.
    `between` [m, m] are the correlations of the model geometries, of which `unique` makes what each
    alone explains.
    """

    correlation: NDArray[np.float64]
    between: NDArray[np.float64]
    null_correlation: NDArray[np.float64]
    null_unique: NDArray[np.float64]

    def unique(self, correlation: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each model geometry alone explains under some correlations, [b, m]."""
        between = np.broadcast_to(self.between, (len(correlation), *self.between.shape))
        return unique_variance(between, correlation)


def similarity(X: Floats, models: ModelGeometries) -> Similarity:
    """Compare the states' geometry with the model geometries, one by one and jointly.

    The hidden dissimilarity of two texts is one minus the correlation of their states, replaced by
    its rank over pairs, so that a few far-off texts don't decide. Jointly: least squares on all
    model geometries with coefficients that aren't negative; what one explains by itself is the loss
    of R2 without it.

    Args:
        X: [n, d] states of the texts that `models` were made for.
        models: from `model_geometries`.

    Source: Kriegeskorte et al. (2008); Khaligh-Razavi and Kriegeskorte (2014).
    """
    hidden = hidden_geometry(X)
    w = models.weights.astype(np.float32)
    names = models.names
    cross = np.stack([_pair_sums(w, hidden * models.matrices[name]) for name in names], axis=1)
    mine = np.stack([_pair_sums(w, hidden), _pair_sums(w, np.square(hidden))], axis=1)
    R, r = _correlations(models.inner, models.sums, cross, mine, models.pairs)
    null_cross = np.repeat(cross[:1], len(models.shuffles), axis=0)
    for i, name in enumerate(models.moral):
        null_cross[:, i] = _permuted_sums(
            models.features[name], hidden, models.shuffles, models.matrices[name]
        )
    p = len(models.shuffles)
    null_R, null_r = _correlations(
        models.null_inner,
        np.repeat(models.sums[:1], p, 0),
        null_cross,
        np.repeat(mine[:1], p, 0),
        np.repeat(models.pairs[:1], p),
    )
    null_unique = unique_variance(null_R, null_r)
    for j in range(len(models.moral), len(names)):
        rng = np.random.default_rng([j, 11])
        spread = mantel_deviation(hidden, models.matrices[names[j]])
        null_r[:, j] = rng.normal(0, spread, p)
        null_unique[:, j] = _unique_in_any_order(hidden, models, R[0], r[0], j, rng)
    return Similarity(r, R[0], null_r, null_unique)


def _unique_in_any_order(
    hidden: NDArray[np.float32],
    models: ModelGeometries,
    R: Floats,
    r: Floats,
    j: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw what geometry j explains by itself where its texts stand in any order, [p].

    It then goes with no other geometry. Of what the others leave of the hidden one it explains the
    square of its correlation, where that is positive.
    """
    others = [k for k in range(len(r)) if k != j and np.isfinite(r[k])]
    share, left = 1.0, hidden
    if others:
        beta = np.linalg.lstsq(R[np.ix_(others, others)], r[others], rcond=None)[0]
        share = float(np.clip(1 - r[others] @ beta, 0, 1))
        off = 1 - np.eye(len(hidden), dtype=np.float32)
        left = _standard(hidden, off)
        for k, b in zip(others, beta, strict=True):
            left = left - np.float32(b) * _standard(models.matrices[models.names[k]], off)
    spread = mantel_deviation(left, models.matrices[models.names[j]])
    drawn = rng.normal(0, spread, len(models.shuffles))
    return np.asarray(share * np.square(np.maximum(drawn, 0)), np.float64)


def _standard(M: NDArray[np.float32], off: NDArray[np.float32]) -> NDArray[np.float32]:
    count = off.sum(dtype=np.float64)
    centred = (M - np.float32(M.sum(dtype=np.float64) / count)) * off
    spread = np.sqrt(np.square(centred, dtype=np.float64).sum() / count)
    standard: NDArray[np.float32] = centred / np.float32(spread or 1.0)
    return standard


def hidden_geometry(X: Floats) -> NDArray[np.float32]:
    """Return ranks over pairs of one minus the states' correlation, [n, n], at variance 1.

    Args:
        X: [n, d] states.
    """
    from scipy.stats import rankdata

    Z = np.asarray(X, np.float32)
    Z = Z - Z.mean(1, keepdims=True)
    norms = np.linalg.norm(Z, axis=1, keepdims=True)
    Z = Z / np.where(norms > 0, norms, 1)
    i, j = np.triu_indices(len(Z), 1)
    ranks = rankdata(-(Z @ Z.T)[i, j])
    ranks = (ranks - ranks.mean()) / (ranks.std() or 1.0)
    hidden = np.zeros((len(Z), len(Z)), np.float32)
    hidden[i, j] = hidden[j, i] = ranks
    return hidden


def _correlations(
    inner: Floats, sums: Floats, cross: Floats, mine: Floats, pairs: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn sums over pairs into correlations: between models [b, m, m], with the hidden [b, m]."""
    mean = sums / pairs[:, None]
    covariance = inner / pairs[:, None, None] - mean[:, :, None] * mean[:, None, :]
    spread = np.sqrt(np.maximum(np.einsum("bmm->bm", covariance), 0))
    centre = mine[:, 0] / pairs
    hidden = np.sqrt(np.maximum(mine[:, 1] / pairs - centre**2, 0))
    shared = cross / pairs[:, None] - mean * centre[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.where(spread > 1e-6, spread, np.nan)
        R = covariance / (spread[:, :, None] * spread[:, None, :])
        r = shared / (spread * hidden[:, None])
    return np.asarray(R), np.asarray(r)


def unique_variance(R: NDArray[np.float64], r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each predictor adds to R2 in non-negative least squares, [b, m].

    Non-negative least squares is ordinary least squares on the best set of predictors whose
    coefficients are all positive; with few predictors every set is tried.

    Args:
        R: [b, m, m] correlations between predictors; nan where one doesn't vary, which is left out.
        r: [b, m] their correlations with what is explained.
    """
    b, m = r.shape
    explained = np.zeros((1 << m, b))
    for subset in range(1, 1 << m):
        chosen = [k for k in range(m) if subset >> k & 1]
        part = R[:, chosen][:, :, chosen]
        usable = np.isfinite(part.sum((1, 2)) + r[:, chosen].sum(1))
        part = np.where(usable[:, None, None], part, np.eye(len(chosen)))
        target = np.where(usable[:, None], r[:, chosen], 0)
        part = part + 1e-9 * np.eye(len(chosen))
        beta = np.linalg.solve(part, target[:, :, None])[:, :, 0]
        feasible = usable & (beta >= 0).all(1)
        explained[subset] = np.where(feasible, np.einsum("bk,bk->b", beta, target), 0)
    full: NDArray[np.float64] = explained.max(axis=0)
    unique = np.empty((b, m))
    for k in range(m):
        without = np.flatnonzero(np.arange(1 << m) >> k & 1 == 0)
        unique[:, k] = full - explained[without].max(0)
    return np.where(np.isfinite(r), unique, np.nan)


def mantel_deviation(A: Floats, B: Floats) -> float:
    """Return the standard deviation of two dissimilarities' correlation when texts are shuffled.

    Exact over all permutations of the texts of one of them.

    Args:
        A: [n, n] symmetric.
        B: [n, n] symmetric.

    Source: Mantel (1967), with both matrices at mean zero off the diagonal.
    """
    n = len(A)
    sums = []
    for M in (A, B):
        M = np.asarray(M, np.float64)
        M = M - M.sum() / (n * (n - 1))
        np.fill_diagonal(M, 0)
        sums.append((float(np.square(M).sum()), float(np.square(M.sum(1)).sum())))
    (a2, a1), (b2, b1) = sums
    if a2 <= 0 or b2 <= 0 or n < 4:
        return float("nan")
    n2 = n * (n - 1)
    variance = 4 * a2 * b2 / (2 * n2)
    variance += 16 * (a1 - a2) * (b1 - b2) / (4 * n2 * (n - 2))
    variance += 4 * (a2 - 2 * a1) * (b2 - 2 * b1) / (n2 * (n - 2) * (n - 3))
    return float(np.sqrt(max(variance, 0) / (a2 * b2)))


def stratified_subset(strata: Sequence[int] | Ints, most: int, *, seed: int) -> NDArray[np.int64]:
    """Return at most so many rows, the strata in the shares that they have, sorted.

    Args:
        strata: [n].
        most: rows.
        seed: of the choice.
    """
    strata = np.asarray(strata)
    if len(strata) <= most:
        return np.arange(len(strata), dtype=np.int64)
    rng = np.random.default_rng([seed, 12])
    shuffled = rng.permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    picked = by_stratum[np.linspace(0, len(strata) - 1, most).astype(int)]
    return np.sort(picked).astype(np.int64)
