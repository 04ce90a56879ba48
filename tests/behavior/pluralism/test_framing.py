"""A certificate says what it can't say, whatever was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.pluralism.agreement import Predicted, agree, key_of, standing
from moralprobe.behavior.pluralism.framing import (
    CERTIFIED,
    HARMLESS,
    IMPERMISSIBLE,
    UNCERTIFIED,
    breaches,
    load_agreement,
    option_audit,
    swapped,
    trivial,
    ways_out,
    weighed,
)
from moralprobe.behavior.pluralism.measuring import Agreement, measure
from moralprobe.behavior.pluralism.scope import Floor, Scope, load_scope
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.errors import DataError
from moralprobe.report.certificate import certificate, of_certificate, write_certificate
from tests.behavior.pluralism.test_measuring import EVEN, FIRST, SURVEY, says, value

GIVEN = {"population": "p", "collected_by": "us", "collected_when": "2024", "consent": "asked"}
SCOPE = Scope("which bus line is kept", GIVEN)
FOUND = measure(says(SURVEY, FIRST), SURVEY, draws=50)


def test_other_words_change_no_bit() -> None:
    found = swapped(FOUND)
    assert found["identical"] == {HARMLESS: True, IMPERMISSIBLE: True}
    assert found["numbers"] == FOUND.measures.height > 50
    # It is the stored answers that are measured anew: measures that aren't theirs are seen.
    changed = replace(FOUND, measures=FOUND.measures.with_columns(value=pl.col("value") + 0.1))
    assert swapped(changed)["identical"] == {HARMLESS: False, IMPERMISSIBLE: False}
    assert "are NOT the same to the bit" in "\n".join(
        of_certificate(certificate(changed, SCOPE)[0])
    )
    about, html = certificate(FOUND, SCOPE)
    again, _ = certificate(FOUND, replace(SCOPE, decision="which valley is flooded"))
    assert about["measures"] == again["measures"] and about["word"] == again["word"]
    for words in (HARMLESS, IMPERMISSIBLE, "which bus line is kept", "put to a vote"):
        assert words in html
    assert html.index("put to a vote") < html.index("What was measured")


def test_a_change_of_numbers_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from moralprobe.behavior.pluralism import framing

    real = framing.agree

    def reads_words(survey: Survey, said: object, **more: object) -> object:
        table, answers = real(survey, said, **more)  # type: ignore[arg-type]
        return table.with_columns(
            value=table["value"] + len(survey.answers[0].item.question)
        ), answers

    monkeypatch.setattr(framing, "agree", reads_words)
    assert swapped(FOUND)["identical"] == {HARMLESS: False, IMPERMISSIBLE: False}
    assert "NOT all" in certificate(FOUND, SCOPE)[1]


def test_a_breach_is_reported_at_perfect_agreement() -> None:
    item = Item("Who is to be left behind?", ("the old", "nobody"))
    survey = Survey((Answers(item, "A", np.array([0.8, 0.2]), 50),))
    said = {(item.question, item.options, "A"): Predicted((0.8, 0.2), 1.0)}
    measures, answers = agree(survey, said, draws=20)
    found = Agreement(measures, answers, {**FOUND.summary, "communities": ["A"]})
    assert value(measures, "js distance")["value"] == 0
    rules = (
        Floor("left behind", "the old", "nobody is left behind"),
        Floor("left behind", "young", "the young aren't either"),
        Floor("soup", "the old", "of no question here"),
    )
    told = breaches(found, replace(SCOPE, floors=rules))
    assert [r["unread"] for r in told] == [0, 0, 0]
    assert [(r["questions"], r["broken_by_model"], r["broken_by_people"]) for r in told] == [
        (1, 1, 1),
        (1, 0, 0),
        (0, 0, 0),
    ]
    about, html = certificate(found, replace(SCOPE, floors=rules))
    assert "nobody is left behind" in html and "broken in 1 of 1" in "\n".join(
        of_certificate(about)
    )
    assert "it is about NO question here" in "\n".join(of_certificate(about))
    assert about["controls"]["options"]["share_with_a_way_out"] == 1
    # Where two options are as likely, one that breaks the rule is enough.
    even = {(item.question, item.options, "A"): Predicted((0.5, 0.5), 1.0)}
    measures, answers = agree(survey, even, draws=20)
    both = (*rules[:1], Floor("left behind", "nobody", "somebody is left behind"))
    tied = breaches(Agreement(measures, answers, found.summary), replace(SCOPE, floors=both))
    assert [one["broken_by_model"] for one in tied] == [1, 1]
    assert "No rule was given" in certificate(found, SCOPE)[1]


def test_without_provenance_or_counts_nothing_is_certified() -> None:
    assert certificate(FOUND, SCOPE)[0]["word"] == CERTIFIED
    for name in GIVEN:
        less = {k: v for k, v in GIVEN.items() if k != name}
        about, html = certificate(FOUND, Scope("d", less))
        assert about["word"] == UNCERTIFIED and "<h1>Uncertified" in html
        assert about["controls"]["provenance"]["missing"] == [name]
    unknown = Survey(tuple(replace(one, count=None) for one in SURVEY.answers))
    assumed = measure(says(SURVEY, FIRST), unknown, draws=20, n=100)
    about, html = certificate(assumed, SCOPE)
    assert about["word"] == UNCERTIFIED and "respondent counts" in html
    assert "of 100 respondents, assumed" in html


def test_the_affected_weigh_as_they_are_said_to() -> None:
    each = {
        row["community"]: row["value"]
        for row in FOUND.measures.filter(measure="js distance").to_dicts()
    }
    scope = replace(SCOPE, affected={"C0": 0.2, "C1": 0.3}, not_surveyed=0.5)
    found = weighed(FOUND, scope)
    assert found["affected"] == pytest.approx((0.2 * each["C0"] + 0.3 * each["C1"]) / 0.5)
    assert found["worst"] == "C1" and found["not_surveyed"] == 0.5
    assert found["surveyed"] == pytest.approx(np.mean([each[f"C{i}"] for i in range(4)]))
    assert not weighed(FOUND, SCOPE)["known"]
    assert "Nobody said who is affected" in certificate(FOUND, SCOPE)[1]
    nobody = weighed(FOUND, replace(SCOPE, affected={}, not_surveyed=1.0))
    assert nobody["affected"] is None and nobody["worst"] is None
    with pytest.raises(DataError, match="an affected community wasn't surveyed"):
        weighed(FOUND, replace(SCOPE, affected={"C9": 1.0}))


def test_improves_needs_its_interval() -> None:
    plain = measure(says(SURVEY, EVEN), SURVEY, draws=50)
    assert trivial(plain)["word"] == "is surely worse than"
    assert "improves" not in certificate(plain, SCOPE)[1]
    skill = {**value(FOUND, "skill")}
    for low, high, word in ((-0.1, 0.2, "can't be told from"), (0.1, 0.2, "improves on")):
        rows = [
            {**row, "low": low, "high": high}
            if (row["measure"], row["community"]) == ("skill", skill["community"])
            else row
            for row in FOUND.measures.to_dicts()
        ]
        table = FOUND.measures.clear().vstack(
            type(FOUND.measures)(rows, schema=FOUND.measures.schema)
        )
        assert standing(table) == word


def test_what_could_be_answered_is_read_from_words() -> None:
    items = [Item("a?", ("yes", "no one")), Item("b?", ("red", "blue", "Don't know"), (2,))]
    survey = Survey(
        tuple(Answers(i, "A", np.full(len(i.options), 1 / len(i.options)), 9) for i in items)
    )
    said = {
        (i.question, i.options, "A"): Predicted((1.0, *[0.0] * (len(i.options) - 1)), 1.0)
        for i in items
    }
    measures, answers = agree(survey, said, draws=20)
    found = option_audit(Agreement(measures, answers, FOUND.summary))
    assert found["questions"] == 2 and found["refused_by_people"] == pytest.approx((0 + 1 / 3) / 2)
    assert found["share_with_a_way_out"] == 0.5 and found["ways_out"] == ["no one"]
    # People chose it by half, the model never: without it they agree.
    assert (found["no_by_people"], found["no_by_model"]) == (0.5, 0.0)
    assert found["distance_of_these"] > 0.3 and found["distance_of_these_without_no"] is None


def test_it_is_written_and_read(tmp_path: Path) -> None:
    FOUND.save(tmp_path / "agreement")
    again = load_agreement(tmp_path / "agreement")
    about = write_certificate(again, SCOPE, tmp_path / "c")
    assert json.loads((tmp_path / "c" / "certificate.json").read_text())["word"] == about["word"]
    assert (tmp_path / "c" / "certificate.html").read_text() == certificate(FOUND, SCOPE)[1]
    with pytest.raises(DataError, match="holds no measured agreement"):
        load_agreement(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("population: p\n", "names no decision"),
        ("decision: d\nconsents: x\n", "unknown field 'consents'.*consent"),
        ("- a\n", "is no scope"),
        ("decision: [\n", "isn't YAML"),
        ("decision: &d x\npopulation: *d\n", "names itself"),
        ("decision: !!python/object/apply:os.getcwd []\n", "isn't YAML"),
        ("decision: d\nconsent: " + "x" * (1 << 20), "too long"),
        ("decision: d\naffected: {A: 0.5}\n", "sum to 0.5"),
        ("decision: d\naffected: {A: many}\n", "doesn't say who is affected"),
        ("decision: d\naffected: {A: 1.5}\nnot_surveyed: -0.5\n", "aren't shares"),
        ("decision: d\nfloors: [{question: a, option: b}]\n", "a rule without 'why'"),
        ("decision: d\nfloors: [{question: '(', option: b, why: c}]\n", "no regular expression"),
    ],
)
def test_what_is_no_scope(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(DataError, match=words):
        load_scope(tmp_path / "s.yaml")
    with pytest.raises(DataError, match="can't read"):
        load_scope(tmp_path / "none.yaml")


def test_a_scope_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "decision: which bus\n  line is kept\npopulation: adults\naffected: {A: 0.6, B: 0.1}\n"
        "not_surveyed: 0.3\nfloors:\n- {question: bus, option: none, why: people must travel}\n"
    )
    scope = load_scope(tmp_path / "s.yaml")
    assert scope.decision == "which bus line is kept" and scope.affected == {"A": 0.6, "B": 0.1}
    assert scope.missing == ("collected_by", "collected_when", "consent")
    assert scope.floors == (Floor("bus", "none", "people must travel"),)


def test_changed_files_and_other_bases_are_refused(tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    assert load_agreement(tmp_path).measures.equals(FOUND.measures)
    better = FOUND.measures.with_columns(
        low=pl.when(pl.col("measure") == "skill").then(0.8).otherwise(pl.col("low"))
    )
    better.write_parquet(tmp_path / "measures.parquet")
    with pytest.raises(DataError, match="aren't those of its answers"):
        load_agreement(tmp_path)
    FOUND.save(tmp_path)
    about = json.loads((tmp_path / "agreement.json").read_text())
    (tmp_path / "agreement.json").write_text(json.dumps({**about, "base": "e"}))
    with pytest.raises(DataError, match=r"in another base.*'e'"):
        load_agreement(tmp_path)
    # What is said of counts doesn't count: the answers' own do.
    unknown = Survey(tuple(replace(one, count=None) for one in SURVEY.answers))
    assumed = measure(says(SURVEY, FIRST), unknown, draws=20)
    assumed.save(tmp_path)
    about = json.loads((tmp_path / "agreement.json").read_text())
    (tmp_path / "agreement.json").write_text(json.dumps({**about, "counts known": True}))
    assert certificate(load_agreement(tmp_path), SCOPE)[0]["word"] == UNCERTIFIED


def test_who_was_told_of_communities_is_said_to_have_been() -> None:
    told = measure(says(SURVEY, FIRST), SURVEY, steer="none", adapter="C0 (1234)", draws=20)
    about, html = certificate(told, SCOPE)
    for said in (html, "\n".join(of_certificate(about))):
        assert "adapted to C0 (1234)" in said and "told nothing of communities" in said
    steered = replace(FOUND, summary={**FOUND.summary, "steer": "examples"})
    assert "told of communities by examples" in certificate(steered, SCOPE)[1]
    assert "of 100 people" in certificate(FOUND, SCOPE)[0]["says"]


def test_who_refuses_isnt_certified() -> None:
    kept = {key_of(a): Predicted(tuple(FIRST[a.item.question]), 1.0) for a in SURVEY.answers[:100]}
    said = {key_of(a): kept.get(key_of(a), Predicted((), 0.0, "refused")) for a in SURVEY.answers}
    measures, answers = agree(SURVEY, said, draws=20)
    about, html = certificate(Agreement(measures, answers, FOUND.summary), SCOPE)
    assert about["word"] == UNCERTIFIED and "42% could be read" in html
    assert "refused 140" in html and "on 25 of 60 questions" in about["says"]


def test_an_assumed_number_of_people_is_named_where_it_is_assumed() -> None:
    known = measure(says(SURVEY, FIRST), SURVEY, draws=20, n=30)
    assert "assumed" not in certificate(known, SCOPE)[1]


def test_ends_of_a_scale_say_neither_no_nor_none() -> None:
    scale = (
        "Not at all likely",
        "Never heard of it",
        "No difference",
        "Nothing at all",
        "Don't know",
    )
    no = (
        "No",
        "No, never",
        "None of the above",
        "neither",
        "It should not be built",
        "Do not build",
    )
    assert ways_out(scale, (4,)) == [] and ways_out(no, ()) == list(range(len(no)))


@pytest.mark.parametrize("said", ["no", "0", "[]", "{}", "'-'", "none", "unknown", "n/a", "''"])
def test_a_field_that_says_it_is_none_is_none(tmp_path: Path, said: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        f"decision: d\npopulation: p\ncollected_by: u\ncollected_when: 2024-05-01\nconsent: {said}\n"
    )
    assert load_scope(path).missing == ("consent",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("floors: 5", "no list of rules"),
        ("floors: {question: a}", "no list of rules"),
        ("not_surveyed: 0.9", "and not who was"),
    ],
)
def test_scopes_that_are_none(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"decision: d\n{line}\n")
    with pytest.raises(DataError, match=words):
        load_scope(path)
