"""One model, one job at a time, and a queue that ends: who comes when it is full comes again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from moralprobe.errors import MoralprobeError

WAITING: Final = 8
"""Jobs that wait or run at most."""
RETRY_AFTER: Final = 5  # seconds
T = TypeVar("T")
Emit = Callable[[str, Any], None]
Stopped = Callable[[], bool]


class BusyError(MoralprobeError):
    """More is asked for at once than is let wait."""


class Turns:
    """Runs jobs one after another in a thread of their own."""

    def __init__(self, most: int = WAITING) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._most, self._taken = most, 0

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Take a place in the queue.

        Raises:
            BusyError: there is none.
        """
        with self._lock:
            if self._taken >= self._most:
                raise BusyError(
                    "too much is asked for at once",
                    f"{self._taken} requests wait for the model",
                    f"ask again in {RETRY_AFTER} seconds",
                )
            self._taken += 1
        future = self._pool.submit(job)
        future.add_done_callback(self._leave)
        return future

    def _leave(self, _future: Future[Any]) -> None:
        with self._lock:
            self._taken -= 1

    def close(self) -> None:
        """Let the running job end, and no other begin."""
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
        if not future.cancelled() and (error := future.exception()) is not None:
            emit("error", failed(error))
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

    return events()
