"""What communities answered: questions with options, and for each community its distribution."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.behavior.tables import read_table
from moralprobe.errors import DataError

Floats = NDArray[np.float64]
COLUMNS: Final = ("question", "option", "community", "count", "share", "ordinal")
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
    order, of which a Wasserstein distance makes sense.
    """

    question: str
    options: tuple[str, ...]
    refusals: tuple[int, ...] = ()
    ordinal: bool = False


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
            `share`; and where it is known `ordinal`. Or GlobalOpinionQA's JSON: `question`,
            `options`, `attribute` (the community), `gold_distribution`.

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
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
        found = []
        for row in rows:
            framed = _FRAME.match(row["question"])
            item = _item(framed[1] if framed else row["question"], tuple(row["options"]), None)
            found.append(_checked(item, row["attribute"], row["gold_distribution"], None, path))
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
        ordinal = str(some[0].get("ordinal") or "").strip().casefold() in ("1", "true", "yes")
        item = _item(question, options[question], ordinal)
        if "count" in frame.columns and ordered[0]["count"] is not None:
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


def _item(question: str, options: tuple[str, ...], ordinal: bool | None) -> Item:
    refusals = tuple(i for i, option in enumerate(options) if _REFUSALS.search(option))
    return Item(question, options, refusals, bool(ordinal))


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
