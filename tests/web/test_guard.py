"""W1 to W10: who is let in, and that the server lives whatever it is sent."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from moralprobe.cli.serve import check_token, hosts_of, is_loopback
from moralprobe.errors import UsageError
from moralprobe.web import guard as guarding
from moralprobe.web.guard import HEADERS, MOST_BYTES, Guard
from moralprobe.web.loaded import Loaded
from moralprobe.web.server import serving
from tests.activations.test_extract import tiny

TOKEN = "a-long-random_text"
ASKED = {"prompt": "Is it fair", "max_tokens": 2}


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded(tiny())


@pytest.fixture(scope="module")
def url(loaded: Loaded) -> Iterator[str]:
    with serving(loaded) as url:
        yield url


def raw(url: str, request: str) -> str:
    """Send bytes as they are, and return what comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        found = b""
        while part := connection.recv(65536):
            found += part
    return found.decode(errors="replace")


# -- W1 -------------------------------------------------------------------------------------------


def test_beyond_this_machine_a_token_is_needed() -> None:
    command = [sys.executable, "-m", "moralprobe", "serve", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 2
    assert "there is no token" in done.stderr and "MORALPROBE_TOKEN" in done.stderr


@pytest.mark.parametrize("token", ["two words", "ümlaut", "a\tb", " padded"])
def test_a_token_that_no_header_carries_is_refused_and_not_said(token: str) -> None:
    for host in ("127.0.0.1", "10.0.0.7"):
        with pytest.raises(UsageError, match="can't be sent") as caught:
            check_token(token, host)
        assert token not in str(caught.value)
    check_token(None, "127.0.0.1")
    check_token("long-random_text", "0.0.0.0")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_a_server_answers_to_its_own_names() -> None:
    assert hosts_of("127.0.0.1", 7860, []) == ["127.0.0.1:7860", "localhost:7860", "[::1]:7860"]
    assert hosts_of("::1", 1, ["x"]) == ["[::1]:1", "127.0.0.1:1", "localhost:1", "x:1"]
    assert hosts_of("127.8.8.8", 7860, [])[0] == "127.8.8.8:7860"
    assert hosts_of("10.0.0.7", 80, []) == ["10.0.0.7:80", "10.0.0.7"]
    assert hosts_of("10.0.0.7", 7860, ["x"]) == ["10.0.0.7:7860", "x:7860"], "beside its address"
    assert hosts_of("0.0.0.0", 7860, ["probe.lan"]) == ["probe.lan:7860"]
    with pytest.raises(UsageError, match="--name"):
        hosts_of("::", 7860, [])


# -- W2, W3 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts",
    [
        "Host: evil.example",
        "Host: {own}\nHost: {own}",
        "Host: {own}\nHost: evil.example",
        "Host: evil.example:{port}",
        "Host: {own}.evil.example",
        "Host: 127.0.0.1",
        "Host:",
        "X: y",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/about", "/static/app.js", "/openapi.json"])
def test_another_host_is_refused(url: str, hosts: str, path: str) -> None:
    own = url.removeprefix("http://")
    said = raw(
        url,
        f"GET {path} HTTP/1.1\nConnection: close\n{hosts.format(own=own, port=own.split(':')[1])}\n\n",
    )
    assert said.startswith("HTTP/1.1 400")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "{url}.evil.example"},
    ],
)
def test_another_site_is_refused_and_nothing_is_done(
    url: str, loaded: Loaded, headers: dict[str, str]
) -> None:
    passes: list[int] = []
    counted = loaded.model.model.register_forward_hook(lambda *_: passes.append(1))
    sent = {k: v.format(url=url) for k, v in headers.items()}
    try:
        for path in ("/api/steer", "/api/fires"):
            assert httpx.post(url + path, json=ASKED, headers=sent).status_code == 403
        assert httpx.get(f"{url}/api/about", headers=sent).status_code == 403
    finally:
        counted.remove()
    assert not passes
    own = httpx.post(
        f"{url}/api/steer", json=ASKED, headers={"origin": url, "sec-fetch-site": "same-origin"}
    )
    assert own.status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""]
)
def test_what_a_form_can_send_is_refused(url: str, kind: str) -> None:
    answer = httpx.post(
        f"{url}/api/steer", content=json.dumps(ASKED), headers={"content-type": kind}
    )
    assert answer.status_code == 415


# -- W4, W12 --------------------------------------------------------------------------------------


