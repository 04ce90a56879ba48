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
    yield (
        f"{summary['chosen']} of {summary['tested']:,} features that can be tested are chosen, "
        f"{summary['replicated']} hold on held-out texts"
    )
    yield (
        f"nulls: poles shuffled {', '.join(map(str, summary['null_shuffled_chosen']))} chosen; "
        f"a random dictionary {summary['null_random_dictionary']['replicated']} hold; "
        f"other features as often active {summary['others_as_dense']['hold']} of "
        f"{summary['others_as_dense']['features']} hold"
    )
    if null := summary["null_shuffled_activations"]:
        yield (
            f"an autoencoder of shuffled activations: {null['replicated']} of "
            f"{null['features']:,} hold"
        )
    if again := summary.get("found_again"):
        held = "none holds" if again["hold"] is None else f"{again['hold']:.2f} for those that hold"
        yield (
            f"nearest direction of {again['others']} other seeds, median cosine: {held}, "
            f"{again['all']:.2f} for all, {again['random_directions']:.2f} for random directions"
        )
    if causal := summary.get("causal"):
        yield _causal_in_words(causal)
    published = summary["li2026"]
    yield (
        f"li2026 on {published['rows']:,} rows of the dev split: "
        f"{published['mono']} mono-semantic, {published['strict']} strict"
    )


def _causal_in_words(causal: dict[str, Any]) -> str:
    if causal["median"] is None:
        return "none of the features can be ablated in enough held-out texts"
    return (
        f"ablated {causal['features']}: their poles' read-out at layer {causal['layer']} moves by "
        f"{causal['median']:.3f} standard deviations (median), surely down in {causal['down']}; "
        f"other features as dense move it by {_number(causal['null_median'])}, surely down in "
        f"{causal['null_down']}"
    )


def _number(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value:.3f}"
