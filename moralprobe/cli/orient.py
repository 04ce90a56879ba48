"""`moralprobe orient`: values that a model is assigned, and how rationally it follows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, steps
from moralprobe.errors import UsageError

app = typer.Typer(
    help="Values that a model is assigned, and how rationally it follows them.",
    no_args_is_help=True,
)


@app.command("run")
def run_command(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    model: Annotated[
        str, typer.Option(help="A local one, or http://HOST/v1=MODEL.")
    ] = "smollm2-135m",
    values: Annotated[
        str, typer.Option(help="Joined by commas.")
    ] = "altruistic,individualistic,prosocial,competitive",
    conditions: Annotated[
        str, typer.Option(help="With a goal of its own, without, and with no value at all.")
    ] = "goal,no-goal,unprompted",
    sessions: Annotated[int, typer.Option(help="Of each value and condition.", min=1)] = 10,
    items: Annotated[str, typer.Option(help="primary, or all.")] = "primary",
    protocol: Annotated[
        str, typer.Option(help="moralprobe, or hvae: one dialogue, nothing shuffled.")
    ] = "moralprobe",
    readout: Annotated[
        str | None,
        typer.Option(
            help="logprob, the likeliest option; sampled, a letter that is said, as hvae has it."
        ),
    ] = None,
    described: Annotated[
        str, typer.Option(help="The value in our words: given; in the model's: self.")
    ] = "given",
    place: Annotated[
        str, typer.Option(help="Of the value: dialogue, or system, a system message.")
    ] = "dialogue",
    scale: Annotated[float, typer.Option(help="Of all payoffs.")] = 1.0,
    currency: Annotated[str, typer.Option(help="What is divided.")] = "coins",
    novel: Annotated[
        bool, typer.Option("--novel", help="Other numbers on the same lines in every session.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Resamples of sessions.", min=20)] = 1000,
    seed: Annotated[int, typer.Option(help="Of all shuffles, samples and resamples.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Have a model answer the slider measure of social value orientation under each value.

    The same command continues what was cut off.

    Example: moralprobe orient run --model smollm2-135m --values altruistic,competitive
    --conditions no-goal,unprompted --sessions 2 --out orientation
    """
    from moralprobe.behavior.options import Readout
    from moralprobe.behavior.orientation.asking import Settings
    from moralprobe.behavior.orientation.run import orient
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable
    from moralprobe.report.orientation import of_orientation, write_ring
    from moralprobe.steering.text import text_model

    settings = Settings(
        _names(values),
        _names(conditions),
        sessions,
        items,
        protocol,
        None if readout is None else Readout(readout),
        described,
        place,
        scale,
        currency,
        novel,
        seed,
    )
    check_writable(out)
    asked = text_model(model, device)
    with (
        open_cache(out / "answers.jsonl", notice) as cache,
        steps("asking", quiet=quiet) as progress,
    ):
        found = orient(asked, settings, draws=draws, cache=cache, progress=progress)
    found.save(out)
    write_ring(found, out / "ring.svg")
    for line in of_orientation(found):
        say(line)
    say(f"\n{out / 'measures.parquet'}, {out / 'ring.svg'}")


@app.command("ring")
def ring_command(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    model: Annotated[str, typer.Option(help="On this machine.")] = "smollm2-135m",
    layers: Annotated[
        str | None, typer.Option(help="Counted from 0, joined by commas; all, if not given.")
    ] = None,
    permutations: Annotated[int, typer.Option(help="Of the null.", min=19)] = 200,
    seed: Annotated[int, typer.Option(help="Of orders and permutations.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Read assigned values in hidden states: are they told apart, and in the ring's order?

    Example: moralprobe orient ring --model smollm2-135m --layers 1 --permutations 19 --out ring
    """
    from moralprobe.bridges.ring import ring
    from moralprobe.files import check_writable, write_json, write_table
    from moralprobe.models.load import load_model
    from moralprobe.report.orientation import of_ring

    chosen = None if layers is None else _numbers(layers)
    check_writable(out)
    loaded = load_model(model, device=device)
    with steps("reading", quiet=quiet) as progress:
        table = ring(loaded, layers=chosen, draws=permutations, seed=seed, progress=progress)
    write_table(out / "ring.parquet", table)
    about = {"model": loaded.identity, "permutations": permutations, "seed": seed}
    write_json(out / "ring.json", about)
    for line in of_ring(table):
        say(line)
    say(f"\n{out / 'ring.parquet'}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(
            f"{text!r} names no layers", "they are numbers joined by commas", "give for example 8,9"
        ) from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
