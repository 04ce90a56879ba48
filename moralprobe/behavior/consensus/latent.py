"""The latent consensus of several judges, by expectation and maximisation.

Each item is acceptable or not under a theory, unknown to us; each judge scores it by one of two
distributions, one a label, the same for all theories. Source: arXiv 2506.14625, section 3, with
truncated normals; the bounds, binning, tempering, masses and tests are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from moralprobe.behavior.consensus.judge import Distribution, Judge
from moralprobe.errors import DataError, UsageError, nearest

Floats = NDArray[np.float64]
Variant = Literal["exact", "binned", "moments"]
VARIANTS: Final = ("exact", "binned", "moments")
LEAST_STEP: Final = 0.001
_TOLERANCE: Final = 1e-6
_MOST: Final = 300
_LEAST: Final = 4


@dataclass(frozen=True)
class Latent:
    """A fit.

    `consensus` [theories, items] is the probability that an item is acceptable, NaN where no judge
    scored it; `judges` holds each judge's distributions where it isn't (0) and where it is (1);
    `prior` [theories]. `bic` is that of two classes less that of one: above 0 the scores don't
    support that there are two.
    """

    consensus: Floats
    judges: tuple[tuple[Distribution, Distribution], ...]
    prior: Floats
    log_likelihood: float
    bic: float
    iterations: int
    converged: bool

    def of(self, judges: list[int]) -> Latent:
        """Return the fit's parameters of some of its judges, to begin another with."""
        return replace(self, judges=tuple(self.judges[m] for m in judges))


def fit(
    scores: Floats,
    *,
    variant: Variant = "exact",
    step: float = 0.05,
    weights: Floats | None = None,
    start: Latent | None = None,
) -> Latent:
    """Fit the consensus and each judge's two distributions.

    A judge with three different scores at most is met by their shares, and not by a curve: no
    normal is near a judge who says 0 and 1, unless it is always right.

    Args:
        scores: [judges, theories, items], 0 to 1; NaN where a judge gave none.
        variant: `exact`, the likeliest truncated normals; `binned`, of scores rounded to `step`;
            `moments`, weighted means and standard deviations.
        step: the width of a bin; the first and the last are half as wide.
        weights: of each judge's evidence, 0 to 1: one over the number of its kin, where several
            share a family.
        start: a fit of the same judges to begin with, whose labels are kept. Without one, the label
            under which the judges' evidence lies higher is called 1.

    Raises:
        DataError: fewer than two judges, scores outside 0 to 1, or a judge without any.
        UsageError: an unknown variant, a step that doesn't divide 1, or weights out of bounds.
    """
    a = np.asarray(scores, dtype=np.float64)
    _check(a, variant, step)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(a),) or not ((w > 0) & (w <= 1)).all():
        raise UsageError("weights are one a judge, above 0 and at most 1", f"{w}", "mend them")
    judges = [Judge(one, variant, step) for one in a.reshape(len(a), -1)]
    theory = np.repeat(np.arange(a.shape[1]), a.shape[2])
    scored = np.isfinite(a).any(axis=0).ravel()
    n = np.bincount(theory[scored], minlength=a.shape[1])

    def maximised(
        gamma: Floats, before: tuple[tuple[Distribution, Distribution], ...]
    ) -> tuple[tuple[tuple[Distribution, Distribution], ...], Floats]:
        found = tuple(
            (judge.fit(1 - gamma, pair[0]), judge.fit(gamma, pair[1]))
            for judge, pair in zip(judges, before, strict=True)
        )
        prior = np.bincount(theory[scored], gamma[scored], minlength=len(n)) / np.maximum(n, 1)
        return found, np.clip(prior, 1e-6, 1 - 1e-6)

    if start is None:
        # The mean of ranks: of scores, a judge of zeros and ones would decide alone.
        ranks = np.stack([judge.ranks() for judge in judges])
        count = np.maximum(np.isfinite(ranks).sum(axis=0), 1)
        mean = np.nansum(ranks, axis=0) / count
        begun = tuple((judge.start(0.3), judge.start(0.7)) for judge in judges)
        pairs, prior = maximised(np.clip(mean, 0.05, 0.95), begun)
    else:
        prior = np.where(np.isfinite(start.prior), start.prior, 0.5)
        pairs = tuple(
            (judge.begin(zero), judge.begin(one))
            for judge, (zero, one) in zip(judges, start.judges, strict=True)
        )
    before, steps, converged = -np.inf, 0, False
    for steps in range(1, _MOST + 1):
        log = _log_joint(judges, w, pairs, prior[theory])
        gamma, likelihood = expit(log[1] - log[0]), float(logsumexp(log, axis=0)[scored].sum())
        if steps > _LEAST and abs(likelihood - before) < _TOLERANCE * abs(before):
            converged = True
            break
        before = likelihood
        pairs, prior = maximised(gamma, pairs)
    one = sum(weight * judge.one_class() for weight, judge in zip(w, judges, strict=True))
    more = sum(judge.parameters for judge in judges) + int((n > 0).sum())
    found = Latent(
        np.where(scored, gamma, np.nan).reshape(a.shape[1:]),
        pairs,
        np.where(n > 0, prior, np.nan),
        likelihood,
        float(-2 * (likelihood - one) + more * np.log(scored.sum())),
        steps,
        converged,
    )
    return _turned(found) if start is None and (w * separations(found)).sum() < 0 else found


