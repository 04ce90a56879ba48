"""A store under everything that can happen to it, in any order: it gives right numbers or an error.

Hypothesis stops extractions half way, deletes, cuts, flips, swaps and adds files, repairs, reads and
verifies; beside it runs a model of what must be true. Real kills are in test_interruption.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moralprobe.activations.extract import extract
from moralprobe.activations.store import KIND, ActivationStore, verify
from moralprobe.artifacts import Artifact
from moralprobe.errors import IntegrityError, StoreError
from tests.activations.test_extract import contents, starter, tiny

OPTIONS: dict[str, Any] = {
    "layers": "0,2",
    "poolings": ("mean", "mean_unit"),
    "batch_tokens": 64,
    "shard_bytes": 6_000,
}
MODEL, VECTORS = tiny(), starter(40)
TABLES = ("texts.parquet", "vectors.parquet")


class _Stopped(BaseException):
    """What a signal raises in the middle of a run."""


class Store(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        whole = extract(MODEL, VECTORS, self.place / "whole", **OPTIONS)
        self.right = contents(self.place / "whole")
        self.numbers = {(p, n): whole.layer(p, n) for p in whole.poolings for n in whole.layers}
        self.shards = sorted(name for name in self.right if name.startswith("shard"))
        assert len(self.shards) >= 4
        self.folder = self.place / "s"
        self.written: set[str] = set()  # shards that the manifest has
        self.damaged: set[str] = set()  # files of these, or tables, that aren't as they were
        self.foreign: set[str] = set()
        self.begun = False

    def teardown(self) -> None:
        if hasattr(self, "place"):
            shutil.rmtree(self.place)

    @rule(batches=st.integers(0, 12))
    def stopped_half_way(self, batches: int) -> None:
        left = [batches]

        def stop(_progress: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise _Stopped

        with contextlib.suppress(_Stopped):
            extract(MODEL, VECTORS, self.folder, **OPTIONS, progress=stop)
        self.repaired()

    @rule()
    def continued(self) -> None:
        said: list[str] = []
        extract(MODEL, VECTORS, self.folder, **OPTIONS, say=said.append)
        for name in self.damaged - set(TABLES) | self.foreign:
            assert any(name in line for line in said), (name, said)
        self.repaired()
        assert self.written == set(self.shards)
        found = contents(self.folder)
        assert {n: data for n, data in found.items() if n not in self.foreign} == self.right

    def repaired(self) -> None:
        """What is true after every run: what was damaged is dropped or made again."""
        self.begun = True
        self.damaged.clear()
        self.written = set(Artifact.open(self.folder, KIND).shards)
        assert not list(self.folder.glob(".*.partial"))

    @precondition(lambda self: self.begun)
    @rule(which=st.integers(0, 20), how=st.sampled_from(["gone", "cut", "empty", "flipped"]))
    def damage(self, which: int, how: str) -> None:
        files = sorted(self.written - self.damaged) + sorted(set(TABLES) - self.damaged)
        if not files:
            return
        name = files[which % len(files)]
        path = self.folder / name
        data = bytearray(path.read_bytes())
        if how == "gone":
            path.unlink()
        else:
            data[(which * 7919) % len(data)] ^= 1 << which % 8
            path.write_bytes({"cut": data[:-1], "empty": b"", "flipped": data}[how])
        self.damaged.add(name)

    @precondition(lambda self: len(self.written - self.damaged) >= 2)
    @rule()
    def swap(self) -> None:
        a, b = (self.folder / name for name in sorted(self.written - self.damaged)[:2])
        a.rename(self.place / "c")
        b.rename(a)
        (self.place / "c").rename(b)
        self.damaged |= {a.name, b.name}

    @precondition(lambda self: self.begun)
    @rule()
    def add_a_foreign_file(self) -> None:
        (self.folder / "shard-77777.safetensors").write_bytes(b"someone else's")
        self.foreign.add("shard-77777.safetensors")

    @precondition(lambda self: self.begun)
    @rule()
    def extend(self) -> None:
        """Another layer is another store: refused, and nothing moves."""
        before = contents(self.folder)
        with pytest.raises(StoreError, match=r"another run.*layers"):
            extract(MODEL, VECTORS, self.folder, **{**OPTIONS, "layers": "0-2"})
        assert contents(self.folder) == before

    @precondition(lambda self: self.begun)
    @rule()
    def flip_the_manifest(self) -> None:
        """Whoever reads it says so; put back, all is as it was."""
        path = self.folder / "manifest.json"
        data = path.read_bytes()
        bad = bytearray(data)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        for attempt in (
            lambda: verify(self.folder),
            lambda: ActivationStore.open(self.folder),
            lambda: extract(MODEL, VECTORS, self.folder, **OPTIONS),
        ):
            with pytest.raises(IntegrityError, match=r"manifest\.json"):
                attempt()
        path.write_bytes(data)

    @invariant()
    def verify_finds_what_is_wrong_and_nothing_else(self) -> None:
        if not getattr(self, "begun", False):
            return
        problems, foreign = verify(self.folder)
        assert set(problems) == self.damaged
        unknown = {p.name for p in self.folder.glob("*.safetensors")} - self.written
        assert set(foreign) == unknown and self.foreign <= unknown

    @invariant()
    def readers_give_the_right_numbers_or_none(self) -> None:
        if not getattr(self, "begun", False):
            return
        try:
            store = ActivationStore.open(self.folder)
            found = {(p, n): store.layer(p, n) for p in store.poolings for n in store.layers}
        except IntegrityError:
            assert self.damaged
        except StoreError:
            assert self.written != set(self.shards)
        else:
            for name, values in found.items():
                np.testing.assert_array_equal(values, self.numbers[name])


Store.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestStore = Store.TestCase
