"""`moralprobe pluralism`: agreement with communities, beside what trivial guesses score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import notice, say, steps
from moralprobe.cli.dilemmas import dilemmas_command
from moralprobe.cli.overton import overton_command

if TYPE_CHECKING:
    from moralprobe.behavior.pluralism.surveys import Survey

app = typer.Typer(
    help="Agreement with communities, beside what trivial guesses score.", no_args_is_help=True
)
app.command("overton")(overton_command)
app.command("dilemmas")(dilemmas_command)
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
    readout: Annotated[str, typer.Option(help="logprob, sampled, or verbalised.")] = "logprob",
    samples: Annotated[int, typer.Option(help="Of each order, where sampled.", min=1)] = 10,
    steer: Annotated[
        str,
        typer.Option(help="What the model is told of a community: none, persona, examples."),
    ] = "none",
    adapter: Annotated[
        Path | None,
        typer.Option(help="Of pluralism fit: what it was trained on isn't asked."),
    ] = None,
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
    Example: moralprobe pluralism measure survey.csv --communities 0 --steer persona --model
    smollm2-135m --out persona
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
    if adapter is None:
        asked = text_model(model, device)
    else:
        from moralprobe.bridges.adapters import known, unlearnt
        from moralprobe.bridges.lora import load_lora, own_copy

        about = known(adapter)
        whole, survey = len(survey), unlearnt(survey, about)
        if len(survey) < whole:
            notice(f"{whole - len(survey):,} answers are of batteries that {adapter} has learnt")
        asked = load_lora(adapter, own_copy(model, device).model, about.identity).text
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
            adapter=None if adapter is None else f"{about.name} ({about.identity[:8]})",
            draws=draws,
            seed=seed,
            cache=cache,
            progress=progress,
        )
    found.save(out)
    for line in of_agreement(found):
        say(line)
    say(f"\n{out / 'measures.parquet'}")


@app.command("steerable")
def steerable_command(
    untold: Annotated[
        Path, typer.Argument(metavar="UNTOLD", help="A folder of pluralism measure --steer none.")
    ],
    told: Annotated[
        Path, typer.Argument(metavar="TOLD", help="Of the same with --steer persona or examples.")
    ],
    out: Out,
    draws: Annotated[int, typer.Option(help="Resamples of questions.", min=20)] = 1000,
    seed: Seed = 0,
) -> None:
    """Say whether a model that is told of a community answers as it, and only as it.

    Example: moralprobe pluralism steerable agreement persona --out steered
    """
    from moralprobe.behavior.pluralism.framing import load_agreement
    from moralprobe.behavior.pluralism.steerable import steerable
    from moralprobe.files import check_writable
    from moralprobe.report.pluralism import of_steered

    both = load_agreement(untold), load_agreement(told)
    check_writable(out)
    found = steerable(*both, draws=draws, seed=seed)
    found.save(out)
    for line in of_steered(found):
        say(line)
    say(f"\n{out / 'measures.parquet'}")


@app.command("fit")
def fit_command(
    items: Items,
    out: Out,
    model: Annotated[
        str, typer.Option(help="On this machine, where adapters are trained.")
    ] = "smollm2-135m",
    communities: Annotated[int, typer.Option(help="Those with most answers.", min=1)] = 2,
    questions: Annotated[
        int, typer.Option(help="Of each community, half of them to learn from.", min=40)
    ] = 200,
    arms: Annotated[
        str,
        typer.Option(
            help="Of none, persona, examples, adapter, everyone's adapter, adapter of shuffled "
            "options; all, if not given."
        ),
    ] = "",
    epochs: Annotated[int, typer.Option(help="Of training.", min=1)] = 6,
    lr: Annotated[float, typer.Option(help="Of training, AdamW's.")] = 1e-3,
    rank: Annotated[int, typer.Option(help="Of the LoRA matrices.", min=1)] = 8,
    draws: Annotated[int, typer.Option(help="Resamples of questions.", min=20)] = 1000,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Learn how communities answer on half of the questions, and measure on the others.

    An adapter (LoRA) of each community stands beside one of everybody and one of its own answers
    with the options shuffled. The same command continues what was cut off; a training begins again.

    Example: moralprobe pluralism fit survey.csv --model smollm2-135m --communities 2 --questions 40
    --out fitted
    """
    from moralprobe.behavior.pluralism.learning import ARMS, split
    from moralprobe.bridges.community_adapters import Training, learn, parse_arms
    from moralprobe.bridges.lora import check_peft, own_copy
    from moralprobe.cache import open_cache
    from moralprobe.files import check_writable
    from moralprobe.report.pluralism import of_learnt
    from moralprobe.steering.text import text_model

    chosen = parse_arms(arms) if arms else ARMS
    given = split(_survey(items, 0), communities, questions, seed=seed)
    training = Training(epochs, lr, rank)
    check_writable(out)
    trained = any("adapter" in arm for arm in chosen)
    if trained:
        check_peft()
    instead = "name a model on this machine, or --arms none,persona,examples"
    asked = own_copy(model, device, instead) if trained else text_model(model, device)
    with (
        open_cache(out / "asked.jsonl", notice) as cache,
        steps("learning", quiet=quiet) as progress,
    ):
        found = learn(
            asked,
            given,
            arms=chosen,
            training=training,
            out=out,
            draws=draws,
            seed=seed,
            cache=cache,
            progress=progress,
        )
    found.save(out)
    for line in of_learnt(found):
        say(line)
    say(f"\n{out / 'arms.parquet'}")


@app.command("geometry")
def geometry_command(
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    out: Out,
    communities: Annotated[
        str, typer.Option(help="Whom the model is told of, joined by commas: Japan,Brazil.")
    ] = "",
    adapters: Annotated[
        Path | None, typer.Option(help="A folder of pluralism fit, for its adapters.")
    ] = None,
    model: Annotated[str, typer.Option(help="On this machine.")] = "smollm2-135m",
    layers: Annotated[
        str, typer.Option(help="12, 8-20:4, or several; the middle one, if not given.")
    ] = "",
    draws: Annotated[int, typer.Option(help="Resamples and permutations.", min=20)] = 200,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure the moral geometry of a model that is told of communities, or adapted to them.

    Beside them stand people in general, and people of whom nothing follows for morals.

    Example: moralprobe pluralism geometry starter.parquet --model smollm2-135m --communities
    Japan,Brazil --adapters fitted --layers 1 --out moved
    """
    from moralprobe.bridges.adapters import adapters_in
    from moralprobe.bridges.communities import move
    from moralprobe.bridges.lora import own_copy
    from moralprobe.files import check_writable
    from moralprobe.moral_vectors import MoralVectors
    from moralprobe.report.pluralism import of_moved
    from moralprobe.sites import parse_layers

    named = [name.strip() for name in communities.split(",") if name.strip()]
    trained = adapters_in(adapters) if adapters is not None else []
    table = MoralVectors.load(vectors)
    check_writable(out)
    causal = own_copy(model, device).model
    at = parse_layers(layers, causal.n_layers) if layers else [causal.n_layers // 2]
    with steps("reading", quiet=quiet) as progress:
        found = move(
            causal,
            table,
            named,
            at,
            adapters=trained,
            draws=draws,
            seed=seed,
            progress=progress,
        )
    found.save(out)
    for line in of_moved(found):
        say(line)
    say(f"\n{out / 'geometry.parquet'}")


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
