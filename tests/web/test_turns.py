"""The queue alone: its order, its bound, who leaves, what fails, and streams that nobody begins."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from moralprobe.web.turns import BusyError, Stopped, Turns, stream


def test_jobs_run_one_after_another_in_their_order() -> None:
    turns, seen, inside = Turns(most=20), [], []

    def job(i: int) -> int:
        inside.append(1)
        assert len(inside) == 1, "two at once"
        seen.append(i)
        inside.pop()
        return i

    futures = [turns.submit(lambda i=i: job(i)) for i in range(15)]  # type: ignore[misc]
    assert [future.result(10) for future in futures] == seen == list(range(15))
    assert len(turns) == 0


def test_who_leaves_is_not_run_and_leaves_nothing() -> None:
    turns, free, ran = Turns(most=2), threading.Event(), []
    first = turns.submit(free.wait)
    leaves, stays = (turns.submit(lambda i=i: ran.append(i)) for i in range(2))  # type: ignore[misc]
    with pytest.raises(BusyError, match="2 requests wait"):
        turns.submit(free.wait)
    assert leaves.cancel() and len(turns) == 2
    last = turns.submit(lambda: ran.append(2))
    free.set()
    assert first.result(10)
    stays.result(10)
    last.result(10)
    assert ran == [1, 2] and len(turns) == 0


def test_what_fails_stops_nobody_else() -> None:
    turns = Turns()
    bad, good = turns.submit(lambda: 1 / 0), turns.submit(lambda: 3)
    assert isinstance(bad.exception(10), ZeroDivisionError) and good.result(10) == 3


def test_when_it_closes_nobody_waits_any_longer() -> None:
    turns, free = Turns(), threading.Event()
    running, waiting = turns.submit(free.wait), turns.submit(free.wait)
    turns.close()
    assert waiting.cancelled() and not running.done()
    free.set()
    assert running.result(10)


def read(job: Any, failed: Any = lambda error: {"what": str(error)}) -> list[bytes]:
    async def events() -> list[bytes]:
        return [event async for event in stream(Turns(), job, failed)]

    return asyncio.run(asyncio.wait_for(events(), 10))


def test_a_stream_ends_whatever_happens() -> None:
    def writes(emit: Any, stopped: Stopped) -> None:
        emit("piece", {"text": "a\n\nb"})

    def fails(emit: Any, stopped: Stopped) -> None:
        emit("piece", 1)
        raise ValueError("so it is")

    assert read(writes) == [b'event: piece\ndata: {"text": "a\\n\\nb"}\n\n']
    assert read(fails)[1] == b'event: error\ndata: {"what": "so it is"}\n\n'
    # Not even if what went wrong can't be told.
    assert len(read(fails, failed=lambda error: object())) == 1


def test_a_stream_that_nobody_begins_to_read_stops_its_job() -> None:
    done = threading.Event()

    def job(emit: Any, stopped: Stopped) -> None:
        while not stopped():
            threading.Event().wait(0.01)
        done.set()

    async def leave() -> None:
        found = stream(Turns(), job, str)
        del found
        gc.collect()
        await asyncio.to_thread(done.wait, 10)

    asyncio.run(leave())
    assert done.is_set()
