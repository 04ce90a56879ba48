"""Text groups and splits: no normalised text ever stands on both sides of a split."""

from __future__ import annotations

from typing import Final

import polars as pl
import xxhash

from moralprobe.errors import DataError

SPLITS: Final[tuple[str, ...]] = ("train", "dev", "test")
# A group that the source spreads over splits goes to the first of these that it touches, so that a
# held-out text is one that training never showed.
_PRECEDENCE: Final[tuple[str, ...]] = (
    "train",
    "analysis",
    "none",
    "dev",
    "dev-extra",
    "test",
    "test-extra",
)


def normalise(text: str) -> str:
    """Return the text casefolded, stripped, and with runs of blanks as one blank."""
    return " ".join(text.casefold().split())


def group_of(text: str) -> str:
    """Return the id of a text's group: xxh3_64 of the normalised text, 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(normalise(text).encode("utf-8", "surrogatepass"))


def text_groups(texts: pl.Series) -> pl.Series:
    """Return the group id of every text; each distinct text is normalised once."""
    distinct = texts.unique()
    mapping = pl.DataFrame(
        {"text": distinct, "group": [group_of(text) for text in distinct.to_list()]},
        schema={"text": pl.String, "group": pl.String},
    )
    return texts.to_frame("text").join(mapping, on="text", how="left", maintain_order="left")[
        "group"
    ]


def split_groups(groups: pl.Series, source: pl.Series | None) -> pl.Series:
    """Assign each row the split of its text group.

    Args:
        groups: [n] group ids.
        source: [n] the dataset's own (situation-level) split, or None where the file has none; then
            groups go 80/10/10 by their hash.

    Returns:
        [n] one split a row; equal groups get equal splits. A row without a split counts as train.

    Raises:
        DataError: a split that the dataset doesn't have.
    """
    if source is None:
        bucket = pl.Series([int(group[:8], 16) % 10 for group in groups.to_list()], dtype=pl.Int64)
        return pl.select(
            split=pl.when(bucket == 8)
            .then(pl.lit("dev"))
            .when(bucket == 9)
            .then(pl.lit("test"))
            .otherwise(pl.lit("train"))
        )["split"]
    unknown = sorted(set(source.drop_nulls().unique().to_list()) - set(_PRECEDENCE))
    if unknown:
        raise DataError(
            f"unknown split {unknown[0]!r}",
            f"known are {', '.join(_PRECEDENCE)}",
            "rename it, or leave the column out: then groups are split 80/10/10 by their hash",
        )
    rank = source.replace_strict(
        list(_PRECEDENCE), list(range(len(_PRECEDENCE))), default=0, return_dtype=pl.Int64
    )
    first = pl.DataFrame({"group": groups, "rank": rank}).with_columns(
        pl.col("rank").min().over("group")
    )["rank"]
    return first.replace_strict(
        list(range(len(_PRECEDENCE))), list(_PRECEDENCE), return_dtype=pl.String
    ).alias("split")
