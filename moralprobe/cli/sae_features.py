"""`moralprobe sae features`: the moral features of an autoencoder, a table and pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from moralprobe.cli.console import notice, say, steps


def features_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An autoencoder.")],
    vectors: Annotated[
        Path,
        typer.Argument(metavar="VECTORS", help="A file made by 'vectors build', or its store."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    mode: Annotated[
        str, typer.Option(help="Whose features get a page: li2026, audited or both.")
    ] = "both",
    pages: Annotated[
        int, typer.Option(min=0, help="At most so many pages, the strongest first.")
    ] = 200,
    other: Annotated[
        list[Path] | None,
        typer.Option(help="One trained with another seed: is a feature there too? Repeatable."),
    ] = None,
    null: Annotated[
        Path | None, typer.Option(help="One trained with --shuffled: what does it have?")
    ] = None,
    causal: Annotated[
        int, typer.Option(min=0, help="Ablate so many of the strongest, and read their poles out.")
    ] = 50,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of shuffles, halves and resamples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Find the moral features of an autoencoder, by the published rules and by ours.

    Writes FEATURES.parquet, a row a feature, features.json, examples.parquet, and
    a page a feature.

    Example: moralprobe sae features sae starter.parquet --out features
    """
    from moralprobe.autoencoders import find_features
    from moralprobe.files import check_writable
    from moralprobe.models.load import choose_device, load_model
    from moralprobe.options import parse_modes
    from moralprobe.report.features import write_features
    from moralprobe.sae.load import load_sae, made_of
    from moralprobe.sae.tokens import origin_of

    modes = parse_modes(mode)
    place = str(choose_device(device))
    loaded = load_sae(folder, device=place)
    others = [load_sae(path, device=place) for path in other or ()]
    check_writable(out)
    loaded_model = load_model(**origin_of(loaded, model), device=device)
    with steps("reading tokens", quiet=quiet) as step:
        found = find_features(
            loaded,
            loaded_model,
            vectors,
            others=others,
            null=load_sae(null, device=place) if null else None,
            causal=causal,
            seed=seed,
            reading=lambda done, total: step(done, total, "tokens"),
        )
    for warning in found.read.warnings:
        notice(f"warning: {warning}")
    about = {"sae": str(folder), "vectors": str(vectors), "seed": seed}
    page = write_features(
        found,
        loaded,
        loaded_model,
        out,
        modes=modes,
        most=pages,
        about={**about, **made_of(loaded, vectors)},
    )
    for line in _in_words(found.summary):
        say(line)
    say(f"{page}")


def _in_words(summary: dict[str, Any]) -> Iterator[str]:
    random, others = summary["null_random_dictionary"], summary["others_as_dense"]
    untaught = summary["null_shuffled_activations"]
    yield _chosen(summary)
    shuffled = ", ".join(map(str, summary["null_shuffled_chosen"]))
    yield f"null, poles shuffled: {shuffled} chosen"
    yield f"null, a random dictionary: {_chosen(random)}"
    if untaught:
        yield f"null, an autoencoder of shuffled activations: {_chosen(untaught)}"
    yield (
        f"null, other features as often active, on the same poles: {_holding(others)} of "
        f"{others['tested']:,}"
    )
    slopes = [
        ("these", summary),
        ("others as dense", others),
        ("of a random dictionary", random),
        ("of shuffled activations", untaught),
    ]
    yield "typicality slopes: " + "; ".join(
        f"{name}, {_slope(of['slope'])}" for name, of in slopes if of
    )
    leading = summary["strongest_of_poles"]
    yield (
        f"strongest of {leading['poles']} poles: {leading['features']} different features, "
        f"{leading['chosen']} of them chosen"
    )
    if again := summary.get("found_again"):
        held = "none holds" if again["hold"] is None else f"{again['hold']:.2f} for those that hold"
        yield (
            f"nearest direction of {again['others']} other seeds, median cosine: {held}, "
            f"{again['all']:.2f} for all, {again['random_directions']:.2f} for random directions"
        )
    if causal := summary.get("causal"):
        yield _causal_in_words(causal)
    yield _published_in_words(summary["li2026"])


def _chosen(of: dict[str, Any]) -> str:
    return (
        f"{of['chosen']:,} of {of['tested']:,} features that can be tested are chosen, "
        f"{_holding(of)} on held-out texts"
    )


def _holding(of: dict[str, Any]) -> str:
    if of["specificity_median"] is None:
        return f"{of['replicated']:,} hold"
    return (
        f"{of['replicated']:,} hold (median specificity {of['specificity_median']:.2f}, at least "
        f"0.5 in {of['specific']:,})"
    )


def _slope(of: dict[str, Any]) -> str:
    if of["median"] is None:
        return "none can be told"
    return f"median {of['median']:.3f}, surely above 0 in {of['up']} of {of['features']}"


def _published_in_words(published: dict[str, Any]) -> str:
    def of(found: dict[str, int]) -> str:
        return f"{found['mono']} and {found['strict']}"

    shuffled = published["null_shuffled_texts"]
    most = {name: max(twin[name] for twin in shuffled) for name in ("mono", "strict")}
    others, untaught = published["others_as_dense"], published["null_shuffled_activations"]
    return (
        f"li2026 on {published['rows']:,} rows of the dev split: {published['mono']} mono-semantic "
        f"and {published['strict']} strict; with texts shuffled at most {of(most)}, of a random "
        f"dictionary {of(published['null_random_dictionary'])}, "
        + (f"of an autoencoder of shuffled activations {of(untaught)}, " if untaught else "")
        + f"of {others['features']} others as dense {of(others)}"
    )


def _causal_in_words(causal: dict[str, Any]) -> str:
    def of(found: dict[str, Any]) -> str:
        if found["median"] is None:
            return "none in enough held-out texts"
        return (
            f"{found['features']} by {found['median']:.3f} standard deviations (median), surely "
            f"down in {found['down']}"
        )

    return (
        f"ablated, their poles' read-out at layer {causal['layer']} moves: {of(causal)}; other "
        f"features as dense, {of(causal['others_as_dense'])}; of a random dictionary, "
        f"{of(causal['random_dictionary'])}"
    )
