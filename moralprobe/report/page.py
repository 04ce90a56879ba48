"""One HTML folder that opens from file://: what was asked, what came out, what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.files import write_bytes
from moralprobe.report.figures import draw_figures
from moralprobe.report.verdicts import RULE, held_against, questions_of, verdicts
from moralprobe.report.words import (
    best,
    caveats,
    confounded_layers,
    findings,
    headline_pooling,
    modes_of,
)
from moralprobe.study import Study

# measure, category, what it says, whether the paper's "best layer" is the lowest
_HEADLINES: Final = (
    ("opposed_cosine", "mean", "Cosine of opposed centres, mean of axes (lowest layer)", True),
    ("auroc", "mean", "Held-out AUROC, virtue against vice (best layer)", False),
    ("crossnobis", "mean", "Crossnobis distance, virtue and vice (best layer)", False),
    ("spearman", "mean", "Typicality and likeness to prototypes (best layer)", False),
    ("spearman_given_length", "mean", "The same, text length held constant (best layer)", False),
    ("ari", "Polarity3", "Density clusters and virtue, vice, neutral, ARI (best layer)", False),
    ("kmeans_ari", "Polarity3", "Three centroid clusters and the same, ARI (best layer)", False),
    ("rsa_unique", "axis", "Similarity that only the axes explain (best layer)", False),
    ("rsa_unique", "polarity", "Similarity that only polarity explains (best layer)", False),
    ("r2", "mean", "Held-out R2, mean of the ten poles (best layer)", False),
    ("r2_adjusted", "mean", "The same, adjusted for width (best layer)", False),
    ("tag_auroc", "mean", "Held-out AUROC of the foundation tags (best layer)", False),
    ("length_correlation", "mean_abs", "Text length and likeness, |rho| (largest layer)", False),
    ("length_share", "all", "Variance explained by 1 / length (largest layer)", False),
)
_BY_LAYER: Final = (
    ("opposed_cosine", "mean"),
    ("auroc", "mean"),
    ("spearman", "mean"),
    ("spearman_given_length", "mean"),
    ("ari", "Polarity3"),
    ("coverage", "all"),
    ("kmeans_ari", "Polarity3"),
    ("rsa_unique", "axis"),
    ("rsa_unique", "polarity"),
    ("r2", "mean"),
    ("length_correlation", "mean_abs"),
    ("length_share", "all"),
)


def write_report(study: Study, folder: Path) -> Path:
    """Write the report of a study and return the path of its page.

    Args:
        study: from `study.probe` or `Study.load`.
        folder: where `index.html` and the folder `figures` go.
    """
    folder = Path(folder)
    captions = draw_figures(study, folder / "figures")
    html = render(
        "page.html.j2",
        model=study.frame["model"][0],
        template=study.frame["template"][0],
        meta=study.meta,
        modes=modes_of(study),
        poolings={mode: headline_pooling(study, mode) for mode in modes_of(study)},
        findings=findings(study),
        verdicts=verdicts(study),
        rule=RULE,
        questions=[question.says for question in questions_of(study)],
        held_against=held_against(study),
        caveats=caveats(study),
        headlines=[
            _headline(study, *row) for row in _HEADLINES if study.select(measure=row[0]).height
        ],
        captions=captions,
        layers=_by_layer(study),
        provenance=json.dumps(study.meta, indent=1, sort_keys=True),
    )
    page = folder / "index.html"
    write_bytes(page, html.encode())
    return page


def render(file: str, /, **values: Any) -> str:
    """Fill one of this folder's templates; a value that it asks for and doesn't get is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("moralprobe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(file).render(**values)


def _headline(
    study: Study, measure: str, category: str, label: str, lowest: bool
) -> dict[str, Any]:
    cells: dict[str, dict[str, Any] | None] = {}
    for mode in modes_of(study):
        found = best(study, mode, measure, category, lowest=lowest)
        if found is None:
            cells[mode] = None
            continue
        row = found.row
        cells[mode] = {
            **_numbers(row),
            "layer": row["layer"],
            "pooling": found.pooling,
            "n": f"{row['n']:,}",
            "status": "" if row["status"] == "ok" else row["status"],
            "confounded": mode == "li2026"
            and row["layer"] in confounded_layers(study, found.pooling)
            and measure not in ("length_share", "length_correlation"),
        }
    return {"label": label, "measure": measure, "cells": cells}


def _by_layer(study: Study) -> list[dict[str, Any]]:
    """One block a mode and pooling: a row a layer, a column a measure."""
    blocks = []
    for mode in modes_of(study):
        for pooling in study.meta["modes"][mode]:
            rows = study.frame.filter(mode=mode, pooling=pooling)
            names = [(m, c) for m, c in _BY_LAYER if rows.filter(measure=m, category=c).height]
            confounded = confounded_layers(study, pooling, mode) if mode == "li2026" else []
            table = []
            for layer in sorted(rows["layer"].drop_nulls().unique().to_list()):
                here = rows.filter(pl.col("layer") == layer)
                cells = [
                    _cell(here.filter(measure=m, category=c).row(0, named=True)) for m, c in names
                ]
                table.append({"layer": layer, "cells": cells, "confounded": layer in confounded})
            blocks.append(
                {
                    "mode": mode,
                    "pooling": pooling,
                    "names": [f"{m} ({c})" for m, c in names],
                    "rows": table,
                }
            )
    return blocks


_NUMBERS: Final = ("value", "ci_low", "ci_high", "null_low", "null_high", "baseline", "ceiling")


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **_numbers(row),
        "n": f"{row['n']:,}",
        "status": row["status"],
    }


def _numbers(row: dict[str, Any]) -> dict[str, str]:
    found = {key: _number(row[key]) for key in _NUMBERS}
    q = row["q"]
    return {**found, "q": "" if q is None or q != q else "< 0.01" if q < 0.01 else f"= {q:.2f}"}


def _number(value: float | None) -> str:
    if value is None or value != value:
        return ""
    # Values that round to the end of a scale and aren't there are shown with one digit more.
    return f"{value:.3f}" if 0.995 <= abs(value) < 1 else f"{value:.2f}"
