"""`moralprobe pluralism dilemmas`: a model's choices beside countries' in the Moral Machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, steps


def dilemmas_command(
    effects: Annotated[
        Path,
        typer.Argument(
            metavar="EFFECTS",
            help="Countries' effects as the study publishes them: Estimates, se, Label, Country.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    model: Annotated[
        str, typer.Option(help="A local one, or http://HOST/v1=MODEL.")
    ] = "smollm2-135m",
    n: Annotated[
        int, typer.Option(help="Dilemmas; of a multiple of 192 all is balanced.", min=48)
    ] = 192,
    readout: Annotated[str, typer.Option(help="logprob, or sampled.")] = "logprob",
    samples: Annotated[int, typer.Option(help="Of each order, where sampled.", min=1)] = 10,
    clusters: Annotated[
        Path | None, typer.Option(help="Columns ISO3, Cluster: mean distances of each.")
    ] = None,
    max_se: Annotated[
        float, typer.Option(help="Countries with a larger mean standard error are left out.", min=0)
    ] = 0.05,
    draws: Annotated[int, typer.Option(help="Resamples of dilemmas.", min=20)] = 1000,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Have a model choose whom a car spares, and hold its choices against every country's.

    The same command continues what was cut off.

    Example: moralprobe pluralism dilemmas country_amce.csv --model smollm2-135m --out dilemmas
    """
    from moralprobe.behavior.options import Readout
    from moralprobe.behavior.pluralism.moral_machine import load_effects, measure
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable
    from moralprobe.report.moral_machine import of_dilemmas
    from moralprobe.steering.text import text_model

    countries = load_effects(effects)
    groups = _clusters(clusters) if clusters else None
    how = Readout(readout, samples)
    check_writable(out)
    asked = text_model(model, device)
    with (
        open_cache(out / "answers.jsonl", notice) as cache,
        steps("asking", quiet=quiet) as progress,
    ):
        found = measure(
            asked,
            countries,
            n=n,
            readout=how,
            clusters=groups,
            max_se=max_se,
            draws=draws,
            seed=seed,
            cache=cache,
            progress=progress,
        )
    found.save(out)
    for line in of_dilemmas(found):
        say(line)
    say(f"\n{out / 'countries.parquet'}")


def _clusters(path: Path) -> dict[str, str]:
    """Return the cluster of each country."""
    from moralprobe.behavior.tables import read_table
    from moralprobe.errors import DataError

    frame = read_table(path, ("ISO3", "Cluster"))
    if missing := {"ISO3", "Cluster"} - set(frame.columns):
        why = f"it has no column {min(missing)!r}"
        raise DataError(f"{path} is no table of clusters", why, "give ISO3 and Cluster")
    twice = frame.filter(frame["ISO3"].is_duplicated())
    if twice.height:
        raise DataError(f"{path} has a country twice", str(twice["ISO3"][0]), "leave one out")
    return {str(row["ISO3"]): str(row["Cluster"]) for row in frame.iter_rows(named=True)}
