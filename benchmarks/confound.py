"""Measure the length confound on a table of real annotations, and draw the README's figure.

    python benchmarks/confound.py TABLE [--agreement action-agree] [--model smollm2-135m]
    python benchmarks/confound.py --draw

The first reads every text of TABLE at every layer, probes the store in both modes and writes
`results/confound.json`; the second draws `docs/figures/confound.png` from that file alone, as the
first does at its end. Stores stand in `out/confound`, so that a broken run continues.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_file import RESULTS, write

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "confound.png"
KEPT = (
    ("opposed_cosine", None),
    ("length_correlation", "mean_abs"),
    ("length_share", "all"),
    ("sink_ratio", "all"),
    ("auroc", "mean"),
    ("spearman", "mean"),
    ("spearman_given_length", "mean"),
)
FIELDS = ("value", "ci_low", "ci_high", "null_low", "null_high", "q", "baseline", "n", "status")


def measure(table: str, agreement: str, model_name: str) -> None:
    """Build, extract, probe; keep what the figure and the README show."""
    import polars as pl

    from moralprobe import Study, build_vectors, extract, load_model, probe
    from moralprobe.probing import ProbeOptions, options_of
    from moralprobe.report.words import confounded_layers, findings
    from moralprobe.study import finished

    folder = Path("out/confound")
    vectors = build_vectors(table, agreement=agreement)
    poolings = "mean,mean_unit,mean_no_sink,last"
    store = extract(load_model(model_name), vectors, folder / "store", poolings=poolings)
    asked: ProbeOptions = {
        "analyses": "separation,gradient",
        "mode": "both",
        "quota": "li2026",
        "hdbscan": "none",
        "everywhere": False,
        "draws": 1000,
        "seed": 42,
        "twin": None,
        "sentence": None,
    }
    study: Study | None = finished(folder / "study", store, **options_of(**asked))
    if study is None:
        study = probe(
            store,
            **asked,
            progress=lambda done, total: print(f"{done}/{total}", flush=True),
        )
        study.save(folder / "study")
    rows: list[dict[str, Any]] = []
    for measure_name, category in KEPT:
        some = study.frame.filter(
            (pl.col("measure") == measure_name)
            & (pl.lit(True) if category is None else pl.col("category") == category)
            & pl.col("pooling").is_in(["mean", "mean_unit", "none"])
        )
        rows += some.select("mode", "pooling", "layer", "measure", "category", *FIELDS).to_dicts()
    for row in rows:
        row.update(
            {k: None if v != v else round(v, 5) for k, v in row.items() if isinstance(v, float)}
        )
    command = f"python benchmarks/confound.py TABLE --agreement {agreement}"
    results = {
        "model": store.model_name,
        "table_sha256": vectors.meta["source"]["sha256"],
        "agreement": agreement,
        "pairs": study.meta["pairs"],
        "rows": vectors.frame["row"].n_unique(),
        "texts": store.texts.height,
        "confounded_layers": confounded_layers(study, "mean"),
        "findings": findings(study),
        "measures": rows,
    }
    print(write("confound", command, results))


def draw() -> Path:
    """Draw the figure from the results file alone."""
    import matplotlib
    from matplotlib.figure import Figure

    from moralprobe.report.figures import ACCENT, INK, SECOND, STYLE

    found = json.loads((RESULTS / "confound.json").read_text())
    curves = {
        "li2026": ("mean", SECOND, "li2026, as published"),
        "audited": ("mean_unit", ACCENT, "audited"),
    }
    panels = (
        ("opposed_cosine", "mean", "cosine of opposed centres, mean of five axes", (-1.05, 1.05)),
        ("length_correlation", "mean_abs", "|rank correlation| of likeness and length", (0, 1.05)),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for ax, (name, category, title, limits) in zip(figure.subplots(1, 2), panels, strict=True):
            for mode, (pooling, color, label) in curves.items():
                rows = [
                    r
                    for r in found["measures"]
                    if (r["mode"], r["pooling"], r["measure"], r["category"])
                    == (mode, pooling, name, category)
                ]
                x, y, low, high = (
                    [r[k] for r in rows] for k in ("layer", "value", "ci_low", "ci_high")
                )
                ax.plot(x, y, color=color, label=f"{label} ({pooling} pooling)")
                ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
            ax.set_title(title)
            ax.set_xlabel("layer (resid_post)")
            ax.set_ylim(*limits)
            ax.axhline(0, color=INK, lw=0.5)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2)
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(FIGURE)
    return FIGURE


def main() -> None:
    """Measure if a table is named, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", nargs="?")
    parser.add_argument("--agreement", default="action-agree")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--draw", action="store_true", help="only draw, from the results file")
    options = parser.parse_args()
    if not options.draw:
        if options.table is None:
            parser.error("name a TABLE to measure, or give --draw")
        measure(options.table, options.agreement, options.model)
    print(draw())


if __name__ == "__main__":
    main()
