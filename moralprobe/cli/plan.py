"""`moralprobe plan`: what an extraction would cost, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import hours_in_words, say, say_json, size_in_words

if TYPE_CHECKING:
    from moralprobe.activations.cost import Cost


def plan_command(
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    models: Annotated[
        str,
        typer.Option(help="paper for its 23 models; or ids, folders, joined by commas."),
    ],
    layers: Annotated[str, typer.Option(help="all, 12, 8-20, 8-20:2, or several.")] = "all",
    pooling: Annotated[
        str, typer.Option(help="Of mean, mean_unit, mean_no_sink, mean_action, last.")
    ] = "mean,mean_unit,mean_no_sink,last",
    template: Annotated[str, typer.Option(help="The text around the action.")] = (
        "action-is-morally"
    ),
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    batch_tokens: Annotated[int, typer.Option(help="Tokens in a batch.")] = 4096,
    share: Annotated[bool, typer.Option(help="Common beginnings are read once.")] = True,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut and flagged.")] = 128,
    device_tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s; 40 % of an H100's bf16 peak if not.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the stores would go: is there room?")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what reading a table would cost with each model, and start nothing.

    Tokens, FLOPs, disk, memory and GPU-hours; nothing is fetched.

    Example: moralprobe plan starter.parquet --models paper
    """
    from moralprobe.activations.cost import PEAK_TFLOPS, UTILISATION
    from moralprobe.activations.forecast import plan_extraction
    from moralprobe.activations.store import load_table
    from moralprobe.files import free_bytes

    table = load_table(vectors)
    assumed = UTILISATION * PEAK_TFLOPS
    tflops = assumed if device_tflops is None else device_tflops
    costs = plan_extraction(
        models,
        table,
        layers=layers,
        poolings=pooling,
        template=template,
        dtype=dtype,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        share=share,
        device_tflops=tflops,
    )
    source = (
        f"{UTILISATION:.0%} of the dense bf16 peak of an H100, {PEAK_TFLOPS:g} TFLOP/s"
        if device_tflops is None
        else "as given; moralprobe bench measures it"
    )
    texts, free = table.frame["action"].n_unique(), free_bytes(out)
    if as_json:
        say_json(
            {
                "texts": texts,
                "models": [cost.__dict__ for cost in costs],
                "total": _total(costs),
                "assumed": {"device_tflops": tflops, "from": source, "dtype": dtype},
                "free_bytes": free,
            }
        )
        return
    say(f"{vectors}: {texts:,} distinct texts, template {template}, {dtype}\n")
    _show(costs)
    say(f"\nGPU-hours: arithmetic alone, at {tflops:g} TFLOP/s ({source}).")
    say("memory: the weights, and about the states of one batch; GPUs: of 80 GB, to hold it.")
    say(
        "tokens: what texts have in common at their beginning is read once, where a model allows."
        if share
        else "tokens: batches are of one length, so that none is padding."
    )
    if any(cost.estimated for cost in costs):
        say("~: counted by another tokenizer, since the model's own isn't on this machine.")
    _show_room(out, sum(cost.disk_bytes for cost in costs), free)


def _total(costs: list[Cost]) -> dict[str, float]:
    return {
        "tokens": sum(cost.tokens for cost in costs),
        "flops": sum(cost.flops for cost in costs),
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "gpu_hours": sum(cost.gpu_hours for cost in costs),
    }


def _show(costs: list[Cost]) -> None:
    total = _total(costs)
    say(
        f"{'model':<42}{'tokens':>14}{'FLOPs':>10}{'disk':>11}{'memory':>11}{'GPUs':>6}"
        f"{'GPU-hours':>11}  tokens by"
    )
    for cost in costs:
        tokens = f"{'~' if cost.estimated else ''}{cost.tokens:,}"
        memory = size_in_words(cost.weights_bytes + cost.activations_bytes)
        say(
            f"{cost.id:<42}{tokens:>14}{cost.flops:>10.2g}{size_in_words(cost.disk_bytes):>11}"
            f"{memory:>11}{cost.gpus:>6}{hours_in_words(cost.gpu_hours):>11}  {cost.tokens_by}"
        )
    tokens = f"{'~' if any(cost.estimated for cost in costs) else ''}{total['tokens']:,}"
    say(
        f"{'total':<42}{tokens:>14}{total['flops']:>10.2g}{size_in_words(total['disk_bytes']):>11}"
        f"{'':>17}{hours_in_words(total['gpu_hours']):>11}"
    )


def _show_room(out: Path, needed: int, free: int) -> None:
    if needed > free:
        say(
            f"disk: {out.absolute()} has not enough room, {size_in_words(free)} free for "
            f"{size_in_words(needed)}: "
            "read fewer layers, poolings or models, or give another --out"
        )
    else:
        say(f"disk: {size_in_words(free)} are free at {out.absolute()}, enough for all")
