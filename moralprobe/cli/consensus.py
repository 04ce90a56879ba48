"""`moralprobe consensus`: several models' moral judgements fused."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Annotated, Any

import typer

from moralprobe.cli.console import notice, say, steps

app = typer.Typer(help="Several models' moral judgements fused.", no_args_is_help=True)


@app.command("score")
def score_command(
    dilemmas: Annotated[
        Path,
        typer.Argument(
            metavar="DILEMMAS",
            help="A text a line, or columns text, and may be item, other, share; Scruples; ETHICS.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    models: Annotated[
        str, typer.Option(help="Joined by commas: local ones, or http://HOST/v1=MODEL.")
    ] = "smollm2-135m",
    theories: Annotated[
        str, typer.Option(help="Names joined by commas, or NAME=words.")
    ] = "justice,virtue,deontology,utilitarianism,commonsense",
    roles: Annotated[
        str, typer.Option(help="Who each model is told to be: names, or a file of role, text.")
    ] = "plain",
    rows: Annotated[
        Path | None, typer.Option(help="A folder of consensus align: ask its model with them.")
    ] = None,
    readout: Annotated[
        str, typer.Option(help="logprob, sampled, verbal; the first gives the score.")
    ] = "logprob",
    items: Annotated[int, typer.Option(help="So many, evenly spread; 0 for all.", min=0)] = 0,
    samples: Annotated[int, typer.Option(help="Of each order, where sampled.", min=1)] = 10,
    max_tokens: Annotated[
        int, typer.Option(help="Of what is said; more where a model thinks first.", min=1)
    ] = 16,
    extra: Annotated[
        str, typer.Option(help="Further fields of a request to a server, as JSON.")
    ] = "{}",
    at_once: Annotated[
        int, typer.Option(help="Requests to a server that are under way together.", min=1)
    ] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Ask models how acceptable things are under each theory: scores from 0 to 1.

    The same command continues what was cut off.

    Example: moralprobe consensus score dilemmas.txt --models smollm2-135m --theories justice
    --out scores
    """
    from moralprobe.behavior.consensus.dilemmas import load_dilemmas
    from moralprobe.behavior.consensus.panel import panel_of, parse_roles, parse_theories
    from moralprobe.behavior.consensus.rating import save_scores, score_panel
    from moralprobe.behavior.options import Readout
    from moralprobe.bridges.with_rows import with_rows
    from moralprobe.cache import open_cache
    from moralprobe.errors import UsageError
    from moralprobe.files import check_writable
    from moralprobe.report.consensus import of_scores
    from moralprobe.steering.text import text_model

    judged = load_dilemmas(dilemmas).first(items)
    if judged.left_out:
        notice(f"{judged.left_out:,} lines of {dilemmas} have no text and are left out")
    words, told = parse_theories(theories), parse_roles(roles)
    readouts = [
        Readout(kind.strip(), samples, max_tokens) for kind in readout.split(",") if kind.strip()
    ]
    names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    short = [PurePath(name.rpartition("=")[2].removeprefix("local:")).name for name in names]
    fields = _json(extra)
    if not names or len(set(short)) < len(short):
        raise UsageError(
            "a panel has models of different names",
            f"given are {', '.join(short) or 'none'}",
            "give each once, or a folder of another name",
        )
    check_writable(out)
    frames, identities = [], []
    # One after another: several needn't fit into memory at once.
    for name in names:
        asked = text_model(name, device, extra=fields, at_once=at_once)
        raters = panel_of([asked if rows is None else with_rows(asked, rows)], told)
        identities.append(dict(raters[0].model.identity))
        with (
            open_cache(out / "answers.jsonl", notice) as cache,
            steps(raters[0].family, quiet=quiet) as progress,
        ):
            frames.append(
                score_panel(raters, judged, words, readouts, cache=cache, progress=progress)
            )
        del asked, raters
    found = save_scores(out, frames, judged, words, told, readouts, identities)
    for line in of_scores(found):
        say(line)
    say(f"\n{out / 'scores.parquet'}")


