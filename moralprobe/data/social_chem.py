"""Load and clean Social-Chemistry-101, or any file with a subset of its columns.

The cleaning rules are those of arXiv 2603.15615 (released scripts); each one counts what it drops,
and says so where the file lacks the column it reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moralprobe.data.schema import NEEDED, SCALES, SOURCE_COLUMNS, USED, Agreement, Schema
from moralprobe.errors import DataError, nearest
from moralprobe.foundations import AXIS_TAGS


@dataclass(frozen=True)
class Rule:
    """One cleaning rule and what it did: `dropped` rows, or None where it doesn't apply."""

    name: str
    dropped: int | None
    note: str = ""


@dataclass(frozen=True)
class Rows:
    """Annotated actions with typed columns, and where they come from.

    `frame` has a column `row` (position in the source, from 0) and, of the source's columns, those
    that are used. `kept` marks the rows that pass the rules of `schema`.
    """

    frame: pl.DataFrame
    rules: tuple[Rule, ...]
    source: str
    sha256: str
    n_source: int
    agreement: Agreement
    schema: Schema

    @property
    def kept(self) -> pl.DataFrame:
        """The rows that pass every rule."""
        return self.frame.filter(pl.col("kept"))


def load_rows(path: Path, *, schema: Schema, agreement: Agreement) -> Rows:
    """Read a table of annotated actions, check it, and apply the cleaning rules.

    Args:
        path: a tab or comma separated file with a header; needed are the columns `action`,
            `rot-moral-foundations`, `action-moral-judgment` and the agreement column.
        schema: `li2026` applies the paper's rules, `factored` keeps rows with several annotators.
        agreement: the column that says how many people would agree.

    Raises:
        DataError: an unreadable file, a missing column, an unknown foundation, a value off scale.
    """
    raw = read_columns(path, USED)
    _require(raw, path, agreement)
    frame = _typed(raw, path)
    frame, rules = _mark_kept(frame, schema=schema, agreement=agreement)
    return Rows(frame, rules, path.name, sha256_of(path), raw.height, agreement, schema)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_columns(path: Path, known: Collection[str]) -> pl.DataFrame:
    """Read the columns of a table that are known, as text; one without any has no rows.

    Args:
        path: a tab, comma or semicolon separated file with a header.
        known: names of columns.

    Raises:
        DataError: an unreadable or empty file, or a known column that stands twice.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError as error:
        raise DataError(
            f"can't read {path}", str(error.strerror or error), "check the path and its permissions"
        ) from error
    if not head.strip():
        raise DataError(f"{path} is empty", "it has no header", "give a file with a header row")
    first_line = head.split(b"\n", 1)[0]
    separator = max("\t,;", key=lambda mark: first_line.count(mark.encode()))
    try:
        # Opened here: polars can't open a path that the locale can't spell.
        with path.open("rb") as stream:
            names = pl.read_csv(stream, separator=separator, infer_schema=False, n_rows=0).columns
        _refuse_repeated(path, names, known)
        wanted = [name for name in names if name in known]
        if not wanted:
            return pl.DataFrame({name: [] for name in names})
        with path.open("rb") as stream:
            return pl.read_csv(stream, separator=separator, infer_schema=False, columns=wanted)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        _refuse_not_utf8(path)
        raise DataError(
            f"can't read {path} as a table",
            str(error).splitlines()[0],
            "it must be UTF-8, tab or comma separated, with a header row and doubled quotes",
        ) from error


def _refuse_not_utf8(path: Path) -> None:
    """Name the first line whose bytes are no text, which the reader of tables doesn't."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                found = line[error.start : error.end].hex(" ")
                raise DataError(
                    f"can't read {path}: line {number}, byte {error.start + 1} is not UTF-8",
                    f"it reads {found} ({error.reason}); the header is line 1",
                    "save the table as UTF-8, or correct the line",
                ) from error


def _refuse_repeated(path: Path, names: list[str], known: Collection[str]) -> None:
    # polars numbers the later ones and would take the first without a word.
    repeated = {name.split("_duplicated_")[0] for name in names if "_duplicated_" in name}
    if twice := sorted(repeated & set(known)):
        raise DataError(
            f"{path.name} has the column {twice[0]!r} more than once",
            "which of them holds is not known",
            "remove or rename the others",
        )


