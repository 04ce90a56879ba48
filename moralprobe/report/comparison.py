"""Models side by side: tables, a figure, and answers made from the differences by a stated rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.comparison import STATISTICS, Comparison, Kind, Statistic
from moralprobe.files import write_bytes
from moralprobe.report.figures import ACCENT, INK, NULL, SECOND, STYLE
from moralprobe.report.page import render
from moralprobe.report.verdicts import QUESTIONS
from moralprobe.report.words import with_interval

RULE: Final = (
    "Differences are of the mean over all layers, which chooses none, or where a study doesn't "
    "hold all layers of the best one; their 95 % intervals come from the same resamples of texts "
    "in both models. One counts where its interval doesn't hold zero: of twenty that are nothing, "
    "one does. The intervals are over texts, not over models: what one pair shows needn't be true "
    "of another."
)
_KINDS: Final[tuple[tuple[Kind, str, str], ...]] = (
    ("scale", "Does size change it?", "differ in size alone (one family, one role)"),
    (
        "architecture",
        "Does architecture change it?",
        "differ in family alone (one role, sizes within a factor of two)",
    ),
    (
        "alignment",
        "Does alignment change it?",
        "differ in role alone (one family, one size; base, instruct, guard)",
    ),
)
_COLORS: Final = (ACCENT, SECOND, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write a comparison's page, `index.html`, and its figure; return the page's path."""
    folder = Path(folder)
    _draw(comparison, folder / "figures")
    page = folder / "index.html"
    html = render(
        "comparison.html.j2",
        template=comparison.template,
        answers=answers(comparison),
        rule=RULE,
        questions=[question.says for question in QUESTIONS],
        models=_models(comparison),
        differences=_differences(comparison),
        caveats=caveats(comparison),
        spread=_spread(comparison),
    )
    write_bytes(page, html.encode())
    return page


def statistic_of(comparison: Comparison) -> Statistic:
    """Return what models are compared by: the mean over layers where every study holds them all."""
    here = comparison.summaries.filter(template=comparison.template)
    models = here["model"].n_unique()
    held = here.filter(statistic=STATISTICS[0])["model"].n_unique()
    return STATISTICS[0] if held == models else STATISTICS[1]


