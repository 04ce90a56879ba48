"""Autoencoders of pooled vectors, one a text or a row, as the paper trains its own.

They are read from a store, or extracted from a table into one. A pooled autoencoder has never seen
the state of a single token, which is what steering changes: `evaluate_pooled` says how it does
there.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from scipy import sparse

from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.store import ActivationStore
from moralprobe.activations.text_states import TableTexts, TextStates, table_texts, text_states
from moralprobe.errors import DataError, ModelError, UsageError
from moralprobe.models.causal import CausalModel, differing
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae.load import LoadedSAE, check_belongs, is_pooled
from moralprobe.sae.recipe import EPOCHS, PUBLISHED, Task, for_epochs
from moralprobe.sae.text_features import TextFeatures, read_features
from moralprobe.sae.tokens import TextOptions, metadata_of, options_of, table_at
from moralprobe.sae.train import State, check_place, check_together, train

POOLING: Final = "mean_unit"
PUBLISHED_POOLING: Final = "mean"
UNIT_NORM: Final = ("mean_unit", "mean_action")
"""Poolings of states that were divided by their norm."""
TRAIN: Final = ("train",)
HELD: Final = ("dev", "test")
ACTIVATIONS: Final = ".activations"
"""Folder, in that of the autoencoder, of what was extracted for it."""


class PooledSource:
    """Pooled vectors by layer, each [n, width], in one piece."""

    def __init__(self, states: dict[int, torch.Tensor]) -> None:
        self.states = states
        self.layers = tuple(states)
        self.width = int(states[self.layers[0]].shape[1])

    def pieces(self, epoch: int) -> int:
        """Return 1: all are held."""
        return 1

    def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
        """Return all."""
        return self.states


def train_on_pooled(
    model: CausalModel,
    texts: TextOptions,
    tasks: Sequence[Task],
    out: Path,
    *,
    pooling: str | None = None,
    progress: Callable[[State], None] = lambda state: None,
    reading: Callable[[Progress], None] | None = None,
) -> list[Path]:
    """Train autoencoders on pooled vectors of the training split.

    Those trained as published are shown a vector for every row, as often as its text is rated, and
    with steps of 0 train for a hundred epochs; others are shown every text once.

    Args:
        model: from `load_model`.
        texts: one path: a store made by `extract`, or a table of moral vectors to extract.
        tasks: what is trained; all as published, or none.
        out: the folder; of several autoencoders each has one in it.
        pooling: as `extract` knows it; `mean` as published, else `mean_unit`.
        progress: called while training.
        reading: called while vectors are extracted.

    Returns:
        The folders.

    Raises:
        UsageError: several paths, or both kinds of tasks.
        ModelError: a store of another model.
        DataError: a table without moral vectors, or too few for a batch.
        As `extract` and `sae.train.train`.
    """
    published = {task.recipe.arch == PUBLISHED for task in tasks}
    if len(published) != 1:
        raise UsageError(
            "the paper's autoencoders and others aren't trained on the same vectors",
            "both are asked for",
            "train them one after the other",
        )
    by_row = published.pop()
    # A slip of the pen shouldn't wait for an extraction.
    for task in tasks:
        replace(task.recipe, steps=task.recipe.steps or EPOCHS).check(model.d_model)
    check_together(tasks)
    check_place(Path(out), "pooled")
    pooling = pooling or (PUBLISHED_POOLING if by_row else POOLING)
    layers = sorted({task.layer for task in tasks})
    folder = Path(out) / ACTIVATIONS
    with pooled_store(model, texts, layers, pooling, folder, reading) as store:
        source = PooledSource(
            {layer: pooled_states(store, layer, pooling, TRAIN, by_row=by_row) for layer in layers}
        )
        dtype = store.key["dtype"]
        digest, read_as = store.digest(), options_of_store(store, texts)
    n = len(source.states[layers[0]])
    described = {"source": "pooled", "pooling": pooling, "by_row": by_row}
    about = {**described, "store": digest, "split": TRAIN}
    known = metadata_of(model, read_as, n)
    return train(
        source,
        [replace(task, recipe=for_epochs(task.recipe, n)) for task in tasks],
        out,
        about=about,
        metadata={
            **known,
            **described,
            "dtype_of_states": dtype,
            "left_out": f"what pooling {pooling} leaves out",
            "held_out": None,
            "split": list(TRAIN),
        },
        device=str(model.device),
        progress=progress,
    )


@contextmanager
def pooled_store(
    model: CausalModel,
    texts: TextOptions,
    layers: Sequence[int],
    pooling: str,
    folder: Path | None = None,
    reading: Callable[[Progress], None] | None = None,
) -> Iterator[ActivationStore]:
    """Hold the store at a path, or one of the table there.

    Args:
        model: whose states it holds.
        texts: one path, and how a table is read.
        layers: to extract.
        pooling: to extract.
        folder: where a table's is kept; for the time of the `with`, if not given.
        reading: called while a table is extracted.

    Raises:
        UsageError: several paths.
        ModelError: a store of another model.
        As `extract`.
    """
    path = one_path(texts)
    if not Path(path).is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            yield extract(
                model,
                table_at(path),
                folder or Path(temporary) / "store",
                layers=",".join(map(str, layers)),
                poolings=pooling,
                template=texts.template,
                max_tokens=texts.max_tokens,
                progress=reading,
            )
        return
    store = ActivationStore.open(Path(path))
    if differing(model.identity, store.key["model"]):
        raise ModelError(
            f"{path} is a store of another model",
            f"of {store.model_name}, and {model.name} is asked for",
            "give the model that it was extracted from",
        )
    yield store


def one_path(texts: TextOptions) -> str:
    """Return the one table or store of pooled vectors.

    Raises:
        UsageError: several.
    """
    if len(texts.paths) != 1:
        raise UsageError(
            "pooled vectors are those of one table or store",
            f"{len(texts.paths)} are given: {', '.join(texts.paths)}",
            "make one table of them",
        )
    return texts.paths[0]


def options_of_store(store: ActivationStore, texts: TextOptions) -> TextOptions:
    """Return how a store's texts were read."""
    return replace(texts, template=store.template, max_tokens=store.key["max_tokens"])