def _require(raw: pl.DataFrame, path: Path, agreement: Agreement) -> None:
    for name in (*NEEDED, agreement):
        if name in raw.columns:
            continue
        other = "rot-agree" if agreement == "action-agree" else "action-agree"
        if name == agreement and other in raw.columns:
            instead = f"pass --agreement {other} to take the agreement from that column"
        else:
            used = ", ".join(column for column in raw.columns if column in SOURCE_COLUMNS) or "none"
            instead = f"rename the column that holds it to {name!r}; columns recognised: {used}"
        raise DataError(f"{path.name} has no column {name!r}", "it is needed", instead)


def _typed(raw: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Strings to whole numbers and lists of tags, refusing what the scales don't know."""
    blank_to_null = [
        pl.when(pl.col(name).str.strip_chars() == "").then(None).otherwise(pl.col(name)).alias(name)
        for name in raw.columns
    ]
    frame = raw.with_row_index("row").with_columns(blank_to_null)
    for name, scale in SCALES.items():
        if name not in frame.columns:
            continue
        number = frame[name].cast(pl.Float64, strict=False)
        wrong = frame[name].is_not_null() & (
            number.is_null()
            | number.is_nan().fill_null(False)
            | (number != number.round(0)).fill_null(True)
            | ~number.is_between(scale.low, scale.high).fill_null(False)
        )
        if wrong.any():
            row, value = frame.filter(wrong).select("row", name).row(0)
            raise DataError(
                f"{path.name}, data row {row + 1}: {name} is {value!r}",
                f"it must be a whole number from {scale.low} to {scale.high} or empty",
                f"correct the {int(wrong.sum())} such rows",
            )
        frame = frame.with_columns(number.cast(pl.Int16).alias(name))
    tags = frame["rot-moral-foundations"].str.split("|")
    known = set(AXIS_TAGS)
    for tag in tags.explode().drop_nulls().unique().sort().to_list():
        if tag not in known:
            row = frame.filter(tags.list.contains(tag))["row"][0]
            raise DataError(
                f"{path.name}, data row {row + 1}: unknown foundation {tag!r}",
                nearest(tag, AXIS_TAGS),
                "write the tags of Social-Chemistry-101, joined by |",
            )
    # In the order of the axes and each once, so that equal sets are equal strings.
    ordered = pl.concat_str(
        [
            pl.when(pl.col("tags").list.contains(tag)).then(pl.lit(f"|{tag}")).otherwise(pl.lit(""))
            for tag in AXIS_TAGS
        ]
    ).str.strip_prefix("|")
    return (
        frame.with_columns(tags.alias("tags"))
        .with_columns(pl.when(pl.col("tags").is_not_null()).then(ordered).alias("axes"))
        .drop("tags", "rot-moral-foundations")
    )


def _mark_kept(
    frame: pl.DataFrame, *, schema: Schema, agreement: Agreement
) -> tuple[pl.DataFrame, tuple[Rule, ...]]:
    """Apply the rules in order; a row counts as dropped by the first rule that it breaks."""
    rules: list[Rule] = []
    kept = pl.Series("kept", [True]).new_from_index(0, frame.height)
    paper = kept

    def drop(name: str, fails: pl.Series, note: str = "") -> None:
        nonlocal kept
        fails = fails.fill_null(True)
        rules.append(Rule(name, int((kept & fails).sum()), note))
        kept = kept & ~fails

    if "rot-bad" in frame.columns:
        drop("rot-bad is not 0", frame["rot-bad"] != 0)
        paper = kept
    else:
        rules.append(Rule("rot-bad is not 0", None, "the file has no column rot-bad"))
    if "m" not in frame.columns:
        rules.append(Rule("m is not 1", None, "the file has no column m"))
    elif schema == "li2026":
        drop("m is not 1", frame["m"] != 1, "several workers broke the rule down")
        paper = kept
    else:
        rules.append(Rule("m is not 1", None, "schema factored keeps repeated annotations"))
        paper = kept & (frame["m"] == 1).fill_null(False)
    for column, what in (
        ("action", "no action"),
        ("axes", "no moral foundation"),
        ("action-moral-judgment", "no judgment"),
        (agreement, f"no {agreement}"),
    ):
        drop(what, frame[column].is_null())
    return frame.with_columns(kept=kept, paper=paper & kept), tuple(rules)
