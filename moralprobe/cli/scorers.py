"""Scorers as commands name them: loaded, and calibrated before anything is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moralprobe.cli.console import steps
from moralprobe.errors import DataError

if TYPE_CHECKING:
    from moralprobe.behavior.elicitation.calibration import Calibrated
    from moralprobe.cache import Cache

SCORER: Final = "judge=MODEL, linear=MODEL, nli=FOLDER, or words."
CASES: Final = "Texts that keep and break principles: starter, a table, or Moral Stories."
FORCE: Final = "Use a scorer that can't tell breaking from keeping; its numbers are marked."


def calibrated(
    spec: str, source: str, device: str, seed: int, cache: Cache, *, force: bool, quiet: bool
) -> Calibrated:
    """Load a scorer, and calibrate it on cases."""
    from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate
    from moralprobe.behavior.elicitation.principles import load_cases
    from moralprobe.bridges.scorer import scorer_of

    cases = load_cases(source)
    scorer = scorer_of(spec, cases, device=device, seed=seed, cache=cache)
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
        found["scorer"], found["cases"], found["options"]["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"can't read {path}", repr(error), f"make it: {command}") from error
    return found
