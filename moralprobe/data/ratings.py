"""Human ratings of words and things: how typical of its category each one is.

Two kinds of table are read. One holds a line an item: `item`, `category`, `rating` (Rosch 1975: how
good an example of its category a thing is). The other is MoralStrength (Araque et al. 2020): a file
a foundation, `WORD` and `EXPRESSED_MORAL` from 1 (vice) to 9 (virtue).
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.data.social_chem import Rule, read_columns, sha256_of
from moralprobe.data.splits import group_of, normalise
from moralprobe.errors import DataError, UsageError
from moralprobe.foundations import AXES

COLUMNS: Final[tuple[str, ...]] = (
    "row",
    "action",
    "category",
    "unit",
    "group",
    "rating",
    "score",
)
"""Of a ratings table: `action` is the item, under the name that extraction reads; `unit` what was
rated, where several items share one rating; `score` is typicality from 0 to 1."""
_METADATA_KEY: Final = "moralprobe ratings"
_PLAIN: Final = ("item", "category", "rating")
_MORAL_STRENGTH: Final = ("WORD", "EXPRESSED_MORAL")
_POLES: Final = {
    **{axis.tag: (axis.virtue, axis.vice) for axis in AXES},
    **{axis.virtue: (axis.virtue, axis.vice) for axis in AXES},
    "purity": (AXES[4].virtue, AXES[4].vice),
}


@dataclass(frozen=True)
class Scale:
    """The ends of a rating scale: `most` and `least` typical.

    Where there is a `middle`, the scale has two poles: a rating's typicality is its distance from
    the middle, of the pole on whose side it lies; `most` is then the virtue's end.
    """

    most: float
    least: float
    middle: float | None = None


@dataclass(frozen=True)
class Ratings:
    """A table of rated items (`COLUMNS`), and how it came about."""

    frame: pl.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frame.height

    def to_bytes(self) -> bytes:
        """Return the table as a Parquet file with its provenance."""
        buffer = io.BytesIO()
        self.frame.write_parquet(buffer, metadata={_METADATA_KEY: json.dumps(self.meta)})
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Ratings:
        """Read what `to_bytes` gave; anything else raises DataError."""
        instead = "make a store of ratings with: moralprobe control MODEL TABLE --out STUDY"
        try:
            # Opened here: polars can't open a path that the locale can't spell.
            with Path(path).open("rb") as stream:
                metadata = pl.read_parquet_metadata(stream).get(_METADATA_KEY)
                stream.seek(0)
                frame = pl.read_parquet(stream)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"can't read {path} as a table of ratings", str(error).splitlines()[0], instead
            ) from error
        if metadata is None or frame.columns != list(COLUMNS):
            raise DataError(f"{path} is no table of ratings", "it holds something else", instead)
        return cls(frame, json.loads(metadata))


def holds_ratings(path: Path) -> bool:
    """Return whether a file is a table that `Ratings.load` reads."""
    try:
        with path.open("rb") as stream:
            return _METADATA_KEY in pl.read_parquet_metadata(stream)
    except (pl.exceptions.PolarsError, OSError):
        return False


def parse_scale(text: str) -> Scale:
    """Read `MOST:LEAST` (Rosch 1975: `1:7`), or `LOW:MIDDLE:HIGH` of a scale with two poles."""
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) == 2 and ends[0] != ends[1]:
        return Scale(ends[0], ends[1])
    if len(ends) == 3 and ends[0] < ends[1] < ends[2]:
        return Scale(ends[2], ends[0], ends[1])
    raise UsageError(
        f"{text!r} is no scale",
        "it names the rating of the most and of the least typical, or both poles and the middle",
        "write 1:7 where 1 is the most typical, 7:1 where 7 is, 1:5:9 where 5 is of neither pole",
    )


def load_ratings(path: str | Path, *, scale: str | None = None) -> Ratings:
    """Read human ratings of typicality.

    Args:
        path: a table with the columns `item`, `category`, `rating`; or a file of MoralStrength, or
            the folder that holds its files.
        scale: `MOST:LEAST`, as `1:7` where 1 is the most typical. Which end that is can't be seen
            in a table, so it must be said; MoralStrength's is known (`1:5:9`).

    Each foundation of MoralStrength becomes two categories, its virtue and its vice, graded by the
    distance from 5: over the whole scale, to know good from bad would already order the words. Its
    words share ratings by whole families (454 words of care hold 50 ratings), so that what was
    rated, a `unit`, is all the words of one rating.

    Raises:
        DataError: an unreadable file, a missing column, a rating off scale, an item rated twice.
        UsageError: no scale where one is needed, or one that can't be read.
    """
    path = Path(path)
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not files:
        raise DataError(
            f"{path} holds no .tsv file", "a folder is read as MoralStrength", "name a table"
        )
    parts, moral = [], False
    for file in files:
        raw = read_columns(file, (*_PLAIN, *_MORAL_STRENGTH))
        moral = set(_MORAL_STRENGTH) <= set(raw.columns)
        _require(raw, file, path.is_dir())
        if moral:
            raw = raw.rename(dict(zip(_MORAL_STRENGTH, ("item", "rating"), strict=True)))
            raw = raw.with_columns(category=pl.lit(file.stem))
        parts.append(raw.select(_PLAIN).with_row_index("row").with_columns(file=pl.lit(file.name)))
    ends = parse_scale(scale or "1:5:9") if moral or scale else _no_scale(path)
    frame, rules = _graded(pl.concat(parts), ends, shared=moral)
    meta = {
        "source": {"name": path.name, "files": {file.name: sha256_of(file) for file in files}},
        "scale": asdict(ends),
        "rules": [asdict(rule) for rule in rules],
    }
    if frame.is_empty():
        dropped = "; ".join(f"{rule.name}: {rule.dropped}" for rule in rules if rule.dropped)
        raise DataError(
            f"no row of {path.name} is left", dropped or "it has none", "check the table"
        )
    return Ratings(frame.select(COLUMNS), meta)


def _no_scale(path: Path) -> Scale:
    raise UsageError(
        f"which end of the scale of {path.name} is the most typical isn't known",
        "a table doesn't say, and the wrong one would turn every correlation round",
        "pass --scale 1:7 where 1 is the most typical (Rosch 1975), --scale 7:1 where 7 is",
    )


def _require(raw: pl.DataFrame, file: Path, folder: bool) -> None:
    if set(_MORAL_STRENGTH) <= set(raw.columns) or (set(_PLAIN) <= set(raw.columns) and not folder):
        return
    wanted = _MORAL_STRENGTH if folder or "WORD" in raw.columns else _PLAIN
    name = next(name for name in wanted if name not in raw.columns)
    raise DataError(
        f"{file.name} has no column {name!r}",
        f"needed are {', '.join(_PLAIN)}, or {' and '.join(_MORAL_STRENGTH)}",
        f"rename the column that holds it to {name!r}",
    )


def _graded(
    raw: pl.DataFrame, scale: Scale, *, shared: bool
) -> tuple[pl.DataFrame, tuple[Rule, ...]]:
    """Check the ratings, turn them into typicality from 0 to 1, and say what was dropped."""
    rules: list[Rule] = []
    frame = raw.with_columns(pl.col(_PLAIN).str.strip_chars().fill_null(""))

    def drop(name: str, fails: pl.Expr) -> None:
        nonlocal frame
        kept = frame.filter(~fails)
        rules.append(Rule(name, frame.height - kept.height))
        frame = kept

    for name in _PLAIN:
        drop(f"no {name}", pl.col(name) == "")
    frame = frame.with_columns(
        pl.col("rating").cast(pl.Float64, strict=False), written=pl.col("rating")
    )
    _check_on_scale(frame, scale)
    if scale.middle is None:
        score = (pl.col("rating") - scale.least) / (scale.most - scale.least)
    else:
        drop("in the middle, of neither pole", pl.col("rating") == scale.middle)
        high, low = scale.most - scale.middle, scale.middle - scale.least
        above = pl.col("rating") - scale.middle
        score = pl.when(above > 0).then(above / high).otherwise(-above / low)
        poles = {
            name: _POLES.get(name, (f"{name} (high)", f"{name} (low)"))
            for name in frame["category"].unique()
        }
        first, second = (
            pl.col("category").replace_strict({n: p[k] for n, p in poles.items()}, default="")
            for k in (0, 1)
        )
        frame = frame.with_columns(category=pl.when(above > 0).then(first).otherwise(second))
    unit = pl.col("written") if shared else pl.col("action")
    frame = frame.rename({"item": "action"}).with_columns(score=score)
    frame = frame.with_columns(
        unit=unit,
        group=pl.Series([group_of(item) for item in frame["action"]], dtype=pl.String),
    )
    _check_rated_once(frame)
    drop("the same item and rating again", ~pl.struct("category", "group").is_first_distinct())
    return frame, tuple(rules)


def _check_on_scale(frame: pl.DataFrame, scale: Scale) -> None:
    low, high = sorted((scale.most, scale.least))
    # NaN and what is no number lie on no scale.
    wrong = frame.filter(~pl.col("rating").is_between(low, high).fill_null(False))
    if wrong.height:
        file, row, value = wrong.select("file", "row", "written").row(0)
        raise DataError(
            f"{file}, data row {row + 1}: rating is {value!r}",
            f"it must be a number from {low:g} to {high:g}",
            f"correct the {wrong.height} such rows, or name another --scale",
        )


def _check_rated_once(frame: pl.DataFrame) -> None:
    twice = frame.filter(pl.col("rating").n_unique().over("category", "group") > 1)
    if twice.height:
        item, category = twice.select("action", "category").row(0)
        ratings = twice.filter(category=category, group=group_of(item))["written"].to_list()
        raise DataError(
            f"{normalise(item)!r} of {category!r} is rated {' and '.join(ratings)}",
            "which of them holds can't be known",
            "keep one, or their mean",
        )
