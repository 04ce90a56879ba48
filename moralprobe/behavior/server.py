"""A model behind an OpenAI-compatible server."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from moralprobe.behavior.text_model import (
    NoLogprobsError,
    Question,
    UnansweredError,
    no_logprobs,
)
from moralprobe.errors import MoralprobeError, UsageError

KEY: Final = "OPENAI_API_KEY"
AT_ONCE: Final = 8
TOLD: Final = 20
"""How many of the likeliest first tokens a server is asked for: the most that OpenAI's tells."""
_SHOWN: Final = 300  # letters of what a server says when it fails
_TOO_LONG: Final = ("context_length_exceeded", "maximum context length", "context length of")
_FILTERS: Final = ("content_filter", "content_policy", "data_inspection", "moderation")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Server:
    """A model behind an OpenAI-compatible server, asked with several requests under way.

    The key comes from the environment (`OPENAI_API_KEY`), where the server wants one.

    Args:
        base_url: as `http://localhost:8000/v1`.
        model: its name on that server.
        timeout: of one request, in seconds.
        retries: after a refusal for load (429), a server's error or a timeout, each after a longer
            pause.
        at_once: requests that are under way together.
        extra: further fields of a request.

    Raises:
        UsageError: an address that isn't one, or holds a password.
    """

    base_url: str
    model: str
    timeout: float = 60.0
    retries: int = 6
    at_once: int = AT_ONCE
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            parts.port  # noqa: B018 (read to see that it is a number)
        except ValueError as error:
            raise UsageError(
                f"{self.base_url!r} is no server's address", str(error), "give http://HOST:PORT/v1"
            ) from error
        if self.at_once < 1:
            raise UsageError(
                "no request may be under way", f"at_once is {self.at_once}", "give 1 or more"
            )
        if not self.model:
            raise UsageError("a server needs a model's name", "it is empty", "give one after =")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"{self.base_url!r} is no server's address",
                "it isn't http(s)://host/path",
                "give one, as http://localhost:8000/v1",
            )
        if parts.username or parts.password or parts.query:
            raise UsageError(
                f"the address of the server at {parts.hostname} holds more than a place",
                "it would be kept with the answers",
                f"give a key in the environment, as {KEY}",
            )

    @property
    def name(self) -> str:
        """The model's name; of one that is served from a folder the folder's."""
        path = PurePath(self.model)
        return path.name if path.is_absolute() else self.model

    @property
    def identity(self) -> Mapping[str, Any]:
        """The address, the model's name and what else each request holds."""
        return {"server": self.base_url.rstrip("/"), "model": self.model, **self.extra}

    def complete(
        self, questions: Sequence[Question], *, max_tokens: int | None, temperature: float = 0.0
    ) -> Iterator[tuple[int, str]]:
        """Yield what is said to each question, with its number, in the order in which it comes.

        Args:
            questions: what is asked.
            max_tokens: of an answer; None leaves the field out. A model that thinks first needs
                more, or to be told not to think (`extra`).
            temperature: 0 for the likeliest words.

        Raises:
            UnansweredError: the server can't be reached or talked to.
            UsageError: the library openai isn't installed.
        """
        limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        # A server may draw by the seed alone: texts have seeds of their own too.
        seeds = [
            {"seed": q.draw(f"{self.model}\n{q.text}")} if temperature else {} for q in questions
        ]
        asked = [{"temperature": temperature, **limit, **seed} for seed in seeds]
        return self._each(questions, asked, _words, str)

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float] | str]]:
        """Yield the log-probability of each option as the answer's first token, in nats.

        A server tells the likeliest tokens alone; an option that isn't among them has nan. What is
        refused has the words of `complete`.

        Raises:
            NoLogprobsError: a server whose answer carries none.
            UnansweredError: the server can't be reached or talked to.
            UsageError: the library openai isn't installed.
        """
        asked = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": TOLD}

        def told(choice: Mapping[str, Any]) -> list[float] | str:
            if why := _refusal(choice):
                return refused(why)
            content = (choice.get("logprobs") or {}).get("content")
            if not content or not content[0].get("top_logprobs"):
                raise self._no_logprobs("its answers carry none")
            # Several tokens may be spelled alike: the option is any of them.
            p: dict[str, float] = {}
            for row in content[0]["top_logprobs"]:
                p[row["token"]] = p.get(row["token"], 0.0) + math.exp(float(row["logprob"]))
            return [math.log(p[o]) if p.get(o) else math.nan for o in options]

        return self._each(questions, [asked] * len(questions), told, str)

    def _each(
        self,
        questions: Sequence[Question],
        settings: Sequence[Mapping[str, Any]],
        read: Callable[[Mapping[str, Any]], _T],
        unanswered: Callable[[str], _T],
    ) -> Iterator[tuple[int, _T]]:
        """Send each question; yield what is read of its choice, or what a refusal counts as."""
        openai = _library()
        stop = threading.Event()
        failed: MoralprobeError | None = None

        def one(number: int) -> tuple[_T] | None:
            if stop.is_set():
                return None
            body = {"model": self.model, **settings[number], **self.extra}
            try:
                return (self._answer(openai, client, questions[number], body, read, unanswered),)
            except MoralprobeError:
                stop.set()
                raise

        with (
            openai.OpenAI(
                api_key=os.environ.get(KEY) or "none",
                base_url=self.base_url,
                timeout=self.timeout,
                max_retries=self.retries,
            ) as client,
            ThreadPoolExecutor(self.at_once) as pool,
        ):
            under_way = {pool.submit(one, n): n for n in range(len(questions))}
            try:
                # What the others were told meanwhile is kept before the first failure is said.
                for future in as_completed(under_way):
                    try:
                        answer = future.result()
                    except MoralprobeError as error:
                        failed = failed or error
                        continue
                    if answer is not None:
                        yield under_way[future], answer[0]
            finally:
                stop.set()
        if failed is not None:
            raise failed

    def _answer(
        self,
        openai: Any,
        client: Any,
        question: Question,
        body: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], _T],
        unanswered: Callable[[str], _T],
    ) -> _T:
        said_before = [] if question.system is None else [("system", question.system)]
        for asked, answer in question.turns:
            said_before += [("user", asked), ("assistant", answer)]
        messages = [
            {"role": role, "content": text}
            for role, text in (*said_before, ("user", question.text))
        ]
        try:
            answered = client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=messages,
                extra_body=body,
            )
            return read(json.loads(answered.http_response.text)["choices"][0])
        except openai.APIStatusError as error:
            said = _without_key(error.response.text.strip()).encode("utf-8", "replace").decode()
            if error.status_code in (400, 403) and any(sign in said for sign in _FILTERS):
                return unanswered(refused(said))
            if error.status_code in (400, 413) and any(sign in said for sign in _TOO_LONG):
                return unanswered(f"[not asked: {said[:_SHOWN]}]")
            if "logprobs" in body and "logprobs" in said:
                raise self._no_logprobs(
                    f"it answers {error.status_code}: {said[:_SHOWN]}"
                ) from error
            raise self._failed(
                f"it answers {error.status_code}: {said[:_SHOWN]}", "the request was refused"
            ) from error
        except openai.APIConnectionError as error:
            why = _without_key(str(error.__cause__ or error)) or type(error).__name__
            raise self._failed(why) from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._failed(f"its answer is no chat completion: {error!r}") from error

    def _no_logprobs(self, why: str) -> NoLogprobsError:
        return no_logprobs(f"{self.name} at {self.base_url}", why)

    def _failed(self, why: str, what: str = "no model is reachable") -> UnansweredError:
        return UnansweredError(
            f"{what}: {self.model} at {self.base_url}",
            why,
            f"check the address, the model's name and {KEY}; what it said is kept: the same "
            "command continues",
        )


def refused(why: str) -> str:
    """Return what stands for the answer to a question that a model or its server refuses."""
    return f"[refused: {why}]"


def parse_server(text: str) -> tuple[str, str] | None:
    """Read `http://HOST/v1=MODEL` as a server's address and its model; None of anything else."""
    address, _, name = text.rpartition("=")
    return (address, name) if address.startswith(("http://", "https://")) else None


def _refusal(choice: Mapping[str, Any]) -> str:
    """Return why a choice is no answer: what the model or its server refuses with."""
    said = (choice.get("message") or {}).get("refusal")
    return str(said or "") or "content_filter" * (choice.get("finish_reason") == "content_filter")


def _words(choice: Mapping[str, Any]) -> str:
    if why := _refusal(choice):
        return refused(why)
    said = choice["message"]["content"] or ""
    return str(said.encode("utf-8", "replace").decode())


def _without_key(text: str) -> str:
    """Return a server's words without the key, which it may repeat."""
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UsageError(
            "a model on a server needs openai",
            "it isn't installed",
            "pip install 'moralprobe[judges]'",
        ) from error
    return openai
