"""The transfer, against a real server that behaves badly in every way that servers do."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import random
import re
import threading
import zipfile
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moralprobe.cli.data import app
from moralprobe.data import download as module
from moralprobe.data.download import DATASETS, download
from moralprobe.errors import DataError, DownloadError, StoreError, UsageError

NAME = "social-chem-101"
SET = DATASETS[NAME]
TSV = random.Random(1).randbytes(200_000)
README = b"about the data\n"


def zipped(**more: bytes) -> bytes:
    buffer = io.BytesIO()
    members = {SET.table: TSV, SET.readme: README, "__MACOSX/._junk": b"junk", **more}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Mirror(ThreadingHTTPServer):
    """Serves `body` with ranges; each word in `manners` spoils one answer."""

    daemon_threads = True
    body = zipped()
    etag = '"one"'

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.manners: deque[str] = deque()
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/archive.zip"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers))
        manner = server.manners.popleft() if server.manners else ""
        with contextlib.suppress(ConnectionError):
            if manner.isdigit():
                self.answer(int(manner), b"", {})
            else:
                self.serve(manner)

    def serve(self, manner: str) -> None:
        body, total, status = self.server.body, len(self.server.body), 200
        headers = {"ETag": self.server.etag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range") in headers.values()
        if asked and fresh and manner != "ignore":
            start, status = int(asked[1]), 206
            if start >= total:
                return self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
            start -= manner == "shift"
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            body = body[start:]
        if manner == "anonymous cut":
            headers = {}
        length = {} if manner == "endless" else {"Content-Length": str(len(body))}
        if manner == "boast":
            length = {"Content-Length": str(len(body) + 7)}
        self.answer(
            status, body[: len(body) // 2] if manner.endswith("cut") else body, headers | length
        )

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(
        DATASETS, NAME, dataclasses.replace(SET, table_bytes=len(TSV), bytes=len(Mirror.body))
    )
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def official(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """The same server as the dataset's own address, where the size must be exact."""
    monkeypatch.setitem(DATASETS, NAME, dataclasses.replace(DATASETS[NAME], url=mirror.url))
    return mirror


def archive(out: Path) -> Path:
    return out / f"{NAME}.zip"


def part(out: Path) -> Path:
    return out / f"{NAME}.zip.part"


def break_off(mirror: Mirror, out: Path) -> int:
    """Leave the first half of the body in the part, as an interrupted run does."""
    mirror.manners.extend(["cut", "503", "503"])
    with pytest.raises(DownloadError):
        download(NAME, out, url=mirror.url)
    mirror.asked.clear()
    return part(out).stat().st_size


def test_a_whole_download_leaves_the_archive_its_record_and_two_members(
    official: Mirror, tmp_path: Path
) -> None:
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    table = download(NAME, tmp_path, say=said.append, progress=lambda *at: seen.append(at))
    assert table.read_bytes() == TSV
    assert table == tmp_path / NAME / "social-chem-101.v1.0.tsv"
    assert json.loads((tmp_path / f"{NAME}.json").read_text()) == {
        "url": official.url,
        "bytes": len(Mirror.body),
        "sha256": hashlib.sha256(Mirror.body).hexdigest(),
        "tsv_sha256": hashlib.sha256(TSV).hexdigest(),
        "licence": "CC BY-SA 4.0",
    }
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files - {f"{NAME}.lock"} == {f"{NAME}.zip", f"{NAME}.json", SET.table, SET.readme}
    assert seen[-1] == (len(Mirror.body), len(Mirror.body))
    assert official.url in said[0]
    assert f"{len(Mirror.body):,} bytes" in said[0]
    assert "CC BY-SA 4.0" in said[0]


def test_a_broken_connection_is_resumed_within_one_call(official: Mirror, tmp_path: Path) -> None:
    official.manners.extend(["cut", "cut"])
    assert download(NAME, tmp_path).read_bytes() == TSV
    half = len(Mirror.body) // 2
    first, second, third = official.asked
    assert "Range" not in first
    assert second["Range"] == f"bytes={half}-"
    assert second["If-Range"] == '"one"'
    assert third["Range"] == f"bytes={half + (len(Mirror.body) - half) // 2}-"
    assert archive(tmp_path).read_bytes() == Mirror.body


