"""Principles that stories may break, and texts that are known to keep or to break them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.siblings import connected, folded
from moralprobe.behavior.tables import read_table
from moralprobe.data.datasets import DATASETS
from moralprobe.data.download import downloaded
from moralprobe.data.starter import principles_path
from moralprobe.errors import DataError
from moralprobe.foundations import AXES, AXIS_BY_TAG, AXIS_OF_POLE

STARTER: Final = "starter"
STORIES: Final = "moral-stories"
VIRTUE, VICE = "virtue", "vice"
_OURS: Final = ("principle", "id", "foundation", "pole", "prompt", "keeps", "breaks")
_RULES: Final = ("rot", "rot-moral-foundations", "action-moral-judgment")
_TAG_OF: Final = {axis.virtue: axis.tag for axis in AXES} | {axis.tag: axis.tag for axis in AXES}


@dataclass(frozen=True)
class Principle:
    """A sentence such as "One should not lie to a friend."

    `foundation` is the tag of one of the five axes, `pole` says whether it asks for a `virtue` or
    forbids a `vice`; None where nobody said. `prompt` is the beginning of a story in which it may
    be kept or broken next.
    """

    id: str
    text: str
    foundation: str | None = None
    pole: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Cases:
    """Texts that are known to break a principle or to keep it: three columns of n."""

    principles: tuple[Principle, ...]
    texts: tuple[str, ...]
    breaks: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.texts)

    def pairs(self) -> list[tuple[str, str]]:
        """Return each principle's sentence with its text."""
        return [(one.text, text) for one, text in zip(self.principles, self.texts, strict=True)]

    def groups(self) -> NDArray[np.int64]:
        """Return a number for each case, [n], the same for those of one principle or text.

        Case and punctuation make no other one.
        """
        return connected(
            [folded(one.text) for one in self.principles], list(map(folded, self.texts))
        )


def load_principles(source: str | Path) -> list[Principle]:
    """Read principles, each once.

    Args:
        source: `starter`, those that were written for this project; a table with a column
            `principle`, and where there are `id`, `foundation`, `pole` (`virtue` or `vice`) and
            `prompt` (a story's beginning); Moral Stories (`norm`); or Social-Chemistry-101
            (`rot`), whose rules have a foundation where they were given one alone, and the pole of
            the action's judgment.

    Raises:
        DataError: what can't be read, no principle, an unknown foundation or pole, an id twice.
    """
    frame = _read(source).unique("principle", keep="first", maintain_order=True)
    return [
        Principle(row["id"], row["principle"], row["foundation"], row["pole"], row["prompt"])
        for row in frame.iter_rows(named=True)
    ]


def load_cases(source: str | Path) -> Cases:
    """Read texts that are known to keep a principle or to break it.

    Args:
        source: `starter`; a table with the columns `principle`, `keeps` and `breaks`; or Moral
            Stories; several joined by commas.

    Raises:
        DataError: what can't be read, or a table that holds no such text.
    """
    sources = [part for part in str(source).split(",") if part]
    frame = pl.concat([_read(part) for part in sources or [str(source)]])
    found = [
        (Principle(row["id"], row["principle"], row["foundation"], row["pole"]), row[name], name)
        for row in frame.iter_rows(named=True)
        for name in ("keeps", "breaks")
        if row[name]
    ]
    breaks = np.array([name == "breaks" for _, _, name in found], bool)
    if breaks.all() or not breaks.any():
        raise DataError(
            f"{source} has no texts that are known to keep and to break principles",
            f"{len(found)} texts, {int(breaks.sum())} of them break one",
            "give the columns principle, keeps and breaks, or Moral Stories",
        )
    return Cases(tuple(p for p, _, _ in found), tuple(text for _, text, _ in found), breaks)


