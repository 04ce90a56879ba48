"""Running text from files: verbatim, blank lines left out, and bad lines named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moralprobe.data.texts import Texts, load_lines
from moralprobe.errors import DataError


def test_lines_are_kept_verbatim_and_blank_ones_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone  two \r\n\n \t\n三\u2028x\nlast".encode())
    assert load_lines(file) == ["one  two ", "三\u2028x", "last"]


def test_json_lines_give_their_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": t, "id": 1}) for t in ("a\nb", " ", "c")))
    assert load_lines(file) == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2 is no object with a field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n[1', "line 2 is no object"),
        ("a.jsonl", b'{"text": 3}', "of line 1 is no string"),
        ("a.txt", b"a\nb\xff", "line 2"),
        ("a.txt", b"\n \n", "all lines are blank"),
        ("a.csv", b"a", r"ends in \.csv"),
    ],
)
def test_what_cant_be_read_is_named(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        load_lines(tmp_path / name)


def test_a_file_that_isnt_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't read"):
        load_lines(tmp_path / "none.txt")


def test_texts_are_a_table(tmp_path: Path) -> None:
    table = Texts(["b", "a"])
    assert table.frame["action"].to_list() == ["b", "a"]
    assert table.to_bytes()[:4] == b"PAR1"
    assert Texts([]).frame.height == 0
