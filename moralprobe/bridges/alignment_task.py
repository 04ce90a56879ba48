"""What a consensus says to a model: texts, its scores, the others' consensus; what is held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.siblings import STEM, parted
from moralprobe.errors import DataError

FEWEST: Final = 30
"""Items that are needed, and beginnings that differ: fewer can't be split."""
SHARES: Final = {"test": 0.25, "validation": 0.2, "train": 0.55}
"""Of the groups of texts: to test on, to choose by, and to train on."""


@dataclass(frozen=True)
class Task:
    """What is learnt: `texts`, the model's `own` scores of them and the others' consensus, [n].

    `elsewhere` has the others' consensus of the same texts under other theories, NaN where there is
    none; `through` is what followed "Judge this" when the model was scored, if that is known, and
    `consensus` the hash of the scores that it was fitted to.
    """

    texts: tuple[str, ...]
    own: NDArray[np.float64]
    target: NDArray[np.float64]
    theory: str
    word: str
    through: str | None = None
    elsewhere: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    consensus: str | None = None


def task_of(folder: Path, model: str, theory: str, word: str | None = None) -> Task:
    """Return what a consensus says to a model under a theory.

    Args:
        folder: that `consensus fit` wrote.
        model: its name in the scores; the consensus is that without it and its family.
        theory: one of the scores'.
        word: that the question names; the theory's name, if not given.

    Raises:
        DataError: no such folder, model or theory, no texts, no consensus, or too few items.
    """
    try:
        left, items = (pl.read_parquet(folder / f"{n}.parquet") for n in ("left_out", "items"))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder} holds no consensus", str(error).splitlines()[0], "fit one: consensus fit"
        ) from error
    if "text" not in items.columns:
        raise DataError(
            f"{folder} doesn't say what was judged",
            "its items have no text: the scores had no column 'text', or were of two texts each",
            "score single texts with consensus score, and fit anew",
        )
    about = _about(folder)
    if (why := about.get("why_not")) is not None:
        raise DataError(
            f"{folder} supports no consensus", str(why), "there is nothing to align a model with"
        )
    for name, given, column in (("model", model, "model"), ("theory", theory, "theory")):
        if given not in (known := left[column].unique(maintain_order=True).to_list()):
            raise DataError(
                f"{folder} has no {name} {given!r}",
                f"it has {', '.join(map(str, known))}",
                "score with it first, and fit anew",
            )
    texts = items.filter(pl.col("theory") == theory).select("item", "text")
    mine = left.filter((pl.col("model") == model) & (pl.col("theory") == theory))
    if mine["consensus"].null_count() == mine.height:
        raise DataError(
            f"there is no consensus without {model}",
            "the others are of fewer than two families, or have nothing in common",
            "score with models of two other families at least",
        )
    rows = mine.join(texts, on="item", maintain_order="left").drop_nulls(
        ["score", "consensus", "text"]
    )
    if rows.height < FEWEST:
        raise DataError(
            f"there are too few items to align {model} on",
            f"{rows.height} have its score, a text and a consensus without it; {FEWEST} are needed",
            "score more items",
        )
    own, target = (rows[name].to_numpy().astype(np.float64) for name in ("score", "consensus"))
    elsewhere = {
        str(other): rows.select("item")
        .join(some, on="item", how="left", maintain_order="left")["consensus"]
        .cast(pl.Float64)
        .fill_null(np.nan)
        .to_numpy()
        for (other,), some in left.filter(model=model).group_by("theory", maintain_order=True)
        if other != theory
    }
    return Task(
        tuple(rows["text"]),
        own,
        target,
        theory,
        theory if word is None else word,
        (about.get("words") or {}).get(theory),
        elsewhere,
        about.get("scores"),
    )


def split(groups: NDArray[np.int64], rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Return a quarter of the groups to test on, a fifth to choose by, and the rest to train on.

    Raises:
        DataError: fewer groups than `FEWEST`.
    """
    n = int(groups.max()) + 1
    if n < FEWEST:
        raise DataError(
            "the texts are too much alike to hold some out",
            f"they begin in {n} ways, by their first {STEM} words; {FEWEST} are needed",
            "score texts of more kinds",
        )
    return {name: np.flatnonzero(some) for name, some in parted(groups, SHARES, rng).items()}


def _about(folder: Path) -> dict[str, Any]:
    """Return what a fit says of itself, nothing where it doesn't."""
    try:
        found = json.loads((folder / "consensus.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
