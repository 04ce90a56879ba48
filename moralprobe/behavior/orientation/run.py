"""Assign a model values, have it answer the items, and say how rationally it follows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.asking import SAID, sampled, status
from moralprobe.behavior.options import LETTERS, letter_said, letters_told, why_not
from moralprobe.behavior.orientation import asking
from moralprobe.behavior.orientation.asking import Session, Settings, sessions
from moralprobe.behavior.orientation.rationality import measures
from moralprobe.behavior.orientation.slider import (
    OPTIONS,
    PRIMARY,
    along,
    angle,
    category,
    secondary_score,
    transitive,
)
from moralprobe.behavior.text_model import Question, TextModel
from moralprobe.cache import Cache
from moralprobe.errors import DataError
from moralprobe.files import write_result

_TOKENS: Final = {"described": 120, "goal": 60}
_MARKUP: Final = re.compile(r"</?[^<>\s]{1,40}>")


@dataclass(frozen=True)
class Orientation:
    """What came of it.

    `choices` has a row a session and item, `sessions` one a session with its angle in degrees,
    `measures` one a value, condition and measure with its interval and what chance gives.
    """

    choices: pl.DataFrame
    sessions: pl.DataFrame
    measures: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `orientation.json`."""
        tables = {"choices": self.choices, "sessions": self.sessions, "measures": self.measures}
        write_result(folder, "orientation", self.summary, tables)


