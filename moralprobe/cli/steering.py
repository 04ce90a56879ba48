"""`moralprobe steer` and `moralprobe intervention`: text with and without, and what changes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import notice, say, say_json, steps
from moralprobe.errors import UsageError

if TYPE_CHECKING:
    from moralprobe.steering.intervention import Intervention

app = typer.Typer(help="Make interventions of directions and features.", no_args_is_help=True)
_SIDES = ("DEFAULT", "STEERED")


def steer_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id, path or name.")],
    intervention: Annotated[
        list[Path], typer.Option(help="A folder; several add up. One may end in @STRENGTH.")
    ],
    prompt: Annotated[list[str], typer.Option(help="What the user says. Repeatable.")],
    strength: Annotated[float, typer.Option(help="Of all of it.")] = 1.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="The model as it is beside it, by the same draws.")
    ] = False,
    positions: Annotated[str, typer.Option(help="all, prompt or generated.")] = "all",
    max_tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Share of probability that is drawn from.")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    thinking: Annotated[
        bool | None, typer.Option(help="What the chat template is told, where it knows it.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Continue the prompt as text, without a chat.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Let a model write while it is steered.

    Example: moralprobe steer smollm2-135m --intervention care@0.2 --prompt "Should I lie?"
    """
    from moralprobe.models.load import load_model
    from moralprobe.steering.generate import generate, side_by_side
    from moralprobe.steering.sampling import Sampling

    steered = _sum(intervention) * strength
    sampling = Sampling(max_tokens, temperature, top_p, seed=seed)
    loaded = load_model(model, dtype=dtype, device=device)
    chat = False if plain else None
    found = []
    for text in prompt:
        if not as_json and len(prompt) > 1:
            say(f"> {shown(text)}")
        options = {"sampling": sampling, "positions": positions, "chat": chat}
        said = {"system": system, "thinking": thinking}
        with _live(compare, quiet=as_json) as on_text:
            if compare:
                both = side_by_side(loaded, text, steered, **options, **said, on_text=on_text)  # type: ignore[arg-type]
            else:
                both = tuple(generate(loaded, [text], steered, **options, **said, on_text=on_text))  # type: ignore[arg-type, assignment]
        found.append(
            {"prompt": text}
            | {
                side.lower(): vars(one)
                for side, one in zip(_SIDES[-len(both) :], both, strict=True)
            }
        )
        if not as_json:
            one = both[-1]
            notice(f"{one.edits} edits of tokens, each {one.change:.1%} of the state on average")
    if as_json:
        say_json(found)


def _sum(folders: list[Path]) -> Intervention:
    """Return the sum of interventions in folders, each at the strength behind its @."""
    from moralprobe.steering.intervention import Intervention

    made: Intervention | None = None
    for folder in folders:
        name, _, strength = str(folder).rpartition("@")
        if name and not folder.exists():
            try:
                one = Intervention.load(Path(name)) * float(strength)
            except ValueError as error:
                raise UsageError(
                    f"{strength!r} is no strength", f"in {folder}", "write DIR@0.5"
                ) from error
        else:
            one = Intervention.load(folder)
        made = one if made is None else made + one
    if made is None:
        raise UsageError("there is no intervention", "none is given", "give --intervention DIR")
    return made


def shown(text: str) -> str:
    """Return text without the characters that would steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


@contextmanager
def _live(compare: bool, *, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """Yield what is called with each piece: shown at once on a terminal, else at the end."""
    texts = ["", ""]

    def keep(side: int, piece: str) -> None:
        texts[side] += shown(piece)

    if quiet:
        yield keep
        return
    if not compare:

        def write(_side: int, piece: str) -> None:
            typer.echo(shown(piece), nl=False)

        yield write
        say("")
        return
    if not sys.stdout.isatty():
        yield keep
        for side, text in zip(_SIDES, texts, strict=True):
            say(f"{side}: {text}")
        return
    from rich.columns import Columns
    from rich.live import Live
    from rich.panel import Panel
    from rich.text import Text

    def drawn() -> Columns:
        panels = [
            Panel(Text(text), title=side, title_align="left")
            for side, text in zip(_SIDES, texts, strict=True)
        ]
        return Columns(panels, equal=True, expand=True)

    with Live(drawn(), refresh_per_second=12) as live:

        def show(side: int, piece: str) -> None:
            keep(side, piece)
            live.update(drawn())

        yield show


@app.callback()
def interventions() -> None:
    """Make interventions of directions and features."""


@app.command("direction")
def direction_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id, path or name.")],
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    layer: Annotated[int, typer.Option(help="The block whose output is edited, from 0.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    target: Annotated[
        str, typer.Option(help="moral, an axis (care-harm) or a pole (care).")
    ] = "moral",
    kind: Annotated[
        str, typer.Option(help="means: a difference of means. ridge: a linear read-out's weights.")
    ] = "means",
    seed: Annotated[int, typer.Option(min=0, help="Of the controls and folds.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Make an intervention of a direction, with its controls.

    At strength 1 it adds as much as is there; useful strengths lie far below.

    Example: moralprobe intervention direction smollm2-135m starter.parquet --layer 15 --out care
    """
    from moralprobe.files import check_writable
    from moralprobe.interventions import direction_intervention
    from moralprobe.models.load import load_model
    from moralprobe.steering.intervention import check_empty

    check_empty(out)
    check_writable(out)
    loaded = load_model(model, dtype=dtype, device=device)
    with steps("reading tokens", quiet=quiet) as step:
        made = direction_intervention(
            loaded,
            vectors,
            layer,
            target=target,
            kind=kind,
            seed=seed,
            progress=step,
        )
    made.save(out)
    r = made.about["held_out_r"]
    said = "unknown" if r is None else f"{r:.2f}"
    say(f"{out}: {kind} of {target} at resid_post.{layer}; r with it on held-out texts {said}")


