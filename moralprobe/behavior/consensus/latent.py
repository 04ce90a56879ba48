"""The latent consensus of several judges, by expectation and maximisation.

Each item is acceptable or not under a theory, unknown to us; each judge scores it by one of two
truncated normals, one a label, the same for all theories. Source: arXiv 2506.14625, section 3; the
bounds, binning, tempering and tests are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from moralprobe.behavior.consensus.truncated import (
    Fitted,
    fit_binned,
    fit_exact,
    fit_moments,
    log_bins,
    log_density,
    moments,
)
from moralprobe.errors import DataError, UsageError, nearest

Floats = NDArray[np.float64]
Variant = Literal["exact", "binned", "moments"]
VARIANTS: Final = ("exact", "binned", "moments")
_TOLERANCE: Final = 1e-6
_MOST: Final = 300
_LEAST: Final = 4


@dataclass(frozen=True)
class Latent:
    """A fit.

    `consensus` [theories, items] is the probability that an item is acceptable, NaN where no judge
    scored it; `mean` and `width` [judges, 2] are each judge's distributions where it isn't (0) and
    where it is (1); `prior` [theories]. `bic` is that of two classes less that of one: above 0 the
    scores don't support that there are two.
    """

    consensus: Floats
    mean: Floats
    width: Floats
    prior: Floats
    log_likelihood: float
    bic: float
    iterations: int
    converged: bool


def fit(
    scores: Floats,
    *,
    variant: Variant = "exact",
    step: float = 0.05,
    weights: Floats | None = None,
    start: Latent | None = None,
) -> Latent:
    """Fit the consensus and each judge's two distributions.

    Args:
        scores: [judges, theories, items], 0 to 1; NaN where a judge gave none.
        variant: `exact`, the likeliest truncated normals; `binned`, of scores rounded to `step`;
            `moments`, weighted means and standard deviations.
        step: the width of a bin; the first and the last are half as wide.
        weights: of each judge's evidence, 0 to 1: one over the number of its kin, where several
            share a family.
        start: a fit of the same judges to begin with.

    Raises:
        DataError: fewer than two judges, scores outside 0 to 1, or a judge without any.
        UsageError: an unknown variant, or a step that doesn't divide 1.
    """
    a = np.asarray(scores, dtype=np.float64)
    _check(a, variant, step)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(a),) or not ((w > 0) & (w <= 1)).all():
        raise UsageError("weights are one a judge, above 0 and at most 1", f"{w}", "mend them")
    judges = [_Judge(one, variant, step) for one in a.reshape(len(a), -1)]
    theory = np.repeat(np.arange(a.shape[1]), a.shape[2])
    scored = np.isfinite(a).any(axis=0).ravel()
    if start is None:
        with np.errstate(invalid="ignore"):
            mean = np.nansum(a, axis=0).ravel() / np.maximum(np.isfinite(a).sum(axis=0).ravel(), 1)
        gamma = np.clip(mean, 0.05, 0.95)
        params = [[(0.3, 0.2), (0.7, 0.2)] for _ in judges]
        params, prior = _maximise(judges, gamma, scored, theory, a.shape[1], params)
    else:
        params = [
            [(float(m), float(s)) for m, s in zip(*pair, strict=True)]
            for pair in zip(start.mean, start.width, strict=True)
        ]
        prior = start.prior
    before, steps, converged = -np.inf, 0, False
    for steps in range(1, _MOST + 1):
        gamma, likelihood = _expect(judges, w, params, prior[theory], scored)
        if steps > _LEAST and abs(likelihood - before) < _TOLERANCE * abs(before):
            converged = True
            break
        before = likelihood
        params, prior = _maximise(judges, gamma, scored, theory, a.shape[1], params)
    n = int(scored.sum())
    one = sum(weight * judge.one_class() for weight, judge in zip(w, judges, strict=True))
    bic = -2 * (likelihood - one) + (2 * len(a) + a.shape[1]) * np.log(n)
    fitted = np.array(params)
    found = Latent(
        np.where(scored, gamma, np.nan).reshape(a.shape[1:]),
        fitted[:, :, 0],
        fitted[:, :, 1],
        prior,
        float(likelihood),
        float(bic),
        steps,
        converged,
    )
    # Called 1 is the label under which judges score higher, by as much as each tells them apart.
    return _turned(found) if separations(found).sum() < 0 else found


def posterior(
    scores: Floats,
    latent: Latent,
    *,
    weights: Floats | None = None,
    variant: Variant = "exact",
    step: float = 0.05,
) -> Floats:
    """Return the consensus of scores under a fit's parameters, [theories, items].

    Args:
        scores: [judges, theories, items]; NaN where a judge gave none.
        latent: of the same judges.
        weights: as in `fit`.
        variant: as in `fit`.
        step: as in `fit`.
    """
    a = np.asarray(scores, dtype=np.float64)
    judges = [_Judge(one, variant, step) for one in a.reshape(len(a), -1)]
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    params = [
        [(float(m), float(s)) for m, s in zip(*pair, strict=True)]
        for pair in zip(latent.mean, latent.width, strict=True)
    ]
    scored = np.isfinite(a).any(axis=0).ravel()
    gamma, _ = _expect(judges, w, params, np.repeat(latent.prior, a.shape[2]), scored)
    return np.where(scored, gamma, np.nan).reshape(a.shape[1:])


def separations(latent: Latent) -> Floats:
    """Return each judge's d', [judges]: how far its scores' means lie apart, in their spread.

    Of the truncated distributions: the normals before say nothing of a judge who is near to flat,
    whose means may lie anywhere.
    """
    found = []
    for mean, width in zip(latent.mean, latent.width, strict=True):
        (m0, v0), (m1, v1) = (moments(*at) for at in zip(mean, width, strict=True))
        found.append((m1 - m0) / np.sqrt((v0 + v1) / 2))
    return np.array(found)


def family_weights(families: list[str]) -> Floats:
    """Return one over the size of each judge's family: kin count together as one judge."""
    return np.array([1 / families.count(name) for name in families])


