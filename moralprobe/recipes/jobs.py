"""A recipe as jobs: what each makes, where, from which others, and all that can change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from moralprobe.errors import UsageError
from moralprobe.recipes.options import EVALUATE, MIDDLE, OURS, PublishedTrain, RunRecipe, Train
from moralprobe.sites import parse_layers

VECTORS: Final = "vectors.parquet"
STORE: Final = "store"
STUDY: Final = "study"
NULL: Final = "null"
PAGE: Final = "README.md"


@dataclass(frozen=True)
class Trained:
    """An autoencoder that later steps look at: its folder, those of other seeds, and a null's.

    `label` names it among those of its mode, `size` is its expansion; folders are relative to the
    run's.
    """

    mode: str
    layer: int
    label: str
    size: int
    folder: str
    others: tuple[str, ...] = ()
    null: str | None = None


@dataclass(frozen=True)
class Job:
    """One thing to be made.

    `options` are all that can change it beside what it is made from, the jobs that it `needs`; it
    is made at `place`, relative to the run's folder. `mode` and `sae` say of what, where a step is
    done several times.
    """

    name: str
    step: str
    place: str
    needs: tuple[str, ...]
    options: Mapping[str, Any]
    mode: str = ""
    sae: Trained | None = None


def jobs_of(recipe: RunRecipe, n_layers: Callable[[], int]) -> list[Job]:
    """Return a recipe's jobs in the order in which they are done; the report isn't one of them.

    Args:
        recipe: from `parse_recipe`.
        n_layers: gives the number of the model's layers, where autoencoders are asked for.

    Raises:
        UsageError: layers that the model doesn't have.
    """
    general = asdict(recipe.general)
    reading = {k: v for k, v in general.items() if k not in ("mode", "device")}
    mode = {"mode": recipe.general.mode}
    steps = recipe.steps
    jobs = [Job("vectors", "vectors", VECTORS, (), asdict(steps["vectors"]))]
    if "extract" in steps:
        options = {**reading, **asdict(steps["extract"])}
        jobs.append(Job("extract", "extract", STORE, ("vectors",), options))
    if "probe" in steps:
        jobs.append(Job("probe", "probe", STUDY, ("extract",), {**mode, **asdict(steps["probe"])}))
    if "sae.train" in steps:
        jobs += _of_autoencoders(recipe, n_layers(), reading)
    return jobs


def _of_autoencoders(recipe: RunRecipe, n_layers: int, reading: dict[str, Any]) -> list[Job]:
    steps, jobs = recipe.steps, []
    for mode, train in recipe.of("sae.train").items():
        store = ("extract",) if from_store(recipe, mode, n_layers) else ()
        options = {**reading, **asdict(train), "layer": layers_of(train, n_layers)}
        shuffled = options.pop("shuffled", False)
        needs = ("vectors", *store)
        jobs.append(Job(f"sae.train {mode}", "sae.train", f"sae/{mode}", needs, options, mode))
        if shuffled:
            options = {**options, "seed": train.seed.split(",")[0]}
            where = f"sae/{NULL}"
            jobs.append(Job(f"sae.train {NULL}", "sae.train", where, needs, options, NULL))
    for mode in recipe.modes if "sae.eval" in steps else ():
        place = f"sae/eval-{mode}.json"
        needs = (f"sae.train {mode}",)
        jobs.append(
            Job(f"sae.eval {mode}", "sae.eval", place, needs, asdict(steps["sae.eval"]), mode)
        )
    for step, of_one in (
        ("sae.features", _features),
        ("topology.fit", _fit),
        ("topology.survive", _survive),
    ):
        if step in steps:
            jobs += [of_one(recipe, sae) for sae in trained(recipe, n_layers)]
    return jobs + (_evaluations(recipe, n_layers) if EVALUATE in steps else [])


def _features(recipe: RunRecipe, sae: Trained) -> Job:
    trained_by = (f"sae.train {sae.mode}", *((f"sae.train {NULL}",) if sae.null else ()))
    options = {"mode": recipe.general.mode, **asdict(recipe.steps["sae.features"])}
    name = f"{sae.mode} {sae.label}"
    place = f"features/{sae.mode}-{sae.label}"
    return Job(f"sae.features {name}", "sae.features", place, trained_by, options, sae.mode, sae)


def _fit(recipe: RunRecipe, sae: Trained) -> Job:
    mode = OURS["topology.fit"][sae.mode]
    needs = (f"sae.features {sae.mode} {sae.label}",)
    options = asdict(recipe.steps["topology.fit"][mode])
    place = f"topology-{mode}/{sae.label}"
    return Job(f"topology.fit {mode} {sae.label}", "topology.fit", place, needs, options, mode, sae)


def _survive(recipe: RunRecipe, sae: Trained) -> Job:
    mode = OURS["topology.fit"][sae.mode]
    name = f"{mode} {sae.label}"
    place = f"survival-{mode}-{sae.label}.parquet"
    options = asdict(recipe.steps["topology.survive"])
    needs = (f"topology.fit {name}",)
    return Job(f"topology.survive {name}", "topology.survive", place, needs, options, mode, sae)


def _evaluations(recipe: RunRecipe, n_layers: int) -> list[Job]:
    """Return a job a mode: the interventions of all layers are tried against each other."""
    jobs = []
    for mode, options in recipe.of(EVALUATE).items():
        name = OURS[EVALUATE][mode]
        labels = [sae.label for sae in trained(recipe, n_layers) if sae.mode == mode]
        needs = tuple(f"topology.fit {name} {label}" for label in labels)
        # The file alone: texts and verdicts beside it are kept by what was asked, and serve again.
        place = f"evaluation/{name}/evaluation.json"
        jobs.append(Job(f"{EVALUATE} {name}", EVALUATE, place, needs, asdict(options), name))
    return jobs


def trained(recipe: RunRecipe, n_layers: int) -> list[Trained]:
    """Return the autoencoders that later steps look at: of each layer and size the first seed's.

    Those of further seeds stand beside it, and so does the null.

    Args:
        recipe: with the step `sae.train`.
        n_layers: of the model.
    """
    found = []
    for mode, train in recipe.of("sae.train").items():
        sizes, seeds = numbers(train.expansion, "expansion"), numbers(train.seed, "seed")
        layers = parse_layers(layers_of(train, n_layers), n_layers)
        shuffled = isinstance(train, Train) and train.shuffled
        alone = len(layers) * len(sizes)
        for layer in layers:
            for size in sizes:
                label = f"layer-{layer}" + (f"-x{size}" if len(sizes) > 1 else "")
                first, *others = (
                    _folder(f"sae/{mode}", mode, train, layer, size, seed, alone * len(seeds))
                    for seed in seeds
                )
                null = None
                if shuffled:
                    null = _folder(f"sae/{NULL}", mode, train, layer, size, seeds[0], alone)
                found.append(Trained(mode, layer, label, size, first, tuple(others), null))
    return found


def _folder(
    place: str,
    mode: str,
    train: Train | PublishedTrain,
    layer: int,
    size: int,
    seed: int,
    of: int,
) -> str:
    """Return where one of several autoencoders is: alone it has the whole folder."""
    if of == 1:
        return place
    from moralprobe.sae.recipe import Task

    one = replace(train, expansion=str(size), seed=str(seed))
    return f"{place}/{Task(layer, sae_recipes(one)[0]).name}"


def sae_recipes(train: Train | PublishedTrain) -> list[Any]:
    """Return what is trained on each layer: an autoencoder a size and seed.

    Raises:
        UsageError: sizes or seeds that aren't whole numbers.
    """
    from moralprobe.sae.recipe import Recipe

    common = {name: getattr(train, name) for name in ("k", "steps", "batch", "lr", "precision")}
    pairs: list[dict[str, Any]] = [
        {"expansion": size, "seed": seed, **common}
        for size in numbers(train.expansion, "expansion")
        for seed in numbers(train.seed, "seed")
    ]
    if isinstance(train, PublishedTrain):
        return [Recipe.published(**pair) for pair in pairs]
    return [Recipe(arch=train.arch, sparsity=train.sparsity, **pair) for pair in pairs]


def pooling_of(train: Train | PublishedTrain) -> str | None:
    """Return the pooling of the vectors that are trained on; none of tokens."""
    if isinstance(train, PublishedTrain):
        return train.pooling
    return None if train.source == "tokens" else train.pooling or "mean_unit"


def from_store(recipe: RunRecipe, mode: str, n_layers: int) -> bool:
    """Return whether a mode's autoencoders are trained on vectors that the store holds."""
    train = recipe.of("sae.train")[mode]
    pooling, extract = pooling_of(train), recipe.steps.get("extract")
    if pooling is None or extract is None or pooling not in extract.pooling.split(","):
        return False
    held = parse_layers(extract.layers, n_layers)
    return set(parse_layers(layers_of(train, n_layers), n_layers)) <= set(held)


def layers_of(train: Train | PublishedTrain, n_layers: int) -> str:
    """Return the layers to train on, the one in the middle by its number."""
    return str(n_layers // 2) if train.layer == MIDDLE else train.layer


def numbers(text: str, name: str) -> list[int]:
    """Read whole numbers joined by commas, each once.

    Raises:
        UsageError: something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 for part in parts) or len({*parts}) < len(parts):
        raise UsageError(
            f"{name} takes whole numbers, each once",
            f"not {text!r}",
            f"write {name}: 8 or {name}: 8,16",
        )
    return [int(part) for part in parts]