def test_the_same_command_continues_after_giving_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.manners.extend(["cut", "503", "503"])
    with pytest.raises(DownloadError) as caught:
        download(NAME, tmp_path, url=mirror.url)
    half = len(Mirror.body) // 2
    for word in (mirror.url, f"{half:,} bytes", "503", "same command continues"):
        assert word in str(caught.value)
    assert part(tmp_path).read_bytes() == Mirror.body[:half]
    assert not archive(tmp_path).exists()
    assert download(NAME, tmp_path, url=mirror.url).read_bytes() == TSV
    assert mirror.asked[-1]["Range"] == f"bytes={half}-"
    assert archive(tmp_path).read_bytes() == Mirror.body


def test_a_changed_remote_file_starts_over(mirror: Mirror, tmp_path: Path) -> None:
    break_off(mirror, tmp_path)
    mirror.etag, mirror.body = '"two"', zipped(extra=b"new")
    said: list[str] = []
    download(NAME, tmp_path, url=mirror.url, say=said.append)
    assert mirror.asked[0]["If-Range"] == '"one"'
    assert archive(tmp_path).read_bytes() == mirror.body
    assert any("starting over" in line for line in said)


@pytest.mark.parametrize("manner", ["ignore", "shift", "416"])
def test_a_server_that_cannot_continue_starts_over(
    mirror: Mirror, tmp_path: Path, manner: str
) -> None:
    assert break_off(mirror, tmp_path) > 0
    mirror.manners.append(manner)
    download(NAME, tmp_path, url=mirror.url)
    assert "Range" in mirror.asked[0]
    assert manner == "ignore" or "Range" not in mirror.asked[1]
    assert archive(tmp_path).read_bytes() == Mirror.body


def test_a_part_is_continued_only_from_the_address_it_came_from(
    mirror: Mirror, tmp_path: Path
) -> None:
    break_off(mirror, tmp_path)
    download(NAME, tmp_path, url=mirror.url + "?other")
    assert "Range" not in mirror.asked[0]
    assert archive(tmp_path).read_bytes() == Mirror.body


def test_a_weak_etag_gives_way_to_the_date(mirror: Mirror, tmp_path: Path) -> None:
    mirror.etag = 'W/"one"'
    break_off(mirror, tmp_path)
    download(NAME, tmp_path, url=mirror.url)
    assert mirror.asked[0]["If-Range"] == "Thu, 01 Jan 2026 00:00:00 GMT"
    assert archive(tmp_path).read_bytes() == Mirror.body


def test_without_a_version_nothing_is_appended(mirror: Mirror, tmp_path: Path) -> None:
    mirror.manners.append("anonymous cut")
    download(NAME, tmp_path, url=mirror.url)
    assert len(mirror.asked) == 2
    assert "Range" not in mirror.asked[1]
    assert archive(tmp_path).read_bytes() == Mirror.body


def test_an_archive_of_unstated_length_is_taken_whole(official: Mirror, tmp_path: Path) -> None:
    official.manners.append("endless")
    assert download(NAME, tmp_path).read_bytes() == TSV


def test_a_boasted_length_is_never_believed(
    official: Mirror, mirror: Mirror, tmp_path: Path
) -> None:
    official.manners.append("boast")
    with pytest.raises(DownloadError, match="must have"):
        download(NAME, tmp_path / "official")
    assert len(official.asked) == 1  # asking again would not help
    mirror.manners.append("boast")  # then the range that is asked for doesn't exist
    assert download(NAME, tmp_path / "mirror", url=mirror.url).read_bytes() == TSV


def test_another_size_than_the_official_one_is_refused(official: Mirror, tmp_path: Path) -> None:
    official.body = zipped(extra=b"more")
    with pytest.raises(DownloadError, match=f"{len(official.body):,}"):
        download(NAME, tmp_path)
    assert not archive(tmp_path).exists()


def test_a_missing_file_is_not_asked_for_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.manners.append("404")
    with pytest.raises(DownloadError, match="404"):
        download(NAME, tmp_path, url=mirror.url)
    assert len(mirror.asked) == 1


def test_no_server_at_all(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="0 bytes here"):
        download(NAME, tmp_path, url="http://127.0.0.1:1/archive.zip")


