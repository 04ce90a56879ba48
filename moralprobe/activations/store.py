"""Pooled hidden states on disk, with the texts and the moral vectors they belong to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from moralprobe.artifacts import Artifact
from moralprobe.data.ratings import Ratings, holds_ratings
from moralprobe.errors import IntegrityError, StoreError, UsageError
from moralprobe.files import canonical_json, hash_file, write_bytes
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sites import EMBED, FIRST_INPUT, Site

KIND: Final = "activation store"
LAYOUT: Final = 2
"""Of a store's shards: 2 holds the model's inputs beside the layers."""
INPUTS: Final[tuple[Site, ...]] = (EMBED, FIRST_INPUT)
TEXTS: Final = "texts.parquet"
VECTORS: Final = "vectors.parquet"
STATS: Final[tuple[str, ...]] = ("token0_norm", "other_norm", "left_out_share")


class TextTable(Protocol):
    """A table whose column `action` holds the texts to read: moral vectors, or ratings."""

    @property
    def frame(self) -> pl.DataFrame:
        """The table."""

    def to_bytes(self) -> bytes:
        """Return the table as a Parquet file."""


def load_table(path: Path) -> MoralVectors | Ratings:
    """Read a table of texts from a Parquet file: moral vectors, or ratings.

    Raises:
        DataError: a file that is neither.
    """
    return Ratings.load(path) if holds_ratings(path) else MoralVectors.load(path)


def tensor_name(site: Site, what: str) -> str:
    """Return the name of a shard's tensor: `resid_post.12/mean_unit`."""
    return f"{site}/{what}"


def tables_of(texts: pl.DataFrame, vectors: TextTable) -> dict[str, bytes]:
    """Return the bytes of a store's two tables, by file name."""
    buffer = io.BytesIO()
    texts.write_parquet(buffer)
    return {TEXTS: buffer.getvalue(), VECTORS: vectors.to_bytes()}


def repair_tables(folder: Path, tables: dict[str, bytes], hashes: dict[str, str]) -> None:
    """Write the tables that are missing from a store or damaged in it."""
    for name, data in tables.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or hash_file(path) != hashes[name]:
            write_bytes(path, data)


