"""`moralprobe probe`: the analyses of a store, as a table and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import say, steps

if TYPE_CHECKING:
    from moralprobe.probing import ProbeOptions


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
    twin: Annotated[
        Path | None,
        typer.Option(help="A store of the same texts, read with --untrained: a baseline."),
    ] = None,
    sentence: Annotated[
        Path | None,
        typer.Option(help="Folder of a sentence-transformers model: a baseline."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure a store at every layer and write a report.

    Separation, gradient, structure and recoverability, as published and audited.

    Example: moralprobe probe store --out study
    """
    from moralprobe.activations.store import ActivationStore
    from moralprobe.files import check_writable
    from moralprobe.probing import options_of, probe
    from moralprobe.report.page import write_report
    from moralprobe.study import finished

    opened = ActivationStore.open(store)
    check_writable(out)
    asked: ProbeOptions = {
        "analyses": analyses,
        "mode": mode,
        "quota": quota,
        "hdbscan": hdbscan,
        "everywhere": everywhere,
        "draws": draws,
        "seed": seed,
        "twin": ActivationStore.open(twin) if twin is not None else None,
        "sentence": sentence,
    }
    study = finished(out, opened, **options_of(**asked))
    if study is None:
        with steps("probing", quiet=quiet) as step:
            study = probe(opened, **asked, progress=lambda done, total: step(done, total, ""))
        study.save(out)
    else:
        say(f"{out} holds this study already: only the report is written again")
    page = write_report(study, out / "report")
    say(f"table:  {out / 'measures.parquet'} ({study.frame.height:,} measures)")
    say(f"report: {page}")
