"""What a model is asked, steered or not: prompts that it answers, and items of moral suites."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moralprobe.data.social_chem import Rule, sha256_of
from moralprobe.data.splits import group_of, normalise
from moralprobe.errors import DataError, UsageError, nearest

NAMES: Final[tuple[str, ...]] = ("english",)
"""Sets that ship with the package."""
FLAMES: Final = "flames"
"""The set that is downloaded."""
SUFFIXES: Final[tuple[str, ...]] = (".jsonl", ".txt")
LONGEST: Final = 20_000
"""Characters of a prompt: what is longer is no question but a file that went astray."""
_TEXT: Final = ("text", "prompt")
_GROUP: Final = ("group", "dimension")
_SUBGROUP: Final = ("subgroup", "subcomponent")
_NO_GROUP: Final = "all"
PARTS: Final = ("commonsense", "deontology", "justice", "utilitarianism", "virtue")
"""The parts of ETHICS."""
_FILES: Final = {"commonsense": "cm", "utilitarianism": "util"}
_COLUMNS: Final = {
    "commonsense": ("input", "is_short"),
    "deontology": ("scenario", "excuse"),
    "justice": ("scenario", ""),
    "virtue": ("scenario", ""),
    "utilitarianism": ("first", "second"),
}


@dataclass(frozen=True)
class Prompt:
    """One prompt. `group` and `subgroup` are in lower case; `id` is the same for the same text."""

    id: str
    text: str
    group: str
    subgroup: str


@dataclass(frozen=True)
class Prompts:
    """Prompts in the order of their file, what was dropped on reading, and where they come from."""

    prompts: tuple[Prompt, ...]
    rules: tuple[Rule, ...]
    name: str
    sha256: str

    def __len__(self) -> int:
        return len(self.prompts)


def load_prompts(source: str | Path) -> Prompts:
    """Read prompts.

    Args:
        source: `english`, or a file: `.jsonl` with objects that have a field `text` or `prompt`,
            and may have `id`, `group` or `dimension`, `subgroup` or `subcomponent` (Flames is
            one); or `.txt`, a prompt a line.

    Prompts without a group are all in one. Names of groups are compared in lower case and with
    single blanks, so that "Data protection" and "Data Protection" are one.

    Raises:
        DataError: a file that can't be read, a line that isn't a prompt, an id that stands twice,
            or no prompt left.
        UsageError: a name of no set.
    """
    path = _path_of(source)
    lines = read_lines(path)
    if path.suffix == ".jsonl":
        found = [_prompt(record, path, row) for row, record in parse_objects(path, lines)]
    else:
        found = [Prompt("", line.strip(), _NO_GROUP, "") for _, line in lines]
    prompts, rules = _kept(found)
    if not prompts:
        dropped = "; ".join(f"{rule.name}: {rule.dropped}" for rule in rules if rule.dropped)
        raise DataError(f"{path} holds no prompt", dropped or "all lines are blank", "check it")
    _refuse_equal_ids(prompts, path)
    return Prompts(tuple(prompts), rules, path.name, sha256_of(path))


@dataclass(frozen=True)
class Story:
    """What is asked for, and two actions of which one does it."""

    norm: str
    context: str
    moral: str
    immoral: str


def load_moral_stories(path: Path) -> list[Story]:
    """Read Moral Stories (Emelin et al. 2021).

    Args:
        path: JSON lines, either stories with both actions, or a line an action, in which the two of
            a story have one `ID` but for its last character.

    Raises:
        DataError: a file that can't be read, or a story without a norm or one of its actions.
    """
    stories: dict[str, dict[str, str]] = {}
    for row, record in parse_objects(path, read_lines(path)):
        names = ("norm", "situation", "intention", "moral_action", "immoral_action", "ID")
        found = {name: (field(record, (name,), path, row) or "").strip() for name in names}
        whole = bool(found["moral_action"] and found["immoral_action"])
        story = stories.setdefault(str(row) if whole else found["ID"][:-1], {})
        if story and story.get("norm", "") != found["norm"]:
            raise DataError(
                f"{path} has a story with two norms",
                f"line {row}, of the story {found['ID'][:-1]!r}, has another norm than before",
                "give the file as it was published",
            )
        story |= {name: text for name, text in found.items() if text}
    for name, story in stories.items():
        missing = [f for f in ("norm", "moral_action", "immoral_action") if not story.get(f)]
        if missing:
            raise DataError(
                f"{path} has a story without {missing[0]!r}",
                f"the story {story.get('ID', name)!r} has {', '.join(story)}",
                "give the file as it was published",
            )
    if not stories:
        raise DataError(f"{path} holds no story", "it is empty", "check the file")
    return [
        Story(
            story["norm"],
            " ".join(story[name] for name in ("situation", "intention") if name in story),
            story["moral_action"],
            story["immoral_action"],
        )
        for story in stories.values()
    ]


@dataclass(frozen=True)
class Case:
    """An item of ETHICS. `group` numbers the cases that vary one scenario.

    `other` is the excuse of deontology, the trait of virtue, and the second text of utilitarianism,
    of which the first is the pleasanter; `label` is 1 for wrong (commonsense), reasonable, shown.
    """

    part: str
    text: str
    other: str
    label: int
    group: int


def load_ethics(folder: Path, part: str) -> list[Case]:
    """Read the test items of a part of ETHICS (Hendrycks et al. 2021).

    Of commonsense morality only the short ones are read: the others are told over pages.

    Args:
        folder: with the files as published, in a folder each or all in one.
        part: one of `PARTS`.

    Raises:
        UsageError: an unknown part.
        DataError: a file that is missing, or a row that isn't an item.
    """
    if part not in PARTS:
        raise UsageError(f"ETHICS has no part {part!r}", nearest(part, PARTS), "choose one")
    name = f"{_FILES.get(part, part)}_test.csv"
    nested = Path(folder) / part / name
    path = nested if nested.exists() else Path(folder) / name
    written = io.StringIO("\n".join(line for _, line in read_lines(path)), newline="")
    headless = part == "utilitarianism"
    names = ["label", *_COLUMNS[part]]
    try:
        table = list(csv.DictReader(written, names[1:] if headless else None, restval=""))
    except csv.Error as error:
        raise DataError(f"can't read {path} as a table", str(error), "check the file") from error
    cases: list[Case] = []
    before = ""
    for row, cells in enumerate(table, 1):
        label, text, other = (str(cells.get(name, "")).strip() for name in names)
        if part == "virtue":
            text, _, other = (piece.strip() for piece in text.partition("[SEP]"))
        if headless:
            label = "1"
        if label not in {"0", "1"} or not text or not (other or part == "justice"):
            raise DataError(
                f"{path} has a row that is no item",
                f"row {row} has {str(cells)[:120]}",
                "give the file as it was published",
            )
        if part == "commonsense" and other != "True":
            continue
        varied = part in ("deontology", "virtue") and text == before
        varied |= part == "justice" and _alike(text, before)
        group = cases[-1].group + (not varied) if cases else 0
        before = text
        other = "" if part == "commonsense" else other
        cases.append(Case(part, text, other, int(label), group))
    if not cases:
        raise DataError(f"{path} holds no item", "no row is one", "give the file as published")
    return cases


def _alike(a: str, b: str) -> bool:
    """Return whether texts begin and end alike, by a quarter of the words of the shorter one.

    Justice has four variants of a sentence, of its reason or of what it is the reason for.
    """
    x, y = a.split(), b.split()
    n = min(len(x), len(y))
    first = next((i for i in range(n) if x[i] != y[i]), n)
    last = next((i for i in range(n) if x[-1 - i] != y[-1 - i]), n)
    return n > 0 and first + last >= n / 4


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return a file's lines that aren't blank, each with its number from 1.

    Raises:
        DataError: a file that can't be read or isn't UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"can't read {path}", str(error.strerror or error), "check it") from error
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path} isn't UTF-8", f"line {row}", "convert it to UTF-8") from error
    return [(row, line.removesuffix("\r")) for row, line in enumerate(lines, 1) if line.strip()]


def parse_objects(path: Path, lines: Sequence[tuple[int, str]]) -> list[tuple[int, dict[str, Any]]]:
    """Return lines of JSON as objects, each with its number.

    Raises:
        DataError: a line that is no object.
    """
    found = []
    for row, line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise DataError(
                f"{path} isn't JSON lines", f"line {row} is no object", "write one object a line"
            )
        found.append((row, record))
    return found


def field(record: dict[str, Any], names: Sequence[str], path: Path, row: int) -> str | None:
    """Return the first of an object's fields that it has, as text; None where it has none.

    Raises:
        DataError: a field that is no text.
    """
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if isinstance(value, str) and _is_unicode(value):
            return value
        raise DataError(
            f"{path} has a field {name!r} that is no text",
            f"line {row} has {str(value)[:80]!r}",
            "write it as a string",
        )
    return None


def _path_of(source: str | Path) -> Path:
    if str(source) in NAMES:
        return Path(__file__).with_name(f"{source}.jsonl")
    path = Path(source)
    if path.suffix in SUFFIXES:
        return path
    if path.suffix or path.exists():
        raise DataError(
            f"{path} holds no prompts that can be read",
            f"it ends in {path.suffix or 'nothing'}",
            f"give a file in {' or '.join(SUFFIXES)}",
        )
    raise UsageError(
        f"there is no set of prompts {str(source)!r}",
        nearest(str(source), NAMES),
        f"name one, or a file in {' or '.join(SUFFIXES)}",
    )


def _prompt(record: dict[str, Any], path: Path, row: int) -> Prompt:
    text = field(record, _TEXT, path, row)
    if text is None:
        raise DataError(
            f"{path} has a line without a prompt",
            f"line {row} has no field {' or '.join(map(repr, _TEXT))}",
            "write one object with such a field a line",
        )
    number = record.get("id")
    if isinstance(number, int):
        record = {**record, "id": str(number)}
    return Prompt(
        id=field(record, ("id",), path, row) or "",
        text=text.strip(),
        group=normalise(field(record, _GROUP, path, row) or "") or _NO_GROUP,
        subgroup=normalise(field(record, _SUBGROUP, path, row) or ""),
    )


def _kept(found: Sequence[Prompt]) -> tuple[list[Prompt], tuple[Rule, ...]]:
    """Give each prompt its id, and say what was dropped."""
    texts = [prompt for prompt in found if prompt.text]
    short = [prompt for prompt in texts if len(prompt.text) <= LONGEST]
    distinct: dict[str, Prompt] = {}
    for prompt in short:
        group = group_of(prompt.text)
        named = Prompt(prompt.id or group, prompt.text, prompt.group, prompt.subgroup)
        distinct.setdefault(group, named)
    return list(distinct.values()), (
        Rule("no text", len(found) - len(texts)),
        Rule(f"longer than {LONGEST:,} characters", len(texts) - len(short)),
        Rule("the same text again", len(short) - len(distinct)),
    )


def _refuse_equal_ids(prompts: Sequence[Prompt], path: Path) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(
                f"{path} has two prompts of one id",
                f"{prompt.id!r} stands twice",
                "give each its own, or leave the ids out",
            )
        seen.add(prompt.id)


def _is_unicode(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which no tokenizer takes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