def test_the_token_is_asked_for_and_never_said(
    loaded: Loaded, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(loaded, token=TOKEN) as url:
        right = {"authorization": f"Bearer {TOKEN}"}
        wrong = [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
            {"authorization": f"Bearer {TOKEN}x"},
            {"cookie": f"token={TOKEN}"},
        ]
        for headers in wrong:
            for answer in (
                httpx.post(f"{url}/api/steer", json=ASKED, headers=headers),
                httpx.get(f"{url}/api/about", headers=headers),
                httpx.get(f"{url}/api/about?token={TOKEN}", headers=headers),
            ):
                assert answer.status_code == 401
                assert TOKEN not in answer.text and "event-stream" not in str(answer.headers)
        assert httpx.post(f"{url}/api/steer", json=ASKED, headers=right).status_code == 200
        assert TOKEN not in httpx.get(f"{url}/api/about", headers=right).text
        assert httpx.get(f"{url}/").status_code == 200, "the empty page asks for it"
        bad = httpx.post(f"{url}/api/steer", json={"prompt": 3}, headers=right)
        assert bad.status_code == 422 and TOKEN not in bad.text
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err


# -- W5 -------------------------------------------------------------------------------------------


def test_no_get_changes_anything(url: str) -> None:
    """What is read has no body; what makes the model work is a POST."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {(path, method) for path, said in paths.items() for method in said} == {
        ("/api/about", "get"),
        ("/api/features", "get"),
        ("/api/feature", "post"),
        ("/api/fires", "post"),
        ("/api/place", "post"),
        ("/api/steer", "post"),
    }
    for path in ("/api/steer", "/api/fires"):
        assert httpx.get(url + path).status_code == 405


# -- W6 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/static/app.js", 200),
        ("GET", "/api/about", 200),
        ("GET", "/nothing", 404),
        ("POST", "/api/steer", 415),
        ("PUT", "/api/steer", 415),
    ],
)
def test_every_answer_carries_the_policy(url: str, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, url + path)
    assert answer.status_code == status
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    assert "server" not in answer.headers


# -- W7, W9 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": "' + "x" * 9000 + '"}',
        '{"prompt": ""}',
        '{"prompt": "x", "max_tokens": 1000000000}',
        '{"prompt": "x", "max_tokens": 0}',
        '{"prompt": "x", "temperature": NaN}',
        '{"prompt": "x", "temperature": 1e308}',
        '{"prompt": "x", "top_p": 0}',
        '{"prompt": "x", "seed": -1}',
        '{"prompt": "x", "seed": 1' + "0" * 5000 + "}",
        '{"prompt": "x", "unknown": 1}',
        '{"prompt": "x", "sources": [{"kind": "direction", "target": "care", "layer": -1}]}',
        '{"prompt": "x", "sources": [{"kind": "intervention", "name": "a", "strength": Infinity}]}',
        '{"prompt": "x", "sources": [{"kind": "features", "changes": ['
        + ",".join(['{"feature": 1}'] * 5000)
        + "]}]}",
        '{"prompt": "x", "sources": ' + "[" * 50_000 + "]" * 50_000 + "}",
        "[" * 100_000,
        '{"prompt": "\\ud800"}',
        "null",
        "",
        "\x00",
    ],
    ids=lambda body: body[:40],
)
def test_what_is_out_of_bounds_is_refused_and_the_server_lives(url: str, body: str) -> None:
    answer = httpx.post(
        f"{url}/api/steer", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (413, 422), answer.text
    assert answer.json()["what"]
    assert httpx.post(f"{url}/api/steer", json=ASKED).status_code == 200


@pytest.mark.parametrize("length", [True, False])
def test_a_body_that_is_too_large_is_refused_in_words(url: str, length: bool) -> None:
    """And not by a connection that is closed on what is still being sent."""
    data = b"x" * (16 * MOST_BYTES)
    with httpx.Client(base_url=url) as client:  # which keeps its connections
        for _ in range(20):
            content = data if length else (data[i : i + 4096] for i in range(0, len(data), 4096))
            answer = client.post(
                "/api/steer", content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 413
        assert client.get("/api/about").status_code == 200


def test_a_refusal_leaves_the_connection_as_it_was(url: str) -> None:
    """Who keeps one is told of the next refusal too, and not of a reset."""
    json_type = {"content-type": "application/json"}
    refusals = [({"host": "evil", **json_type}, 400, 300_000), (json_type, 413, 4_000_000)]
    with httpx.Client(base_url=url) as client:
        for _ in range(40):
            for headers, status, size in refusals:
                answer = client.post("/api/steer", content=b" " * size, headers=headers)
                assert answer.status_code == status and answer.json()["what"]


def test_who_asks_before_sending_is_told_no_at_once(url: str) -> None:
    head = "POST /api/steer HTTP/1.1\nhost: evil\ncontent-length: 9000\n"
    said = raw(url, head + "connection: close\nexpect: 100-continue\n\n")
    assert said.startswith("HTTP/1.1 400") and "100 Continue" not in said


def test_what_never_comes_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a body that is too large what is left may stay away, or be without end."""
    monkeypatch.setattr(guarding, "_DRAINING", 0.2)
    monkeypatch.setattr(guarding, "_MOST_DRAINED", 1 << 20)
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /api/steer HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    for sent in (MOST_BYTES + 1, 2 << 20):
        with socket.create_connection((host, int(port)), timeout=3) as connection:
            connection.sendall(f"{head}content-length: 9000000\r\n\r\n".encode() + b"x" * sent)
            assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/%00",
        "/api/../../etc/passwd",
        "/static/",
    ],
)
def test_no_path_leads_out(url: str, path: str) -> None:
    said = raw(
        url,
        f"GET {path} HTTP/1.1\nHost: {url.removeprefix('http://')}\nConnection: close\n\n",
    )
    assert said.startswith("HTTP/1.1 404"), said[:300]