def answers(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return the paper's three questions, each with sentences made from the differences."""
    statistic = statistic_of(comparison)
    found = []
    for kind, question, differ in _KINDS:
        rows = comparison.differences.filter(kind=kind, statistic=statistic)
        if rows.is_empty():
            found.append((question, [f"No two of these models {differ}: nothing can be said."]))
            continue
        sentences = [
            _counted(rows.filter(measure=q.measure, category=q.category), q.says, kind)
            for q in QUESTIONS
            if rows.filter(measure=q.measure, category=q.category).height
        ]
        if kind == "scale":
            sentences += _trends(comparison, statistic)
        found.append((question, sentences))
    return found


def _counted(rows: pl.DataFrame, says: str, kind: Kind) -> str:
    above = rows.filter(pl.col("ci_low") > 0).height
    below = rows.filter(pl.col("ci_high") < 0).height
    more = {
        "scale": "the larger model lies",
        "alignment": "the later role lies",
        "architecture": "the one named first in the table lies",
        "other": "the one named first in the table lies",
    }[kind]
    largest = rows.sort(pl.col("value").abs(), descending=True).row(0, named=True)
    return (
        f"{says}: in {above} of {rows.height} pairs {more} higher, in {below} lower; the largest "
        f"difference is {with_interval(largest)}, {largest['model']} less {largest['than']}."
    )


def _trends(comparison: Comparison, statistic: Statistic) -> list[str]:
    found = []
    for question in QUESTIONS:
        rows = comparison.trends.filter(
            pl.col("models") > 2,
            statistic=statistic,
            measure=question.measure,
            category=question.category,
        )
        for row in rows.iter_rows(named=True):
            found.append(
                f"{question.says}, {row['family']} {row['role']} ({row['models']} sizes): "
                f"{with_interval(row)} for ten times the parameters."
            )
    return found


def caveats(comparison: Comparison) -> list[str]:
    """Return what a reader must know before models are compared."""
    found = []
    content = comparison.frame.group_by("model").agg(pl.col("token0_is_content").first())
    without = sorted(content.filter("token0_is_content")["model"].to_list())
    if 0 < len(without) < content.height:
        found.append(
            f"{', '.join(without)} put no BOS in front, so that token 0 is part of the action, and "
            f"the sink-free poolings leave its content out; the others lose nothing."
        )
    unknown = comparison.summaries.filter(
        (pl.col("family") == "unknown") | pl.col("parameters_b").is_null()
    )
    if unknown.height:
        names = ", ".join(unknown["model"].unique().sort().to_list())
        found.append(
            f"Family or size of {names} is not known, so that they enter no answer: describe them "
            f"in a file and hand it over with --about."
        )
    if not comparison.differences["paired"].all():
        found.append(
            "Some studies left out other texts or took other draws, so that their differences have "
            "the wider intervals of independent samples."
        )
    layers = [study["store"] for study in comparison.meta["studies"]]
    partial = [s["model"]["id"] for s in layers if len(s["layers"]) < s["n_layers"]]
    if partial:
        found.append(
            f"Not all layers were read of {', '.join(sorted(set(partial)))}: models are compared "
            f"in their best layers, which flatters those of which more were read."
        )
    return found


def _models(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a model and template: its numbers, in its best layer and over all."""
    keys = ["family", "parameters_b", "role", "model", "template"]
    found = []
    for key, rows in comparison.summaries.group_by(keys, maintain_order=True):
        family, size, role, model, template = key
        found.append(
            {
                "model": model,
                "template": template,
                "family": family,
                "role": role,
                "size": "" if size is None else f"{size:g}B",
                "cells": [_cell(rows, q.measure, q.category) for q in QUESTIONS],
            }
        )
    return found


def _cell(rows: pl.DataFrame, measure: str, category: str) -> str:
    mine = rows.filter(measure=measure, category=category)
    parts = []
    for row in mine.filter(statistic="best layer").iter_rows(named=True):
        words = "" if row["baseline"] is None else f", words {row['baseline']:.2f}"
        parts.append(
            f"{with_interval(row)} in layer {row['layer']} (depth {row['depth']:.2f}{words})"
        )
    for row in mine.filter(statistic="mean over layers").iter_rows(named=True):
        parts.append(f"mean over layers {with_interval(row)}")
    return "; ".join(parts) or "not measured"


def _differences(comparison: Comparison) -> list[dict[str, Any]]:
    statistic = statistic_of(comparison)
    found = []
    rows = comparison.differences.filter(statistic=statistic)
    for (kind, model, than), part in rows.group_by(["kind", "model", "than"], maintain_order=True):
        cells = []
        for q in QUESTIONS:
            mine = part.filter(measure=q.measure, category=q.category)
            cells.append(with_interval(mine.row(0, named=True)) if mine.height else "not measured")
        found.append({"kind": kind, "model": model, "than": than, "cells": cells})
    return found


def _spread(comparison: Comparison) -> list[str]:
    """Say of each model what its templates do to its numbers."""
    found = []
    rows = comparison.spread.filter(statistic=statistic_of(comparison))
    for question in QUESTIONS:
        for row in rows.filter(measure=question.measure, category=question.category).iter_rows(
            named=True
        ):
            found.append(
                f"{row['model']}, {question.says}: {row['lowest']:.2f} to {row['highest']:.2f} "
                f"over {row['templates']} templates (SD {row['sd']:.3f}, variance "
                f"{row['sd'] ** 2:.2g}); the intervals are {row['ci_width']:.2f} wide."
            )
    return found


def _draw(comparison: Comparison, folder: Path) -> None:
    """Draw each question's number over relative depth, a line a model."""
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    rows = comparison.frame.filter(
        pl.col("depth").is_not_null(), mode="audited", template=comparison.template
    )
    poolings = {study["modes"]["audited"][0] for study in comparison.meta["studies"]}
    rows = rows.filter(pl.col("pooling").is_in(list(poolings)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True).ravel()
        for ax, question in zip(panels, QUESTIONS, strict=False):
            mine = rows.filter(measure=question.measure, category=question.category)
            ax.set_title(f"{question.measure} ({question.category})")
            for color, (model,) in zip(
                _COLORS * len(rows),
                rows.select("model").unique(maintain_order=True).iter_rows(),
                strict=False,
            ):
                line = mine.filter(pl.col("value").is_finite(), model=model).sort("depth")
                ax.plot(line["depth"], line["value"], color=color, lw=1.4, label=model)
                ax.fill_between(
                    line["depth"], line["ci_low"], line["ci_high"], color=color, alpha=0.15, lw=0
                )
            words = mine["baseline"].drop_nulls()
            if len(words):
                ax.axhline(words[0], color=NULL, ls="--", lw=1)
        panels[-1].axis("off")
        panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center")
        for ax in panels[2:5]:
            ax.set_xlabel("relative depth")
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(folder / f"models.{kind}", metadata=metadata)
