"""Stores of hidden states whose geometry is known, because a test put it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from moralprobe.activations.store import KIND, ActivationStore, tables_of
from moralprobe.artifacts import Artifact
from moralprobe.files import write_bytes
from moralprobe.foundations import AXES
from moralprobe.moral_vectors import MoralVectors

POOLINGS = ("mean", "mean_unit", "mean_no_sink", "last")
D = 24


def texts_of(vectors: MoralVectors, seed: int = 0) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct texts, and lengths drawn at random that have nothing to do with them."""
    texts = vectors.frame["action"].unique().sort().to_list()
    return texts, np.random.default_rng(seed).integers(5, 20, len(texts))


def noise(texts: Sequence[str], seed: int) -> NDArray[np.float32]:
    """Return states that know nothing of the texts."""
    return np.random.default_rng(seed).standard_normal((len(texts), D)).astype(np.float32)


def grouped(texts: Sequence[str], seed: int) -> NDArray[np.float32]:
    """Return states in two dense groups that know nothing of the texts."""
    rng = np.random.default_rng(seed)
    X = 0.1 * rng.standard_normal((len(texts), D))
    X[rng.permutation(len(texts)) % 2 == 0, 0] += 5
    return X.astype(np.float32)


def moral(texts: Sequence[str], vectors: MoralVectors, seed: int) -> NDArray[np.float32]:
    """Return states in which opposed poles lie opposite, the further out the more typical."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((D, len(AXES))))[0].T
    place = {text: i for i, text in enumerate(texts)}
    X = 0.5 * rng.standard_normal((len(texts), D))
    h = vectors.vectors()
    signed = h[:, 0::2] - h[:, 1::2]
    for i, (row, axis) in enumerate(vectors.frame.select("action", "axis").iter_rows()):
        k = [a.tag for a in AXES].index(axis)
        X[place[row]] += 3 * signed[i, k] * directions[k]
    return X.astype(np.float32)


def store(
    folder: Path,
    vectors: MoralVectors,
    states: Mapping[int, NDArray[np.float32] | Mapping[str, NDArray[np.float32]]],
    lengths: NDArray[np.int64] | None = None,
    poolings: Sequence[str] = POOLINGS,
    inputs: Mapping[str, NDArray[np.float32]] | None = None,
) -> ActivationStore:
    """Write a store that holds the given states: one array a layer, or one a pooling of it.

    `inputs` has an array for each of `embed` and `resid_pre.0`, under every pooling but `last`.
    """
    texts, drawn = texts_of(vectors)
    lengths = drawn if lengths is None else lengths
    table = pl.DataFrame(
        {
            "text": texts,
            "status": ["ok"] * len(texts),
            "n_tokens": lengths,
            "n_action_tokens": lengths - 3,
            "truncated": [False] * len(texts),
            "token0_is_content": [False] * len(texts),
        },
        schema_overrides={"n_tokens": pl.Int32, "n_action_tokens": pl.Int32},
    )
    tables = tables_of(table, vectors)
    d = next(iter(states.values()))
    d_model = (d if isinstance(d, np.ndarray) else next(iter(d.values()))).shape[1]
    key = {
        "model": {"id": "planted"},
        "d_model": d_model,
        "n_layers": max(states) + 1,
        "layers": sorted(states),
        "poolings": list(poolings),
        "input_poolings": [p for p in poolings if p != "last"] if inputs else [],
        "template": "action-is-morally",
        "token0_is_content": False,
        "max_tokens": 128,
        "dtype": "float32",
        "tables": {name: xxhash.xxh3_128_hexdigest(data) for name, data in tables.items()},
    }
    artifact = Artifact.create(folder, KIND, key)
    for name, data in tables.items():
        write_bytes(folder / name, data)
    tensors = {}
    for layer, X in states.items():
        for pooling in poolings:
            tensors[f"resid_post.{layer}/{pooling}"] = (
                X if isinstance(X, np.ndarray) else X[pooling]
            )
        for name, value in (("token0_norm", 30.0), ("other_norm", 3.0), ("left_out_share", 0.1)):
            tensors[f"resid_post.{layer}/{name}"] = np.full(len(texts), value, np.float32)
    for site, X in (inputs or {}).items():
        for pooling in key["input_poolings"]:
            tensors[f"{site}/{pooling}"] = X
    artifact.add_shard("shard-00000.safetensors", tensors, first=0, last=len(texts) - 1)
    return ActivationStore.open(folder)
