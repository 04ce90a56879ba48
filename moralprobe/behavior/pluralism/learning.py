"""What is learnt of communities on some questions, measured on others.

Each way of answering is an arm. Whether an arm is worth anything is a difference on the same
questions: from the model as it was, and from what was learnt of all communities together, without
which better skill may only mean that the model has learnt to answer surveys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.pluralism.agreement import (
    DISTANCE,
    FEWEST,
    Key,
    Predicted,
    agree,
    bounded,
    resampled_units,
)
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.surveys import Answers, Survey
from moralprobe.errors import DataError
from moralprobe.files import write_result

Floats = NDArray[np.float64]
NONE, EXAMPLES, PERSONA = "none", "examples", "persona"
OWN: Final = "adapter"
EVERYONE: Final = "everyone's adapter"
SHUFFLED: Final = "adapter of shuffled options"
ARMS: Final = (NONE, PERSONA, EXAMPLES, OWN, EVERYONE, SHUFFLED)
ALL: Final = "all answers"


@dataclass(frozen=True)
class Split:
    """Answers to learn from and answers to be measured on, of the same communities and of disjoint
    batteries of questions.

    `everyone` has as many questions of those that may be learnt from as a community has, with the
    mean answers of everybody who was asked. `others` is the country-blind guess of each answer that
    is measured, by everybody else, None where nobody else answered.
    """

    learnt: Survey
    everyone: tuple[Answers, ...]
    measured: Survey
    others: tuple[Floats | None, ...]


def split(survey: Survey, communities: int, questions: int, *, seed: int = 0) -> Split:
    """Choose communities, and divide batteries into those to learn from and those to measure on.

    A battery (`Item.unit`) stands on one side for all communities, each of which has its own
    questions of it.

    Args:
        survey: what communities answered.
        communities: that are learnt; those with most answers.
        questions: of each community, as many as there are of, at most; half of them on either side.
        seed: of which.

    Raises:
        DataError: too few communities, or one with fewer than 20 batteries on a side.
    """
    chosen = survey.best_covered(communities)
    rng = np.random.default_rng(seed)
    units = list(dict.fromkeys(one.item.unit for one in chosen.answers))
    size = Counter(one.item.unit for one in chosen.answers)
    sides: tuple[set[str], set[str]] = (set(), set())
    filled = [0, 0]
    for i in rng.permutation(len(units)):
        emptier = int(filled[1] < filled[0])
        sides[emptier].add(units[i])
        filled[emptier] += size[units[i]]
    taken: tuple[list[int], list[int]] = ([], [])
    for name in chosen.communities:
        for side, rows in zip(sides, taken, strict=True):
            own = [
                i
                for i, one in enumerate(survey.answers)
                if one.community == name and one.item.unit in side
            ]
            some = [own[k] for k in rng.permutation(len(own))[: questions // 2]]
            have = len({survey.answers[i].item.unit for i in some})
            if have < FEWEST:
                raise DataError(
                    "there is too little to learn from, or to measure on",
                    f"{name} has {have} batteries of questions on one of the sides",
                    f"each needs {FEWEST}: take more questions, or communities with more",
                )
            rows += sorted(some)
    learnt, measured = (Survey(tuple(survey.answers[i] for i in rows)) for rows in taken)
    guess = pooled(survey)
    every = of_everyone(survey, {(one.item.question, one.item.options) for one in learnt.answers})
    most = max(Counter(one.community for one in learnt.answers).values())
    everyone = tuple(every[i] for i in sorted(rng.permutation(len(every))[:most]))
    return Split(learnt, everyone, measured, tuple(guess[i] for i in taken[1]))


def of_everyone(survey: Survey, asked: Container[tuple[str, tuple[str, ...]]]) -> list[Answers]:
    """Return some questions, each once, with the mean of all communities' answers."""
    same: dict[tuple[str, tuple[str, ...]], list[Answers]] = {}
    for one in survey.answers:
        if (one.item.question, one.item.options) in asked:
            same.setdefault((one.item.question, one.item.options), []).append(one)
    return [
        Answers(some[0].item, "everyone", np.mean([one.shares for one in some], axis=0))
        for some in same.values()
    ]


def shuffled(answers: Sequence[Answers], *, seed: int = 0) -> list[Answers]:
    """Return answers in which each option has the share of another one."""
    rng = np.random.default_rng(seed)
    found = []
    for one in answers:
        n = len(one.shares)
        order = rng.permutation(n)
        # Along a circle of all options by one to n - 1 places: none keeps its share.
        moved = np.empty(n)
        moved[order] = one.shares[np.roll(order, rng.integers(1, n))]
        found.append(Answers(one.item, one.community, moved, one.count))
    return found


@dataclass(frozen=True)
class Learnt:
    """How each arm does on questions that nothing was learnt from.

    `arms` has a row an arm and measure (`skill`, `js distance`, each also less that of `none`, and
    of the community's adapter less everyone's and less that of shuffled options), by community and
    over all, with 95 % intervals by resampled batteries; `answers` what each arm said.
    """

    arms: pl.DataFrame
    answers: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `fit.json`."""
        tables = {"arms": self.arms, "answers": self.answers}
        write_result(folder, "fit", self.summary, tables)


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
        draws: resamples of batteries.
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
    at, weight = resampled_units([one.item.unit for one in given.measured.answers], draws, seed)
    names = np.array([one.community for one in given.measured.answers])
    rows: list[dict[str, Any]] = []
    for community in (ALL, *given.measured.communities):
        here = there & (np.ones(len(names), bool) if community == ALL else names == community)
        if not here.any():
            continue
        own = weight[:, at[here]]
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
        units, n = len(set(at[here].tolist())), int(here.sum())
        rows += [
            {
                "community": community,
                "arm": arm,
                "measure": measure,
                "than": than,
                **bounded(each, units),
                "n": n,
            }
            for (arm, measure, than), each in found.items()
        ]
    return pl.DataFrame(rows, schema=_SCHEMA), answers


_SCHEMA: Final[dict[str, Any]] = {
    **dict.fromkeys(("community", "arm", "measure", "than"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