@app.command("fit")
def fit_command(
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES...", help="Columns model, item, score, and may be theory, family."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    variant: Annotated[
        str, typer.Option(help="exact, binned, or moments, as published.")
    ] = "exact",
    step: Annotated[float, typer.Option(help="The width of a bin.")] = 0.05,
    families: Annotated[
        str, typer.Option(help="Which models are kin: MODEL=FAMILY, joined by commas.")
    ] = "",
    votes: Annotated[
        Path | None, typer.Option(help="Columns item, share: of people who find it acceptable.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Resamples of items.", min=20)] = 200,
    shuffles: Annotated[int, typer.Option(help="For the test of two classes.", min=19)] = 20,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Fit the consensus of several models' scores, and say how far each can be relied on.

    Models of one family count together as one.

    Example: moralprobe consensus fit scores.csv --out consensus
    """
    from moralprobe.behavior.consensus.fitting import VOTES, fit_consensus
    from moralprobe.behavior.consensus.scores import load_scores, parse_families
    from moralprobe.behavior.consensus.votes import against_votes, check_votes, load_votes
    from moralprobe.files import check_writable, write_table
    from moralprobe.report.consensus import beside_votes, sentences

    scores = load_scores(*tables, families=parse_families(families))
    people = None if votes is None else load_votes(votes)
    if people is not None:
        check_votes(scores, people)
    check_writable(out)
    with steps("fitting", quiet=quiet) as progress:
        found = fit_consensus(
            scores,
            variant=variant,  # type: ignore[arg-type]
            step=step,
            draws=draws,
            shuffles=shuffles,
            seed=seed,
            progress=progress,
        )
    found.save(out)
    for line in sentences(found):
        say(line)
    if people is not None:
        beside = against_votes(found, scores, people, draws=max(draws, 200), seed=seed)
        write_table(out / VOTES, beside)
        for line in beside_votes(beside):
            say(line)
    say(f"\n{out / 'items.parquet'}")


@app.command("align")
def align_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="One of the panel, on this machine.")
    ],
    consensus: Annotated[
        Path, typer.Argument(metavar="CONSENSUS", help="The folder that consensus fit wrote.")
    ],
    theory: Annotated[str, typer.Option(help="One of the consensus'.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    word: Annotated[
        str | None, typer.Option(help="Whose rows are trained; the theory's name, if not given.")
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(help="Other words to ask with; the theories and a synonym, if not given."),
    ] = None,
    lambdas: Annotated[
        str, typer.Option(help="Prices on drift, joined by commas.")
    ] = "0,0.1,0.3,1",
    most_drift: Annotated[float, typer.Option(help="Cosine distance of a row, at most.")] = 0.3,
    epochs: Annotated[int, typer.Option(help="Of each training.", min=1)] = 5,
    lr: Annotated[float, typer.Option(help="Of the rows.")] = 1e-3,
    draws: Annotated[int, typer.Option(help="Resamples of held-out items.", min=20)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the split, weights and draws.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train the embedding rows of a theory's word towards the others' consensus, beside controls.

    The model's weights stay as they are.

    Example: moralprobe consensus align smollm2-135m consensus --theory justice --out aligned
    """
    from moralprobe.behavior.server import parse_server
    from moralprobe.bridges.align import align
    from moralprobe.bridges.alignment_task import task_of
    from moralprobe.bridges.row_training import Options
    from moralprobe.errors import UsageError
    from moralprobe.files import check_writable
    from moralprobe.models.load import load_model
    from moralprobe.report.consensus import of_alignment

    if parse_server(model) is not None:
        raise UsageError(
            "a model on a server can't be aligned",
            "its embedding rows can't be reached",
            "give a model whose weights are on this machine",
        )
    try:
        prices = tuple(float(part) for part in lambdas.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"{lambdas!r} are no numbers", str(error), "write 0,0.1,0.3,1") from error
    options = Options(prices, most_drift, epochs, lr, seed, draws)
    check_writable(out)
    loaded = load_model(model.removeprefix("local:"), device=device)
    task = task_of(consensus, loaded.name, theory, word)
    words = None if others is None else [one.strip() for one in others.split(",") if one.strip()]
    with steps("training", quiet=quiet) as progress:
        found = align(loaded, task, options, others=words, progress=progress)
    found.save(out)
    for line in of_alignment(found.arms, found.elsewhere, found.summary):
        say(line)
    say(f"\n{out / 'arms.parquet'}")


def _json(text: str) -> dict[str, Any]:
    import json

    from moralprobe.errors import UsageError

    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no JSON", str(error), 'write {"top_k": 1}') from error
    if not isinstance(found, dict):
        raise UsageError(f"{text!r} holds no fields", "it is no object", 'write {"top_k": 1}')
    return found
