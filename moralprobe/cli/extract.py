"""`moralprobe extract` and `moralprobe verify`: hidden states into a store, and its check."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, say_json, steps


def extract_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="smollm2-135m, a folder, or an id on the hub.")
    ],
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    out: Annotated[Path, typer.Option(help="The store's folder.")],
    layers: Annotated[str, typer.Option(help="all, 12, 8-20, 8-20:2, or several.")] = "all",
    pooling: Annotated[
        str, typer.Option(help="Of mean, mean_unit, mean_no_sink, mean_action, last.")
    ] = "mean,mean_unit,mean_no_sink,last",
    template: Annotated[
        str, typer.Option(help="The text around the action: stripped, chat, ...")
    ] = "action-is-morally",
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    batch_tokens: Annotated[int, typer.Option(help="Tokens in a batch.")] = 1024,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut and flagged.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Commit or tag on the hub.")] = None,
    layers_path: Annotated[
        str | None, typer.Option(help="Dotted path of the decoder blocks, if not found.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="The same architecture with weights drawn anew.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Read every distinct text once, at all layers.

    What is complete is kept: the same command again continues.

    Example: moralprobe extract smollm2-135m starter.parquet --out store
    """
    from moralprobe.activations.extract import Progress, extract
    from moralprobe.activations.pooling import parse_poolings
    from moralprobe.data.prompts import get_template
    from moralprobe.data.ratings import Ratings, holds_ratings
    from moralprobe.moral_vectors import MoralVectors

    table = Ratings.load(vectors) if holds_ratings(vectors) else MoralVectors.load(vectors)
    parse_poolings(pooling)  # a slip of the pen shouldn't wait for a large model
    get_template(template)
    if not quiet:
        notice(f"loading {model}")
    from moralprobe.models.load import load_model

    loaded = load_model(
        model,
        dtype=dtype,
        device=device,
        revision=revision,
        layers_path=layers_path,
        untrained=untrained,
    )
    with steps(f"reading texts with {loaded.name}", quiet=quiet) as step:
        started = time.monotonic()

        def progress(p: Progress) -> None:
            if p.kept == p.total:
                step(p.texts, p.total, "texts: all were read before")
                return
            rate = (p.texts - p.kept) / max(time.monotonic() - started, 1e-3)
            step(p.texts, p.total, f"texts, {rate:.0f}/s, {p.bytes / 1e6:,.0f} MB written")

        store = extract(
            loaded,
            table,
            out,
            layers=layers,
            poolings=pooling,
            template=template,
            max_tokens=max_tokens,
            batch_tokens=batch_tokens,
            progress=progress,
            say=notice,
        )
    left_out = store.texts.height - store.n_readable
    say(
        f"{out}: {store.n_readable:,} texts, {len(store.layers)} "
        f"layer{'s' if len(store.layers) != 1 else ''}, "
        f"poolings {', '.join(store.poolings)}"
    )
    if left_out:
        say(f"{left_out:,} texts are empty or of one token: kept in the table, masked")
    if truncated := int(store.texts["truncated"].sum()):
        say(f"{truncated:,} texts were cut at {max_tokens} tokens")


def verify_command(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A folder made by 'extract'.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every byte of a store against its manifest.

    Example: moralprobe verify store
    """
    from moralprobe.activations.store import verify

    problems, foreign = verify(store)
    if as_json:
        say_json({"problems": problems, "foreign": foreign})
    else:
        for name in foreign:
            notice(f"{name}: not part of this store, ignored")
        for name, what in problems.items():
            say(f"{name}: {what}")
        say("damaged: repeat the extract command" if problems else f"{store}: all bytes are right")
    if problems:
        raise typer.Exit(1)
