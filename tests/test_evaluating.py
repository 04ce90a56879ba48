"""A whole evaluation: a direction that is known to drive an option wins, and its controls don't."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.cache import open_cache
from moralprobe.errors import ModelError, StoreError, UsageError
from moralprobe.evaluating import Evaluation, evaluate_intervention
from moralprobe.evaluation.arms import Arm, without_thought, write_answers
from moralprobe.evaluation.effects import Suites, parse_suites
from moralprobe.evaluation.judge_backends import ScriptedJudge
from moralprobe.evaluation.judge_check import known_pairs
from moralprobe.evaluation.judges import Asked, Comparison, JudgeError
from moralprobe.evaluation.options import token_logprobs
from moralprobe.evaluation.prompts import Prompt, Prompts
from moralprobe.evaluation.settings import Options
from moralprobe.evaluation.side_effects import encode_texts, neutral
from moralprobe.models.causal import CausalModel
from moralprobe.steering.apply import steered_logits
from moralprobe.steering.intervention import Edit, Intervention, model_of
from moralprobe.steering.rules import Add
from moralprobe.steering.sampling import Sampling
from tests.evaluation.test_changes import naive_change
from tests.steering.test_generate import tiny, vector

KNOWN = {pair.question: pair.better for pair in known_pairs()}
MARK = "!"
TEXTS = [f"Tell me {word} of number {i}" for i in range(16) for word in ("something", "nothing")]
QUICK = Options(
    strengths=(0.0, 0.5, 1.0),
    seeds=(0, 1),
    sampling=Sampling(max_new_tokens=8, temperature=0.9),
)
NONE = Suites(side_effects=False, pairs=False)


def prompts(n: int = len(TEXTS)) -> Prompts:
    found = tuple(Prompt(f"p{i}", text, "all", "") for i, text in enumerate(TEXTS[:n]))
    return Prompts(found, (), "test", "0")


def driving(model: CausalModel, size: float = 60.0) -> Intervention:
    """The unembedding of a mark, added after the last block, beside directions as long as it."""
    token = model.tokenizer.encode(MARK, add_special_tokens=False)[0]
    row = model.model.get_output_embeddings().weight[token].detach().float()

    def one(v: torch.Tensor) -> Intervention:
        return Intervention((Edit(2, Add(size * v / v.norm())),), model_of(model))

    beside = {"random_direction": one(vector(11)), "shuffled": one(vector(12))}
    return Intervention(one(row).edits, model_of(model), {"made_by": "test"}, beside)


def counting(asked: Asked) -> str:
    """Knows what is known; else likes marks."""
    if not isinstance(asked, Comparison):
        return "3" if MARK in asked.answer else "2"
    if asked.question in KNOWN:
        return "A" if asked.first == KNOWN[asked.question] else "B"
    one, two = asked.first.count(MARK), asked.second.count(MARK)
    return "A" if one > two else "B" if two > one else "C"


def evaluated(
    model: CausalModel, made: Intervention, out: Path, judge: Any, n: int = len(TEXTS)
) -> Evaluation:
    return evaluate_intervention(
        made, model, out, prompts=prompts(n), judges=[judge], suites=NONE, options=QUICK
    )


def test_what_drives_the_option_wins_and_its_controls_dont(tmp_path: Path) -> None:
    model = tiny()
    judge = ScriptedJudge("marks", counting)
    found = evaluated(model, driving(model), tmp_path, judge)
    assert found.summary["verdict"]["kind"] == "better"
    assert found.summary["judges"][0]["fails"] == []
    rates = {
        row["arm"]: row["value"]
        for row in found.judged.iter_rows(named=True)
        if (row["measure"], row["half"]) == ("win rate", "report")
    }
    assert rates["steered"] > 0.9
    assert all(rates[arm] < 0.7 for arm in rates if arm != "steered")
    assert rates["unsteered"] == 0.5
    assert set(rates) == {"steered", "unsteered", "random_direction", "shuffled"}
    assert found.summary["missing_arms"]["prompt"] == "the model has no chat template"
    # Chosen on one half, reported on the other.
    ids = {half: set(found.texts.filter(half=half)["id"]) for half in ("choose", "report")}
    assert ids["choose"] and ids["report"] and not ids["choose"] & ids["report"]
    assert found.summary["missing_arms"]["untuned"] == "the intervention has no such control"


def test_what_drives_the_other_way_isnt_claimed(tmp_path: Path) -> None:
    model = tiny()
    made = driving(model)
    (edit,) = made.edits
    nothing = Intervention((replace(edit, strength=-1.0),), made.model, {}, made.controls)
    found = evaluated(model, nothing, tmp_path, ScriptedJudge("marks", counting))
    assert found.summary["verdict"]["kind"] == "not better"


def test_without_a_control_that_changes_as_much_nothing_is_claimed(tmp_path: Path) -> None:
    model = tiny()
    alone = Intervention(driving(model).edits, model_of(model))
    found = evaluated(model, alone, tmp_path, ScriptedJudge("marks", counting))
    assert found.summary["verdict"]["kind"] == "unknown"
    assert "No control that changes states as much" in found.summary["verdict"]["said"]


def test_a_judge_that_leaves_too_much_out_fails(tmp_path: Path) -> None:
    model = tiny()

    def silent(asked: Asked) -> str:
        known = isinstance(asked, Comparison) and asked.question in KNOWN
        return counting(asked) if known or hash(asked.prompt) % 4 else "no comment"

    found = evaluated(model, driving(model), tmp_path, ScriptedJudge("silent", silent))
    assert found.summary["verdict"]["kind"] == "unknown"
    assert "are missing" in found.summary["judges"][0]["fails"][-1]


def test_what_was_thought_isnt_the_answer() -> None:
    for written, opened, text, thought, unfinished in (
        ("<think>hm\n</think>\n\nYes.", False, "Yes.", "hm", False),
        ("<think>never done", False, "", "never done", True),
        ("<think>hm</think>", False, "", "hm", False),  # an answer that is empty
        ("Yes, <think> is a tag.", False, "Yes, <think> is a tag.", "", False),
        ("", False, "", "", False),
        # Where the prompt itself opens the thought.
        ("hm\n</think>\n\nYes.", True, "Yes.", "hm", False),
        ("never done", True, "", "never done", True),
        ("<think>never done", True, "", "never done", True),
        ("", True, "", "", True),
    ):
        found = without_thought(written, opened=opened)
        assert found == {"text": text, "thought": thought, "unfinished": unfinished}


def test_texts_are_written_anew_where_the_template_changed(tmp_path: Path) -> None:
    from tests.models.test_chat import TEMPLATE

    model = tiny(bos=False)
    one = Arm("unsteered")
    with open_cache(tmp_path / "w.jsonl") as cache:
        for template in (None, TEMPLATE, TEMPLATE + " ", TEMPLATE):
            model.tokenizer.chat_template = template
            write_answers(model, one, ["a"], [0], Sampling(max_new_tokens=2), cache=cache)
        assert len(cache) == 3


def test_a_judge_that_fails_has_no_say(tmp_path: Path) -> None:
    model = tiny()
    found = evaluated(
        model, driving(model), tmp_path, ScriptedJudge("always first", lambda asked: "A"), 4
    )
    assert found.summary["verdict"]["kind"] == "unknown"
    assert "No judge can be believed" in found.summary["verdict"]["said"]
    # Its win rates are kept in the table all the same.
    assert found.judged.filter(measure="win rate").height


class Unreachable:
    """A judge that goes away after some answers."""

    name = "away"

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked = 0

    @property
    def identity(self) -> dict[str, Any]:
        return {"scripted": "away"}

    def answers(self, asked: Any) -> Any:
        from moralprobe.evaluation.judges import Answer

        for number, one in enumerate(asked):
            if self.asked >= self.after:
                raise JudgeError(
                    "no judge is reachable", "it went away", "the same command continues"
                )
            self.asked += 1
            yield number, Answer(counting(one))


def test_without_a_judge_the_same_call_continues(tmp_path: Path) -> None:
    model = tiny()
    one: dict[str, Any] = {"prompts": prompts(6), "suites": NONE, "options": QUICK}
    with pytest.raises(JudgeError, match="reachable"):
        evaluate_intervention(
            driving(model), model, tmp_path / "a", judges=[Unreachable(130)], **one
        )
    kept = (tmp_path / "a" / "written.jsonl").read_bytes()
    assert kept and len((tmp_path / "a" / "judged.jsonl").read_bytes().splitlines()) == 130
    again = Unreachable(10**6)
    found = evaluate_intervention(driving(model), model, tmp_path / "a", judges=[again], **one)
    whole = Unreachable(10**6)
    fresh = evaluate_intervention(driving(model), model, tmp_path / "b", judges=[whole], **one)
    assert again.asked == whole.asked - 130
    assert (tmp_path / "a" / "written.jsonl").read_bytes().startswith(kept)
    assert found.summary == fresh.summary
    assert found.judged.equals(fresh.judged) and found.texts.equals(fresh.texts)


def test_the_published_protocol(tmp_path: Path) -> None:
    model = tiny()
    seen: list[Comparison] = []
    unread = set(TEXTS[::5])

    def watching(asked: Asked) -> str:
        if isinstance(asked, Comparison) and asked.question not in KNOWN:
            seen.append(asked)
            if asked.question in unread:
                return "I can't say"
        return counting(asked)

    options = Options(
        strengths=(0.5, 1.0),
        seeds=(0,),
        sampling=Sampling(max_new_tokens=8),
        protocol="li2026",
    )
    found = evaluate_intervention(
        driving(model),
        model,
        tmp_path,
        prompts=prompts(),
        judges=[ScriptedJudge("watching", watching)],
        suites=NONE,
        options=options,
    )
    assert found.summary["verdict"]["kind"] == "unknown"
    assert "nothing is claimed" in found.summary["verdict"]["said"]
    texts = found.texts
    plain = dict(texts.filter(arm="unsteered").select("prompt", "text").iter_rows())
    # The baseline is always first.
    assert seen and all(one.first == plain[one.question] for one in seen)
    by_strength = {
        row["strength"]: row["value"]
        for row in found.judged.iter_rows(named=True)
        if row["measure"] == "win rate as published"
    }
    for strength, value in by_strength.items():
        steered = dict(
            texts.filter(arm="steered", strength=strength).select("prompt", "text").iter_rows()
        )
        wins = [
            text not in unread and steered[text].count(MARK) > plain[text].count(MARK)
            for text in TEXTS
        ]
        assert value == pytest.approx(np.mean(wins))  # what can't be read is a tie, and no win
    assert set(found.judged["half"]) == {"all"}
    assert set(texts["arm"]) == {"unsteered", "steered"}


def test_side_effects_and_suites_stand_beside_every_arm(tmp_path: Path) -> None:
    model = tiny()
    stories = tmp_path / "stories.jsonl"
    with stories.open("w") as stream:
        for i in range(12):
            story = {
                "ID": f"{i}",
                "norm": f"It's good to share {i}.",
                "moral_action": "He shares.",
                "immoral_action": "He keeps it all.",
            }
            stream.write(json.dumps(story) + "\n")
    _, suites = parse_suites("moral,side-effects", stories=stories, ethics=None, mfq=None)
    found = evaluate_intervention(
        driving(model), model, tmp_path / "out", suites=suites, options=QUICK
    )
    effects = found.effects
    arms = set(effects["arm"])
    assert {"steered", "unsteered", "random_direction", "shuffled"} <= arms
    of = {
        (row["arm"], row["measure"], row["category"]): row for row in effects.iter_rows(named=True)
    }
    assert of["unsteered", "KL", "benign requests"]["value"] == pytest.approx(0, abs=1e-6)
    assert of["steered", "KL", "benign requests"]["value"] > 0.1
    assert (
        of["steered", "loss", "neutral text"]["value"]
        > of["unsteered", "loss", "neutral text"]["value"]
    )
    assert ("steered", "per token", "moral stories") in of
    assert found.summary["prompts"] is None
    plain = {key[1:]: row for key, row in of.items() if key[0] == "unsteered"}
    for (arm, *key), row in of.items():
        if arm == "unsteered":
            assert row["change"] is None
        elif key[0] != "KL" and (row["left_out"] or plain[tuple(key)]["left_out"]):
            assert row["change"] is None, "of other items"
        else:
            change = row["value"] - plain[tuple(key)]["value"]
            assert row["change"] == pytest.approx(change, nan_ok=True)
    found.save(tmp_path / "out")
    again = Evaluation.load(tmp_path / "out")
    assert again.effects.equals(effects) and again.summary == json.loads(json.dumps(found.summary))
    effects.drop("change").write_parquet(tmp_path / "out" / "effects.parquet")
    with pytest.raises(StoreError, match="of an earlier version"):
        Evaluation.load(tmp_path / "out")


def test_what_cant_be_evaluated_is_refused(tmp_path: Path) -> None:
    model = tiny()
    made = driving(model)
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate_intervention(made, model, tmp_path, suites=NONE)
    with pytest.raises(UsageError, match="nothing to steer by"):
        evaluate_intervention(
            made, model, tmp_path, prompts=prompts(), suites=NONE, options=Options(strengths=(0.0,))
        )
    with pytest.raises(UsageError, match=r"no arm 'shufled' to switch off.*did you mean shuffled"):
        evaluate_intervention(
            made, model, tmp_path, prompts=prompts(), suites=NONE, options=Options(off=("shufled",))
        )
    with pytest.raises(ModelError, match="width"):
        small = Intervention((Edit(1, Add(torch.ones(8))),))
        evaluate_intervention(small, model, tmp_path, prompts=prompts())
    twice = [ScriptedJudge("one", counting), ScriptedJudge("one", counting)]
    with pytest.raises(UsageError, match="same name"):
        evaluate_intervention(made, model, tmp_path, prompts=prompts(), judges=twice)
    with pytest.raises(UsageError, match="different numbers"):
        Options(seeds=(1, 1))
    with pytest.raises(UsageError, match="did you mean audited"):
        Options(protocol="audit")


def test_changes_are_of_the_same_texts_whatever_both_intervals_say(tmp_path: Path) -> None:
    """The loss of neutral text, paired by hand from the losses of its paragraphs."""
    model = tiny()
    made = driving(model, 1.0)
    options = replace(QUICK, strengths=(1.0,), off=("random_direction", "shuffled"))
    found = evaluate_intervention(made, model, tmp_path, options=options)
    (row,) = found.effects.filter(arm="steered", measure="loss").iter_rows(named=True)
    encoded = encode_texts(model, neutral().paragraphs)
    losses = {
        arm: np.array(
            [-x.mean() for x in token_logprobs(model, steered_logits(model, edits), encoded)]
        )
        for arm, edits in (("steered", made), ("unsteered", None))
    }
    tokens = np.array([sum(text.action) for text in encoded], np.float64)
    change, low, high = naive_change(losses["steered"], losses["unsteered"], tokens, 0)
    found_here = row["change"], row["change_low"], row["change_high"]
    assert found_here == pytest.approx((change, low, high), rel=1e-3)
    (plain,) = found.effects.filter(arm="unsteered", measure="loss").iter_rows(named=True)
    assert row["change_low"] > 0 and row["low"] < plain["high"]


@pytest.mark.parametrize("positions", ["generated", "prompt"])
def test_what_no_edit_reaches_has_no_value(positions: str, tmp_path: Path) -> None:
    from tests.models.test_chat import TEMPLATE

    model = tiny(bos=False)
    model.tokenizer.chat_template = TEMPLATE
    quick = replace(QUICK, strengths=(1.0,), positions=positions, off=("shuffled", "prompt"))
    found = evaluate_intervention(driving(model), model, tmp_path, options=quick).effects
    by_hand = {  # one-token options have nothing written, neutral text has no prompt
        "generated": {"accuracy"},
        "prompt": {"loss", "perplexity"},
    }
    for arm in ("steered", "random_direction"):
        rows = found.filter(arm=arm)
        idle = rows.filter(status="not steered at these positions")
        assert set(idle["measure"]) == by_hand[positions]
        assert idle["value"].is_nan().all() and idle["change"].null_count() == len(idle)
        assert rows.filter(measure="KL")["value"][0] > 0
    plain = found.filter(arm="unsteered")
    assert set(plain["status"]) == {"ok"}


def test_known_pairs_are_measured_at_every_strength_without_a_judge(tmp_path: Path) -> None:
    model = tiny()
    _, suites = parse_suites("moral")
    assert suites == Suites(side_effects=False)
    found = evaluate_intervention(
        driving(model), model, tmp_path, suites=suites, options=QUICK
    ).effects
    assert set(found["category"]) == {"known pairs"}
    for arm, strengths in {
        "steered": [0.5, 1.0],
        "shuffled": [0.5, 1.0],
        "unsteered": [0.0],
    }.items():
        for measure in ("lead of the better", "better is likelier"):
            rows = found.filter(arm=arm, measure=measure).sort("strength")
            assert rows["strength"].to_list() == strengths and set(rows["n"]) == {60}
            assert rows["change"].null_count() == (1 if arm == "unsteered" else 0)
    moved = found.filter(arm="steered", measure="lead of the better")["change"]
    assert (moved.abs() > 1e-3).all() and moved.n_unique() == 2
    share = found.filter(measure="better is likelier")
    assert set(share["chance"]) == {0.5} and share["surface"].is_between(0.4, 0.6).all()


def test_suites_are_what_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "stories.jsonl"
    asked = {
        "flames": (True, Suites(side_effects=False, pairs=False)),
        "side-effects": (False, Suites(pairs=False)),
        "moral": (False, Suites(side_effects=False, stories=file)),
        "all": (True, Suites(stories=file)),
    }
    for text, found in asked.items():
        assert parse_suites(text, stories=file, ethics=None, mfq=None) == found
    with pytest.raises(UsageError, match="did you mean moral"):
        parse_suites("morals")


def test_controls_that_change_states_by_less_are_said(tmp_path: Path) -> None:
    model = tiny()
    made = driving(model)
    small = {"shuffled": made.controls["shuffled"] * 0.3, "means": made.controls["shuffled"]}
    made = Intervention(made.edits, made.model, {}, small)
    options = replace(QUICK, strengths=(1.0,), seeds=(0,))
    asked = {"prompts": prompts(6), "judges": [], "options": options}
    effects_only = {"suites": Suites(pairs=False), "options": options}
    for name, how in {"prompts": {**asked, "suites": NONE}, "effects": effects_only}.items():
        found = evaluate_intervention(made, model, tmp_path / name, **how)
        arms = found.summary["arms"]
        (said,) = found.summary["unlike_arms"]
        assert said.startswith("shuffled changes states by ")
        assert arms["unsteered"]["change"]["value"] == 0 < arms["shuffled"]["change"]["value"]
        if name == "prompts":
            for arm in arms:
                mean = found.texts.filter(arm=arm)["change"].mean()
                assert arms[arm]["change"]["value"] == pytest.approx(mean)
                assert arms[arm]["change"]["n"] == 6
        else:
            assert arms["steered"]["change"]["of"] == "benign requests"
    neither = {"suites": Suites(side_effects=False), "options": options}
    found = evaluate_intervention(made, model, tmp_path / "neither", **neither)
    assert found.summary["arms"]["steered"]["change"] is None
    assert found.summary["unlike_arms"] == []
