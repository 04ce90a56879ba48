"""What training autoencoders would cost, by arithmetic: nothing is loaded and nothing measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moralprobe.activations.forecast import plan_extraction
from moralprobe.activations.store import ActivationStore, TextTable
from moralprobe.activations.stream import HELD_BYTES
from moralprobe.data.texts import SUFFIXES, Texts, load_lines
from moralprobe.errors import DataError
from moralprobe.sae.pooled import TRAIN, one_path, rows_of
from moralprobe.sae.recipe import PUBLISHED, Recipe, for_epochs
from moralprobe.sae.tokens import TextOptions, table_at

SPARSE: Final = ("topk", "batchtopk")
_WORD: Final = 4  # bytes of a weight, a gradient or a moment
_STATE: Final = 2  # bytes of a state in bf16


@dataclass(frozen=True)
class TrainingCost:
    """What it takes to train some autoencoders of one model.

    `tokens` are about those to read, `activations` what is trained on (these tokens, or vectors
    pooled over them), `epochs` how often each is used; `read_flops` is what reading takes the
    model, once where the states fit into memory or are kept on disk, and else once an epoch;
    `train_flops` the autoencoders' dense products without those that revive dead features.
    `memory_bytes` are the weights, gradients and two moments of every autoencoder, a batch's
    pre-activations, and the states that are held; the model's own weights, `model_bytes`, come on
    top. `disk_bytes` are the results and a checkpoint beside them, and the store of pooled vectors
    or token states. `tokens_by` says whose tokenizer counted.
    """

    model: str
    autoencoders: int
    d_in: int
    d_sae: int
    tokens: int
    activations: int
    tokens_by: str
    epochs: float
    readings: int
    read_flops: float
    train_flops: float
    memory_bytes: int
    model_bytes: int
    disk_bytes: int


def training_cost(
    model: str,
    texts: TextOptions,
    layers: str,
    recipes: Sequence[Recipe],
    *,
    source: str = "tokens",
    stored: bool = False,
) -> TrainingCost:
    """Return what `sae train` would take.

    Args:
        model: a folder, packaged name, or id that the registry knows; it isn't fetched.
        texts: what is read; lines of text files are counted in the template too, without windows.
        layers: as `parse_layers` reads them.
        recipes: one an autoencoder and layer.
        source: `tokens`, or `pooled` for a vector a text or row.
        stored: whether token states are kept on disk.

    Raises:
        ModelError: a model that isn't known here.
        UsageError: a layer or a recipe that can't be trained.
        DataError: a file that can't be read.
    """
    cost = plan_extraction(
        model,
        Texts(_actions(texts)),
        layers=layers,
        poolings="mean",
        template=texts.template,
        max_tokens=texts.max_tokens,
    )[0]
    d_in = cost.d_model
    n_layers = cost.layers
    pooled = source == "pooled"
    share = 1.0 if pooled else 1 - texts.held_out
    used = tokens = round(cost.tokens * share)
    if pooled:
        table = _table(one_path(texts))
        if "split" not in table.frame.columns:
            raise DataError(
                f"{texts.paths[0]} holds no moral vectors", "it has no splits", "build one of them"
            )
        used = rows_of(table.frame, TRAIN, by_row=recipes[0].arch == PUBLISHED).height
        recipes = [for_epochs(recipe, used) for recipe in recipes]
    for recipe in recipes:
        recipe.check(d_in)
    if not used:
        raise DataError("there is no text to train on", "none is of its split", "give more texts")
    first = recipes[0]
    epochs = first.steps * first.batch / used
    held = used * n_layers * d_in * (_WORD if pooled else _STATE)
    once = pooled or stored or held <= HELD_BYTES
    readings = 1 if once else max(1, round(epochs + 0.5))
    kept = cost.disk_bytes if pooled else held if stored else 0
    weights = [2 * d_in * d_in * recipe.expansion for recipe in recipes]
    # Encoder and decoder, forwards and twice backwards; a sparse step has the encoder's alone.
    products = [
        (2 if recipe.arch in SPARSE else 12) * d_in * d_in * recipe.expansion for recipe in recipes
    ]
    samples = first.steps * first.batch
    return TrainingCost(
        model=cost.id,
        autoencoders=n_layers * len(recipes),
        d_in=d_in,
        d_sae=d_in * max(recipe.expansion for recipe in recipes),
        tokens=tokens,
        activations=used,
        tokens_by=cost.tokens_by,
        epochs=epochs,
        readings=readings,
        read_flops=cost.flops * share * readings,
        train_flops=float(n_layers * samples * sum(products)),
        memory_bytes=n_layers * sum(weights) * _WORD * 4
        + first.batch * d_in * max(recipe.expansion for recipe in recipes) * _STATE
        + (held if pooled else min(held, HELD_BYTES)),
        model_bytes=cost.weights_bytes,
        disk_bytes=n_layers * sum(weights) * _WORD * 4 + kept,
    )


def _actions(texts: TextOptions) -> list[str]:
    found: list[str] = []
    for path in texts.paths:
        if Path(path).suffix in SUFFIXES:
            found += load_lines(Path(path))
            continue
        found += _table(path).frame["action"].unique().to_list()
    if not found:
        raise DataError("there is no text to train on", "all are empty", "give more texts")
    return found


def _table(path: str) -> TextTable:
    return ActivationStore.open(Path(path)).vectors() if Path(path).is_dir() else table_at(path)
