"""Panels whose truth is known: judges drawn from the published parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm

PUBLISHED = np.array(
    [
        [0.658, 0.129, 0.418, 0.140],
        [0.571, 0.143, 0.373, 0.127],
        [0.546, 0.147, 0.274, 0.159],
        [0.529, 0.158, 0.401, 0.135],
    ]
)
"""Of each judge: mean and width where an item is acceptable, mean and width where it isn't."""
PRIOR = 0.45


def draw(
    rng: np.random.Generator, judges: NDArray[np.float64], labels: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return scores of judges for labels of any shape, [judges, ...]."""
    found = []
    for one in judges:
        mean, width = (np.where(labels, one[i], one[i + 2]) for i in (0, 1))
        low, high = -mean / width, (1 - mean) / width
        how = {"loc": mean, "scale": width, "size": labels.shape, "random_state": rng}
        found.append(truncnorm.rvs(low, high, **how))
    return np.array(found)


def known(scores: NDArray[np.float64], judges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-odds of who knows the judges' parameters: nobody can do better."""
    odds = np.full(scores.shape[1:], np.log(PRIOR / (1 - PRIOR)))
    for a, one in zip(scores, judges, strict=True):
        for sign, mean, width in ((1, *one[:2]), (-1, *one[2:])):
            low, high = -mean / width, (1 - mean) / width
            odds += sign * truncnorm.logpdf(a, low, high, loc=mean, scale=width)
    return odds


def panel(seed: int, n: int = 10_000) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return labels [1, n], and the published judges' scores [4, 1, n]."""
    rng = np.random.default_rng(seed)
    labels = rng.random((1, n)) < PRIOR
    return labels, draw(rng, PUBLISHED, labels)
