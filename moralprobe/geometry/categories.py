"""How unlike the ten categories are to each other, in a model's states and in judgements."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Floats
from moralprobe.geometry.draws import resampled
from moralprobe.geometry.measure import Measure, not_enough, summarise
from moralprobe.geometry.uncertainty import bootstrap_counts

LEAST: Final = 5
"""Texts that a category needs for a centre."""
_WHOLE: Final = 100


def centres(X: Floats, moral: Floats, weights: Floats | None = None) -> NDArray[np.float64]:
    """Return each category's centre: its texts' mean by typicality, less the mean of all texts.

    Args:
        X: [n, d].
        moral: [n, k] typicality, not negative.
        weights: [n] how often each text counts; once, if not given.

    Returns:
        [k, d]; NaN of a category that no text belongs to.
    """
    w = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    shares = moral * w[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (shares.T @ X) / shares.sum(0)[:, None]
    return np.asarray(means - w @ X / w.sum(), np.float64)


def dissimilarity(C: Floats) -> NDArray[np.float64]:
    """Return 1 - cosine of every two centres, [k (k - 1) / 2], in the order of `triu_indices`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.asarray(C / np.linalg.norm(C, axis=1, keepdims=True), np.float64)
    cosines = np.einsum("id,jd->ij", unit, unit)
    found: NDArray[np.float64] = 1 - cosines[np.triu_indices(len(unit), 1)]
    return found


def _match(X: Floats, moral: Floats, weights: Floats | None = None) -> float:
    """Return Pearson's r of both dissimilarities."""
    both = [dissimilarity(centres(values, moral, weights)) for values in (X, moral)]
    if not np.isfinite(both).all() or min(np.ptp(d) for d in both) == 0:
        return np.nan
    return _pearson(*both)


def _pearson(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def category_match(X: Floats, moral: Floats, *, draws: int = 500, seed: int = 0) -> Measure:
    """Return how far the ten categories lie to each other in states as they do in judgements.

    Pearson's r over the 45 pairs of categories between 1 - cosine of their centres in `X` and of
    their centres in `moral`. Its null permutes whole moral vectors among texts; its interval
    resamples texts.

    Args:
        X: [n, d] states of texts.
        moral: [n, 10] their moral vectors.
        draws: resamples, and permutations.
        seed: of both.

    Source: representational similarity analysis, Kriegeskorte, Mur and Bandettini (2008), of
    category centres.
    """
    name, category, unit = "category_rdm", "all", "r"
    fewest = int((moral > 0).sum(0).min(initial=len(moral)))
    if fewest < LEAST:
        return not_enough(name, category, unit, have=fewest, needed=LEAST, of="texts a category")
    n = len(X)
    X = np.asarray(X, np.float64)
    counts = bootstrap_counts(n, draws, seed).astype(np.float64)
    weights = [np.ones(n), *(0.5 + counts / 2), *counts[: min(_WHOLE, draws)]]
    values = np.array([_match(X, moral, w) for w in weights])
    rng = np.random.default_rng([seed, 11])
    human = dissimilarity(centres(moral, moral))
    null = np.empty(draws)
    for b in range(draws):
        C = centres(X, moral[rng.permutation(n)])
        null[b] = _pearson(dissimilarity(C), human)
    return summarise(name, category, resampled(values, draws, null, n), unit)


def likeness(X: Floats, mean: Floats, C: Floats) -> NDArray[np.float64]:
    """Return the cosine of each state, less the mean of all, with each category's centre, [n, k].

    Args:
        X: [n, d].
        mean: [d] of the texts that the centres are of.
        C: [k, d] from `centres`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rows, columns = (
            np.asarray(V / np.linalg.norm(V, axis=1, keepdims=True), np.float64)
            for V in (X - mean, C)
        )
    return np.asarray(np.einsum("nd,kd->nk", rows, columns), np.float64)


def plane(C: Floats) -> tuple[NDArray[np.float64], float]:
    """Return the two directions that hold most of the centres' directions, [2, d], and how much.

    Centres count alike, whatever their length; those that are NaN are left out. A direction points
    to where the centre that it holds most of lies.

    Args:
        C: [k, d] from `centres`.

    Returns:
        The directions, and the share of the squared lengths that lies in their plane.
    """
    there = C[np.isfinite(C).all(axis=1)]
    unit = there / np.linalg.norm(there, axis=1, keepdims=True)
    _, s, V = np.linalg.svd(unit, full_matrices=False)
    on = unit @ V[:2].T
    signs = np.sign(on[np.abs(on).argmax(axis=0), np.arange(on.shape[1])])
    return np.asarray(V[:2] * signs[:, None], np.float64), float((s[:2] ** 2).sum() / (s**2).sum())