def evenly(principles: Sequence[Principle], n: int) -> list[Principle]:
    """Return n principles, evenly over foundations and poles and then over the list; 0 for all."""
    if not 0 < n < len(principles):
        return list(principles)
    kinds: dict[tuple[str | None, str | None], list[Principle]] = {}
    for one in principles:
        kinds.setdefault((one.foundation, one.pole), []).append(one)
    shares = _dealt(n, [len(some) for some in kinds.values()])
    chosen = {
        some[i * len(some) // share].id
        for some, share in zip(kinds.values(), shares, strict=True)
        for i in range(share)
    }
    return [one for one in principles if one.id in chosen]


def _dealt(n: int, sizes: Sequence[int]) -> list[int]:
    """Deal n among kinds of these sizes, one at a time."""
    given = [0] * len(sizes)
    while n:
        for k, size in enumerate(sizes):
            if n and given[k] < size:
                given[k] += 1
                n -= 1
    return given


def _read(source: str | Path) -> pl.DataFrame:
    """Return a table with the columns of `_OURS`."""
    path = Path(source)
    if str(source) == STARTER:
        path = principles_path()
    elif str(source) == STORIES and not path.exists():
        path = downloaded(STORIES)
    if path.suffix in (".jsonl", ".json"):
        frame = _stories(path)
    else:
        frame = read_table(path, {*_OURS, *_RULES})
        if "principle" not in frame.columns and "rot" in frame.columns:
            frame = _rules(frame, path)
    if "principle" not in frame.columns:
        raise DataError(
            f"{path} holds no principles",
            "it has no column 'principle', 'norm' or 'rot'",
            "give a table with a column principle, Moral Stories or Social-Chemistry-101",
        )
    missing = {name: pl.lit(None, pl.String) for name in _OURS if name not in frame.columns}
    frame = frame.with_columns(**missing).select(
        pl.col(_OURS).cast(pl.String).str.strip_chars().replace("", None)
    )
    frame = frame.filter(pl.col("principle").is_not_null())
    if not frame.height:
        raise DataError(f"{path} holds no principles", "its lines are empty", "write some")
    # A principle without a name has that of its place.
    numbers = pl.Series([f"{i + 1}" for i in range(frame.height)])
    frame = frame.with_columns(
        id=pl.col("id").fill_null(numbers),
        foundation=_known(frame["foundation"], _TAG_OF, "foundation", path),
        pole=_known(frame["pole"], _POLE_OF, "pole", path),
    )
    kinds = frame.unique("principle", keep="first", maintain_order=True)
    if kinds["id"].is_duplicated().any():
        name = kinds.filter(pl.col("id").is_duplicated())["id"][0]
        raise DataError(f"{path} has an id twice", repr(name), "give each principle its own")
    return frame


_POLE_OF: Final = {VIRTUE: VIRTUE, VICE: VICE} | {
    pole: VIRTUE if pole == axis.virtue else VICE for pole, axis in AXIS_OF_POLE.items()
}


def _known(column: pl.Series, names: dict[str, str], what: str, path: Path) -> pl.Series:
    wrong = [name for name in column.drop_nulls().unique() if name.casefold() not in names]
    if wrong:
        raise DataError(
            f"{path} has an unknown {what}",
            repr(wrong[0]),
            f"write one of {', '.join(names)}, or leave it empty",
        )
    return pl.Series(
        [None if name is None else names[name.casefold()] for name in column.to_list()],
        dtype=pl.String,
    )


def _rules(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return Social-Chemistry-101's rules of thumb, whose action is judged good or bad."""
    if absent := set(_RULES) - set(frame.columns):
        raise DataError(
            f"{path} is no table of rules", f"it has no column {min(absent)!r}", "give all columns"
        )
    tags = pl.col("rot-moral-foundations").fill_null("")
    judged = pl.col("action-moral-judgment").cast(pl.Float64, strict=False)
    return frame.filter(judged != 0).select(
        principle=pl.col("rot"),
        foundation=pl.when(tags.is_in(list(AXIS_BY_TAG))).then(tags),
        pole=pl.when(judged > 0).then(pl.lit(VIRTUE)).otherwise(pl.lit(VICE)),
    )


def _stories(path: Path) -> pl.DataFrame:
    """Return Moral Stories' norms with their actions, which may stand on lines of their own."""
    try:
        lines = path.read_text("utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
        kept = [
            {
                "principle": row["norm"],
                "keeps": row.get("moral_action"),
                "breaks": row.get("immoral_action"),
            }
            for row in rows
        ]
    except OSError as error:
        raise DataError(
            f"can't read {path}", str(error.strerror or error), "check the path"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} isn't Moral Stories",
            f"a line isn't JSON with a norm: {error!r}",
            f"give {DATASETS['moral-stories'].table}, a story a line",
        ) from error
    return pl.DataFrame(kept, schema=dict.fromkeys(("principle", "keeps", "breaks"), pl.String))
