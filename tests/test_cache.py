"""A file of answers that outlives a killed run, and is never answered from when it is damaged."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from moralprobe.cache import key_of, open_cache
from moralprobe.errors import IntegrityError, StoreError
from moralprobe.files import canonical_json


def filled(path: Path) -> bytes:
    with open_cache(path) as cache:
        for n in range(3):
            cache.put(f"key {n}", {"said": f"answer {n}\nof two lines", "mass": n / 3})
    return path.read_bytes()


def test_what_was_put_is_there_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "run" / "judge.jsonl"
    odd = {"said": 'A "quoted"\r\n line\u2028 and 中文 \ud800', "mass": None}
    with open_cache(path) as cache:
        cache.put("a", odd)
        cache.put("b", [1, 2.5, None])
        assert cache.get("a") == odd and len(cache) == 2
    with open_cache(path) as cache:
        assert cache.get("a") == odd and cache.get("b") == [1, 2.5, None]
        assert cache.get("c") is None and len(cache) == 2
        cache.put("c", "said later")
    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line)["key"] for line in lines[:-1]] == ["a", "b", "c"]
    assert lines[-1] == b""


def test_a_key_answers_with_what_it_was_first_given(tmp_path: Path) -> None:
    with open_cache(tmp_path / "c.jsonl") as cache:
        cache.put("a", "one")
        cache.put("a", "two")
    with open_cache(tmp_path / "c.jsonl") as cache:
        assert cache.get("a") == "one"
    assert (tmp_path / "c.jsonl").read_bytes().count(b"\n") == 1


def test_a_key_is_the_hash_of_all_that_is_asked() -> None:
    asked = {"judge": {"model": "m"}, "prompt": "好", "options": ("A", "B")}
    assert key_of(asked) == xxhash.xxh3_128_hexdigest(canonical_json(asked))
    assert key_of(asked) == key_of(dict(reversed(asked.items())))
    for change in ({"prompt": "坏"}, {"judge": {"model": "n"}}, {"options": ("B", "A")}):
        assert key_of(asked) != key_of({**asked, **change})


@pytest.mark.parametrize("left", range(1, 40, 6))
def test_a_torn_last_line_is_dropped_and_the_file_repaired(left: int, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    whole = filled(path)
    last = whole[:-1].rindex(b"\n") + 1
    path.write_bytes(whole[: last + left])
    with open_cache(path) as cache:
        assert len(cache) == 2 and cache.get("key 2") is None
        assert path.read_bytes() == whole[:last]
        cache.put("key 2", {"said": "answer 2\nof two lines", "mass": 2 / 3})
    assert path.read_bytes() == whole


def test_a_last_line_without_its_end_is_torn_though_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(filled(path)[:-1])
    with open_cache(path) as cache:
        assert cache.get("key 2") is None and len(cache) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.replace(b"answer ", b"answer+"),
        lambda line: line.replace(b'"key ', b'"key+'),
        lambda line: line.replace(b'"mass": 0.', b'"mass": 1.'),
        lambda line: line[:20],
        lambda line: b"",
        lambda line: b"\0" * len(line),
        lambda line: b"[" * 100_000,
        lambda line: b'{"key": "key 1", "answer": 1}',
        lambda line: b'"text"',
        lambda line: b"[1]",
    ],
)
@pytest.mark.parametrize("number", [2, 3])
def test_a_damaged_line_is_named_and_never_answered_from(
    spoil: Callable[[bytes], bytes], number: int, tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    lines = filled(path).split(b"\n")
    whole = lines[number - 1]
    lines[number - 1] = spoil(whole)
    assert lines[number - 1] != whole
    path.write_bytes(b"\n".join(lines))
    with (
        pytest.raises(IntegrityError, match=rf"line {number} of .*c\.jsonl is damaged"),
        open_cache(path),
    ):
        pass
    assert path.read_bytes() == b"\n".join(lines)


def test_a_killed_process_loses_nothing_that_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from moralprobe.cache import open_cache\n"
        "with open_cache(Path(sys.argv[1])) as cache:\n"
        "    for n in range(5):\n"
        "        cache.put(str(n), n)\n"
        "    sys.stdout.write('told\\n'); sys.stdout.flush()\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"told\n"
        child.send_signal(signal.SIGKILL)
    with open_cache(path) as cache:  # and its lock died with it
        assert [cache.get(str(n)) for n in range(5)] == list(range(5))


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    waits, found = threading.Event(), []

    def second() -> None:
        with open_cache(path, say=lambda message: waits.set()) as cache:
            found.append(cache.get("a"))

    with open_cache(path) as cache:
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10) and not found
        cache.put("a", "said")
    thread.join(10)
    assert found == ["said"]


def test_a_full_disk_is_said_and_leaves_what_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.jsonl"
    whole = filled(path)

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "no space")

    with open_cache(path) as cache:
        monkeypatch.setitem(cache.__dict__, "_stream", Full())
        with pytest.raises(StoreError, match="no space left"):
            cache.put("more", "answer")
        assert cache.get("more") is None
        monkeypatch.undo()
    assert path.read_bytes() == whole
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="can't write"), open_cache(tmp_path / "file" / "c.jsonl"):
        pass
