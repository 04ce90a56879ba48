"""`moralprobe doctor`: what works here, and how to mend what doesn't."""

from __future__ import annotations

from typing import Annotated

import typer

from moralprobe.cli.console import say, say_json


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what works here, and how to mend what doesn't.

    Example: moralprobe doctor
    """
    from moralprobe.doctor import examine

    findings = examine()
    if as_json:
        say_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            say(f"{'ok  ' if finding.ok else 'MEND'} {finding.what:<22} {finding.found}")
            if not finding.ok:
                say(f"     {finding.mend}")
    if not all(finding.ok for finding in findings if finding.needed):
        raise typer.Exit(1)
