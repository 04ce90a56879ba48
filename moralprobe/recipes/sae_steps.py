"""How autoencoders, their features and interventions are made: a function a step, as in `steps`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moralprobe.errors import DataError
from moralprobe.files import write_json, write_table
from moralprobe.recipes.jobs import NULL, Job, layers_of, pooling_of, sae_recipes
from moralprobe.recipes.steps import Run

if TYPE_CHECKING:
    from moralprobe.sae.train import State

NOTHING: Final = "nothing.json"
"""Says why there was nothing to tune, in the place of an intervention."""


def train_autoencoders(run: Run, job: Job) -> list[Path]:
    """Train a mode's autoencoders, or the null."""
    from moralprobe.autoencoders import train_sae
    from moralprobe.sae.load import CONFIG, WEIGHTS
    from moralprobe.sae.tokens import TextOptions

    general = run.recipe.general
    mode = "audited" if job.mode == NULL else job.mode
    train = run.recipe.of("sae.train")[mode]
    recipes = sae_recipes(train)
    if job.mode == NULL:
        recipes = [recipe for recipe in recipes if recipe.seed == recipes[0].seed]
    texts = TextOptions(
        (str(run.texts_for(mode)),),
        general.template,
        general.max_tokens,
        getattr(train, "held_out", TextOptions(()).held_out),
    )
    with run.watch("reading") as read, run.watch("training") as trained:

        def progress(state: State) -> None:
            first = next(iter(state.figures.values()))
            said = f"unexplained {first['fvu']:.3f}, L0 {first['l0']:.0f}, dead {first['dead']:.1%}"
            trained(state.step, state.steps, f"steps, {said}")

        folders = train_sae(
            run.model,
            texts,
            run.out / job.place,
            layers=layers_of(train, run.model.n_layers),
            recipe=recipes,
            source=getattr(train, "source", "pooled"),
            pooling=pooling_of(train),
            shuffled=job.mode == NULL,
            progress=progress,
            reading=lambda done, total: read(done, total, ""),
        )
    return [folder / name for folder in folders for name in (CONFIG, WEIGHTS)]


def judge_autoencoders(run: Run, job: Job) -> list[Path]:
    """Judge every autoencoder of a mode on what was held out."""
    from moralprobe.autoencoders import evaluate_sae
    from moralprobe.sae.load import sae_folders

    rows = []
    for folder in sae_folders(run.out / "sae" / job.mode):
        loaded = run.sae(folder.relative_to(run.out).as_posix())
        found = evaluate_sae(
            loaded,
            run.model,
            texts=run.texts_for(job.mode),
            n_texts=run.recipe.steps["sae.eval"].n_texts,
        )
        for warning in found.warnings:
            run.say(f"warning: {warning}")
        r, loss = found.reconstruction, found.loss
        rows.append(
            {
                "sae": folder.relative_to(run.out).as_posix(),
                "site": str(loaded.site),
                "n": r.n,
                "sinks": found.sinks,
                "explained_variance": r.explained_variance,
                "l0": r.l0,
                "dead": r.dead,
                "dense": r.dense,
                "recovered_from_zero": loss.recovered_from_zero,
                "recovered_from_mean": loss.recovered_from_mean,
                "explained_variance_at_tokens": found.at_tokens,
            }
        )
    write_json(run.out / job.place, [{k: _finite(v) for k, v in row.items()} for row in rows])
    return [run.out / job.place]


def find_moral_features(run: Run, job: Job) -> list[Path]:
    """Find an autoencoder's moral features, and write their table and pages."""
    from moralprobe.autoencoders import find_features
    from moralprobe.options import parse_modes
    from moralprobe.report.features import write_features
    from moralprobe.sae.load import made_of

    sae, options, out = _sae_of(job), run.recipe.steps["sae.features"], run.out / job.place
    loaded = run.sae(sae.folder)
    with run.watch("reading tokens") as step:
        found = find_features(
            loaded,
            run.model,
            run.texts_for(sae.mode),
            others=[run.sae(folder) for folder in sae.others],
            null=run.sae(sae.null) if sae.null else None,
            causal=options.causal,
            seed=options.seed,
            reading=lambda done, total: step(done, total, "tokens"),
        )
    for warning in found.read.warnings:
        run.say(f"warning: {warning}")
    write_features(
        found,
        loaded,
        run.model,
        out,
        modes=parse_modes(run.recipe.general.mode),
        most=options.pages,
        about={
            "sae": sae.folder,
            "seed": options.seed,
            **made_of(loaded, run.texts_for(sae.mode)),
        },
    )
    return [out / "FEATURES.parquet", out / "features.json"]


def fit(run: Run, job: Job) -> list[Path]:
    """Tune an autoencoder's moral features; where there is none, say so."""
    from dataclasses import replace

    from moralprobe.interventions import fit_topology
    from moralprobe.steering.intervention import FILE
    from moralprobe.steering.selection import read_feature_table, selected_by
    from moralprobe.steering.topology import SCHEDULES

    sae, out = _sae_of(job), run.out / job.place
    done = [out / FILE, out / "history.parquet", out / "geometry.parquet"]
    if (out / FILE).is_file():  # it is written last: all of it is there
        return done
    options = run.recipe.steps["topology.fit"][job.mode]
    table = read_feature_table(run.out / f"features/{sae.mode}-{sae.label}")
    try:
        selected_by(table, job.mode, table.height)
    except DataError as error:
        run.say(f"{job.name}: {error}")
        write_json(out / NOTHING, {"what": error.what, "why": error.why})
        return [out / NOTHING]
    schedule = SCHEDULES[job.mode]
    with run.watch("fitting") as step:
        found = fit_topology(
            run.sae(sae.folder),
            run.model,
            table,
            run.texts_for(sae.mode),
            mode=job.mode,
            schedule=replace(schedule, epochs=options.epochs) if options.epochs else schedule,
            draws=options.draws,
            seed=options.seed,
            progress=step,
        )
    found.save(out)
    return done


def survive(run: Run, job: Job) -> list[Path]:
    """Measure what is left at later layers."""
    from moralprobe.interventions import does_it_survive
    from moralprobe.options import parse_analyses
    from moralprobe.steering.intervention import Intervention

    made = run.out / f"topology-{job.mode}" / _sae_of(job).label
    if (made / NOTHING).is_file():
        return []
    options = run.recipe.steps["topology.survive"]
    with run.watch("measuring") as step:
        found = does_it_survive(
            Intervention.load(made, device=str(run.model.device)) * options.strength,
            run.model,
            run.vectors,
            layers=options.layers,
            analyses=parse_analyses(options.analyses),
            draws=options.draws,
            seed=options.seed,
            progress=step,
        )
    write_table(run.out / job.place, found)
    return [run.out / job.place]


def _sae_of(job: Job) -> Any:
    if job.sae is None:
        raise TypeError(f"{job.name} is of no autoencoder")
    return job.sae


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
