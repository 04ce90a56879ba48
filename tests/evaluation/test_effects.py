"""What an arm does beside answering is read where its answer stands, not where a thought would."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moralprobe.cache import open_cache
from moralprobe.evaluation import effects
from moralprobe.evaluation.arms import Arm
from moralprobe.evaluation.effects import (
    Suites,
    _frame,
    side_effects_of,
    suites_of,
    usual_prompts,
)
from moralprobe.evaluation.prompts import Case
from moralprobe.evaluation.trial import Trial
from moralprobe.steering.sampling import Sampling
from tests.models.test_chat import TEMPLATE
from tests.steering.test_generate import tiny

CLOSED = "<think></think>"
"""What the template writes where it is told not to think."""


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    model = tiny(bos=False)
    model.tokenizer.chat_template = TEMPLATE
    sampling = Sampling(max_new_tokens=4)
    with open_cache(tmp_path / "w.jsonl") as written, open_cache(tmp_path / "j.jsonl") as judged:
        yield Trial(model, sampling, (0,), written, judged)


@pytest.mark.parametrize("thinking", [None, True, False])
def test_options_are_read_where_the_answer_stands(
    thinking: bool | None, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: dict[str, Any] = {}
    for name in ("knowledge", "ethics", "mfq", "known_answers", "divergence"):
        real = getattr(effects, name)

        def watching(
            *args: Any, frame: Any, name: str = name, real: Any = real, **more: Any
        ) -> Any:
            frames[name] = frame
            return real(*args, frame=frame, **more)

        monkeypatch.setattr(effects, name, watching)
    cases = [Case("justice", f"He shares {i}.", "", i % 2, i) for i in range(6)]
    monkeypatch.setattr(effects, "load_ethics", lambda folder, part: cases)
    mfq = tmp_path / "mfq.json"
    scale = {str(k): f"s{k}" for k in range(1, 6)}
    questions = [{"content": f"a{i}", "dimension": "care"} for i in range(2)]
    mfq.write_text(json.dumps([{"questions": questions, "scale": scale}]))
    trial = replace(trial, thinking=thinking)
    suites = Suites(ethics=tmp_path, mfq=mfq)
    list(side_effects_of(trial, Arm("unsteered"), suites))
    list(suites_of(trial, Arm("unsteered"), suites))
    assert len(frames) == 5
    for name, (_, after) in frames.items():
        asked = name != "divergence" or thinking is False
        assert after.endswith(CLOSED) == asked, name


def test_a_thought_that_the_template_always_opens_is_closed(trial: Trial) -> None:
    always = TEMPLATE.replace("<bos>assistant\n", "<bos>assistant\n<think>\n")
    trial.model.tokenizer.chat_template = always.replace(CLOSED, "")
    for thinking in (None, False):
        frame = _frame(trial, Arm("unsteered"), thinking)
        assert frame is not None and frame[1].endswith("<think>\n\n</think>\n\n")


def test_answers_that_never_came_are_left_out_and_counted(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the model's own thoughts were cut: KL is read on the other answers alone."""
    cut = {"arm": 7, "unsteered": 12}

    def write_answers(model: Any, arm: Arm, prompts: Any, *_: Any, **__: Any) -> Any:
        said = {"thought": "", "tokens": 2, "ended": True, "edits": 0, "change": 0.0}
        return [
            [{**said, "text": "" if i < cut[arm.name] else "Yes.", "unfinished": i < cut[arm.name]}]
            for i in range(len(prompts))
        ]

    monkeypatch.setattr("moralprobe.evaluation.trial.write_answers", write_answers)
    found = {e.measure.name: e for e in side_effects_of(trial, Arm("arm"), Suites())}
    for name, left_out in {"KL": 12, "refused": 7, "empty": 7, "repeated 4-grams": 30}.items():
        assert found[name].left_out == left_out, name
        assert found[name].measure.n == 30 - left_out, name
    assert found["empty"].measure.value == 0 and found["loss"].left_out == 0
    # Of other requests than the model's own nothing is said; KL is of the same in every arm.
    plain = {e.measure.name: e for e in side_effects_of(trial, Arm("unsteered"), Suites())}
    for name, known in {"KL": True, "loss": True, "refused": False, "empty": False}.items():
        assert (found[name].row(plain[name])["change"] is not None) == known, name
    cut["unsteered"] = 30
    found = {e.measure.name: e for e in side_effects_of(trial, Arm("arm"), Suites())}
    row = found["KL"].row()
    assert math.isnan(row["value"]) and row["left_out"] == 30 and "thought" in row["status"]


@pytest.mark.parametrize(
    ("suite", "prompts"),
    [("flames", "flames"), ("moral, flames", "flames"), ("all", "english"), ("moral", "english")],
)
def test_flames_is_asked_where_it_is_named(suite: str, prompts: str) -> None:
    assert usual_prompts(suite) == prompts
