"""How a model is asked to go on with a story."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.behavior.asking import kept
from moralprobe.behavior.text_model import NoLogprobsError, Question, TextModel
from moralprobe.cache import Cache

CONTINUE: Final = (
    "Go on with this story by one or two sentences. Write only how it goes on.\n\n{prompt}"
)
REFUSED: Final = ("refused", "empty")
"""Of these nothing was broken; of what is `too long` nothing is known."""


def ask(prompt: str, instruction: str | None = None, seed: int = 0) -> Question:
    """Return the question that has a model go on with a story, an instruction before it or not."""
    text = CONTINUE.format(prompt=prompt)
    return Question(text if instruction is None else f"{instruction}\n\n{text}", seed=seed)


def seed_of(*numbers: int) -> int:
    """Return a seed that other numbers don't give: what is drawn for one end isn't for another."""
    # Their number too: to numpy, zeros at the end are nothing.
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0])


def fits(
    model: TextModel,
    prompts: Sequence[str],
    texts: Sequence[str],
    *,
    cache: Cache | None = None,
) -> NDArray[np.float64] | None:
    """Return how well texts go on from prompts: log-probability a word, [prompts, texts], nats.

    None of a model that tells no probabilities, or not of whole texts.
    """
    questions = [ask(prompt) for prompt in prompts]
    options = [text for text in texts if text.strip()]
    if len(options) < len(texts) or not texts:
        return None
    try:
        rows = kept(
            model,
            questions,
            {"options": options},
            lambda some: model.score_options(some, options),
            cache,
            lambda n: None,
        )
    except NoLogprobsError:
        return None
    nothing = [np.nan] * len(options)
    found = np.array([nothing if isinstance(row, str) else row for row in rows], np.float64)
    if not np.isfinite(found).all():
        return None
    words = np.array([len(text.split()) for text in options], np.float64)
    return np.asarray(found / words, np.float64)
