"""A variant's verdicts: none of a thought that never ended, by whichever protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from moralprobe.cache import open_cache
from moralprobe.evaluation.judge_backends import ScriptedJudge
from moralprobe.evaluation.judges import Asked, Comparison, Rating
from moralprobe.evaluation.prompts import Prompt
from moralprobe.evaluation.trial import (
    Answers,
    Trial,
    asked_of,
    finished_of,
    unfinished_share,
    unread_share,
)
from moralprobe.models.causal import CausalModel
from moralprobe.steering.sampling import Sampling

PROMPTS = [Prompt(f"p{i}", f"question {i}", "all", "") for i in range(3)]


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    with open_cache(tmp_path / "w.jsonl") as written, open_cache(tmp_path / "j.jsonl") as judged:
        yield Trial(cast(CausalModel, None), Sampling(), (0, 1), written, judged)


def answers(*texts: tuple[str | None, str | None]) -> Answers:
    return [[{"text": x or "", "unfinished": x is None} for x in pair] for pair in texts]


MINE = answers(("good", None), (None, ""), ("same", "good"))
PLAIN = answers(("bad", None), ("bad", ""), ("same", None))


def preferring(seen: list[Asked]) -> ScriptedJudge:
    def says(asked: Asked) -> str:
        seen.append(asked)
        if isinstance(asked, Rating):
            return "3" if asked.answer == "good" else "2"
        return "A" if asked.first == "good" else "B"

    return ScriptedJudge("prefers", says)


def test_a_thought_that_never_ended_is_neither_a_tie_nor_a_verdict(trial: Trial) -> None:
    seen: list[Asked] = []
    found = trial.pairs(preferring(seen), PROMPTS, MINE, PLAIN)
    nan = math.nan
    # Two answers that are plainly empty are the same text, and even.
    assert np.array_equal(found.scores, [[1, nan], [nan, 0.5], [0.5, nan]], equal_nan=True)
    assert {(one.first, one.second) for one in seen if isinstance(one, Comparison)} == {
        ("good", "bad"),
        ("bad", "good"),
    }
    assert asked_of(MINE, PLAIN).tolist() == [[True, False], [False, False], [False, False]]
    finished = finished_of(MINE, PLAIN)
    assert finished.tolist() == [[True, False], [False, True], [True, False]]
    assert unfinished_share(MINE) == pytest.approx(2 / 6)
    # It isn't held against the judge, who read all that there was.
    assert unread_share(found, asked_of(MINE, PLAIN)) == 0
    assert unread_share(found, np.zeros_like(finished)) == 0


def test_a_judge_is_held_to_what_it_was_asked(trial: Trial) -> None:
    mute = ScriptedJudge("mute", lambda asked: "hm")
    found = trial.pairs(mute, PROMPTS, MINE, PLAIN)
    assert unread_share(found, asked_of(MINE, PLAIN)) == 1


def test_as_published_it_is_no_win_and_nobody_is_asked(trial: Trial) -> None:
    seen: list[Asked] = []
    found = trial.published(preferring(seen), PROMPTS, MINE, PLAIN)
    assert found["value"] == pytest.approx(3 / 6)  # good, and what is second of two that are alike
    assert (found["missing"], found["pairs"]) == (3, 6)
    shown = [(one.first, one.second) for one in seen if isinstance(one, Comparison)]
    assert sorted(shown) == [("", ""), ("bad", "good"), ("same", "same")]


def test_only_answers_are_rated_and_legality_has_no_middle(trial: Trial) -> None:
    seen: list[Asked] = []
    prompts = [PROMPTS[0], PROMPTS[1], Prompt("p2", "question 2", "legality", "")]
    rated = trial.ratings(preferring(seen), prompts, MINE, "safety")
    nan = math.nan
    assert np.array_equal(rated, [[3, nan], [nan, 2], [nan, 3]], equal_nan=True)
    rubrics = {(one.question, one.rubric) for one in seen if isinstance(one, Rating)}
    assert rubrics == {
        ("question 0", "safety"),
        ("question 1", "safety"),
        ("question 2", "legality"),
    }
    nuance = trial.ratings(preferring(seen), prompts, MINE, "nuance")
    assert np.array_equal(nuance, [[3, nan], [nan, 2], [2, 3]], equal_nan=True)
    lost = answers((None, None))
    assert np.isnan(trial.ratings(preferring(seen), PROMPTS[:1], lost, "safety")).all()
