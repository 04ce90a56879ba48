"""`moralprobe models`: what can be read here, and what the paper read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moralprobe.cli.console import say, say_json


def models_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, all fields.")] = False,
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
    for title in ("packaged", "cached"):
        say(f"{title}:")
        for row in found[title] or [{"id": "none", "about": ""}]:
            say(f"  {row['id']:<42}{row['about']}")
    _show_registry(found["registry"])


def _show_registry(rows: list[dict[str, Any]]) -> None:
    say("registry: the paper's models; memory is that of the weights in bf16")
    say(
        f"  {'id':<42}{'family':<11}{'role':<10}{'size':<16}{'MoE':<5}"
        f"{'layers':>6}{'width':>7}{'memory':>10}  revision"
    )
    for row in rows:
        say(
            f"  {row['id']:<42}{row['family']:<11}{row['role']:<10}{row['size']:<16}"
            f"{'yes' if row['moe'] else 'no':<5}{row['n_layers']:>6}{row['d_model']:>7}"
            f"{row['memory_gb']:>7.1f} GB  {row['revision'] or 'not pinned'}"
        )
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        ids = [row["id"].rpartition("/")[2] for row in rows if row["note"] == note]
        say(f"  {', '.join(ids)}: {note}")
