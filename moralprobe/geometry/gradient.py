"""Is intensity kept inside a category? Rank correlation of typicality and likeness to a prototype.

The paper (arXiv 2603.15615, gradient indifference) scores each row by its cosine to a centre that
prototype rows helped to make. The audited mode leaves a text's own prototypes out of the centre
that it is scored against, and takes out what text length explains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

from moralprobe.geometry.arrays import Counts, Floats, Ints, blocks

_CELLS = 1 << 18  # of a [draws, rows] block: a few of them stay in the processor's cache


def prototype_similarity(
    X: Floats, prototypes: Counts, groups: Ints | None = None
) -> NDArray[np.float32]:
    """Return each row's cosine to the centre of the prototypes, for many sets, [b, n].

    Args:
        X: [n, d] centred hidden states of a category's rows.
        prototypes: [b, n] how often each row counts as a prototype: 0 or 1, or a resample's count.
        groups: [n] text group of each row; where given, a row's own group is left out of the
            centre that the row is scored against (audited). None leaves nothing out (the paper's).

    Returns:
        [b, n] cosines; nan where no prototype is left.
    """
    norms = np.linalg.norm(X.astype(np.float64), axis=1)
    products = _group_products(X, groups) if groups is not None else None
    result = np.empty(prototypes.shape, np.float32)
    for some in blocks(len(prototypes), _CELLS // max(1, len(X))):
        P = prototypes[some].astype(X.dtype)
        centres = P @ X  # sums: the cosine doesn't ask for the mean
        dots = centres @ X.T
        squared = np.einsum("bd,bd->b", centres, centres, dtype=np.float64)[:, None]
        if products is not None:
            same, inner = products
            own = P @ inner  # x_i . (sum of its group's prototypes)
            squared = squared + (P * (own - 2 * dots)) @ same
            dots = dots - own
        lengths = norms * np.sqrt(np.maximum(squared, 0))
        # What rounding leaves of a centre without prototypes isn't a direction.
        floor = 1e-6 * norms.max(initial=0) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            result[some] = np.where(lengths > floor, dots / lengths, np.nan)
    return result


def _group_products(X: Floats, groups: Ints) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return which rows share a text group, [n, n], and their inner products."""
    n = len(groups)
    _, index = np.unique(groups, return_inverse=True)
    member = sparse.csr_array((np.ones(n, X.dtype), (np.arange(n), index)))
    same = (member @ member.T).tocoo()
    row, column = same.coords
    values = np.einsum("nd,nd->n", X[row], X[column])
    return same.tocsr(), sparse.csr_array((values, (row, column)), shape=(n, n))


class RankCorrelations(NamedTuple):
    """Spearman correlations, each [b]: likeness with score, with length, and given others.

    Given length alone, and given all of the text's surface (nan where none was handed over).
    """

    score: NDArray[np.float64]
    length: NDArray[np.float64]
    score_given_length: NDArray[np.float64]
    score_given_surface: NDArray[np.float64]


def rank_correlations(
    similarity: Floats,
    score: Floats,
    lengths: Ints | Floats,
    weights: Counts,
    surface: Floats | None = None,
) -> RankCorrelations:
    """Return rank correlations under many sets of row weights.

    Weights are counts of a resample: the result equals Spearman's rho with midranks on the rows
    repeated as often as they were drawn, except that rows equal in similarity keep their order.

    Args:
        similarity: [b, n] cosine to the prototype: each resample has prototypes of its own.
        score: [n] typicality.
        lengths: [n] tokens of the text.
        weights: [b, n] counts.
        surface: [n, k] what else is known of the texts, length included. Its ranks are those among
            all rows, in every resample.

    Returns:
        [b] each; nan where a row that was drawn has no similarity.
    """
    parts = []
    Z = _surface_ranks(surface, len(score))
    pairs = Z[:, :, None] * Z[:, None, :]
    for some in blocks(len(weights), _CELLS // max(1, len(score))):
        s = similarity[some]
        w = weights[some].astype(np.float64)
        middle = (w.sum(1, keepdims=True) + 1) / 2  # what midranks always average
        ranks = [
            _weighted_ranks(s, w) - middle,
            _weighted_midranks(score, w) - middle,
            _weighted_midranks(lengths, w) - middle,
        ]
        weighted = [w * r for r in ranks]

        def product(i: int, j: int) -> NDArray[np.float64]:
            sums: NDArray[np.float64] = np.einsum("bn,bn->b", weighted[i], ranks[j])  # noqa: B023
            return sums

        spread = [np.sqrt(product(i, i)) for i in range(3)]
        spread[0] = np.where((np.isnan(s) & (w > 0)).any(1), np.nan, spread[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            r_sy, r_sz, r_yz = (
                product(i, j) / (spread[i] * spread[j]) for i, j in ((0, 1), (0, 2), (1, 2))
            )
            sZ, yZ = (weighted[i] @ Z / spread[i][:, None] for i in (0, 1))
        total = w.sum(1)
        means = w @ Z / total[:, None]
        ZZ = np.tensordot(w, pairs, 1) - total[:, None, None] * means[:, :, None] * means[:, None]
        given = _given(r_sy, sZ, yZ, ZZ)
        parts.append((r_sy, r_sz, partial_correlation(r_sy, r_sz, r_yz), given))
    return RankCorrelations(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _surface_ranks(surface: Floats | None, n: int) -> NDArray[np.float64]:
    """Return standardised midranks of each column that varies, [n, k]; no column without any."""
    if surface is None:
        return np.empty((n, 0))
    columns = [_standard(rankdata(z)) for z in surface.T if np.ptp(z) > 0]
    return np.stack(columns, axis=1) if columns else np.empty((n, 0))


def _given(r_sy: Floats, sZ: Floats, yZ: Floats, ZZ: Floats) -> NDArray[np.float64]:
    """Return the correlation of s and y given several others, [b]; nan where there are none.

    Args:
        r_sy: [b] correlation of s and y.
        sZ: [b, k] products of s, at length one, with the others.
        yZ: [b, k] the same of y.
        ZZ: [b, k, k] products of the others, centred.
    """
    k = ZZ.shape[-1]
    if k == 0:
        return np.full(len(r_sy), np.nan)
    # Of others that explain each other whole, one is left out of the explanation.
    size = np.trace(ZZ, axis1=1, axis2=2)[:, None, None]
    inverse = np.linalg.pinv(ZZ / np.maximum(size, 1e-300), rcond=1e-9, hermitian=True)
    inverse = inverse / np.maximum(size, 1e-300)

    def explained(a: Floats, b: Floats) -> NDArray[np.float64]:
        return np.asarray(np.einsum("bi,bij,bj->b", a, inverse, b), np.float64)

    left = (1 - explained(sZ, sZ)) * (1 - explained(yZ, yZ))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(left > 1e-12, (r_sy - explained(sZ, yZ)) / np.sqrt(left), np.nan)


def permuted_rank_correlations(
    similarity: Floats, score: Floats, lengths: Ints | Floats, surface: Floats | None = None
) -> RankCorrelations:
    """Return rank correlations of many permuted sets, each with its own similarity and score.

    Args:
        similarity: [b, n]; rows equal in it are ranked in no particular order.
        score: [b, n], every set a permutation of the same values.
        lengths: [n], the same for all sets.
        surface: [n, k], the same for all sets.
    """
    n = similarity.shape[1]
    s = _standard(np.arange(1.0, n + 1))
    z = _standard(rankdata(lengths))
    Z = _surface_ranks(surface, n)
    parts = [(np.empty(0),) * 4]
    for some in blocks(len(similarity), _CELLS // max(1, n)):
        order = np.argsort(similarity[some], axis=1)
        # Sorting scores and lengths by similarity gives the same sums as ranking the similarities.
        y = _standard(_midranks_of_levels(score[some]))
        r_sy = np.take_along_axis(y, order, axis=1) @ s / n
        r_sz = z[order] @ s / n
        r_yz = y @ z / n
        sZ = np.stack([column[order] @ s for column in Z.T], axis=1) if Z.size else Z[:0]
        ZZ = np.broadcast_to(Z.T @ Z, (len(order), Z.shape[1], Z.shape[1]))
        # s and y have length sqrt(n).
        given = _given(r_sy, sZ / np.sqrt(n), y @ Z / np.sqrt(n), ZZ)
        parts.append((r_sy, r_sz, partial_correlation(r_sy, r_sz, r_yz), given))
    return RankCorrelations(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def pearson(similarity: Floats, score: Floats, weights: Counts) -> NDArray[np.float64]:
    """Return Pearson's r of likeness and typicality under many sets of row weights, [b].

    Args:
        similarity: [b, n].
        score: [b, n], or [1, n] the same for all sets.
        weights: [b, n], or [1, 1] where all rows count once.
    """
    w = np.broadcast_to(weights, similarity.shape).astype(np.float64)
    w /= w.sum(1, keepdims=True)
    x = similarity - np.einsum("bn,bn->b", w, similarity)[:, None]
    y = score - np.sum(w * score, axis=1, keepdims=True)
    covariance = np.einsum("bn,bn,bn->b", w, x, y)
    spread = np.einsum("bn,bn,bn->b", w, x, x) * np.einsum("bn,bn,bn->b", w, y, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, covariance / np.sqrt(spread), np.nan)


def partial_correlation(r_xy: Floats, r_xz: Floats, r_yz: Floats) -> NDArray[np.float64]:
    """Return the correlation of x and y given z; nan where z explains one of them whole."""
    left = (1 - np.square(r_xz)) * (1 - np.square(r_yz))
    with np.errstate(invalid="ignore", divide="ignore"):
        # Where z never varies there is nothing to take out.
        plain = np.isnan(r_xz) & np.isnan(r_yz)
        given = np.where(left > 1e-12, (r_xy - r_xz * r_yz) / np.sqrt(left), np.nan)
    return np.where(plain, r_xy, given)


def _weighted_ranks(values: Floats, weights: Floats) -> NDArray[np.float64]:
    """Return ranks under row weights, [b, n]; equal values keep their order."""
    order = np.argsort(values, axis=1, kind="stable")
    w = np.take_along_axis(weights, order, 1)
    ranks = np.empty(weights.shape)
    np.put_along_axis(ranks, order, np.cumsum(w, axis=1) - (w - 1) / 2, axis=1)
    return ranks


def _weighted_midranks(values: Floats | Ints, weights: Floats) -> NDArray[np.float64]:
    """Return midranks of a variable with few levels, under row weights, [b, n]."""
    levels, index = np.unique(values, return_inverse=True)
    onehot = np.zeros((len(values), len(levels)))
    onehot[np.arange(len(values)), index] = 1
    mass = weights @ onehot
    midranks = np.cumsum(mass, axis=1) - (mass - 1) / 2
    return np.asarray(midranks[:, index], np.float64)


def _midranks_of_levels(values: Floats) -> NDArray[np.float64]:
    """Return midranks of permutations of one set of values, [b, n]."""
    levels, index = np.unique(values[:1], return_inverse=True)
    midranks = np.empty(len(levels))
    midranks[index.ravel()] = rankdata(values[0]) if len(values) else []
    return np.asarray(midranks[np.searchsorted(levels, values)], np.float64)


def _standard(ranks: Floats) -> NDArray[np.float64]:
    """Return ranks with mean 0 and variance 1 along the last axis; nan where they don't vary."""
    centred = ranks - ranks.mean(-1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 0, centred / spread, np.nan), np.float64)


def spearman_interval(
    values: Floats, score: Floats, *, draws: int, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
    """Return Spearman's rho with midranks, and a bootstrap interval over rows.

    Args:
        values: [n], which may have many ties, as a sparse feature's activations.
        score: [n].
        draws: resamples.
        seed: of the resamples.
        level: of the interval.

    Returns:
        rho, low and high; NaN where one of both doesn't vary, and of resamples without variance.
    """
    rng = np.random.default_rng([seed, 3])
    n = len(values)
    counts = np.ones((draws + 1, n))  # the first is all rows, each once
    for drawn in counts[1:]:
        drawn[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    x, y = (_midranks_of_resamples(v, counts) - (n + 1) / 2 for v in (values, score))
    products = [np.einsum("bn,bn,bn->b", counts, a, b) for a, b in ((x, y), (x, x), (y, y))]
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = products[0] / np.sqrt(products[1] * products[2])
    if not np.isfinite(rho[1:]).any():
        return float(rho[0]), np.nan, np.nan
    tail = (1 - level) / 2
    low, high = np.nanquantile(rho[1:], [tail, 1 - tail])
    return float(rho[0]), float(low), float(high)


def _midranks_of_resamples(values: Floats, counts: Floats) -> NDArray[np.float64]:
    """Return midranks among the rows repeated as often as they were drawn, [b, n]."""
    _, index, sizes = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    mass = np.add.reduceat(counts[:, np.argsort(index, kind="stable")], starts, axis=1)
    midranks = np.cumsum(mass, axis=1) - (mass - 1) / 2
    return np.asarray(midranks[:, index], np.float64)
