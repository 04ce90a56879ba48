"""`moralprobe control`: does the same machinery find order where everybody agrees there is one?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import say, steps

if TYPE_CHECKING:
    from moralprobe.data.ratings import Ratings
    from moralprobe.study import Study


def control_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="smollm2-135m, a folder, or an id on the hub.")
    ],
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="Columns item, category, rating; or MoralStrength's folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The study's folder; the store goes into it.")],
    scale: Annotated[
        str | None, typer.Option(help="Most and least typical rating: 1:7, or 7:1.")
    ] = None,
    template: Annotated[str, typer.Option(help="The text around the item.")] = "the-item",
    layers: Annotated[str, typer.Option(help="all, 12, 8-20, 8-20:2, or several.")] = "all",
    mode: Annotated[str, typer.Option(help="li2026, audited, or both.")] = "both",
    draws: Annotated[int, typer.Option(help="Resamples and permutations.", min=100)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 42,
    beside: Annotated[
        Path | None, typer.Option(help="A study of the same model to compare with.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Commit or tag on the hub.")] = None,
    layers_path: Annotated[
        str | None, typer.Option(help="Dotted path of the decoder blocks, if not found.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure how well a model orders categories that people have rated.

    The positive control of the gradient, on birds and furniture; or on moral words.

    Example: moralprobe control smollm2-135m ratings.csv --scale 1:7 --out control
    """
    from moralprobe.activations.store import ActivationStore
    from moralprobe.cli.extract import extract_command
    from moralprobe.control import options_of, probe_control
    from moralprobe.data.prompts import get_template
    from moralprobe.data.ratings import load_ratings
    from moralprobe.files import write_bytes
    from moralprobe.options import parse_modes
    from moralprobe.report.control import beside_sentences, control_findings
    from moralprobe.study import Study, finished

    ratings = load_ratings(table, scale=scale)
    get_template(template)  # a slip of the pen shouldn't wait for a large model
    parse_modes(mode)
    other = Study.load(beside) if beside is not None else None
    _show_ratings(ratings)
    write_bytes(out / "ratings.parquet", ratings.to_bytes())
    extract_command(
        model,
        out / "ratings.parquet",
        out=out / "store",
        layers=layers,
        template=template,
        dtype=dtype,
        device=device,
        revision=revision,
        layers_path=layers_path,
        quiet=quiet,
    )
    store = ActivationStore.open(out / "store")
    study = finished(out, store, **options_of(mode=mode, draws=draws, seed=seed))
    if study is None:
        with steps("probing layers", quiet=quiet) as step:
            study = probe_control(
                store,
                mode=mode,
                draws=draws,
                seed=seed,
                progress=lambda done, total: step(done, total, ""),
            )
        study.save(out)
    else:
        say(f"{out} holds this study already")
    _show_best(study)
    for sentence in control_findings(study):
        say(f"\n{sentence}")
    if other is not None:
        for sentence in beside_sentences(study, other):
            say(f"\n{sentence}")
    say(f"\ntable:  {out / 'measures.parquet'} ({study.frame.height:,} measures)")


def _show_ratings(ratings: Ratings) -> None:
    """Say what was read: the ends of the categories show whether the scale is the right way up."""
    say(f"{ratings.meta['source']['name']}: {len(ratings):,} rated items, most to least typical")
    for rule in ratings.meta["rules"]:
        if rule["dropped"]:
            say(f"  dropped {rule['dropped']:,}: {rule['name']}")
    for (category,), part in ratings.frame.sort("category", "action").group_by(
        "category", maintain_order=True
    ):
        items = part.sort("score", descending=True, maintain_order=True)["action"].to_list()
        say(f"  {category:<14}{len(items):>5}  {', '.join(items[:3])} ... {items[-1]}")


def _show_best(study: Study) -> None:
    """Show the categories in the layer where their mean is highest."""
    import polars as pl

    from moralprobe.report.words import best

    name = "spearman_given_length"
    top = best(study, "audited", name, "mean", lowest=False)
    if top is None:
        return
    where = {"mode": "audited", "pooling": top.pooling, "layer": top.row["layer"]}
    say(f"\nrho given length, layer {top.row['layer']}, {top.pooling}, audited:")
    rows = study.select(**where, measure=name).sort(pl.col("category") == "mean", "category")
    for row in rows.iter_rows(named=True):
        if row["status"].startswith("not enough"):
            say(f"  {row['category']:<14}{row['status']}")
            continue
        interval = f"{row['value']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        null = f"[{row['null_low']:.2f}, {row['null_high']:.2f}]"
        words = "" if row["baseline"] is None else f"{row['baseline_name']} {row['baseline']:.2f}"
        say(f"  {row['category']:<14}{interval:<22}null {null:<16}{words}  n {row['n']}")
