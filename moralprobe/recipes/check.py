"""What is wrong with a recipe is said before anything starts: a slip shouldn't wait for hours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moralprobe.data.datasets import DATASETS
from moralprobe.data.prompts import get_template
from moralprobe.data.schema import check_agreement, check_schema
from moralprobe.data.starter import NAME as STARTER
from moralprobe.errors import ModelError, UsageError
from moralprobe.models.shape import model_shape
from moralprobe.options import POOLINGS_OF, parse_analyses, parse_hdbscan, parse_modes, parse_quota
from moralprobe.recipes.evaluate_step import check_evaluation, files_of
from moralprobe.recipes.jobs import Job, layers_of, pooling_of, sae_recipes
from moralprobe.recipes.options import EVALUATE, RunRecipe, Vectors
from moralprobe.recipes.steps import DATASET
from moralprobe.sites import parse_layers

if TYPE_CHECKING:
    from moralprobe.models.shape import Shape


_TRAIN: Final = "sae.train"


def check_recipe(recipe: RunRecipe) -> Shape | None:
    """Refuse what can't be done as it is asked for.

    Args:
        recipe: from `parse_recipe`.

    Returns:
        The model's sizes, where they are known without its weights.

    Raises:
        UsageError: a name that nothing has, a number out of range, or options that don't fit.
    """
    from moralprobe.models.load import choose_dtype

    general, steps = recipe.general, recipe.steps
    choose_dtype(general.dtype, "cpu")
    get_template(general.template)
    _check_vectors(steps["vectors"])
    shape = shape_of(recipe)
    if "extract" in steps:
        _check_reading(recipe, shape)
    if "probe" in steps:
        probe = steps["probe"]
        parse_analyses(probe.analyses)
        parse_hdbscan(probe.hdbscan)
        parse_quota(probe.quota)
        for name in (probe.twin, probe.sentence):
            _check_there(name, "probe")
    if "sae.train" in steps:
        _check_training(recipe, shape)
    if "topology.survive" in steps:
        parse_analyses(steps["topology.survive"].analyses)
        if shape is not None:
            _check_later(recipe, shape.n_layers)
    if EVALUATE in steps:
        for asked in steps[EVALUATE].values():
            check_evaluation(asked)
    return shape


def settled(recipe: RunRecipe) -> RunRecipe:
    """Return the recipe with the dtype and precisions that `auto` is on its device.

    Raises:
        UsageError: a dtype or device that there isn't.
    """
    from moralprobe.models.load import SPREAD, choose_device, choose_dtype

    general = recipe.general
    device = choose_device("auto" if general.device == SPREAD else general.device)
    steps = dict(recipe.steps)
    if _TRAIN in steps:
        steps[_TRAIN] = {
            mode: replace(train, precision=choose_dtype(train.precision, device))
            for mode, train in steps[_TRAIN].items()
        }
    general = replace(general, dtype=choose_dtype(general.dtype, device))
    return replace(recipe, general=general, steps=steps)


def shape_of(recipe: RunRecipe) -> Shape | None:
    """Return the model's sizes, or None where only its weights' place would tell."""
    try:
        return model_shape(recipe.general.model)
    except ModelError:
        # One of the hub that isn't registered and not fetched yet; anything else can't be loaded.
        if recipe.general.model.count("/") == 1 and not Path(recipe.general.model).exists():
            return None
        raise


def _check_vectors(vectors: Vectors) -> None:
    check_schema(vectors.schema)
    check_agreement(vectors.agreement)
    source = vectors.source
    if vectors.url is not None and source != DATASET:
        raise UsageError(
            "vectors.url is a mirror of the dataset", f"the source is {source!r}", "leave it out"
        )
    if source in (STARTER, DATASET):
        return
    if source in DATASETS:
        raise UsageError(
            f"{source} holds no judgements to build vectors from",
            f"of the datasets {DATASET} does",
            f"write vectors: {DATASET}, or the path of a table",
        )
    if not Path(source).is_file():
        raise UsageError(
            f"there are no vectors at {source}",
            f"it is no file, not {STARTER} and not {DATASET}",
            "write one of these, a table of annotations, or a .parquet by: vectors build",
        )
    default = Vectors(source)
    if source.endswith(".parquet") and vectors != default:
        raise UsageError(
            f"{source} is built already",
            "schema, agreement and strict say how to build",
            "leave them out, or give the table that it was built from",
        )


def _check_there(name: str | None, step: str) -> None:
    if name is not None and not Path(name).is_dir():
        raise UsageError(f"there is no folder {name}", f"{step} names it", "check the path")


def _check_reading(recipe: RunRecipe, shape: Shape | None) -> None:
    from moralprobe.activations.pooling import parse_poolings

    extract = recipe.steps["extract"]
    poolings = parse_poolings(extract.pooling)
    if shape is not None:
        parse_layers(extract.layers, shape.n_layers)
    if "probe" not in recipe.steps:
        return
    for mode in parse_modes(recipe.general.mode):
        if not set(POOLINGS_OF[mode]) & set(poolings):
            raise UsageError(
                f"mode {mode} would have nothing to read",
                f"it reads {', '.join(POOLINGS_OF[mode])}; extract keeps {', '.join(poolings)}",
                "keep one of them, or choose the other mode",
            )


def _check_training(recipe: RunRecipe, shape: Shape | None) -> None:
    from moralprobe.activations.pooling import parse_poolings
    from moralprobe.autoencoders import source_of
    from moralprobe.sae.recipe import EPOCHS

    for mode, train in recipe.of("sae.train").items():
        made = sae_recipes(train)
        arch = getattr(train, "arch", None)
        if arch == "li2026":
            raise UsageError(
                "li2026 isn't an architecture alone",
                "its vectors, loss and schedule go together",
                "write mode: li2026 or mode: both",
            )
        source_of(made, getattr(train, "source", None), shuffled=getattr(train, "shuffled", False))
        if (pooling := pooling_of(train)) is not None and len(parse_poolings(pooling)) > 1:
            raise UsageError(
                f"sae.train.{mode} takes one pooling", f"not {pooling!r}", "choose one of them"
            )
        if not 0 < getattr(train, "held_out", 0.5) < 1:
            raise UsageError(
                "the share held out must lie between 0 and 1",
                f"it is {train.held_out}",
                "leave held-out out to take the usual one",
            )
        if shape is None:
            continue
        parse_layers(layers_of(train, shape.n_layers), shape.n_layers)
        for one in made:
            replace(one, steps=one.steps or EPOCHS).check(shape.d_model)


def _check_later(recipe: RunRecipe, n_layers: int) -> None:
    chosen = recipe.steps["topology.survive"].layers
    if chosen == "later":
        return
    first = min(parse_layers(chosen, n_layers))
    for train in recipe.of("sae.train").values():
        last = max(parse_layers(layers_of(train, n_layers), n_layers))
        if first < last:
            raise UsageError(
                f"nothing changes at layer {first}",
                f"an autoencoder of layer {last} is tuned too",
                f"write topology.survive.layers: later, or layers from {last} on",
            )


def with_facts(job: Job, recipe: RunRecipe) -> Job:
    """Return a job whose options say which bytes of the recipe's own files it is made of."""
    from moralprobe.artifacts import MANIFEST
    from moralprobe.data.starter import starter_path
    from moralprobe.files import hash_file

    files: list[Path] = []
    if job.step == "vectors":
        source = recipe.steps["vectors"].source
        files = [starter_path() if source == STARTER else Path(source)]
    elif job.step == "probe" and (twin := recipe.steps["probe"].twin) is not None:
        files = [Path(twin) / MANIFEST]
    elif job.step == EVALUATE:
        files = files_of(recipe.steps[EVALUATE][job.mode])
    facts = {f"hash of {path.name}": hash_file(path) for path in files if path.is_file()}
    return replace(job, options={**job.options, **facts})
