"""`moralprobe models`: what can be read here, and what the paper read."""

from __future__ import annotations

from typing import Annotated

import typer

from moralprobe.cli.console import say, say_json


def models_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the models that can be read.

    Packaged with weights, in the hub's cache, or in the paper's registry.

    Example: moralprobe models
    """
    from moralprobe.models.available import available_models

    found = available_models()
    if as_json:
        say_json(found)
        return
    for title, rows in found.items():
        say(f"{title}:")
        for row in rows or [{"id": "none", "about": ""}]:
            say(f"  {row['id']:<46} {row['about']}")
