"""Public datasets, fetched whole from where their authors put them: resumable and checked."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import logging
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PureWindowsPath
from typing import IO, Any, BinaryIO, Final

import platformdirs
from filelock import FileLock

from moralprobe.data.datasets import DATASETS, Dataset
from moralprobe.errors import DataError, DownloadError, StoreError, UsageError, nearest
from moralprobe.files import atomic_path, write_json

PAUSES: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt after a connection broke."""
_LOG = logging.getLogger(__name__)
_TIMEOUT: Final = 30.0
_CHUNK: Final = 1 << 20
_MOST: Final = 1 << 30  # bytes that may be unpacked where the size of the data isn't known
_NO_ARCHIVE: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
)


def default_folder() -> Path:
    """Return where datasets go unless told: `data` in MORALPROBE_CACHE or the user's cache."""
    root = os.environ.get("MORALPROBE_CACHE") or platformdirs.user_cache_dir("moralprobe")
    return Path(root).expanduser() / "data"


def download(
    name: str,
    out: Path | None = None,
    *,
    url: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = _LOG.info,
) -> Path:
    """Fetch a dataset, continuing an earlier transfer, or verify the copy that is there.

    Args:
        name: one of `DATASETS`.
        out: the folder for the archive, its record and what is unpacked; see `default_folder`.
        url: a mirror, whose archive may have another size than the official one.
        progress: called with the bytes that are here and the bytes in all (0: not known).
        say: called with each sentence for the reader.

    Returns:
        The path of the table, or of the folder of those that come together.

    Raises:
        UsageError: the name isn't known or the address isn't http or https.
        DownloadError: the transfer or the writing broke off; what arrived is kept.
        DataError: what arrived isn't the data, or unpacking it isn't safe; nothing is kept.
    """
    if name not in DATASETS:
        raise UsageError(
            f"there is no dataset {name!r}", nearest(name, DATASETS), "choose one of these"
        )
    dataset, folder = DATASETS[name], Path(out or default_folder())
    address = url or dataset.url
    if not re.fullmatch(r"https?://[A-Za-z0-9.:-]+/[!-~]+", address):
        raise UsageError(
            f"can't download from {address!r}",
            "it isn't http(s)://host/file",
            "give a mirror's full address, or leave out --url",
        )
    part, size = folder / f"{name}.{dataset.kind}.part", 0 if url else dataset.bytes
    transfer = _Transfer(address, part, size, progress, say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            return _obtain(dataset, folder, transfer)
    except (OSError, StoreError) as error:
        raise _cannot_write(dataset, folder, error) from error


def downloaded(name: str, folder: Path | None = None) -> Path:
    """Return the table of a dataset that `download` fetched.

    Raises:
        DataError: it isn't there.
    """
    path = Path(folder or default_folder()) / DATASETS[name].table
    if not path.exists():
        raise DataError(
            f"{name} isn't there", f"{path} is no file", f"moralprobe data download {name}"
        )
    return path


def _obtain(dataset: Dataset, folder: Path, transfer: _Transfer) -> Path:
    table, record = folder / dataset.table, folder / f"{dataset.name}.json"
    known, say = _read_json(record), transfer.say
    archive = table if dataset.kind == "file" else folder / f"{dataset.name}.{dataset.kind}"
    if archive.exists() and _sha256(archive) == known.get("sha256"):
        if _digest(dataset, folder) == known.get("tsv_sha256"):
            say(f"{dataset.name} is already there and matches its recorded sha256: {table}")
        else:
            say(f"{table} doesn't match its recorded sha256: unpacking it again from {archive}")
            _unpack(dataset, archive, folder)
        return table
    if archive.exists():
        say(f"{archive} doesn't match a recorded sha256: downloading it again")
    expected = f"{dataset.bytes:,} bytes expected, " if dataset.bytes else ""
    say(f"{transfer.address}: {expected}licence {dataset.licence}")
    transfer.run()
    try:
        _unpack(dataset, transfer.part, folder)
    except DataError:
        transfer.discard()
        raise
    sha256 = _sha256(transfer.part)
    fields = {
        "url": transfer.address,
        "bytes": transfer.have,
        "sha256": sha256,
        "tsv_sha256": sha256 if archive == table else _digest(dataset, folder),
        "licence": dataset.licence,
    }
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, fields)  # before the rename: cut off between the two, the part is completed
    transfer.part.replace(archive)
    transfer.discard()
    say(f"{dataset.name} is at {table}")
    return table


