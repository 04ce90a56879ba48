"""One model, one job at a time, and a queue that ends: who comes when it is full comes again."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from moralprobe.errors import MoralprobeError

WAITING: Final = 8
"""Jobs that wait at most, beside the one that runs."""
RETRY_AFTER: Final = 5  # seconds
T = TypeVar("T")
Emit = Callable[[str, Any], None]
Stopped = Callable[[], bool]


class StoppedError(MoralprobeError):
    """A job that nobody waits for any longer."""


class BusyError(MoralprobeError):
    """More is asked for at once than is let wait."""


def halt_if(stopped: Stopped) -> None:
    """End a job that nobody waits for.

    Raises:
        StoppedError: so it is.
    """
    if stopped():
        raise StoppedError("nobody waits for this any longer")


class Turns:
    """Runs jobs one after another in a thread of their own; who leaves the queue leaves nothing."""

    def __init__(self, most: int = WAITING) -> None:
        self._most = most
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._waiting: dict[Future[Any], Callable[[], Any]] = {}
        self._busy = False

    def __len__(self) -> int:
        """Return how many jobs run or wait."""
        with self._lock:
            return len(self._waiting) + self._busy

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Take a place in the queue; cancelling the future gives it back.

        Raises:
            BusyError: as many wait as may.
        """
        future: Future[T] = Future()
        with self._lock:
            if len(self._waiting) >= self._most:
                raise BusyError(
                    "too much is asked for at once",
                    f"{self._most} requests wait for the model",
                    f"ask again in {RETRY_AFTER} seconds",
                )
            self._waiting[future] = job
        future.add_done_callback(self._leave)
        self._next()
        return future

    def _leave(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.pop(future, None)

    def _next(self) -> None:
        """Start who has waited longest, if nobody is served."""
        with self._lock:
            if self._busy:
                return
            while self._waiting:
                future, job = next(iter(self._waiting.items()))
                del self._waiting[future]
                if future.set_running_or_notify_cancel():
                    self._busy = True
                    break
            else:
                return
        self._pool.submit(job).add_done_callback(partial(self._served, future))

    def _served(self, future: Future[Any], done: Future[Any]) -> None:
        with self._lock:
            self._busy = False
        if (error := done.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())
        self._next()

    def close(self) -> None:
        """Let no other job begin."""
        with self._lock:
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


def stream(
    turns: Turns, job: Callable[[Emit, Stopped], None], failed: Callable[[BaseException], Any]
) -> AsyncIterator[bytes]:
    """Return server-sent events of a job, which has its place in the queue when this returns.

    The job is told to stop as soon as nobody reads on, also before its turn has come.

    Args:
        turns: where it waits.
        job: called with what sends an event of a name and a JSON value, and with what says that it
            should stop.
        failed: makes of an exception the value of a last event, `error`.

    Raises:
        BusyError: the queue is full.
    """
    loop, ended = asyncio.get_running_loop(), threading.Event()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(item: bytes | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def emit(name: str, value: Any) -> None:
        put(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode())

    def run() -> None:
        if not ended.is_set():
            job(emit, ended.is_set)

    def over(future: Future[None]) -> None:
        # Whatever it was, the reader must learn that nothing more comes.
        try:
            if not future.cancelled() and (error := future.exception()) is not None:
                emit("error", failed(error))
        finally:
            put(None)

    future = turns.submit(run)
    future.add_done_callback(over)

    async def events() -> AsyncIterator[bytes]:
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            ended.set()
            future.cancel()

    found = events()
    # A generator that nobody ever begins to read has no end of its own.
    weakref.finalize(found, ended.set)
    return found
