"""Agreement of who knows the answers, who guesses, and who knows nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.options import LETTERS, Readout
from moralprobe.behavior.pluralism.agreement import (
    ALL,
    DISTANCE,
    MEAN,
    SKILL,
    Predicted,
    agree,
    key_of,
    standing,
)
from moralprobe.behavior.pluralism.distances import js_distance
from moralprobe.behavior.pluralism.measuring import Agreement, measure
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.steering import told_before
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.behavior.verbalised import shares_said
from moralprobe.cache import open_cache
from moralprobe.errors import DataError, UsageError
from moralprobe.report.pluralism import SILENT, of_agreement


def drawn(questions: int = 60, communities: int = 4, own: float = 0.5, seed: int = 0) -> Survey:
    """Communities that answer alike but for what is each one's own."""
    rng, answers = np.random.default_rng(seed), []
    for q in range(questions):
        n = 2 + q % 3
        item = Item(f"Question {q}?", tuple(f"answer {i}" for i in range(n)), (), ordinal=True)
        shared = rng.normal(size=n)
        for c in range(communities):
            logits = shared + own * rng.normal(size=n)
            p = np.exp(logits) / np.exp(logits).sum()
            answers.append(Answers(item, f"C{c}", p, 100))
    return Survey(tuple(answers))


def says(survey: Survey, of: dict[str, np.ndarray]) -> Scripted:
    """A model that finds options as probable as it is told, whatever letter they have."""

    def believes(question: Question) -> dict[str, float]:
        text, options = question.text.split("\n\n")[:2]
        names = [line.split(". ", 1)[1] for line in options.splitlines()]
        return {LETTERS[i]: of[text][int(name.split()[1])] for i, name in enumerate(names)}

    return Scripted("m", lambda q: "A", believes)


def value(found: Agreement | pl.DataFrame, measured: str, community: str = ALL) -> dict[str, float]:
    table = found if isinstance(found, pl.DataFrame) else found.measures
    (row,) = table.filter(measure=measured, community=community).to_dicts()
    return row


SURVEY = drawn()
FIRST = {a.item.question: a.shares for a in SURVEY.answers if a.community == "C0"}
EVEN = {a.item.question: np.full(len(a.shares), 1 / len(a.shares)) for a in SURVEY.answers}


def test_who_is_one_community_agrees_with_it_and_not_as_well_with_others() -> None:
    found = measure(says(SURVEY, FIRST), SURVEY, draws=200)
    assert value(found, DISTANCE, "C0")["value"] == pytest.approx(0, abs=1e-6)
    assert value(found, SKILL, "C0")["value"] == pytest.approx(1)
    assert value(found, DISTANCE, "C1")["value"] > 0.1
    assert value(found, "mode agreement", "C0")["value"] == 1
    assert value(found, "entropy ratio", "C0")["value"] == pytest.approx(1)
    lines = "\n".join(of_agreement(found))
    assert "nearest: C0" in lines and SILENT in lines and "base 2" in lines


def test_measures_by_hand() -> None:
    found = measure(says(SURVEY, FIRST), SURVEY, draws=50)
    own, guess = [], []
    for one, others in zip(SURVEY.answers, pooled(SURVEY), strict=True):
        said = FIRST[one.item.question]
        own.append(float(js_distance(one.shares, said)))
        guess.append(float(js_distance(one.shares, others)))
    assert value(found, DISTANCE)["value"] == pytest.approx(np.mean(own))
    assert value(found, SKILL)["value"] == pytest.approx(1 - np.mean(own) / np.mean(guess))
    names = np.array([one.community for one in SURVEY.answers])
    means = [np.mean(np.array(own)[names == c]) for c in SURVEY.communities]
    assert value(found, DISTANCE, MEAN)["value"] == pytest.approx(np.mean(means))
    assert found.summary["noise floor"] == pytest.approx(0.05, abs=0.03)


def test_who_knows_nothing_is_worse_than_a_guess_and_it_is_said() -> None:
    found = measure(says(SURVEY, EVEN), SURVEY, draws=200)
    skill = value(found, SKILL)
    assert skill["high"] < 0
    assert value(found, DISTANCE)["value"] == pytest.approx(
        value(found, "uniform js distance")["value"]
    )
    assert "surely worse than the country-blind guess" in "\n".join(of_agreement(found))
    assert "improves" not in "\n".join(of_agreement(found))


def test_without_another_community_there_is_no_guess_and_it_is_said() -> None:
    lines = "\n".join(of_agreement(measure(says(SURVEY, EVEN), SURVEY.of(["C0"]), draws=20)))
    assert "no other community answered the same questions" in lines
    assert "the country-blind guess, the mean" not in lines