class _BrokenError(Exception):
    """A connection that failed in a way that another one may not."""


@dataclass(frozen=True)
class _Transfer:
    """Bytes on their way from `address` to `part`; `size` is what they must be (0: any)."""

    address: str
    part: Path
    size: int
    progress: Callable[[int, int], None] | None
    say: Callable[[str], None]

    @property
    def note(self) -> Path:
        """The file that says which version of which address the part belongs to."""
        return self.part.with_name(f"{self.part.name}.json")

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def run(self) -> None:
        """Complete the part over as many connections as `PAUSES` allows."""
        for pause in (*PAUSES, None):
            try:
                return self._attempt()
            except _BrokenError as error:
                if pause is None:
                    raise self._failed(str(error)) from error
                self.say(f"{error}: {self.have:,} bytes are here, trying again in {pause:g} s")
                time.sleep(pause)

    def _attempt(self) -> None:
        known = _read_json(self.note)
        have = self.have if known.get("url") == self.address and known.get("version") else 0
        resume = {"Range": f"bytes={have}-", "If-Range": known["version"]} if have else {}
        headers = {"User-Agent": "moralprobe"} | resume
        try:
            request = urllib.request.Request(self.address, headers=headers)
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            return self._refused(error, have)
        except (OSError, HTTPException) as error:
            raise _BrokenError(str(error)) from error
        with answer:
            start, total = self._span(answer, have)
            self._check_size(total or self.size)
            if have and not start:
                self.say("the server's file changed or can't be continued: starting over")
            with self.part.open("ab" if start else "wb") as stream:
                if not start:
                    etag = answer.headers.get("ETag", "W/")
                    weak = etag.startswith("W/")  # a weak one isn't allowed in If-Range
                    version = answer.headers.get("Last-Modified") if weak else etag
                    write_json(self.note, {"url": self.address, "version": version})
                self._receive(answer, stream, start, total)

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        if error.code == 416 and have and error.headers.get("Content-Range") == f"bytes */{have}":
            return self._check_size(have)  # nothing is left to send
        reason = f"the server answered {error.code} {error.reason}"
        if error.code == 416:
            self.discard()
        elif error.code not in (408, 429) and error.code < 500:
            raise self._failed(reason) from error
        raise _BrokenError(reason) from error

    def _span(self, answer: Any, have: int) -> tuple[int, int]:
        """Return where the answer starts in the file and the bytes in all (0: not stated)."""
        if answer.status != 206:
            return 0, answer.length or 0
        header = answer.headers.get("Content-Range", "")
        stated = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header)
        if not stated or int(stated[1]) != have:
            self.discard()
            raise _BrokenError("the server sent another range than the one asked for")
        return have, int(stated[2]) + 1 if stated[3] == "*" else int(stated[3])

    def _receive(self, answer: Any, stream: BinaryIO, have: int, total: int) -> None:
        while chunk := _read(answer, max(0, min(_CHUNK, total - have)) if total else _CHUNK):
            stream.write(chunk)
            have += len(chunk)
            if self.progress:
                self.progress(have, total)
        stream.flush()
        os.fsync(stream.fileno())
        if have < (total or self.size):
            raise _BrokenError(f"the connection ended {(total or self.size) - have:,} bytes early")
        self._check_size(have)

    def _check_size(self, found: int) -> None:
        if self.size and found != self.size:
            raise self._failed(
                f"the archive must have {self.size:,} bytes and the server's has {found:,}",
                "if it is a new release, give the address of the old one as url",
            )

    def _failed(self, why: str, instead: str = "") -> DownloadError:
        what = f"the download of {self.address} stopped with {self.have:,} bytes here"
        return DownloadError(what, why, instead or "the same command continues from there")


