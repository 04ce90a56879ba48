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
    scorer: Spec = "words",
    cases: Cases = "moral-stories",
    readout: Readout = "logprob",
    n: Annotated[int, typer.Option(help="Instructions tried for a prompt.", min=1)] = 8,
    k: Completions = 5,
    tokens: Tokens = 100,
    near: Annotated[int, typer.Option(help="Prompts retrieved for another one.", min=1)] = 3,
    rounds: Annotated[
        int, typer.Option(help="Of training the writer with LoRA; 0: it isn't trained.", min=0)
    ] = 3,
    beta: Annotated[
        float,
        typer.Option(
            help="Price of a round on leaving what the writer was, in units of the reward."
        ),
    ] = 0.1,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Look for instructions after which a model keeps half of the principles, and train a writer.

    The model's weights stay as they are. The same command continues what was cut off; the training
    itself begins again, from answers that are kept.

    Example: moralprobe elicit repair train prompts --model smollm2-135m --scorer words
    --cases starter --n 2 --k 2 --tokens 16 --rounds 1 --force --out repair
    """
    from moralprobe.behavior.elicitation.instructions import Options, rewards_by_round, table_of
    from moralprobe.behavior.elicitation.measuring import load_prompts
    from moralprobe.behavior.elicitation.repair import halves, learn
    from moralprobe.bridges.instruction_generator import GENERATOR, Training, train
    from moralprobe.bridges.lora import check_peft, new_lora, own_copy
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable, write_json, write_table
    from moralprobe.report.elicitation import of_repair, of_training
    from moralprobe.steering.text import text_model

    options, training = Options(n, k, tokens, near, seed), Training(rounds, beta)
    learnt, _ = halves(load_prompts(prompts), seed)
    check_writable(out)
    name = writer or model
    if rounds:
        check_peft()
    # A writer that is trained changes in place: it can't be the model that is instructed.
    instead = "give --writer a model on this machine, or --rounds 0"
    own = own_copy(name, device, instead) if rounds else None
    with open_cache(out / "answers.jsonl", notice) as cache:
        judge = calibrated(scorer, cases, readout, device, seed, cache, force=force, quiet=quiet)
        asked = text_model(model, device)
        told = own or (asked if name == model else text_model(name, device))
        about_writer = dict(told.identity)
        with steps("learning", quiet=quiet) as progress:
            found, tried = learn(
                asked, learnt, told, judge, options, cache=cache, progress=progress
            )
        trained: str | None = None
        unused: dict[str, int] = {}
        if own is not None and any(one.reward is not None for one in tried):
            generator = new_lora(own.model, rank=training.rank, seed=seed)
            with steps("training the writer", quiet=quiet) as progress:
                tried, unused = train(
                    generator,
                    asked,
                    tried,
                    judge,
                    options,
                    training,
                    cache=cache,
                    progress=progress,
                )
            generator.save(out / GENERATOR)
            trained = generator.identity
        elif own is not None:
            notice("no instruction was written that can be used: the writer isn't trained")
    by_round = rewards_by_round(tried, seed=seed)
    about = {
        "model": dict(asked.identity),
        "writer": about_writer,
        "writer_name": name,
        "scorer": scorer,
        "scorer_identity": dict(judge.scorer.identity),
        "cases": cases,
        "readout": readout,
        "forced": force and not judge.calibration.usable,
        "options": options.__dict__,
        "training": training.__dict__ if trained is not None else None,
        "trained": trained,
        "rewards": by_round,
        "unused_in_training": unused,
        **found.as_json(),
    }
    write_table(out / "instructions.parquet", table_of(tried))
    write_json(out / "repair.json", about)
    for line in [*of_repair(found), *of_training(by_round)]:
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
    scorer: Spec = "linear=smollm2-135m",
    cases: Cases = "moral-stories",
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
    --cases starter --k 2 --tokens 16 --force --out repaired
    """
    import json

    from moralprobe.behavior.elicitation.arms import measure_arms
    from moralprobe.behavior.elicitation.instructions import likeliest
    from moralprobe.behavior.elicitation.measuring import load_prompts
    from moralprobe.behavior.elicitation.repair import Repair, instructions, unseen
    from moralprobe.bridges.instruction_generator import GENERATOR
    from moralprobe.bridges.lora import load_lora, own_copy
    from moralprobe.cache import open_cache
    from moralprobe.errors import DataError
    from moralprobe.files import check_writable, write_json
    from moralprobe.report.elicitation import of_arms, of_calibration
    from moralprobe.steering.text import text_model

    about = json_in(learnt / "repair.json", "elicit repair train")
    repaired = Repair.from_json(about)
    table = unseen(repaired, load_prompts(prompts))
    if not table.height:
        raise DataError(
            f"{prompts} has no principle that nothing was learnt from",
            f"{len(repaired.seen)} prompts were learnt from",
            "give the prompts that it was trained with, or others",
        )
    check_writable(out)
    with open_cache(out / "answers.jsonl", notice) as cache:
        judge = calibrated(scorer, cases, readout, device, seed, cache, force=force, quiet=quiet)
        same = json.dumps(dict(judge.scorer.identity), sort_keys=True)
        if same == json.dumps(about["scorer_identity"], sort_keys=True):
            notice("the scorer that instructions were chosen by reports on them too")
        asked = text_model(model, device)
        name, pairs = about["writer_name"], list(table.select("principle", "prompt").iter_rows())
        writer = asked if name == model else text_model(name, device)
        if dict(writer.identity) != about["writer"]:
            notice("the writer of instructions isn't what it was: its weights or its machine")
        told_by = {"written": likeliest(writer, pairs, cache=cache)}
        if about["training"] is not None:
            generator = load_lora(
                learnt / GENERATOR, own_copy(name, device).model, about["trained"]
            )
            told_by["trained"] = likeliest(generator.text, pairs, cache=cache)
        with steps("measuring", quiet=quiet) as progress:
            arms = measure_arms(
                asked,
                table,
                instructions(repaired, table, **told_by),
                judge,
                k=k,
                tokens=tokens,
                draws=draws,
                seed=seed,
                cache=cache,
                progress=progress,
            )
    arms.save(out)
    said = {
        "model": dict(asked.identity),
        "scorer": scorer,
        "forced": force and not judge.calibration.usable,
        "calibration": judge.calibration.as_json(),
        "k": k,
        "tokens": tokens,
        "seed": seed,
        "trained_less_written": None if arms.trained is None else arms.trained.to_dicts(),
        "without_instruction": {arm: told.count(None) for arm, told in told_by.items()},
        "principles": table["id"].unique(maintain_order=True).to_list(),
    }
    write_json(out / "arms.json", said)
    for line in [
        *of_calibration(judge.scorer.name, judge.calibration),
        "",
        *of_arms(arms.rates, judge.scorer.name, arms.trained),
    ]:
        say(line)
    say(f"\n{out / 'arms.parquet'}; texts of the model: {out / 'READ-FIRST.md'}")