def check_read_alike(store: ActivationStore, texts: TextOptions) -> None:
    """Refuse a store whose texts were read otherwise than those that an autoencoder knows."""
    if (theirs := options_of_store(store, texts)) != texts:
        raise ModelError(
            f"{store.folder} was read otherwise than what the autoencoder was trained on",
            f"in template {theirs.template} to {theirs.max_tokens} tokens, and it in "
            f"{texts.template} to {texts.max_tokens}",
            "give a store of the same template and length, or a table",
        )


def rows_of(frame: pl.DataFrame, splits: Sequence[str], *, by_row: bool) -> pl.DataFrame:
    """Return the rows of some splits, or of every text in them the first."""
    rows = frame.filter(pl.col("split").is_in(list(splits)))
    return rows if by_row else rows.unique("action", keep="first", maintain_order=True)


def pooled_states(
    store: ActivationStore, layer: int, pooling: str, splits: Sequence[str], *, by_row: bool
) -> torch.Tensor:
    """Return a layer's pooled vectors of some splits.

    Args:
        store: of moral vectors.
        layer: that it holds.
        pooling: that it holds.
        splits: of `train`, `dev` and `test`.
        by_row: a vector for every row and foundation, instead of every text once.

    Returns:
        [n, d_model], fp32, in the order of the table.

    Raises:
        DataError: none.
        UsageError: a layer or pooling that the store doesn't hold.
    """
    rows = rows_of(store.vectors().frame, splits, by_row=by_row)
    places = store.texts.select(pl.col("text"), at=pl.int_range(pl.len()))
    at = rows.join(places, left_on="action", right_on="text", maintain_order="left")["at"]
    states = store.layer(pooling, layer)[at.to_numpy()]
    states = states[store.valid(pooling)[at.to_numpy()]]
    if not len(states):
        raise DataError(
            f"{store.folder} holds no text of {' or '.join(splits)}",
            "its table has none that can be read",
            "give a larger table",
        )
    return torch.from_numpy(states)