class ActivationStore:
    """A finished or growing store of pooled hidden states, read one layer at a time.

    `inputs` names the sites before the first block that it holds too, under `input_poolings`.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.folder = artifact.folder
        self.key: dict[str, Any] = artifact.key
        self.layers: tuple[int, ...] = tuple(artifact.key["layers"])
        self.poolings: tuple[str, ...] = tuple(artifact.key["poolings"])
        # A store of layout 1 has none.
        self.input_poolings: tuple[str, ...] = tuple(artifact.key.get("input_poolings", ()))
        self.inputs: tuple[str, ...] = tuple(map(str, INPUTS)) if self.input_poolings else ()
        self.d_model: int = artifact.key["d_model"]
        self.n_layers: int = artifact.key["n_layers"]
        self.model_name: str = artifact.key["model"]["id"]
        self.template: str = artifact.key["template"]
        self.texts = self._table(TEXTS)

    @classmethod
    def open(cls, folder: Path) -> ActivationStore:
        """Open a store.

        Raises:
            StoreError: no store, or one whose extraction isn't finished.
            IntegrityError: a manifest or table that isn't what was written.
        """
        store = cls(Artifact.open(Path(folder), KIND))
        shards = sorted(store._artifact.shards.values(), key=lambda shard: shard.first)
        have = sum(shard.n for shard in shards)
        ends = [0, *(shard.last + 1 for shard in shards)]
        if ends[:-1] != [shard.first for shard in shards] and have >= store.n_readable:
            raise IntegrityError(
                f"{folder} is damaged",
                "its shards hold some texts twice and others not at all",
                "extract again into a new folder",
            )
        if have != store.n_readable:
            raise StoreError(
                f"{folder} is not finished",
                f"{have} of {store.n_readable} texts are there",
                "repeat the extract command that made it: it continues",
            )
        return store

    @property
    def n_readable(self) -> int:
        """How many texts have hidden states; the first so many rows of `texts`."""
        return int((self.texts["status"] == "ok").sum())

    def vectors(self) -> MoralVectors:
        """Return the moral vectors that the store was made for."""
        return MoralVectors.load(self.table_file())

    def table_file(self) -> Path:
        """Return the path of the table that the store was made for, once its bytes are checked."""
        self._check_table(VECTORS)
        return self.folder / VECTORS

    def valid(self, pooling: str) -> NDArray[np.bool_]:
        """Return which texts have a vector under this pooling, [n_texts]."""
        ok = (self.texts["status"] == "ok").to_numpy()
        if pooling == "mean_action":
            ok = ok & (self.texts["n_action_tokens"] > 0).to_numpy()
        return ok

    def layer(self, pooling: str, layer: int) -> NDArray[np.float32]:
        """Read one layer under one pooling, without reading the others.

        Returns:
            [n_texts, d_model] fp32 in the order of `texts`; NaN where `valid` is false.

        Raises:
            UsageError: a layer or pooling that the store doesn't hold.
            IntegrityError: bytes that aren't those that were written.
        """
        return self.site(Site("resid_post", layer), pooling)

    def site(self, site: Site | str, pooling: str) -> NDArray[np.float32]:
        """Read one site under one pooling: a layer, or one of `inputs`.

        Returns:
            [n_texts, d] fp32 in the order of `texts`; NaN where `valid` is false. d is d_model, for
            `embed` the width of the embedding table.

        Raises:
            UsageError: a site or pooling that the store doesn't hold.
            IntegrityError: bytes that aren't those that were written.
        """
        site = Site.parse(site) if isinstance(site, str) else site
        self._require(site, pooling)
        values = self._gather(site, pooling)
        values[~self.valid(pooling)] = np.nan
        return values

    def blocks(self, pooling: str, layer: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Read one layer under one pooling a shard at a time, where `layer` wouldn't fit.

        Yields:
            Which rows of `texts`, and their vectors, [rows, d_model] fp32; NaN where `valid` is
            false. The rows ascend; texts that can't be read are in no block.

        Raises:
            UsageError: a layer or pooling that the store doesn't hold.
            IntegrityError: bytes that aren't those that were written.
        """
        site = Site("resid_post", layer)
        self._require(site, pooling)
        valid = self.valid(pooling)
        for rows, part in self._parts(site, pooling):
            part[~valid[rows]] = np.nan
            yield rows, part

    def stats(self, layer: int) -> dict[str, NDArray[np.float32]]:
        """Read the sink report of a layer: `STATS`, each [n_texts], NaN where nothing was read."""
        site = Site("resid_post", layer)
        self._poolings_of(site)
        return {name: self._gather(site, name) for name in STATS}

    def digest(self) -> str:
        """Return a hash of the key and of every shard's hash: equal stores, equal digests."""
        shards = sorted((s.first, s.xxh3_128) for s in self._artifact.shards.values())
        return xxhash.xxh3_128_hexdigest(canonical_json([self.key, shards]))

    def _gather(self, site: Site, what: str) -> NDArray[np.float32]:
        """Read a tensor from every shard; NaN for texts that aren't in any."""
        values: NDArray[np.float32] | None = None
        for rows, part in self._parts(site, what):
            if values is None:
                values = np.full((self.texts.height, *part.shape[1:]), np.nan, np.float32)
            values[rows] = part
        return np.empty(0, np.float32) if values is None else values

    def _parts(self, site: Site, what: str) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        for name, shard in sorted(self._artifact.shards.items(), key=lambda item: item[1].first):
            part = self._artifact.read(name, tensor_name(site, what))
            yield slice(shard.first, shard.last + 1), part.astype(np.float32)

    def _require(self, site: Site, pooling: str) -> None:
        held = self._poolings_of(site)
        if pooling not in held:
            # What `extract` leaves out, unlike what wasn't asked for.
            same = pooling in self.poolings and "input_poolings" in self.key
            raise UsageError(
                f"the store holds no pooling {pooling!r} of {site}",
                f"{'every text ends in the same token; ' if same else ''}"
                f"it holds {', '.join(held) or 'none'}",
                "extract again with another --pooling",
            )

    def _poolings_of(self, site: Site) -> tuple[str, ...]:
        if site in INPUTS:
            return self.input_poolings
        if site.kind == "resid_post" and site.layer in self.layers:
            return self.poolings
        raise UsageError(
            f"the store holds no {site}",
            f"it holds layers {self.layers[0]} to {self.layers[-1]} ({len(self.layers)})"
            + (f" and {' and '.join(self.inputs)}" if self.inputs else ""),
            "extract again with --layers",
        )

    def _table(self, name: str) -> pl.DataFrame:
        self._check_table(name)
        return pl.read_parquet(io.BytesIO((self.folder / name).read_bytes()))

    def _check_table(self, name: str) -> None:
        if why := _table_problem(self._artifact, name):
            raise IntegrityError(
                f"{self.folder / name} is damaged",
                why,
                "repeat the extract command that made the store",
            )


def verify(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Check every byte of a store, finished or not.

    Returns:
        What is wrong, by file, and the shard files in the folder that aren't part of the store.

    Raises:
        StoreError: no store.
        IntegrityError: a manifest that isn't what was written.
    """
    artifact = Artifact.open(Path(folder), KIND)
    problems = artifact.problems()
    for name in (TEXTS, VECTORS):
        if why := _table_problem(artifact, name):
            problems[name] = why
    return problems, artifact.foreign()


def _table_problem(artifact: Artifact, name: str) -> str:
    path = artifact.folder / name
    if path.is_symlink():
        return "it is a link, which may lead out of the folder"
    if not path.is_file():
        return "missing"
    return "" if hash_file(path) == artifact.key["tables"][name] else "checksum doesn't match"
