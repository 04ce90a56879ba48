"""The server under the page: uvicorn, told to keep quiet about who asks for what."""

from __future__ import annotations

from typing import Any


def server_of(app: Any, host: str, port: int) -> Any:
    """Return a uvicorn server of an app; `run` serves until it is told to end.

    Nothing that a client sends is written to a log.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)
