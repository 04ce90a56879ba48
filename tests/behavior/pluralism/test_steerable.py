"""Who answers as the community that it is told of, who answers alike whatever it is told."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.options import LETTERS
from moralprobe.behavior.pluralism.distances import js_distance
from moralprobe.behavior.pluralism.measuring import Agreement, measure
from moralprobe.behavior.pluralism.steerable import ALL, Steered, _p, steerable
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.errors import DataError
from moralprobe.report.pluralism import of_steered
from tests.behavior.pluralism.test_measuring import drawn

SURVEY = drawn(questions=40, communities=4, own=0.6)
GIVEN = {(a.item.question, a.community): a.shares for a in SURVEY.answers}
MEAN = {q: np.mean([p for (asked, _), p in GIVEN.items() if asked == q], axis=0) for q, _ in GIVEN}


def who_hears(how: str, seed: int = 0) -> Scripted:
    """Answers evenly, and when it is told of a community by `how`."""

    def believes(question: Question) -> dict[str, float]:
        *before, text, options, _ = question.text.split("\n\n")
        names = [line.split(". ", 1)[1] for line in options.splitlines()]
        shares = np.full(len(names), 1 / len(names))
        if before:
            (who,) = {c for c in SURVEY.communities if f"people of {c} would" in before[0]}
            if how == "wrong":
                who = f"C{(int(who[1]) + 1) % 4}"
            shares = MEAN[text] if how == "everyone" else GIVEN[text, who]
        return {LETTERS[i]: float(shares[int(n.split()[1])]) for i, n in enumerate(names)}

    return Scripted("m", lambda q: "A", believes)


def steered(how: str) -> Steered:
    model = who_hears(how)
    untold, told = (measure(model, SURVEY, steer=s, draws=20) for s in ("none", "persona"))
    return steerable(untold, told, draws=200)


def value(found: Steered, name: str, community: str = ALL) -> dict[str, float]:
    (row,) = found.measures.filter(measure=name, community=community).to_dicts()
    return row


def test_who_answers_as_whom_it_is_told_of_reaches_the_ceiling() -> None:
    found = steered("own")
    assert value(found, "match")["value"] == pytest.approx(1)
    assert value(found, "share of the ceiling")["value"] == pytest.approx(1)
    assert (
        value(found, "specific")["low"] > 0.05
        and found.summary["p"] == 1 / 24
        and found.summary["orders"] == 24
    )
    assert value(found, "share of the ceiling", "C2")["value"] == pytest.approx(1)
    lines = "\n".join(of_steered(found))
    assert "answers more as the community that it is told of" in lines


def test_who_answers_alike_whatever_it_is_told_isnt_steered() -> None:
    """It comes nearer to the community that it is told of, and as near to the others."""
    found = steered("everyone")
    assert value(found, "nearer to whom it was told of")["low"] > 0.05
    assert value(found, "nearer to the others")["value"] == pytest.approx(
        value(found, "nearer to whom it was told of")["value"]
    )
    assert value(found, "specific")["value"] == pytest.approx(0, abs=1e-9)
    assert found.summary["p"] > 0.05
    assert "can't be told from" in "\n".join(of_steered(found))


def test_who_answers_as_another_one_is_worse_than_unsteered() -> None:
    found = steered("wrong")
    assert value(found, "specific")["high"] < 0 and found.summary["p"] > 0.5
    assert "less as the community" in "\n".join(of_steered(found))


def test_measures_by_hand() -> None:
    found = steered("own")
    on, off, moved = [], [], []
    for (q, a), p in GIVEN.items():
        even = np.full(len(p), 1 / len(p))
        gain = {
            b: float(js_distance(even, GIVEN[q, b]) - js_distance(p, GIVEN[q, b]))
            for b in SURVEY.communities
        }
        on.append(gain.pop(a))
        off.append(np.mean(list(gain.values())))
        moved.append(np.abs(even - p).sum() / 2)
    assert value(found, "nearer to whom it was told of")["value"] == pytest.approx(np.mean(on))
    assert value(found, "nearer to the others")["value"] == pytest.approx(np.mean(off))
    assert value(found, "specific")["value"] == pytest.approx(np.mean(on) - np.mean(off))
    assert value(found, "moved")["value"] == pytest.approx(np.mean(moved))


def test_who_moves_where_there_is_nothing_to_tell_is_seen() -> None:
    """Communities agree on half of the questions."""
    answers = []
    for i, one in enumerate(drawn(40, 4, 0.9, 5).answers):
        alike = i // 4 % 2 == 0
        answers.append(Answers(one.item, one.community, mean_of(one.item) if alike else one.shares))
    survey = Survey(tuple(answers))
    given = {(a.item.question, a.community): a.shares for a in answers}

    def believes(question: Question) -> dict[str, float]:
        *before, text, options, _ = question.text.split("\n\n")
        names = [line.split(". ", 1)[1] for line in options.splitlines()]
        shares = mean_of(Item(text, tuple(names)))
        if before:
            (who,) = {c for c in survey.communities if f"people of {c} would" in before[0]}
            shares = given[text, who]
        return {LETTERS[i]: float(shares[int(n.split()[1])]) for i, n in enumerate(names)}

    model = Scripted("m", lambda q: "A", believes)
    untold, told = (measure(model, survey, steer=s, draws=20) for s in ("none", "persona"))
    found = steerable(untold, told, draws=100)
    assert value(found, "moved where communities agree")["value"] < 0.05
    assert value(found, "moved")["value"] > 0.1
    assert value(found, "moved by how they differ")["low"] > 0.5


def mean_of(item: Item) -> np.ndarray:
    p = np.arange(1.0, 1 + len(item.options))
    return p / p.sum()


def test_a_way_of_its_own_under_each_name_isnt_knowing_whose_it_is() -> None:
    """Told of communities it moves in a constant way that has nothing to do with them."""
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        own, theirs = rng.normal(size=(2, 5, 3))
        tables = []
        for _ in range(60):
            base = rng.normal(size=3)
            said, given = (
                np.exp(base + shift) / np.exp(base + shift).sum(1, keepdims=True)
                for shift in (own, theirs)
            )
            tables.append(([f"C{i}" for i in range(5)], js_distance(said[:, None], given[None])))
        p.append(_p(tables, 1000, 0)[0])
    assert np.mean(np.array(p) <= 0.05) < 0.18 and 0.3 < np.mean(p) < 0.7


def test_what_cannot_be_compared_is_refused() -> None:
    model = who_hears("own")
    untold, told = (measure(model, SURVEY, steer=s, draws=20) for s in ("none", "persona"))
    with pytest.raises(DataError, match="untold and told is needed"):
        steerable(untold, untold)
    with pytest.raises(DataError, match="untold and told is needed"):
        steerable(told, untold)
    other = Agreement(told.measures, told.answers, {**told.summary, "model": {"scripted": "x"}})
    with pytest.raises(DataError, match="another model each"):
        steerable(untold, other)
    fewer = Agreement(told.measures, told.answers.head(20), told.summary)
    with pytest.raises(DataError, match="other surveys"):
        steerable(untold, fewer)
    unread = Agreement(
        told.measures, told.answers.with_columns(status=pl.lit("refused")), told.summary
    )
    with pytest.raises(DataError, match="answered by two communities"):
        steerable(untold, unread)
