"""`moralprobe extract` and `moralprobe verify`: hidden states into a store, and its check."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from moralprobe.cli.console import notice, say, say_json, steps
from moralprobe.errors import UsageError, nearest

ENGINES: Final = ("loop", "ray")


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
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a batch; what suits the device if not given.")
    ] = None,
    share: Annotated[
        bool, typer.Option(help="Read what texts have in common at their beginning once.")
    ] = True,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut and flagged.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, spread.")] = "auto",
    devices: Annotated[
        str | None, typer.Option(help="Several, a process each: cuda:0,cuda:1.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on --device, each with the model.")] = 1,
    engine: Annotated[
        str, typer.Option(help="loop, or ray: --workers actors on Ray Data.")
    ] = "loop",
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
    from moralprobe.activations.job import Options
    from moralprobe.activations.pooling import parse_poolings
    from moralprobe.activations.store import load_table
    from moralprobe.data.prompts import get_template

    first, *beside = _places(devices.split(",") if devices else [device], workers, engine)
    table = load_table(vectors)
    poolings = parse_poolings(pooling)  # a slip of the pen shouldn't wait for a large model
    get_template(template)
    origin: dict[str, Any] = {
        "source": model,
        "dtype": dtype,
        "revision": revision,
        "layers_path": layers_path,
        "untrained": untrained,
    }
    asked = Options(layers, poolings, template, max_tokens, batch_tokens, share)
    if not quiet:
        notice(f"loading {model}")
    from moralprobe.models.load import choose_device, load_model

    for name in beside:
        choose_device(name)  # before a large model is loaded for the first
    loaded = None if engine == "ray" else load_model(**origin, device=first)
    with steps(f"reading texts with {loaded.name if loaded else model}", quiet=quiet) as step:
        started = time.monotonic()

        def progress(p: Progress) -> None:
            if p.kept == p.total:
                step(p.texts, p.total, "texts: all were read before")
                return
            rate = (p.texts - p.kept) / max(time.monotonic() - started, 1e-3)
            written = f", {p.bytes / 1e6:,.0f} MB written" if p.bytes else ""
            step(p.texts, p.total, f"texts, {rate:.0f}/s{written}")

        if loaded is not None:
            store = extract(
                loaded, table, out, **asdict(asked), beside=beside, progress=progress, say=notice
            )
        else:
            from moralprobe.activations.cluster import extract_on_ray

            store = extract_on_ray(
                origin,
                table,
                out,
                asked,
                device=first,
                actors=workers,
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


def _places(devices: list[str], workers: int, engine: str) -> list[str]:
    """Return a device for every process; the first is this one's."""
    asked = f"--devices {','.join(devices)}, --workers {workers}"
    if engine not in ENGINES:
        raise UsageError(
            f"unknown engine {engine!r}", nearest(engine, ENGINES), "write --engine loop or ray"
        )
    if workers < 1:
        raise UsageError("no process is left to read", asked, "write --workers 1 or more")
    if workers > 1 and len(devices) > 1:
        raise UsageError(
            "--devices and --workers don't go together",
            asked,
            "name a device for every process, or say how many share one",
        )
    if "spread" in devices and (len(devices) > 1 or workers > 1 or engine == "ray"):
        raise UsageError(
            "a model that is spread takes all devices",
            f"{asked}, --engine {engine}",
            "write --device spread alone: one process reads",
        )
    if engine == "loop":
        return devices * workers
    if len(devices) > 1:
        raise UsageError(
            "Ray gives actors their devices",
            asked,
            "write --device cuda, and --workers for the number of GPUs",
        )
    return ["cpu" if devices == ["auto"] else devices[0]]


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
