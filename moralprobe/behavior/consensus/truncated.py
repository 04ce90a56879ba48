"""Scores between 0 and 1 as a normal distribution truncated there: density, moments, fits.

Source: arXiv 2506.14625, section 3, for the distribution; the bounds are ours. Without them the
likelihood has no largest value: a judge whose scores lie in two heaps is met by a width of nothing,
and everyone else is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import ndtr

MEAN: Final = (0.0, 1.0)
"""Of the normal before it is truncated."""
WIDTH: Final = (0.05, 1.0)
"""At the largest the density is near to flat: a judge that says nothing."""
_LOG_ROOT: Final = 0.5 * float(np.log(2 * np.pi))
_LEAST: Final = 1e-300

Floats = NDArray[np.float64]


def log_density(scores: Floats, mean: float, width: float) -> Floats:
    """Return the log-density of scores, of any shape; NaN where a score is.

    Args:
        scores: in 0 to 1.
        mean: of the normal before it is truncated.
        width: its standard deviation.
    """
    z = (scores - mean) / width
    out: Floats = -0.5 * z * z - _LOG_ROOT - np.log(width) - np.log(_inside(mean, width))
    return out


def log_bins(mean: float, width: float, edges: Floats) -> Floats:
    """Return the log-probability of each bin between `edges`, which go from 0 to 1."""
    z = (edges - mean) / width
    low, high = z[:-1], z[1:]
    # Far out a difference of probabilities near 1 is lost: there the other tail is taken.
    mass = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    out: Floats = np.log(np.maximum(mass, _LEAST)) - np.log(_inside(mean, width))
    return out


def moments(mean: float, width: float) -> tuple[float, float]:
    """Return mean and variance of the truncated distribution."""
    low, high = -mean / width, (1 - mean) / width
    z = _inside(mean, width)
    n_low, n_high = _normal(low), _normal(high)
    shift = (n_low - n_high) / z
    return mean + width * shift, width**2 * (1 + (low * n_low - high * n_high) / z - shift**2)


def fit_exact(total: float, first: float, second: float, start: tuple[float, float]) -> Fitted:
    """Return mean and width that make weighted scores likeliest, within `MEAN` and `WIDTH`.

    Args:
        total: the sum of the weights.
        first: the sum of weight times score.
        second: of weight times score squared.
        start: where the search begins.
    """
    if total <= 0:
        return start
    m1, m2 = first / total, second / total
    if (found := _newton(m1, m2, start)) is not None:
        return found

    def loss(at: Floats) -> tuple[float, Floats]:
        mean, width = float(at[0]), float(at[1])
        squares = m2 - 2 * mean * m1 + mean**2
        value = np.log(width) + squares / (2 * width**2) + np.log(_inside(mean, width))
        own, variance = moments(mean, width)
        # The log-normaliser's slopes are the distribution's own moments.
        own_squares = variance + (own - mean) ** 2
        slopes = ((own - m1) / width**2, (own_squares - squares) / width**3)
        return float(value), np.array(slopes)

    return _search(loss, start)


def fit_binned(weights: Floats, edges: Floats, start: tuple[float, float]) -> Fitted:
    """Return mean and width that make the bins' weights likeliest, within `MEAN` and `WIDTH`."""
    total = float(weights.sum())
    if total <= 0:
        return start
    share = weights / total
    log_widths = np.log(np.diff(edges))

    def loss(at: Floats) -> tuple[float, Floats]:
        mean, width = float(at[0]), float(at[1])
        value = -float(share @ (log_bins(mean, width, edges) - log_widths))
        return value, _slopes(share, mean, width, edges)

    return _search(loss, start)


def fit_moments(total: float, first: float, second: float, start: tuple[float, float]) -> Fitted:
    """Return weighted mean and standard deviation: the published step, as far as it is known.

    It leaves the truncation out, so that the likelihood need not rise.
    """
    if total <= 0:
        return start
    mean = first / total
    width = np.sqrt(max(second / total - mean**2, 0.0))
    return float(np.clip(mean, *MEAN)), float(np.clip(width, *WIDTH))


Fitted = tuple[float, float]


def _search(loss: Callable[[Floats], tuple[float, Floats]], start: Fitted) -> Fitted:
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=(MEAN, WIDTH))
    return float(found.x[0]), float(found.x[1])


def _newton(m1: float, m2: float, start: Fitted) -> Fitted | None:
    """Return mean and width whose distribution has these raw moments; None out of the bounds.

    In its natural parameters the log-likelihood is concave, its slopes are what the moments lack,
    and its curvature is the covariance of a score and its square.
    """
    mean, width = start
    for _ in range(30):
        e1, e2, e3, e4 = _raw_moments(mean, width)
        lack1, lack2 = m1 - e1, m2 - e2
        if abs(lack1) + abs(lack2) < 1e-12:
            inside = MEAN[0] <= mean <= MEAN[1] and WIDTH[0] <= width <= WIDTH[1]
            return (mean, width) if inside else None
        c11, c12, c22 = e2 - e1 * e1, e3 - e1 * e2, e4 - e2 * e2
        det = c11 * c22 - c12 * c12
        if det <= 0:
            return None
        natural1 = mean / width**2 + (c22 * lack1 - c12 * lack2) / det
        natural2 = -0.5 / width**2 + (c11 * lack2 - c12 * lack1) / det
        if natural2 >= 0:
            return None
        width = math.sqrt(-0.5 / natural2)
        mean = natural1 * width**2
        if not (-0.5 <= mean <= 1.5 and 0.5 * WIDTH[0] <= width <= 2 * WIDTH[1]):
            return None
    return None


def _raw_moments(mean: float, width: float) -> tuple[float, float, float, float]:
    """Return the means of a score's first four powers."""
    low, high = -mean / width, (1 - mean) / width
    root = math.sqrt(2)
    z = 0.5 * (math.erf(high / root) - math.erf(low / root))
    n_low, n_high = (math.exp(-0.5 * x * x - _LOG_ROOT) / z for x in (low, high))
    square = width * width
    e1 = mean + width * (n_low - n_high)
    e2 = mean * e1 + square - width * n_high
    e3 = mean * e2 + 2 * square * e1 - width * n_high
    e4 = mean * e3 + 3 * square * e2 - width * n_high
    return e1, e2, e3, e4


def _slopes(share: Floats, mean: float, width: float, edges: Floats) -> Floats:
    """Return the slopes of minus the mean log-probability of the bins in mean and width."""
    z = (edges - mean) / width
    n = np.exp(-0.5 * z * z - _LOG_ROOT)
    mass = np.exp(log_bins(mean, width, edges)) * _inside(mean, width)
    by_mean = -np.diff(n) / width
    by_width = -np.diff(n * z) / width
    whole = np.array([by_mean.sum(), by_width.sum()]) / _inside(mean, width)
    parts = np.array([by_mean, by_width]) / np.maximum(mass, _LEAST)
    out: Floats = -(parts @ share - whole)
    return out


def _inside(mean: float, width: float) -> float:
    """Return how much of the normal lies between 0 and 1: at least a third within the bounds."""
    return float(ndtr((1 - mean) / width) - ndtr(-mean / width))


def _normal(z: float) -> float:
    return float(np.exp(-0.5 * z * z - _LOG_ROOT))