@app.command("vector")
def vector_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors file of one vector.")
    ],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id, path or name.")],
    layer: Annotated[int, typer.Option(help="The block whose output is edited, from 0.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    vectors: Annotated[
        Path | None, typer.Option(help="A file made by 'vectors build': makes controls by it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the controls.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Make an intervention that adds a vector of yours, at its own length.

    Example: moralprobe intervention vector mine.safetensors smollm2-135m --layer 15 --out mine
    """
    from moralprobe.files import check_writable
    from moralprobe.interventions import vector_intervention
    from moralprobe.models.load import load_model
    from moralprobe.steering.intervention import check_empty

    check_empty(out)
    check_writable(out)
    loaded = load_model(model, dtype=dtype, device=device)
    with steps("reading tokens", quiet=quiet) as step:
        made = vector_intervention(file, loaded, layer, vectors=vectors, seed=seed, progress=step)
    made.save(out)
    beside = ", ".join(made.controls) or "none, as no --vectors are given"
    say(f"{out}: {file.name} at resid_post.{layer}; controls: {beside}")


@app.command("features")
def features_command(
    sae: Annotated[Path, typer.Argument(metavar="DIR", help="An autoencoder.")],
    change: Annotated[
        list[str],
        typer.Option(help="NUMBER=VALUE sets it, NUMBER*FACTOR scales it, NUMBER+VALUE adds."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    vectors: Annotated[
        Path | None, typer.Option(help="A file made by 'vectors build': makes controls by it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the controls.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Make an intervention of single features: only their change enters.

    Example: moralprobe intervention features sae --change 12=5 --change "40*0" --out features-12
    """
    from moralprobe.files import check_writable
    from moralprobe.interventions import feature_intervention
    from moralprobe.models.load import choose_device, load_model
    from moralprobe.sae.load import load_sae
    from moralprobe.sae.tokens import origin_of
    from moralprobe.steering.intervention import check_empty

    changes = dict(parse_change(text) for text in change)
    check_empty(out)
    check_writable(out)
    loaded = load_sae(sae, device=str(choose_device(device)))
    loaded_model = load_model(**origin_of(loaded, model), device=device)
    with steps("reading tokens", quiet=quiet) as step:
        made = feature_intervention(
            loaded, loaded_model, changes, vectors=vectors, seed=seed, progress=step
        )
    made.save(out)
    beside = ", ".join(made.controls) or "none, as no --vectors are given"
    say(f"{out}: {len(changes)} features of {sae} at {loaded.site}; controls: {beside}")


def parse_change(text: str) -> tuple[int, tuple[float, float]]:
    """Read `12=5`, `12*0` or `12+3`: a feature, and its scale and offset.

    Raises:
        UsageError: anything else.
    """
    import re

    match = re.fullmatch(r"([0-9]{1,9})([=*+])([-+]?[0-9.]+(?:[eE][-+]?[0-9]{1,3})?)", text.strip())
    try:
        if match is None:
            raise ValueError
        number, value = int(match[1]), float(match[3])
    except ValueError:
        raise UsageError(
            f"{text!r} is no change of a feature",
            "it is a number, one of = * +, and a value",
            "write for example 12=5",
        ) from None
    change = {"=": (0.0, value), "*": (value, 0.0), "+": (1.0, value)}[match[2]]
    return number, change
