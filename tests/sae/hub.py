"""The few endpoints of the Hugging Face Hub that publishing needs, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants

REPO = "someone/moral-saes"


@contextmanager
def serving(server: Hub, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """Let a hub answer in the place of the real one."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "no-token"),
        # What SAELens asks, which knows no endpoint.
        "ENDPOINT": server.url,
        "HF_HUB_DISABLE_TELEMETRY": True,  # else a request without a token may come at any time
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    try:
        yield server
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
        thread.join()


class Hub(ThreadingHTTPServer):
    """Keeps one repo's files by branch; `refuses` maps a part of a path to a status."""

    daemon_threads = True

    def __init__(self, repo: str = REPO) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo = repo
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.branches: list[str] = []
        self.exists = self.private = False
        self.refuses: dict[str, int] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(self.files).encode()).hexdigest()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def handle_any(self) -> None:
        hub, repo, path = self.server, self.server.repo, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        refused = [status for part, status in hub.refuses.items() if part in path]
        if refused:
            return self.answer({"error": "so it is"}, refused[0])
        if not path.startswith("/upload/"):  # a presigned address
            hub.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            status = 409 if hub.exists else 200
            if not hub.exists:
                hub.exists, hub.private = True, json.loads(body).get("visibility") == "private"
            return self.answer({"url": f"{hub.url}/{repo}"}, status)
        if path == f"/api/models/{repo}" and hub.exists:
            return self.answer({"id": repo, "private": hub.private})
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---\n")[1]
            return self.answer(
                {"errors": [], "warnings": []}, 200 if yaml.safe_load(front) else 400
            )
        if "/preupload/" in path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {p: "lfs" if p.endswith(".safetensors") else "regular" for p in paths}
            files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]
            return self.answer({"files": files})
        if path == f"/{repo}.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{hub.url}/upload/{item['oid']}"}}
            return self.answer({"transfer": "basic", "objects": objects})
        if path.startswith("/upload/"):
            hub.blobs[path.removeprefix("/upload/")] = body
            return self.answer({})
        if "/commit/" in path:
            for item in map(json.loads, body.splitlines()):
                value = item["value"]
                if item["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
            hub.branches.append(path.rpartition("/")[2])
            return self.answer(
                {"commitUrl": f"{hub.url}/{repo}/commit/{hub.commit}", "commitOid": hub.commit}
            )
        found = re.fullmatch(rf"/{repo}/resolve/[^/]+/(.+)", path)
        if found and found[1] in hub.files:
            return self.answer(hub.files[found[1]])
        return self.answer({"error": "no such thing"}, 404, {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def answer(self, value: Any, status: int = 200, more: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": self.server.commit,
        }
        for name, text in {**headers, **(more or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass
