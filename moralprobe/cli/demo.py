"""`moralprobe demo`: the whole chain on what comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import say


def demo_command(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("out/demo"),
    layers: Annotated[str, typer.Option(help="Which layers to read.")] = "all",
    draws: Annotated[int, typer.Option(help="Resamples and permutations.", min=100)] = 300,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Go the whole way on what comes with the package.

    Starter actions to moral vectors, SmolLM2's hidden states, both modes, a report.

    Example: moralprobe demo --out out/demo
    """
    from moralprobe.cli.extract import extract_command
    from moralprobe.cli.probe import probe_command
    from moralprobe.cli.vectors import build

    vectors, store = out / "vectors.parquet", out / "store"
    say("1. moral vectors from the starter set\n")
    build("starter", out=vectors)
    say("\n2. hidden states of smollm2-135m\n")
    extract_command("smollm2-135m", vectors, out=store, layers=layers, quiet=quiet)
    say("\n3. the analyses, in both modes\n")
    probe_command(store, out=out, draws=draws, quiet=quiet)
    say(
        f"""
Open the report: {out / "report" / "index.html"}

Three commands to try next:
  moralprobe verify {store}
  moralprobe data download social-chem-101
  moralprobe vectors build YOUR_TABLE.tsv --out yours.parquet"""
    )
