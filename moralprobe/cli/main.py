"""The command `moralprobe`: commands are put together here, and errors become exit codes."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from moralprobe import __version__
from moralprobe.cli import (
    bench,
    compare,
    consensus,
    control,
    data,
    demo,
    doctor,
    elicit,
    evaluate,
    extract,
    models,
    orient,
    plan,
    pluralism,
    probe,
    sae,
    serve,
    steering,
    topology,
    vectors,
)
from moralprobe.cli import (
    run as recipe,
)
from moralprobe.cli.console import notice, say
from moralprobe.errors import MoralprobeError

app = typer.Typer(
    name="moralprobe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: rich's costs a tenth of a second at every start.
    rich_markup_mode=None,
    help="Moral representations in language models, with how far to believe each number.",
)
app.add_typer(data.app, name="data")
app.add_typer(vectors.app, name="vectors")
app.add_typer(sae.app, name="sae")
app.add_typer(topology.app, name="topology")
app.add_typer(steering.app, name="intervention")
app.command("steer")(steering.steer_command)
app.command("evaluate")(evaluate.evaluate_command)
app.add_typer(consensus.app, name="consensus")
app.add_typer(elicit.app, name="elicit")
app.add_typer(orient.app, name="orient")
app.add_typer(pluralism.app, name="pluralism")
app.command("plan")(plan.plan_command)
app.command("bench")(bench.bench_command)
app.command("extract")(extract.extract_command)
app.command("verify")(extract.verify_command)
app.command("probe")(probe.probe_command)
app.command("control")(control.control_command)
app.command("compare")(compare.compare_command)
app.command("models")(models.models_command)
app.command("run")(recipe.run_command)
app.command("serve")(serve.serve_command)
app.command("demo")(demo.demo_command)
app.command("doctor")(doctor.doctor_command)


def _show_version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that files in the making are dropped on the way out."""


def _on_terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated


def run() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 wrong use, 130 and 143 interrupted."""
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        code = app(prog_name="moralprobe", standalone_mode=False)
    except MoralprobeError as error:
        notice(f"error: {error.what}")
        if error.why:
            notice(f"  why: {error.why}")
        if error.instead:
            notice(f"  try: {error.instead}")
        code = error.exit_code
    except typer.TyperException as error:  # an option or argument that the parser refuses
        message = error.format_message()
        if message.startswith("Usage:"):  # no command was given: the help is the answer
            notice(message)
        else:
            notice(f"error: {message}")
            notice("  try: moralprobe COMMAND --help")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _Terminated:
        code = 143
    if code in (130, 143):
        notice("interrupted: what is complete is kept, and the same command continues")
    sys.exit(code or 0)
