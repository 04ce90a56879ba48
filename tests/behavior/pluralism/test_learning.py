"""Arms on questions that nothing was learnt from: what helps helps, and what is learnt stays apart."""

from __future__ import annotations

import numpy as np
import pytest

from moralprobe.behavior.pluralism.distances import js_distance
from moralprobe.behavior.pluralism.learning import (
    ALL,
    EVERYONE,
    NONE,
    OWN,
    SHUFFLED,
    Learnt,
    compared,
    of_everyone,
    shuffled,
    split,
    stem,
)
from moralprobe.behavior.pluralism.measuring import Predicted, key_of
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.steering import told_before
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.errors import DataError
from moralprobe.report.pluralism import of_learnt
from tests.behavior.pluralism.test_measuring import drawn


def topics(questions: int = 60, communities: int = 4, battery: int = 2) -> Survey:
    """Questions in batteries of so many that begin alike."""
    answers = []
    for one in drawn(questions, communities).answers:
        q = int(one.item.question.split()[1][:-1])
        words = f"Do you in general think that topic{q // battery} is good in case {q}?"
        item = Item(words.replace("think that", f"find topic{q // battery}"), one.item.options)
        answers.append(Answers(item, one.community, one.shares, 100))
    return Survey(tuple(answers))


SURVEY = topics()
GIVEN = split(SURVEY, 2, 60)


def said(of: dict[str, float], seed: int = 0) -> dict[str, dict[object, Predicted]]:
    """Arms that are so far on the way from even shares to each community's own."""
    found = {}
    for arm, way in of.items():
        found[arm] = {
            key_of(one): Predicted(tuple(way * one.shares + (1 - way) / len(one.shares)), 1.0)
            for one in GIVEN.measured.answers
        }
    return found


def value(arms: object, arm: str, measure: str = "skill", than: str = "", who: str = ALL) -> dict:
    (row,) = arms.filter(arm=arm, measure=measure, than=than, community=who).to_dicts()
    return row


def test_no_battery_stands_on_both_sides() -> None:
    learnt, measured = (
        {one.item.question for one in some.answers} for some in (GIVEN.learnt, GIVEN.measured)
    )
    assert not learnt & measured and len(learnt) == len(measured) == 30
    assert not {stem(q) for q in learnt} & {stem(q) for q in measured}
    assert len(GIVEN.learnt.communities) == 2 == len(GIVEN.measured.communities)
    other = split(SURVEY, 2, 60, seed=1)
    assert {one.item.question for one in other.learnt.answers} != learnt
    guess = dict(zip(map(key_of, SURVEY.answers), pooled(SURVEY), strict=True))
    for one, others in zip(GIVEN.measured.answers, GIVEN.others, strict=True):
        np.testing.assert_array_equal(guess[key_of(one)], others)  # of all four communities
    with pytest.raises(DataError, match="too little to learn from"):
        split(topics(20), 2, 60)
    with pytest.raises(DataError, match="there aren't 9 communities"):
        split(SURVEY, 9, 60)


def test_examples_are_of_learnt_questions() -> None:
    told = told_before(GIVEN.measured, "examples", known=GIVEN.learnt)
    measured = {one.item.question for one in GIVEN.measured.answers}
    for before in told:
        assert before is not None and not any(question in before for question in measured)
        assert any(one.item.question in before for one in GIVEN.learnt.answers)


def test_arms_by_hand() -> None:
    arms, answers = compared(GIVEN, said({NONE: 0.1, OWN: 0.8, EVERYONE: 0.4}), draws=200)
    far = {NONE: [], OWN: []}
    guess = []
    for one, others in zip(GIVEN.measured.answers, GIVEN.others, strict=True):
        guess.append(float(js_distance(one.shares, others)))
        for arm, way in ((NONE, 0.1), (OWN, 0.8)):
            q = way * one.shares + (1 - way) / len(one.shares)
            far[arm].append(float(js_distance(one.shares, q)))
    skill = {arm: 1 - np.mean(some) / np.mean(guess) for arm, some in far.items()}
    assert value(arms, OWN, "js distance")["value"] == pytest.approx(np.mean(far[OWN]))
    assert value(arms, OWN)["value"] == pytest.approx(skill[OWN])
    less = value(arms, OWN, than=NONE)
    assert less["value"] == pytest.approx(skill[OWN] - skill[NONE]) and less["low"] > 0
    assert value(arms, OWN, than=EVERYONE)["low"] > 0
    assert answers["arm"].unique(maintain_order=True).to_list() == [NONE, OWN, EVERYONE]
    assert value(arms, OWN, who="C0")["n"] == 30


def test_the_interval_decides_the_word() -> None:
    about = {"name": "m", "communities": ["C0", "C1"], "learnt": 30, "measured": 30}

    def lines(of: dict[str, float]) -> str:
        arms, answers = compared(GIVEN, said(of), draws=200)
        return "\n".join(of_learnt(Learnt(arms, answers, about)))

    better = lines({NONE: 0.0, OWN: 1.0, EVERYONE: 0.5, SHUFFLED: 0.0})
    assert better.count("own adapter improves on") == 3
    assert "better than the country-blind guess: adapter" in better
    same = lines({NONE: 0.2, OWN: 0.2, EVERYONE: 0.2})
    assert "improves" not in same and same.count("can't be told from") == 2
    worse = lines({NONE: 0.5, OWN: 0.1, EVERYONE: 0.5})
    assert "is surely worse than the model as it was" in worse
    assert "better than the country-blind guess: none surely" in worse
    assert (
        "adapter" not in lines({NONE: 0.3, "examples": 0.4}).split("Jensen")[1].split("better")[0]
    )


def test_what_an_arm_cannot_answer_no_arm_is_measured_on() -> None:
    arms = said({NONE: 0.1, OWN: 0.8})
    for one in GIVEN.measured.answers[:10]:
        arms[OWN][key_of(one)] = Predicted((), 0.0, "refused")
    table, _ = compared(GIVEN, arms, draws=50)
    assert value(table, NONE)["n"] == value(table, OWN)["n"] == len(GIVEN.measured) - 10
    only = said({NONE: 0.1, OWN: 0.8})
    for i, one in enumerate(GIVEN.measured.answers):
        only[OWN if i % 2 else NONE][key_of(one)] = Predicted((), 0.0, "refused")
    with pytest.raises(DataError, match="no answer is given by all arms"):
        compared(GIVEN, only, draws=50)


def test_everyone_is_the_mean_and_shuffled_keeps_the_numbers() -> None:
    every = of_everyone(GIVEN.learnt)
    assert len(every) == 30
    first = [a.shares for a in GIVEN.learnt.answers if a.item == every[0].item]
    np.testing.assert_allclose(every[0].shares, np.mean(first, axis=0))
    mixed = shuffled(every, seed=3)
    assert any((a.shares != b.shares).any() for a, b in zip(every, mixed, strict=True))
    for a, b in zip(every, mixed, strict=True):
        assert sorted(a.shares) == sorted(b.shares) and a.item is b.item
