"""What may be claimed: of every control, before every judge that is believed."""

from __future__ import annotations

from moralprobe.evaluation.arms import Arm
from moralprobe.evaluation.pairwise import Estimate
from moralprobe.evaluation.trial import Variant, chosen
from moralprobe.evaluation.verdict import BETTER, NOT_BETTER, UNKNOWN, verdict
from moralprobe.steering.arms import UNSTEERED


def gap(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 30, 60, 0)


SURE, UNSURE, WORSE = gap(0.3, 0.1, 0.5), gap(0.2, -0.1, 0.4), gap(-0.3, -0.5, -0.1)


def test_it_must_be_above_every_control() -> None:
    all_of_them = {UNSTEERED: SURE, "shuffled": SURE, "random_direction": gap(0.25, 0.05, 0.4)}
    found = verdict({"j": all_of_them}, {})
    assert (found.kind, found.best, found.lowest) == (BETTER, "random_direction", 0.05)
    found = verdict({"j": {**all_of_them, "shuffled": UNSURE}}, {})
    assert (found.kind, found.best, found.lowest) == (NOT_BETTER, "shuffled", -0.1)
    assert "surely worse" not in found.said
    assert "surely worse" in verdict({"j": {**all_of_them, "shuffled": WORSE}}, {}).said


def test_it_must_be_so_before_every_judge_that_is_believed() -> None:
    one, two = {"shuffled": SURE}, {"shuffled": UNSURE}
    assert verdict({"a": one, "b": one}, {}).kind == BETTER
    assert verdict({"a": one, "b": two}, {}).kind == NOT_BETTER
    assert verdict({"a": one, "b": two}, {"b": ["it guesses"]}).kind == BETTER
    none = verdict({"a": one, "b": two}, {"a": ["it guesses"], "b": ["it too"]})
    assert none.kind == UNKNOWN and "it guesses" in none.said


def test_without_a_control_that_changes_as_much_there_is_no_claim() -> None:
    assert verdict({"j": {UNSTEERED: SURE, "prompt": SURE}}, {}).kind == UNKNOWN
    assert verdict({}, {}).kind == UNKNOWN
    assert "Not run: means." in verdict({"j": {"shuffled": SURE}}, {}, ["means"]).said


def test_where_thoughts_never_ended_nothing_is_claimed_and_no_judge_is_blamed() -> None:
    sure = {"j": {"shuffled": SURE}}
    assert verdict(sure, {}, unfinished={"steered": 0.1, "shuffled": 0.0}).kind == BETTER
    for failed in ({}, {"j": ["it guesses"]}):
        lost = verdict(sure, failed, unfinished={"steered": 0.02, "shuffled": 0.25})
        assert lost.kind == UNKNOWN and "25% of what shuffled wrote" in lost.said
        assert "--max-tokens" in lost.said and "--no-thinking" in lost.said
        assert "judge" not in lost.said.replace("can be judged", "")


def test_each_arm_is_chosen_by_its_own_score() -> None:
    a, b = Arm("steered"), Arm("shuffled")
    variants = [Variant(a, 0, s) for s in (0.5, 1.0)] + [Variant(b, 0, s) for s in (0.5, 1.0)]
    found = chosen(variants, {0: 0.4, 1: 0.6, 2: 0.7, 3: 0.5})
    assert (found["steered"].strength, found["shuffled"].strength) == (1.0, 0.5)
    # Of equal ones the weaker; without a score the strongest; a score beats none.
    assert chosen(variants, {0: 0.5, 1: 0.5})["steered"].strength == 0.5
    assert chosen(variants, {})["steered"].strength == 1.0
    assert chosen(variants, {0: 0.1, 1: None})["steered"].strength == 0.5
    turned = [Variant(a, 0, s) for s in (-1.0, -0.5)]
    assert chosen(turned, {})["steered"].strength == -1.0
    assert chosen(turned, {0: 0.5, 1: 0.5})["steered"].strength == -0.5
