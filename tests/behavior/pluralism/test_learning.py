"""Arms on questions that nothing was learnt from: what helps helps, and what is learnt stays apart."""

from __future__ import annotations

import numpy as np
import pytest

from moralprobe.behavior.pluralism.agreement import Predicted, key_of
from moralprobe.behavior.pluralism.distances import js_distance
from moralprobe.behavior.pluralism.learning import (
    ALL,
    EVERYONE,
    NONE,
    OWN,
    SHUFFLED,
    Learnt,
    compared,
    shuffled,
    split,
)
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.steering import told_before
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey, load_survey
from moralprobe.errors import DataError
from moralprobe.report.pluralism import of_learnt
from tests.behavior.pluralism.test_measuring import drawn
from tests.conftest import shared_file


def topics(questions: int = 60, communities: int = 4, battery: int = 2) -> Survey:
    """Questions in batteries of so many that begin alike."""
    answers = []
    for one in drawn(questions, communities).answers:
        q = int(one.item.question.split()[1][:-1])
        words = f"Do you in general think that topic{q // battery} is good in case {q}?"
        item = Item(words.replace("think that", f"find topic{q // battery}"), one.item.options)
        answers.append(Answers(item, one.community, one.shares, 100))
    return Survey(tuple(answers))


SURVEY = topics(120)
N = 40  # questions of a community on either side
GIVEN = split(SURVEY, 2, 2 * N)


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
    assert not learnt & measured and len(GIVEN.learnt) == len(GIVEN.measured) == 2 * N
    units = [{one.item.unit for one in s.answers} for s in (GIVEN.learnt, GIVEN.measured)]
    assert not units[0] & units[1] and len(units[0]) < len(learnt)
    assert len(GIVEN.learnt.communities) == 2 == len(GIVEN.measured.communities)
    other = split(SURVEY, 2, 2 * N, seed=1)
    assert {one.item.question for one in other.learnt.answers} != learnt
    guess = dict(zip(map(key_of, SURVEY.answers), pooled(SURVEY), strict=True))
    for one, others in zip(GIVEN.measured.answers, GIVEN.others, strict=True):
        np.testing.assert_array_equal(guess[key_of(one)], others)  # of all four communities
    # Everybody's are of learnt questions alone, and as many as a community's own.
    assert len(GIVEN.everyone) == N
    assert {one.item.question for one in GIVEN.everyone} <= learnt
    first = [a.shares for a in SURVEY.answers if a.item == GIVEN.everyone[0].item]
    assert len(first) == 4
    np.testing.assert_allclose(GIVEN.everyone[0].shares, np.mean(first, axis=0))
    with pytest.raises(DataError, match="too little to learn from"):
        split(topics(30), 2, 60)
    with pytest.raises(DataError, match="there aren't 9 communities"):
        split(SURVEY, 9, 2 * N)


def test_communities_need_not_answer_the_same_questions() -> None:
    survey = load_survey(shared_file("global_opinions", "distributions.json")).best_covered(32)
    for communities in (1, 2, 4):
        given = split(survey, communities, 120)
        units = [{one.item.unit for one in s.answers} for s in (given.learnt, given.measured)]
        assert not units[0] & units[1]
        assert given.learnt.communities and len(given.measured.communities) == communities
        assert max(len(given.learnt.of([c])) for c in given.learnt.communities) <= 60


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
    assert value(arms, OWN, who="C0")["n"] == N


def test_the_interval_decides_the_word() -> None:
    about = {
        "name": "m",
        "communities": ["C0", "C1"],
        "learnt": 30,
        "measured": 30,
        "compared": 60,
        "answers": 60,
        "divergence": {"adapter: C0": [1.5, 1.25]},
    }

    def lines(of: dict[str, float]) -> str:
        arms, answers = compared(GIVEN, said(of), draws=200)
        return "\n".join(of_learnt(Learnt(arms, answers, about)))

    better = lines({NONE: 0.0, OWN: 1.0, EVERYONE: 0.5, SHUFFLED: 0.0})
    assert "the divergence of adapter: C0 went from 1.500 to 1.250 nats" in better
    assert better.count("own adapter improves on") == 3
    assert "each by its own interval: adapter" in better
    same = lines({NONE: 0.2, OWN: 0.2, EVERYONE: 0.2})
    assert "improves" not in same and same.count("can't be told from") == 2
    worse = lines({NONE: 0.5, OWN: 0.1, EVERYONE: 0.5})
    assert "is surely worse than the model as it was" in worse
    assert "each by its own interval: none" in worse
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


def test_shuffled_keeps_the_numbers_and_no_option_its_own() -> None:
    some = list(GIVEN.learnt.answers)
    for seed in range(5):
        for a, b in zip(some, shuffled(some, seed=seed), strict=True):
            assert sorted(a.shares) == sorted(b.shares) and a.item is b.item
            assert (a.shares != b.shares).all()
