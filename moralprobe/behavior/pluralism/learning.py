"""What is learnt of communities on some questions, measured on others.

Each way of answering is an arm. Whether an arm is worth anything is a difference on the same
questions: from the model as it was, and from what was learnt of all communities together, without
which better skill may only mean that the model has learnt to answer surveys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.pluralism.measuring import (
    DISTANCE,
    FEWEST,
    Key,
    Predicted,
    agree,
    key_of,
)
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.surveys import Answers, Survey
from moralprobe.errors import DataError
from moralprobe.files import write_json, write_table

Floats = NDArray[np.float64]
NONE, EXAMPLES, PERSONA = "none", "examples", "persona"
OWN: Final = "adapter"
EVERYONE: Final = "everyone's adapter"
SHUFFLED: Final = "adapter of shuffled options"
ARMS: Final = (NONE, PERSONA, EXAMPLES, OWN, EVERYONE, SHUFFLED)
ALL: Final = "all answers"
_STEM: Final = 6  # words that questions of one battery begin with


@dataclass(frozen=True)
class Split:
    """Answers to learn from and answers to be measured on, of the same communities and of disjoint
    questions. `others` is the country-blind guess of each answer that is measured, by everybody
    else in the survey, None where nobody else answered.
    """

    learnt: Survey
    measured: Survey
    others: tuple[Floats | None, ...]


def split(survey: Survey, communities: int, questions: int, *, seed: int = 0) -> Split:
    """Choose communities, and questions that all of them answered, half of them to learn from.

    Questions that begin with the same six words are of one battery and stay on one side.

    Args:
        survey: what communities answered.
        communities: that are learnt; those with most answers.
        questions: as many as there are of, at most.
        seed: of which.

    Raises:
        DataError: too few communities, or too few questions that all of them answered.
    """
    chosen = survey.best_covered(communities)
    of: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for i, one in enumerate(survey.answers):
        if one.community in chosen.communities:
            of.setdefault((one.item.question, one.item.options), []).append(i)
    batteries: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for key, rows in of.items():
        if len(rows) == communities:
            batteries.setdefault(stem(key[0]), []).append(key)
    rng = np.random.default_rng(seed)
    names = list(batteries)
    sides: tuple[list[int], list[int]] = ([], [])
    half = questions // 2
    for i in rng.permutation(len(names)):
        # To the emptier side, as long as there is room: sides stay alike in size.
        side = min(sides, key=len)
        room = half - len(side) // communities
        side += [row for key in batteries[names[i]][: max(0, room)] for row in of[key]]
    if min(map(len, sides)) < FEWEST * communities:
        raise DataError(
            "there is too little to learn from, or to measure on",
            f"{len(batteries)} batteries of questions that all of {communities} communities "
            f"answered give {' and '.join(str(len(s) // communities) for s in sides)} questions",
            f"each half needs {FEWEST}: learn fewer communities, or take more questions",
        )
    guess = pooled(survey)
    learnt, measured = (Survey(tuple(survey.answers[i] for i in sorted(side))) for side in sides)
    return Split(learnt, measured, tuple(guess[i] for i in sorted(sides[1])))


def stem(question: str) -> str:
    """Return what a question of a battery begins with."""
    return " ".join(re.findall(r"\w+", question.casefold())[:_STEM])


def of_everyone(survey: Survey) -> list[Answers]:
    """Return each question once, with the mean of all communities' answers."""
    same: dict[tuple[str, tuple[str, ...]], list[Answers]] = {}
    for one in survey.answers:
        same.setdefault((one.item.question, one.item.options), []).append(one)
    return [
        Answers(some[0].item, "everyone", np.mean([one.shares for one in some], axis=0))
        for some in same.values()
    ]


def shuffled(answers: list[Answers], *, seed: int = 0) -> list[Answers]:
    """Return answers whose shares belong to another option of the same question."""
    rng = np.random.default_rng(seed)
    found = []
    for one in answers:
        order = rng.permutation(len(one.shares))
        found.append(Answers(one.item, one.community, one.shares[order]))
    return found


