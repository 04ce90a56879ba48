"""Several processes on one store: each loads the model once, on a device of its own.

The process that was started holds the store and reads shards itself; alone it writes the manifest.
The others are told a shard's number, write its file, and give back the manifest's row. One that
dies loses the shard that it was reading, which is read again.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from moralprobe.activations.job import Job, Options, make_job
from moralprobe.activations.plan import shard_name
from moralprobe.activations.reading import read_shard
from moralprobe.activations.store import VECTORS, load_table
from moralprobe.artifacts import Artifact, Shard, write_shard
from moralprobe.errors import ModelError, MoralprobeError, StoreError, UsageError
from moralprobe.files import canonical_json
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import choose_device, load_model

Step = Callable[[int], None]


@dataclass(frozen=True)
class Begun:
    """A store that was begun, as another process is told of it.

    `origin` are the arguments of `load_model` without the device, `folder` the store's, with its
    table in it; `options` and `key` are what it was begun with.
    """

    origin: dict[str, Any]
    folder: Path
    options: Options
    key: dict[str, Any]


class Reader:
    """A model, loaded once on a device, that reads any shard of a store which was begun elsewhere.

    Raises:
        StoreError: here the same arguments give another store: other weights, other versions.
    """

    def __init__(self, begun: Begun, device: str) -> None:
        model = load_model(**begun.origin, device=device)
        self._folder = begun.folder
        self._job = make_job(model, load_table(begun.folder / VECTORS), begun.options)
        if canonical_json(self._job.outline.key) != canonical_json(begun.key):
            raise StoreError(
                f"{begun.folder} can't be read for by another process",
                "there the same model and options give another store",
                "check that weights and packages are the same everywhere",
            )

    def read(self, number: int, step: Step = lambda texts: None) -> Shard:
        """Read a shard, write its file, and return its row; it counts once that is entered."""
        return _read_and_write(self._job, self._folder, number, step)


def origin_on(model: CausalModel, devices: Sequence[str]) -> dict[str, Any]:
    """Return by what other processes load a model on further devices.

    Raises:
        UsageError: a live model, an unknown device, or another type than the model's.
    """
    if model.origin is None:
        raise UsageError(
            "a live model can't be read by several processes",
            "another process couldn't load it",
            "save it with save_pretrained, and give its folder",
        )
    others = {choose_device(name).type for name in devices} - {model.device.type}
    if others:
        raise UsageError(
            "a store is made on one type of device",
            f"the model is on {model.device.type}, asked for is {', '.join(sorted(others))} too",
            "their rounding differs: use devices of one type",
        )
    return model.origin


def read_beside(
    job: Job,
    begun: Begun,
    artifact: Artifact,
    pending: Sequence[int],
    devices: Sequence[str],
    step: Step,
    say: Callable[[str], None],
) -> None:
    """Read a store's missing shards here and in a process for each further device.

    Args:
        job: what is read.
        begun: the store, as the others are told of it.
        artifact: the store, which this process holds.
        pending: numbers of the shards to read.
        devices: which `origin_on` lets pass.
        step: called with the number of texts after every batch, here or there.
        say: called with what a user should know.

    Raises:
        MoralprobeError: what a process met; what is complete is kept.
    """
    todo = deque(pending)
    counting = threading.Lock()
    over = threading.Event()

    def count(texts: int) -> None:
        with counting:
            step(texts)

    def died(device: str, number: int | None, counted: int) -> None:
        if over.is_set():
            return
        say(f"a process on {device} ended before its time: what it was reading is read again")
        if number is not None:
            count(-counted)
            todo.append(number)

    threads = max(1, torch.get_num_threads() // (len(devices) + 1))
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        # Left last: the processes end before it, and with them what its threads wait for.
        pool = stack.enter_context(ThreadPoolExecutor(len(devices)))
        lines = [(name, stack.enter_context(_process(begun, name, threads))) for name in devices]
        stack.callback(over.set)
        told: list[Future[None]] = [
            pool.submit(_tell, *one, todo, artifact.enter, count, died) for one in lines
        ]
        while todo or not all(one.done() for one in told):
            _raise_first(told)
            if (number := _next(todo)) is not None:
                artifact.enter(_read_and_write(job, artifact.folder, number, count))
            else:  # the last ones are being read elsewhere; a dead process gives its shard back
                threading.Event().wait(0.02)
        _raise_first(told)


def _read_and_write(job: Job, folder: Path, number: int, step: Step) -> Shard:
    start, stop = job.plan.shards[number]
    tensors = read_shard(job, (start, stop), step)
    return write_shard(folder, shard_name(number), tensors, first=start, last=stop - 1)


def _next(todo: deque[int]) -> int | None:
    try:
        return todo.popleft()
    except IndexError:
        return None


def _tell(
    device: str,
    line: Connection,
    todo: deque[int],
    enter: Callable[[Shard], None],
    count: Step,
    died: Callable[[str, int | None, int], None],
) -> None:
    """Give one process shards until none is left, or it dies."""
    number: int | None = None
    counted = 0
    try:
        _answer(line)  # it has loaded the model
        while (number := _next(todo)) is not None:
            line.send(number)
            counted = 0
            while isinstance(said := _answer(line), int):
                counted += said
                count(said)
            enter(said)
    except (EOFError, OSError):
        died(device, number, counted)


def _answer(line: Connection) -> Any:
    said = line.recv()
    if isinstance(said, MoralprobeError):
        raise said
    return said


def _raise_first(told: Sequence[Future[None]]) -> None:
    for one in told:
        if one.done():
            one.result()


def _work(line: Connection, begun: Begun, device: str, threads: int) -> None:
    """Be one of the further processes, until the line closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that was started answers for all
    try:
        with _threads(threads):
            reader = Reader(begun, device)
            line.send(None)
            while True:
                line.send(reader.read(line.recv(), line.send))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except MoralprobeError as error:
        line.send(error)
    except (RuntimeError, OSError) as error:  # no room on its device, for one
        line.send(_lost(device, error))


def _lost(device: str, error: BaseException) -> ModelError:
    return ModelError(
        f"the process on {device} can't read",
        f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
        "leave that device out, or read in one process: what is complete is kept",
    )


@contextmanager
def _process(begun: Begun, device: str, threads: int) -> Iterator[Connection]:
    """Start a process that reads on a device, and give the line to it."""
    # Not forked: CUDA can't be used in a fork, and threads don't survive one.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, begun, device, threads), daemon=True)
    process.start()
    there.close()  # so that its death ends the line
    try:
        yield here
    finally:
        process.terminate()
        process.join()
        here.close()


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
