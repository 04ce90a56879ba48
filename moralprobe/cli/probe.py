"""`moralprobe probe`: the analyses of a store, as a table and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import say, steps


def probe_command(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A folder made by 'extract'.")],
    out: Annotated[Path, typer.Option(help="The study's folder.")],
    analyses: Annotated[
        str, typer.Option(help="Of separation, gradient, structure, recoverability; or all.")
    ] = "all",
    mode: Annotated[str, typer.Option(help="li2026, audited, or both.")] = "both",
    quota: Annotated[
        str, typer.Option(help="li2026 draws the paper's sample; none takes all pairs.")
    ] = "li2026",
    hdbscan: Annotated[
        str, typer.Option(help="Density clusters under the paper's pooling, all, or none.")
    ] = "paper",
    everywhere: Annotated[
        bool,
        typer.Option("--everywhere", help="Audited structure, recoverability: all poolings."),
    ] = False,
    draws: Annotated[int, typer.Option(help="Resamples and permutations.", min=100)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the sample, folds and draws.", min=0)] = 42,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure a store at every layer and write a report.

    Separation, gradient, structure and recoverability, as published and audited.

    Example: moralprobe probe store --out study
    """
    from moralprobe.activations.store import ActivationStore
    from moralprobe.artifacts import check_writable
    from moralprobe.options import parse_analyses
    from moralprobe.report.page import write_report
    from moralprobe.study import finished, probe

    opened = ActivationStore.open(store)
    check_writable(out)
    study = finished(
        out,
        opened,
        analyses=",".join(parse_analyses(analyses)),
        mode=mode,
        quota=quota,
        hdbscan=hdbscan,
        everywhere=everywhere,
        draws=draws,
        seed=seed,
    )
    if study is None:
        with steps("probing layers", quiet=quiet) as step:
            study = probe(
                opened,
                analyses=analyses,
                mode=mode,
                quota=quota,
                hdbscan=hdbscan,
                everywhere=everywhere,
                draws=draws,
                seed=seed,
                progress=lambda done, total: step(done, total, ""),
            )
        study.save(out)
    else:
        say(f"{out} holds this study already: only the report is written again")
    page = write_report(study, out / "report")
    say(f"table:  {out / 'measures.parquet'} ({study.frame.height:,} measures)")
    say(f"report: {page}")
