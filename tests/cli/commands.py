"""Run a command in this process, as a shell would see it."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from typer.main import get_command

from moralprobe.cli.main import app, run


@dataclass(frozen=True)
class Said:
    """What a command left with, and what it said on stdout and stderr."""

    code: int
    out: str
    err: str


def moralprobe(*arguments: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(sys, "argv", ["moralprobe", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                run()
            except SystemExit as left:
                assert isinstance(left.code, int)
                return Said(left.code, out.getvalue(), err.getvalue())
    finally:
        signal.signal(signal.SIGTERM, handler)


def refused(said: Said, *words: str, code: int = 2) -> None:
    """Assert that a command failed with what, why and what instead, on stderr and nowhere else."""
    assert said.code == code, said
    assert said.out == ""
    assert "Traceback" not in said.err
    lines = [line for line in said.err.splitlines() if not line.startswith("loading ")]
    assert [re.match(r"error: \S|  why: \S|  try: \S", line) is not None for line in lines] == [
        True,
        True,
        True,
    ], said.err
    assert [line[:5] for line in lines] == ["error", "  why", "  try"]
    for word in words:
        assert re.search(word, said.err), f"{word!r} isn't in:\n{said.err}"


def leaves() -> dict[str, object]:
    """Every command by the words that call it, from the program itself."""
    found: dict[str, object] = {}

    def walk(command: object, path: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found[" ".join(path)] = command
            return
        for name, child in children.items():
            walk(child, (*path, name))

    walk(get_command(app), ())
    return found


def spoil(path: Path, at: int = -1) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
