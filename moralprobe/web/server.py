"""The server under the page: uvicorn, told to keep quiet about who asks for what."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moralprobe.errors import UsageError
from moralprobe.web.app import create_app
from moralprobe.web.loaded import Loaded
from moralprobe.web.turns import Turns


def server_of(app: Any) -> Any:
    """Return a uvicorn server of an app, whose `run(sockets=[...])` serves until it is told to end.

    Nothing that a client sends is written to a log.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


@contextmanager
def serving(
    loaded: Loaded, *, token: str | None = None, turns: Turns | None = None
) -> Iterator[str]:
    """Serve on this machine while a block runs, as a notebook may, and give the address.

    Args:
        loaded: what is served.
        token: asked for at every path under `/api/`; None asks for none.
        turns: the queue, if not its own.
    """
    with listening("127.0.0.1", 0) as bound:
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        server = server_of(create_app(loaded, hosts=[host], token=token, turns=turns))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://{host}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a port, so that nobody else answers at an address that was named.

    Raises:
        UsageError: it is taken, or the address isn't this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"can't listen at {host}, port {port}",
                str(error.strerror or error),
                "give another --port, or end what listens there",
            ) from error
        yield bound
