"""Several models side by side: does size, architecture or alignment change what was measured?

Studies of one vectors table resample the same texts in the same order, so that differences between
models are taken resample by resample. What all models owe to the choice of texts cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from moralprobe.data.prompts import TEMPLATES
from moralprobe.errors import UsageError
from moralprobe.files import write_json, write_table
from moralprobe.geometry.arrays import Floats
from moralprobe.geometry.draws import Draws, combined
from moralprobe.geometry.measure import Measure, gain, summarise
from moralprobe.geometry.uncertainty import difference_interval
from moralprobe.models.about import UNKNOWN, About, about
from moralprobe.study import Study
from moralprobe.table import COLUMNS, HEADLINES

Kind = Literal["alignment", "scale", "architecture", "other"]
Statistic = Literal["mean over layers", "best layer"]
STATISTICS: Final[tuple[Statistic, ...]] = ("mean over layers", "best layer")
NEAR: Final = 2.0
"""Models of different architecture are compared if one has at most so many times the other's
parameters."""

COMPARISON_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **COLUMNS,
    "depth": pl.Float64,
    "family": pl.String,
    "role": pl.String,
    "parameters_b": pl.Float64,
    "moe": pl.Boolean,
    "token0_is_content": pl.Boolean,
}
DIFFERENCE_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "kind": pl.String,
    "model": pl.String,
    "than": pl.String,
    "measure": pl.String,
    "category": pl.String,
    "statistic": pl.String,
    "value": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "paired": pl.Boolean,
}
TREND_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "family": pl.String,
    "role": pl.String,
    "measure": pl.String,
    "category": pl.String,
    "statistic": pl.String,
    "models": pl.Int64,
    "value": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
}
SPREAD_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "model": pl.String,
    "measure": pl.String,
    "category": pl.String,
    "statistic": pl.String,
    "templates": pl.Int64,
    "lowest": pl.Float64,
    "highest": pl.Float64,
    "sd": pl.Float64,
    "ci_width": pl.Float64,
}

SUMMARY_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "model": pl.String,
    "template": pl.String,
    "family": pl.String,
    "role": pl.String,
    "parameters_b": pl.Float64,
    "measure": pl.String,
    "category": pl.String,
    "statistic": pl.String,
    "value": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "layer": pl.Int32,
    "depth": pl.Float64,
    "baseline": pl.Float64,
}


@dataclass(frozen=True)
class Comparison:
    """Studies side by side.

    `frame` holds all their measures (`COMPARISON_COLUMNS`: a layer's `depth` is 0 at the first and
    1 at the last), `summaries` each model's headline numbers (`SUMMARY_COLUMNS`), `differences` one
    model less another (`DIFFERENCE_COLUMNS`), `trends` the change for ten times the parameters in
    one family and role (`TREND_COLUMNS`), `spread` what the template does (`SPREAD_COLUMNS`).
    `template` is the one that models are compared under.
    """

    frame: pl.DataFrame
    differences: pl.DataFrame
    trends: pl.DataFrame
    spread: pl.DataFrame
    summaries: pl.DataFrame
    template: str
    meta: dict[str, Any]

    def save(self, folder: Path) -> Path:
        """Write the tables as Parquet and `comparison.json` into a folder."""
        for name in ("frame", "summaries", "differences", "trends", "spread"):
            stem = "comparison" if name == "frame" else name
            write_table(folder / f"{stem}.parquet", getattr(self, name))
        write_json(folder / "comparison.json", self.meta)
        return folder


def compare(studies: Sequence[Study], models: Sequence[About] = ()) -> Comparison:
    """Lay studies of the same vectors side by side.

    Each headline number (`table.HEADLINES`) is taken as its mean over all layers, which chooses
    none, and in the layer where it is highest, which flatters every model.

    Args:
        studies: of different models, or of one model under several templates.
        models: what is known of models that the registry lacks.

    Raises:
        UsageError: fewer than two studies, two of the same model and template, studies of different
            vectors, without an audited part, or of models without a common template.
    """
    _check(studies)
    known = {model.id: model for model in models}
    readings = [_reading(study, known) for study in studies]
    template = _common_template(readings)
    compared = sorted(
        (x for x in readings if x.template == template), key=lambda x: (x.about.order, x.model)
    )
    return Comparison(
        pl.concat([_placed(x) for x in readings]),
        pl.DataFrame(list(_differences(compared)), schema=DIFFERENCE_COLUMNS),
        pl.DataFrame(list(_trends(compared)), schema=TREND_COLUMNS),
        pl.DataFrame(list(_spread(readings)), schema=SPREAD_COLUMNS),
        pl.DataFrame(list(_summaries(readings)), schema=SUMMARY_COLUMNS),
        template,
        {"template": template, "studies": [x.study.meta for x in readings]},
    )


# -- what can be compared -------------------------------------------------------------------------


def _check(studies: Sequence[Study]) -> None:
    if len(studies) < 2:
        raise UsageError(
            "there is nothing to compare", f"{len(studies)} study was given", "give two or more"
        )
    for study in studies:
        if study.draws.is_empty() or "audited" not in study.meta["modes"]:
            raise UsageError(
                f"the study of {study.frame['model'][0]} has nothing to compare",
                "models are compared on the audited analyses of moral vectors",
                "probe its store with --mode both or --mode audited",
            )
    of = {
        "vectors": [s.meta["store"]["tables"]["vectors.parquet"] for s in studies],
        "poolings": [s.meta["modes"]["audited"][0] for s in studies],
    }
    for what, mine in of.items():
        if len(set(mine)) > 1:
            pairs = zip(studies, mine, strict=True)
            raise UsageError(
                f"the studies are of different {what}",
                ", ".join(f"{study.frame['model'][0]} ({name[:12]})" for study, name in pairs),
                "extract all models with one vectors file and the same --pooling",
            )
    places = [(s.meta["store"]["model"]["id"], s.meta["store"]["template"]) for s in studies]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise UsageError(
            f"{twice[0][0]} is there twice under the template {twice[0][1]}",
            "which of the two counts isn't known",
            "leave one out",
        )


@dataclass(frozen=True)
class _Reading:
    """One study with what is known of its model."""

    study: Study
    about: About
    template: str
    numbers: dict[tuple[str, str, Statistic], tuple[Measure, int | None]]

    @property
    def model(self) -> str:
        return str(self.study.meta["store"]["model"]["id"])

    @property
    def last(self) -> int:
        return int(self.study.meta["store"]["n_layers"]) - 1


def _reading(study: Study, known: dict[str, About]) -> _Reading:
    name = str(study.meta["store"]["model"]["id"])
    numbers: dict[tuple[str, str, Statistic], tuple[Measure, int | None]] = {}
    rows = study.frame.filter(mode="audited", pooling=study.meta["modes"]["audited"][0])
    everything = len(study.meta["store"]["layers"]) == study.meta["store"]["n_layers"]
    for measure, category in HEADLINES:
        mine = rows.filter(pl.col("value").is_finite(), measure=measure, category=category)
        boot = study.draws.filter(measure=measure, category=category)
        mine = mine.join(boot.select("layer", "boot", "excess"), on="layer").sort("layer")
        if mine.is_empty():
            continue
        values, n = mine["value"].to_numpy(), int(mine["n"].max())  # type: ignore[arg-type]
        draws, excess = (np.array(mine[x].to_list(), np.float64) for x in ("boot", "excess"))
        unit = mine["unit"][0]
        top = int(values.argmax())
        best = Draws(float(values[top]), draws[top], np.empty(0), n, excess[top])
        # The study's own interval, which its null has a part in.
        low, high = float(mine["ci_low"][top]), float(mine["ci_high"][top])
        found = replace(summarise(measure, category, best, unit), ci_low=low, ci_high=high)
        numbers[measure, category, "best layer"] = found, int(mine["layer"][top])
        if everything and mine.height == len(study.meta["store"]["layers"]):
            mean = Draws(float(values.mean()), draws.mean(0), np.empty(0), n, excess.mean(0))
            found = summarise(measure, category, mean, unit)
            numbers[measure, category, "mean over layers"] = found, None
    return _Reading(study, known.get(name) or about(name), study.meta["store"]["template"], numbers)


def _common_template(readings: Sequence[_Reading]) -> str:
    of_model: dict[str, set[str]] = {}
    for x in readings:
        of_model.setdefault(x.model, set()).add(x.template)
    common = set.intersection(*of_model.values())
    if not common:
        raise UsageError(
            "the models were read under different templates",
            "; ".join(f"{model}: {', '.join(sorted(some))}" for model, some in of_model.items()),
            "extract them under a common --template",
        )
    return min(common, key=lambda name: (list(TEMPLATES).index(name), name))


def _placed(x: _Reading) -> pl.DataFrame:
    return x.study.frame.with_columns(
        depth=pl.col("layer") / max(x.last, 1),
        family=pl.lit(x.about.family),
        role=pl.lit(x.about.role),
        parameters_b=pl.lit(x.about.parameters_b, pl.Float64),
        moe=pl.lit(x.about.moe, pl.Boolean),
        token0_is_content=pl.lit(bool(x.study.meta["texts"]["token 0 is content"])),
    ).select(list(COMPARISON_COLUMNS))


# -- differences ----------------------------------------------------------------------------------


def kind_of(a: About, b: About) -> Kind:
    """Return what the difference between two models is a difference of.

    `alignment`: one family and size, another role. `scale`: one family and role, another size.
    `architecture`: another family, the same role, a size at most `NEAR` times the other's.
    """
    if UNKNOWN in (a.family, b.family) or a.parameters_b is None or b.parameters_b is None:
        return "other"
    if not {a.role, b.role} <= {"base", "instruct", "guard"}:
        return "other"  # an untrained twin is another model, not another alignment
    same_family = a.family == b.family
    if same_family and a.parameters_b == b.parameters_b and a.role != b.role:
        return "alignment"
    if same_family and a.role == b.role:
        return "scale"
    ratio = a.parameters_b / b.parameters_b
    near = 1 / NEAR <= ratio <= NEAR
    return "architecture" if not same_family and a.role == b.role and near else "other"


def _differences(readings: Sequence[_Reading]) -> Iterator[dict[str, Any]]:
    for b, a in combinations(readings, 2):  # sorted, so that a is the later or the larger
        kind = kind_of(a.about, b.about)
        paired = _paired(a, b)
        for key in sorted(a.numbers.keys() & b.numbers.keys()):
            one, other = a.numbers[key][0], b.numbers[key][0]
            low, high = gain(one, other) if paired else _apart(one, other)
            yield {
                "kind": kind,
                "model": a.model,
                "than": b.model,
                **_named(key),
                "value": one.value - other.value,
                "ci_low": low,
                "ci_high": high,
                "paired": paired,
            }


def _paired(a: _Reading, b: _Reading) -> bool:
    """Whether two studies drew the same texts in every resample."""
    return bool(a.study.meta["resamples"] == b.study.meta["resamples"])


def _apart(a: Measure, b: Measure) -> tuple[float, float]:
    return difference_interval((a.value, a.ci_low, a.ci_high), (b.value, b.ci_low, b.ci_high))


def _trends(readings: Sequence[_Reading]) -> Iterator[dict[str, Any]]:
    """Yield the least-squares slope on the decimal logarithm of the parameters."""
    groups: dict[tuple[str, str], list[_Reading]] = {}
    for x in readings:
        if x.about.parameters_b is not None and x.about.family != UNKNOWN:
            groups.setdefault((x.about.family, x.about.role), []).append(x)
    for (family, role), mine in groups.items():
        size = np.log10([x.about.parameters_b or np.nan for x in mine])
        if len(set(size)) < 2 or not all(_paired(mine[0], x) for x in mine):
            continue
        slope = (size - size.mean()) / np.square(size - size.mean()).sum()
        for key in sorted(set.intersection(*(set(x.numbers) for x in mine))):
            found = [x.numbers[key][0] for x in mine]
            draws = combined([m.draws for m in found], slope)
            trend = summarise(key[0], key[1], draws, "per tenfold")
            yield {
                "family": family,
                "role": role,
                **_named(key),
                "models": len(mine),
                "value": trend.value,
                "ci_low": trend.ci_low,
                "ci_high": trend.ci_high,
            }


def _spread(readings: Sequence[_Reading]) -> Iterator[dict[str, Any]]:
    """Yield how far the numbers of one model lie apart under its templates."""
    for model in dict.fromkeys(x.model for x in readings):
        mine = [x for x in readings if x.model == model]
        if len(mine) < 2:
            continue
        for key in sorted(set.intersection(*(set(x.numbers) for x in mine))):
            found = [x.numbers[key][0] for x in mine]
            values: Floats = np.array([m.value for m in found])
            yield {
                "model": model,
                **_named(key),
                "templates": len(mine),
                "lowest": values.min(),
                "highest": values.max(),
                "sd": values.std(ddof=1),
                "ci_width": float(np.mean([m.ci_high - m.ci_low for m in found])),
            }


def _summaries(readings: Sequence[_Reading]) -> Iterator[dict[str, Any]]:
    for x in readings:
        for key, (measure, layer) in x.numbers.items():
            words = x.study.frame.filter(
                mode="audited",
                pooling=x.study.meta["modes"]["audited"][0],
                measure=key[0],
                category=key[1],
            )["baseline"]
            yield {
                "model": x.model,
                "template": x.template,
                "family": x.about.family,
                "role": x.about.role,
                "parameters_b": x.about.parameters_b,
                **_named(key),
                "value": measure.value,
                "ci_low": measure.ci_low,
                "ci_high": measure.ci_high,
                "layer": layer,
                "depth": None if layer is None else layer / max(x.last, 1),
                "baseline": words.drop_nulls()[0] if len(words.drop_nulls()) else None,
            }


def _named(key: tuple[str, str, Statistic]) -> dict[str, str]:
    return {"measure": key[0], "category": key[1], "statistic": key[2]}
