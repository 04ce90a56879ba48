"""Tables that people bring: Parquet, or text with a header."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import polars as pl

from moralprobe.data.social_chem import read_columns
from moralprobe.errors import DataError


def read_table(path: Path, known: Collection[str]) -> pl.DataFrame:
    """Read the columns of a table that are known; those of text are text.

    Args:
        path: Parquet, or tab, comma or semicolon separated with a header.
        known: names of columns.

    Raises:
        DataError: what can't be read, a known column that stands twice, or one that holds lists.
    """
    if path.suffix != ".parquet":
        return read_columns(path, known)
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"can't read {path}", str(error).splitlines()[0], "give Parquet, or a text table"
        ) from error
    frame = frame.select(name for name in frame.columns if name in known)
    if nested := [name for name, kind in frame.schema.items() if kind.is_nested()]:
        raise DataError(f"can't use {path}", f"its column {nested[0]!r} holds lists", "give values")
    return frame
