from __future__ import annotations

import re
from pathlib import Path

import pytest

from moralprobe.data.social_chem import load_rows
from moralprobe.errors import DataError
from tests.sources import SOURCES

HEADER = "action\trot-moral-foundations\taction-moral-judgment\taction-agree\n"


def load(path: Path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_rows(path, schema="li2026", agreement="action-agree")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(DataError, match="can't read"):
            load_rows(path, schema="li2026", agreement="action-agree")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\tb\n1\t2\n", "no column 'action'"),
        (
            HEADER.replace("action-moral-judgment", "judgement") + "x\tcare-harm\t1\t4\n",
            "no column 'action-moral-judgment'",
        ),
        (
            HEADER + "x\tcare-harms\t1\t4\n",
            "data row 1: unknown foundation 'care-harms'.*did you mean care-harm",
        ),
        (
            HEADER + "x\tcare-harm\t1\t4\ny\tcare-harm\t3\t4\n",
            "data row 2: action-moral-judgment is '3'",
        ),
        (HEADER + "x\tcare-harm\t1.5\t4\n", "action-moral-judgment is '1.5'"),
        (HEADER + "x\tcare-harm\tgood\t4\n", "action-moral-judgment is 'good'"),
        (HEADER + "x\tcare-harm\tnan\t4\n", "action-moral-judgment is 'nan'"),
        (HEADER + "x\tcare-harm\t1\t-1\n", "action-agree is '-1'"),
        (HEADER.encode() + b"caf\xe9 \xff\tcare-harm\t1\t4\n", "can't read"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "bad.tsv", text)


def test_separators_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    tab = load(tmp_path / "t.tsv", HEADER + '"say ""no"" loudly"\tcare-harm\t1.0\t4\n')
    assert tab.kept["action"].to_list() == ['say "no" loudly']
    comma = load(
        tmp_path / "c.csv",
        b"\xef\xbb\xbf"
        + HEADER.replace("\t", ",").encode()
        + b'"a, b","care-harm|loyalty-betrayal",-2,3\n',
    )
    assert comma.kept["action"].to_list() == ["a, b"]
    assert comma.kept["axes"].to_list() == ["care-harm|loyalty-betrayal"]
    semicolon = load(tmp_path / "s.csv", HEADER.replace("\t", ";") + "a;care-harm;-2;3\n")
    assert semicolon.kept["action-moral-judgment"].to_list() == [-2]


def test_tags_are_a_set_in_the_axes_order(tmp_path: Path) -> None:
    rows = load(tmp_path / "t.tsv", HEADER + "a\tloyalty-betrayal|care-harm|care-harm\t1\t4\n")
    assert rows.kept["axes"].to_list() == ["care-harm|loyalty-betrayal"]


def test_rows_are_numbered_by_the_source(tmp_path: Path) -> None:
    rows = load(tmp_path / "t.tsv", HEADER + "a\t\t1\t4\nb\tcare-harm\t1\t4\n")
    assert rows.kept["row"].to_list() == [1] and rows.n_source == 2
    assert len(rows.sha256) == 64


# -- F13, F15: texts that are unusual, and texts that are none ---------------------------------------

ODD = {
    "NUL": "a\0b",
    "bidi": "abc \u202edef\u2066 \u200f",
    "line separators": "a\u0085b\u2028c\x0cd",
    "byte order mark": "\ufeffa",
    "beyond the plane": "\U0001f600\u0301",
    "1 MB": "words " * 180_000 + "end",
    "formula": "=1+1",
    "call": "@SUM(A1:A9)",
    "plus": "+1",
    "minus": "-x|calc",
    "tab inside": "=cmd|' /C calc'!A0",
}


@pytest.mark.parametrize("kind", ODD)
def test_unusual_texts_are_kept_verbatim(tmp_path: Path, kind: str) -> None:
    rows = [f"{text}\tcare-harm\t1\t4\n" for text in ("first", ODD[kind], "last")]
    kept = load(tmp_path / "t.tsv", HEADER + "".join(rows)).kept["action"].to_list()
    assert kept == ["first", ODD[kind], "last"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"caf\xe9", "byte 4 is not UTF-8.*reads e9"),
        (b"a \xed\xa0\x80 b", "byte 3 is not UTF-8.*reads ed"),
        (b"\xff\xfea\0", "byte 1 is not UTF-8.*reads ff"),
        (b"words " * 200_000 + b"\xc3", "byte 1200001 is not UTF-8"),
    ],
    ids=["latin-1", "lone surrogate", "UTF-16", "at the end of 1 MB"],
)
def test_a_text_that_is_none_is_named_by_its_line(tmp_path: Path, text: bytes, found: str) -> None:
    after = b"\tcare-harm\t1\t4\n"
    with pytest.raises(DataError, match=rf"t\.tsv: line 3, {found}"):
        load(tmp_path / "t.tsv", HEADER.encode() + b"first" + after + text + after + b"x" + after)
    rest = load(tmp_path / "t.tsv", HEADER.encode() + b"first" + after + b"x" + after)
    assert rest.kept["action"].to_list() == ["first", "x"]


def test_nothing_is_exported_for_a_spreadsheet() -> None:
    """So that no cell has to be made harmless; whoever adds such an export does that too."""
    exports = re.compile(r"write_csv|to_csv|write_excel|to_excel|csv\.writer|DictWriter")
    assert [path.name for path in SOURCES if exports.search(path.read_text("utf-8"))] == []
