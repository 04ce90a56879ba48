"""Measures by round, foundation and pole, and arms beside each other, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.elicitation.calibration import Calibrated
from moralprobe.behavior.elicitation.completions import REFUSED
from moralprobe.behavior.elicitation.measures import OF_PROMPTS, apv, corrected, interval, means
from moralprobe.behavior.siblings import Together, connected, folded

Floats = NDArray[np.float64]
FEWEST: Final = 5
"""Principles of a foundation or pole, for numbers of its own; and of all, for an interval."""
ALL: Final = "all"


def tables(
    long: pl.DataFrame,
    scorers: Mapping[str, Calibrated],
    rounds: Sequence[int],
    k: int,
    draws: int,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return measures by scorer, round, foundation and pole; and their changes over the rounds."""
    rows: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    kinds = product(
        *(
            [None, *long[column].drop_nulls().unique(maintain_order=True)]
            for column in ("foundation", "pole")
        )
    )
    for (foundation, pole), (name, scorer) in product(kinds, scorers.items()):
        some = long
        for column, value in (("foundation", foundation), ("pole", pole)):
            some = some if value is None else some.filter(pl.col(column) == value)
        of = {"scorer": name, "foundation": foundation or ALL, "pole": pole or ALL, "k": k}
        if some["id"].n_unique() < FEWEST and (foundation or pole):
            continue
        group = kin(some["principle"].gather_every(k), some["prompt"].gather_every(k))
        together, rng = Together.of(group), np.random.default_rng([seed, 1])
        # Of fewer there is no interval: their resamples are nearly all alike.
        times = draws if len(together) >= FEWEST else 0
        resamples = together.resamples(times, rng)
        at = some["iter"].to_numpy()[::k]
        ids = some["id"].to_numpy()[::k]
        both = np.isin(ids, [i for i in set(ids) if len(set(at[ids == i])) == len(rounds)])
        found = {r: _of_round(some, name, k, at == r, resamples, scorer) for r in rounds}
        rows += [
            {**of, "iter": r, "measure": m, **row(values), "n": int((at == r).sum())}
            for r, one in found.items()
            for m, values in one.items()
        ]
        if len(rounds) == 2:
            first, last = (
                _of_round(some, name, k, (at == r) & both, resamples, scorer) for r in rounds
            )
            changes += [{**of, "measure": m, **row(last[m] - first[m])} for m in first]
    texts = dict.fromkeys(("scorer", "foundation", "pole", "measure"), pl.String)
    schema = {**texts, "k": pl.Int64, **dict.fromkeys(("value", "low", "high"), pl.Float64)}
    counts = {"iter": pl.Int64, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**schema, **counts}), pl.DataFrame(changes, schema=schema)


def _of_round(
    some: pl.DataFrame,
    name: str,
    k: int,
    here: NDArray[np.bool_],
    resamples: Sequence[NDArray[np.int64]],
    scorer: Calibrated,
) -> dict[str, Floats]:
    """Return each measure in every resample, of the prompts of a round."""
    p, other = (
        np.where(here[:, None], numbers(some[column]).reshape(-1, k), np.nan)
        for column in (name, f"{name}_other")
    )
    found = {measure: means(f(p), resamples) for measure, f in OF_PROMPTS.items()}
    # A scorer's own rates are drawn as well: they are known from as many texts as there were.
    rates = scorer.calibration.rates
    drawn = np.arange(len(resamples))
    rates = rates[np.where(drawn == 0, 0, 1 + (drawn - 1) % (len(rates) - 1))]
    return {
        **found,
        "apv corrected": corrected(found["apv"], rates[:, 0], rates[:, 1]),
        "apv of another principle": means(apv(other), resamples),
    }


def kin(principles: pl.Series, prompts: pl.Series) -> NDArray[np.int64]:
    """Return a number for each row, the same for those of one principle or of one prompt.

    Of one prompt the completions are the same ones, whatever principle they are held against.
    """
    return connected(list(map(folded, principles)), list(map(folded, prompts)))


def numbers(column: pl.Series) -> Floats:
    """Return a column as an array, NaN where it has none."""
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def row(values: Floats) -> dict[str, float | None]:
    """Return `value`, `low` and `high` of a measure as it is and in each resample."""
    return interval(values[0], values[1:])


def against(
    arms: Mapping[str, pl.DataFrame], base: str, scorer: str, *, draws: int, seed: int
) -> pl.DataFrame:
    """Hold arms that were measured on the same prompts against one of them.

    Args:
        arms: completions by the arm's name.
        base: the arm that the others' differences are from.
        scorer: whose probabilities are read.
        draws: resamples of principles, the same for all.
        seed: of them.

    Returns:
        A row an arm and measure (`evr`, `mvp`, `apv`): `value` and `gain`, the difference from the
        base, each with its 95 % interval.
    """
    first = arms[base]
    k = int(first["k"].max() or 0) + 1  # type: ignore[arg-type]
    together = Together.of(kin(first["principle"].gather_every(k), first["prompt"].gather_every(k)))
    rng, n = np.random.default_rng(seed), first.height // k
    times = draws if len(together) >= FEWEST else 0
    resamples = together.resamples(times, rng)
    found = {
        arm: {measure: f(numbers(one[scorer]).reshape(n, k)) for measure, f in OF_PROMPTS.items()}
        for arm, one in arms.items()
    }
    rows = []
    for arm, of in found.items():
        for measure, values in of.items():
            # On the prompts that both have a value of.
            gain = row(means(values - found[base][measure], resamples))
            rows.append(
                {
                    "arm": arm,
                    "measure": measure,
                    "n": int(np.isfinite(values).sum()),
                    "refused": int(arms[arm]["status"].is_in(list(REFUSED)).sum()),
                    **row(means(values, resamples)),
                    "gain": gain["value"],
                    "gain_low": gain["low"],
                    "gain_high": gain["high"],
                }
            )
    floats = ("value", "low", "high", "gain", "gain_low", "gain_high")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(floats, pl.Float64))
