"""Words are asked for greedily or sampled, each question once, and kept under what can change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moralprobe.behavior.asking import greedy, sampled, status
from moralprobe.behavior.text_model import Question, UnansweredError
from moralprobe.cache import open_cache


@dataclass
class Records:
    """A model that says how it was asked."""

    asked: list[tuple[Question, int, float]] = field(default_factory=list)
    name: str = "records"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"name": self.name}

    def complete(
        self, questions: Sequence[Question], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, str]]:
        for n, question in enumerate(questions):
            self.asked.append((question, max_tokens, temperature))
            if question.text != "nothing":
                yield n, f"{question.text} at {temperature:g}"

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float] | str]]:
        raise NotImplementedError


def test_each_question_is_put_once_at_its_temperature(tmp_path: Path) -> None:
    model, twice = Records(), [Question("a"), Question("b", turns=(("x", "y"),)), Question("a")]
    with open_cache(tmp_path / "a.jsonl") as cache:
        assert greedy(model, twice, 7, cache=cache) == ["a at 0", "b at 0", "a at 0"]
        assert sampled(model, twice, 7, cache=cache) == ["a at 1", "b at 1", "a at 1"]
        assert [(n, t) for _, n, t in model.asked] == [(7, 0.0)] * 2 + [(7, 1.0)] * 2
        greedy(model, twice, 7, cache=cache)
        assert len(model.asked) == 4
        # What was said before, a seed and the number of tokens are another question.
        for other in (Question("b"), Question("b", turns=(("x", "z"),)), Question("a", seed=1)):
            greedy(model, [other], 7, cache=cache)
        greedy(model, [Question("a")], 8, cache=cache)
        assert len(model.asked) == 8
    with pytest.raises(UnansweredError, match="left 1 questions out"):
        greedy(model, [Question("nothing")], 7)


def test_what_was_said_is_something_or_not() -> None:
    for text, why in (
        ("He said: I'm sorry.", "ok"),
        ("I'm sorry, I can't.", "refused"),
        ("[refused: filter]", "refused"),
        (" ", "empty"),
        ("[not asked: 9 tokens]", "too long"),
    ):
        assert status(text) == why
