"""A table of scores: how acceptable each model finds each item under each theory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from moralprobe.behavior.siblings import siblings
from moralprobe.behavior.tables import read_table
from moralprobe.errors import DataError, UsageError, nearest
from moralprobe.files import canonical_json

COLUMNS: Final = ("model", "item", "score")
OPTIONAL: Final = ("theory", "family", "text")
SCORES: Final = "scores.parquet"
"""The table in a folder that `consensus score` wrote."""
ABOUT: Final = "score.json"
"""What stands beside it: who was asked, and in which words."""
ONE_THEORY: Final = "acceptable"
"""The theory of a table that names none."""


@dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1, `values` [models, theories, items], NaN where a model gave none.

    `families` says which models are kin, one name a model; `unscored` counts items that no model
    scored under any theory, which are left out, as theories are that no model scored by. `texts`
    are what was judged, where the table says, and `words` what models were asked by each theory
    ("Judge this ...").
    """

    values: NDArray[np.float64]
    models: tuple[str, ...]
    theories: tuple[str, ...]
    items: tuple[str, ...]
    families: tuple[str, ...]
    unscored: int = 0
    texts: tuple[str | None, ...] | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    def siblings(self) -> NDArray[np.int64]:
        """Return a number for each item, the same for those whose texts are siblings."""
        return siblings(self.texts or [None] * len(self.items))

    def digest(self) -> str:
        """Return a hash of all scores and of whose and of what they are."""
        names = [self.models, self.families, self.theories, self.items, self.texts]
        found = xxhash.xxh3_128(canonical_json(names))
        found.update(np.ascontiguousarray(self.values).data)
        return found.hexdigest()


def load_scores(*paths: Path, families: Mapping[str, str] | None = None) -> Scores:
    """Read tables with a line a score.

    Args:
        paths: Parquet, or tab or comma separated: `model`, `item`, `score` (empty where the model
            gave none), and where there are `theory`, `family` (of the model) and `text` (of the
            item); or folders that `consensus score` wrote.
        families: of models by their names, whatever the tables say.

    Raises:
        DataError: no table, what can't be read, a column that is missing, scores that are no
            numbers or not between 0 and 1, a score that stands twice, a model of two families, one
            model only, a model without any score, or no score at all.
    """
    if not paths:
        raise DataError("there are no scores", "no table is given", "give one or several")
    at = [Path(path) / SCORES if Path(path).is_dir() else Path(path) for path in paths]
    frame = pl.concat([_read(path) for path in at], how="diagonal_relaxed")
    kin = dict(families or {})
    if absent := set(kin) - set(frame["model"]):
        raise DataError(
            f"there is no model {min(absent)!r}",
            nearest(min(absent), frame["model"].unique(maintain_order=True).to_list()),
            "name models as the scores do",
        )
    family = pl.col("model").replace_strict(kin, default=pl.col("family"), return_dtype=pl.String)
    frame = frame.with_columns(family=family)
    found = scores_of(frame, ", ".join(map(str, at)))
    words: dict[str, str] = {}
    for path in at:
        words |= _words(path.parent / ABOUT) if path.name == SCORES else {}
    return replace(found, words=words)


def parse_families(text: str) -> dict[str, str]:
    """Read `MODEL=FAMILY` joined by commas.

    Raises:
        UsageError: anything else, or a model twice.
    """
    pairs = [part.strip().rpartition("=") for part in text.split(",") if part.strip()]
    found = {model.strip(): family.strip() for model, _, family in pairs}
    if len(found) < len(pairs) or not all(model and family for model, family in found.items()):
        raise UsageError(
            f"{text!r} names no families", "each model has one", "write MODEL=FAMILY,MODEL=FAMILY"
        )
    return found


def _read(path: Path) -> pl.DataFrame:
    frame = read_table(path, {*COLUMNS, *OPTIONAL})
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path} is no table of scores",
            f"it has no column {missing[0]!r}",
            "columns are model, item, score, and may be theory, family",
        )
    frame = frame.with_columns(
        theory=pl.col("theory") if "theory" in frame.columns else pl.lit(ONE_THEORY),
        family=pl.col("family") if "family" in frame.columns else pl.lit(None, pl.String),
        value=_numbers(frame["score"], path),
    )
    names = pl.col("model", "item", "theory", "family").cast(pl.String).str.strip_chars()
    frame = frame.with_columns(names.replace("", None))
    # Who names no family is of none but its own.
    frame = frame.with_columns(family=pl.col("family").fill_null(pl.col("model")))
    nameless = frame.filter(pl.any_horizontal(pl.col("model", "item", "theory").is_null()))
    if nameless.height:
        raise DataError(
            f"{path} has lines without a model, item or theory",
            f"{nameless.height} of {frame.height}",
            "name them, or leave the lines out",
        )
    return frame


