"""What a table of annotated actions says of the same text twice, and not the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from moralprobe.data.social_chem import Rows
from moralprobe.data.splits import text_groups
from moralprobe.errors import DataError


@dataclass(frozen=True)
class Finding:
    """What holds of some texts of a table that would better hold of none, and one of them."""

    name: str
    texts: int
    example: str


def findings(rows: Rows) -> tuple[Finding, ...]:
    """Look for normalised texts that the kept rows hold more than once, in several ways."""
    kept = rows.kept.with_columns(group=text_groups(rows.kept["action"]))
    judgment = pl.col("action-moral-judgment")
    kinds = {
        "stand in several rows": pl.len() > 1,
        "are judged good and bad": (judgment.min() < 0) & (judgment.max() > 0),
    }
    if "split" in kept.columns:
        kinds["stand in several splits of the source"] = pl.col("split").n_unique() > 1
    of_texts = kept.group_by("group", maintain_order=True).agg(pl.col("action").first(), **kinds)
    return tuple(
        Finding(name, found.height, found["action"][0])
        for name in kinds
        if not (found := of_texts.filter(pl.col(name))).is_empty()
    )


def refuse(rows: Rows, found: Sequence[Finding]) -> None:
    """Raise DataError, which leaves with 1, where there is a finding."""
    if not found:
        return
    error = DataError(
        f"{rows.source} isn't as strict as asked",
        "; ".join(f"{one.texts} texts {one.name}, one is {one.example[:80]!r}" for one in found),
        "correct these rows, or leave out --strict: then they are counted and kept",
    )
    error.exit_code = 1
    raise error