def test_a_second_run_only_verifies(official: Mirror, tmp_path: Path) -> None:
    first = download(NAME, tmp_path)
    said: list[str] = []
    assert download(NAME, tmp_path, say=said.append) == first
    assert len(official.asked) == 1
    assert len(said) == 1
    assert "already there" in said[0]


@pytest.mark.parametrize("spoil", ["archive", "record"])
def test_a_corrupted_copy_is_noticed_and_fetched_again(
    official: Mirror, tmp_path: Path, spoil: str
) -> None:
    download(NAME, tmp_path)
    path = archive(tmp_path) if spoil == "archive" else tmp_path / f"{NAME}.json"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    said: list[str] = []
    assert download(NAME, tmp_path, say=said.append).read_bytes() == TSV
    assert "doesn't match" in said[0]
    assert archive(tmp_path).read_bytes() == Mirror.body
    assert len(official.asked) == 2


def test_a_corrupted_table_is_unpacked_again(official: Mirror, tmp_path: Path) -> None:
    table = download(NAME, tmp_path)
    table.write_bytes(TSV[:-1] + b"!")
    said: list[str] = []
    assert download(NAME, tmp_path, say=said.append).read_bytes() == TSV
    assert "doesn't match" in said[0]
    assert len(official.asked) == 1


@pytest.mark.parametrize(
    "member", ["../out.tsv", "a/../../out.tsv", "/etc/out", "..\\out", "C:\\out", "C:out"]
)
def test_a_hostile_archive_is_refused_and_removed(
    mirror: Mirror, tmp_path: Path, member: str
) -> None:
    mirror.body = zipped(**{member: b"gotcha"})
    with pytest.raises(DataError, match="isn't safe"):
        download(NAME, tmp_path / "in", url=mirror.url)
    files = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert files <= {f"{NAME}.lock"}


def test_an_archive_that_swells_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.body = zipped(**{SET.table: bytes(3 * len(TSV))})
    with pytest.raises(DataError, match="twice"):
        download(NAME, tmp_path, url=mirror.url)
    assert not (tmp_path / SET.table).exists()


@pytest.mark.parametrize("body", [b"<html>log in</html>", zipped().replace(TSV[:9], TSV[1:10])])
def test_what_is_no_intact_archive_is_refused(mirror: Mirror, tmp_path: Path, body: bytes) -> None:
    mirror.body = body
    with pytest.raises(DataError, match="isn't the archive"):
        download(NAME, tmp_path, url=mirror.url)
    assert not part(tmp_path).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_bytes_needed(mirror: Mirror, tmp_path: Path) -> None:
    part(tmp_path).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=f"full.*{len(Mirror.body):,} bytes.*{len(TSV):,}"):
        download(NAME, tmp_path, url=mirror.url)


def test_a_disk_that_fills_while_unpacking_keeps_the_complete_part(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise StoreError("full") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DownloadError, match="the disk is full"):
        patch.setattr(module, "atomic_path", full)
        download(NAME, tmp_path, url=mirror.url)
    assert part(tmp_path).read_bytes() == Mirror.body
    assert download(NAME, tmp_path, url=mirror.url).read_bytes() == TSV
    assert mirror.asked[1]["Range"] == f"bytes={len(Mirror.body)}-"  # answered with 416
    assert len(mirror.asked) == 2


def test_a_folder_that_cannot_be_written(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="can't write"):
        download(NAME, tmp_path / "file" / "out", url=mirror.url)


def test_an_unknown_name_suggests_the_known_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean social-chem-101"):
        download("social-chem", tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "http://", "http://h/a b"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="can't download from"):
        download(NAME, tmp_path, url=url)


def test_the_default_folder_is_in_the_cache(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORALPROBE_CACHE", str(tmp_path))
    assert download(NAME, url=mirror.url) == tmp_path / "data" / SET.table


def test_the_command_prints_the_path(mirror: Mirror, tmp_path: Path) -> None:
    args = ["download", NAME, "--out", str(tmp_path), "--url", mirror.url]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / SET.table)
    assert mirror.url in result.stderr
    assert CliRunner().invoke(app, [*args, "--quiet"]).stderr == ""


def test_the_command_lets_errors_through(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["download", "nothing", "--out", str(tmp_path)])
    assert isinstance(result.exception, UsageError)
