"""What communities answered: questions with options, and for each community its distribution."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.behavior.tables import read_table
from moralprobe.errors import DataError

Floats = NDArray[np.float64]
COLUMNS: Final = (
    *("question", "option", "community", "count", "share"),
    *("ordinal", "refusal", "battery"),
)
MOST_OPTIONS: Final = 26
"""As many as there are letters."""
_STEM: Final = 6  # words that questions of one battery begin with
_REFUSALS: Final = re.compile(
    r"\b(?:DK|don['’]?t know|refus\w*|no answer|not sure|missing|not asked|not applicable|"
    r"none of (?:these|the above))\b",
    re.I,
)
_ROUNDED: Final = 0.02  # by which shares may miss 1
_FRAME: Final = re.compile(r"^\s*Question:\s*(.*?)\s*\nOptions:.*$", re.S)


@dataclass(frozen=True)
class Item:
    """A question with its options.

    `refusals` are the options by which nothing is said; `ordinal` says that the others stand in an
    order, of which a Wasserstein distance makes sense. `battery` names the questions that it was
    put with, which are answered alike.
    """

    question: str
    options: tuple[str, ...]
    refusals: tuple[int, ...] = ()
    ordinal: bool = False
    battery: str = ""

    @property
    def unit(self) -> str:
        """What is resampled, and kept on one side of a split, as one: its battery; where none is
        named, the questions that begin with the same six words.
        """
        words = re.findall(r"\w+", self.question.casefold())[:_STEM]
        return self.battery or " ".join(words)


@dataclass(frozen=True)
class Answers:
    """What one community answered to one question: `shares` [options], 0 to 1, that sum to 1.

    `count` is how many were asked, None where nobody said.
    """

    item: Item
    community: str
    shares: Floats
    count: int | None = None


@dataclass(frozen=True)
class Survey:
    """Answers of communities."""

    answers: tuple[Answers, ...]

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def communities(self) -> tuple[str, ...]:
        """Who answered, those with most answers first; of as many in the order of their names."""
        n = Counter(one.community for one in self.answers)
        return tuple(sorted(n, key=lambda name: (-n[name], name)))

    def of(self, communities: Sequence[str]) -> Survey:
        """Return the answers of some communities."""
        some = set(communities)
        return Survey(tuple(one for one in self.answers if one.community in some))

    def best_covered(self, n: int) -> Survey:
        """Return the answers of the n communities that have most of them.

        Raises:
            DataError: fewer communities.
        """
        names = self.communities
        if n > len(names):
            raise DataError(
                f"there aren't {n} communities", f"{len(names)} answered", "ask for fewer"
            )
        return self.of(names[:n])

    def fewest(self) -> int:
        """Return how many answers the community with the fewest has."""
        return min(Counter(one.community for one in self.answers).values())


def load_survey(path: str | Path) -> Survey:
    """Read a survey.

    Args:
        path: a table with a line an option, `question`, `option`, `community`, and `count` or
            `share`; and where it is known `ordinal` (the options stand in the order of the lines),
            `refusal` (by this option nothing is said; found by its words where the column is
            missing) and `battery`. Or GlobalOpinionQA's JSON: `question`, `options`, `attribute`
            (the community), `gold_distribution`.

    Raises:
        DataError: what can't be read, options that don't match, shares that don't sum to one,
            counts that are no whole numbers, a question twice for one community.
    """
    path = Path(path)
    answers = _json(path) if path.suffix == ".json" else _table(path)
    twice = Counter((one.item.question, one.item.options, one.community) for one in answers)
    if repeated := [key for key, n in twice.items() if n > 1]:
        question, _, community = repeated[0]
        raise DataError(
            f"{path} has a question twice for one community",
            f"{community}: {question[:60]!r}",
            "leave one out",
        )
    if not answers:
        raise DataError(f"{path} holds no answers", "it is empty", "give some")
    return Survey(tuple(answers))


def _json(path: Path) -> list[Answers]:
    first: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
        found = []
        for row in rows:
            framed = _FRAME.match(row["question"])
            question = framed[1] if framed else row["question"]
            options, shares = tuple(row["options"]), list(row["gold_distribution"])
            # The same options in another order are the same question.
            known = first.setdefault((question, frozenset(options)), options)
            if len(set(options)) == len(options) == len(shares):
                shares = [shares[options.index(option)] for option in known]
                options = known
            item = _item(question, options, path)
            found.append(_checked(item, row["attribute"], shares, None, path))
    except OSError as error:
        raise DataError(
            f"can't read {path}", str(error.strerror or error), "check the path"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no survey",
            f"a row lacks what it needs: {error!r}",
            "give question, options, attribute and gold_distribution",
        ) from error
    return found


def _table(path: Path) -> list[Answers]:
    frame = read_table(path, COLUMNS)
    missing = {"question", "option", "community"} - set(frame.columns)
    if missing or not {"count", "share"} & set(frame.columns):
        raise DataError(
            f"{path} is no survey",
            f"it has no column {min(missing) if missing else 'count or share'!r}",
            "give question, option, community, and count or share",
        )
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        named_by = [str(row[name] or "").strip() for name in ("question", "option", "community")]
        if not all(named_by):
            raise DataError(
                f"{path} has an empty cell",
                f"question, option, community: {named_by}",
                "give all three in every line",
            )
        rows.setdefault((str(row["question"]), str(row["community"])), []).append(row)
    options: dict[str, tuple[str, ...]] = {}
    found = []
    for (question, community), some in rows.items():
        named = tuple(str(row["option"]) for row in some)
        if set(options.setdefault(question, named)) != set(named) or len(set(named)) < len(named):
            raise DataError(
                f"{path} has options that don't match",
                f"{community} has {', '.join(named)} for {question[:60]!r}, others "
                f"{', '.join(options[question])}",
                "give every community the same options, each once",
            )
        by_option = {str(row["option"]): row for row in some}
        ordered = [by_option[name] for name in options[question]]
        item = _item(question, options[question], path, ordered)
        counted = "count" in frame.columns and ordered[0]["count"] is not None
        if counted or "share" not in frame.columns:
            counts = [_number(row["count"], path, "count") for row in ordered]
            if any(c != int(c) or c < 0 for c in counts) or sum(counts) == 0:
                raise DataError(
                    f"{path} has counts that are none", f"{counts}", "give whole numbers"
                )
            n = int(sum(counts))
            found.append(Answers(item, community, np.array(counts) / n, n))
        else:
            shares = [_number(row["share"], path, "share") for row in ordered]
            found.append(_checked(item, community, shares, None, path))
    return found


def _number(value: Any, path: Path, what: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{path} has a {what} that is no number", repr(value), "correct it")
    return found


def _item(
    question: str,
    options: tuple[str, ...],
    path: Path,
    lines: Sequence[Mapping[str, Any]] = (),
) -> Item:
    """Return an item, with what the lines of its options say of it."""
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise DataError(
            f"{path} has a question of {len(options)} option{'s' if len(options) != 1 else ''}",
            repr(question[:60]),
            f"give it 2 to {MOST_OPTIONS}",
        )
    if lines and "refusal" in lines[0]:
        refusals = tuple(i for i, line in enumerate(lines) if _yes(line["refusal"]))
    else:
        refusals = tuple(i for i, option in enumerate(options) if _REFUSALS.search(option))
    ordinal = bool(lines) and _yes(lines[0].get("ordinal"))
    battery = str((lines[0].get("battery") if lines else None) or "").strip()
    return Item(question, options, refusals, ordinal, battery)


def _yes(value: Any) -> bool:
    return str(value if value is not None else "").strip().casefold() in ("1", "1.0", "true", "yes")


def _checked(
    item: Item, community: str, shares: Sequence[float], count: int | None, path: Path
) -> Answers:
    values = np.array([_number(x, path, "share") for x in shares], np.float64)
    if len(values) != len(item.options) or len(values) < 2:
        raise DataError(
            f"{path} has options that don't match",
            f"{len(item.options)} options and {len(values)} shares: {item.question[:60]!r}",
            "give a share for each of two options or more",
        )
    total = float(values.sum())
    if values.min() < 0 or abs(total - 1) > _ROUNDED:
        raise DataError(
            f"{path} has a distribution that isn't one",
            f"{community}: shares from {values.min():g} that sum to {total:g}: "
            f"{item.question[:60]!r}",
            "give shares from 0 to 1 that sum to 1",
        )
    return Answers(item, community, values / total, count)


def with_count(survey: Survey, n: int) -> Survey:
    """Return a survey in which n respondents are assumed wherever nobody said how many."""
    return Survey(
        tuple(
            replace(one, count=one.count if one.count is not None else n) for one in survey.answers
        )
    )
