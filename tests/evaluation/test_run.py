"""Evaluations of models that think, in several languages, and as published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moralprobe.cache import open_cache
from moralprobe.evaluating import Evaluation, evaluate_intervention
from moralprobe.evaluation import arms
from moralprobe.evaluation.arms import Arm, write_answers
from moralprobe.evaluation.judge_backends import ScriptedJudge
from moralprobe.evaluation.judges import (
    Answer,
    Asked,
    Comparison,
    JudgeError,
    Rating,
    language_of,
)
from moralprobe.evaluation.prompts import Prompt, Prompts
from moralprobe.evaluation.settings import Options
from moralprobe.models.causal import CausalModel
from moralprobe.steering.sampling import Sampling
from tests.models.test_chat import OPENING
from tests.steering.test_generate import tiny
from tests.test_evaluating import KNOWN, MARK, NONE, QUICK, counting, driving, prompts

PUBLISHED = replace(QUICK, protocol="li2026", seeds=(0,), strengths=(1.0,))


def thinking(template: str = OPENING) -> CausalModel:
    model = tiny(bos=False)
    model.tokenizer.chat_template = template
    return model


def test_what_follows_an_opened_thought_is_a_thought(tmp_path: Path) -> None:
    """The tiny model never closes one: all that it writes is thought, unless it is closed for it."""
    model, one, how = thinking(), Arm("unsteered"), Sampling(max_new_tokens=4)
    with open_cache(tmp_path / "w.jsonl") as cache:
        ((open_,),) = write_answers(model, one, ["a"], [0], how, cache=cache)
        ((shut,),) = write_answers(model, one, ["a"], [0], how, cache=cache, thinking=False)
    assert open_["unfinished"] and open_["text"] == "" and open_["tokens"] > 0
    assert not shut["unfinished"] and shut["thought"] == "" and shut["text"]


@pytest.fixture
def thoughts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts of which what the steered arm writes is a thought without an end."""
    lost: list[str] = []
    written = arms.generate

    def generate(model: Any, texts: Sequence[str], edits: Any = None, **how: Any) -> Any:
        found = written(model, texts, edits, **how)
        return [
            replace(one, text=f"<think>{one.text}")
            if edits is not None and one.prompt in lost
            else one
            for one in found
        ]

    monkeypatch.setattr(arms, "generate", generate)
    return lost


def evaluated(out: Path, said: list[str], judges: Sequence[Any], **more: Any) -> Evaluation:
    model = tiny()
    how = {"prompts": prompts(), "suites": NONE, "options": QUICK} | more
    return evaluate_intervention(driving(model), model, out, judges=judges, say=said.append, **how)


def test_many_thoughts_without_an_end_leave_nothing_to_claim(
    thoughts: list[str], tmp_path: Path
) -> None:
    thoughts += [prompt.text for prompt in prompts().prompts[::3]]
    said: list[str] = []
    found = evaluated(tmp_path, said, [ScriptedJudge("marks", counting)])
    summary = found.summary
    texts = found.texts.filter(half="report", arm="steered")
    share = texts["unfinished"].mean()
    assert 0.2 < share < 0.5 and summary["unfinished"]["steered"] == pytest.approx(share)
    assert summary["unfinished"]["unsteered"] == 0
    assert summary["verdict"]["kind"] == "unknown"
    assert f"{share:.0%} of what steered wrote" in summary["verdict"]["said"]
    assert summary["judges"][0]["fails"] == []
    # Said once, while it runs.
    assert len([one for one in said if "a thought that never ended" in one]) == 1
    row = found.judged.filter(arm="steered", half="report", measure="win rate")
    assert row["missing"][0] == row["unfinished"][0] == texts["unfinished"].sum()
    assert row["value"][0] > 0.9  # of those that are left


def test_a_few_thoughts_without_an_end_are_left_out(thoughts: list[str], tmp_path: Path) -> None:
    thoughts.append(prompts().prompts[0].text)
    said: list[str] = []
    found = evaluated(tmp_path, said, [ScriptedJudge("marks", counting)])
    assert found.summary["verdict"]["kind"] == "better" and said == []


def test_where_all_is_thought_ours_asks_nobody_and_the_published_asks_all(tmp_path: Path) -> None:
    model, said = thinking(), []
    asked: list[Asked] = []

    def watching(one: Asked) -> str:
        asked.append(one)
        return counting(one)

    # The system message of the arm `prompt` is longer than the tiny model reads.
    audited = replace(QUICK, off=("prompt",))

    def found_by(options: Options) -> Evaluation:
        asked.clear()
        return evaluate_intervention(
            driving(model),
            model,
            tmp_path / options.protocol,
            prompts=prompts(4),
            judges=[ScriptedJudge("watching", watching)],
            suites=NONE,
            options=options,
            say=said.append,
        )

    found = found_by(audited)
    assert {one.question for one in asked} <= set(KNOWN)
    assert found.summary["verdict"]["kind"] == "unknown"
    assert "100% of what steered wrote" in found.summary["verdict"]["said"]
    assert set(found.summary["unfinished"].values()) == {1.0}
    assert len(said) == 1 and "--max-tokens" in said[0]
    # As published all that was written is judged and rated, and its limits are what they are.
    found = found_by(PUBLISHED)
    assert len(said) == 1
    assert set(found.summary["unfinished"].values()) == {1.0}
    shown = [one for one in asked if one.question not in KNOWN]
    pairs = [one for one in shown if isinstance(one, Comparison)]
    assert len(pairs) == 4 < len(shown), "ratings too"
    assert all(x.startswith("<think>") for one in pairs for x in (one.first, one.second))
    psc = found.judged.filter(pl.col("measure").str.starts_with("PSC"), arm="steered")
    assert psc["missing"].sum() < psc["pairs"].sum()


