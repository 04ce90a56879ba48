"""How far a model's scores are from a consensus, and how well it tells the two classes apart.

Scores and consensus are probabilities, [n], and none of them NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import entr
from scipy.stats import rankdata

from moralprobe.behavior.siblings import Together

Floats = NDArray[np.float64]
_CUT: Final = 0.5


def divergence(p: Floats, q: Floats) -> float:
    """Return the Jensen-Shannon divergence of Bernoulli variables, in nats, 0 to ln 2; the mean."""
    middle = (p + q) / 2
    return float(np.mean(_entropy(middle) - (_entropy(p) + _entropy(q)) / 2))


def brier(p: Floats, q: Floats) -> float:
    """Return the mean squared distance, 0 to 1."""
    return float(np.mean((p - q) ** 2))


def auroc(p: Floats, q: Floats) -> float:
    """Return how often an item of the consensus scores above one that isn't; ties count half.

    NaN where the consensus, cut at one half, holds one class alone.
    """
    yes = q >= _CUT
    n, m = int(yes.sum()), int((~yes).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(p)[yes].sum() - n * (n + 1) / 2) / (n * m))


def f1(p: Floats, q: Floats) -> float:
    """Return F1 of the scores for the consensus, both cut at one half.

    NaN where the consensus holds one class alone.
    """
    called, yes = p >= _CUT, q >= _CUT
    if yes.all() or not yes.any():
        return float("nan")
    return float(2 * (called & yes).sum() / (called.sum() + yes.sum()))


def f1_matched(p: Floats, q: Floats) -> float:
    """Return F1 where as many items as in the consensus are called acceptable: the highest scores.

    What it has above `f1` is an offset of the scores, not what the model can't tell apart.
    """
    yes = q >= _CUT
    n = int(yes.sum())
    if not 0 < n < len(yes):
        return float("nan")
    cut = np.partition(p, len(p) - n)[len(p) - n]  # the n-th largest
    above, tied = p > cut, p == cut
    # Of those that are tied at the cut as many are right as by chance.
    right = (above & yes).sum() + (n - above.sum()) * yes[tied].mean()
    return float(right / n)


MEASURES: Final[Mapping[str, Callable[[Floats, Floats], float]]] = {
    "js": divergence,
    "brier": brier,
    "auroc": auroc,
    "f1": f1,
    "f1_matched": f1_matched,
}


def beside(
    arms: Mapping[str, Floats],
    target: Floats,
    base: str,
    *,
    draws: int,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> pl.DataFrame:
    """Hold several scores of the same items against a consensus, and against one of them.

    Args:
        arms: [n] scores by name.
        target: [n] the consensus.
        base: the arm that the others' differences are from.
        draws: resamples of items, the same for all arms.
        seed: of the resamples.
        groups: [n] which items are drawn together; each on its own, if not given.

    Returns:
        A row an arm and measure: `value` and `gain` (the difference from `base`), each with its
        95 % interval (`_low`, `_high`; null where most resamples have no value).
    """
    rng, n = np.random.default_rng(seed), len(target)
    together = Together.of(np.arange(n) if groups is None else groups)
    resamples = together.resamples(draws, rng)
    rows = []
    for measure, function in MEASURES.items():
        values = {
            arm: np.array([function(p[at], target[at]) for at in resamples])
            for arm, p in arms.items()
        }
        for arm, own in values.items():
            row: dict[str, object] = {"arm": arm, "measure": measure, "n": n}
            for name, some in (("value", own), ("gain", own - values[base])):
                known = some[1:][np.isfinite(some[1:])]
                enough = np.isfinite(some[0]) and len(known) > draws // 2
                low, high = np.quantile(known, (0.025, 0.975)) if enough else (None, None)
                row |= {name: some[0], f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    floats = [f"{name}{end}" for name in ("value", "gain") for end in ("", "_low", "_high")]
    frame = pl.DataFrame(rows, schema_overrides=dict.fromkeys(floats, pl.Float64))
    return frame.with_columns(pl.col(*floats).fill_nan(None))


def _entropy(p: Floats) -> Floats:
    out: Floats = entr(p) + entr(1 - p)
    return out
