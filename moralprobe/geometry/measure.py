"""A number with how far to believe it: what a statistic's draws say, summarised."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from moralprobe.geometry.arrays import Floats
from moralprobe.geometry.draws import Draws, combined, interval

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
    "ratio of norms": (0.0, np.inf),
    "dimensions": (1.0, np.inf),
}
"""Where a unit's scale ends: an interval doesn't reach beyond."""
_NULL_VALUE: Final = {"AUROC": 0.5, "squared distance": 0.0, "ARI": 0.0}
"""What statistics of a unit are expected to be where there is no effect, whatever their null."""
NullSays = Literal["decides", "spreads", "apart"]
"""What a null says of an interval: where it meets no effect too, as the null of a whole statistic
does; how the spread grows alone; nothing, where it is that of something else and stands beside."""
_FROM_ZERO: Final = ("mean_abs",)
"""Categories whose values aren't negative, whatever the unit."""
MIN_PROTOTYPES: Final = 5
MIN_GROUPS: Final = 10


@dataclass(frozen=True)
class Measure:
    """One number of a study, with its 95 % interval, its null's 95 % range and its p value.

    `boot` and `excess` are its resamples, for differences from what was resampled with it.
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
    excess: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def draws(self) -> Draws:
        """Its value and resamples, without a null."""
        return Draws(self.value, self.boot, np.empty(0), self.n, self.excess)

    def resamples(self) -> dict[str, list[float]]:
        """Return its resamples by column of a study's table of draws."""
        return {"boot": self.boot.tolist(), "excess": self.excess.tolist()}


def summarise(
    name: str,
    category: str,
    draws: Draws,
    unit: str,
    *,
    p: float | None = None,
    null_value: float | None = None,
    wider: float = 1.0,
    growth: float = 0.0,
    one_sided: bool = False,
    null: NullSays = "decides",
) -> Measure:
    """Turn draws into a measure.

    The interval is that of `draws.interval`, for a null value that the unit knows unless one is
    handed over. The p value, where none is handed over, is `permutation_p`, or `upper_p` where
    `one_sided`. `null` is what the null says of the interval; of a cosine's nothing.
    """
    lowest, highest = _BOUNDS.get(unit, (-np.inf, np.inf))
    # The null of a cosine needn't lie about zero, nor vary as it does where nothing differs.
    apart = null == "apart" or unit == "cosine"
    told = replace(draws, null=np.empty(0)) if apart else draws
    lowest = 0.0 if category in _FROM_ZERO else lowest
    if null_value is None:
        null_value = null_value_of(unit, draws.null)
    ci_low, ci_high = interval(
        told,
        lowest,
        highest,
        null_value=null_value,
        wider=wider,
        growth=growth,
        one_sided=one_sided,
        null_decides=null == "decides",
    )
    null_low, null_high = _range(draws.null)
    if p is None:
        p = (upper_p if one_sided else permutation_p)(draws.value, draws.null)
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
        excess=draws.excess,
    )


def null_value_of(unit: str, null: Floats) -> float | None:
    """Return what a statistic is expected to be where there is no effect; None if it isn't known.

    A null within strata keeps what the strata explain. A held-out R2 of no effect isn't above zero.
    """
    finite = null[np.isfinite(null)]
    if unit == "R2" and len(finite):
        return min(0.0, float(finite.mean()))
    return _NULL_VALUE.get(unit)


def not_enough(name: str, category: str, unit: str, *, have: int, needed: int, of: str) -> Measure:
    """Return the row that stands where there are too few data for a number."""
    nan = float("nan")
    status = f"not enough data ({of}: {have}, needed {needed})"
    return Measure(name, category, nan, nan, nan, nan, nan, nan, have, unit, status)


def gain(measure: Measure, baseline: Measure) -> tuple[float, float]:
    """Return the 95 % interval of a measure less its baseline, which the same resamples gave.

    Paired, it doesn't hold against a measure what both owe to the choice of texts; nan where either
    has no resamples.
    """
    if len(measure.boot) != len(baseline.boot):
        return float("nan"), float("nan")
    return interval(combined([measure.draws, baseline.draws], [1.0, -1.0]))


def upper_p(value: float, null: Floats) -> float:
    """Return the one-sided p value of a statistic that is large where there is an effect."""
    finite = null[np.isfinite(null)]
    if len(finite) == 0 or not np.isfinite(value):
        return float("nan")
    return float((np.sum(finite >= value) + 1) / (len(finite) + 1))


def permutation_p(value: float, null: Floats) -> float:
    """Return the two-sided p value of a statistic against its permutation null; nan without one."""
    finite = null[np.isfinite(null)]
    if len(finite) == 0 or not np.isfinite(value):
        return float("nan")
    tail = min(int(np.sum(finite >= value)), int(np.sum(finite <= value)))
    return float(min(1.0, 2 * (tail + 1) / (len(finite) + 1)))


def _range(draws: Floats) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975], method="weibull")
    return float(low), float(high)
