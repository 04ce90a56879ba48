"""A real server on loopback, with a tiny model behind it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from moralprobe.web.app import create_app
from moralprobe.web.loaded import Loaded
from moralprobe.web.server import server_of
from moralprobe.web.turns import Turns


@contextmanager
def serving(
    loaded: Loaded, *, token: str | None = None, turns: Turns | None = None
) -> Iterator[str]:
    """Serve while the block runs; give the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(loaded, hosts=[f"127.0.0.1:{port}"], token=token, turns=turns)
    server = server_of(app, "127.0.0.1", port)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def events_of(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each server-sent event."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
