"""A statistic with its resamples, and the interval that they give.

Intervals are held to plants whose truth is known (`geometry.planted`); how far they keep their word
stands in the docs, by `benchmarks/planted.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Floats

_Z: Final = 1.959964  # of 95 %
_FEWEST: Final = 20
"""Resamples: fewer have no quantiles worth the name."""
_FEWEST_OF_NULL: Final = 39
"""Draws: of fewer none has 2.5 % beyond it."""
_MOST_SKEWED: Final = 0.6
_MOST_STEEP: Final = 0.2
_LEAST: Final = 1 / 2.25
"""Share of the resamples' variance that samples have, if all of it belongs to pairs."""


@dataclass(frozen=True)
class Draws:
    """A statistic with its resamples: `boot` [b] for the interval, `null` [m] under no effect.

    `n` counts independent units (text groups). `excess` [h] has the variance that resamples have
    more than samples. Empty arrays mean that nothing was drawn.
    """

    value: float
    boot: Floats
    null: Floats
    n: int
    excess: Floats = field(default_factory=lambda: np.empty(0))


def resampled(values: Floats, draws: int, null: Floats, n: int) -> Draws:
    """Return what a statistic gave on the sets of weights that a design resamples by.

    To second order a statistic moves with the weights of single units, T1, and of pairs of them,
    T2. From sample to sample its variance is var(T1) + var(T2). A resample measures T1 by what
    units did in these data, in which T2 is already, and adds its own: var(T1) + 3 var(T2); and far
    from the data the second order isn't enough. So resamples stay near: a unit counts by the mean
    of once and its resample, and the move is doubled, which has var(T1) + 2.25 var(T2). Whole
    resamples beside them move T1 as far and T2 twice as far, so that the difference gives T2. Its
    variance is taken off once; the quarter is left for what isn't of second order.

    Args:
        values: [1 + draws + h] as the data are, resampled at half strength, and the first h of
            these whole.
        draws: resamples.
        null: [m] under no effect.
        n: independent units.

    Source: Hoeffding (1948) on the parts; Arcones and Gine (1992) on the bootstrap of the second.
    """
    value, half, whole = values[0], values[1 : 1 + draws], values[1 + draws :]
    bend = whole - 2 * half[: len(whole)] + value  # T2 of a whole resample, over two
    return Draws(float(value), 2 * half - value, null, n, 2 * bend)


def resampled_two(values: Floats, draws: int, null: Floats, n: int) -> Draws:
    """Return the same of a statistic in which units have two parts: they train, and are tested.

    Its T2 is what training units and tested ones do together: what whole resamples of both have,
    less what those of either have.

    Args:
        values: [1 + draws + 3h] as the data are, resampled at half strength, and h whole resamples:
            of both, of what trains, of what is tested.
        draws: resamples.
        null: [m] under no effect.
        n: independent units.
    """
    value, half, rest = values[0], values[1 : 1 + draws], values[1 + draws :]
    both, trained, tested = np.split(rest, 3)
    return Draws(float(value), 2 * half - value, null, n, both - trained - tested + value)


def combined(parts: Sequence[Draws], shares: Sequence[float]) -> Draws:
    """Return a weighted sum of statistics, draw by draw; without a null.

    Args:
        parts: resampled together, so that their draws match.
        shares: what each counts.
    """
    s = np.asarray(shares, np.float64)
    return Draws(
        float(s @ [part.value for part in parts]),
        np.asarray(s @ np.stack([part.boot for part in parts]), np.float64),
        np.empty(0),
        parts[0].n,
        np.asarray(s @ np.stack([part.excess for part in parts]), np.float64),
    )


def mean_draws(parts: Sequence[Draws], n: int, *, absolute: bool = False) -> Draws:
    """Average statistics draw by draw: the parts were resampled together, so their draws match.

    Args:
        parts: the statistics.
        n: text groups in all of them; a group may be in several.
        absolute: average absolute values.
    """
    f = np.abs if absolute else np.asarray
    return Draws(
        value=float(np.mean([f(part.value) for part in parts])),
        boot=np.mean([f(part.boot) for part in parts], axis=0),
        null=np.mean([f(part.null) for part in parts], axis=0),
        n=n,
        excess=np.mean([_folded(part) if absolute else part.excess for part in parts], axis=0),
    )


def _folded(draws: Draws) -> Floats:
    """Return the excess of a statistic's absolute value, which near zero varies less."""
    boot = draws.boot[np.isfinite(draws.boot)]
    spread = float(boot.std()) if len(boot) else 0.0
    left = float(np.abs(boot).std()) / spread if spread > 0 else 1.0
    return np.asarray(draws.excess * np.sign(draws.value) * left)


def narrowed(draws: Draws, *, least: float = _LEAST) -> NDArray[np.float64]:
    """Return how far resamples lie from their mean, [b], without the variance that is in excess.

    Args:
        draws: a statistic with its resamples.
        least: share of the variance that is kept whatever the excess, which is itself an estimate.
    """
    finite = np.isfinite(draws.boot)
    about = draws.boot - (draws.boot[finite].mean() if finite.any() else 0.0)
    excess = draws.excess[np.isfinite(draws.excess)]
    spread = about[finite].var() if finite.any() else 0.0
    if len(excess) > 1 and spread > 0:
        about = about * np.sqrt(np.clip(1 - excess.var() / spread, least, 1))
    return np.asarray(about, np.float64)


