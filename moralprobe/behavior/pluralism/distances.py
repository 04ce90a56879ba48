"""How far two distributions over options lie apart.

Jensen-Shannon divergence and distance in base 2 (Lin 1991), from 0 to 1, and the base is named
wherever a number is printed: others publish the distance in base e, whose largest value is .8326.
"""

from __future__ import annotations

from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BASE: Final = 2
_MOST_PERMUTED: Final = 7  # options whose orders are all gone through


def js_divergence(p: Floats, q: Floats) -> Floats:
    """Return the Jensen-Shannon divergence in bits, 0 to 1, over the last axis."""
    p, q = np.broadcast_arrays(np.asarray(p, np.float64), np.asarray(q, np.float64))
    middle = (p + q) / 2
    found = (_kl(p, middle) + _kl(q, middle)) / 2
    return np.asarray(np.clip(found, 0.0, 1.0), np.float64)


def js_distance(p: Floats, q: Floats) -> Floats:
    """Return the square root of the divergence, a metric from 0 to 1 (Endres and Schindelin 2003).

    Distributions that are the same to rounding have 0.
    """
    found = js_divergence(p, q)
    return np.asarray(np.sqrt(np.where(found < 1e-15, 0.0, found)), np.float64)


def total_variation(p: Floats, q: Floats) -> Floats:
    """Return half the sum of absolute differences, 0 to 1, over the last axis."""
    return np.asarray(np.abs(np.asarray(p) - np.asarray(q)).sum(-1) / 2, np.float64)


def wasserstein(p: Floats, q: Floats) -> Floats:
    """Return the earth mover's distance of ordered options, equally far apart, over the largest.

    0 to 1: 1 moves everything from the first option to the last.
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    steps = max(1, p.shape[-1] - 1)
    return np.asarray(np.abs(np.cumsum(p - q, -1))[..., :-1].sum(-1) / steps, np.float64)


def entropy(p: Floats) -> Floats:
    """Return the entropy in bits over the last axis."""
    p = np.asarray(p, np.float64)
    return np.asarray(-np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(-1), np.float64)


def mode_agreement(p: Floats, q: Floats) -> float:
    """Return how probably a likeliest option of p and one of q, each drawn among its own, agree."""
    first, second = (np.flatnonzero(np.isclose(x, np.max(x))) for x in (p, q))
    return len(np.intersect1d(first, second)) / (len(first) * len(second))


def shuffled_distance(p: Floats, q: Floats) -> float:
    """Return the mean distance from p of q with its options in every order, exactly."""
    q = np.asarray(q, np.float64)
    if len(q) > _MOST_PERMUTED:
        rng = np.random.default_rng(0)
        orders = np.array([rng.permutation(len(q)) for _ in range(5000)])
    else:
        orders = np.array(list(permutations(range(len(q)))))
    return float(js_distance(np.asarray(p, np.float64), q[orders]).mean())


def noise_floor(p: Floats, n: int, *, draws: int = 200, seed: int = 0) -> float:
    """Return the mean distance of a distribution from what n respondents drawn from it give.

    Who predicts the truth itself is that far from such a survey.
    """
    rng = np.random.default_rng(seed)
    p = np.asarray(p, np.float64)
    drawn = rng.multinomial(n, p / p.sum(), size=draws) / n
    return float(js_distance(p, drawn).mean())


def _kl(p: Floats, q: Floats) -> Floats:
    there = (p > 0) & (q > 0)  # half of the smallest number is none
    ratio = np.where(there, p, 1) / np.where(there, q, 1)
    return np.asarray(np.where(there, p * np.log2(ratio), 0.0).sum(-1), np.float64)
