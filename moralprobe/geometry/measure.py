"""A number with how far to believe it: the draws behind its interval and its null, summarised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from moralprobe.geometry.arrays import Floats

OK: Final = "ok"
_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "cosine": (-1.0, 1.0),
    "rho": (-1.0, 1.0),
    "r": (-1.0, 1.0),
    "AUROC": (0.0, 1.0),
    "share of variance": (0.0, 1.0),
    "R2": (-np.inf, 1.0),
    "ARI": (-1.0, 1.0),
    "share": (0.0, 1.0),
}
"""Where a unit's scale ends: an interval doesn't reach beyond."""
MIN_PROTOTYPES: Final = 5
MIN_GROUPS: Final = 10


@dataclass(frozen=True)
class Draws:
    """A statistic with its resamples: `boot` [b] for the interval, `null` [m] under no effect.

    `n` counts independent units (text groups). Empty arrays mean that nothing was drawn.
    """

    value: float
    boot: Floats
    null: Floats
    n: int


@dataclass(frozen=True)
class Measure:
    """One number of a study, with its 95 % interval, its null's 95 % range and its p value.

    `boot` are its resamples, for differences from what was resampled with it.
    """

    name: str
    category: str
    value: float
    ci_low: float
    ci_high: float
    null_low: float
    null_high: float
    p: float
    n: int
    unit: str
    status: str = OK
    boot: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


def summarise(
    name: str, category: str, draws: Draws, unit: str, *, p: float | None = None
) -> Measure:
    """Turn draws into a measure.

    The interval is the percentile interval of the bootstrap, moved so that the resamples' mean lies
    at the value: resampling adds noise of its own, which draws a cosine between centres of few
    prototypes toward zero, so that the plain percentiles can miss the very value they belong to.
    The p value is two-sided: twice the smaller tail of the permutation null, with one added to
    either count (Phipson and Smyth 2010).
    """
    ci_low, ci_high = _interval(draws, *_BOUNDS.get(unit, (-np.inf, np.inf)))
    null_low, null_high = _range(draws.null)
    if p is None:
        p = permutation_p(draws.value, draws.null)
    return Measure(
        name,
        category,
        draws.value,
        ci_low,
        ci_high,
        null_low,
        null_high,
        p,
        draws.n,
        unit,
        boot=draws.boot,
    )


def not_enough(name: str, category: str, unit: str, *, have: int, needed: int, of: str) -> Measure:
    """Return the row that stands where there are too few data for a number."""
    nan = float("nan")
    status = f"not enough data ({of}: {have}, needed {needed})"
    return Measure(name, category, nan, nan, nan, nan, nan, nan, have, unit, status)


def gain(measure: Measure, baseline: Measure) -> tuple[float, float]:
    """Return the 95 % interval of a measure less its baseline, which the same resamples gave.

    Paired, it doesn't hold against a measure what both owe to the choice of texts. Recentred as in
    `summarise`; nan where either has no resamples.
    """
    if len(measure.boot) != len(baseline.boot):
        return float("nan"), float("nan")
    difference = measure.boot - baseline.boot
    draws = Draws(measure.value - baseline.value, difference, np.empty(0), measure.n)
    return _interval(draws, -np.inf, np.inf)


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
    )


def permutation_p(value: float, null: Floats) -> float:
    """Return the two-sided p value of a statistic against its permutation null; nan without one."""
    finite = null[np.isfinite(null)]
    if len(finite) == 0 or not np.isfinite(value):
        return float("nan")
    tail = min(int(np.sum(finite >= value)), int(np.sum(finite <= value)))
    return float(min(1.0, 2 * (tail + 1) / (len(finite) + 1)))


def _interval(draws: Draws, lowest: float, highest: float) -> tuple[float, float]:
    low, high = _range(draws.boot)
    bias = float(np.mean(draws.boot[np.isfinite(draws.boot)])) - draws.value if low == low else 0.0
    return max(low - bias, lowest), min(high - bias, highest)


def _range(draws: Floats) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
