"""`moralprobe pluralism overton`: how many of the reasonable positions a model's answers voice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, steps


def overton_command(
    items: Annotated[
        Path,
        typer.Argument(
            metavar="ITEMS",
            help="Columns question, position, weight (of the opinion cluster) and paraphrase where "
            "known; or starter.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    model: Annotated[
        str, typer.Option(help="A local one, or http://HOST/v1=MODEL.")
    ] = "smollm2-135m",
    judge: Annotated[
        str,
        typer.Option(help="words, a model as of --model, or nli=FOLDER of an MNLI model."),
    ] = "words",
    readout: Annotated[
        str, typer.Option(help="Of a judge that is a model: logprob, or sampled.")
    ] = "logprob",
    samples: Annotated[int, typer.Option(help="Answers to each question.", min=1)] = 5,
    tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    draws: Annotated[int, typer.Option(help="Resamples of questions.", min=20)] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Count the reasonable positions that a model's answers voice, beside what a text of one does.

    Answers are asked for by the question as it stands, and by one for the different views. The
    judge is tried first; the same command continues what was cut off.

    Example: moralprobe pluralism overton starter --model smollm2-135m --judge smollm2-135m
    --samples 2 --out coverage
    """
    from moralprobe.behavior.options import Readout
    from moralprobe.behavior.pluralism.overton import measure
    from moralprobe.behavior.pluralism.voicing import Asked, Judge, Words, load_positions
    from moralprobe.bridges.position_judge import Entails
    from moralprobe.bridges.scorer import load_entailment
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable
    from moralprobe.report.overton import of_overton
    from moralprobe.steering.text import text_model

    positions = load_positions(items)
    how = Readout(readout)
    check_writable(out)
    asked = text_model(model, device)
    kind, _, folder = judge.partition("=")
    by: Judge = Words()
    if kind == "nli":
        by = Entails(load_entailment(folder, device=device))
    other = asked if judge == model else None
    if other is None and kind not in ("words", "nli"):
        other = text_model(judge, device)
    with (
        open_cache(out / "answers.jsonl", notice) as cache,
        steps("asking", quiet=quiet) as progress,
    ):
        found = measure(
            asked,
            positions,
            by if other is None else Asked(other, how, cache),
            samples=samples,
            tokens=tokens,
            draws=draws,
            seed=seed,
            cache=cache,
            progress=progress,
        )
    found.save(out)
    for line in of_overton(found):
        say(line)
    say(f"\n{out / 'scores.parquet'}")