class _Judge:
    """One judge's scores [rows], and what the steps of a fit need of them."""

    def __init__(self, scores: Floats, variant: str, step: float) -> None:
        self.there = np.isfinite(scores)
        self._scores = np.where(self.there, scores, 0.0)
        self._variant = variant
        n = round(1 / step)
        self._edges = np.concatenate([[0.0], (np.arange(n) + 0.5) / n, [1.0]])
        self._bins = np.rint(self._scores * n).astype(np.int64)

    def log_density(self, fitted: Fitted) -> Floats:
        """Return the log-density of each score, per unit of the scale; 0 where there is none."""
        if self._variant == "binned":
            table = log_bins(*fitted, self._edges) - np.log(np.diff(self._edges))
            found = table[self._bins]
        else:
            found = log_density(self._scores, *fitted)
        out: Floats = np.where(self.there, found, 0.0)
        return out

    def fit(self, weights: Floats, start: Fitted) -> Fitted:
        """Return the parameters that weighted scores are likeliest under."""
        weights = np.where(self.there, weights, 0.0)
        if self._variant == "binned":
            counts = np.bincount(self._bins, weights, minlength=len(self._edges) - 1)
            return fit_binned(counts.astype(np.float64), self._edges, start)
        total, first, second = (float(weights @ self._scores**power) for power in (0, 1, 2))
        by = fit_exact if self._variant == "exact" else fit_moments
        return by(total, first, second, start)

    def one_class(self) -> float:
        """Return the log-likelihood of one distribution for all scores."""
        fitted = self.fit(np.ones(len(self._scores)), (0.5, 0.3))
        return float(self.log_density(fitted).sum())


def _expect(
    judges: list[_Judge],
    weights: Floats,
    params: list[list[Fitted]],
    prior: Floats,
    scored: NDArray[np.bool_],
) -> tuple[Floats, float]:
    """Return P(label 1) of each row, and the log-likelihood."""
    with np.errstate(divide="ignore"):
        log = np.log(np.stack([1 - prior, prior]))
    for judge, weight, pair in zip(judges, weights, params, strict=True):
        log += weight * np.stack([judge.log_density(fitted) for fitted in pair])
    return expit(log[1] - log[0]), float(logsumexp(log, axis=0)[scored].sum())


def _maximise(
    judges: list[_Judge],
    gamma: Floats,
    scored: NDArray[np.bool_],
    theory: NDArray[np.int64],
    theories: int,
    params: list[list[Fitted]],
) -> tuple[list[list[Fitted]], Floats]:
    """Return each judge's parameters under both labels, and the theories' priors."""
    found = [
        [judge.fit(share, start) for share, start in zip((1 - gamma, gamma), pair, strict=True)]
        for judge, pair in zip(judges, params, strict=True)
    ]
    n = np.bincount(theory[scored], minlength=theories)
    prior = np.bincount(theory[scored], gamma[scored], minlength=theories) / np.maximum(n, 1)
    return found, np.clip(prior, 1e-6, 1 - 1e-6)


def _turned(latent: Latent) -> Latent:
    """Call the label under which judges score higher on average 1."""
    return replace(
        latent,
        consensus=1 - latent.consensus,
        mean=latent.mean[:, ::-1],
        width=latent.width[:, ::-1],
        prior=1 - latent.prior,
    )


def _check(a: Floats, variant: str, step: float) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"unknown variant {variant!r}", nearest(variant, VARIANTS), "choose one")
    if not 0 < step <= 0.5 or abs(1 / step - round(1 / step)) > 1e-9:
        raise UsageError(f"a step of {step} doesn't divide 1", "bins are equal", "take 0.05 or 0.1")
    if a.ndim != 3 or len(a) < 2:
        raise DataError(
            "a consensus needs two judges at least",
            f"scores are {a.shape}: judges, theories, items",
            "score the items by another model too",
        )
    outside = np.isfinite(a) & ((a < 0) | (a > 1))
    if outside.any() or np.isinf(a).any():
        where = np.argwhere(outside | np.isinf(a))[0]
        raise DataError(
            "scores lie between 0 and 1",
            f"{int(outside.sum() + np.isinf(a).sum())} don't, such as {a[tuple(where)]}",
            "divide ratings by the scale's length",
        )
    silent = ~np.isfinite(a).any(axis=(1, 2))
    if silent.any():
        raise DataError(
            "a judge has no score at all",
            f"judge {int(np.flatnonzero(silent)[0])} of {len(a)}",
            "leave it out",
        )
