"""How an arm fares against the baseline before a judge, and how far that judge can be believed.

A judge sees an arm's answer and the baseline's twice, each shown first once. Prompts are what is
drawn from: seeds are averaged within a prompt, and intervals resample prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.errors import DataError, NumericError
from moralprobe.geometry.arrays import Floats, blocks
from moralprobe.geometry.draws import Draws, interval
from moralprobe.geometry.uncertainty import bootstrap_counts

WIN: Final = 1.0
TIE: Final = 0.5
LOSS: Final = 0.0
MISSING: Final = float("nan")
_DRAWS: Final = 1000
_LEVEL: Final = 0.95
RIDGE: Final = 0.01
"""Penalty on the squares of both coefficients of the length-controlled fit, where each prompt's
log-likelihood counts once: too little to move a fit, enough to keep that of separable data finite.
"""
_STEPS: Final = 200
_STRIDE: Final = 4.0
_CELLS: Final = 1 << 20  # resamples times rows that are fitted at a time


@dataclass(frozen=True)
class Pairs:
    """A judge's answers on an arm against the baseline, in both orders.

    `arm_first` and `arm_second` are [prompts, seeds], by where the arm's answer was shown: 1 where
    the arm wins, 0.5 at a tie, 0 where it loses, NaN where the judge's answer is missing.

    Raises:
        DataError: two shapes, or another number.
    """

    arm_first: Floats
    arm_second: Floats

    def __post_init__(self) -> None:
        if self.arm_first.shape != self.arm_second.shape or self.arm_first.ndim != 2:
            raise DataError(
                "a judge's answers in the two orders don't match",
                f"their shapes are {self.arm_first.shape} and {self.arm_second.shape}",
                "give two arrays [prompts, seeds], NaN where an answer is missing",
            )
        for answers in (self.arm_first, self.arm_second):
            known = np.isnan(answers) | np.isin(answers, (WIN, TIE, LOSS))
            if not known.all():
                raise DataError(
                    f"{answers[~known][0]} is no answer of a judge",
                    "it must be 1 for a win, 0.5 for a tie, 0 for a loss or NaN",
                    "check who made it",
                )

    @property
    def scores(self) -> NDArray[np.float64]:
        """The mean of both orders, [prompts, seeds]; NaN where one is missing."""
        return np.asarray((self.arm_first + self.arm_second) / 2, np.float64)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over prompts.

    `prompts` and `pairs` (prompt and seed) are what it is of; `missing` pairs were left out.
    """

    value: float
    low: float
    high: float
    prompts: int
    pairs: int
    missing: int


def prompt_mean(
    values: Floats, *, lowest: float = 0.0, highest: float = 1.0, seed: int = 0
) -> Estimate:
    """Return the mean over prompts of the mean over seeds, with its paired bootstrap interval.

    Args:
        values: [prompts, seeds], NaN where one is missing; it is left out, and so is a prompt that
            has no other.
        lowest: where their scale begins.
        highest: where it ends.
        seed: of the resamples; arms with the same prompts are resampled alike.

    Raises:
        DataError: all are missing.
    """
    there = np.isfinite(values)
    kept = there.any(axis=1)
    if not kept.any():
        raise DataError(
            "there is nothing to average",
            f"all of {values.size} values are missing",
            "see what the judge said",
        )
    means = np.nanmean(values[kept], axis=1)
    low, high = _mean_interval(means, lowest, highest, seed)
    n = int(there.sum())
    return Estimate(float(means.mean()), low, high, len(means), n, values.size - n)


def _mean_interval(means: Floats, lowest: float, highest: float, seed: int) -> tuple[float, float]:
    """Return the interval of a mean over prompts.

    Where all prompts say the same, resamples do too. A share of others is compatible with that up
    to 1 - 0.025 ** (1 / n): Clopper and Pearson's (1934) bound for none in n.
    """
    n, value = len(means), float(means.mean())
    if _same(means):
        unseen = 1 - ((1 - _LEVEL) / 2) ** (1 / n)
        return value - unseen * (value - lowest), value + unseen * (highest - value)
    boot = bootstrap_counts(n, _DRAWS, seed) @ means / n
    return interval(Draws(value, boot, np.empty(0), n), lowest, highest)


def _same(values: Floats) -> bool:
    return bool(np.ptp(values) < 1e-12)


def win_rate(pairs: Pairs, *, seed: int = 0) -> Estimate:
    """Return an arm's win rate against the baseline, both orders averaged, ties as half.

    A pair that lacks one order is left out and counted: as a tie it would draw every arm to 0.5.

    Raises:
        DataError: no pair has both orders.
    """
    return prompt_mean(pairs.scores, seed=seed)


