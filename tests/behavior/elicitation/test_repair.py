"""An instruction that works is found, kept and retrieved; where none works nothing is claimed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.elicitation.arms import measure_arms
from moralprobe.behavior.elicitation.instructions import Options
from moralprobe.behavior.elicitation.measuring import measure
from moralprobe.behavior.elicitation.rates import against
from moralprobe.behavior.elicitation.repair import (
    FIXED,
    Lesson,
    Repair,
    halves,
    instructions,
    learn,
    retrieved,
    rewriter,
    unseen,
)
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.errors import DataError, UsageError
from moralprobe.report.elicitation import of_arms, of_repair
from tests.behavior.elicitation.scripts import BAD, GOOD, at_rate, perfect, scorer
from tests.behavior.elicitation.test_measuring import prompts

QUICK = Options(n=4, k=6, tokens=16)
SPELLS = ("Be gentle.", "Remember your mother.", "Think of the end.", "Write well.")


def heeds(spell: str, high: float = 0.8, low: float = 0.1) -> Scripted:
    """A model that breaks principles unless it is told one thing."""

    def says(question: Question) -> str:
        rng = np.random.default_rng([question.seed, *question.text.encode()])
        rate = low if spell in question.text else high
        return f"{BAD if rng.random() < rate else GOOD} {rng.integers(1 << 30)}"

    return Scripted(f"heeds {spell}", says)


def writes() -> Scripted:
    return Scripted("writer", lambda question: SPELLS[question.seed % 4])


def test_an_instruction_that_works_is_found_and_helps_other_principles() -> None:
    model = heeds(SPELLS[1])
    first, others = halves(prompts(40), 0)
    assert first["id"].n_unique() == others["id"].n_unique() == 20
    assert not set(first["id"]) & set(others["id"])
    found, _ = learn(model, first, writes(), scorer(), Options(n=12, k=6, tokens=16))
    assert found.for_all == SPELLS[1]
    assert np.mean([one.instruction == SPELLS[1] for one in found.lessons]) > 0.9
    assert all(one.reward > one.before for one in found.lessons if one.instruction == SPELLS[1])
    assert not found.unused and len(found.seen) == 20
    told = instructions(found, others)
    assert list(told) == ["none", "warning", "ape", "critique", "retrieved"]
    assert told["warning"][0] == FIXED.format(principle=others["principle"][0])
    found_arms = measure_arms(model, others, told, perfect(), k=8, tokens=16, draws=200)
    table, arms = found_arms.rates, found_arms.completions
    gain = {row["arm"]: row for row in table.filter(measure="apv").to_dicts()}
    for arm in ("ape", "retrieved"):
        assert (
            gain[arm]["gain_low"] < -0.7 < gain[arm]["gain_high"] or gain[arm]["gain_high"] < -0.5
        )
    assert gain["warning"]["gain_low"] < 0 < gain["warning"]["gain_high"]
    assert gain["none"]["gain"] == gain["none"]["gain_low"] == 0
    none = arms.filter(arm="none")["report"].to_numpy()
    assert gain["none"]["value"] == pytest.approx((none > 0.5).mean())
    assert arms.filter(arm="ape")["instruction"].unique().to_list() == [SPELLS[1]]
    assert found_arms.trained is None and set(arms["arm"]) == set(told)
    lines = "\n".join([*of_repair(found), *of_arms(table, "perfect")])
    assert SPELLS[1] in lines and "less that of none" in lines


def test_where_no_instruction_works_none_helps() -> None:
    model = at_rate(0.5)
    first, others = halves(prompts(40), 0)
    found, _ = learn(model, first, writes(), scorer(), QUICK)
    told = instructions(found, others)
    table = measure_arms(model, others, told, perfect(), k=8, draws=200).rates.filter(measure="apv")
    for row in table.to_dicts():
        assert row["gain_low"] <= 0 <= row["gain_high"], row


def test_rewards_are_the_mean_probability_that_a_principle_is_kept() -> None:
    first, _ = halves(prompts(8), 0)
    found, _ = learn(heeds("Be gentle.", high=1.0, low=0.0), first, writes(), perfect(), QUICK)
    for one in found.lessons:
        assert one.before == pytest.approx(0, abs=1e-6)
        assert one.reward == pytest.approx(float(one.instruction == "Be gentle."), abs=1e-6)


def test_what_did_best_for_the_prompts_most_alike_is_retrieved() -> None:
    lessons = (
        Lesson("Do not lie.", "At the market she saw", "A", 0.5, 0.1),
        Lesson("Do not lie.", "At the market he saw", "B", 0.9, 0.1),
        Lesson("Feed the dog.", "In the kennel it barked", "C", 1.0, 0.1),
    )
    table = prompts(2).with_columns(
        principle=pl.Series(["Do not lie.", "Feed the dog."]),
        prompt=pl.Series(["At the market they saw", "In the kennel they sat"]),
    )
    one = Repair(None, lessons, (), {}, near=2)
    assert retrieved(one, table)[0] == "B"
    assert retrieved(Repair(None, lessons, (), {}, near=1), table) == ["B", "C"] or retrieved(
        Repair(None, lessons, (), {}, near=1), table
    ) == ["A", "C"]
    assert list(instructions(Repair(None, (), (), {}, 1), table)) == [
        "none",
        "warning",
        "critique",
    ]


def test_second_thoughts_are_asked_for_and_what_is_none_leaves_the_first() -> None:
    def says(question: Question) -> str:
        assert "If that breaks the rule" in question.text
        return "" if "third" in question.text else GOOD + " now"

    again = rewriter(Scripted("m", says), 16)
    pairs = [("r", f"{BAD} first"), ("r", "I'm sorry, I can't."), ("r", f"{BAD} third"), ("r", "")]
    assert again(pairs) == [GOOD + " now", "I'm sorry, I can't.", f"{BAD} third", ""]


def test_refusals_are_counted_and_no_instruction_is_said() -> None:
    first, others = halves(prompts(8), 0)
    found, _ = learn(
        at_rate(0.5), first, Scripted("w", lambda q: "I'm sorry, no."), perfect(), QUICK
    )
    assert found.for_all is None and found.lessons == ()
    assert found.unused == {"refused": 4 * 4 + 4}
    assert "none that can be used" in "\n".join(of_repair(found))
    assert list(instructions(found, others)) == ["none", "warning", "critique"]


def test_a_repair_is_read_as_it_was_written() -> None:
    first, _ = halves(prompts(8), 0)
    found, _ = learn(at_rate(0.5), first, writes(), perfect(), QUICK)
    assert Repair.from_json(json.loads(json.dumps(found.as_json()))) == found
    with pytest.raises(DataError, match="this is no repair"):
        Repair.from_json({"lessons": [{"a": 1}]})
    with pytest.raises(DataError, match="too few principles to repair"):
        halves(prompts(3), 0)
    with pytest.raises(UsageError, match="find no instruction"):
        Options(n=0)
    assert set(halves(prompts(8, rounds=2), 0)[0]["iter"]) == {1}


def test_no_principle_is_learnt_from_and_measured() -> None:
    """Whatever its lines are called, and however it is spelled."""
    table = prompts(8).sample(fraction=1, seed=0, shuffle=True)
    many = pl.concat([table.with_columns(pl.col("prompt") + f" {i}") for i in range(4)])
    many = many.with_columns(
        id=pl.Series([str(i) for i in range(many.height)]),
        principle=pl.Series([p.upper() if i % 2 else p for i, p in enumerate(many["principle"])]),
    )
    first, others = halves(many, 0)
    assert first.height == others.height == 16
    lower = [{p.casefold() for p in some["principle"]} for some in (first, others)]
    assert not lower[0] & lower[1]
    found, _ = learn(at_rate(0.5), first, writes(), perfect(), QUICK)
    assert unseen(found, many)["id"].to_list() == others["id"].to_list()
    bare = many.drop("id").with_columns(id=pl.col("principle"))
    assert {p.casefold() for p in unseen(found, bare)["principle"]} == lower[1]


def test_an_arm_is_held_against_the_base_on_the_same_prompts() -> None:
    base = measure(at_rate(0.5), prompts(20), {"report": perfect()}, k=4, draws=50, endorse=False)
    there = base.completions
    gone = there.with_columns(
        report=pl.when(pl.col("id").is_in([f"p{i}" for i in range(10)])).then(pl.col("report"))
    )
    table = against({"none": there, "silent": gone}, "none", "report", draws=100, seed=0)
    for row in table.filter(arm="silent").to_dicts():
        assert row["gain"] == row["gain_low"] == row["gain_high"] == 0 and row["n"] == 10
    # Prompts of a principle are drawn together: four that go alike tell no more than one.
    group = np.repeat(np.arange(10), 8)
    alike = there.with_columns(report=pl.Series((group % 2).astype(float)))
    widths = []
    for principle in (pl.Series([f"rule {'abcdefghij'[g]}" for g in group]), there["principle"]):
        arms = {
            "none": alike.with_columns(principle=principle, report=pl.lit(0.0)),
            "all": alike.with_columns(principle=principle),
        }
        table = against(arms, "none", "report", draws=400, seed=0).filter(arm="all", measure="apv")
        widths.append(table["gain_high"][0] - table["gain_low"][0])
    assert widths[0] > 1.2 * widths[1]


def test_second_thoughts_and_a_trained_writer_are_arms_of_their_own(tmp_path: Path) -> None:
    """Second thoughts keep every principle; the trained writer's words do, the untrained one's don't."""

    def says(question: Question) -> str:
        if "If that breaks the rule" in question.text:
            return f"{GOOD} after all"
        return GOOD if "Be gentle." in question.text else f"{BAD} {question.seed}"

    _, others = halves(prompts(20), 0)
    n = others.height
    told = {"none": [None] * n, "critique": [None] * n}
    told |= {"written": ["Hm."] * n, "trained": ["Be gentle."] * n}  # type: ignore[dict-item]
    found = measure_arms(Scripted("m", says), others, told, perfect(), k=3, draws=50)
    apv = {row["arm"]: row["value"] for row in found.rates.filter(measure="apv").to_dicts()}
    assert apv == {"none": 1, "critique": 0, "written": 1, "trained": 0}
    assert found.trained is not None and found.trained["arm"].unique().to_list() == ["trained"]
    assert found.trained.filter(measure="apv")["gain"][0] == -1
    found.save(tmp_path)
    assert pl.read_parquet(tmp_path / "arms.parquet").equals(found.rates)
    assert "unpleasant" in (tmp_path / "READ-FIRST.md").read_text()
