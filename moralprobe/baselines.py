"""What a model is held against: other readings of the same texts, measured in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from moralprobe.activations.store import ActivationStore
from moralprobe.errors import UsageError
from moralprobe.files import canonical_json, hash_file

STATIC: Final = "static embeddings"
FIRST_INPUT: Final = "first block's input"
UNTRAINED: Final = "random weights"
SENTENCE: Final = "sentence embeddings"
VALENCE: Final = "valence lexicon"
_INPUTS: Final = {"embed": STATIC, "resid_pre.0": FIRST_INPUT}


@dataclass(frozen=True)
class Source:
    """One reading: `states()` gives [n_texts, d], by the store's texts, NaN where there is none.

    `model` names what read them; `layer` is None where it has none, `pooling` "none" likewise.
    """

    name: str
    model: str
    layer: int | None
    pooling: str
    states: Callable[[], NDArray[np.float32]]


def sources(
    store: ActivationStore,
    pooling: str,
    *,
    twin: ActivationStore | None = None,
    sentence: tuple[str, NDArray[np.float32]] | None = None,
    valence: NDArray[np.float32] | None = None,
) -> Iterator[Source]:
    """Yield the readings that a store's numbers under one pooling are held against.

    Args:
        store: the model's; its inputs are two of the readings.
        pooling: how inputs and twin are pooled; those that lack it are left out.
        twin: a store that `check_twin` has passed; each of its layers is a reading.
        sentence: name and [n_texts, d] embeddings of another encoder.
        valence: [n_texts].
    """
    if valence is not None:
        yield Source(VALENCE, "", None, "none", lambda: valence[:, None])
    if pooling in store.input_poolings:
        for site in store.inputs:
            read = partial(store.site, site, pooling)
            yield Source(_INPUTS[site], store.model_name, None, pooling, read)
    if sentence is not None:
        name, embedded = sentence
        yield Source(SENTENCE, name, None, "none", lambda: embedded)
    if twin is not None and pooling in twin.poolings:
        for layer in twin.layers:
            read = partial(twin.layer, pooling, layer)
            yield Source(UNTRAINED, twin.model_name, layer, pooling, read)


def check_twin(store: ActivationStore, twin: ActivationStore) -> None:
    """Refuse a store that isn't of the model's untrained twin, reading the same texts alike."""
    same = ("d_model", "n_layers", "template", "prompt", "max_tokens", "tables")
    other = [name for name in same if store.key.get(name) != twin.key.get(name)]
    ours, theirs = store.key["model"], twin.key["model"]
    if any(ours.get(name) != theirs.get(name) for name in ("config", "tokenizer")):
        other.append("model")
    if not str(theirs["id"]).endswith("(untrained)"):
        other.append("untrained")
    if other:
        raise UsageError(
            f"{twin.folder} holds no untrained twin of {store.folder}",
            f"they differ in {', '.join(other)}"
            if other != ["untrained"]
            else "its weights are trained",
            "make one with the command that made the store, --untrained and another --out",
        )


def sentence_reading(texts: list[str], folder: str | Path) -> tuple[str, NDArray[np.float32]]:
    """Return the name and the embeddings [n_texts, d] of a sentence model."""
    from moralprobe.models.sentence import sentence_embeddings

    return Path(folder).expanduser().resolve().name, sentence_embeddings(texts, folder)


def folder_digest(folder: str | Path) -> str:
    """Return a hash of a model folder's files."""
    root = Path(folder).expanduser()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return xxhash.xxh3_128_hexdigest(
        canonical_json([[str(path.relative_to(root)), hash_file(path)] for path in files])
    )
