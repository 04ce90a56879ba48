"""The same shards on many machines: Ray Data hands their numbers to actors that hold the model.

Tensors never travel: an actor writes its shard to the store's folder, which all machines must see
under one path, and returns the manifest's row. This file alone imports Ray.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moralprobe.activations.extract import Progress, begun, missing
from moralprobe.activations.job import Options, Outline, make_job
from moralprobe.activations.store import ActivationStore, TextTable
from moralprobe.activations.workers import Begun, Reader
from moralprobe.artifacts import Shard
from moralprobe.errors import MoralprobeError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.packaged import PACKAGED


def extract_on_ray(
    origin: dict[str, Any],
    vectors: TextTable,
    out: Path,
    options: Options,
    *,
    device: str = "cpu",
    actors: int = 1,
    address: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> ActivationStore:
    """Make the store that `extract` makes, on a Ray cluster; the same call continues.

    Args:
        origin: arguments of `load_model`, without the device; a path must be the same everywhere.
        vectors: the table whose texts are read.
        out: the store's folder, on a disk that all machines share.
        options: as in `extract`.
        device: `cpu`, or `cuda` for one GPU an actor. Never chosen by itself: this process may run
            on a machine without one.
        actors: how many load the model.
        address: of a running cluster; none starts one on this machine, as `RAY_ADDRESS` may say
            otherwise.
        progress: called at the start and after every shard.
        say: called with what a user should know.

    Raises:
        UsageError: Ray isn't installed, or another device.
        MoralprobeError: as `extract`; what an actor met.
    """
    if device not in ("cpu", "cuda"):
        raise UsageError(
            f"an actor can't read on {device!r}",
            "Ray gives each the GPUs that it may see",
            "write cpu, or cuda for one GPU an actor",
        )
    ray = _ray()
    source = origin["source"]
    if source not in PACKAGED and Path(source).is_dir():  # an actor stands in another folder
        origin = {**origin, "source": str(Path(source).absolute())}
    mine = not ray.is_initialized()
    if mine:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        needs = _needs(ray, device, actors)
        begin = ray.remote(_begin).options(**needs)
        outline = _get(ray, begin.remote(origin, device, vectors, options))
        out = Path(out).absolute()
        with begun(out, outline, say) as artifact:
            kept = sum(shard.n for shard in artifact.shards.values())

            def tell() -> None:
                if progress is not None:
                    rows = artifact.shards.values()
                    done, written = sum(s.n for s in rows), sum(s.bytes for s in rows)
                    progress(Progress(done, outline.n_texts, kept, written))

            tell()
            pending = missing(artifact, outline)
            if pending:
                numbers = [{"number": i} for i in pending]
                read = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
                    _Actor,
                    fn_constructor_args=(Begun(origin, out, options, outline.key), device),
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(size=min(actors, len(numbers))),
                    **needs,
                )
                try:
                    for row in read.iter_rows():
                        artifact.enter(_shard(row["shard"]))
                        tell()
                except ray.exceptions.RayError as error:
                    raise _said(error) from error
    finally:
        if mine:
            ray.shutdown()
    return ActivationStore.open(out)


def _needs(ray: Any, device: str, actors: int) -> dict[str, int]:
    """Return what an actor is given: its threads are its cores, a machine's shared among its own.

    Raises:
        UsageError: no machine of the cluster has it; Ray would wait for one for ever.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device == "cuda":
        if not any(machine.get("GPU", 0) >= 1 for machine in machines):
            raise UsageError(
                "no machine of this Ray cluster has a GPU",
                f"{len(machines)} are there, and {device} was asked for",
                "write --device cpu, or start Ray where the GPUs are",
            )
        return {"num_cpus": 1, "num_gpus": 1}
    most = max(int(machine.get("CPU", 0)) for machine in machines)
    if most < 1:
        raise UsageError(
            "no machine of this Ray cluster has a CPU to read with",
            f"{len(machines)} are there",
            "start Ray with --num-cpus",
        )
    # Without this Ray would give all actors of a laptop one core.
    return {"num_cpus": max(1, most * len(machines) // max(actors, len(machines))), "num_gpus": 0}


class _Actor:
    """A reader as Ray Data wants it: a batch of numbers in, a batch of manifest rows out."""

    def __init__(self, begun: Begun, device: str) -> None:
        self._reader = Reader(begun, device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        rows = [self._reader.read(int(number)) for number in batch["number"]]
        return {"shard": [json.dumps(asdict(row)) for row in rows]}


def _begin(origin: dict[str, Any], device: str, vectors: TextTable, options: Options) -> Outline:
    """Decide on a machine that can load the model what will be read."""
    return make_job(load_model(**origin, device=device), vectors, options).outline


def _shard(row: str) -> Shard:
    fields = json.loads(row)
    return Shard(**{**fields, "shape": tuple(fields["shape"])})


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            "Ray isn't installed", str(error), "pip install 'moralprobe[ray]', or --engine loop"
        ) from error
    return ray


def _get(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise _said(error) from error


def _said(error: BaseException) -> BaseException:
    """Return what was raised on the other side, if it was raised on purpose; else what came."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, MoralprobeError):
        inner = getattr(inner, "cause", None) or inner.__cause__
    return inner or error
