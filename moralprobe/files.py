"""Files that are written whole or not at all, and the hashes by which they are known again."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import xxhash

from moralprobe.errors import StoreError

TEMPORARY: Final = ".partial"
_CHUNK: Final = 16 << 20


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that becomes `path` when the block ends well.

    Raises:
        StoreError: the disk is full or the folder can't be written; what stood there before stays.
    """
    path = Path(path)
    if path.is_dir():
        raise cannot_write(path, IsADirectoryError(errno.EISDIR, "it is a folder"))
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Refuse a folder that couldn't be made or written to, before hours of work are put into it.

    Raises:
        StoreError: it, or where it would be, is no folder or can't be written to.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def free_bytes(folder: Path) -> int:
    """Return the room on the disk where a folder is or would be made, in bytes."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    places = (folder.absolute(), *folder.absolute().parents)
    return next(place for place in places if place.exists())


def write_bytes(path: Path, *parts: bytes | memoryview[int]) -> None:
    """Write a file whole or not at all, of parts that follow one another and aren't copied."""
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb", buffering=0) as stream:
                for part in parts:
                    _write_all(stream, memoryview(part).cast("B"))
        except OSError as error:
            size = sum(memoryview(part).nbytes for part in parts)
            raise cannot_write(path, error, size) from error


def _write_all(stream: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_bytes(path, canonical_json(value) + b"\n")


def write_table(path: Path, frame: Any) -> None:
    """Write a polars frame as Parquet, whole or not at all."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    write_bytes(path, buffer.getvalue())


def write_result(
    folder: Path, name: str, summary: Mapping[str, Any], tables: Mapping[str, Any]
) -> None:
    """Write tables as Parquet under their names, and then what they are of, as `NAME.json`."""
    for table, frame in tables.items():
        write_table(folder / f"{table}.parquet", frame)
    write_json(folder / f"{name}.json", dict(summary))


def canonical_json(value: Any) -> bytes:
    """Return the one spelling of a JSON value that hashes are taken of."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode()


def hash_file(path: Path) -> str:
    """Return the xxh3_128 of a file's bytes, in hexadecimal."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder can't be opened there, and needs no sync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError, size: int | None = None) -> StoreError:
    """Return the error for a file that can\'t be written: no space, no right, no folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            needed = f"{size:,} bytes are needed" if size else "more space is needed"
            return _exit_1(
                StoreError(
                    f"no space left for {path}",
                    f"{needed}, {free:,} are free",
                    "make room and repeat the command: what is complete is kept",
                )
            )
    return _exit_1(
        StoreError(
            f"can't write {path}",
            str(error.strerror or error),
            "check the folder, or give another one",
        )
    )


def _exit_1(error: StoreError) -> StoreError:
    error.exit_code = 1
    return error