def test_improves_is_said_only_where_it_is_sure() -> None:
    mean = {}
    for one in SURVEY.answers:
        mean.setdefault(one.item.question, []).append(one.shares)
    every = {q: np.mean(p, axis=0) for q, p in mean.items()}  # each community itself is in it
    found = measure(says(SURVEY, every), SURVEY, draws=200)
    assert value(found, SKILL)["low"] > 0 and "it improves on" in "\n".join(of_agreement(found))
    # Who is as near as the guess: now nearer, now farther, by question.
    rng, of = np.random.default_rng(0), {}
    for q, p in mean.items():
        wrong = np.mean(p, axis=0) * np.exp(0.35 * rng.normal(size=len(p[0])))
        of[q] = wrong / wrong.sum()
    unsure = measure(says(SURVEY, of), SURVEY, draws=200)
    skill = value(unsure, SKILL)
    assert skill["low"] <= 0 <= skill["high"]
    said = "\n".join(of_agreement(unsure))
    assert "improves" not in said and "it can't be told from the country-blind guess" in said


def test_one_question_decides_nothing_however_many_answer_it() -> None:
    one = drawn(questions=1, communities=30)
    even = {key_of(a): Predicted((0.5, 0.5), 1.0) for a in one.answers}
    table, _ = agree(one, even, draws=50)
    assert table["low"].is_null().all() and standing(table) == "isn't known against"
    # Sixty questions, and a single one that anybody else answered.
    apart = drawn(questions=60, communities=3)
    some = [a for i, a in enumerate(apart.answers) if i < 3 or a.community == f"C{i // 3 % 3}"]
    survey = Survey(tuple(some))
    said = {key_of(a): Predicted(tuple(a.shares), 1.0) for a in some}
    table, _ = agree(survey, said, draws=50)
    assert value(table, DISTANCE)["low"] is not None and value(table, SKILL)["low"] is None
    assert value(table, SKILL)["n"] == 3 and value(table, DISTANCE)["n"] == len(some)


def test_a_battery_is_resampled_as_one() -> None:
    survey = drawn(questions=80, communities=2)
    in_tens = Survey(
        tuple(
            replace(a, item=replace(a.item, battery=str(int(a.item.question.split()[1][:-1]) % 25)))
            for a in survey.answers
        )
    )
    alike = {}  # a battery is answered alike: near in one, far in another
    for a in in_tens.answers:
        way = 0.95 if int(a.item.battery) % 2 else 0.1
        alike[key_of(a)] = Predicted(tuple(way * a.shares + (1 - way) / len(a.shares)), 1.0)
    width = []
    for some in (survey, in_tens):
        row = value(agree(some, alike, draws=400)[0], DISTANCE)
        width.append(row["high"] - row["low"])
    assert width[1] > 1.3 * width[0]


def test_too_few_questions_of_a_community_are_refused() -> None:
    some = [a for i, a in enumerate(SURVEY.answers) if a.community != "C3" or i < 30]
    with pytest.raises(DataError, match=r"C3 answered 7.*--communities 3"):
        measure(says(SURVEY, FIRST), Survey(tuple(some)), draws=20)


def test_who_samples_seldom_is_far_from_itself() -> None:
    def draw(question: Question) -> str:
        names = [x.split(". ", 1)[1] for x in question.text.split("\n\n")[1].splitlines()]
        rng = np.random.default_rng([question.seed, *question.text.encode()])
        p = FIRST[question.text.split("\n\n")[0]]
        return LETTERS[rng.choice(len(names), p=[p[int(n.split()[1])] for n in names])]

    few, many = (
        measure(Scripted("m", draw), SURVEY, readout=Readout("sampled", n), draws=20).summary
        for n in (1, 20)
    )
    assert (few["samples"], many["samples"]) == (1, 20)
    assert few["own noise"] > 2 * many["own noise"] > 0


def test_verbal_is_no_readout_of_options() -> None:
    with pytest.raises(UsageError, match="aren't chosen by the readout 'verbal'"):
        measure(says(SURVEY, FIRST), SURVEY, readout=Readout("verbal"), draws=20)


def test_a_distribution_that_is_said_is_read() -> None:
    def says_shares(question: Question) -> str:
        names = [x.split(". ", 1)[1] for x in question.text.split("\n\n")[1].splitlines()]
        p = FIRST[question.text.split("\n\n")[0]]
        shares = [p[int(n.split()[1])] for n in names]
        return "\n".join(f"{x}: {s:.1%}" for x, s in zip(LETTERS, shares, strict=False))

    found = measure(Scripted("m", says_shares), SURVEY, readout=Readout("verbalised"), draws=20)
    assert value(found, DISTANCE, "C0")["value"] == pytest.approx(0, abs=0.005)
    assert found.summary["readout"] == "verbalised"
    for said, shares in (
        ("A: 40%\nB: 60%", [0.4, 0.6]),
        ("A. 0.4\nB. 0.6", [0.4, 0.6]),
        ("A - 40\nB - 59", [40 / 99, 60 / 100]),
        ("A: 40%\nB: 40%", None),
        ("B: 40%\nA: 60%", None),
        ("A: 100%", None),
        ("I can't say.", None),
    ):
        read = shares_said(said, 2)
        assert (read is None) == (shares is None)
        if read is not None:
            assert read == pytest.approx(shares, abs=0.01)