def features_of_table(
    loaded: LoadedSAE,
    model: CausalModel,
    path: Path,
    *,
    null: LoadedSAE | None = None,
    seed: int = 0,
    reading: Callable[[int, int], None] = lambda done, total: None,
) -> TextFeatures:
    """Read the features of every text of a table as an autoencoder was trained.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        path: of a table of moral vectors, or of a store of them.
        null: an autoencoder of shuffled activations; not of a pooled one.
        seed: of the random dictionary.
        reading: called while the model reads.

    Raises:
        As `read_features`, and `extract` for a pooled autoencoder.
        UsageError: a null of a pooled autoencoder.
    """
    vectors = _vectors_at(path)
    if not is_pooled(loaded):
        return read_features(loaded, model, vectors, null=null, seed=seed, reading=reading)
    if null is not None:
        raise UsageError(
            "a null of token states says nothing of a pooled autoencoder",
            f"{loaded.folder} was trained on pooled vectors",
            "leave out --null",
        )
    texts = options_of(loaded, [str(path)])
    with _store_of(loaded, model, texts, reading) as store:
        return read_features(
            loaded, model, vectors, pooled=lambda some: _vectors_of(loaded, store, some), seed=seed
        )


def states_of_table(
    loaded: LoadedSAE,
    model: CausalModel,
    path: Path,
    *,
    reading: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[MoralVectors, TableTexts, TextStates]:
    """Read the states of a table's texts that an autoencoder was trained for.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        path: of a table of moral vectors, or of a store of them.
        reading: called while the model reads.

    Returns:
        The table, its distinct texts, and their token states; of a pooled autoencoder one state a
        text, its pooled vector.

    Raises:
        ModelError: an autoencoder of another width, layer or model.
        As `text_states`, and `extract` for a pooled autoencoder.
    """
    check_belongs(loaded, model)
    vectors = _vectors_at(path)
    options = options_of(loaded, [str(path)])
    texts = table_texts(model, vectors, template=options.template, max_tokens=options.max_tokens)
    if not is_pooled(loaded):
        limit = loaded.sink_norm if math.isfinite(loaded.sink_norm) else None
        read = text_states(model, texts, loaded.layer, sink_norm=limit, reading=reading)
        return vectors, texts, read
    with _store_of(loaded, model, options, reading) as store:
        states = _vectors_of(loaded, store, texts.texts)
    n = len(texts.texts)
    alone = sparse.csr_array(sparse.eye_array(n, dtype=np.float32))
    return vectors, texts, TextStates(states, np.ones(n, np.bool_), alone, math.inf)


def _vectors_at(path: Path) -> MoralVectors:
    """Return the table at a path, or that of the store there."""
    path = Path(path)
    return ActivationStore.open(path).vectors() if path.is_dir() else MoralVectors.load(path)


@contextmanager
def _store_of(
    loaded: LoadedSAE,
    model: CausalModel,
    texts: TextOptions,
    reading: Callable[[int, int], None],
) -> Iterator[ActivationStore]:
    """Hold a store of the vectors that a pooled autoencoder was trained for."""
    with pooled_store(
        model,
        texts,
        [loaded.layer],
        loaded.sae.cfg.metadata.pooling,
        reading=lambda done: reading(done.texts, done.total),
    ) as store:
        check_read_alike(store, texts)
        yield store


def _vectors_of(loaded: LoadedSAE, store: ActivationStore, texts: Sequence[str]) -> torch.Tensor:
    """Return the pooled vectors of texts, in their order."""
    pooling = loaded.sae.cfg.metadata.pooling
    place: dict[Any, int] = {text: i for i, text in enumerate(store.texts["text"])}
    at = np.array([place[text] for text in texts])
    if n := int((~store.valid(pooling)[at]).sum()):
        raise DataError(
            f"{n} texts have no vector under {pooling}",
            "no token of theirs is pooled",
            "leave them out of the table",
        )
    return torch.from_numpy(store.layer(pooling, loaded.layer)[at])