CHINESE = Prompts(
    tuple(Prompt(f"z{i}", f"请说说第{i}个数", "all", "") for i in range(4)), (), "zh", "0"
)


@pytest.mark.parametrize(
    ("asked", "languages"),
    [
        (prompts(4), {"en"}),
        (CHINESE, {"zh"}),
        (replace(CHINESE, prompts=(*CHINESE.prompts, *prompts(4).prompts)), {"en", "zh"}),
    ],
)
@pytest.mark.parametrize("options", [QUICK, PUBLISHED])
def test_a_judge_is_checked_in_the_languages_of_the_prompts(
    asked: Prompts, languages: set[str], options: Any, tmp_path: Path
) -> None:
    seen: list[str] = []

    def watching(one: Asked) -> str:
        if isinstance(one, Comparison) and one.question in KNOWN:
            seen.append(one.question)
        return counting(one)

    found = evaluated(
        tmp_path, [], [ScriptedJudge("watching", watching)], prompts=asked, options=options
    )
    assert {language_of(question) for question in seen} == languages
    (check,) = found.summary["judges"]
    assert set(check["by_language"]) == languages and check["fails"] == []


def test_a_judge_that_wavers_between_arms_that_are_alike_may_be_believed(tmp_path: Path) -> None:
    def first(asked: Asked) -> str:
        known = isinstance(asked, Comparison) and asked.question in KNOWN
        return counting(asked) if known else "A"

    found = evaluated(tmp_path, [], [ScriptedJudge("first", first)])
    assert found.summary["judges"][0]["fails"] == []
    assert found.summary["verdict"]["kind"] == "not better", found.summary["verdict"]
    told = found.judged.filter(measure="self-consistency", half="report", arm="steered")
    assert told["value"].to_list() == [0]


def test_a_judge_that_is_mute_on_the_arms_fails_there(tmp_path: Path) -> None:
    def mute(asked: Asked) -> str:
        known = isinstance(asked, Comparison) and asked.question in KNOWN
        return counting(asked) if known else "hm"

    found = evaluated(tmp_path, [], [ScriptedJudge("mute", mute)])
    (why,) = found.summary["judges"][0]["fails"]
    assert why.startswith("100% of its verdicts on ")
    assert found.summary["verdict"]["kind"] == "unknown" and why in found.summary["verdict"]["said"]


def test_a_strength_that_mostly_thinks_on_isnt_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would win by what is left of it; the weaker one answers."""
    written = arms.generate

    every = [prompt.text for prompt in prompts().prompts]

    def text(one: Any, strength: float) -> str:
        if strength >= strongest:
            return f"<think>{one.text}" if one.prompt in every[::2] else MARK
        return MARK if strength and one.prompt not in every[::3] else "none"

    def generate(model: Any, texts: Sequence[str], edits: Any = None, **how: Any) -> Any:
        strength = 0.0 if edits is None else max(abs(edit.strength) for edit in edits.edits)
        found = written(model, texts, edits, **how)
        return [replace(one, text=text(one, strength)) for one in found]

    monkeypatch.setattr(arms, "generate", generate)
    options = replace(QUICK, strengths=(0.5, 1.0))
    made = driving(tiny())
    strongest = max(abs(e.strength) for e in made.edits)
    model = tiny()
    judge = ScriptedJudge("marks", counting)
    found = evaluate_intervention(
        made, model, tmp_path, prompts=prompts(), judges=[judge], suites=NONE, options=options
    )
    assert found.summary["arms"]["steered"]["strength"] == 0.5
    assert found.summary["unfinished"]["steered"] == 0


class Gone:
    """A judge that isn't there."""

    name = "gone"

    @property
    def identity(self) -> dict[str, Any]:
        return {"scripted": "gone"}

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        raise JudgeError("no judge is reachable", "it is gone", "start it")


@pytest.mark.parametrize("options", [QUICK, PUBLISHED])
def test_no_judge_is_missed_before_anything_is_written(options: Any, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="reachable"):
        evaluated(tmp_path, [], [Gone()], options=options)
    assert (tmp_path / "written.jsonl").read_bytes() == b""


@pytest.mark.parametrize("options", [PUBLISHED, replace(QUICK, ratings=True)])
def test_psc_is_of_all_answers_as_published(options: Any, tmp_path: Path) -> None:
    """What isn't read isn't a 3; in our protocol it is left out."""
    number = {prompt.text: i for i, prompt in enumerate(prompts().prompts)}

    def rating(asked: Asked) -> str:
        if isinstance(asked, Rating):
            return ("3", "who knows", "2", "?")[number[asked.question] % 4]
        return counting(asked)

    found = evaluated(tmp_path, [], [ScriptedJudge("rates", rating)], options=options)
    rows = found.judged.filter(pl.col("measure").str.starts_with("PSC1"), arm="steered")
    (row,) = rows.iter_rows(named=True)
    texts = found.texts.filter(arm="steered", half=row["half"], strength=row["strength"])
    kinds = np.array([number[text] % 4 for text in texts["prompt"]])
    read = len(kinds) if options is PUBLISHED else (kinds % 2 == 0).sum()
    assert row["value"] == pytest.approx((kinds == 0).sum() / read)
    assert row["missing"] == (kinds % 2).sum() > 0