@dataclass(frozen=True)
class Learnt:
    """How each arm does on questions that nothing was learnt from.

    `arms` has a row an arm and measure (`skill`, `js distance`, each also less that of `none`, and
    of the community's adapter less everyone's and less that of shuffled options), by community and
    over all, with 95 % intervals by resampled questions; `answers` what each arm said.
    """

    arms: pl.DataFrame
    answers: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `fit.json`."""
        for name in ("arms", "answers"):
            write_table(folder / f"{name}.parquet", getattr(self, name))
        write_json(folder / "fit.json", dict(self.summary))


def compared(
    given: Split,
    said: Mapping[str, Mapping[Key, Predicted]],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Compare arms on the answers that all of them give.

    Args:
        given: from `split`.
        said: of each arm what it says, by question, options and community; `none` is one of them.
        draws: resamples of questions.
        seed: of them.

    Returns:
        Arms, and answers.

    Raises:
        DataError: an arm that answers nothing, or no answer that all arms give.
    """
    tables = []
    for arm, predicted in said.items():
        _, table = agree(given.measured, predicted, others=given.others, draws=1)
        tables.append(table.with_columns(arm=pl.lit(arm)))
    answers = pl.concat(tables)
    distance = np.array([table[DISTANCE].to_numpy() for table in tables], np.float64)
    guess = tables[0]["pooled js distance"].to_numpy().astype(np.float64)
    for table in tables[1:]:  # an arm that couldn't be read has no guess beside it
        guess = np.where(np.isfinite(guess), guess, table["pooled js distance"].to_numpy())
    there = np.isfinite(distance).all(0) & np.isfinite(guess)
    if not there.any():
        raise DataError(
            "no answer is given by all arms",
            ", ".join(
                f"{arm} {int(np.isfinite(some).sum())}"
                for arm, some in zip(said, distance, strict=True)
            ),
            "look at their answers",
        )
    place: dict[tuple[str, tuple[str, ...]], int] = {}
    keys = [key_of(one) for one in given.measured.answers]
    question = np.array([place.setdefault(key[:2], len(place)) for key in keys])
    n = len(place)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    weight = np.vstack([np.ones(n), drawn])
    names = np.array([key[2] for key in keys])
    rows: list[dict[str, Any]] = []
    for community in (ALL, *given.measured.communities):
        here = there & (np.ones(len(names), bool) if community == ALL else names == community)
        if not here.any():
            continue
        own = weight[:, question[here]]
        both = list(zip(said, distance, strict=True))
        mean = {a: own @ d[here] / own.sum(1) for a, d in both}
        total = own @ guess[here]
        total = np.where(total > 0, total, np.nan)  # a guess that is right leaves no skill
        skill = {a: 1 - own @ d[here] / total for a, d in both}
        found = {(arm, DISTANCE, ""): values for arm, values in mean.items()}
        found |= {(arm, "skill", ""): values for arm, values in skill.items()}
        pairs = [(arm, NONE) for arm in said if arm != NONE]
        pairs += [(OWN, than) for than in (EVERYONE, SHUFFLED) if {OWN, than} <= set(said)]
        found |= {(arm, "skill", than): skill[arm] - skill[than] for arm, than in pairs}
        enough = len(set(question[here])) >= FEWEST
        rows += [
            _row(community, *what, draw, int(here.sum()), enough) for what, draw in found.items()
        ]
    return pl.DataFrame(rows, schema=_SCHEMA), answers


def _row(
    community: str, arm: str, measure: str, than: str, draws: Floats, n: int, enough: bool
) -> dict[str, Any]:
    known = draws[1:][np.isfinite(draws[1:])]
    low, high = np.quantile(known, (0.025, 0.975)) if enough and len(known) else (None, None)
    return {
        "community": community,
        "arm": arm,
        "measure": measure,
        "than": than,
        "value": float(draws[0]) if np.isfinite(draws[0]) else None,
        "low": low,
        "high": high,
        "n": n,
    }


_SCHEMA: Final[dict[str, Any]] = {
    **dict.fromkeys(("community", "arm", "measure", "than"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
