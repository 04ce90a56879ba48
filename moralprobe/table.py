"""The long table that a study is: its columns, its measures, and how a measure becomes a row."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl

from moralprobe.activations.store import ActivationStore
from moralprobe.design import Mode
from moralprobe.foundations import AXIS_BY_TAG, AXIS_OF_POLE
from moralprobe.geometry.baselines import BAG_OF_WORDS
from moralprobe.geometry.measure import OK, Measure, gain
from moralprobe.geometry.reliability import Reliability, auroc_ceiling
from moralprobe.geometry.uncertainty import false_discovery

COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "model": pl.String,
    "layer": pl.Int32,
    "pooling": pl.String,
    "template": pl.String,
    "mode": pl.String,
    "analysis": pl.String,
    "measure": pl.String,
    "category": pl.String,
    "value": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "null_low": pl.Float64,
    "null_high": pl.Float64,
    "p": pl.Float64,
    "q": pl.Float64,
    "baseline": pl.Float64,
    "baseline_name": pl.String,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "ceiling": pl.Float64,
    "n": pl.Int64,
    "unit": pl.String,
    "status": pl.String,
}
DRAW_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "layer": pl.Int32,
    "measure": pl.String,
    "category": pl.String,
    "boot": pl.List(pl.Float32),
    "excess": pl.List(pl.Float32),
}
"""Of the table of resamples behind the headline numbers."""
HEADLINES: Final[tuple[tuple[str, str], ...]] = (
    ("auroc", "mean"),
    ("spearman_given_length", "mean"),
    ("rsa_unique", "axis"),
    ("rsa_unique", "polarity"),
    ("r2", "mean"),
)
"""Measure and category of the number that answers each question, in `audited` mode."""
BASELINE_COLUMNS: Final = {"source": pl.String, **COLUMNS}
"""Of the table of what the model is held against."""
MEASURES: Final[dict[str, str]] = {
    "opposed_cosine": "separation",
    "centre_cosine_mean": "separation",
    "centre_cosine_sd": "separation",
    "centre_cosine_min": "separation",
    "centre_cosine_max": "separation",
    "auroc": "separation",
    "crossnobis": "separation",
    "sink_ratio": "separation",
    "left_out_share": "separation",
    "length_share": "separation",
    "length_offset": "separation",
    "spearman": "gradient",
    "pearson": "gradient",
    "spearman_given_length": "gradient",
    "spearman_given_surface": "gradient",
    "length_correlation": "gradient",
    "coverage": "structure",
    "clusters": "structure",
    "ari": "structure",
    "nmi": "structure",
    "homogeneity": "structure",
    "completeness": "structure",
    "v_measure": "structure",
    "ari_with_noise": "structure",
    "kmeans_ari": "structure",
    "kmeans_nmi": "structure",
    "rsa": "structure",
    "rsa_unique": "structure",
    "participation_ratio": "structure",
    "r2": "recoverability",
    "r2_adjusted": "recoverability",
    "r2_over_ceiling": "recoverability",
    "r2_low_rank": "recoverability",
    "selectivity": "recoverability",
    "tag_auroc": "recoverability",
}
"""Every measure and the analysis that it belongs to."""

ONE_ANNOTATOR: Final = "one annotator"
_CEILED: Final = (
    "spearman",
    "pearson",
    "spearman_given_length",
    "spearman_given_surface",
    "auroc",
    "r2",
)
_NO_CEILING: Final = ("judgment", "agreement")  # how far their repetitions agree isn't known apart
_NO_BASELINE: Final = ("sink_ratio", "left_out_share", "length_share", "length_offset")
_FIELDS: Final = ("category", "value", "ci_low", "ci_high", "null_low", "null_high", "p", "n")


def row(
    store: ActivationStore,
    mode: Mode,
    layer: int | None,
    pooling: str,
    measure: Measure,
    reliability: dict[str, Reliability] | None = None,
    baseline: Measure | None = None,
) -> dict[str, Any]:
    """Return a measure as a row: with its place, its baseline and its ceiling."""
    ceiling = _ceiling(measure, reliability or {})
    may = measure.name in _CEILED and measure.category not in _NO_CEILING
    words = baseline if measure.name not in _NO_BASELINE else None
    low, high = gain(measure, words) if words is not None else (float("nan"), float("nan"))
    return {
        "model": store.model_name,
        "layer": layer,
        "pooling": pooling,
        "template": store.template,
        "mode": mode,
        "analysis": MEASURES[measure.name],
        "measure": measure.name,
        **{name: getattr(measure, name) for name in _FIELDS},
        "q": float("nan"),
        "baseline": words.value if words is not None else None,
        "baseline_name": BAG_OF_WORDS if words is not None else "",
        "gain_low": low,
        "gain_high": high,
        "ceiling": ceiling,
        "unit": measure.unit,
        "status": ONE_ANNOTATOR
        if measure.status == OK and may and ceiling is None
        else measure.status,
    }


def _ceiling(measure: Measure, reliability: dict[str, Reliability]) -> float | None:
    """Return the best that a perfect reading reaches against one annotator, where that is known."""
    if measure.name not in _CEILED or not reliability:
        return None
    if measure.category in _NO_CEILING:
        return None
    if measure.category in AXIS_BY_TAG:
        icc = reliability[measure.category].icc
    elif measure.category in AXIS_OF_POLE:
        icc = reliability[AXIS_OF_POLE[measure.category].tag].icc
    else:
        icc = reliability["all"].icc
    if not np.isfinite(icc):
        return None
    if measure.name == "auroc":
        return auroc_ceiling(icc)
    if measure.name == "r2":
        return max(icc, 0.0)
    return float(np.sqrt(max(icc, 0.0)))


def over_ceiling(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row `r2_over_ceiling` beside a row `r2` that may have a ceiling, else None."""
    may = row["measure"] == "r2" and row["category"] not in _NO_CEILING
    if not may or row["status"] not in (OK, ONE_ANNOTATOR):
        return None
    ceiling = row["ceiling"]
    scaled = {
        name: row[name] / ceiling if ceiling else float("nan")
        for name in ("value", "ci_low", "ci_high", "null_low", "null_high", "gain_low", "gain_high")
    }
    baseline = row["baseline"]
    return {
        **row,
        **scaled,
        "measure": "r2_over_ceiling",
        "baseline": baseline / ceiling if ceiling and baseline is not None else None,
        "baseline_name": row["baseline_name"] if ceiling else "",
        "p": row["p"] if ceiling else float("nan"),
        "ceiling": None,
        "unit": "share of the ceiling",
        "status": "ceiling is zero" if ceiling == 0 else row["status"],
    }


def with_q(frame: pl.DataFrame) -> pl.DataFrame:
    """Control false discoveries over the layers of one measure; sort a table of either kind."""
    keys = ["model", "pooling", "template", "mode", "analysis", "measure", "category"]
    order = ["mode", "pooling", "layer", "analysis", "measure", "category"]
    if "source" in frame.columns:
        keys, order = ["source", *keys], ["source", *order]
    parts = [
        part.with_columns(q=pl.Series(false_discovery(part["p"].to_numpy())))
        for part in frame.with_columns(pl.col("p").fill_null(np.nan)).partition_by(
            keys, maintain_order=True
        )
    ]
    return pl.concat(parts).select(frame.columns).sort(order, nulls_last=False)
