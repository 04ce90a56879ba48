"""A killed extraction continues and ends byte for byte where an unbroken one does."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moralprobe.activations.store import ActivationStore, verify
from moralprobe.models.tiny import save_tiny
from tests.activations.test_extract import contents, starter, tiny

PRELOAD = [
    "moralprobe.activations.extract",
    "moralprobe.models.load",
    "moralprobe.models.tiny",
    "tests.activations.test_extract",
    "transformers.models.llama.modeling_llama",
]


def extract_slowly(folder: Path, pause: float = 0.0) -> None:
    """Many small shards, so that a kill can strike anywhere: model, write, manifest."""
    import torch

    from moralprobe.activations.extract import extract

    torch.set_num_threads(1)
    extract(
        tiny(),
        starter(60),
        folder,
        batch_tokens=128,
        shard_bytes=12_000,
        progress=lambda _: time.sleep(pause),
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    folder = tmp_path_factory.mktemp("unbroken") / "s"
    assert run_until(context, folder, None) == 0
    found = contents(folder)
    assert len(found) > 8
    return found


def run_until(
    context: multiprocessing.context.ForkServerContext, folder: Path, delay: float | None
) -> int | None:
    """Extract in a process of its own; kill it `delay` seconds after its manifest appeared."""
    process = context.Process(target=extract_slowly, args=(folder, 0.0 if delay is None else 0.002))
    process.start()
    if delay is not None:
        while process.is_alive() and not (folder / "manifest.json").exists():
            time.sleep(0.001)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


def kill_and_continue(folder: Path, seed: int, unbroken: dict[str, bytes]) -> bool:
    """Return whether the kill struck while shards were missing."""
    context = multiprocessing.get_context("forkserver")
    run_until(context, folder, random.Random(seed).uniform(0, 0.35))
    rows = json.loads((folder / "manifest.json").read_bytes())["body"]["shards"]
    broken = len(rows) < len([name for name in unbroken if name.startswith("shard")])
    assert verify(folder)[0] in (
        {},
        {"texts.parquet": "missing", "vectors.parquet": "missing"},
        {"vectors.parquet": "missing"},
    )
    assert run_until(context, folder, None) == 0
    assert contents(folder) == unbroken, "bytes differ, a file is left over or one is missing"
    store = ActivationStore.open(folder)
    spans = sorted((s.first, s.last) for s in store._artifact.shards.values())
    assert [row for a, b in spans for row in range(a, b + 1)] == list(range(store.n_readable))
    return broken


def test_killed_at_any_instant_it_continues_to_the_same_bytes(
    tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    struck = [kill_and_continue(tmp_path / str(seed), seed, unbroken) for seed in range(6)]
    assert any(struck)


@pytest.mark.slow
def test_killed_at_fifty_instants(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    struck = [kill_and_continue(tmp_path / str(seed), seed, unbroken) for seed in range(100, 150)]
    assert sum(struck) > 15, "the kills came too late to mean anything"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_says_that_the_same_command_continues(
    tmp_path: Path, number: int, code: int
) -> None:
    save_tiny("llama", tmp_path / "model")
    starter(400).save(tmp_path / "v.parquet")
    command = ["extract", str(tmp_path / "model"), str(tmp_path / "v.parquet"), "--out"]
    # Small shards and small batches, so that there is something to interrupt.
    wrapper = (
        "import torch\ntorch.set_num_threads(1)\n"
        "from moralprobe.activations import plan\nplan.SHARD_BYTES = 6_000\n"
        "from moralprobe.cli.main import run\nrun()"
    )

    def start(folder: str) -> subprocess.Popen[str]:
        arguments = [*command, str(tmp_path / folder), "--batch-tokens", "64", "--device", "cpu"]
        return subprocess.Popen(
            [sys.executable, "-c", wrapper, *arguments],
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    whole = start("whole")
    broken = start("broken")
    while broken.poll() is None and len(list((tmp_path / "broken").glob("shard-*"))) < 3:
        time.sleep(0.005)
    broken.send_signal(number)
    _, said = broken.communicate(timeout=60)
    assert broken.returncode == code, said
    assert "same command continues" in said and "Traceback" not in said
    assert not list((tmp_path / "broken").glob(".*.partial"))
    # A shard whose row isn't in the manifest yet doesn't count; it is written again.
    problems, foreign = verify(tmp_path / "broken")
    assert problems == {} and len(foreign) <= 1
    assert whole.wait(120) == 0
    again = start("broken")
    assert again.wait(120) == 0
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    for process in (whole, again):
        process.communicate()
