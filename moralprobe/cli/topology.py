"""`moralprobe topology`: tune moral features towards judgements, and see what is left later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moralprobe.cli.console import notice, say, steps

if TYPE_CHECKING:
    import polars as pl

STRETCHED: Final = 2.0
"""Times a tuned control is scaled above which that is said."""
app = typer.Typer(help="Rebuild the topology of moral features.", no_args_is_help=True)


@app.callback()
def topology() -> None:
    """Rebuild the topology of moral features."""


@app.command("fit")
def fit_command(
    sae: Annotated[Path, typer.Argument(metavar="SAE", help="An autoencoder's folder.")],
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="A folder made by 'sae features'.")
    ],
    vectors: Annotated[
        Path,
        typer.Argument(metavar="VECTORS", help="A file made by 'vectors build', or its store."),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the intervention.")],
    mode: Annotated[
        str, typer.Option(help="geometry, ours; or li2026, as published.")
    ] = "geometry",
    epochs: Annotated[int | None, typer.Option(min=1, help="At most; the mode's own.")] = None,
    draws: Annotated[int, typer.Option(min=20, help="Resamples and permutations.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Tune the selected features, and measure held-out texts before and after.

    Writes an intervention with its controls, the tuned autoencoder, history.parquet and
    geometry.parquet.

    Example: moralprobe topology fit sae features starter.parquet --out rebuilt
    """
    from dataclasses import replace

    from moralprobe.files import check_writable
    from moralprobe.interventions import fit_topology
    from moralprobe.models.load import choose_device, load_model
    from moralprobe.sae.load import load_sae
    from moralprobe.sae.tokens import origin_of
    from moralprobe.steering.intervention import check_empty
    from moralprobe.steering.selection import (
        check_features_of,
        check_mode,
        read_feature_table,
    )
    from moralprobe.steering.topology import SCHEDULES

    check_mode(mode)
    check_empty(out)
    check_writable(out)
    table = read_feature_table(features)
    schedule = SCHEDULES[mode]
    loaded = load_sae(sae, device=str(choose_device(device)))
    for warning in check_features_of(features, loaded, vectors):
        notice(f"warning: {warning}")
    loaded_model = load_model(**origin_of(loaded, model), device=device)
    with steps("fitting", quiet=quiet) as step:
        found = fit_topology(
            loaded,
            loaded_model,
            table,
            vectors,
            mode=mode,
            schedule=replace(schedule, epochs=epochs) if epochs else schedule,
            draws=draws,
            seed=seed,
            progress=step,
        )
    found.save(out)
    about = found.intervention.about
    say(
        f"{out}: {about['features']:,} of {about['of']:,} features tuned ({mode}), "
        f"{about['epochs']} epochs"
    )
    if mode == "li2026":
        say(_defects(about["defects"]))
    for name, control in found.intervention.controls.items():
        if control.about["scale"] > STRETCHED and "tuned" in control.about["is"]:
            notice(f"the control {name} is {control.about['scale']:.1f} times what its tuning gave")
    _print(found.geometry)


@app.command("survive")
def survive_command(
    intervention: Annotated[
        Path, typer.Argument(metavar="INTERVENTION", help="A folder with an intervention.")
    ],
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    out: Annotated[Path, typer.Option(help="The table to write, .parquet.")],
    layers: Annotated[
        str, typer.Option(help="Where to measure: later, or as 12,16 or 12-20:4.")
    ] = "later",
    strength: Annotated[float, typer.Option(help="Of the intervention and its controls.")] = 1.0,
    analyses: Annotated[
        str, typer.Option(help="Of separation, gradient, structure, recoverability; or all.")
    ] = "all",
    draws: Annotated[int, typer.Option(min=20, help="Resamples and permutations.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure held-out texts at an intervention's layer and at later ones, with every control.

    Example: moralprobe topology survive rebuilt starter.parquet --out survival.parquet
    """
    from moralprobe.files import check_writable, write_table
    from moralprobe.interventions import does_it_survive
    from moralprobe.models.load import load_model
    from moralprobe.options import parse_analyses
    from moralprobe.steering.intervention import Intervention, origin_of_model

    chosen = parse_analyses(analyses)
    check_writable(out.parent)
    made = Intervention.load(intervention) * strength
    loaded = load_model(**origin_of_model(made, model), device=device)
    with steps("measuring", quiet=quiet) as step:
        found = does_it_survive(
            made,
            loaded,
            vectors,
            layers=layers,
            analyses=chosen,
            draws=draws,
            seed=seed,
            progress=step,
        )
    write_table(out, found)
    for layer in found["layer"].unique().sort():
        say(f"resid_post.{layer}")
        _print(found.filter(layer=layer))


def _defects(shares: Mapping[str, float | None]) -> str:
    """Say how much of what the published loss asks for is asked in vain."""
    said = {name: "none" if v is None else f"{v:.0%}" for name, v in shares.items()}
    return (
        f"the published loss: {said['unreachable']} of its targets are out of reach, "
        f"{said['tied']} of its pairs tie and have no gradient; of the others {said['in_margin']} "
        "are still inside the margin"
    )


def _print(geometry: pl.DataFrame) -> None:
    """Print each headline measure of a layer: every arm, and what steering has over the others."""
    from moralprobe.steering.arms import UNSTEERED
    from moralprobe.steering.survival import LOWER_IS_BETTER, SHOWN, over_best_control

    best = over_best_control(geometry)
    for name, category in SHOWN:
        rows = geometry.filter(name=name, category=category)
        if not rows.height:
            continue
        say(f"  {name} ({category}){', lower is better' if name in LOWER_IS_BETTER else ''}")
        for row in rows.iter_rows(named=True):
            if row["value"] is None or row["value"] != row["value"]:
                said = row["status"]
            else:
                low, high = row["ci_low"], row["ci_high"]
                said = f"{row['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
                said += f", null {row['null_low']:+.3f} to {row['null_high']:+.3f}"
            say(f"    {row['arm']:17} {said}")
        for row in rows.filter(arm=UNSTEERED).drop_nans("gain").iter_rows(named=True):
            say(f"    steered less {UNSTEERED}: {_gain(row)}")
        for row in best.filter(name=name, category=category).iter_rows(named=True):
            surely = "surely" if row["surely"] else "not surely"
            said = f"{row['control']}: {_gain(row)}, {surely} over every control"
            say(f"    steered less the best control, {said}")


def _gain(row: Mapping[str, Any]) -> str:
    return f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