def test_intervals_are_by_questions() -> None:
    """Communities that answer alike are no more questions."""
    few = drawn(questions=40, communities=1, seed=1)
    copies = Survey(
        tuple(Answers(a.item, f"C{c}", a.shares, 100) for a in few.answers for c in range(6))
    )
    said = {a.item.question: np.full(len(a.shares), 1 / len(a.shares)) for a in few.answers}
    widths = []
    for survey in (few, copies):
        row = value(measure(says(survey, said), survey, draws=400), DISTANCE)
        widths.append(row["high"] - row["low"])
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


def test_refusals_are_reported_apart() -> None:
    item = Item("q?", ("yes", "no", "Don't know"), (2,))
    survey = Survey((Answers(item, "A", np.array([0.6, 0.2, 0.2])),))
    said = {("q?", item.options, "A"): Predicted((0.3, 0.1, 0.6), 1.0)}
    table, answers = agree(survey, said, draws=20)
    assert value(table, "refusal mass")["value"] == pytest.approx(0.6)
    assert value(table, "refusal error")["value"] == pytest.approx(0.4)
    assert value(table, "js distance without refusals")["value"] == pytest.approx(0, abs=1e-7)
    assert value(table, DISTANCE)["value"] > 0.2 and value(table, DISTANCE)["low"] is None
    assert value(table, SKILL)["value"] is None and answers["wasserstein"].is_null().all()


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    nothing = {key_of(a): Predicted((), 0.1, "refused") for a in SURVEY.answers}
    with pytest.raises(DataError, match="answers no question with an option"):
        agree(SURVEY, nothing)
    some = dict(nothing)
    for a in SURVEY.answers[:80]:
        some[key_of(a)] = Predicted(tuple(a.shares), 1.0)
    table, answers = agree(SURVEY, some, draws=20)
    assert answers.filter(status="refused").height == len(SURVEY) - 80
    assert value(table, DISTANCE)["n"] == 80
    with open_cache(tmp_path / "a.jsonl") as cache:
        first = measure(says(SURVEY, FIRST), SURVEY, draws=20, cache=cache)
        again = measure(says(SURVEY, FIRST), SURVEY, draws=20, cache=cache)
    assert first.measures.equals(again.measures)
    first.save(tmp_path)
    assert pl.read_parquet(tmp_path / "measures.parquet").equals(first.measures)
    sampled = measure(Scripted("m", lambda q: "A"), SURVEY, readout=Readout("sampled", 2), draws=20)
    assert value(sampled, DISTANCE)["value"] == pytest.approx(
        value(sampled, "uniform js distance")["value"]
    )


def test_no_counts_no_floor() -> None:
    unknown = Survey(tuple(Answers(a.item, a.community, a.shares) for a in SURVEY.answers))
    found = measure(says(SURVEY, FIRST), unknown, draws=20)
    assert found.summary["noise floor"] is None
    assert "there is no noise floor" in "\n".join(of_agreement(found))
    assumed = measure(says(SURVEY, FIRST), unknown, draws=20, n=30)
    assert "of 30 respondents, assumed" in "\n".join(of_agreement(assumed))


def test_who_is_told_whose_answer_is_asked_for_may_give_it() -> None:
    every = {(a.item.question, a.community): a.shares for a in SURVEY.answers}

    def believes(question: Question) -> dict[str, float]:
        before, text, options = question.text.split("\n\n")[:3]
        names = [line.split(". ", 1)[1] for line in options.splitlines()]
        (who,) = {c for c in SURVEY.communities if f"people of {c} would" in before}
        shares = every[text, who]
        return {LETTERS[i]: shares[int(name.split()[1])] for i, name in enumerate(names)}

    for steer in ("persona", "examples"):
        found = measure(Scripted("m", lambda q: "A", believes), SURVEY, steer=steer, draws=50)
        assert value(found, DISTANCE)["value"] == pytest.approx(0, abs=1e-6)
        assert value(found, SKILL)["low"] == pytest.approx(1) and found.summary["steer"] == steer
    with pytest.raises(UsageError, match=r"no way 'person' to steer.*did you mean persona"):
        measure(says(SURVEY, FIRST), SURVEY, steer="person")


def test_no_example_is_of_the_question_that_is_asked() -> None:
    told = told_before(SURVEY, "examples")
    for one, before in zip(SURVEY.answers, told, strict=True):
        assert before is not None and one.item.question not in before
        assert before.count("Question ") == 3 and f"people of {one.community} answered" in before
    assert told == told_before(SURVEY, "examples") != told_before(SURVEY, "examples", seed=1)
    assert len(set(told)) > 100 and set(told_before(SURVEY, "none")) == {None}
