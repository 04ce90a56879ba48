"""What each step of a recipe would take, by the forecasts of `plan` and `sae train --dry-run`.

Nothing is fetched and no model is run. What has no forecast says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.activations.cost import PEAK_TFLOPS, UTILISATION, Cost
from moralprobe.activations.forecast import plan_extraction
from moralprobe.data.datasets import DATASETS
from moralprobe.data.download import default_folder
from moralprobe.data.starter import NAME as STARTER
from moralprobe.errors import UsageError
from moralprobe.moral_vectors import EXPECTED_PAIRS, MoralVectors, build_vectors
from moralprobe.recipes.check import check_recipe
from moralprobe.recipes.forecast_steering import Need, evaluating, fitting, surviving
from moralprobe.recipes.jobs import (
    VECTORS,
    Job,
    from_store,
    jobs_of,
    layers_of,
    pooling_of,
    sae_recipes,
)
from moralprobe.recipes.options import EVALUATE, RunRecipe, Vectors
from moralprobe.recipes.steps import DATASET
from moralprobe.sites import parse_layers

COUNTED: Final = 10_000
"""Texts whose tokens are counted at most; of a larger table so many, and the rest like these."""


@dataclass(frozen=True)
class Forecast:
    """What a job would take: None is not forecast. `note` says what was, or why nothing."""

    name: str
    hours: float | None
    disk_bytes: int | None
    memory_bytes: int | None
    gpus: int | None
    note: str


@dataclass(frozen=True)
class Plan:
    """Forecasts of all jobs on a GPU in a dtype, and of which texts: `texts` says it in words."""

    jobs: tuple[Forecast, ...]
    texts: str
    dtype: str


@dataclass(frozen=True)
class _Table:
    """A table that is counted; there are so many `times` its texts and its `rows`, as is `said`."""

    vectors: MoralVectors
    path: str
    times: float
    rows: float
    said: str


def plan_recipe(
    recipe: RunRecipe,
    out: Path,
    *,
    until: str | None = None,
    device_tflops: float = UTILISATION * PEAK_TFLOPS,
) -> Plan:
    """Return what a recipe would take.

    Args:
        recipe: from `load_recipe`.
        out: the run's folder; a table that is there already is counted.
        until: the last step.
        device_tflops: sustained throughput, in TFLOP/s.

    Raises:
        UsageError: a recipe that can't be done as it is asked for.
        ModelError: a model whose sizes aren't known here.
    """
    from moralprobe.models.load import choose_dtype

    shape = check_recipe(recipe)
    dtype = choose_dtype(recipe.general.dtype, "cuda")
    recipe = replace(recipe, general=replace(recipe.general, dtype=dtype))
    if until is not None:
        recipe = recipe.until(until)
    if shape is None:
        raise UsageError(
            f"what {recipe.general.model} would take isn't known",
            "it is no model of the registry, and its config isn't on this machine",
            "name one of moralprobe models, or a folder",
        )
    n_layers = shape.n_layers
    with _counted(recipe.steps["vectors"], Path(out)) as table:
        whole = _cost(recipe, table, "all", "mean")
        jobs = jobs_of(recipe, lambda: n_layers)
        found = [_of(job, recipe, table, whole, n_layers, device_tflops) for job in jobs]
    return Plan(tuple(found), table.said, dtype)


def _of(
    job: Job, recipe: RunRecipe, table: _Table, whole: Cost, n_layers: int, tflops: float
) -> Forecast:
    memory = whole.weights_bytes + whole.activations_bytes
    with_model = Forecast(job.name, None, None, memory, whole.gpus, "")
    if job.step == "extract":
        options = recipe.steps["extract"]
        cost = _cost(recipe, table, options.layers, options.pooling)
        hours = cost.flops * table.times / tflops / 3.6e15
        disk = round(cost.disk_bytes * table.times)
        tokens = f"about {round(cost.tokens * table.times):,} tokens, by {cost.tokens_by}"
        return replace(with_model, hours=hours, disk_bytes=disk, note=tokens)
    if job.step == "sae.train":
        return _training(job, recipe, table, n_layers, tflops)
    if (need := _steering(job, recipe, table.times, whole, n_layers)) is not None:
        hours = need.flops / tflops / 3.6e15
        return replace(with_model, hours=hours, disk_bytes=need.disk_bytes, note=need.note)
    notes = {
        "vectors": "no forecast",
        "probe": "no forecast; it takes cores, no GPU",
    }
    if job.step in notes:
        return Forecast(job.name, None, None, None, None, notes[job.step])
    return replace(with_model, note="no forecast; memory is the model's alone")


def _steering(job: Job, recipe: RunRecipe, times: float, whole: Cost, n_layers: int) -> Need | None:
    if job.step == "topology.fit" and job.sae is not None:
        return fitting(job.sae, job.mode, whole, times, n_layers)
    if job.step == "topology.survive":
        return surviving(whole, times)
    if job.step == EVALUATE:
        return evaluating(recipe.steps[EVALUATE][job.mode], whole, len(job.needs))
    return None


def _training(job: Job, recipe: RunRecipe, table: _Table, n_layers: int, tflops: float) -> Forecast:
    from moralprobe.activations.stream import HELD_BYTES
    from moralprobe.sae.cost import training_cost
    from moralprobe.sae.pooled import TRAIN, rows_of
    from moralprobe.sae.recipe import PUBLISHED, for_epochs
    from moralprobe.sae.tokens import TextOptions

    mode = job.mode if job.mode in recipe.modes else "audited"
    train, general = recipe.of("sae.train")[mode], recipe.general
    made = sae_recipes(train)
    if job.mode != mode:
        made = [one for one in made if one.seed == made[0].seed]
    pooled, stored = pooling_of(train) is not None, from_store(recipe, mode, n_layers)
    if pooled:
        by_row = made[0].arch == PUBLISHED
        rows = rows_of(table.vectors.frame, TRAIN, by_row=by_row).height * table.rows
        made = [for_epochs(one, round(rows)) for one in made]
    texts = TextOptions((table.path,), general.template, general.max_tokens)
    layers = layers_of(train, n_layers)
    cost = training_cost(
        general.model, texts, layers, made, source="pooled" if pooled else "tokens"
    )
    epochs = cost.epochs / table.times
    more = table.rows if pooled else table.times
    held = cost.activations * more * len(parse_layers(layers, n_layers)) * cost.d_in
    readings = 1 if pooled or 2 * held <= HELD_BYTES else max(1, round(epochs + 0.5))
    reading = 0.0 if stored else cost.read_flops / cost.readings * readings * table.times
    held_more = (4 * held if pooled else min(2 * held, HELD_BYTES)) * (1 - 1 / more)
    disk = cost.disk_bytes
    if pooled:
        # The store of what is read comes with it, unless the run has one.
        store = _cost(recipe, table, layers, "mean").disk_bytes
        disk += round(-store if stored else store * (table.times - 1))
    memory = cost.model_bytes + cost.memory_bytes + round(held_more)
    said = f"{cost.autoencoders} of {cost.d_in:,} to {cost.d_sae:,}, {made[0].steps:,} steps"
    hours = (reading + cost.train_flops) / tflops / 3.6e15
    gpus = -(-memory // int(80e9))
    return Forecast(job.name, hours, disk, memory, gpus, said)


def _cost(recipe: RunRecipe, table: _Table, layers: str, poolings: str) -> Cost:
    general, extract = recipe.general, recipe.steps.get("extract")
    options: dict[str, Any] = {}
    if extract is not None:
        options["share"] = extract.share
        if extract.batch_tokens is not None:
            options["batch_tokens"] = extract.batch_tokens
    (cost,) = plan_extraction(
        [general.model],
        table.vectors,
        layers=layers,
        poolings=poolings,
        template=general.template,
        dtype=general.dtype,
        max_tokens=general.max_tokens,
        **options,
    )
    return cost


@contextmanager
def _counted(options: Vectors, out: Path) -> Iterator[_Table]:
    """Hold the table that would be read, or what stands in for one that isn't here yet."""
    table, believed = _table(options, out)
    texts, pairs = table.frame["action"].n_unique(), len(table)
    times, rows, said = 1.0, 1.0, f"{texts:,} distinct ones"
    if believed is not None:
        times, rows, said = EXPECTED_PAIRS[1] / texts, EXPECTED_PAIRS[1] / pairs, believed
    elif texts > COUNTED:
        names = table.frame["action"].unique().sort().sample(COUNTED, seed=0)
        part = table.frame.filter(pl.col("action").is_in(names.to_list()))
        table = replace(table, frame=part)
        times, rows = texts / COUNTED, pairs / len(table)
        said += f", of which {COUNTED:,} were counted"
    with tempfile.TemporaryDirectory() as folder:
        path = table.save(Path(folder) / VECTORS)
        yield _Table(table, str(path), times, rows, said)


def _table(options: Vectors, out: Path) -> tuple[MoralVectors, str | None]:
    """Return the vectors, and where they aren't here what is believed of them instead."""
    if (out / VECTORS).is_file():
        return MoralVectors.load(out / VECTORS), None
    source: str | Path = options.source
    if source == DATASET:
        source = default_folder() / DATASETS[DATASET].table
        if not source.is_file():
            return build_vectors(STARTER), (
                f"{DATASET} isn't on this machine: at most {EXPECTED_PAIRS[1]:,} texts, the pairs "
                "that the paper's counts imply, each as long as the starter's"
            )
    if str(source).endswith(".parquet"):
        return MoralVectors.load(Path(source)), None
    built = build_vectors(source, schema=options.schema, agreement=options.agreement)
    return built, None
