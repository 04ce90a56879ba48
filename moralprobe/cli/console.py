"""What commands say, and how: results on stdout, progress and notices on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer

_EVERY = 60.0  # seconds between lines where there is no terminal


def say(message: str) -> None:
    """Print a result."""
    typer.echo(message)


def notice(message: str) -> None:
    """Print something the user should know, out of the way of results."""
    typer.echo(message, err=True)


def say_json(value: Any) -> None:
    """Print a result for machines."""
    typer.echo(json.dumps(value, indent=1, default=str))


def _ignore(done: int, total: int, detail: str = "") -> None:
    pass


@contextlib.contextmanager
def steps(what: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, detail): a bar on a terminal, else a line a minute."""
    if quiet:
        yield _ignore
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[detail]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None, detail="")

            def update(done: int, total: int, detail: str = "") -> None:
                bar.update(task, completed=done, total=total, detail=detail)

            yield update
        return
    started = last = time.monotonic()

    def line(done: int, total: int, detail: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY or done == total:
            last = now
            notice(f"{what}: {done}/{total} {detail} ({now - started:.0f} s)")

    yield line


def hours_in_words(hours: float) -> str:
    """Return hours as a reader wants them."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.3g}"


def size_in_words(n: float) -> str:
    """Return bytes in the unit that a reader wants."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.3g} TB"
