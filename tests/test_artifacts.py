from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from moralprobe.artifacts import MANIFEST, Artifact, atomic_path, write_bytes
from moralprobe.errors import IntegrityError, StoreError

KEY = {"model": {"id": "m", "weights": "abc"}, "layers": [0, 1]}


def make(folder: Path, shards: int = 3) -> Artifact:
    artifact = Artifact.create(folder, "test store", KEY)
    rng = np.random.default_rng(0)
    for k in range(shards):
        tensors = {
            "a": rng.normal(size=(4, 3)).astype(np.float32),
            "b": rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16),
        }
        artifact.add_shard(f"shard-{k}.safetensors", tensors, first=4 * k, last=4 * k + 3)
    return artifact


def test_round_trip_and_verification(tmp_path: Path) -> None:
    make(tmp_path / "s")
    again = Artifact.open(tmp_path / "s", "test store")
    assert again.problems() == {} and again.foreign() == [] and again.key == KEY
    a, b = again.read("shard-1.safetensors", "a"), again.read("shard-1.safetensors", "b")
    assert a.dtype == np.float32 and b.dtype == ml_dtypes.bfloat16 and a.shape == (4, 3)
    assert [(s.first, s.last, s.n) for s in again.shards.values()] == [
        (0, 3, 4),
        (4, 7, 4),
        (8, 11, 4),
    ]


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("keep", [0, -1])
def test_a_cut_shard_is_named_and_never_read(tmp_path: Path, keep: int) -> None:
    make(tmp_path)
    path = tmp_path / "shard-1.safetensors"
    path.write_bytes(path.read_bytes()[:keep] if keep else b"")
    artifact = Artifact.open(tmp_path, "test store")
    assert list(artifact.problems()) == ["shard-1.safetensors"]
    with pytest.raises(IntegrityError, match=r"shard-1.*bytes"):
        artifact.read("shard-1.safetensors", "a")
    assert artifact.read("shard-0.safetensors", "a").shape == (4, 3)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_flipped_bit_anywhere_never_gives_other_numbers(
    tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "s"
    shutil.rmtree(folder, ignore_errors=True)
    original = make(folder, shards=1)
    truth = {name: original.read("shard-0.safetensors", name) for name in "ab"}
    target = folder / data.draw(st.sampled_from(["shard-0.safetensors", MANIFEST]))
    content = bytearray(target.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << (bit % 8)
    target.write_bytes(content)
    try:
        artifact = Artifact.open(folder, "test store")
        problems = artifact.problems()
        read = {name: artifact.read("shard-0.safetensors", name) for name in "ab"}
    except IntegrityError:
        return
    # What is read without an error is what was written; verify sees the rest.
    for name in "ab":
        np.testing.assert_array_equal(read[name], truth[name])
    assert problems or target.name == MANIFEST


def test_swapped_missing_and_foreign_shards(tmp_path: Path) -> None:
    make(tmp_path)
    one, two = tmp_path / "shard-1.safetensors", tmp_path / "shard-2.safetensors"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "shard-0.safetensors").unlink()
    artifact = Artifact.open(tmp_path, "test store")
    assert sorted(artifact.problems()) == [
        "shard-0.safetensors",
        "shard-1.safetensors",
        "shard-2.safetensors",
    ]
    assert artifact.foreign() == ["other.safetensors"]
    for name in artifact.problems():
        with pytest.raises(IntegrityError, match=name):
            artifact.read(name, "a")


def test_another_key_is_refused_with_both_values(tmp_path: Path) -> None:
    make(tmp_path)
    other = {**KEY, "model": {"id": "m", "weights": "xyz"}}
    with pytest.raises(StoreError, match=r'model.weights: there "abc", asked for "xyz"'):
        Artifact.create(tmp_path, "test store", other)
    with pytest.raises(StoreError, match="is no sae of format"):
        Artifact.open(tmp_path, "sae")
    assert Artifact.create(tmp_path, "test store", KEY).problems() == {}


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        Artifact.create(tmp_path, "test store", KEY)
    with pytest.raises(StoreError, match="holds no test store"):
        Artifact.open(tmp_path, "test store")


def test_a_manifest_never_leads_out_of_its_folder(tmp_path: Path) -> None:
    artifact = make(tmp_path)
    artifact.shards["../evil"] = artifact.shards.pop("shard-0.safetensors")
    object.__setattr__(artifact.shards["../evil"], "name", "../evil")
    artifact._write_manifest()
    with pytest.raises(IntegrityError, match="outside the folder"):
        Artifact.open(tmp_path, "test store")


def test_a_failed_write_keeps_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"first")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_bytes(b"second")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_no_space_says_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreError, match=r"no space left.*[\d,]+ bytes are needed") as caught:
            artifact.add_shard("shard-9.safetensors", {"a": np.zeros(4)}, first=12, last=15)
    assert caught.value.exit_code == 1
    again = Artifact.open(tmp_path, "test store")
    assert again.problems() == {} and len(again.shards) == 3


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    artifact = make(tmp_path)
    (tmp_path / ".shard-7.safetensors.123.partial").write_bytes(b"half")
    assert artifact.clean() == [".shard-7.safetensors.123.partial"]
    assert not list(tmp_path.glob("*.partial"))


def test_manifest_is_plain_json_without_clock_or_machine(tmp_path: Path) -> None:
    make(tmp_path)
    body = json.loads((tmp_path / MANIFEST).read_bytes())["body"]
    assert set(body) == {"format", "kind", "key", "shards"}
    assert set(body["shards"][0]) == {
        "name",
        "bytes",
        "xxh3_128",
        "header_bytes",
        "header_xxh3_128",
        "first",
        "last",
        "n",
        "dtype",
        "shape",
    }
