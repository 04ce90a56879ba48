"""Stores on disks that fill up, can't be written or lead elsewhere, and between processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.store import ActivationStore, verify
from moralprobe.artifacts import Artifact
from moralprobe.data.starter import starter_path
from moralprobe.errors import IntegrityError, StoreError
from moralprobe.models.tiny import save_tiny
from tests.activations.test_extract import contents, starter, tiny
from tests.sources import ROOT

OPTIONS: dict[str, Any] = {
    "layers": "0,2",
    "poolings": ("mean", "mean_unit"),
    "batch_tokens": 64,
    "shard_bytes": 6_000,
}
PRELOAD = [
    "moralprobe.activations.extract",
    "tests.activations.test_extract",
    "transformers.models.llama.modeling_llama",
]
SHARD = "shard-00001.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    extract(tiny(), starter(40), tmp_path / "s", **OPTIONS)
    assert len(list((tmp_path / "s").glob("shard-*"))) >= 4
    return tmp_path / "s"


def alone(script: str, *arguments: object, **environment: str) -> str:
    """Run a script in a process with mounts of its own, which end with it; return what it said."""
    unshare = shutil.which("unshare")
    namespace = [unshare, "--user", "--map-root-user", "--mount"]
    mount = ["sh", "-c", 'mount -t tmpfs none "$0"', "/mnt"]
    if unshare is None or subprocess.run([*namespace, *mount], capture_output=True).returncode:
        pytest.skip("mounting in a namespace of its own isn't permitted here")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- F3: a disk that is full ------------------------------------------------------------------------

FULL = """
import subprocess, sys
from pathlib import Path
from moralprobe.activations import extract as extracting
from moralprobe.activations.extract import extract
from moralprobe.activations.store import verify
from moralprobe.errors import StoreError
from tests.activations.test_disks import OPTIONS
from tests.activations.test_extract import contents, starter, tiny

whole, disk = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
(disk / "ballast").write_bytes(bytes(180_000))
try:
    extract(tiny(), starter(40), disk / "s", **OPTIONS)
except StoreError as error:
    assert error.exit_code == 2 and "has no room" in str(error)
assert not list((disk / "s").glob("shard-*"))
# Someone else may fill the disk while the run is under way.
extracting.free_bytes = lambda folder: 1 << 40
try:
    extract(tiny(), starter(40), disk / "s", **OPTIONS)
except StoreError as error:
    assert error.exit_code == 1
    print(error)
kept = sorted((disk / "s").glob("shard-*"))
assert 0 < len(kept) < len(list(whole.glob("shard-*"))), kept
assert verify(disk / "s")[0] == {} and not list((disk / "s").glob(".*.partial"))
for path in kept:
    assert path.read_bytes() == (whole / path.name).read_bytes()
