"""Ask a model each different question once, and keep what it says as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moralprobe.behavior.text_model import Question, TextModel, UnansweredError
from moralprobe.cache import Cache, key_of


def kept(
    model: TextModel,
    questions: Sequence[Question],
    about: Mapping[str, Any],
    answer: Callable[[list[Question]], Iterator[tuple[int, Any]]],
    cache: Cache | None,
    step: Callable[[int], None],
) -> list[Any]:
    """Return an answer to each question: each different one is asked once, and kept as it comes.

    Args:
        model: whose identity answers are kept under.
        questions: what is asked.
        about: everything else that can change an answer.
        answer: yields answers with the number of their question.
        cache: where they are kept.
        step: called with 1 after each answer, and with what was there.
    """
    of = {"model": dict(model.identity), **about}
    keys = [key_of({**of, "text": q.text, "system": q.system, "seed": q.seed}) for q in questions]
    different = dict(zip(keys, questions, strict=True))
    known = {
        key: value
        for key in different
        if cache is not None and (value := cache.get(key)) is not None
    }
    left, times = [key for key in different if key not in known], Counter(keys)
    step(sum(times[key] for key in known))
    for number, value in answer([different[key] for key in left]) if left else ():
        known[left[number]] = value
        if cache is not None:
            cache.put(left[number], value)
        step(times[left[number]])
    if missing := [key for key in left if key not in known]:
        raise UnansweredError(
            f"{model.name} left {len(missing)} questions out",
            "a model answers each, if only with what can't be read",
            "correct the model",
        )
    return [known[key] for key in keys]
