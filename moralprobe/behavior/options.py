"""Ask a model to choose among options, or to rate, so that what comes out is of the options.

Which letter an option has and where it stands must not decide: every option is asked for under
several orders, each of which gives every option every letter, and the orders are averaged: log
probabilities, so that whatever a letter adds to them is taken away from all options alike; of
samples their shares.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.behavior.asking import greedy, kept, sampled
from moralprobe.behavior.text_model import Question, TextModel
from moralprobe.cache import Cache
from moralprobe.errors import UsageError, nearest

READOUTS: Final = ("logprob", "sampled", "verbal", "verbalised")
CHOSEN: Final = READOUTS[:2]
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VARIANTS: Final = ("{}", " {}")
"""How a letter may begin an answer; their probabilities are summed. `mass` says what is missed."""
SAMPLES: Final = 10
ALL_ORDERS: Final = 3
"""With so many options at most all orders are asked, with more as many as there are options."""
_LEAST: Final = 1e-12  # of a share, so that no order rules an option out
_OPENS: Final = r"[\s\"'*(\[`]*"
_LETTER: Final = re.compile(
    rf"{_OPENS}(?:answer(?:\s+is)?\s*:?\s*)?{_OPENS}([A-Z])(?![\w'’-]| +\w| *[/,&]|\)? +or\b)",
    re.I | re.A,
)
_ANOTHER: Final = re.compile(r"(?:^|\W)([A-Z])(?=[.):*\]/]|$)", re.M | re.A)
_RATING: Final = re.compile(
    rf"{_OPENS}(?:(?:my\s+)?(?:rating|score|answer)\s*(?:is|[:=])?\s*)?{_OPENS}"
    r"(\d+(?:\.\d+)?)(?:\s*/\s*10|\s+out\s+of\s+10)?[\s.,;:!)*\]\"'`]*(?:\n(?!\s*\d)[^\d]*|)\Z",
    re.I | re.A,
)
_REFUSAL: Final = re.compile(
    r"\[refused|\bI(?:'m| am) (?:sorry|unable|not able)\b|\bI (?:can(?:'t|not)|won't|refuse)\b|"
    r"\bas an AI\b|\bI apologi[sz]e\b",
    re.I,
)


@dataclass(frozen=True)
class Choice:
    """What a model chose among options.

    `shares` are the options' probabilities, given that it is one of them, over all orders; none
    where `status` isn't `ok`. `mass` is the probability of an option at all, or the share of
    samples that could be read. `by_order` [orders][options] are the shares under each order:
    where they differ, the letters decide. `said` is a sample of words, where there are any.
    """

    shares: tuple[float, ...]
    mass: float
    by_order: tuple[tuple[float, ...], ...]
    status: str = "ok"
    said: str = ""


@dataclass(frozen=True)
class Readout:
    """How a choice or a rating is read.

    Args:
        kind: `logprob`, the probability of each option's letter; `sampled`, the share of so many
            sampled answers; `verbal`, a number that is said (`rate`); or `verbalised`, a
            distribution that is said (`behavior.verbalised`).
        samples: of each order, where they are sampled.
        max_tokens: of what is said.

    Raises:
        UsageError: an unknown kind, or numbers below 1.
    """

    kind: str = "logprob"
    samples: int = SAMPLES
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if self.kind not in READOUTS:
            raise UsageError(
                f"there is no readout {self.kind!r}",
                nearest(self.kind, READOUTS),
                f"choose among {', '.join(READOUTS)}",
            )
        if self.samples < 1 or self.max_tokens < 1:
            raise UsageError(
                "a readout needs a sample and a token at least",
                f"samples {self.samples}, max_tokens {self.max_tokens}",
                "give positive numbers",
            )


def choose(
    model: TextModel,
    asked: Sequence[tuple[str, Sequence[str]]],
    *,
    system: Sequence[str | None] | None = None,
    readout: Readout = Readout(),
    cache: Cache | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> list[Choice]:
    """Let a model choose among the options of each question.

    Args:
        model: any.
        asked: [n] a question with its options, the same number of options in all.
        system: [n] a system message each; none, if not given.
        readout: `logprob` or `sampled`.
        cache: from `open_cache`; what stands in it isn't asked again.
        step: called with the number of answers that came, of `len(asked) * orders * samples`.

    Raises:
        NoLogprobsError: `logprob` of a model that tells none.
        UnansweredError: the model can't be reached; what it said is in the cache.
        UsageError: another readout, options of different number, fewer than two or more than
            letters.
    """
    if readout.kind not in CHOSEN:
        raise UsageError(
            f"options aren't chosen by the readout {readout.kind!r}",
            "it reads what is said of them",
            f"use {' or '.join(CHOSEN)}",
        )
    sizes = {len(options) for _, options in asked}
    if len(sizes) > 1 or any(not 2 <= n <= len(LETTERS) for n in sizes):
        raise UsageError(
            "there are no options to choose among",
            f"questions have {sorted(sizes)} options",
            f"give as many for each, 2 to {len(LETTERS)}",
        )
    if not asked:
        return []
    n = sizes.pop()
    orders = orders_of(n)
    systems = [None] * len(asked) if system is None else system
    questions = [
        Question(lettered(text, [options[i] for i in order]), message)
        for (text, options), message in zip(asked, systems, strict=True)
        for order in orders
    ]
    read = _sampled if readout.kind == "sampled" else _told
    return read(model, questions, orders, readout, cache, step)


def _told(
    model: TextModel,
    questions: Sequence[Question],
    orders: Sequence[tuple[int, ...]],
    readout: Readout,
    cache: Cache | None,
    step: Callable[[int], None],
) -> list[Choice]:
    """Return what the letters' probabilities say; each order's shares weigh alike."""
    n = len(orders[0])
    rows, by_letter, known = letters_told(model, questions, n, cache, step)
    # [questions, orders, letters]
    by_letter, known = by_letter.reshape(-1, len(orders), n), known.reshape(-1, len(orders), n)
    place = np.argsort(np.array(orders), axis=1)  # [orders, options]: where an option stands
    found = []
    for at, (some, there) in enumerate(zip(by_letter, known, strict=True)):
        mass = min(1.0, float(some.sum(1).mean()))
        total = some.sum(1, keepdims=True)
        words = [row for row in rows[at * len(orders) :][: len(orders)] if isinstance(row, str)]
        if words or not there.all() or not (total > 0).all():
            why = why_not(words[0]) if words else "not told"
            found.append(Choice((), mass, (), why, *words[:1]))
            continue
        shares = np.take_along_axis(some / total, place, axis=1)
        mean = np.exp(np.log(np.maximum(shares, _LEAST)).mean(0))
        found.append(_choice(mean / mean.sum(), shares, mass))
    return found


def letters_told(
    model: TextModel,
    questions: Sequence[Question],
    n: int,
    cache: Cache | None,
    step: Callable[[int], None],
) -> tuple[list[list[float] | str], NDArray[np.float64], NDArray[np.bool_]]:
    """Return how probable each of n letters is as what the answer begins with.

    Returns:
        What the model told, words where it didn't answer; the probabilities, [questions, n], 0
        where none is told; and where one is.

    Raises:
        NoLogprobsError: a model that tells none.
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    written = [variant.format(letter) for letter in LETTERS[:n] for variant in VARIANTS]
    rows = kept(
        model,
        questions,
        {"options": written},
        lambda some: model.score_options(some, written),
        cache,
        step,
    )
    nothing = [math.nan] * len(written)
    told = np.array([nothing if isinstance(row, str) else row for row in rows], np.float64)
    # [questions, letters, variants]: an answer begins in one of these ways or in another.
    p = np.exp(told).reshape(-1, n, len(VARIANTS))
    return rows, np.nansum(p, axis=-1), np.asarray(~np.isnan(p).all(axis=-1))