written = {path.name: path.stat().st_mtime_ns for path in kept}
(disk / "ballast").unlink()
extract(tiny(), starter(40), disk / "s", **OPTIONS)
assert contents(disk / "s") == contents(whole)
again = {name: (disk / "s" / name).stat().st_mtime_ns for name in written}
assert sum(again[name] == then for name, then in written.items()) >= len(written) - 1
"""


def test_a_disk_that_is_really_full_costs_one_shard(store: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    said = alone(FULL, store, tmp_path / "disk")
    assert "no space left for" in said and "bytes are needed" in said
    assert "what is complete is kept" in said


# -- F7, F8: several processes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def extract_here(folder: Path, line: Any) -> None:
    """Say how much was there at the start, then go on slowly enough for another to come."""
    import torch

    torch.set_num_threads(1)
    seen: list[Progress] = []

    def progress(p: Progress) -> None:
        if not seen:
            line.send((p.kept, p.total))
        seen.append(p)
        time.sleep(0.01)

    extract(tiny(), starter(40), folder, **OPTIONS, progress=progress)


def test_of_two_processes_on_one_store_the_second_waits(
    processes: ForkServerContext, store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    lines = [processes.Pipe() for _ in range(2)]
    first, second = (
        processes.Process(target=extract_here, args=(folder, there)) for _, there in lines
    )
    first.start()
    kept, total = lines[0][0].recv()
    assert kept == 0 < total
    second.start()
    # The second begins once the first is through, and finds all that it made.
    assert lines[1][0].recv() == (total, total)
    for process in (first, second):
        process.join(60)
        assert process.exitcode == 0
    assert contents(folder) == contents(store) and verify(folder) == ({}, [])


def hold(folder: Path, line: Any) -> None:
    with Artifact.lock(folder):
        line.send("held")
        time.sleep(60)


def test_the_lock_of_a_dead_process_holds_nobody_up(
    processes: ForkServerContext, store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "s2"
    here, there = processes.Pipe()
    holder = processes.Process(target=hold, args=(folder, there))
    holder.start()
    assert here.recv() == "held"
    line, other = processes.Pipe()
    waiting = processes.Process(target=extract_here, args=(folder, other))
    waiting.start()
    assert not line.poll(0.5), "it didn't wait for the living holder"
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (folder / ".lock").exists(), "the file is left, and means nothing"
    assert line.poll(30)
    waiting.join(60)
    assert waiting.exitcode == 0 and contents(folder) == contents(store)


def test_a_lock_that_is_a_link_never_touches_what_it_leads_to(store: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (store / ".lock").unlink(missing_ok=True)
    (store / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="can't write"):
        extract(tiny(), starter(40), store, **OPTIONS)
    assert (tmp_path / "precious").read_text() == "mine"


# -- F21: what leads out of the store ---------------------------------------------------------------


@pytest.mark.parametrize("name", [SHARD, "texts.parquet", "vectors.parquet"])
def test_a_link_out_of_the_store_is_refused_and_replaced(
    store: Path, tmp_path: Path, name: str
) -> None:
    right = contents(store)
    (store / name).rename(tmp_path / "elsewhere")
    (store / name).symlink_to(tmp_path / "elsewhere")
    assert name in verify(store)[0] and "link" in verify(store)[0][name]
    with pytest.raises(IntegrityError, match=rf"{name} is damaged.*link"):
        opened = ActivationStore.open(store)
        opened.layer("mean", 0)
        opened.vectors()
    extract(tiny(), starter(40), store, **OPTIONS)
    assert contents(store) == right and not (store / name).is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == right[name]


def test_shards_that_hold_the_same_texts_twice_give_no_numbers(store: Path) -> None:
    artifact = Artifact.open(store, "activation store")
    name, shard = next(
        (n, s) for n, s in artifact.shards.items() if s.first and s.last + 1 - s.n == s.first
    )
    object.__setattr__(shard, "first", shard.first - 1)
    object.__setattr__(shard, "last", shard.last - 1)
    artifact._write_manifest()
    assert name
    with pytest.raises(IntegrityError, match="some texts twice and others not at all"):
        ActivationStore.open(store)


# -- F24: places ------------------------------------------------------------------------------------

READ_ONLY = """
import subprocess, sys
home = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", home], check=True)
sys.exit(subprocess.run([sys.executable, *sys.argv[2:]]).returncode)
"""


def without_a_cache(home: Path) -> dict[str, str]:
    places = {"XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "HF_HOME": "", "MORALPROBE_CACHE": ""}
    return {**places, "MPLCONFIGDIR": "", "HOME": str(home)}


@pytest.mark.parametrize("home", ["read-only", "a file"])
def test_a_home_that_cannot_be_written_is_not_needed_for_a_folder(
    tmp_path: Path, home: str
) -> None:
    place = tmp_path / "home"
    save_tiny("llama", tmp_path / "model", n_layers=1)
    starter(20).save(tmp_path / "v.parquet")
    extraction = ["extract", tmp_path / "model", tmp_path / "v.parquet", "--out", tmp_path / "s"]
    command = ["-m", "moralprobe", *map(str, extraction), "--quiet"]
    if home == "read-only":
        place.mkdir()
        alone(READ_ONLY, place, *command, **without_a_cache(place))
    else:
        place.write_text("no folder")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **without_a_cache(place)}
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert place.read_text() == "no folder"
    assert verify(tmp_path / "s") == ({}, [])


def test_a_home_that_cannot_be_written_is_named_where_weights_must_be_unpacked(
    tmp_path: Path,
) -> None:
    (tmp_path / "home").write_text("no folder")
    starter(20).save(tmp_path / "v.parquet")
    arguments = ["extract", "smollm2-135m", str(tmp_path / "v.parquet"), "--out"]
    done = subprocess.run(
        [sys.executable, "-m", "moralprobe", *arguments, str(tmp_path / "s"), "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **without_a_cache(tmp_path / "home")},
        cwd=ROOT,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"can't keep a copy of smollm2-135m in {tmp_path / 'home'}" in done.stderr
    assert "set MORALPROBE_CACHE" in done.stderr and not (tmp_path / "s").exists()


def test_a_store_on_a_disk_that_is_read_only(store: Path, tmp_path: Path) -> None:
    """It is verified and read there; only a writer is refused, and says why."""
    script = """
import subprocess, sys
from pathlib import Path
from moralprobe.activations.extract import extract
from moralprobe.activations.store import ActivationStore, verify
from moralprobe.errors import StoreError
from tests.activations.test_disks import OPTIONS
from tests.activations.test_extract import starter, tiny
store = sys.argv[1]
subprocess.run(["mount", "--bind", store, store], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", store], check=True)
assert verify(Path(store)) == ({}, [])
assert ActivationStore.open(Path(store)).layer("mean", 0).shape[0] > 0
try:
    extract(tiny(), starter(40), Path(store), **OPTIONS)
except StoreError as error:
    print(error)
"""
    said = alone(script, store)
    assert f"can't write {store}. Read-only file system" in said


def test_paths_with_blanks_and_other_scripts_under_another_locale(tmp_path: Path) -> None:
    place = tmp_path / "дом ü \u202e" / "a b"
    place.mkdir(parents=True)
    save_tiny("llama", place / "модель 1", n_layers=1)
    starter(20).save(place / "v 1.parquet")
    begin = [sys.executable, "-m", "moralprobe"]
    table = place / "таблица.tsv"
    shutil.copy(starter_path(), table)
    for utf8, command in (
        ("1", ["extract", place / "модель 1", place / "v 1.parquet", "--out", place / "s ş"]),
        # So that not even the names of files can be spelled; models then can't be loaded at all.
        ("0", ["vectors", "build", table, "--out", place / "v ş.parquet"]),
        ("0", ["vectors", "sample", place / "v ş.parquet", "--out", place / "w ş.parquet"]),
        ("0", ["verify", place / "s ş", "--json"]),
    ):
        environment = {"LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*begin, *map(os.fsencode, command)],
            capture_output=True,
            env={**os.environ, **environment},
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert json.loads(done.stdout) == {"problems": {}, "foreign": []}
    assert ActivationStore.open(place / "s ş").model_name == "модель 1"