def orient(
    model: TextModel,
    settings: Settings | None = None,
    *,
    draws: int = 1000,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Orientation:
    """Have a model answer the slider measure under every value and condition.

    Args:
        model: any.
        settings: how it is asked.
        draws: resamples of sessions.
        cache: from `open_cache`: the same call continues there.
        progress: called with the steps that are done, their number, and what is done.

    Raises:
        DataError: not one session in which all primary items have an answer.
        NoLogprobsError: the readout `logprob` of a model that tells none.
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    settings = settings or Settings()
    every = sessions(settings)
    items = len(every[0].items)
    steps = 2 + (items if settings.hvae else 1)
    progress(0, steps, "what the values are")
    _describe(model, every, settings, cache)
    progress(1, steps, "what will be aimed at")
    _aim(model, every, settings, cache)
    rows: list[dict[str, Any]] = []
    for done, some in enumerate(_turns(every, settings, items)):
        progress(2 + done, steps, "items")
        rows += _answers(model, some, settings, cache)
    progress(steps, steps, "")
    choices = pl.DataFrame(rows, schema=_CHOICES)
    told = _told(every, choices)
    if not told["angle"].is_not_null().any():
        counts = ", ".join(f"{why} {n}" for why, n in choices["status"].value_counts().iter_rows())
        raise DataError(
            f"{model.name} never answers all items with an option",
            f"{choices.height} answers: {counts}",
            "look at its answers in the cache, or use another readout",
        )
    table = measures(told, draws=draws, seed=settings.seed, novel=settings.novel)
    about = {
        "model": dict(model.identity),
        "name": model.name,
        "settings": {
            **{k: v for k, v in settings.__dict__.items() if k != "readout"},
            "readout": settings.read.kind,
        },
        "draws": draws,
        "sessions": len(every),
        "statuses": dict(choices["status"].value_counts(sort=True).iter_rows()),
        "mass": choices["mass"].mean(),
    }
    return Orientation(choices, told, table, about)


def _describe(
    model: TextModel, every: Sequence[Session], settings: Settings, cache: Cache | None
) -> None:
    """Have the model say what a person with the value is like, where that is asked."""
    if settings.described == "given" and not settings.hvae:
        return
    some = [one for one in every if one.value is not None]
    asked = [Question(asking.described(one.value or ""), seed=one.seed) for one in some]
    for one, question, said in zip(
        some, asked, sampled(model, asked, _TOKENS["described"], cache=cache), strict=True
    ):
        one.failed = _why_failed(said, "description")
        one.described = f"{_plain(said)}\n\n{asking.BE}"
        one.turns.append((question.text, _plain(said)))


def _aim(
    model: TextModel, every: Sequence[Session], settings: Settings, cache: Cache | None
) -> None:
    """Have the model say what it will aim at, under `goal`."""
    some = [one for one in every if one.condition == "goal" and one.failed is None]
    asked = []
    for one in some:
        question = Question(asking.goal(settings), seed=one.seed)
        if settings.hvae:
            text = f"{asking.BE}\n\n{question.text}"
            question = replace(question, text=text, turns=tuple(one.turns))
        elif settings.place == "system":
            question = replace(question, system=one.described)
        else:
            question = replace(question, text=f"{one.described}\n\n{question.text}")
        asked.append(question)
    for one, question, said in zip(
        some, asked, sampled(model, asked, _TOKENS["goal"], cache=cache), strict=True
    ):
        one.failed = _why_failed(said, "goal")
        one.goal = _plain(said)
        one.turns.append((question.text, one.goal))


def _why_failed(said: str, what: str) -> str | None:
    """Return why nothing was said that a session can go on with."""
    why = status(said)
    return None if why == SAID else f"no {what}: {why}"


def _plain(said: str) -> str:
    """Return words on one line, without markup that could be taken for a role's or a thought's."""
    return " ".join(_MARKUP.sub(" ", said).split())


def _turns(
    every: Sequence[Session], settings: Settings, items: int
) -> Iterator[list[tuple[Session, int]]]:
    """Yield what is asked together: all items, or in a dialogue one of each session."""
    if settings.hvae:
        for k in range(items):
            yield [(one, k) for one in every]
    else:
        yield [(one, k) for one in every for k in range(items)]


def _answers(
    model: TextModel,
    some: Sequence[tuple[Session, int]],
    settings: Settings,
    cache: Cache | None,
) -> list[dict[str, Any]]:
    """Ask for items, and return a row of each answer."""
    questions = []
    for one, k in some:
        text, system = asking.item_question(settings, one, k)
        turns = tuple(one.turns) if settings.hvae else ()
        if settings.hvae and k == 0 and one.condition == "no-goal":
            text = f"{asking.BE}\n\n{text}"
        questions.append(Question(text, system, one.seed + k, turns))
    read = _sampled if settings.read.kind == "sampled" else _likeliest
    asked = [i for i, (one, _) in enumerate(some) if one.failed is None]
    answers = read(model, [questions[i] for i in asked], settings, cache)
    given = dict(zip(asked, answers, strict=True))
    rows = []
    for i, ((one, k), question) in enumerate(zip(some, questions, strict=True)):
        nothing: _Read = (None, None, None, one.failed or "", "")
        letter, shares, mass, why, said = given.get(i, nothing)
        option = None if letter is None else one.orders[k][letter]
        item = one.items[k]
        order = list(one.orders[k])
        expected = [
            None if shares is None else float(shares @ np.array(x)[order])
            for x in (item.own, item.other)
        ]
        rows.append(
            {
                "value": one.value,
                "condition": one.condition,
                "session": one.number,
                "item": item.name,
                "k": k,
                "letter": None if letter is None else LETTERS[letter],
                "option": option,
                "own": None if option is None else item.own[option],
                "other": None if option is None else item.other[option],
                "expected_own": expected[0],
                "expected_other": expected[1],
                "mass": mass,
                "status": why,
                "said": said,
            }
        )
        if settings.hvae:
            answer = _plain(said) if letter is None else LETTERS[letter]
            one.turns.append((question.text, answer))
    return rows


_Read = tuple[int | None, NDArray[np.float64] | None, float | None, str, str]


def _likeliest(
    model: TextModel, questions: Sequence[Question], settings: Settings, cache: Cache | None
) -> list[_Read]:
    """Return the likeliest letter of each, the letters' shares, and the probability of any.

    A server tells of its likeliest tokens alone: a letter that isn't among them is less likely than
    those that are, but then shares aren't known.
    """
    rows, p, known = letters_told(model, questions, OPTIONS, cache, lambda n: None)
    found: list[_Read] = []
    for row, each, there in zip(rows, p, known, strict=True):
        mass = float(each.sum())
        if isinstance(row, str):
            found.append((None, None, None, why_not(row), row))
        elif mass < _LEAST_MASS:
            found.append((None, None, mass, "no option", ""))
        else:
            shares = each / mass if there.all() else None
            found.append((int(each.argmax()), shares, mass, SAID, ""))
    return found


def _sampled(
    model: TextModel, questions: Sequence[Question], settings: Settings, cache: Cache | None
) -> list[_Read]:
    """Return the letter that is said to each, at a temperature of 1."""
    said = sampled(model, questions, settings.read.max_tokens, cache=cache)
    found: list[_Read] = []
    for words in said:
        letter = letter_said(words, OPTIONS)
        found.append((letter, None, None, SAID if letter is not None else why_not(words), words))
    return found


_LEAST_MASS: Final = 1e-3
"""Of the probability that an answer begins with any letter: below, it begins otherwise."""
_CHOICES: Final = {
    "value": pl.String,
    "condition": pl.String,
    "session": pl.Int64,
    "item": pl.String,
    "k": pl.Int64,
    "letter": pl.String,
    "option": pl.Int64,
    **dict.fromkeys(("own", "other", "expected_own", "expected_other", "mass"), pl.Float64),
    "status": pl.String,
    "said": pl.String,
}
_SESSIONS: Final = {
    "value": pl.String,
    "condition": pl.String,
    "session": pl.Int64,
    "angle": pl.Float64,
    "category": pl.String,
    "transitive": pl.Boolean,
    "expected_angle": pl.Float64,
    "secondary": pl.Float64,
    "answered": pl.Int64,
    "refused": pl.Int64,
    "described": pl.String,
    "goal": pl.String,
}


def _told(every: Sequence[Session], choices: pl.DataFrame) -> pl.DataFrame:
    """Return each session's angle and what follows from it; none where an item has no answer."""
    option = choices["option"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    names = ("own", "other", "expected_own", "expected_other")
    of = {n: choices[n].fill_null(np.nan).to_numpy() for n in names}
    key = list(choices.select("value", "condition", "session").iter_rows())
    rows = []
    for one in every:
        at = [i for i, k in enumerate(key) if k == (one.value, one.condition, one.number)]
        at.sort(key=lambda i: choices["k"][i])
        first, rest = at[: len(PRIMARY)], at[len(PRIMARY) :]
        known = np.isfinite(option[first]).all()
        degrees = float(angle(of["own"][first], of["other"][first])) if known else None
        expected = float(angle(of["expected_own"][first], of["expected_other"][first]))
        rows.append(
            {
                "value": one.value,
                "condition": one.condition,
                "session": one.number,
                "angle": degrees,
                "category": None if degrees is None else category(degrees),
                "transitive": transitive(_places(one, option[first])) if known else None,
                "expected_angle": expected if np.isfinite(expected) else None,
                "secondary": secondary_score(_places(one, option[rest], len(first)))
                if rest and np.isfinite(option[rest]).all()
                else None,
                "answered": int(np.isfinite(option[first]).sum()),
                "refused": sum("refused" in choices["status"][i] for i in first),
                "described": one.described if one.value else None,
                "goal": one.goal or None,
            }
        )
    return pl.DataFrame(rows, schema=_SESSIONS)


def _places(one: Session, options: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
    """Return where chosen options stand between the ends of their items."""
    return np.array(
        [along(one.items[start + i], int(option)) for i, option in enumerate(options)], np.float64
    )
