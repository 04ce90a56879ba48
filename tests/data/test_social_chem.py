from __future__ import annotations

from pathlib import Path

import pytest

from moralprobe.data.social_chem import load_rows
from moralprobe.errors import DataError

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
