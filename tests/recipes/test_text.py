"""A recipe's YAML is text and nothing else: no code, no references, no guesses."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from moralprobe.errors import DataError, UsageError
from moralprobe.recipes.text import (
    DEPTH,
    LIMIT,
    find_recipe,
    parse_overrides,
    parse_tree,
    read_tree,
    recipes_at,
    to_text,
    with_overrides,
)


def read(text: str) -> dict:
    return parse_tree(text.encode(), "recipe.yaml")


def test_scalars_stay_as_they_were_written() -> None:
    # YAML itself would make of these a number, a number, a truth, a date, and of 1e-3 a word.
    text = "a: 0123\nb: 1:30\nc: on\nd: 2024-01-01\ne: 1e-3\nf:\ng: null\nh: ~\ni: 'null'\nj: ''\n"
    found = read(text + "k: [1, b]\nl: {m: 1}\n")
    assert found == {
        **dict(zip("abcde", ("0123", "1:30", "on", "2024-01-01", "1e-3"), strict=True)),
        **dict.fromkeys("fgh"),
        "i": "null",
        "j": "",
        "k": ["1", "b"],
        "l": {"m": "1"},
    }


def nested(depth: int) -> str:
    return "a: " + "[" * (depth - 1) + "]" * (depth - 1)


LAUGHS = "a0: &a0 ha\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "anchors and aliases"),
        ("a: &x 1\nb: *x\n", "anchors and aliases"),
        ("a: &x 1\n", "anchors and aliases"),
        ("a: &x {b: 1}\n<<: *x\n", "anchors and aliases"),
        ("a: !!python/object/apply:pathlib.Path.touch [ran]\n", "the tag .*asks for more"),
        ("a: !!python/name:os.system ''\n", "the tag"),
        ("a: !!int '1'\n", "the tag"),
        ("!x\na: 1\n", "the tag"),
        ("a: !x\n  b: 1\n", "the tag"),
        (nested(DEPTH + 1), f"more than {DEPTH}"),
        ("[" * 30_000, f"more than {DEPTH}"),
        ("{a: " * 10_000, f"more than {DEPTH}"),
        ("? {b: 1}\n: 1\n", "a key is a name"),
        ("? [b]\n: 1\n", "a key is a name"),
        ("a: 1\nb: 2\na: 3\n", "the second time in line 3"),
        ("a:\n  b: 1\n  b: 1\n", "the second time in line 3"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
        ("- a\n", "no mapping"),
        ("smollm2\n", "no mapping"),
        ("", "no mapping"),
        ("a: [1\n", "line 2"),
        ("a: b: c\n", "line 1"),
        ("a: \x07\n", "special characters"),
    ],
    ids=lambda value: value[:24].replace("\n", " "),
)
def test_what_is_more_than_text_is_refused(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        read(text)
    assert re.search(why, caught.value.why), caught.value
    assert caught.value.instead and "recipe.yaml" in caught.value.what
    assert not list(tmp_path.iterdir()) and time.monotonic() - started < 2


def test_as_deep_as_is_allowed_is_read() -> None:
    assert read(nested(DEPTH))["a"] == [[[[[[[]]]]]]]


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    line = b"a: 1 # "
    path.write_bytes(line + b"x" * (LIMIT - len(line)))
    assert read_tree(path) == {"a": "1"}
    path.write_bytes(line + b"x" * (LIMIT + 1 - len(line)))
    with pytest.raises(DataError, match="65,536 bytes"):
        read_tree(path)
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(DataError, match=r"isn't UTF-8. line 2"):
        read_tree(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_tree(path) == {"a": "1"}
    with pytest.raises(DataError, match="can't read"):
        read_tree(tmp_path / "none.yaml")


def test_dotted_keys_take_other_values_and_the_recipe_stays() -> None:
    tree = {"model": "a", "sae": {"train": {"steps": "1"}}, "probe": None}
    found = with_overrides(
        tree,
        {"model": "b=c", "sae.train.steps": "2", "probe.draws": "3", "topology.fit": "null"},
    )
    assert found == {
        "model": "b=c",
        "sae": {"train": {"steps": "2"}},
        "probe": {"draws": "3"},
        "topology": {"fit": None},
    }
    assert tree == {"model": "a", "sae": {"train": {"steps": "1"}}, "probe": None}


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"model.name": "x"}, "model is 'a'"),
        ({"a..b": "x"}, "joined by dots"),
        ({"Probe": "x"}, "joined by dots"),
        ({"": "x"}, "joined by dots"),
    ],
)
def test_keys_that_lead_nowhere_are_refused(overrides: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        with_overrides({"model": "a"}, overrides)


def test_overrides_are_read_from_the_command_line() -> None:
    assert parse_overrides(["a.b=1", "c=x=y", "d="]) == {"a.b": "1", "c": "x=y", "d": ""}
    for texts, why in ((["a"], "no ="), (["a=1", "a=2"], "set twice")):
        with pytest.raises(UsageError, match=why):
            parse_overrides(texts)


def test_recipes_come_with_moralprobe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"qwen3-8b", "smollm2"} <= recipes_at().keys()
    assert find_recipe("smollm2") == recipes_at()["smollm2"]
    Path("smollm2").write_text("model: mine\n")
    assert find_recipe("smollm2") == Path("smollm2")
    with pytest.raises(UsageError, match="did you mean smollm2"):
        find_recipe("smolm2")


def test_what_is_written_is_read_again() -> None:
    tree = {"a": {"b": 1, "c": 1e-05, "d": True, "e": None}, "f": "1,2", "g": "12", "h": "é: x"}
    text = to_text(tree, "A line.")
    assert text.startswith("# A line.\n") and "1.0e-05" in text
    assert read(text) == {
        "a": {"b": "1", "c": "1.0e-05", "d": "true", "e": None},
        "f": "1,2",
        "g": "12",
        "h": "é: x",
    }
