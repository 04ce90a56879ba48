"""`moralprobe compare`: several models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import say


def compare_command(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="Folders made by 'probe'.")
    ],
    out: Annotated[Path, typer.Option(help="The comparison's folder.")],
    about: Annotated[
        Path | None,
        typer.Option(help="CSV of models not in the registry: id,family,role,parameters_b."),
    ] = None,
) -> None:
    """Lay models side by side: does size, architecture or alignment change it?

    The studies must be of one vectors table; of one model there may be several templates.

    Example: moralprobe compare study-base study-instruct --out comparison
    """
    from moralprobe.comparison import compare
    from moralprobe.files import check_writable
    from moralprobe.models.about import read_about
    from moralprobe.report.comparison import answers, caveats, write_comparison
    from moralprobe.study import Study

    check_writable(out)
    models = read_about(about) if about is not None else []
    found = compare([Study.load(folder) for folder in studies], models)
    found.save(out)
    page = write_comparison(found, out / "report")
    for question, sentences in answers(found):
        say(f"{question}")
        for sentence in sentences:
            say(f"  {sentence}")
    for sentence in caveats(found):
        say(f"\n{sentence}")
    say(f"\ntables: {out / 'comparison.parquet'} and beside it")
    say(f"report: {page}")