def separations(latent: Latent) -> Floats:
    """Return each judge's d', [judges]: how far its scores' means lie apart, in their spread.

    Of the scores, not of the normals before truncation: those say nothing of a judge who is near to
    flat, whose normals' means may lie anywhere.
    """
    return np.array(
        [
            (one.mean - zero.mean) / max(np.sqrt((zero.variance + one.variance) / 2), 1e-6)
            for zero, one in latent.judges
        ]
    )


def family_weights(families: list[str]) -> Floats:
    """Return one over the size of each judge's family: kin count together as one judge."""
    return np.array([1 / families.count(name) for name in families])


def _log_joint(
    judges: list[Judge],
    weights: Floats,
    pairs: tuple[tuple[Distribution, Distribution], ...],
    prior: Floats,
) -> Floats:
    """Return the log of each label's prior and evidence, [2, rows]."""
    log: Floats = np.log(np.stack([1 - prior, prior]))
    for judge, weight, pair in zip(judges, weights, pairs, strict=True):
        log += weight * np.stack([judge.log_density(one) for one in pair])
    return log


def _turned(latent: Latent) -> Latent:
    """Call the other label 1."""
    return replace(
        latent,
        consensus=1 - latent.consensus,
        judges=tuple((one, zero) for zero, one in latent.judges),
        prior=1 - latent.prior,
    )


def _check(a: Floats, variant: str, step: float) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"unknown variant {variant!r}", nearest(variant, VARIANTS), "choose one")
    if not LEAST_STEP <= step <= 0.5 or abs(1 / step - round(1 / step)) > 1e-9:
        raise UsageError(
            f"a step of {step} isn't one of a scale",
            f"it must divide 1, from {LEAST_STEP} to 0.5",
            "take 0.05 or 0.1",
        )
    if a.ndim != 3 or len(a) < 2:
        raise DataError(
            "a consensus needs two judges at least",
            f"scores are {a.shape}: judges, theories, items",
            "score the items by another model too",
        )
    wrong = np.isinf(a) | (np.isfinite(a) & ((a < 0) | (a > 1)))
    if wrong.any():
        raise DataError(
            "scores lie between 0 and 1",
            f"{int(wrong.sum())} don't, such as {a[wrong][0]:g}",
            "divide ratings by the scale's length",
        )
    silent = ~np.isfinite(a).any(axis=(1, 2))
    if silent.any():
        raise DataError(
            "a judge has no score at all",
            f"judge {int(np.flatnonzero(silent)[0])} of {len(a)}",
            "leave it out",
        )
