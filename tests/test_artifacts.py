from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from moralprobe.artifacts import MANIFEST, Artifact, write_shard
from moralprobe.errors import IntegrityError, StoreError
from moralprobe.files import atomic_path, canonical_json, write_bytes

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


def test_threads_may_add_shards_at_once(tmp_path: Path) -> None:
    shards = 24
    make(tmp_path / "one", shards)
    artifact = Artifact.create(tmp_path / "many", "test store", KEY)
    started = Artifact.open(tmp_path / "one", "test store")

    def add(k: int) -> None:
        name = f"shard-{k}.safetensors"
        tensors = {key: started.read(name, key) for key in ("a", "b")}
        artifact.add_shard(name, tensors, first=4 * k, last=4 * k + 3)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, random.Random(0).sample(range(shards), shards)))
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "many" / path.name).read_bytes() == path.read_bytes()


def test_a_shard_is_what_safetensors_itself_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ("float64", "float32", "float16", "int64", "int16", "uint8", "int8", "bool")
    tensors = {
        f"é {kind}/{k}": rng.normal(size=(3, k)).astype(kind) for kind in kinds for k in (0, 5)
    }
    tensors |= {
        "bf16": rng.normal(size=(3, 2, 4)).astype(ml_dtypes.bfloat16),
        "turned": rng.normal(size=(4, 3)).astype(np.float32).T,
        "one number a row": np.arange(3),
    }
    shard = write_shard(tmp_path, "s.safetensors", tensors, first=0, last=2)
    data = (tmp_path / "s.safetensors").read_bytes()
    metadata = json.loads(data[8 : shard.header_bytes])["__metadata__"]
    assert data == save({key: np.ascontiguousarray(v) for key, v in tensors.items()}, metadata)
    assert (shard.bytes, shard.xxh3_128) == (len(data), xxhash.xxh3_128_hexdigest(data))
    for key, value in load_file(tmp_path / "s.safetensors").items():
        np.testing.assert_array_equal(value, tensors[key])


def test_a_disk_that_takes_a_part_at_a_time_gets_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:7])

    monkeypatch.setattr(Path, "open", lambda self, mode, **_: Slow(self, mode))
    parts = (b"first, ", b"", np.arange(50).data, b"last")
    write_bytes(tmp_path / "f", *parts)
    assert (tmp_path / "f").read_bytes() == b"".join(bytes(part) for part in parts)


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

    def full(stream: object, data: memoryview) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("moralprobe.files._write_all", full)
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


# -- what somebody made to do harm: manifests and shards that match each other ----------------------


def rewrite(folder: Path, body: Any) -> None:
    checksum = xxhash.xxh3_128_hexdigest(canonical_json(body))
    (folder / MANIFEST).write_bytes(canonical_json({"body": body, "xxh3_128": checksum}))


def body_of(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())["body"]
    return body


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "..", ".", "", "sub/shard", "shard-\0", None, 3, ["a"]]
)
def test_a_manifest_names_files_of_its_own_folder_only(tmp_path: Path, name: object) -> None:
    make(tmp_path)
    body = body_of(tmp_path)
    body["shards"][1]["name"] = name
    rewrite(tmp_path, body)
    with pytest.raises(IntegrityError, match=r"outside the folder|describe no shards"):
        Artifact.open(tmp_path, "test store")


@pytest.mark.parametrize(
    "row",
    [
        {"first": -4},
        {"last": 2},
        {"n": 10**12},
        {"first": "0"},
        {"shape": None},
        {"more": 1},
        {"shape": 4},
    ],
)
def test_a_manifest_whose_rows_are_nonsense_is_damaged(tmp_path: Path, row: dict[str, Any]) -> None:
    make(tmp_path)
    body = body_of(tmp_path)
    body["shards"][1] |= row
    rewrite(tmp_path, body)
    with pytest.raises(IntegrityError, match="describe no shards"):
        Artifact.open(tmp_path, "test store")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"body":' * 200_000,
        b'{"body": ' + b"[" * 800 + b"]" * 800 + b', "xxh3_128": ""}',
        b'{"body": "\\ud800", "xxh3_128": ""}',
        b"",
        b"\x00" * 100,
    ],
    ids=["lists", "objects", "well-formed", "surrogate", "empty", "zeros"],
)
def test_a_manifest_that_is_none_however_deep(tmp_path: Path, text: bytes) -> None:
    make(tmp_path)
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(IntegrityError, match=r"is no manifest|checksum doesn't match"):
        Artifact.open(tmp_path, "test store")


