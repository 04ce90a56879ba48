"""`moralprobe run`: a recipe, from judgements to the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import hours_in_words, notice, say, size_in_words, steps

if TYPE_CHECKING:
    from moralprobe.recipes.options import RunRecipe


def run_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A .yaml file; or smollm2, qwen3-8b.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; out/ and the recipe's name.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE for a dotted key: probe.draws=200. Repeatable."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="The last step: probe, sae, sae.train, topology, ...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what each step would take, and start nothing.")
    ] = False,
    device_tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s; 40 % of an H100's bf16 peak if not.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Run a recipe from judgements to the report, each step into its own folder.

    The same command again continues; run.yaml in the folder is the recipe with every default.

    Example: moralprobe run smollm2 --out run
    """
    from moralprobe.recipes.run import load_recipe, run_recipe
    from moralprobe.recipes.text import parse_overrides

    out = Path("out") / Path(recipe).stem if out is None else out
    asked = load_recipe(recipe, parse_overrides(change or []))
    if dry_run:
        _show_plan(asked, out, until, device_tflops)
        return
    done = run_recipe(
        asked,
        out,
        until=until,
        say=notice,
        begins=(lambda message: None) if quiet else notice,
        watch=lambda what: steps(what, quiet=quiet),
    )
    if not done.made:
        say(f"{out}: all of it was done before")
    for name in done.made:
        say(f"{name}: done")
    if done.page is not None:
        say(f"results: {done.page}")


def _show_plan(
    recipe: RunRecipe, out: Path, until: str | None, device_tflops: float | None
) -> None:
    from moralprobe.activations.cost import PEAK_TFLOPS, UTILISATION
    from moralprobe.files import free_bytes
    from moralprobe.recipes.forecast import plan_recipe

    tflops = UTILISATION * PEAK_TFLOPS if device_tflops is None else device_tflops
    plan = plan_recipe(recipe, out, until=until, device_tflops=tflops)
    say(f"{recipe.general.model}, mode {recipe.general.mode}, {plan.dtype}")
    say(f"texts: {plan.texts}\n")
    say(f"{'':<36}{'GPUs':>5}{'memory':>10}{'hours':>10}{'disk':>10}  ")
    for job in plan.jobs:
        gpus = "-" if job.gpus is None else str(job.gpus)
        memory = "-" if job.memory_bytes is None else size_in_words(job.memory_bytes)
        hours = "-" if job.hours is None else hours_in_words(job.hours)
        disk = "-" if job.disk_bytes is None else size_in_words(job.disk_bytes)
        say(f"{job.name:<36}{gpus:>5}{memory:>10}{hours:>10}{disk:>10}  {job.note}".rstrip())
    total = sum(job.hours or 0.0 for job in plan.jobs)
    needed = sum(job.disk_bytes or 0 for job in plan.jobs)
    in_all = f"{hours_in_words(total):>10}{size_in_words(needed):>10}"
    say(f"{'forecast in all':<36}{'':>5}{'':>10}{in_all}")
    source = (
        "as given" if device_tflops is not None else f"{UTILISATION:.0%} of an H100's bf16 peak"
    )
    say(f"\nhours: arithmetic alone, at {tflops:g} TFLOP/s ({source}); GPUs: of 80 GB.")
    free = free_bytes(out)
    room = "enough" if needed <= free else "not enough for all: keep fewer layers or poolings"
    say(f"disk: {size_in_words(free)} are free at {out.absolute()}, {room}")
