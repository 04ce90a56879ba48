"""One judge's scores, and the distributions that meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import integrate
from scipy.stats import rankdata

from moralprobe.behavior.consensus.truncated import (
    WIDTH,
    fit_binned,
    fit_exact,
    fit_moments,
    log_bins,
    log_density,
    moments,
)

Floats = NDArray[np.float64]
COARSE: Final = 3
"""So many different scores at most are met by their shares."""
_PSEUDO: Final = 0.5  # of a score, added to each: a share of nothing would be sure for ever


@dataclass(frozen=True)
class Distribution:
    """Of a judge's scores under one label: a truncated normal, or shares of a few scores.

    `centre` and `width` are the normal's before it is truncated; `values` and `shares` are there of
    a coarse judge instead.
    """

    centre: float = np.nan
    width: float = np.nan
    values: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def coarse(self) -> bool:
        """Whether it is of shares."""
        return bool(self.values)

    @property
    def mean(self) -> float:
        """Of scores."""
        if self.coarse:
            return float(np.dot(self.values, self.shares))
        return moments(self.centre, self.width)[0]

    @property
    def variance(self) -> float:
        """Of scores."""
        if self.coarse:
            return float(np.dot(np.square(self.values), self.shares) - self.mean**2)
        return moments(self.centre, self.width)[1]

    @property
    def narrowest(self) -> bool:
        """Whether its width is the least that is allowed."""
        return not self.coarse and self.width <= WIDTH[0] + 1e-6


class Judge:
    """A judge's scores [rows], NaN where there is none."""

    def __init__(self, scores: Floats, variant: str, step: float) -> None:
        self._there = np.isfinite(scores)
        a = np.where(self._there, scores, 0.0)
        self._powers = (np.ones_like(a), a, a * a)
        self._variant = variant
        self._values, self._at = np.unique(scores[self._there], return_inverse=True)
        self.coarse = 1 < len(self._values) <= COARSE
        n = round(1 / step)
        self._edges = np.concatenate([[0.0], (np.arange(n) + 0.5) / n, [1.0]])
        self._bins = np.rint(a * n).astype(np.int64)

    @property
    def parameters(self) -> int:
        """How many more numbers two distributions have than one."""
        return len(self._values) - 1 if self.coarse else 2

    def start(self, mean: float) -> Distribution:
        """Return where a fit may begin, for scores of about this mean."""
        if not self.coarse:
            return Distribution(float(np.clip(mean, 0, 1)), 0.2)
        near = np.exp(-2 * np.abs(self._values - mean))
        return self._of_shares(near / near.sum())

    def ranks(self) -> Floats:
        """Return each score's rank among the judge's, 0 to 1; NaN where there is none."""
        out = np.full(len(self._there), np.nan)
        scores = self._powers[1][self._there]
        out[self._there] = (rankdata(scores) - 0.5) / len(scores)
        return out

    def begin(self, one: Distribution) -> Distribution:
        """Return a distribution of other scores as one that these can be met by."""
        values = tuple(self._values.tolist()) if self.coarse else ()
        return one if one.values == values else self.start(one.mean)

    def fit(self, weights: Floats, start: Distribution) -> Distribution:
        """Return the distribution that weighted scores are likeliest under."""
        weights = np.where(self._there, weights, 0.0)
        if self.coarse:
            n = len(self._values)
            said = np.bincount(self._at, weights[self._there], minlength=n) + _PSEUDO
            return self._of_shares(said / said.sum())
        at = start.centre, start.width
        if self._variant == "binned":
            counts = np.bincount(self._bins, weights, minlength=len(self._edges) - 1)
            return Distribution(*fit_binned(counts.astype(np.float64), self._edges, at))
        total, first, second = (float(weights @ power) for power in self._powers)
        by = fit_exact if self._variant == "exact" else fit_moments
        return Distribution(*by(total, first, second, at))

    def log_density(self, one: Distribution) -> Floats:
        """Return the log-density of each score, or its log-share; 0 where there is none."""
        if self.coarse:
            out = np.zeros(len(self._there))
            out[self._there] = np.log(one.shares)[self._at]
            return out
        if self._variant == "binned":
            table = log_bins(one.centre, one.width, self._edges) - np.log(np.diff(self._edges))
            found = table[self._bins]
        else:
            found = log_density(self._powers[1], one.centre, one.width)
        return np.where(self._there, found, 0.0)

    def one_class(self) -> float:
        """Return the log-likelihood of one distribution for all scores."""
        fitted = self.fit(np.ones(len(self._there)), self.start(0.5))
        return float(self.log_density(fitted).sum())

    def _of_shares(self, shares: Floats) -> Distribution:
        return Distribution(values=tuple(self._values.tolist()), shares=tuple(shares.tolist()))


def information(zero: Distribution, one: Distribution, prior: float) -> float:
    """Return the mutual information of a label and a judge's score, in bits, 0 to 1.

    Args:
        zero: where the label is 0.
        one: where it is 1.
        prior: how often it is 1.
    """
    if one.coarse:
        f = np.array([zero.shares, one.shares])
    else:
        at = np.linspace(0.0, 1.0, 801)
        f = np.exp([log_density(at, some.centre, some.width) for some in (zero, one)])
    p = np.array([1 - prior, prior])[:, None] * f
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(p > 0, p * np.log2(f / p.sum(axis=0)), 0.0).sum(axis=0)
    bits = each.sum() if one.coarse else integrate.simpson(each, x=at)
    return float(max(0.0, bits))
