"""`moralprobe consensus`: several models' moral judgements fused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import say, steps

app = typer.Typer(help="Several models' moral judgements fused.", no_args_is_help=True)


@app.command("fit")
def fit_command(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="SCORES", help="Columns model, item, score, and may be theory, family."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    variant: Annotated[
        str, typer.Option(help="exact, binned, or moments, as published.")
    ] = "exact",
    step: Annotated[float, typer.Option(help="The width of a bin.")] = 0.05,
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
    from moralprobe.behavior.consensus.fitting import fit_consensus
    from moralprobe.behavior.consensus.scores import load_scores
    from moralprobe.behavior.consensus.votes import against_votes, check_votes, load_votes
    from moralprobe.files import check_writable, write_table
    from moralprobe.report.consensus import beside_votes, sentences

    scores = load_scores(table)
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
        write_table(out / "votes.parquet", beside)
        for line in beside_votes(beside):
            say(line)
    say(f"\n{out / 'items.parquet'}")
