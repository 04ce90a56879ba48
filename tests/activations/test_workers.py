"""Several processes make the store that one makes, and outlive each other."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from moralprobe.activations import workers
from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.store import verify
from moralprobe.errors import NumericError, StoreError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny
from tests.activations.test_extract import contents, starter, tiny

OPTIONS: dict[str, Any] = {
    "batch_tokens": 256,
    "shard_bytes": 10_000,
    "poolings": ("mean", "mean_unit"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """So that a product is added up in the same order, however many processes share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path: Path) -> CausalModel:
    return load_model(save_tiny("llama", tmp_path / "model"), dtype="fp32", device="cpu")


@pytest.fixture
def right(model: CausalModel, tmp_path: Path) -> dict[str, bytes]:
    """The store that one process makes."""
    extract(model, starter(200), tmp_path / "one", **OPTIONS)
    found = contents(tmp_path / "one")
    assert len(found) > 12
    return found


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def let_the_other_read(monkeypatch: pytest.MonkeyPatch, while_: Callable[[int], bool]) -> None:
    """Here nothing is read while that holds of the number of shards left: the other one reads."""
    take = workers._next

    def waiting(todo: deque[int]) -> int | None:
        here = threading.current_thread() is threading.main_thread()
        return None if here and while_(len(todo)) else take(todo)

    monkeypatch.setattr(workers, "_next", waiting)


def test_two_processes_make_the_store_of_one(
    model: CausalModel,
    right: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = len(right) // 2
    let_the_other_read(monkeypatch, lambda left: left > half)
    seen: list[Progress] = []
    said: list[str] = []
    extract(
        model,
        starter(200),
        tmp_path / "two",
        **OPTIONS,
        beside=["cpu"],
        progress=seen.append,
        say=said.append,
    )
    assert contents(tmp_path / "two") == right
    assert not children() and not said
    assert seen[-1].texts == seen[-1].total == starter(200).frame["action"].n_unique()


def test_a_process_that_is_killed_costs_nothing_but_its_time(
    model: CausalModel,
    right: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    let_the_other_read(monkeypatch, lambda left: not killed)

    left = tmp_path / "s" / ".shard-00001.safetensors.12345.partial"

    def kill(p: Progress) -> None:
        if not killed and p.texts > 0:  # in the middle of a shard of its own
            left.write_bytes(b"what it was writing")
            for child in children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    seen: list[Progress] = []
    said: list[str] = []
    extract(
        model,
        starter(200),
        tmp_path / "s",
        **OPTIONS,
        beside=["cpu"],
        progress=lambda p: (kill(p), seen.append(p)),
        say=said.append,
    )
    assert [line for line in said if "ended before its time" in line]
    assert killed and verify(tmp_path / "s") == ({}, []) and not left.exists()
    assert contents(tmp_path / "s") == right
    assert seen[-1].texts == seen[-1].total


def test_what_a_process_meets_is_told(model: CausalModel, tmp_path: Path) -> None:
    """The other process loads other weights from the same folder: its store would be another."""
    save_tiny("llama", tmp_path / "model", seed=1)
    with pytest.raises(StoreError, match="give another store"):
        extract(model, starter(200), tmp_path / "s", **OPTIONS, beside=["cpu"])
    assert not children()


def test_a_live_model_and_another_type_of_device_are_refused(
    model: CausalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="live model"):
        extract(tiny(), starter(20), tmp_path / "live", beside=["cpu"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="one type of device"):
        extract(model, starter(20), tmp_path / "s", beside=["cuda:0"])
    with pytest.raises(UsageError, match="isn't there"):
        extract(model, starter(20), tmp_path / "s", beside=["cuda:3"])


def test_an_error_here_ends_the_others(model: CausalModel, tmp_path: Path) -> None:
    with torch.no_grad():
        model.decoder.layers[0].self_attn.q_proj.weight.fill_(torch.nan)
    with pytest.raises(NumericError, match="NaN"):
        extract(model, starter(200), tmp_path / "s", **OPTIONS, beside=["cpu"])
    assert not children()
