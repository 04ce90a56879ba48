"""Who judges: an OpenAI-compatible server, a local model by log-probabilities, or a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from moralprobe.behavior.server import Server, parse_server
from moralprobe.behavior.text_model import Question, UnansweredError
from moralprobe.errors import ModelError, UsageError
from moralprobe.evaluation.judges import Answer, Asked, Judge, JudgeError
from moralprobe.models.chat import has_chat
from moralprobe.steering.text import LocalText

if TYPE_CHECKING:
    from moralprobe.models.causal import CausalModel

LOCAL: Final = "local:"
"""Before the name of a model that judges here."""


@dataclass(frozen=True)
class ScriptedJudge:
    """A function that says what a judge would: for tests, and for rules of one's own."""

    name: str
    function: Callable[[Asked], str]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its name: two functions need two."""
        return {"scripted": self.name}

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """Yield each answer with the number of its question."""
        for number, one in enumerate(asked):
            yield number, Answer(self.function(one))


@dataclass(frozen=True)
class ServerJudge(Server):
    """A model behind an OpenAI-compatible server.

    Args:
        temperature: 0 for the likeliest words.
        max_tokens: of an answer; None leaves the field out. A model that thinks first needs more,
            or to be told not to think (`extra`).
    """

    max_tokens: int | None = 8
    temperature: float = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        """The address, the model's name and what is asked of it."""
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"temperature": self.temperature, **limit, **super().identity}

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """Yield each answer with the number of its question, in the order in which they come.

        Raises:
            JudgeError: the server can't be reached or talked to.
            UsageError: the library openai isn't installed.
        """
        questions = [Question(one.prompt) for one in asked]
        try:
            for number, said in self.complete(
                questions, max_tokens=self.max_tokens, temperature=self.temperature
            ):
                yield number, Answer(said)
        except UnansweredError as error:
            what = f"no judge is reachable: {self.model} at {self.base_url}"
            raise JudgeError(what, error.why, error.instead) from error


@dataclass(frozen=True)
class LocalJudge:
    """A model on this machine: the likeliest of the options as the next token is what it says.

    It is asked as a user asks it, within its chat template; a model without one reads plain text.

    Args:
        model: from `load_model`.
        max_tokens: of a prompt; what is longer isn't asked, and so is no verdict.
    """

    model: CausalModel
    max_tokens: int = 8192

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Weights, config, tokenizer and its chat template, and dtype."""
        return {
            "local": self.model.identity,
            "chat_template": getattr(self.model.tokenizer, "chat_template", None),
            "dtype": str(self.model.dtype),
            "max_tokens": self.max_tokens,
        }

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """Yield each answer with the number of its question, the shortest first.

        Texts of one length are read together and nothing is padded, so that an answer doesn't
        depend on what else is asked.

        Raises:
            ModelError: a chat template that can't be used, or options that can't begin an answer.
        """
        text = LocalText(self.model, max_tokens=self.max_tokens)
        blank = "" if has_chat(self.model.tokenizer) else " "
        groups: dict[tuple[str, ...], list[int]] = {}
        for n, one in enumerate(asked):
            groups.setdefault(one.options, []).append(n)
        for options, rows in groups.items():
            written = [blank + option for option in options]
            if not text.can_begin(written):
                raise ModelError(
                    f"{self.model.name} can't judge by log-probabilities",
                    f"its tokenizer puts {', '.join(options)} together with what stands before",
                    "judge with another model",
                )
            questions = [Question(asked[n].prompt) for n in rows]
            for number, row in text.score_options(questions, written):
                if isinstance(row, str):  # it is too long
                    answer = Answer(row)
                else:
                    answer = Answer(options[row.index(max(row))], math.fsum(map(math.exp, row)))
                yield rows[number], answer


def as_published(judge: Judge) -> Judge:
    """Return a judge that is asked as in arXiv 2603.15615: a server's draws a little, and briefly.

    Others draw nothing, and stay as they are.
    """
    if isinstance(judge, ServerJudge):
        return replace(judge, temperature=0.1, max_tokens=10)
    return judge


def parse_judge(text: str) -> tuple[str | None, str]:
    """Read a judge's name: `http://HOST/v1=MODEL`, or `local:MODEL`.

    Returns:
        A server's address, None of a local one, and the model.

    Raises:
        UsageError: anything else.
    """
    if text.startswith(LOCAL) and text != LOCAL:
        return None, text.removeprefix(LOCAL)
    if (server := parse_server(text)) is not None:
        return server
    raise UsageError(
        f"{text!r} is no judge",
        "it is neither a server with its model, nor a local model",
        "write http://localhost:8000/v1=MODEL or local:smollm2-135m",
    )


def judges_of(texts: Sequence[str], device: str = "auto") -> list[Judge]:
    """Return the judges of some names, none for `none`.

    Raises:
        As `parse_judge`, and `load_model` of a local one.
    """
    from moralprobe.models.load import load_model

    found: list[Judge] = []
    for address, name in [parse_judge(text) for text in texts if text != "none"]:
        if address is None:
            found.append(LocalJudge(load_model(name, device=device)))
        else:
            found.append(ServerJudge(address, name))
    return found
