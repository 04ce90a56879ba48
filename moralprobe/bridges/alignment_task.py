"""What a consensus says to a model: texts, its scores, the others' consensus; what is held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.errors import DataError

FEWEST: Final = 30
"""Items that are needed, and beginnings that differ: fewer can't be split."""
STEM: Final = 6
"""Texts whose first words are alike, so many of them, are kept on one side and drawn together."""
_TEST, _VALIDATION = 0.25, 0.2


@dataclass(frozen=True)
class Task:
    """What is learnt: `texts`, the model's `own` scores of them and the others' consensus, [n]."""

    texts: tuple[str, ...]
    own: NDArray[np.float64]
    target: NDArray[np.float64]
    theory: str
    word: str


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
    if (why := _why_not(folder)) is not None:
        raise DataError(
            f"{folder} supports no consensus", why, "there is nothing to align a model with"
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
    return Task(tuple(rows["text"]), own, target, theory, theory if word is None else word)


def stems(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each text, [n], the same for those that begin with the same words."""
    begins = [" ".join(text.casefold().split()[:STEM]) for text in texts]
    _, group = np.unique(begins, return_inverse=True)
    return np.asarray(group, np.int64)


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
    order = rng.permutation(n)
    test, validation = round(_TEST * n), round((_TEST + _VALIDATION) * n)
    cuts = {"train": order[validation:], "validation": order[test:validation], "test": order[:test]}
    return {name: np.flatnonzero(np.isin(groups, some)) for name, some in cuts.items()}


def _why_not(folder: Path) -> str | None:
    """Return why a fit supports no consensus, None where it does or doesn't say."""
    try:
        found = json.loads((folder / "consensus.json").read_text("utf-8")).get("why_not")
    except (OSError, ValueError, AttributeError):
        return None
    return None if found is None else str(found)
