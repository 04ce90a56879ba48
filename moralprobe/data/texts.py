"""Plain texts from a file: a line each, or the field `text` of JSON lines."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from moralprobe.errors import DataError

SUFFIXES: Final = (".txt", ".jsonl")


@dataclass(frozen=True)
class Texts:
    """Texts and nothing else, as whatever reads a table's column `action` takes them."""

    texts: Sequence[str]

    @property
    def frame(self) -> pl.DataFrame:
        """The table."""
        return pl.DataFrame({"action": self.texts}, schema={"action": pl.String})

    def to_bytes(self) -> bytes:
        """Return the table as a Parquet file."""
        buffer = io.BytesIO()
        self.frame.write_parquet(buffer)
        return buffer.getvalue()


def load_lines(path: Path) -> list[str]:
    """Read texts that aren't blank, verbatim and in their order.

    Args:
        path: `.txt`, a text a line, or `.jsonl`, objects with a field `text`.

    Raises:
        DataError: no such file, another kind, or a line that can't be read.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path} holds no texts that can be read",
            f"it ends in {path.suffix or 'nothing'}",
            f"give a file in {' or '.join(SUFFIXES)}, or a table made by: moralprobe vectors build",
        )
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"can't read {path}", str(error.strerror or error), "check it") from error
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path} isn't UTF-8", f"line {row}", "convert it to UTF-8") from error
    texts = []
    for row, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            try:
                line = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path} has a line without a text",
                    f"line {row} is no object with a field 'text'",
                    "write one object a line",
                ) from error
            if not isinstance(line, str):
                raise DataError(
                    f"{path} has a line without a text",
                    f"the field 'text' of line {row} is no string",
                    "write one object a line",
                )
        if line.strip():
            texts.append(line)
    if not texts:
        raise DataError(f"{path} holds no text", "all lines are blank", "check the file")
    return texts