def difference(arm: Floats, control: Floats, *, seed: int = 0) -> Estimate:
    """Return how much an arm's mean score is above another's, both against the same baseline.

    Args:
        arm: [prompts, seeds] from 0 to 1, as `Pairs.scores`.
        control: of another arm on the same prompts and seeds.
        seed: of the resamples, which take both arms' scores of a prompt together.

    Raises:
        DataError: two shapes, or no pair that both have.
    """
    if arm.shape != control.shape:
        raise DataError(
            "two arms can't be compared",
            f"their shapes are {arm.shape} and {control.shape}",
            "give both on the same prompts and seeds, NaN where one is missing",
        )
    return prompt_mean(arm - control, lowest=-1.0, seed=seed)


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal length, and the log-odds that a longer answer alone gains.

    `gain` is per unit of tanh(delta / sd): its largest effect, of an answer that is far longer.
    """

    win_rate: Estimate
    gain: Estimate


def length_controlled(scores: Floats, longer: Floats, *, seed: int = 0) -> LengthControlled:
    """Return the win rate that an arm would have if its answers were as long as the baseline's.

    A logistic regression, P(arm) = 1 / (1 + exp(-(theta + gain tanh(delta / sd)))), fitted by
    maximum likelihood to fractional scores and read at delta 0. Each prompt counts once, divided
    among its seeds. Both coefficients bear a small penalty (`RIDGE`), so that separable data end
    near 0 or 1. Resamples keep the sd of the data.

    Args:
        scores: [prompts, seeds] from 0 to 1, NaN where missing, as `Pairs.scores`.
        longer: [prompts, seeds] length of the arm's answer less the baseline's, in any unit.
        seed: of the resamples.

    Raises:
        DataError: two shapes, no score, or one whose lengths aren't known.
        NumericError: every answer is longer by the same, so that length and arm can't be told
            apart; or the fit doesn't converge.

    Source: Dubois et al. (2024), arXiv 2404.04475, without the term for a prompt's difficulty;
    Papke and Wooldridge (1996) on fractional outcomes.
    """
    there = np.isfinite(scores)
    if scores.shape != longer.shape or not np.isfinite(longer[there]).all():
        raise DataError(
            "a win rate can't be controlled for length",
            "some scores have no lengths",
            "give the difference in length of every pair that has a score",
        )
    whole = prompt_mean(scores, seed=seed)
    prompt, _ = np.nonzero(there[there.any(axis=1)])
    y, delta = scores[there].astype(np.float64), longer[there].astype(np.float64)
    sd = float(delta.std())
    if not sd > 0 and delta.any():
        raise NumericError(
            "a win rate can't be controlled for length",
            f"every answer of the arm is longer by {delta[0]:g}",
            "give more prompts",
        )
    t = np.tanh(delta / sd) if sd > 0 else delta
    share = 1 / np.bincount(prompt)[prompt]
    theta, gain = _fitted(share[None], t, y)
    if not np.isfinite(theta[0]):
        raise NumericError("the length-controlled fit doesn't converge", f"on {len(y)} pairs")
    boot = np.full((2, _DRAWS), np.nan)
    counts = bootstrap_counts(whole.prompts, _DRAWS, seed)
    for some in blocks(_DRAWS, _CELLS // len(y)):
        weights = counts[some][:, prompt] * share
        boot[:, some] = _fitted(weights, t, y, start=(float(theta[0]), float(gain[0])))

    def estimate(value: float, low: float, high: float) -> Estimate:
        return Estimate(value, low, high, whole.prompts, whole.pairs, whole.missing)

    ends = interval(Draws(float(theta[0]), boot[0], np.empty(0), whole.prompts))
    at_zero = [float(_expit(np.float64(x))) for x in (theta[0], *ends)]
    if _same(y):  # every resample says the same, at any length
        at_zero = [whole.value, whole.low, whole.high]
    of_gain = interval(Draws(float(gain[0]), boot[1], np.empty(0), whole.prompts))
    return LengthControlled(estimate(*at_zero), estimate(float(gain[0]), *of_gain))


def _expit(x: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(x))


def _fitted(
    weights: Floats, t: Floats, y: Floats, start: tuple[float, float] = (0.0, 0.0)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit many logistic regressions on one variable by Newton's method, in bounded steps.

    Args:
        weights: [fits, rows].
        t: [rows] the variable.
        y: [rows] outcomes from 0 to 1.
        start: both coefficients.

    Returns:
        Intercepts and slopes, each [fits]; NaN where the method hasn't converged.
    """
    theta, gain = (np.full(len(weights), value) for value in start)
    step = np.full(len(weights), np.inf)
    for _ in range(_STEPS):
        p = _expit(theta[:, None] + gain[:, None] * t)
        left, bend = weights * (y - p), weights * p * (1 - p)
        g0, g1 = left.sum(axis=1) - RIDGE * theta, left @ t - RIDGE * gain
        h00, h01, h11 = bend.sum(axis=1) + RIDGE, bend @ t, bend @ t**2 + RIDGE
        det = h00 * h11 - h01**2
        d0, d1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        step = np.maximum(np.abs(d0), np.abs(d1))
        short = np.minimum(1, _STRIDE / np.maximum(step, _STRIDE))
        theta, gain = theta + short * d0, gain + short * d1
        if step.max() < 1e-9:
            break
    lost = ~(step < 1e-6)
    theta[lost], gain[lost] = np.nan, np.nan
    return theta, gain