# -- the guard alone: what a server's own parser would refuse first --------------------------------


def guarded(
    method: str = "GET",
    path: str = "/api/about",
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    body: list[bytes] | None = None,
    token: str | None = None,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a request through the guard to an app that answers 299 with what it got."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = b""
        while scope["method"] != "GET":
            message = await receive()
            got += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": got})

    sent: list[Any] = []
    parts = list(body or [b""])
    scope = {
        "type": "http",
        "scheme": "http",
        "method": method,
        "path": path,
        "headers": [(b"host", b"own:1")] if headers is None else headers,
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(app, hosts=["own:1", "Other:1"], token=token)(scope, receive, send))
    start, end = sent
    return start["status"], dict(start["headers"]), end["body"]


HOST, JSON = (b"host", b"own:1"), (b"content-type", b"application/json")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([HOST], 299),
        ([(b"Host", b"OTHER:1")], 299),
        ([HOST, HOST], 400),
        ([HOST, (b"host", b"evil:1")], 400),
        ([], 400),
        ([(b"host", b"")], 400),
        ([(b"host", b"own:1 ")], 400),
        ([(b"host", b"own:1"), (b"origin", b"http://own:1")], 299),
        ([HOST, (b"origin", b"https://own:1")], 403),
        ([HOST, (b"origin", b"http://own:1"), (b"origin", b"http://evil")], 403),
        ([HOST, (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")], 403),
    ],
)
def test_the_guard_reads_each_header(headers: list[tuple[bytes, bytes]], status: int) -> None:
    found, said, _ = guarded(headers=headers)
    assert found == status
    assert {k.decode(): v.decode() for k, v in said.items()}.items() >= HEADERS.items()


def test_every_refusal_carries_the_policy() -> None:
    found = [
        guarded(headers=[]),
        guarded(headers=[HOST, (b"origin", b"null")]),
        guarded(token="t"),
        guarded("POST", headers=[HOST]),
        guarded("POST", headers=[HOST, JSON], body=[b"x" * (MOST_BYTES + 1)]),
    ]
    assert [status for status, _, _ in found] == [400, 403, 401, 415, 413]
    for _, headers, body in found:
        assert {k.decode(): v.decode() for k, v in headers.items()}.items() >= HEADERS.items()
        assert set(json.loads(body)) == {"what", "why", "instead"}


def test_a_body_comes_whole_or_not_at_all() -> None:
    half = MOST_BYTES // 2
    status, _, body = guarded("POST", headers=[HOST, JSON], body=[b"a" * half, b"b" * half])
    assert status == 299 and body == b"a" * half + b"b" * half
    status, _, _ = guarded("POST", headers=[HOST, JSON], body=[b"a" * half, b"b" * half, b"c"])
    assert status == 413


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ([b"Bearer secret"], 299),
        ([b"bearer  secret "], 299),
        ([b"Bearer secre"], 401),
        ([b"Bearer"], 401),
        ([b"secret"], 401),
        ([b"Bearer secret", b"Bearer secret"], 401),
        ([b"Bearer \xff\xfe"], 401),
        ([], 401),
    ],
)
def test_the_guard_reads_the_token(given: list[bytes], status: int) -> None:
    headers = [HOST, *((b"authorization", value) for value in given)]
    assert guarded(headers=headers, token="secret")[0] == status
    assert guarded(path="/", headers=headers, token="secret")[0] == 299, "the page itself is empty"