def _read(answer: Any, limit: int) -> bytes:
    try:
        chunk: bytes = answer.read1(limit)
    except (OSError, HTTPException) as error:
        raise _BrokenError(str(error)) from error
    return chunk


def _unpack(dataset: Dataset, archive: Path, folder: Path) -> None:
    """Write the members that are kept, each whole or not at all; a plain file is only checked."""
    unsafe, room = f"{archive} isn't safe to unpack", 2 * dataset.table_bytes or _MOST
    try:
        if dataset.kind == "file":
            return _check_lines(archive)
        with _opened(dataset, archive) as (members, read):
            for name, plain in members:
                if not plain or _leaves_folder(name):
                    raise DataError(unsafe, f"it has a member {name!r}")
            for name in dataset.members:
                with (
                    read(name) as source,
                    atomic_path(folder / name) as temporary,
                    temporary.open("wb") as target,
                ):
                    while chunk := source.read(_CHUNK):
                        room -= len(chunk)
                        if room < 0:
                            raise DataError(unsafe, "it unpacks to more than twice what it should")
                        target.write(chunk)
    except _NO_ARCHIVE as error:
        published = "file" if dataset.kind == "file" else "archive"
        what = f"{archive} isn't the {published} of {dataset.name}"
        instead = "it is removed: give the same command again, or check the address"
        raise DataError(what, str(error), instead) from error


@contextlib.contextmanager
def _opened(
    dataset: Dataset, archive: Path
) -> Iterator[tuple[list[tuple[str, bool]], Callable[[str], IO[bytes]]]]:
    """Yield the members of an archive, whether each is a file or a folder, and how one is read."""
    if dataset.kind == "zip":
        with zipfile.ZipFile(archive) as zipped:
            yield [(name, True) for name in zipped.namelist()], zipped.open
        return

    def read(name: str) -> IO[bytes]:
        source = tarred.extractfile(name)
        if source is None:
            raise LookupError(f"its member {name!r} is no file")
        return source

    with tarfile.open(archive) as tarred:
        # Links are refused, and devices: through them a member is written elsewhere.
        yield [(member.name, member.isfile() or member.isdir()) for member in tarred], read


def _check_lines(path: Path) -> None:
    """Refuse what isn't JSON lines, as the page of a server that wants a login first."""
    lines = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                whole = isinstance(json.loads(line), dict)
            except ValueError:
                whole = False
            if not whole:
                raise ValueError(f"its line {number} is no JSON object")
            lines += 1
    if not lines:
        raise ValueError("it is empty")


def _leaves_folder(name: str) -> bool:
    windows = PureWindowsPath(name)  # knows both separators, and drives
    return bool(windows.anchor) or ".." in windows.parts


def _cannot_write(dataset: Dataset, folder: Path, error: OSError | StoreError) -> DownloadError:
    cause = error.__cause__ if isinstance(error, StoreError) else error
    why, instead = str(cause), "check the folder, or give another one"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        why = "the disk is full"
        if dataset.bytes:
            why += f": the archive needs {dataset.bytes:,} bytes"
            why += f" and the table {dataset.table_bytes:,}"
        instead = "make room and give the same command: what arrived is kept"
    return DownloadError(f"can't write to {folder}", why, instead)


def _digest(dataset: Dataset, folder: Path) -> str:
    """Return the SHA-256 of the table, or of those of several; nothing where one is missing."""
    tables = [folder / name for name in dataset.tables]
    if not all(table.exists() for table in tables):
        return ""
    digests = [_sha256(table) for table in tables]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one where there is none to read."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text("utf-8"))
        return value if isinstance(value, dict) else {}
    return {}
