"""The paper's stratified sample of row-foundation pairs (arXiv 2603.15615, released scripts)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from moralprobe.errors import UsageError, nearest
from moralprobe.foundations import AXES, PROTOTYPE_SCORE, SCORES

QUOTAS: Final[dict[str, dict[str, int]]] = {
    "li2026": {"graded": 300, "prototype": 150, "neutral": 300}
}


@dataclass(frozen=True)
class Unfilled:
    """A stratum with fewer rows than its quota."""

    stratum: str
    have: int
    quota: int


def stratified_sample(
    pairs: pl.DataFrame, *, quota: str = "li2026", seed: int = 42
) -> tuple[pl.DataFrame, tuple[Unfilled, ...]]:
    """Draw up to a quota of pairs from every stratum (axis, pole, score) and from the neutral rows.

    Of every axis: 300 a pole for each score below 1.0, 150 a pole at 1.0, 300 neutral. One action
    can be drawn under several axes. The draw depends on the seed and on the set of pairs, not on
    their order.

    Args:
        pairs: a moral vectors table; rows that the paper's cleaning drops are left out.
        quota: the name of a set of quotas.
        seed: of the draw.

    Returns:
        The drawn pairs in the order of the source, and the strata that fell short.
    """
    if quota not in QUOTAS:
        raise UsageError(f"unknown quota {quota!r}", nearest(quota, QUOTAS), "choose one of these")
    sizes = QUOTAS[quota]
    frame = pairs.with_row_index("_index").filter(pl.col("paper")).sort("row", "axis")
    chosen: list[np.ndarray] = []
    unfilled: list[Unfilled] = []
    for a, axis in enumerate(AXES):
        strata = [("neutral", 0.0, sizes["neutral"])]
        for pole in (axis.virtue, axis.vice):
            strata += [
                (pole, s, sizes["prototype" if s == PROTOTYPE_SCORE else "graded"]) for s in SCORES
            ]
        mine = frame.filter(pl.col("axis") == axis.tag)
        for k, (pole, score, size) in enumerate(strata):
            rows = mine.filter(
                (pl.col("polarity") == "neutral")
                if pole == "neutral"
                else (pl.col("category") == pole) & (pl.col("score") == score)
            )["_index"].to_numpy()
            if len(rows) < size:
                unfilled.append(Unfilled(f"{axis.tag} {pole} {score:g}", len(rows), size))
                chosen.append(rows)
            else:
                chosen.append(np.random.default_rng([seed, a, k]).choice(rows, size, replace=False))
    index = np.sort(np.concatenate(chosen))
    return pairs[index], tuple(unfilled)
