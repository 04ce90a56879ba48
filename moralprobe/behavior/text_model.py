"""What an instrument needs of a model: a question in, and words or the probability of options out.

Three kinds answer: a model on this machine (`steering.text.LocalText`), one behind an
OpenAI-compatible server (`behavior.server.Server`) and a script (`Scripted`). Answers come in any
order and each with the number of its question, so that they can be kept as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import xxhash

from moralprobe.errors import ModelError, MoralprobeError, UsageError


class UnansweredError(MoralprobeError):
    """A model that can't be reached or talked to. What it has said until then is kept."""


class NoLogprobsError(ModelError):
    """A model that doesn't tell probabilities: another readout must be asked for."""


@dataclass(frozen=True)
class Question:
    """What a model is asked: a user's message, and a system message before it where there is one.

    `seed` tells samples of one question apart; at a temperature of 0 it changes nothing. `turns`
    are what was said before in a dialogue: a user's message and the answer, each.
    """

    text: str
    system: str | None = None
    seed: int = 0
    turns: tuple[tuple[str, str], ...] = ()

    def draw(self, model: str) -> int:
        """Return the seed of a model's own draws, 0 to 2 ** 31 - 1.

        Models that draw by the same numbers err alike, which looks as if they agreed.
        """
        of = (model, self.system, self.seed, *self.turns)
        own = xxhash.xxh3_64_intdigest(repr(of).encode())
        return own & 0x7FFFFFFF


class TextModel(Protocol):
    """Whoever answers questions.

    `identity` is JSON that holds everything that can change what is said: answers are kept under
    it. Nothing is left out: a question that can't be answered has words that say so.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def identity(self) -> Mapping[str, Any]: ...  # noqa: D102

    def complete(
        self, questions: Sequence[Question], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, str]]:
        """Yield what is said to each question, with its number.

        Raises:
            UnansweredError: the model can't be reached.
        """
        ...

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float] | str]]:
        """Yield how likely each option is to be what the answer begins with, in nats.

        An option that the model tells nothing of has nan, never a number in its place; a question
        that isn't answered at all has words that say why.

        Raises:
            NoLogprobsError: the model tells no probabilities.
            UnansweredError: the model can't be reached.
        """
        ...


@dataclass(frozen=True)
class Scripted:
    """A function that says what a model would: for tests, and for rules of one's own.

    Args:
        name: two scripts need two.
        says: what is said to a question; or a list, whose n-th words answer the n-th different
            question that is put. What a list says isn't kept in a cache.
        believes: the probability of each option, by its text; none where the script tells none.
    """

    name: str
    says: Callable[[Question], str] | Sequence[str]
    believes: Callable[[Question], Mapping[str, float]] | None = None
    _put: dict[Question, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def keeps(self) -> bool:
        """Whether an answer is the same whenever a question is put."""
        return callable(self.says)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its name."""
        return {"scripted": self.name}

    def complete(
        self, questions: Sequence[Question], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, str]]:
        """Yield what is said to each question, with its number; as long as it comes.

        Raises:
            UsageError: more questions than a list has words for.
        """
        for number, question in enumerate(questions):
            if callable(self.says):
                yield number, self.says(question)
                continue
            place = self._put.setdefault(question, len(self._put))
            if place >= len(self.says):
                raise UsageError(
                    f"{self.name} has no more words",
                    f"it has {len(self.says)} and is put another question",
                    "give it more, or a function",
                )
            yield number, self.says[place]

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float] | str]]:
        """Yield the log-probability of each option, nan where the script doesn't name it.

        Raises:
            NoLogprobsError: a script that believes nothing.
        """
        if self.believes is None:
            raise no_logprobs(self.name, "it is a script that says words alone")
        for number, question in enumerate(questions):
            p = self.believes(question)
            yield number, [_log(p[option]) if option in p else math.nan for option in options]


def no_logprobs(name: str, why: str) -> NoLogprobsError:
    """Return the error of a model that tells no probabilities."""
    return NoLogprobsError(
        f"{name} tells no log-probabilities",
        why,
        "read it by what it says: --readout sampled",
    )


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf
