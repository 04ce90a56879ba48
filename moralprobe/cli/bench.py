"""`moralprobe bench`: what this machine sustains with a model, for the plan of a run here."""

from __future__ import annotations

from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, say_json


def bench_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="smollm2-135m, a folder, or an id on the hub.")
    ] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, spread.")] = "auto",
    seconds: Annotated[float, typer.Option(help="About how long to read.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure how fast this machine reads with a model.

    Texts of the starter set go into a store that is thrown away; what was sustained is for plan.

    Example: moralprobe bench smollm2-135m
    """
    from moralprobe.activations.calibrate import measure_rate
    from moralprobe.models.load import load_model

    notice(f"loading {model}")
    rate = measure_rate(load_model(model, dtype=dtype, device=device), seconds=seconds)
    if as_json:
        say_json(rate.__dict__)
        return
    say(
        f"{rate.model}, {rate.dtype} on {rate.device}: {rate.texts:,} texts in "
        f"{rate.seconds:.1f} s, {rate.texts_per_second:,.1f} texts/s, {rate.tflops:.3g} TFLOP/s"
    )
    say(f"a run here: moralprobe plan VECTORS --models {model} --device-tflops {rate.tflops:.3g}")
