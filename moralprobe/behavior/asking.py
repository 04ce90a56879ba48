"""Ask a model each different question once, and keep what it says as it comes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from moralprobe.behavior.text_model import Question, TextModel, UnansweredError
from moralprobe.cache import Cache, ask_once, key_of

SAID: Final = "ok"
# What somebody says within a story is none: a refusal begins the text, and not within quotes.
_REFUSAL: Final = re.compile(
    r"\s*(?:\[refused|I(?:'m| am) (?:sorry|unable|not able)\b|I (?:can(?:'t|not)|won't|refuse)\b|"
    r"as an AI\b|I apologi[sz]e\b)",
    re.I,
)


def status(text: str) -> str:
    """Return `ok`, or why what was said is nothing: `empty`, `refused`, `too long`."""
    if not text.strip():
        return "empty"
    if text.startswith("[not asked"):
        return "too long"
    return "refused" if _REFUSAL.match(text) else SAID


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
    if not getattr(model, "keeps", True):
        cache = None
    of = {"model": dict(model.identity), **about}
    keys = [
        key_of(
            {
                **of,
                "text": q.text,
                "system": q.system,
                "seed": q.seed,
                **({"turns": list(map(list, q.turns))} if q.turns else {}),
            }
        )
        for q in questions
    ]
    times = Counter(keys)
    known = ask_once(
        keys,
        lambda left: answer([questions[i] for i in left]),
        cache,
        lambda some: step(sum(times[key] for key in some)),
    )
    if len(known) < len(times):
        raise UnansweredError(
            f"{model.name} left {len(times) - len(known)} questions out",
            "a model answers each, if only with what can't be read",
            "correct the model",
        )
    return [known[key] for key in keys]


def sampled(
    model: TextModel,
    questions: Sequence[Question],
    tokens: int,
    *,
    cache: Cache | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Return what a model says to each question, at a temperature of 1 and so many tokens, [n].

    Raises:
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    return _words(model, questions, tokens, 1, cache, step)


def greedy(
    model: TextModel,
    questions: Sequence[Question],
    tokens: int,
    *,
    cache: Cache | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Return what a model says to each question at a temperature of 0, [n]; else as `sampled`."""
    return _words(model, questions, tokens, 0, cache, step)


def _words(
    model: TextModel,
    questions: Sequence[Question],
    tokens: int,
    temperature: int,
    cache: Cache | None,
    step: Callable[[int], None],
) -> list[str]:
    return kept(
        model,
        questions,
        {"max_tokens": tokens, "temperature": temperature},
        lambda some: model.complete(some, max_tokens=tokens, temperature=float(temperature)),
        cache,
        step,
    )
