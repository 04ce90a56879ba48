"""Datasets that are one file, or a tar of several: fetched, checked, and refused as a zip is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moralprobe.cli.data import app
from moralprobe.data import download as module
from moralprobe.data.datasets import DATASETS
from moralprobe.data.download import download
from moralprobe.errors import DataError, DownloadError
from tests.data.test_download import Mirror

LINES = b'{"prompt": "a"}\n\n{"prompt": "b"}\n' * 500
PARTS = DATASETS["ethics"].parts
CSV = {name: f"label,scenario\n1,{name}\n".encode() * 200 for name in PARTS}


def tarred(members: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("ethics")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["flames", "moral-stories"])
def test_a_plain_file_is_the_table(mirror: Mirror, tmp_path: Path, name: str) -> None:
    mirror.body = LINES
    said: list[str] = []
    table = download(name, tmp_path, url=mirror.url, say=said.append)
    assert table == tmp_path / DATASETS[name].table and table.read_bytes() == LINES
    record = json.loads((tmp_path / f"{name}.json").read_text())
    digest = hashlib.sha256(LINES).hexdigest()
    assert record["sha256"] == record["tsv_sha256"] == digest
    assert record["licence"] == DATASETS[name].licence and record["bytes"] == len(LINES)
    assert files(tmp_path) == {f"{name}.json", f"{name}.lock", DATASETS[name].table}
    assert f"licence {DATASETS[name].licence}" in said[0] and " 0 bytes" not in said[0]
    again: list[str] = []
    assert download(name, tmp_path, url=mirror.url, say=again.append) == table
    assert len(again) == 1 and "already there" in again[0] and len(mirror.asked) == 1


def test_a_plain_file_is_continued_and_mended(mirror: Mirror, tmp_path: Path) -> None:
    mirror.body = LINES
    mirror.manners.extend(["cut", "503", "503"])
    with pytest.raises(DownloadError, match="same command continues"):
        download("flames", tmp_path, url=mirror.url)
    assert (tmp_path / "flames.file.part").read_bytes() == LINES[: len(LINES) // 2]
    table = download("flames", tmp_path, url=mirror.url)
    assert mirror.asked[-1]["Range"] == f"bytes={len(LINES) // 2}-"
    table.write_bytes(LINES + b"{}")
    said: list[str] = []
    download("flames", tmp_path, url=mirror.url, say=said.append)
    assert "doesn't match" in said[0] and table.read_bytes() == LINES


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>log in</html>", "line 1 is no JSON object"),
        (LINES + b'{"prompt": "cut o', "line 1501 is no JSON object"),
        (b'{"a": 1}\n[2]\n', "line 2 is no JSON object"),
        (b"[" * 100_000, "isn't the file"),
        (b"\xff\xfe", "line 1"),
        (b"\n\n", "empty"),
    ],
)
def test_what_is_no_json_lines_is_refused(
    mirror: Mirror, tmp_path: Path, body: bytes, said: str
) -> None:
    mirror.body = body
    with pytest.raises(DataError, match=f"isn't the file of flames.*{said}|{said}"):
        download("flames", tmp_path, url=mirror.url)
    assert files(tmp_path) == {"flames.lock"}


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_leaves_its_parts(mirror: Mirror, tmp_path: Path, packed: bool) -> None:
    body = tarred({**CSV, "ethics/commonsense/cm_train.csv": b"not kept"})
    mirror.body = gzip.compress(body) if packed else body
    folder = download("ethics", tmp_path, url=mirror.url)
    assert folder == tmp_path / "ethics"
    assert {name: (tmp_path / name).read_bytes() for name in PARTS} == CSV
    assert files(tmp_path) == {"ethics.tar", "ethics.json", "ethics.lock", *PARTS}
    said: list[str] = []
    assert download("ethics", tmp_path, url=mirror.url, say=said.append) == folder
    assert len(said) == 1 and "already there" in said[0]


@pytest.mark.parametrize("spoil", ["change", "remove"])
def test_a_part_that_is_spoiled_is_unpacked_again(
    mirror: Mirror, tmp_path: Path, spoil: str
) -> None:
    mirror.body = tarred(CSV)
    download("ethics", tmp_path, url=mirror.url)
    part = tmp_path / PARTS[3]
    if spoil == "change":
        part.write_bytes(part.read_bytes()[:-1] + b"!")
    else:
        part.unlink()
    said: list[str] = []
    download("ethics", tmp_path, url=mirror.url, say=said.append)
    assert "doesn't match" in said[0] and part.read_bytes() == CSV[PARTS[3]]
    assert len(mirror.asked) == 1


@pytest.mark.parametrize(
    "member",
    [
        link("ethics/link", "/etc/passwd"),
        link("ethics/link", "virtue"),
        link("ethics/link", "../../out", tarfile.LNKTYPE),
        link("ethics/device", "", tarfile.CHRTYPE),
        link("ethics/pipe", "", tarfile.FIFOTYPE),
        tarfile.TarInfo("../out.csv"),
        tarfile.TarInfo("/etc/out"),
        tarfile.TarInfo("a/../../out"),
        tarfile.TarInfo("C:\\out"),
    ],
    ids=lambda member: re.sub(r"\W+", "-", f"{member.name} {member.linkname}"),
)
def test_a_hostile_tar_is_refused_and_removed(
    mirror: Mirror, tmp_path: Path, member: tarfile.TarInfo
) -> None:
    mirror.body = tarred(CSV, member)
    with pytest.raises(DataError, match="isn't safe"):
        download("ethics", tmp_path / "in", url=mirror.url)
    assert files(tmp_path) == {"in/ethics.lock"}


def folder_in_place_of(name: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return tarred({part: data for part, data in CSV.items() if part != name}, member)


def without_end(tar: bytes) -> bytes:
    """The same without the blocks of zeros behind its last member, so that it is read to its end."""
    data = tar.rstrip(b"\0")
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>" * 100,
        tarred({name: CSV[name] for name in PARTS[:4]}),
        tarred(CSV)[: len(tarred(CSV)) // 3],
        gzip.compress(tarred(CSV))[:300],
        gzip.compress(without_end(tarred(CSV)))[:-8] + bytes(8),
        folder_in_place_of(PARTS[2]),
        b"",
    ],
    ids=["page", "part missing", "cut", "gzip cut", "gzip spoiled", "folder", "empty"],
)
def test_what_is_no_whole_tar_is_refused(mirror: Mirror, tmp_path: Path, body: bytes) -> None:
    mirror.body = body
    with pytest.raises(DataError, match="isn't the archive of ethics"):
        download("ethics", tmp_path, url=mirror.url)
    assert not {"ethics.tar", "ethics.tar.part", "ethics.json"} & files(tmp_path)


def test_a_tar_that_swells_is_refused(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.body = tarred(CSV)
    monkeypatch.setattr(module, "_MOST", sum(map(len, CSV.values())) - 1)
    with pytest.raises(DataError, match="isn't safe"):
        download("ethics", tmp_path, url=mirror.url)
    monkeypatch.setattr(module, "_MOST", sum(map(len, CSV.values())))
    download("ethics", tmp_path, url=mirror.url)


def test_what_is_known_of_each_dataset() -> None:
    help_text = CliRunner().invoke(app, ["download", "--help"]).output
    for name, dataset in DATASETS.items():
        assert name == dataset.name and name in help_text
        assert dataset.url.startswith("https://") and dataset.licence
        assert all(part.startswith(f"{dataset.table}/") for part in dataset.parts)
        assert dataset.kind != "file" or dataset.url.endswith(Path(dataset.table).name)
        assert dataset.kind == "file" or dataset.url.endswith(f".{dataset.kind}")


@pytest.mark.parametrize("name", ["flames", "moral-stories", "ethics"])
def test_the_command_fetches_it(mirror: Mirror, tmp_path: Path, name: str) -> None:
    mirror.body = tarred(CSV) if name == "ethics" else LINES
    args = ["download", name, "--out", str(tmp_path), "--url", mirror.url, "--quiet"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.strip() == str(tmp_path / DATASETS[name].table)