def test_a_manifest_of_gigabytes_is_never_read(tmp_path: Path) -> None:
    make(tmp_path)
    with (tmp_path / MANIFEST).open("rb+") as stream:
        stream.truncate(20 << 30)
    with memory_of_its_own(), pytest.raises(IntegrityError, match="is no manifest"):
        Artifact.open(tmp_path, "test store")


class memory_of_its_own:  # noqa: N801
    """Within it an allocation of 1 GB fails, and a second is all that may pass."""

    def __enter__(self) -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        self.before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), self.before[1]))
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self.before)
        assert time.perf_counter() - self.started < 1


def tensor(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header["a"]
    return found


def spelled(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """A shard whose header says something else of the same data."""

    def change(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        edit(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[end:]

    return change


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "10 GB of header": lambda data: (10 << 30).to_bytes(8, "little") + data[8:],
    "2^63 bytes of header": lambda data: (1 << 63).to_bytes(8, "little") + data[8:],
    "no header": lambda data: bytes(len(data)),
    "overlapping": spelled(lambda h: h["b"].update(data_offsets=[0, 24])),
    "a hole": spelled(lambda h: tensor(h).update(data_offsets=[1, 49])),
    "negative offsets": spelled(lambda h: tensor(h).update(data_offsets=[-8, 40])),
    "backward": spelled(lambda h: tensor(h).update(data_offsets=[72, 24])),
    "beyond the end": spelled(lambda h: tensor(h).update(data_offsets=[24, 10 << 30])),
    "a shape that overflows": spelled(lambda h: tensor(h).update(shape=[1 << 62, 8])),
    "a negative shape": spelled(lambda h: tensor(h).update(shape=[-4, -3])),
    "other rows": spelled(lambda h: tensor(h).update(shape=[3, 4])),
    "nothing, very wide": spelled(
        lambda h: h.update(a={"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]})
    ),
    "an unknown dtype": spelled(lambda h: tensor(h).update(dtype="F3")),
    "no checksums": spelled(lambda h: h.pop("__metadata__")),
    "checksums that are none": spelled(lambda h: h["__metadata__"].update(xxh3_128="[1, 2]")),
    "deep checksums": spelled(lambda h: h["__metadata__"].update(xxh3_128="[" * 100_000)),
    "a deep header": lambda data: (1 << 17).to_bytes(8, "little") + b"[" * (1 << 17),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_shard_that_its_manifest_vouches_for_is_an_error_at_once(
    tmp_path: Path, kind: str
) -> None:
    name = "shard-0.safetensors"
    artifact = make(tmp_path, shards=1)
    artifact.read(name, "a")  # what is imported on the way isn't what is measured
    data = HOSTILE[kind]((tmp_path / name).read_bytes())
    (tmp_path / name).write_bytes(data)
    says = 8 + int.from_bytes(data[:8], "little")
    # As long as what it says, so far as there is something; the rest of the manifest is right.
    for header_bytes in {min(says, len(data)), says}:
        shard = replace(
            artifact.shards[name],
            bytes=len(data),
            xxh3_128=xxhash.xxh3_128_hexdigest(data),
            header_bytes=header_bytes,
            header_xxh3_128=xxhash.xxh3_128_hexdigest(data[:header_bytes]),
        )
        rewrite(tmp_path, {**body_of(tmp_path), "shards": [asdict(shard)]})
        opened = Artifact.open(tmp_path, "test store")
        assert opened.problems() == {}, "the manifest vouches for it"
        with memory_of_its_own(), pytest.raises(IntegrityError, match=r"shard-0.*is damaged"):
            opened.read(name, "a")


def test_a_shard_that_is_a_link_or_no_file_is_refused(tmp_path: Path) -> None:
    artifact = make(tmp_path / "s")
    one, two, three = sorted((tmp_path / "s").glob("shard-*"))
    one.rename(tmp_path / "elsewhere")
    one.symlink_to(tmp_path / "elsewhere")
    two.unlink()
    two.symlink_to("/dev/zero")
    size = three.stat().st_size
    three.unlink()
    three.mkdir()
    artifact.shards[three.name] = replace(artifact.shards[three.name], bytes=three.stat().st_size)
    assert set(artifact.problems()) == {one.name, two.name, three.name} and size
    for path in (one, two, three):
        with pytest.raises(IntegrityError, match=path.name):
            artifact.read(path.name, "a")
