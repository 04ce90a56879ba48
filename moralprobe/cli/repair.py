"""`moralprobe elicit repair`: instructions after which a model keeps principles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, steps
from moralprobe.cli.scorers import (
    Cases,
    Completions,
    Device,
    Draws,
    Force,
    Model,
    Out,
    Prompts,
    Quiet,
    Readout,
    Seed,
    Spec,
    Tokens,
    calibrated,
    json_in,
)

app = typer.Typer(help="Instructions after which a model keeps principles.", no_args_is_help=True)


@app.command("train")
def train_command(
    prompts: Prompts,
    out: Out,
    model: Model = "smollm2-135m",
    writer: Annotated[
        str | None, typer.Option(help="Who writes instructions; the model, if not given.")
    ] = None,
    scorer: Spec = "linear=smollm2-135m",
    cases: Cases = "starter",
    readout: Readout = "logprob",
    n: Annotated[int, typer.Option(help="Instructions tried for a prompt.", min=1)] = 8,
    k: Completions = 5,
    tokens: Tokens = 100,
    near: Annotated[int, typer.Option(help="Prompts retrieved for another one.", min=1)] = 3,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Look for instructions after which a model keeps half of the principles.

    Nothing of the model is trained. The same command continues what was cut off.

    Example: moralprobe elicit repair train prompts --model smollm2-135m --scorer words --n 2 --k 2
    --tokens 16 --force --out repair
    """
    from moralprobe.behavior.elicitation.measuring import load_prompts
    from moralprobe.behavior.elicitation.repair import Options, halves, learn
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable, write_json
    from moralprobe.report.elicitation import of_repair
    from moralprobe.steering.text import text_model

    options = Options(n, k, tokens, near, seed)
    learnt, _ = halves(load_prompts(prompts), seed)
    check_writable(out)
    with open_cache(out / "answers.jsonl", notice) as cache:
        judge = calibrated(scorer, cases, readout, device, seed, cache, force=force, quiet=quiet)
        asked = text_model(model, device)
        told = asked if writer is None or writer == model else text_model(writer, device)
        with steps("learning", quiet=quiet) as progress:
            found = learn(asked, learnt, told, judge, options, cache=cache, progress=progress)
    about = {
        "model": dict(asked.identity),
        "writer": dict(told.identity),
        "scorer": scorer,
        "scorer_identity": dict(judge.scorer.identity),
        "cases": cases,
        "readout": readout,
        "forced": force and not judge.calibration.usable,
        "options": options.__dict__,
        **found.as_json(),
    }
    write_json(out / "repair.json", about)
    for line in of_repair(found):
        say(line)
    say(f"\n{out / 'repair.json'}")


@app.command("apply")
def apply_command(
    prompts: Prompts,
    learnt: Annotated[
        Path, typer.Argument(metavar="REPAIR", help="The folder of elicit repair train.")
    ],
    out: Out,
    model: Model = "smollm2-135m",
    scorer: Spec = "judge=smollm2-135m",
    cases: Cases = "starter",
    readout: Readout = "logprob",
    k: Completions = 10,
    tokens: Tokens = 100,
    force: Force = False,
    draws: Draws = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure every way of repair on the principles that nothing was learnt from.

    Example: moralprobe elicit repair apply prompts repair --model smollm2-135m --scorer words
    --k 2 --tokens 16 --force --out repaired
    """
    import polars as pl

    from moralprobe.behavior.elicitation.measuring import WARNING, load_prompts, measure
    from moralprobe.behavior.elicitation.rates import against
    from moralprobe.behavior.elicitation.repair import Repair, instructions, rewriter, unseen
    from moralprobe.cache import open_cache
    from moralprobe.errors import DataError
    from moralprobe.files import check_writable, write_bytes, write_json, write_table
    from moralprobe.report.elicitation import of_arms, of_calibration
    from moralprobe.steering.text import text_model

    about = json_in(learnt / "repair.json", "elicit repair train")
    repaired = Repair.from_json(about)
    if about["scorer"] == scorer:
        notice("the scorer that instructions were chosen by reports on them too")
    table = unseen(repaired, load_prompts(prompts))
    if not table.height:
        raise DataError(
            f"{prompts} has no principle that nothing was learnt from",
            f"{len(repaired.seen)} prompts were learnt from",
            "give the prompts that it was trained with, or others",
        )
    check_writable(out)
    arms: dict[str, pl.DataFrame] = {}
    with open_cache(out / "answers.jsonl", notice) as cache:
        judge = calibrated(scorer, cases, readout, device, seed, cache, force=force, quiet=quiet)
        asked = text_model(model, device)
        for arm, told in instructions(repaired, table).items():
            with steps(arm, quiet=quiet) as progress:
                found = measure(
                    asked,
                    table,
                    {"report": judge},
                    k=k,
                    tokens=tokens,
                    draws=draws,
                    seed=seed,
                    instructions=told,
                    rewrite=rewriter(asked, tokens, cache=cache) if arm == "critique" else None,
                    endorse=False,
                    cache=cache,
                    progress=progress,
                )
            before = [one for one in told for _ in range(k)]
            arms[arm] = found.completions.with_columns(
                arm=pl.lit(arm), instruction=pl.Series(before, dtype=pl.String)
            )
    rates = against(arms, "none", "report", draws=draws, seed=seed)
    write_bytes(out / "READ-FIRST.md", WARNING.encode())
    write_table(out / "arms.parquet", rates)
    write_table(out / "completions.parquet", pl.concat(arms.values()))
    said = {
        "model": dict(asked.identity),
        "scorer": scorer,
        "forced": force and not judge.calibration.usable,
        "calibration": judge.calibration.as_json(),
        "k": k,
        "tokens": tokens,
        "seed": seed,
        "principles": table["id"].unique(maintain_order=True).to_list(),
    }
    write_json(out / "arms.json", said)
    for line in [
        *of_calibration(judge.scorer.name, judge.calibration),
        "",
        *of_arms(rates, judge.scorer.name),
    ]:
        say(line)
    say(f"\n{out / 'arms.parquet'}; texts of the model: {out / 'READ-FIRST.md'}")
