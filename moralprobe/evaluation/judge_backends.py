"""Who judges: an OpenAI-compatible server, a local model by log-probabilities, or a function."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from moralprobe.errors import ModelError, UsageError
from moralprobe.evaluation.judges import Answer, Asked, Judge, JudgeError

if TYPE_CHECKING:
    from moralprobe.models.causal import CausalModel

KEY: Final = "OPENAI_API_KEY"
LOCAL: Final = "local:"
"""Before the name of a model that judges here."""
_AGAIN: Final = "what it said is kept: the same command continues"
_TOKENS: Final = 1 << 14  # of prompts that a local model reads at a time
_SHOWN: Final = 300  # letters of what a server says when it fails
_FILTERS: Final = ("content_filter", "content_policy", "data_inspection", "moderation")


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
class ServerJudge:
    """A model behind an OpenAI-compatible server, asked at temperature 0.

    The key comes from the environment (`OPENAI_API_KEY`), where the server wants one.

    Args:
        base_url: as `http://localhost:8000/v1`.
        model: its name on that server.
        max_tokens: of an answer; None leaves the field out. A model that thinks first needs more,
            or to be told not to think (`extra`).
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
    max_tokens: int | None = 8
    timeout: float = 60.0
    retries: int = 6
    at_once: int = 8
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
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
        """The address, the model's name and what is asked of it."""
        return {"server": self.base_url.rstrip("/"), **self._settings()}

    def _settings(self) -> dict[str, Any]:
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"model": self.model, "temperature": 0, **limit, **self.extra}

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """Yield each answer with the number of its question, in the order in which they come.

        Raises:
            JudgeError: the server can't be reached or talked to.
            UsageError: the library openai isn't installed.
        """
        openai = _library()
        stop = threading.Event()
        failed: JudgeError | None = None

        def one(question: Asked) -> Answer | None:
            if stop.is_set():
                return None
            try:
                return self._said(openai, client, question.prompt)
            except JudgeError:
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
            under_way = {pool.submit(one, question): n for n, question in enumerate(asked)}
            try:
                # What the others were told meanwhile is kept before the first failure is said.
                for future in as_completed(under_way):
                    try:
                        answer = future.result()
                    except JudgeError as error:
                        failed = failed or error
                        continue
                    if answer is not None:
                        yield under_way[future], answer
            finally:
                stop.set()
        if failed is not None:
            raise failed

    def _said(self, openai: Any, client: Any, prompt: str) -> Answer:
        try:
            answered = client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=self._settings(),
            )
            choice = json.loads(answered.http_response.text)["choices"][0]
            said = choice["message"]["content"] or ""
            return Answer(said.encode("utf-8", "replace").decode())
        except openai.APIStatusError as error:
            said = _without_key(error.response.text.strip()).encode("utf-8", "replace").decode()
            if error.status_code in (400, 403) and any(sign in said for sign in _FILTERS):
                return Answer(f"[refused: {said}]")
            raise self._failed(f"it answers {error.status_code}: {said[:_SHOWN]}") from error
        except openai.APIConnectionError as error:
            why = _without_key(str(error.__cause__ or error)) or type(error).__name__
            raise self._failed(why) from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._failed(f"its answer is no chat completion: {error!r}") from error

    def _failed(self, why: str) -> JudgeError:
        return JudgeError(
            f"no judge is reachable: {self.model} at {self.base_url}",
            why,
            f"check the address, the model's name and {KEY}; {_AGAIN}",
        )


def _without_key(text: str) -> str:
    """Return a server's words without the key, which it may repeat."""
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UsageError(
            "a judge on a server needs openai",
            "it isn't installed",
            "pip install 'moralprobe[judges]'",
        ) from error
    return openai


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
            ModelError: a chat template that can't be used, or options that are no single token.
        """
        tokens = {options: self._next_tokens(options) for options in {one.options for one in asked}}
        read = self._read([one.prompt for one in asked])
        short = [n for n, ids in enumerate(read) if len(ids) <= self.max_tokens]
        for n in sorted({*range(len(read))} - {*short}):
            yield n, Answer(f"[not asked: {len(read[n])} tokens, {self.max_tokens} at most]")
        short.sort(key=lambda n: len(read[n]))
        for length, group in groupby(short, key=lambda n: len(read[n])):
            numbers, step = list(group), max(1, _TOKENS // length)
            for at in range(0, len(numbers), step):
                some = numbers[at : at + step]
                for n, row in zip(some, self._logprobs([read[n] for n in some]), strict=True):
                    options = asked[n].options
                    given = row[tokens[options]]
                    yield n, Answer(options[int(given.argmax())], float(given.exp().sum()))

    def _read(self, prompts: Sequence[str], said: str = "") -> list[list[int]]:
        """Return prompts as tokens, up to where the judge's own text begins."""
        from moralprobe.models.chat import encode_prompts, has_chat

        tokenizer = self.model.tokenizer
        chat = has_chat(tokenizer)
        if not chat:
            prompts = [f"{prompt}\n\nAnswer:{said and ' '}{said}" for prompt in prompts]
        found = encode_prompts(tokenizer, prompts, chat=chat, thinking=False if chat else None)
        return [text.ids for text in found]

    def _next_tokens(self, options: Sequence[str]) -> list[int]:
        """Return the token by which each option begins where the judge's own text begins."""
        from moralprobe.models.chat import has_chat
        from moralprobe.models.tokens import chat_frame

        if has_chat(self.model.tokenizer):
            frame = "?".join(chat_frame(self.model.tokenizer, thinking=False))
            bare, *longer = (
                self.model.tokenizer(frame + said, add_special_tokens=False)["input_ids"]
                for said in ("", *options)
            )
        else:
            bare, *longer = (self._read(["?"], said)[0] for said in ("", *options))
        n = len(bare)
        tokens = [ids[n] for ids in longer if ids[:n] == bare and len(ids) > n]
        if len(set(tokens)) != len(options):
            raise ModelError(
                f"{self.model.name} can't judge by log-probabilities",
                f"its tokens for {', '.join(options)} aren't told apart where its answer begins",
                "judge with another model",
            )
        return tokens

    def _logprobs(self, ids: list[list[int]]) -> Any:
        """Return the log-probabilities of the token after each text, [texts, vocabulary] fp32."""
        import torch

        with torch.inference_mode():
            batch = torch.tensor(ids, device=self.model.device)
            out = self.model.model(input_ids=batch, use_cache=False, logits_to_keep=1)
            return out.logits[:, -1].float().log_softmax(dim=-1).cpu()


def parse_judge(text: str) -> tuple[str | None, str]:
    """Read a judge's name: `http://HOST/v1=MODEL`, or `local:MODEL`.

    Returns:
        A server's address, None of a local one, and the model.

    Raises:
        UsageError: anything else.
    """
    if text.startswith(LOCAL) and text != LOCAL:
        return None, text.removeprefix(LOCAL)
    address, _, name = text.rpartition("=")
    if address.startswith(("http://", "https://")) and name:
        return address, name
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
