"""What the benchmarks of writing share: their options, and texts that don't end early."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def options_of(doc: str | None) -> argparse.Namespace:
    """Read model, layer, rounds and new tokens from the command line."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    return parser.parse_args()


def command_of(file: str, options: argparse.Namespace) -> str:
    """Return what repeats a run."""
    said = " ".join(f"--{name} {value}" for name, value in vars(options).items())
    return f"python benchmarks/{file}.py {said}"


@contextmanager
def endless() -> Iterator[None]:
    """Let no token end a text, so that all runs make as many."""
    from moralprobe.steering import generate as writing

    ends, writing.end_ids = writing.end_ids, lambda model: set()
    try:
        yield
    finally:
        writing.end_ids = ends


def check_lengths(lengths: Any, tokens: int) -> None:
    """Refuse runs that can't be compared."""
    if set(lengths) != {tokens}:
        raise SystemExit("a text ended early: runs can't be compared")
