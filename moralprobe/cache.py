"""What a judge or a model said, kept by what it was asked: a killed run loses one answer at most.

A line an answer, appended and flushed. An answer's key is a hash of everything that can change it,
so that nothing is ever answered from another question, model or setting.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import xxhash
from filelock import FileLock, Timeout

from moralprobe.errors import IntegrityError, StoreError
from moralprobe.files import cannot_write, canonical_json


@dataclass(frozen=True)
class Cache:
    """Answers by their key; from `open_cache`, which holds the file for as long as it is open."""

    path: Path
    _answers: dict[str, Any] = field(repr=False)
    _stream: BinaryIO = field(repr=False)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Any:
        """Return what is kept under a key, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer, which is JSON and not None; what stands under its key already stays.

        Raises:
            StoreError: the file can't be written to; what stands in it stays.
        """
        if key in self._answers:
            return
        line = {"key": key, "answer": answer, "xxh3_64": _checksum(key, answer)}
        try:
            # Escapes keep a line a line, and what is no character out of the encoding.
            self._stream.write(json.dumps(line, sort_keys=True).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._answers[key] = answer


def key_of(asked: Any) -> str:
    """Return the key of an answer.

    Args:
        asked: JSON that holds everything that can change the answer.

    Returns:
        The xxh3_128 of its canonical spelling, in hexadecimal.
    """
    return xxhash.xxh3_128_hexdigest(canonical_json(asked))


def ask_once(
    keys: Sequence[str],
    ask: Callable[[list[int]], Iterator[tuple[int, Any]]],
    cache: Cache | None = None,
    step: Callable[[list[str]], None] = lambda keys: None,
) -> dict[str, Any]:
    """Return answers by key: each key is asked for once, and its answer kept as it comes.

    Args:
        keys: of questions; equal ones are the same question.
        ask: called, where something is left to ask, with the places of those questions, and yields
            answers with their number among these.
        cache: what stands in it isn't asked again.
        step: called with the keys that are known at the start, and then with each.

    Returns:
        As many as came: who leaves one out is known by what is missing.
    """
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    different = list(dict.fromkeys(keys))
    known: dict[str, Any] = {}
    for key in different:
        if cache is not None and (answer := cache.get(key)) is not None:
            known[key] = answer
    left = [key for key in different if key not in known]
    step(list(known))
    for number, answer in ask([first[key] for key in left]) if left else ():
        known[left[number]] = answer
        if cache is not None:
            cache.put(left[number], answer)
        step([left[number]])
    return known


@contextlib.contextmanager
def open_cache(path: Path, say: Callable[[str], None] = lambda message: None) -> Iterator[Cache]:
    """Open a file of answers, or begin it, and hold it against other writers.

    A last line that was cut off is taken away.

    Args:
        path: the file, as `judge.jsonl` in the run's folder.
        say: called with what a user should know: that another process is waited for.

    Raises:
        IntegrityError: a line that isn't what was written.
        StoreError: the file can't be read or written to.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is writing {path}: waiting until it ends")
            lock.acquire()
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with _opened(path) as stream:
            yield Cache(path, _read(path, stream), stream)
    finally:
        lock.release()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("ab+")
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield stream
    finally:
        # What couldn't be written was said when it was to be; the next opening cuts it off.
        with contextlib.suppress(OSError):
            stream.close()


def _read(path: Path, stream: BinaryIO) -> dict[str, Any]:
    try:
        stream.seek(0)
        *lines, torn = stream.read().split(b"\n")
    except OSError as error:
        raise StoreError(f"can't read {path}", str(error.strerror or error), "check it") from error
    answers: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        key, answer = _parsed(line, path, number)
        answers[key] = answer
    if torn:
        try:
            stream.truncate(sum(len(line) + 1 for line in lines))
        except OSError as error:
            raise cannot_write(path, error) from error
    return answers


def _parsed(line: bytes, path: Path, number: int) -> tuple[str, Any]:
    try:
        held = json.loads(line)
        key, answer = held["key"], held["answer"]
        whole = held["xxh3_64"] == _checksum(key, answer)
        why = "its checksum doesn't match"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        whole, why = False, f"it holds no answer: {error}"
    if not whole:
        raise IntegrityError(
            f"line {number} of {path} is damaged",
            why,
            "remove that line, and its answer is asked for again",
        )
    return key, answer


def _checksum(key: str, answer: Any) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps([key, answer], sort_keys=True).encode())
