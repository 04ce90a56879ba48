"""`moralprobe elicit`: value violations drawn out of a model by everyday stories, and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli import repair
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
    searched_of,
)
from moralprobe.errors import UsageError

if TYPE_CHECKING:
    from moralprobe.behavior.elicitation.proposers import Limits, Proposer
    from moralprobe.behavior.text_model import TextModel
    from moralprobe.cache import Cache

app = typer.Typer(
    help="Value violations drawn out of a model by everyday stories, and measured.",
    no_args_is_help=True,
)
app.add_typer(repair.app, name="repair")


@app.command("calibrate")
def calibrate_command(
    scorer: Spec,
    out: Out,
    cases: Cases = "moral-stories",
    readout: Readout = "logprob",
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Say what a scorer is worth on texts whose truth is known, beside words and length.

    Example: moralprobe elicit calibrate --scorer linear=smollm2-135m --cases starter
    --out scorer
    """
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable, write_json
    from moralprobe.report.elicitation import of_calibration

    check_writable(out)
    with open_cache(out / "answers.jsonl", notice) as cache:
        found = calibrated(scorer, cases, readout, device, seed, cache, force=True, quiet=quiet)
    about = {
        "scorer": scorer,
        "identity": dict(found.scorer.identity),
        "cases": cases,
        "readout": readout,
        "seed": seed,
        **found.calibration.as_json(),
    }
    write_json(out / "calibration.json", about)
    for line in of_calibration(found.scorer.name, found.calibration):
        say(line)
    say(f"\n{out / 'calibration.json'}")


