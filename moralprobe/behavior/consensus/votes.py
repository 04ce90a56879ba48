"""A consensus beside human votes: what a panel's agreement is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.consensus.agreement import auroc, brier
from moralprobe.behavior.consensus.fitting import Consensus
from moralprobe.behavior.consensus.scores import Scores
from moralprobe.behavior.siblings import Together
from moralprobe.behavior.tables import read_table
from moralprobe.errors import DataError

COLUMNS: Final = ("item", "share")


def load_votes(path: Path) -> dict[str, float]:
    """Read the share of people who find each item acceptable.

    Args:
        path: Parquet, or tab or comma separated, `item` and `share`, 0 to 1.

    Raises:
        DataError: columns that are missing or stand twice, shares that are none, an item that has
            no name or stands twice.
    """
    frame = read_table(Path(path), COLUMNS)
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(
            f"{path} is no table of votes", f"it has no column {missing[0]!r}", "give item, share"
        )
    frame = frame.with_columns(pl.col(COLUMNS).cast(pl.String))
    share = pl.col("share").str.strip_chars().cast(pl.Float64, strict=False)
    frame = frame.with_columns(pl.col("item").str.strip_chars().replace("", None), value=share)
    wrong = frame.filter(~pl.col("value").is_between(0, 1).fill_null(value=False))
    if wrong.height:
        raise DataError(
            f"{path} has shares that aren't between 0 and 1",
            f"{wrong.height}, such as {wrong['share'][0]!r}",
            "give the share of people who find an item acceptable",
        )
    if frame["item"].null_count():
        raise DataError(f"{path} has votes on no item", "a name is missing", "leave the line out")
    if frame["item"].n_unique() < frame.height:
        raise DataError(f"{path} has an item twice", "votes are one line an item", "keep one")
    return dict(frame.select("item", "value").iter_rows())


def check_votes(scores: Scores, votes: dict[str, float]) -> list[int]:
    """Return which scored items have votes.

    Raises:
        DataError: none.
    """
    at = [i for i, item in enumerate(scores.items) if item in votes]
    if not at:
        raise DataError(
            "no item has both scores and votes",
            f"{len(scores.items)} scored, {len(votes)} voted on",
            "name items alike in both tables",
        )
    return at


def against_votes(
    consensus: Consensus,
    scores: Scores,
    votes: dict[str, float],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Hold consensus, mean score and every model against votes, theory by theory.

    Args:
        consensus: of the scores; where none is supported it isn't among the sources.
        scores: from `load_scores`.
        votes: from `load_votes`; items without one are left out.
        draws: resamples of items, siblings together, the same for all; the consensus is held.
        seed: of them.

    Returns:
        A row a source and theory: `auroc` for the majority and `brier` for the share, each with an
        interval, and `auroc_gain`, the consensus' AUROC above the source's on the same items. An
        item on which people are split in half is left out of AUROC.

    Raises:
        DataError: no item that was scored has votes.
    """
    at = check_votes(scores, votes)
    share = np.array([votes[scores.items[i]] for i in at])
    shape = len(scores.theories), len(scores.items)
    ours, mean = (
        consensus.items[name].cast(pl.Float64).fill_null(float("nan")).to_numpy().reshape(shape)
        for name in ("consensus", "mean_score")
    )
    sources = {"mean of the models": mean, **dict(zip(scores.models, scores.values, strict=True))}
    if consensus.summary["supported"]:
        sources = {"consensus": ours, **sources}
    rng = np.random.default_rng(seed)
    resamples = Together.of(scores.siblings()[at]).resamples(draws, rng)
    rows = []
    for j, theory in enumerate(scores.theories):
        for name, values in sources.items():
            found = _measured(values[j, at], ours[j, at], share, resamples)
            n = int(np.isfinite(values[j, at]).sum())
            row: dict[str, object] = {"source": name, "theory": theory, "n": n}
            for measure, numbers in found.items():
                row |= _numbers(measure, numbers)
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _measured(
    values: NDArray[np.float64],
    ours: NDArray[np.float64],
    share: NDArray[np.float64],
    resamples: Sequence[NDArray[np.int64]],
) -> dict[str, NDArray[np.float64]]:
    """Return each measure in every resample, on the items that have a value there."""
    there = np.isfinite(values)
    found: dict[str, list[float]] = {"auroc": [], "brier": [], "auroc_gain": []}
    for some in resamples:
        here = some[there[some]]
        decided = here[share[here] != 0.5]
        own = auroc(values[decided], share[decided])
        found["auroc"].append(own)
        found["brier"].append(brier(values[here], share[here]) if len(here) else np.nan)
        found["auroc_gain"].append(auroc(ours[decided], share[decided]) - own)
    return {name: np.array(numbers) for name, numbers in found.items()}


def _numbers(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    row: dict[str, float | None] = {name: None, f"{name}_low": None, f"{name}_high": None}
    if np.isfinite(values[0]):
        row[name] = float(values[0])
    if np.isfinite(values).all():
        low, high = np.quantile(values[1:], [0.025, 0.975])
        row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return row
