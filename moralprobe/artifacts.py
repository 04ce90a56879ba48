"""A folder of checksummed safetensors shards under one manifest: atomic, resumable, verifiable.

The manifest, not the folder, says what exists. safetensors has no checksum of its own, so a flipped
bit would load silently; here the manifest holds a hash of each shard and of its header, and the
header holds a hash of each tensor, so that one tensor can be checked without reading the others.
Nothing in a manifest depends on the clock or the machine: the same run writes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes  # noqa: F401 (teaches numpy the name bfloat16)
import numpy as np
import xxhash
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from moralprobe.errors import IntegrityError, StoreError
from moralprobe.files import (
    TEMPORARY,
    cannot_write,
    canonical_json,
    hash_file,
    write_bytes,
    write_json,
)

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_NAME: Final = re.compile(r"\w[\w.-]*", re.ASCII)
_LINK: Final = "it is a link, which may lead out of the folder"
_HEADER_LIMIT: Final = 100 << 20


@dataclass(frozen=True)
class Shard:
    """A manifest row: which rows a file holds, and the hashes that it must have."""

    name: str
    bytes: int
    xxh3_128: str
    header_bytes: int
    header_xxh3_128: str
    first: int
    last: int
    n: int
    dtype: str
    shape: tuple[int, ...]


def write_shard(
    folder: Path, name: str, tensors: Mapping[str, NDArray[Any]], *, first: int, last: int
) -> Shard:
    """Write a shard of rows first..last, whole or not at all, and return its manifest row.

    Raises:
        StoreError: it can't be written; earlier shards stay valid.
    """
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    hashes = {key: _hash_array(value) for key, value in contiguous.items()}
    # One string with sorted keys: safetensors would order several metadata entries by chance.
    header, order = _layout(contiguous, {"xxh3_128": json.dumps(hashes, sort_keys=True)})
    parts: list[bytes | memoryview[int]] = [header, *(_bytes_of(contiguous[key]) for key in order)]
    whole = xxhash.xxh3_128()
    for part in parts:
        whole.update(part)
    example = next(iter(contiguous.values()))
    write_bytes(folder / name, *parts)
    return Shard(
        name=name,
        bytes=sum(len(part) for part in parts),
        xxh3_128=whole.hexdigest(),
        header_bytes=len(header),
        header_xxh3_128=xxhash.xxh3_128_hexdigest(header),
        first=first,
        last=last,
        n=last - first + 1,
        dtype=str(example.dtype),
        shape=tuple(example.shape),
    )


def _layout(
    tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str]
) -> tuple[bytes, list[str]]:
    """Return a safetensors file's header, and in which order the tensors' bytes follow it.

    safetensors itself would copy all of them into one string, which takes longer than writing them.
    It is asked for the header of tensors without rows; shapes and places are put in.
    """
    from safetensors.numpy import save

    empty = save({key: value.reshape(-1)[:0] for key, value in tensors.items()}, metadata)
    header = json.loads(empty[8:])
    order = [key for key in header if key != "__metadata__"]
    at = 0
    for key in order:
        value = tensors[key]
        places = [at, at := at + value.nbytes]
        header[key] = {**header[key], "shape": value.shape, "data_offsets": places}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


class Artifact:
    """An artefact on disk: its key (all that can change its bytes), its extras and its shards."""

    def __init__(
        self, folder: Path, kind: str, key: dict[str, Any], shards: dict[str, Shard]
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.key = key
        self.shards = shards
        self._headers: dict[str, dict[str, str]] = {}
        self._entering = threading.Lock()

    # -- opening --------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, kind: str) -> Artifact:
        """Open what exists.

        Raises:
            StoreError: no such artefact, another kind, another format.
            IntegrityError: a manifest whose bytes aren't those that were written.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        try:
            if path.stat().st_size > _HEADER_LIMIT:
                raise ValueError
            manifest = json.loads(path.read_bytes())
            body, checksum = manifest["body"], manifest["xxh3_128"]
            digest = xxhash.xxh3_128_hexdigest(canonical_json(body))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(
                f"{folder} holds no {kind}",
                f"there is no {MANIFEST} in it" if folder.is_dir() else "it is no folder",
                "check the path",
            ) from error
        except OSError as error:
            raise StoreError(
                f"can't read {path}", str(error.strerror or error), "check its permissions"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, "it is no manifest") from error
        if digest != checksum:
            raise _damaged(path, "its checksum doesn't match")
        if body["format"] != FORMAT or body["kind"] != kind:
            raise StoreError(
                f"{folder} is no {kind} of format {FORMAT}",
                f"it holds another: {body['kind']}, format {body['format']}",
                "give the folder of another artefact, or use the version that wrote it",
            )
        try:
            rows = [Shard(**{**row, "shape": tuple(row["shape"])}) for row in body["shards"]]
            shards = {row.name: row for row in rows}
            outside = [name for name in shards if not _NAME.fullmatch(name)]
            right = all(0 <= s.first <= s.last == s.first + s.n - 1 for s in rows)
        except (ValueError, TypeError) as error:
            raise _damaged(path, "its rows describe no shards") from error
        if outside:
            raise _damaged(path, f"shard {outside[0]!r} may lie outside the folder")
        if not right:
            raise _damaged(path, "its rows describe no shards")
        return cls(folder, kind, body["key"], shards)

    @classmethod
    def create(cls, folder: Path, kind: str, key: dict[str, Any]) -> Artifact:
        """Open the artefact of that key, or begin it.

        Raises:
            StoreError: the folder holds an artefact of another key, or other files.
        """
        folder = Path(folder)
        key = json.loads(canonical_json(key))
        if (folder / MANIFEST).exists():
            artifact = cls.open(folder, kind)
            if artifact.key != key:
                raise StoreError(
                    f"{folder} belongs to another run",
                    "; ".join(_differences(artifact.key, key)),
                    "give another folder, or repeat the command that made it",
                )
            return artifact
        cls.refuse_others(folder, kind)
        artifact = cls(folder, kind, key, {})
        artifact._write_manifest()
        return artifact

    @staticmethod
    def refuse_others(folder: Path, kind: str) -> None:
        """Refuse a folder without a manifest that holds other files.

        Raises:
            StoreError: as it says.
        """
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise StoreError(
                f"{folder} is not empty and holds no {kind}",
                f"there is no {MANIFEST} in it",
                "give a new or empty folder",
            )

    @staticmethod
    @contextlib.contextmanager
    def lock(folder: Path, say: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """Hold the lock of a writer; the system frees it when the process dies.

        Args:
            folder: that is written.
            say: called with what a user should know: that another process is waited for.
        """
        lock = FileLock(folder / ".lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say(f"another process is writing {folder}: waiting until it ends")
                lock.acquire()
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            yield
        finally:
            lock.release()

    # -- writing --------------------------------------------------------------------------------

    def add_shard(
        self, name: str, tensors: Mapping[str, NDArray[Any]], *, first: int, last: int
    ) -> Shard:
        """Write a shard of rows first..last and enter it in the manifest; see `write_shard`.

        Threads may add shards at once: the manifest is the same in whichever order they end.
        """
        shard = write_shard(self.folder, name, tensors, first=first, last=last)
        self.enter(shard)
        return shard

    def enter(self, shard: Shard) -> None:
        """Enter in the manifest a shard that stands in the folder: now it counts."""
        with self._entering:
            self.shards[shard.name] = shard
            self._headers.pop(shard.name, None)
            self._write_manifest()

    def drop_shard(self, name: str) -> None:
        """Take a shard out of the manifest, so that it is made again."""
        del self.shards[name]
        self._headers.pop(name, None)
        self._write_manifest()

    def clean(self) -> list[str]:
        """Remove temporary files that a killed writer left; return their names."""
        left = sorted(self.folder.glob(f".*{TEMPORARY}"))
        for path in left:
            path.unlink(missing_ok=True)
        return [path.name for path in left]

    def _write_manifest(self) -> None:
        rows = sorted((asdict(shard) for shard in self.shards.values()), key=lambda r: r["first"])
        body = {"format": FORMAT, "kind": self.kind, "key": self.key, "shards": rows}
        body = json.loads(canonical_json(body))
        checksum = xxhash.xxh3_128_hexdigest(canonical_json(body))
        write_json(self.folder / MANIFEST, {"body": body, "xxh3_128": checksum})

    # -- reading --------------------------------------------------------------------------------

    def read(self, name: str, tensor: str) -> NDArray[Any]:
        """Read one tensor of one shard, checked against its hash.

        Raises:
            IntegrityError: the shard is missing, cut, swapped or changed; never numbers.
        """
        from safetensors import SafetensorError, safe_open

        shard = self.shards[name]
        hashes = self._header(shard)
        if tensor not in hashes:
            raise _damaged(self.folder / name, f"it holds no tensor {tensor!r}")
        try:
            with safe_open(self.folder / name, framework="np") as stream:
                array: NDArray[Any] = stream.get_tensor(tensor)
        except (SafetensorError, OSError) as error:
            raise _damaged(self.folder / name, str(error)) from error
        if _hash_array(array) != hashes[tensor]:
            raise _damaged(self.folder / name, f"the checksum of tensor {tensor!r} doesn't match")
        if array.shape[:1] != (shard.n,):
            raise _damaged(self.folder / name, f"tensor {tensor!r} hasn't {shard.n} rows")
        return array

    def _header(self, shard: Shard) -> dict[str, str]:
        """Check a shard's length and header, and return its tensors' hashes."""
        if shard.name in self._headers:
            return self._headers[shard.name]
        path = self.folder / shard.name
        try:
            if path.is_symlink():
                raise _damaged(path, _LINK)
            size = path.stat().st_size
            if size != shard.bytes:
                raise _damaged(path, f"it has {size} bytes, not {shard.bytes}")
            if not 8 <= shard.header_bytes <= min(_HEADER_LIMIT, size):
                raise _damaged(path, f"a header of {shard.header_bytes} bytes can't be right")
            with path.open("rb") as stream:
                header = stream.read(shard.header_bytes)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise _damaged(path, "it is missing" if missing else str(error.strerror)) from error
        if xxhash.xxh3_128_hexdigest(header) != shard.header_xxh3_128:
            raise _damaged(path, "its header's checksum doesn't match")
        try:
            hashes = dict[str, str](json.loads(json.loads(header[8:])["__metadata__"]["xxh3_128"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, "its header holds no checksums") from error
        self._headers[shard.name] = hashes
        return hashes

    def problems(self) -> dict[str, str]:
        """Check every byte of every shard; return what is wrong, by shard."""
        found: dict[str, str] = {}
        for name, shard in self.shards.items():
            path = self.folder / name
            if path.is_symlink():
                found[name] = _LINK
            elif not path.is_file():
                found[name] = "missing"
            elif path.stat().st_size != shard.bytes:
                found[name] = f"{path.stat().st_size} bytes instead of {shard.bytes}"
            elif hash_file(path) != shard.xxh3_128:
                found[name] = "checksum doesn't match"
        return found

    def foreign(self) -> list[str]:
        """Return the shard files in the folder that the manifest doesn't know."""
        return sorted(
            p.name for p in self.folder.glob("*.safetensors") if p.name not in self.shards
        )


def _hash_array(array: NDArray[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(_bytes_of(np.ascontiguousarray(array)))


def _bytes_of(array: NDArray[Any]) -> memoryview[int]:
    found: memoryview[int] = memoryview(array.reshape(-1).view(np.uint8).data)
    return found


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged",
        why,
        "restore it from a copy, or make the folder again: without it nothing says what is right"
        if path.name == MANIFEST
        else "repeat the command that made it: only what is damaged is computed again",
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{at}{name}.")
        elif a != b:
            yield f"{at}{name}: there {_short(a)}, asked for {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