def interval(
    draws: Draws,
    lowest: float = -np.inf,
    highest: float = np.inf,
    *,
    null_value: float | None = None,
    wider: float = 1.0,
    growth: float = 0.0,
    one_sided: bool = False,
    null_decides: bool = True,
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic, about its value; nan of fewer than 20 resamples.

    The resamples' own bias is taken out: it draws a cosine between centres of few prototypes toward
    zero, so that plain percentiles can miss the very value that they belong to. On the side of no
    effect it ends by `_towards_nothing`.

    Args:
        draws: the statistic.
        lowest: where its scale begins.
        highest: where it ends.
        null_value: what the statistic is expected to be where there is no effect; None where only
            its null can say. They are apart where a null within strata keeps what strata explain.
        wider: times as wide as the resamples say, from `spread_of_choice`.
        growth: variance that the statistic gains for each unit by which its truth lies higher.
        one_sided: whether only what lies above the null speaks of an effect.
        null_decides: whether the null is what the whole statistic gives without effect, so that it
            says where an interval meets no effect.
    """
    about = narrowed(draws)
    about = about[np.isfinite(about)]
    if len(about) < _FEWEST:
        return float("nan"), float("nan")
    low, high = wider * np.quantile(about, _levels(draws, about, null_value), method="weibull")
    down, up, below = -float(low), float(high), 0.0
    null = draws.null[np.isfinite(draws.null)]
    if null_decides and len(null) >= _FEWEST_OF_NULL:
        middle = float(null.mean())
        off = draws.value - (middle if null_value is None else null_value)
        levels = (0.025, 0.95 if one_sided else 0.975)
        least, most = np.quantile(null, levels, method="weibull") - middle
        if off > 0:
            down = _towards_nothing(down, float(most), off)
        elif off < 0:
            # Below no effect a statistic that is tested above alone is never said to lie.
            arm = -off if one_sided else -float(least)
            up, below = _towards_nothing(up, arm, -off), -off
    if growth > 0 and up >= below:
        up = max(up, _growing(_Z * wider * float(about.std()), _Z**2 * growth, below))
    return max(draws.value - down, lowest), min(draws.value + up, highest)


def _towards_nothing(arm: float, null_arm: float, off: float) -> float:
    """Return how far an interval reaches toward no effect.

    It holds no effect where the value lies as near to it as the null's middle 95 % lies to the
    null's mean, and only there, as a test of no effect would say; resamples can't know, since they
    vary as the statistic does where it is. The farther from no effect it ends, the more these
    decide: the square of the reach goes from theirs to the null's with the fourth power of the
    share of the way that it covers, which leaves clear effects to the resamples.

    Args:
        arm: how far it reaches by the resamples.
        null_arm: how far the null's 95 % reach from its middle, on the value's side.
        off: how far the value lies from no effect, above 0.
    """
    if null_arm >= off:
        return max(arm, off)
    more = max(null_arm, 0.0) ** 2 - arm**2
    return arm * float(np.sqrt(2 / (1 + np.sqrt(1 - 4 * arm**2 * more / off**4))))


def _growing(arm: float, growth: float, below: float) -> float:
    """Return how far up an interval reaches where variance grows with the truth.

    The reach x of x^2 = arm^2 + growth (x - below): up to no effect, `below` away, nothing grows.
    """
    inside = growth**2 + 4 * (arm**2 - growth * below)
    return (growth + float(np.sqrt(max(inside, 0.0)))) / 2


def _levels(draws: Draws, about: Floats, null_value: float | None) -> tuple[float, float]:
    """Return the quantiles of resamples about their mean between which 95 % of samples lie.

    A statistic whose spread grows with it comes out small with intervals that are too narrow, and
    misses the truth above it. How the spread grows is read from the skewness of the resamples
    (their bias and their acceleration are both a sixth of it) and, where the statistic lies far
    from no effect, from how much wider or narrower its null varies: the variance is taken to be the
    null's at no effect, and linear between the two.

    Source: Efron (1987) on the acceleration.
    """
    from scipy.special import ndtr
    from scipy.stats import skew

    spread = float(about.std())
    if not spread > 0:
        return 0.025, 0.975
    skewness = float(np.clip(skew(about), -_MOST_SKEWED, _MOST_SKEWED))
    a = skewness / 6
    z = a + np.array([-_Z, _Z])
    z = a + z / (1 - a * z)
    null = draws.null[np.isfinite(draws.null)]
    if len(null) > 1:
        t = (draws.value - (float(null.mean()) if null_value is None else null_value)) / spread
        steep = (1 - float(null.var()) / spread**2) / 2 * t
        # What the skewness says already is left out, the more the farther the null.
        b = float(np.clip((steep - skewness / 2 * t**2) / (1 + t**2), -_MOST_STEEP, _MOST_STEEP))
        z = z / (1 - b * np.array([-_Z, _Z]))
    low, high = ndtr(z)
    return float(low), float(high)


def as_spread(draws: Draws, again: Floats) -> Draws:
    """Return draws that spread at least as much as those of a whole repetition do, which are few.

    Args:
        draws: a statistic with resamples that hold a part of its making fixed.
        again: [k] values in which that part was made anew.
    """
    about = narrowed(draws)
    spread = float(about.std()) if len(about) else 0.0
    ratio = max(1.0, float(np.std(again)) / spread) if spread > 0 else 1.0
    return Draws(draws.value, draws.value + about * ratio, draws.null, draws.n)


def spread_of_choice(chosen: Floats, kept: Floats) -> float:
    """Return how much wider resamples spread where a choice is made again in each; 1 at least.

    Resamples at half strength, doubled: exact for what moves smoothly, too large by up to two for a
    choice that jumps, which is as often missed where it is far from jumping.

    Args:
        chosen: [k] what resamples give where the choice is made again.
        kept: [k] what the same resamples give where it stays as it was.
    """
    spread = float(np.std(kept)) if len(kept) > 1 else 0.0
    return max(1.0, float(np.std(chosen)) / spread) if spread > 0 else 1.0