def _choice(
    mean: NDArray[np.float64], by_order: NDArray[np.float64], mass: float, said: str = ""
) -> Choice:
    rows = tuple(tuple(map(float, row)) for row in by_order)
    return Choice(tuple(map(float, mean)), mass, rows, said=said)


def _sampled(
    model: TextModel,
    questions: Sequence[Question],
    orders: Sequence[tuple[int, ...]],
    readout: Readout,
    cache: Cache | None,
    step: Callable[[int], None],
) -> list[Choice]:
    """Return what sampled letters say: each order's samples weigh alike."""
    times, n = readout.samples, len(orders[0])
    repeated = [replace(one, seed=seed) for one in questions for seed in range(times)]
    said = sampled(model, repeated, readout.max_tokens, cache=cache, step=step)
    found = []
    for at in range(0, len(said), len(orders) * times):
        some = said[at : at + len(orders) * times]
        counts = np.zeros((len(orders), n))
        for k, words in enumerate(some):
            if (letter := letter_said(words, n)) is not None:
                counts[k // times, orders[k // times][letter]] += 1
        mass = float(counts.sum() / len(some))
        if (counts.sum(1) == 0).any():
            unread = [words for words in some if letter_said(words, n) is None]
            why, _ = Counter(map(why_not, unread)).most_common(1)[0]
            found.append(Choice((), mass, (), why, unread[0]))
            continue
        shares = counts / counts.sum(1, keepdims=True)
        found.append(_choice(shares.mean(0), shares, mass, some[0]))
    return found


def rate(
    model: TextModel,
    asked: Sequence[str],
    *,
    system: Sequence[str | None] | None = None,
    readout: Readout = Readout("verbal"),
    cache: Cache | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> list[tuple[float, str, str]]:
    """Let a model say a number from 0 to 10 to each question, at a temperature of 0.

    Returns:
        For each the number over 10 (nan where none was said), a status (`ok`, `refused`,
        `unparsable`), and what was said.

    Raises:
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    systems = [None] * len(asked) if system is None else system
    questions = [Question(text, message) for text, message in zip(asked, systems, strict=True)]
    rows = greedy(model, questions, readout.max_tokens, cache=cache, step=step)
    numbers = [rating_said(said) for said in rows]
    return [
        (math.nan, why_not(said), said) if number is None else (number / 10, "ok", said)
        for number, said in zip(numbers, rows, strict=True)
    ]


def orders_of(n: int) -> list[tuple[int, ...]]:
    """Return orders of n options that give each every place as often: all, or the rotations."""
    if n <= ALL_ORDERS:
        return list(permutations(range(n)))
    return [tuple((k + i) % n for i in range(n)) for k in range(n)]


def lettered(text: str, options: Sequence[str]) -> str:
    """Return a question with its options under letters."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([text, "", *lines, "", "Answer with one letter and nothing else."])


def letter_said(said: str, n: int) -> int | None:
    """Return which of n letters an answer begins with, None where it doesn't say one alone."""
    found = _LETTER.match(said)
    at = LETTERS.index(found[1].upper()) if found else n
    if found is None or at >= n:
        return None
    # Who says the list again, or two letters, has chosen none.
    others = set(_ANOTHER.findall(said[found.end() :])) & set(LETTERS[:n])
    return None if others - {LETTERS[at]} else at


def rating_said(said: str) -> float | None:
    """Return the number from 0 to 10 that an answer begins with, None where it says none."""
    found = _RATING.match(said)
    number = float(found[1]) if found else math.nan
    return number if 0 <= number <= 10 else None


def why_not(said: str) -> str:
    """Return why an answer can't be read: `refused`, `too long` or `unparsable`."""
    if said.startswith("[not asked"):
        return "too long"
    return "refused" if _REFUSAL.search(said) else "unparsable"
