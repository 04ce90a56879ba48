"""What a panel judges: one action, or two of which one is more acceptable; and what people said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from moralprobe.behavior.tables import read_table
from moralprobe.errors import DataError

_TEXT: Final = {"item", "text", "other", "share"}
_SCRUPLES: Final = ("action_1", "action_2")
_VOTES: Final = ("votes_1_less_ethical", "votes_2_less_ethical")
_ETHICS: Final = {"input", "scenario", "excuse", "label"}
_TRAIT: Final = "[SEP]"


@dataclass(frozen=True)
class Dilemmas:
    """What is judged: `texts` by `items`, with `others` where the question is which of two.

    `shares` are of people who find a text acceptable, or more acceptable than its other one; None
    where nobody was asked. `left_out` counts lines of the table without a text, or other text.
    """

    items: tuple[str, ...]
    texts: tuple[str, ...]
    others: tuple[str, ...] | None = None
    shares: tuple[float | None, ...] | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def first(self, n: int) -> Dilemmas:
        """Return n of them, evenly spread over the table; all, if there are fewer or n is 0."""
        if not 0 < n < len(self):
            return self
        at = [i * len(self) // n for i in range(n)]
        return Dilemmas(
            tuple(self.items[i] for i in at),
            tuple(self.texts[i] for i in at),
            None if self.others is None else tuple(self.others[i] for i in at),
            None if self.shares is None else tuple(self.shares[i] for i in at),
            self.left_out,
        )


def load_dilemmas(path: Path) -> Dilemmas:
    """Read what is to be judged.

    Args:
        path: a text file with one a line; a table with a column `text`, and where there are
            `item` (its name), `other` (a second action: which is more acceptable?) and `share` (of
            people who find the text acceptable, or more acceptable); Scruples' dilemmas with
            `action_1` and `action_2`, and votes where there are; or ETHICS' file of commonsense,
            justice or deontology.

    Raises:
        DataError: what can't be read, no text at all, an item that stands twice, wrong shares.
    """
    path = Path(path)
    frame = _read(path)
    columns = [name for name in ("text", "other") if name in frame.columns]
    there = [pl.col(name).str.strip_chars().fill_null("") != "" for name in columns]
    whole = frame.filter(pl.all_horizontal(there))
    if not whole.height:
        raise DataError(
            f"{path} has nothing to judge", f"{frame.height} lines have no text", "give some"
        )
    left_out, frame = frame.height - whole.height, whole
    twice = frame.filter(frame["item"].is_duplicated())
    if twice.height:
        raise DataError(
            f"{path} has an item twice", repr(twice["item"][0]), "give each a name of its own"
        )
    others, shares = (
        tuple(frame[name]) if name in frame.columns else None for name in ("other", "share")
    )
    if shares is not None and any(share is not None and not 0 <= share <= 1 for share in shares):
        raise DataError(
            "shares of people lie between 0 and 1", f"{path} has others", "divide votes by people"
        )
    return Dilemmas(tuple(frame["item"]), tuple(frame["text"]), others, shares, left_out)


def _read(path: Path) -> pl.DataFrame:
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"can't read {path}", str(error), "give text in UTF-8") from error
        frame = pl.DataFrame({"text": [line for line in lines if line.strip()]})
    else:
        frame = read_table(path, {*_TEXT, *_SCRUPLES, *_VOTES, *_ETHICS})
        for name in {*_VOTES, "label"} & set(frame.columns):
            _refuse_words(frame[name], path)
    words = [name for name in frame.columns if name not in ("share", "label", *_VOTES)]
    frame = _named(frame.with_columns(pl.col(words).cast(pl.String)), path)
    if "item" not in frame.columns:
        frame = frame.with_columns(item=pl.int_range(1, pl.len() + 1).cast(pl.String))
    frame = frame.with_columns(pl.col("item").str.strip_chars().replace("", None))
    if frame["item"].null_count():
        raise DataError(f"{path} has items without a name", "a cell is empty", "name all, or none")
    if "share" in frame.columns:
        _refuse_words(frame["share"], path)
        given = pl.col("share").cast(pl.String).str.strip_chars().replace("", None)
        frame = frame.with_columns(share=given.cast(pl.Float64, strict=False))
    return frame


def _refuse_words(column: pl.Series, path: Path) -> None:
    """Refuse a column of numbers that holds what is none."""
    given = column.cast(pl.String).str.strip_chars().replace("", None)
    wrong = given.filter(given.is_not_null() & given.cast(pl.Float64, strict=False).is_null())
    if wrong.len():
        raise DataError(
            f"{path} has {column.name}s that are no numbers",
            f"{wrong.len()}, such as {wrong[0]!r}",
            "write 0.8, or leave it empty where nobody was asked",
        )


def _named(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return a table with the columns `text`, `other` and `share`, whosever it is."""
    has = set(frame.columns)
    item = ["item"] if "item" in has else []
    if "text" in has and not set(_SCRUPLES) <= has:
        return frame.select(*sorted(has & _TEXT))
    if set(_SCRUPLES) <= has:
        return frame.select(*item, text=pl.col("action_1"), other=pl.col("action_2"), **_votes(has))
    label = pl.col("label").cast(pl.Float64, strict=False) if "label" in has else None
    if {"scenario", "excuse"} <= has:
        return frame.select(
            *item, text=pl.concat_str("scenario", "excuse", separator=" "), **_share(label)
        )
    if "scenario" in has:
        if frame["scenario"].str.contains(_TRAIT, literal=True).any():
            raise DataError(
                f"{path} asks whether a word is true of someone",
                "ETHICS' virtue file has no action to judge",
                "give its justice, deontology or commonsense file",
            )
        return frame.select(*item, text=pl.col("scenario"), **_share(label))
    if "input" in has:  # of commonsense a label of 1 says that it is wrong
        return frame.select(
            *item, text=pl.col("input"), **_share(None if label is None else 1 - label)
        )
    raise DataError(
        f"{path} is no table of dilemmas",
        "it has no column 'text'",
        "columns are text, and may be item, other, share; or those of Scruples or ETHICS",
    )


def _votes(has: set[str]) -> dict[str, pl.Expr]:
    if not set(_VOTES) <= has:
        return {}
    first, second = (pl.col(name).cast(pl.Float64, strict=False) for name in _VOTES)
    return {"share": pl.when(first + second > 0).then(second / (first + second))}


def _share(label: pl.Expr | None) -> dict[str, pl.Expr]:
    return {} if label is None else {"share": label}