def scores_of(frame: pl.DataFrame, name: str = "the table") -> Scores:
    """Return scores of a frame with the columns model, theory, item, family and value.

    Raises:
        DataError: as `load_scores`.
    """
    twice = frame.filter(pl.struct("model", "theory", "item").is_duplicated())
    if twice.height:
        row = twice.row(0, named=True)
        raise DataError(
            f"{name} has a score twice",
            f"{row['model']} on {row['item']!r} under {row['theory']}",
            "keep one, or their mean",
        )
    outside = frame.filter(~pl.col("value").is_between(0, 1))
    if outside.height:
        row = outside.row(0, named=True)
        raise DataError(
            "scores lie between 0 and 1",
            f"{outside.height} don't, such as {row['value']:g} of {row['model']}",
            "divide ratings by the scale's length",
        )
    kin = frame.group_by("model", maintain_order=True).agg(pl.col("family").unique())
    mixed = kin.filter(pl.col("family").list.len() > 1)
    if mixed.height:
        raise DataError(
            f"{name} has a model of two families",
            f"{mixed['model'][0]}: {', '.join(sorted(map(str, mixed['family'][0])))}",
            "a model has one family",
        )
    models, theories, items = (
        tuple(frame[column].unique(maintain_order=True)) for column in ("model", "theory", "item")
    )
    if len(models) < 2:
        raise DataError(
            "a consensus needs two models at least",
            f"{name} has scores of {len(models)}",
            "score the items by another model too",
        )
    values = np.full((len(models), len(theories), len(items)), np.nan)
    at = [
        frame[column].replace_strict(list(names), range(len(names)), return_dtype=pl.Int64)
        for column, names in (("model", models), ("theory", theories), ("item", items))
    ]
    values[tuple(part.to_numpy() for part in at)] = frame["value"].to_numpy()
    silent = [model for model, some in zip(models, values, strict=True) if np.isnan(some).all()]
    if silent:
        raise DataError("a model has no score at all", silent[0], "leave it out")
    scored = np.isfinite(values).any(axis=(0, 1))
    asked = np.isfinite(values).any(axis=(0, 2))
    families = tuple(str(family[0]) for family in kin["family"])
    return Scores(
        values[:, asked][:, :, scored],
        tuple(map(str, models)),
        tuple(str(name) for name, there in zip(theories, asked, strict=True) if there),
        tuple(str(item) for item, there in zip(items, scored, strict=True) if there),
        families,
        int((~scored).sum()),
        _texts(frame, [item for item, there in zip(items, scored, strict=True) if there]),
    )


def _words(about: Path) -> dict[str, str]:
    """Return the words by which each theory was asked, none where nothing says so."""
    try:
        found = json.loads(about.read_text("utf-8"))["theories"]
        return {str(name): str(words) for name, words in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _texts(frame: pl.DataFrame, items: Sequence[object]) -> tuple[str | None, ...] | None:
    """Return what was judged by each item, None where the table doesn't say."""
    if "text" not in frame.columns:
        return None
    said = frame.select("item", pl.col("text").cast(pl.String)).drop_nulls().unique()
    if said["item"].is_duplicated().any():
        item = said.filter(pl.col("item").is_duplicated())["item"][0]
        raise DataError(
            "an item has two texts", f"{item!r} is said to be different things", "name them apart"
        )
    known = dict.fromkeys(items) | dict(said.iter_rows())
    return tuple(None if known[item] is None else str(known[item]) for item in items)


def _numbers(column: pl.Series, path: Path) -> pl.Series:
    """Return scores as numbers, null where there is none."""
    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    said = column.cast(pl.String).str.strip_chars()
    values = said.cast(pl.Float64, strict=False)
    wrong = said.filter(values.is_null() & said.is_not_null() & (said != ""))
    if wrong.len():
        raise DataError(
            f"{path} has scores that are no numbers",
            f"{wrong.len()}, such as {wrong[0]!r}",
            "leave a score empty where a model gave none",
        )
    return values.fill_nan(None)
