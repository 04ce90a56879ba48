"""How single features go with the moral poles, given what else differs between texts.

A linear model a feature, all features at once: activations are sparse, and every estimate and
variance is a few sums over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import stdtr

from moralprobe.geometry.arrays import Floats

MIN_ACTIVE: Final = 20
"""Texts in which a feature must be active, and a target not 0, before anything is said of it."""


@dataclass(frozen=True)
class Associations:
    """Of every feature with every target, each [targets, features].

    `effect` is how many standard deviations a feature rises per unit of the target, the other
    targets and the covariates held fixed; `t` its ratio to a robust standard error. `contrast_t` is
    that of the target's effect less the mean of the others': a feature that goes with all of them
    alike has an effect on each and no contrast. `p` and `contrast_p` are one-sided, for more. All
    are NaN where a feature is active in fewer than `MIN_ACTIVE` texts, and where a target is not 0
    in fewer: a few texts are fitted exactly, and seem to have no error. Where nothing is, fewer
    fall below a level than its nominal share, as what makes a skewed feature's effect large makes
    its error large too.
    """

    effect: NDArray[np.float64]
    t: NDArray[np.float64]
    p: NDArray[np.float64]
    contrast_t: NDArray[np.float64]
    contrast_p: NDArray[np.float64]


def associate(activations: sparse.csr_array, targets: Floats, covariates: Floats) -> Associations:
    """Regress every feature on all targets and covariates at once.

    Args:
        activations: [texts, features], a row a text that is independent of the others.
        targets: [texts, targets], for example typicality by pole, 0 where the pole isn't tagged.
        covariates: [texts, any], what else may move a feature: length, valence, word frequency.

    Returns:
        Effects with heteroscedasticity-consistent errors, HC1 (MacKinnon and White 1985): sparse
        activations have most variance where they are active at all.
    """
    n, k = targets.shape
    Z = covariates - covariates.mean(0)
    spread = Z.std(0)
    Z = Z[:, spread > 0] / spread[spread > 0]
    X = np.column_stack([np.ones(n), targets, Z]).astype(np.float64)
    solve = np.linalg.pinv(X)  # [columns, n]: a target that never varies gets no effect
    Y = sparse.csr_array(activations, dtype=np.float64)
    squares = Y.multiply(Y).tocsr()
    mean = np.asarray(Y.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(squares.mean(axis=0)).ravel() - mean**2, 0))
    enough = (Y != 0).sum(axis=0) >= MIN_ACTIVE
    B = (Y.T @ solve.T).T  # [columns, features]
    own = solve[1 : k + 1]
    varies = (targets.std(0) > 0) & ((targets != 0).sum(0) >= MIN_ACTIVE)
    others = (own.sum(0) - own) / max(1, int(varies.sum()) - 1)
    free = n - int(np.linalg.matrix_rank(X))

    def ratio(weights: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate and t of a weighted sum of activations, for every feature."""
        estimate = weights @ Y
        w2 = weights**2
        crossed = (X * w2[:, None]).T
        variance = w2 @ squares - 2 * np.einsum("cf,cf->f", B, crossed @ Y)
        variance += np.einsum("cf,cd,df->f", B, crossed @ X, B)
        variance = np.maximum(variance, 0) * n / free
        with np.errstate(divide="ignore", invalid="ignore"):
            t = estimate / np.sqrt(variance)
        return estimate, np.where(enough & (variance > 0), t, np.nan)

    found = [(*ratio(a), ratio(a - b)[1]) for a, b in zip(own, others, strict=True)]
    effect, t, contrast = (np.array(rows) for rows in zip(*found, strict=True))
    for rows in (effect, t, contrast):
        rows[~varies] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(enough, effect / sd, np.nan)
    return Associations(effect, t, stdtr(free, -t), contrast, stdtr(free, -contrast))


def pearson_of_features(activations: sparse.csr_array, targets: Floats) -> NDArray[np.float64]:
    """Return Pearson's r of every feature with every target, [features, targets].

    0 where one of them doesn't vary, as the published scripts take it.
    """
    Y = sparse.csr_array(activations, dtype=np.float64)
    T = targets - targets.mean(0)
    mean = np.asarray(Y.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(Y.multiply(Y).mean(axis=0)).ravel() - mean**2, 0))
    covariance = np.asarray(Y.T @ T) / len(T)
    scale = sd[:, None] * T.std(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 1e-12, covariance / scale, 0.0)


def specificity(effect: Floats, target: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return how far each feature's effect on a target is its own, [features].

    Args:
        effect: [targets, features].
        target: [features], which is meant of each.

    Returns:
        1 less the largest effect on another target over that on this one: 1 where no other has a
        positive one, 0 where another has the same, below where another has more; NaN where the
        effect isn't positive.
    """
    features = np.arange(effect.shape[1])
    own = effect[target, features]
    others = effect.copy()
    others[target, features] = np.nan
    rival = np.fmax.reduce(others, axis=0, initial=0.0)  # of numbers, not of NaN
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(own > 0, 1 - rival / own, np.nan)
