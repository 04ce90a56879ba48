"""The HTTP API and the page: routes, and nothing that computes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from moralprobe import __version__
from moralprobe.errors import MoralprobeError
from moralprobe.web import jobs, schemas
from moralprobe.web.guard import Guard
from moralprobe.web.loaded import Loaded
from moralprobe.web.turns import RETRY_AFTER, BusyError, Stopped, Turns, stream

_STATIC = Path(__file__).with_name("static")
_LOOK = 0.5  # seconds between two looks whether a client is still there
T = TypeVar("T")
_LOG = logging.getLogger("moralprobe.web")
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["piece", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `piece`s (Piece), at the end `done` (Done) or `error` (Failure)",
        "content": {"text/event-stream": {"schema": _EVENT}},
    }
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Failure} for status in (400, 401, 403, 413, 415, 422, 503)
}


def create_app(
    loaded: Loaded, *, hosts: Collection[str], token: str | None = None, turns: Turns | None = None
) -> Any:
    """Return the ASGI app.

    Args:
        loaded: what it serves.
        hosts: values of the Host header that it answers to, such as `127.0.0.1:7860`.
        token: asked for at every path under `/api/`; None asks for none.
        turns: the queue, if not its own.
    """
    queue = Turns() if turns is None else turns
    app = FastAPI(
        title="moralprobe",
        version=__version__,
        description="Steer a model, and see what that does. One job runs at a time.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses=_FAILURES,
    )

    @app.exception_handler(MoralprobeError)
    async def refuse(_request: Request, error: MoralprobeError) -> JSONResponse:
        busy = isinstance(error, BusyError)
        headers = {"Retry-After": str(RETRY_AFTER)} if busy else None
        return JSONResponse(failure(error), 503 if busy else 422, headers)

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(failure(error), 500)

    @app.exception_handler(RequestValidationError)
    async def wrong(_request: Request, error: RequestValidationError) -> JSONResponse:
        # What was sent isn't said again: it may be anything, and NaN is no JSON.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        said = schemas.Failure(what=f"{where[:200]} can't be taken", why=str(first["msg"])[:500])
        return JSONResponse(said.model_dump(), 422)

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> JSONResponse:
        # 400 is a body that no parser gets through: too deep, or a number of thousands of digits.
        status = 422 if error.status_code == 400 else error.status_code
        said = schemas.Failure(what=str(error.detail))
        return JSONResponse(said.model_dump(), status, error.headers)

    @app.get("/api/about")
    async def about() -> schemas.About:
        """Say what is loaded, what can steer, and what can't and why."""
        return loaded.about()

    @app.get("/api/features")
    def features(
        query: Annotated[str, Query(max_length=200)] = "",
        pole: Annotated[str | None, Query(max_length=64)] = None,
        most: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> schemas.FeatureList:
        """List features by words in their texts or by pole, the strongest first."""
        return jobs.search(loaded, query=query, pole=pole, most=most)

    @app.post("/api/feature")
    async def feature_page(asked: schemas.FeatureRequest, request: Request) -> schemas.FeaturePage:
        """Say what is known of a feature: its numbers, its texts, the tokens that it promotes."""
        loaded.check_feature(asked.feature)
        return await answered(queue, request, partial(jobs.feature_page, loaded, asked))

    @app.post("/api/fires")
    async def fires(asked: schemas.FiresRequest, request: Request) -> schemas.Fires:
        """Say which features are active at which tokens of a text."""
        return await answered(queue, request, partial(jobs.fires, loaded, asked))

    @app.post("/api/place")
    async def place(asked: schemas.PlaceRequest, request: Request) -> schemas.Place:
        """Say where a sentence lies among the ten categories, at every layer and in both modes."""
        loaded.check(asked.sources)
        return await answered(queue, request, partial(jobs.place, loaded, asked))

    @app.post("/api/steer", responses=_EVENTS, response_class=StreamingResponse)
    async def steer(asked: schemas.SteerRequest) -> StreamingResponse:
        """Write after a prompt twice at once, as the model is and steered, and stream both."""
        loaded.check(asked.sources)
        job = partial(jobs.steer, loaded, asked)
        return StreamingResponse(stream(queue, job, failure), media_type="text/event-stream")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    return Guard(app, hosts=hosts, token=token)


async def answered(turns: Turns, request: Request, job: Callable[[Stopped], T]) -> T:
    """Return what a job gives; who leaves makes room, and the job is told."""
    left = threading.Event()
    future = turns.submit(partial(job, left.is_set))
    waiting = asyncio.wrap_future(future)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=_LOOK)
        if not waiting.done() and await request.is_disconnected():
            left.set()
            future.cancel()
            break
    return await waiting


def failure(error: BaseException) -> dict[str, str]:
    """Return what a client is told of an error: of one that nobody foresaw, that it was one."""
    if isinstance(error, MoralprobeError):
        said = schemas.Failure(what=error.what, why=error.why, instead=error.instead)
    else:
        _LOG.error("a job failed", exc_info=error)
        said = schemas.Failure(what="the server failed", instead="look into its log")
    return said.model_dump()
