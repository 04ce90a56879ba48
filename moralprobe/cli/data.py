"""`moralprobe data`: fetch the public datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_NAMES = "The dataset: social-chem-101, flames, moral-stories or ethics."

app = typer.Typer(help="Fetch public datasets.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Fetch public datasets."""


@app.command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help=_NAMES)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to put it in; the user's cache unless given.", file_okay=False),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A mirror of the official archive.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the table's path.")] = False,
) -> None:
    """Fetch a dataset, or continue where an earlier transfer was cut off.

    Example: moralprobe data download social-chem-101
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from moralprobe.data.download import download as fetch

    console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False, markup=False)
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, visible=False)

        def progress(here: int, total: int) -> None:
            bar.update(task, completed=here, total=total or None, visible=True)

        table = fetch(name, out, url=url, progress=progress, say=console.print)
    typer.echo(table)
