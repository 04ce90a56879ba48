"""Who may ask, and what every answer carries: hosts, origins, the token, sizes, headers.

A page on this machine can be reached by any site that a browser has open. So the Host header must
be one of ours (against DNS rebinding), what makes the model work must come from our own page or
from no page at all, and nothing that a browser sends by itself is enough to be let in.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES: Final = 256 << 10
_MOST_DRAINED: Final = 16 << 20  # bytes of a refused request that are read and thrown away
_DRAINING: Final = 5.0  # seconds that are waited for them
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_SAFE: Final = ("GET", "HEAD")
_JSON: Final = "application/json"


class Guard:
    """ASGI middleware that lets through what may come in.

    Args:
        app: what is guarded.
        hosts: values of the Host header that are ours, such as `127.0.0.1:7860`.
        token: asked for at every path under `/api/`; None asks for none.
    """

    def __init__(self, app: App, *, hosts: Collection[str], token: str | None = None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before the app sees it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # there are no web sockets here
        sending = _with_headers(send)
        refused = self._refused(scope)
        if refused is None:
            body = await _body(scope, receive)
            if body is not None:
                await self._app(scope, body, sending)
                return
            refused = 413, "the request is too large", f"at most {MOST_BYTES:,} bytes are read"
        await _answer(sending, *refused)

    def _refused(self, scope: Scope) -> tuple[int, str, str] | None:
        """Return status, what and why of a refusal."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = [host.lower() for host in headers.get("host", [])]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 400, "this server isn't known by that name", "the Host header is another's"
        of_api, safe = scope["path"].startswith("/api/"), scope["method"] in _SAFE
        if (of_api or not safe) and not _is_own(headers, f"{scope['scheme']}://{hosts[0]}"):
            return 403, "another site can't ask for that", "the request comes from its page"
        if not safe and headers.get("content-type", [""])[0].split(";")[0].strip().lower() != _JSON:
            return 415, "what is sent must be JSON", "its content-type is another"
        if of_api and self._token is not None and not self._knows_token(headers):
            return 401, "the token is missing or wrong", "send Authorization: Bearer TOKEN"
        return None

    def _knows_token(self, headers: dict[str, list[str]]) -> bool:
        given = headers.get("authorization", [""])
        kind, _, value = given[0].partition(" ")
        right = hmac.compare_digest(value.strip().encode(), self._token or b"")
        return len(given) == 1 and kind.lower() == "bearer" and right


def _is_own(headers: dict[str, list[str]], origin: str) -> bool:
    """Say if a request comes from our own page, or from no page at all."""
    sites = headers.get("sec-fetch-site", ["none"])
    own = all(given.lower() == origin for given in headers.get("origin", []))
    return own and all(site in ("same-origin", "none") for site in sites)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", [])}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in names]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending


async def _body(scope: Scope, receive: Receive) -> Receive | None:
    """Read the body, and return what gives it again; None of one that is too large."""
    if scope["method"] in _SAFE:
        return receive
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        size += len(part)
        if size > MOST_BYTES:
            if message.get("more_body"):
                await _drain(receive)
            return None
        parts.append(part)
        if not message.get("more_body"):
            break
    whole = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


async def _drain(receive: Receive) -> None:
    """Read what is left of a request that is too large, within bounds.

    Where a connection is closed on what wasn't read, a client is told of the reset, not the answer.
    """
    size = 0
    try:
        async with asyncio.timeout(_DRAINING):
            more = True
            while more and size <= _MOST_DRAINED:
                message = await receive()
                size += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return


async def _answer(send: Send, status: int, what: str, why: str) -> None:
    body = json.dumps({"what": what, "why": why, "instead": ""}).encode()
    kind = (b"content-type", b"application/json")
    length = (b"content-length", str(len(body)).encode())
    headers = [kind, length, *([(b"connection", b"close")] if status == 413 else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
