"""Prompts as they are written, and split into halves that depend on nothing but their text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from moralprobe.errors import DataError, UsageError
from moralprobe.evaluation.prompts import (
    LONGEST,
    PARTS,
    load_ethics,
    load_moral_stories,
    load_prompts,
)
from moralprobe.foundations import AXES
from tests.conftest import shared_file


def written(folder: Path, *records: object, name: str = "p.jsonl") -> Path:
    (folder / name).write_text("\n".join(json.dumps(r) for r in records), "utf-8")
    return folder / name


def test_the_set_that_ships_has_twelve_different_prompts_of_each_foundation() -> None:
    found = load_prompts("english")
    assert Counter(p.group for p in found.prompts) == {axis.virtue: 12 for axis in AXES}
    assert all(rule.dropped == 0 for rule in found.rules) and len(found) == 60
    assert len({p.subgroup for p in found.prompts}) == 5
    words = [len(p.text.split()) for p in found.prompts]
    assert max(words) > 3 * min(words)


def test_flames_has_five_dimensions() -> None:
    found = load_prompts(shared_file("flames", "Flames_1k_Chinese.jsonl"))
    assert Counter(p.group for p in found.prompts) == {
        "safety": 429,
        "fairness": 249,
        "morality": 201,
        "data protection": 75,
        "legality": 46,
    }
    assert len({p.subgroup for p in found.prompts}) == 12
    assert len({p.id for p in found.prompts}) == 1000


def test_groups_are_one_however_they_are_spelled(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"prompt": "a", "dimension": "Data protection", "subcomponent": "X"},
        {"prompt": "b", "dimension": "Data  Protection "},
        {"text": "c", "group": "data protection", "id": 7},
        {"text": "d"},
    )
    found = load_prompts(file).prompts
    assert [p.group for p in found] == ["data protection"] * 3 + ["all"]
    assert [p.subgroup for p in found] == ["x", "", "", ""]
    assert found[2].id == "7" and found[0].id != found[1].id


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"text": " one\nline "},
        {"text": "ONE  line"},
        {"text": " \n"},
        {"text": "x" * (1 << 20)},
        {"text": "y" * LONGEST},
    )
    found = load_prompts(file)
    assert [p.text for p in found.prompts] == ["one\nline", "y" * LONGEST]
    assert [rule.dropped for rule in found.rules] == [1, 1, 1]
    assert "20,000" in found.rules[1].name


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffeins \r\n\n三\u2028x\nlast".encode())
    found = load_prompts(file).prompts
    assert [p.text for p in found] == ["eins", "三\u2028x", "last"]
    again = load_prompts(written(tmp_path, {"text": "last"})).prompts
    assert again[0].id == found[2].id


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2 has no field 'text' or 'prompt'"),
        ("p.jsonl", b'{"text": "a"}\n\n[1]', "line 3 is no object"),
        ("p.jsonl", b"[" * 100_000, "line 1 is no object"),
        ("p.jsonl", b'{"text": 3}', "'text' that is no text.*line 1 has '3'"),
        ("p.jsonl", b'{"text": "a", "group": []}', "'group' that is no text"),
        ("p.jsonl", b'{"text": "\\ud800"}', "no text"),
        ("p.jsonl", b'{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}', "'x' stands twice"),
        ("p.jsonl", b'{"text": " "}', "no text: 1"),
        ("p.txt", b"a\nb\xff", "line 2"),
        ("p.txt", b"\n \n", "all lines are blank"),
        ("p.txt", b"", "holds no prompt"),
        ("p.csv", b"a", r"ends in \.csv"),
    ],
)
def test_what_cant_be_read_is_named(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        load_prompts(tmp_path / name)


def test_a_set_or_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean english"):
        load_prompts("englisch")
    with pytest.raises(DataError, match="can't read"):
        load_prompts(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no prompts that can be read"):
        load_prompts(tmp_path)


def test_moral_stories_have_two_actions_of_one_norm(tmp_path: Path) -> None:
    pairs = written(
        tmp_path,
        {"ID": "A1", "norm": "Be kind.", "moral_action": "helps", "label": "1"},
        {"ID": "B0", "norm": "Be fair.", "immoral_action": "cheats", "label": "0"},
        {"ID": "A0", "norm": "Be kind.", "immoral_action": "hits", "label": "0"},
        {"ID": "B1", "norm": "Be fair.", "moral_action": "shares", "label": "1"},
    )
    found = load_moral_stories(pairs)
    assert [(s.norm, s.moral, s.immoral, s.context) for s in found] == [
        ("Be kind.", "helps", "hits", ""),
        ("Be fair.", "shares", "cheats", ""),
    ]
    whole = {"ID": "A", "norm": "n", "situation": "s.", "intention": "i."}
    full = written(tmp_path, whole | {"moral_action": "m", "immoral_action": "w"}, name="f.jsonl")
    assert load_moral_stories(full)[0].context == "s. i."


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"ID": "A1", "norm": "n", "moral_action": "m"}], "without 'immoral_action'"),
        ([{"ID": "A1", "moral_action": "m"}, {"ID": "A0", "immoral_action": "w"}], "'norm'"),
        (
            [
                {"ID": "A1", "norm": "n", "moral_action": "m"},
                {"ID": "A0", "norm": "x", "immoral_action": "w"},
            ],
            "two norms",
        ),
        ([], "no story"),
    ],
)
def test_stories_that_are_not_whole_are_refused(
    tmp_path: Path, records: list[object], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        load_moral_stories(written(tmp_path, *records))


def test_published_moral_stories_are_whole() -> None:
    found = load_moral_stories(shared_file("moral_stories", "original_dev.jsonl"))
    assert len(found) == len({story.norm for story in found}) == 1000


@pytest.mark.parametrize(
    ("part", "n", "true", "groups"),
    [
        ("commonsense", 2109, 0.47, 2109),
        ("deontology", 3596, 0.5, 899),
        ("justice", 2704, 0.5, 676),
        ("utilitarianism", 4808, 1.0, 4808),
        ("virtue", 4975, 0.2, 995),
    ],
)
def test_published_ethics(part: str, n: int, true: float, groups: int) -> None:
    folder = shared_file("ethics", "cm_test.csv").parent
    found = load_ethics(folder, part)
    assert len(found) == n and all(case.text for case in found)
    assert np.mean([case.label for case in found]) == pytest.approx(true, abs=0.03)
    numbers = [case.group for case in found]
    assert numbers == sorted(numbers)
    # A scenario is varied four times in the main, and five times in virtue.
    assert max(numbers) + 1 == pytest.approx(groups, rel=0.03)
    assert all("[SEP]" not in case.text + case.other for case in found)


def test_ethics_in_its_folders_and_as_csv(tmp_path: Path) -> None:
    (tmp_path / "virtue").mkdir()
    (tmp_path / "virtue" / "virtue_test.csv").write_text(
        'label,scenario\n1,"He said, ""no"". [SEP] firm"\n0,"He said, ""no"". [SEP] meek"\n'
    )
    found = load_ethics(tmp_path, "virtue")
    assert [(c.text, c.other, c.label, c.group) for c in found] == [
        ('He said, "no".', "firm", 1, 0),
        ('He said, "no".', "meek", 0, 0),
    ]
    (tmp_path / "justice_test.csv").write_text(
        "label,scenario\n"
        "1,I did it because a\n0,I did it since b\n1,You may do that since b\n0,He left for c\n"
    )
    assert [c.group for c in load_ethics(tmp_path, "justice")] == [0, 0, 0, 1]
    (tmp_path / "cm_test.csv").write_text("label,input,is_short\n1,a,True\n0,b,False\n")
    assert [(c.text, c.other) for c in load_ethics(tmp_path, "commonsense")] == [("a", "")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("virtue", "label,scenario\n1,He left.\n", "row 1"),
        ("deontology", "label,scenario,excuse\n1,a,b\n2,a,b\n", "row 2"),
        ("deontology", "label,scenario\n1,a\n", "row 1"),
        ("utilitarianism", "a\n", "row 1"),
        ("justice", "label,scenario\n", "no item"),
        ("justice", "", "no item"),
    ],
)
def test_rows_that_are_no_items_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    stem = {"utilitarianism": "util"}.get(name, name)
    (tmp_path / f"{stem}_test.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_ethics(tmp_path, name)


def test_a_part_or_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean justice"):
        load_ethics(tmp_path, "justise")
    with pytest.raises(DataError, match="can't read"):
        load_ethics(tmp_path, PARTS[0])
