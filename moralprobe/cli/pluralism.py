"""`moralprobe pluralism`: agreement with communities, beside what trivial guesses score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import notice, say, steps

if TYPE_CHECKING:
    from moralprobe.behavior.pluralism.surveys import Survey

app = typer.Typer(
    help="Agreement with communities, beside what trivial guesses score.", no_args_is_help=True
)
Items = Annotated[
    Path,
    typer.Argument(
        metavar="ITEMS",
        help="Columns question, option, community, count or share; or GlobalOpinionQA's JSON.",
    ),
]
Communities = Annotated[int, typer.Option(help="Those with most answers; 0 for all.", min=0)]
Out = Annotated[Path, typer.Option(help="The folder to write.")]
Seed = Annotated[int, typer.Option(help="Of all draws.", min=0)]


@app.command("reference")
def reference_command(
    items: Items, out: Out, communities: Communities = 32, seed: Seed = 0
) -> None:
    """Say what trivial predictors score on a survey: what any model must be held against.

    Example: moralprobe pluralism reference survey.csv --communities 0 --out reference
    """
    from moralprobe.behavior.pluralism.predictors import reference
    from moralprobe.files import check_writable, write_json
    from moralprobe.report.pluralism import of_reference

    survey = _survey(items, communities)
    check_writable(out)
    found = reference(survey, seed=seed)
    about = {
        "base": 2,
        "communities": list(survey.communities),
        "answers": len(survey),
        "fewest": survey.fewest(),
        "predictors": {name: dict(row) for name, row in found.items()},
    }
    write_json(out / "reference.json", about)
    for line in of_reference(found, len(survey)):
        say(line)
    say(f"\n{out / 'reference.json'}")


@app.command("measure")
def measure_command(
    items: Items,
    out: Out,
    model: Annotated[
        str, typer.Option(help="A local one, or http://HOST/v1=MODEL.")
    ] = "smollm2-135m",
    communities: Communities = 32,
    readout: Annotated[str, typer.Option(help="logprob, or sampled.")] = "logprob",
    samples: Annotated[int, typer.Option(help="Of each order, where sampled.", min=1)] = 10,
    steer: Annotated[
        str,
        typer.Option(help="What the model is told of a community: none, persona, examples."),
    ] = "none",
    n: Annotated[
        int | None,
        typer.Option(help="Respondents assumed of a community where no one said.", min=1),
    ] = None,
    draws: Annotated[int, typer.Option(help="Resamples of questions.", min=20)] = 1000,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Have a model answer a survey, and hold its answers against every community's.

    The same command continues what was cut off.

    Example: moralprobe pluralism measure survey.csv --model smollm2-135m --communities 0
    --out agreement
    """
    from moralprobe.behavior.options import Readout
    from moralprobe.behavior.pluralism.measuring import measure
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable
    from moralprobe.report.pluralism import of_agreement
    from moralprobe.steering.text import text_model

    survey = _survey(items, communities)
    how = Readout(readout, samples)
    check_writable(out)
    asked = text_model(model, device)
    with (
        open_cache(out / "answers.jsonl", notice) as cache,
        steps("asking", quiet=quiet) as progress,
    ):
        found = measure(
            asked,
            survey,
            readout=how,
            steer=steer,
            n=n,
            draws=draws,
            seed=seed,
            cache=cache,
            progress=progress,
        )
    found.save(out)
    for line in of_agreement(found):
        say(line)
    say(f"\n{out / 'measures.parquet'}")


def _survey(items: Path, communities: int) -> Survey:
    from moralprobe.behavior.pluralism.surveys import load_survey

    survey = load_survey(items)
    return survey.best_covered(communities) if communities else survey


@app.command("certify")
def certify_command(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="The folder of pluralism measure.")
    ],
    scope: Annotated[
        Path, typer.Option(help="YAML: the decision, who is affected, rules, provenance.")
    ],
    out: Out,
) -> None:
    """Issue a certificate of what was measured, with all that it can't say.

    Example: moralprobe pluralism certify agreement --scope scope.yaml --out certificate
    """
    from moralprobe.behavior.pluralism.framing import load_agreement
    from moralprobe.behavior.pluralism.scope import load_scope
    from moralprobe.files import check_writable
    from moralprobe.report.certificate import of_certificate, write_certificate

    found, about = load_agreement(result), load_scope(scope)
    check_writable(out)
    for line in of_certificate(write_certificate(found, about, out)):
        say(line)
    say(f"\n{out / 'certificate.html'}")