@dataclass(frozen=True)
class PublishedWinRate:
    """A win rate as arXiv 2603.15615 counts it, from the order with the baseline first alone.

    `failures` are missing answers, which that design counts among the ties.
    """

    value: float
    wins: int
    ties: int
    losses: int
    failures: int


def li2026_win_rate(pairs: Pairs) -> PublishedWinRate:
    """Return wins / all with the baseline always first, where failures count as ties.

    It carries the judge's bias for a place in full, and is reported beside `win_rate` only.

    Raises:
        DataError: there is no pair.
    """
    answers = pairs.arm_second
    if not answers.size:
        raise DataError("there is nothing to count", "no pair was judged", "give prompts")
    wins, ties, losses = (int((answers == kind).sum()) for kind in (WIN, TIE, LOSS))
    failures = answers.size - wins - ties - losses
    return PublishedWinRate(wins / answers.size, wins, ties + failures, losses, failures)


@dataclass(frozen=True)
class JudgeStatistics:
    """What a judge's answers say of the judge, by pairs that have both orders.

    `position_bias` is the share decided for the answer shown first, ties as half, minus 0.5: 0.5 of
    a judge that always names the first. `self_consistency` is the share of pairs in which both
    orders give the same verdict. `missing` is the share of answers that are missing.
    """

    position_bias: Estimate
    self_consistency: Estimate
    missing: float


def judge_statistics(pairs: Pairs, *, seed: int = 0) -> JudgeStatistics:
    """Return how a judge is drawn to a place, and how often it stands by its verdict.

    Raises:
        DataError: no pair has both orders.
    """
    first, second = pairs.arm_first, pairs.arm_second
    # In the second order the baseline is shown first: it wins where the arm loses.
    shown_first = (first + 1 - second) / 2
    same = np.where(np.isfinite(pairs.scores), first == second, MISSING)
    lacking = np.isnan(np.stack([first, second]))
    return JudgeStatistics(
        prompt_mean(shown_first - 0.5, lowest=-0.5, highest=0.5, seed=seed),
        prompt_mean(same, seed=seed),
        float(lacking.mean()),
    )


def agreement(a: Pairs, b: Pairs, *, seed: int = 0) -> Estimate:
    """Return Cohen's kappa of two judges on the same pairs: for the arm, even, against it.

    A pair's verdict is that of both orders together. Of single answers two judges that always name
    the first would agree perfectly.

    Args:
        a: one judge's answers.
        b: the other's on the same arm, prompts and seeds.
        seed: of the resamples.

    Returns:
        From -1 to 1; NaN where both always say the same, and no chance is left to correct for. The
        interval is NaN where no resample differs.

    Raises:
        DataError: two shapes, or no pair that both have judged.

    Source: Cohen (1960).
    """
    if a.scores.shape != b.scores.shape:
        raise DataError(
            "two judges can't be compared",
            f"the shapes of their answers are {a.scores.shape} and {b.scores.shape}",
            "give both on the same arm, prompts and seeds",
        )
    both = np.isfinite(a.scores) & np.isfinite(b.scores)
    if not both.any():
        raise DataError("two judges can't be compared", "they share no pair", "see what they said")
    kept = both.any(axis=1)
    prompt, _ = np.nonzero(both[kept])
    n, pairs = int(kept.sum()), int(both.sum())
    mine, theirs = (np.sign(judge.scores[both] - TIE).astype(np.int64) + 1 for judge in (a, b))
    tables = np.zeros((n, 3, 3))
    np.add.at(tables, (prompt, mine, theirs), 1.0)
    boot = _kappa((bootstrap_counts(n, _DRAWS, seed) @ tables.reshape(n, 9)).reshape(-1, 3, 3))
    value = float(_kappa(tables.sum(axis=0)[None])[0])
    varies = np.isfinite(boot).any() and not _same(boot[np.isfinite(boot)])
    draws = Draws(value, boot, np.empty(0), n)
    low, high = interval(draws, -1.0, 1.0) if varies else (MISSING, MISSING)
    return Estimate(value, low, high, n, pairs, both.size - pairs)


def _kappa(tables: Floats) -> NDArray[np.float64]:
    """Return kappa of each table of counts, [tables, 3, 3]; NaN where chance agrees always."""
    p = tables / tables.sum(axis=(1, 2), keepdims=True)
    observed = np.trace(p, axis1=1, axis2=2)
    chance = (p.sum(axis=1) * p.sum(axis=2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)
    return np.asarray(kappa, np.float64)