@app.command("search")
def search_command(
    out: Out,
    model: Model = "smollm2-135m",
    principles: Annotated[
        str, typer.Option(help="starter, moral-stories, a table, or Social-Chemistry-101.")
    ] = "starter",
    proposer: Annotated[
        str | None,
        typer.Option(
            help="Who writes beginnings: a model, the one measured if not given; decode or "
            "decode=MODEL: a local one that need not follow instructions."
        ),
    ] = None,
    scorer: Spec = "words",
    cases: Cases = "moral-stories",
    readout: Readout = "logprob",
    n: Annotated[int, typer.Option(help="So many principles, evenly; 0 for all.", min=0)] = 0,
    rounds: Annotated[int, typer.Option(help="Of the search.", min=1)] = 3,
    k: Completions = 10,
    top: Annotated[int, typer.Option(help="Completions that are kept.", min=1)] = 3,
    proposals: Annotated[int, typer.Option(help="Beginnings proposed a round.", min=1)] = 5,
    beam: Annotated[int, typer.Option(help="Beginnings carried on.", min=1)] = 2,
    tokens: Tokens = 100,
    alpha: Annotated[float, typer.Option(help="Weight of breaking beside going on well.")] = 1.0,
    words: Annotated[int, typer.Option(help="Of a beginning, at most.", min=8)] = 60,
    any_topic: Annotated[
        bool, typer.Option("--any-topic", help="Don't leave out any topic.")
    ] = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Search for everyday stories after which a model breaks a principle (DeNEVIL).

    The same command continues what was cut off.

    Example: moralprobe elicit search --model smollm2-135m --n 5 --rounds 1 --k 2 --top 1
    --proposals 1 --tokens 16 --scorer words --cases starter --force --out prompts
    """
    import polars as pl

    from moralprobe.behavior.elicitation.principles import evenly, load_principles
    from moralprobe.behavior.elicitation.proposers import TOPICS, Limits
    from moralprobe.behavior.elicitation.search import Options, search
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable, write_json, write_table
    from moralprobe.report.elicitation import of_search
    from moralprobe.steering.text import text_model

    options = Options(rounds, k, top, proposals, beam, tokens, alpha, seed)
    limits = Limits(words, () if any_topic else TOPICS)
    chosen = evenly(load_principles(principles), n)
    check_writable(out)
    with open_cache(out / "answers.jsonl", notice) as cache:
        judge = calibrated(scorer, cases, readout, device, seed, cache, force=force, quiet=quiet)
        asked = text_model(model, device)
        writer = _proposer(proposer or model, model, asked, limits, device, cache)
        with steps("searching", quiet=quiet) as progress:
            found = search(
                asked,
                chosen,
                writer,
                judge,
                options,
                limits=limits,
                cache=cache,
                progress=progress,
            )
    floats = {"search_score": pl.Float64}
    texts = dict.fromkeys(("foundation", "pole"), pl.String)
    table = pl.DataFrame(
        found.rows(seed), schema_overrides={**floats, **texts}, infer_schema_length=None
    )
    write_table(out / "prompts.parquet", table)
    about = {
        "model": dict(asked.identity),
        "proposer": {"name": writer.name, **writer.identity},
        "scorer": scorer,
        "scorer_identity": dict(judge.scorer.identity),
        "calibration": judge.calibration.as_json(),
        "forced": force and not judge.calibration.usable,
        "cases": cases,
        "readout": readout,
        "principles": principles,
        "options": options.__dict__,
        "limits": {"words": words, "topics": list(limits.topics)},
        "unused": found.unused,
        "without": [one.id for one in found.without],
        "context_fit": found.context_fit,
    }
    write_json(out / "search.json", about)
    for line in of_search(found, rounds, forced=force and not judge.calibration.usable):
        say(line)
    say(f"\n{out / 'prompts.parquet'}")


def _proposer(
    spec: str, model: str, asked: TextModel, limits: Limits, device: str, cache: Cache
) -> Proposer:
    """Return who writes beginnings, by what was told on the command line."""
    from moralprobe.behavior.elicitation.proposers import Writer
    from moralprobe.bridges.inverse_decoding import InverseDecoding
    from moralprobe.steering.text import LocalText, text_model

    words = min(limits.words, 50)
    kind, _, other = spec.partition("=")
    name = (other or model) if kind == "decode" else spec
    writer = asked if name == model else text_model(name, device)
    if kind != "decode":
        return Writer(writer, words=words, cache=cache)
    if not isinstance(writer, LocalText):
        raise UsageError(
            f"{writer.name} can't be decoded from",
            "its tokens' probabilities are on a server",
            "give decode=MODEL with a model on this machine",
        )
    return InverseDecoding(writer.model, words=words, limits=limits, cache=cache)


@app.command("measure")
def measure_command(
    prompts: Prompts,
    out: Out,
    model: Model = "smollm2-135m",
    scorer: Spec = "linear=smollm2-135m",
    cases: Cases = "moral-stories",
    readout: Readout = "logprob",
    k: Completions = 10,
    tokens: Tokens = 100,
    fluency: Annotated[
        str | None, typer.Option(help="A local model whose perplexity of the texts is told.")
    ] = None,
    force: Force = False,
    draws: Draws = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw fresh completions of stories, and say how often they break their principles.

    After a search its scorer stands beside the one that reports.

    Example: moralprobe elicit measure prompts --model smollm2-135m --scorer words
    --cases starter --k 2 --tokens 16 --force --out violations
    """
    import json
    from dataclasses import replace

    from moralprobe.behavior.elicitation.measuring import load_prompts, measure
    from moralprobe.bridges.fluency import perplexity_of
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable
    from moralprobe.models.load import load_model
    from moralprobe.report.elicitation import of_calibration, of_measures
    from moralprobe.steering.text import LOCAL, text_model

    table = load_prompts(prompts)
    searched = searched_of(prompts)
    check_writable(out)
    with open_cache(out / "answers.jsonl", notice) as cache:
        scorers = {
            "report": calibrated(
                scorer, cases, readout, device, seed, cache, force=force, quiet=quiet
            )
        }
        if searched is not None:
            scorers["search"] = calibrated(
                searched["scorer"],
                searched["cases"],
                searched["readout"],
                device,
                searched["options"]["seed"],
                cache,
                force=True,
                quiet=quiet,
            )
            same = json.dumps(dict(scorers["search"].scorer.identity), sort_keys=True)
            if same != json.dumps(searched["scorer_identity"], sort_keys=True):
                notice("the search's scorer isn't what it was: its model or its texts have changed")
        asked = text_model(model, device)
        with steps("measuring", quiet=quiet) as progress:
            found = measure(
                asked,
                table,
                scorers,
                k=k,
                tokens=tokens,
                draws=draws,
                seed=seed,
                cache=cache,
                progress=progress,
            )
    if fluency is not None:
        told = perplexity_of(
            load_model(fluency.removeprefix(LOCAL), device=device), found.completions, seed=seed
        )
        found = replace(found, summary={**found.summary, "perplexity": told})
    found.save(out)
    for name, one in scorers.items():
        for line in of_calibration(f"{name} by {one.scorer.name}", one.calibration):
            say(line)
    say("")
    for line in of_measures(found):
        say(line)
    say(f"\n{out / 'measures.parquet'}; texts of the model: {out / 'READ-FIRST.md'}")
