"""`moralprobe evaluate`: an intervention against its controls, and what else it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say, steps


def evaluate_command(
    intervention: Annotated[
        list[Path],
        typer.Argument(metavar="INTERVENTION...", help="Folders; of several layers, one each."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; the same command continues.")],
    suite: Annotated[
        str, typer.Option(help="flames (prompts and judges), moral, side-effects, or all.")
    ] = "all",
    data: Annotated[
        str | None,
        typer.Option(help="Prompts: english, flames, a .jsonl or .txt; by the suite."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="http://HOST/v1=MODEL, local:MODEL, or none. Repeatable."),
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help="Tried, joined by commas; by what it is.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Of the draws, joined by commas.")] = "0,1",
    without: Annotated[
        list[str] | None, typer.Option(help="An arm that is left out. Repeatable.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="audited, or li2026 as published.")] = "audited",
    prompts: Annotated[
        int, typer.Option(min=0, help="So many at most, of all groups; 0 takes all.")
    ] = 0,
    positions: Annotated[str, typer.Option(help="all, prompt or generated.")] = "all",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="New tokens at most; 256, or as published.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of all arms; 0.7.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of all arms; 0.9.")] = None,
    thinking: Annotated[
        bool | None, typer.Option(help="What the chat template is told, where it knows it.")
    ] = None,
    ratings: Annotated[
        bool, typer.Option("--ratings", help="Judges rate safety and nuance too (PSC).")
    ] = False,
    moral_stories: Annotated[Path | None, typer.Option(help="A file of Moral Stories.")] = None,
    ethics: Annotated[Path | None, typer.Option(help="A folder of ETHICS.")] = None,
    mfq: Annotated[Path | None, typer.Option(help="Statements of a questionnaire, JSON.")] = None,
    items: Annotated[int, typer.Option(min=10, help="Of each moral suite, at most.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Prompts that are read together.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of halves and resamples.")] = 0,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Evaluate an intervention against every control arm, and write a report.

    Example: moralprobe evaluate rebuilt --suite side-effects --out evaluation
    """
    from dataclasses import replace

    from moralprobe.data.download import downloaded
    from moralprobe.evaluating import evaluate_intervention
    from moralprobe.evaluation.choosing import few
    from moralprobe.evaluation.effects import parse_suites, usual_prompts
    from moralprobe.evaluation.judge_backends import judges_of
    from moralprobe.evaluation.judge_check import known_pairs, pairs_of_moral_stories
    from moralprobe.evaluation.prompts import FLAMES, load_prompts
    from moralprobe.evaluation.settings import (
        Options,
        parse_numbers,
        parse_seeds,
        sampling_of,
    )
    from moralprobe.files import check_writable
    from moralprobe.models.load import load_model
    from moralprobe.report.evaluation import write_evaluation
    from moralprobe.steering.intervention import (
        Intervention,
        origin_of_model,
        usual_strengths,
    )

    made = [Intervention.load(folder) for folder in intervention]
    asked, suites = parse_suites(suite, stories=moral_stories, ethics=ethics, mfq=mfq)
    options = Options(
        strengths=usual_strengths(made)
        if strengths is None
        else parse_numbers(strengths, "--strengths"),
        seeds=parse_seeds(seeds, "--seeds"),
        sampling=sampling_of(protocol, max_tokens=max_tokens, temperature=temperature, top_p=top_p),
        positions=positions,
        off=tuple(without or ()),
        protocol=protocol,
        thinking=thinking,
        ratings=ratings,
        batch=batch,
        seed=seed,
    )
    if asked and protocol == "audited" and len(options.seeds) < 2:
        notice("one seed: how far texts differ by chance isn't seen (--seeds 0,1)")
    data = data or usual_prompts(suite)
    loaded_prompts = None
    if asked:
        loaded_prompts = load_prompts(downloaded(FLAMES) if data == FLAMES else data)
        for rule in loaded_prompts.rules:
            if rule.dropped:
                notice(f"{data}: {rule.dropped} prompts dropped: {rule.name}")
        loaded_prompts = few(loaded_prompts, prompts)
    known = known_pairs()
    if moral_stories is not None:
        known += pairs_of_moral_stories(moral_stories)[: len(known)]
    judges = judges_of(judge or (), device)
    if asked and not judges:
        notice("no judge is given: texts and side effects, but no win rate (--judge)")
    check_writable(out)
    loaded = load_model(**origin_of_model(made[0], model), device=device)
    with steps("evaluating", quiet=quiet) as step:
        found = evaluate_intervention(
            made,
            loaded,
            out,
            prompts=loaded_prompts,
            judges=judges,
            known=known,
            suites=replace(suites, items=items),
            options=options,
            progress=step,
            say=notice,
        )
    found.save(out)
    say(found.summary["verdict"]["said"])
    for unlike in found.summary["unlike_arms"]:
        notice(unlike)
    for check in found.summary["judges"]:
        for why in check["fails"]:
            notice(f"judge {check['judge']} can't be believed: {why}")
    say(f"{write_evaluation(found, out / 'report')}")
