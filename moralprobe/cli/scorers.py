"""What the commands of elicitation are told, and their scorers: calibrated before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moralprobe.cli.console import steps
from moralprobe.errors import DataError

if TYPE_CHECKING:
    from moralprobe.behavior.elicitation.calibration import Calibrated
    from moralprobe.cache import Cache

Spec = Annotated[
    str, typer.Option(help="judge=MODEL, linear=MODEL, nli=FOLDER, or words.", metavar="SCORER")
]
Cases = Annotated[
    str,
    typer.Option(help="Texts that keep and break principles: starter, a table, moral-stories."),
]
Out = Annotated[Path, typer.Option(help="The folder to write.")]
Prompts = Annotated[
    Path, typer.Argument(metavar="PROMPTS", help="What elicit search wrote, or principle, prompt.")
]
Model = Annotated[str, typer.Option(help="That goes on: a local one, or http://HOST/v1=MODEL.")]
Completions = Annotated[int, typer.Option(help="Completions of each prompt.", min=1)]
Tokens = Annotated[int, typer.Option(help="Of a completion.", min=1)]
Readout = Annotated[
    str, typer.Option(help="Of a judge: logprob, or sampled where a server tells none.")
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Use a scorer that can't tell breaking from keeping; it is marked."
    ),
]
Draws = Annotated[int, typer.Option(help="Resamples of principles.", min=20)]
Seed = Annotated[int, typer.Option(help="Of all samples and resamples.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def calibrated(
    spec: str,
    source: str,
    readout: str,
    device: str,
    seed: int,
    cache: Cache,
    *,
    force: bool,
    quiet: bool,
) -> Calibrated:
    """Load a scorer, and calibrate it on cases."""
    from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate
    from moralprobe.behavior.elicitation.principles import load_cases
    from moralprobe.bridges.scorer import scorer_of

    cases = load_cases(source)
    scorer = scorer_of(spec, cases, device=device, seed=seed, readout=readout, cache=cache)
    done = 0
    with steps(f"calibrating {scorer.name}", quiet=quiet) as progress:

        def step(n: int) -> None:
            nonlocal done
            done += n
            progress(done, max(done, 2 * len(cases)), "answers")

        found = calibrate(scorer, cases, seed=seed, step=step)
    return Calibrated(scorer, found, forced=force)


def searched_of(prompts: Path) -> dict[str, Any] | None:
    """Return what a search says of itself, None of a table."""
    path = (prompts if prompts.is_dir() else prompts.parent) / "search.json"
    if prompts.is_file() and prompts.name != "prompts.parquet":
        return None
    return json_in(path, "elicit search") if path.is_file() else None


def json_in(path: Path, command: str) -> dict[str, Any]:
    """Return what a command said of itself."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for name in ("scorer", "scorer_identity", "cases", "readout", "options"):
            found[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"can't read {path}", repr(error), f"make it: {command}") from error
    return found
