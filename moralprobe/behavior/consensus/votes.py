"""A consensus beside human votes: what a panel's agreement is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.consensus.agreement import auroc, brier
from moralprobe.behavior.consensus.fitting import Consensus
from moralprobe.behavior.consensus.scores import Scores
from moralprobe.data.social_chem import read_columns
from moralprobe.errors import DataError

COLUMNS: Final = ("item", "share")
_MEASURES: Final = {"auroc": auroc, "brier": brier}


def load_votes(path: Path) -> dict[str, float]:
    """Read the share of people who find each item acceptable.

    Args:
        path: tab or comma separated, `item` and `share`, 0 to 1.

    Raises:
        DataError: columns that are missing, shares that are none, an item that stands twice.
    """
    frame = read_columns(Path(path), set(COLUMNS))
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(
            f"{path} is no table of votes", f"it has no column {missing[0]!r}", "give item, share"
        )
    frame = frame.with_columns(
        value=pl.col("share").str.strip_chars().cast(pl.Float64, strict=False)
    )
    wrong = frame.filter(~pl.col("value").is_between(0, 1).fill_null(value=False))
    if wrong.height:
        raise DataError(
            f"{path} has shares that aren't between 0 and 1",
            f"{wrong.height}, such as {wrong['share'][0]!r}",
            "give the share of people who find an item acceptable",
        )
    if frame["item"].n_unique() < frame.height:
        raise DataError(f"{path} has an item twice", "votes are one line an item", "keep one")
    return dict(frame.select("item", "value").iter_rows())


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
        consensus: of the scores.
        scores: from `load_scores`.
        votes: from `load_votes`; items without one are left out.
        draws: resamples of items, the same for all.
        seed: of them.

    Returns:
        A row a source and theory: `auroc` for the majority and `brier` for the share, each with an
        interval, and `auroc_gain`, the consensus' AUROC above the source's.

    Raises:
        DataError: no item that was scored has votes.
    """
    at = [i for i, item in enumerate(scores.items) if item in votes]
    if not at:
        raise DataError(
            "no item has both scores and votes",
            f"{len(scores.items)} scored, {len(votes)} voted on",
            "name items alike in both tables",
        )
    share = np.array([votes[scores.items[i]] for i in at])
    of = consensus.items.to_dict(as_series=False)
    shape = len(scores.theories), len(scores.items)
    sources = {
        "consensus": np.array(of["consensus"], dtype=np.float64).reshape(shape),
        "mean of the models": np.array(of["mean_score"], dtype=np.float64).reshape(shape),
        **dict(zip(scores.models, scores.values, strict=True)),
    }
    rng = np.random.default_rng(seed)
    resamples = rng.integers(len(at), size=(draws, len(at)))
    rows = []
    for j, theory in enumerate(scores.theories):
        found = {
            name: _measured(values[j, at], share, resamples) for name, values in sources.items()
        }
        ours = found["consensus"]["auroc"]
        for name, measured in found.items():
            row: dict[str, object] = {"source": name, "theory": theory}
            row["n"] = int(np.isfinite(sources[name][j, at]).sum())
            gain = ours - measured["auroc"]
            for measure, values in {**measured, "auroc_gain": gain}.items():
                row |= _numbers(measure, values)
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _measured(
    values: NDArray[np.float64], share: NDArray[np.float64], resamples: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return each measure as it is and in the resamples, [1 + draws]."""
    there = np.isfinite(values)
    whole = np.arange(len(values))
    found: dict[str, list[float]] = {name: [] for name in _MEASURES}
    for at in (whole, *resamples):
        some = at[there[at]]
        for name, measure in _MEASURES.items():
            found[name].append(measure(values[some], share[some]) if len(some) else float("nan"))
    return {name: np.array(some) for name, some in found.items()}


def _numbers(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    if not np.isfinite(values).all():
        value = float(values[0])
        return {
            name: value if np.isfinite(value) else None,
            f"{name}_low": None,
            f"{name}_high": None,
        }
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
