"""A real Ray on this machine makes the store that a loop makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moralprobe.activations import cluster
from moralprobe.activations.cluster import extract_on_ray
from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.job import Options
from moralprobe.activations.store import verify
from moralprobe.errors import ModelError, StoreError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny
from tests.activations.test_extract import contents, starter

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray warns of options of its own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
OPTIONS = Options(batch_tokens=256, shard_bytes=10_000, poolings=("mean", "mean_unit"))


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One for all tests: it takes seconds to start."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def origin(tmp_path: Path) -> dict[str, object]:
    folder = save_tiny("llama", tmp_path / "model")
    return load_model(folder, dtype="fp32", device="cpu").origin


@pytest.fixture
def right(origin: dict[str, object], tmp_path: Path) -> dict[str, bytes]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as an actor of one core has it
    model = load_model(**origin, device="cpu")
    extract(
        model,
        starter(200),
        tmp_path / "loop",
        poolings=OPTIONS.poolings,
        batch_tokens=OPTIONS.batch_tokens,
        shard_bytes=OPTIONS.shard_bytes,
    )
    torch.set_num_threads(before)
    return contents(tmp_path / "loop")


def test_two_actors_make_the_store_of_the_loop_and_continue(
    origin: dict[str, object], right: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "ray"
    seen: list[Progress] = []
    extract_on_ray(origin, starter(200), out, OPTIONS, actors=2, progress=seen.append)
    assert contents(out) == right
    assert seen[0].texts == 0 and seen[-1].texts == seen[-1].total
    # What is lost or damaged is made again, and nothing else is.
    (out / "shard-00003.safetensors").unlink()
    data = bytearray((out / "shard-00001.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "shard-00001.safetensors").write_bytes(data)
    assert len(verify(out)[0]) == 2
    kept = (out / "shard-00000.safetensors").stat().st_mtime_ns
    again: list[Progress] = []
    extract_on_ray(origin, starter(200), out, OPTIONS, progress=again.append)
    assert contents(out) == right
    assert (out / "shard-00000.safetensors").stat().st_mtime_ns == kept
    assert 0 < again[0].kept < again[-1].total
    # Nothing is left to do.
    extract_on_ray(origin, starter(200), out, OPTIONS)
    assert contents(out) == right


def test_what_an_actor_meets_is_told_in_its_own_words(
    origin: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="chat template"):
        extract_on_ray(origin, starter(20), tmp_path / "s", Options(template="chat"))
    extract_on_ray(origin, starter(20), tmp_path / "s", OPTIONS)
    with pytest.raises(StoreError, match=r"another run.*layers"):
        extract_on_ray(origin, starter(20), tmp_path / "s", Options(layers="0"))


def test_what_no_machine_of_the_cluster_has_is_refused_instead_of_waited_for(
    origin: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has a GPU"):
        extract_on_ray(origin, starter(20), tmp_path / "s", OPTIONS, device="cuda")
    assert not (tmp_path / "s").exists()


def test_devices_and_a_missing_ray_are_refused(
    origin: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="cuda:1"):
        extract_on_ray(origin, starter(20), tmp_path / "s", OPTIONS, device="cuda:1")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"moralprobe\[ray\]"):
        cluster._ray()
