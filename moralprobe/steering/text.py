"""A model on this machine that answers questions, steered or as it is: what instruments measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.behavior.server import AT_ONCE, Server, parse_server
from moralprobe.behavior.text_model import Question, TextModel
from moralprobe.errors import DataError, ModelError
from moralprobe.models.causal import CausalModel
from moralprobe.models.chat import encode_prompts, has_chat
from moralprobe.models.read_once import can_go_on, handed, read_beginnings_once
from moralprobe.models.tokens import Encoded, chat_frame
from moralprobe.steering.apply import steering
from moralprobe.steering.generate import context_of, generate
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.sampling import Sampling

LOCAL: Final = "local:"
"""May stand before the name of a model on this machine."""
PLAIN: Final = "\n\nAnswer:"
"""Follows a question where a model has no chat template."""
_TOKENS: Final = 1 << 14  # of questions that are read at a time
_SCORED: Final = 1 << 11  # tokens of options that are scored at a time
_BATCH: Final = 64  # questions that are answered at a time


@dataclass(frozen=True)
class LocalText:
    """A model on this machine, asked within its chat template; without one it continues plain text.

    In fp32 answers don't depend on what else is asked; in 16 bits sums are rounded as batches have
    it. Options are read in batches of equal length, without padding; draws are a question's own.

    Args:
        model: from `load_model`.
        intervention: what is asked is the model steered by it, everywhere; none for as it is.
        max_tokens: of a question; what is longer, or than the model's context, isn't asked.
    """

    model: CausalModel
    intervention: Intervention | None = None
    max_tokens: int = 8192

    @property
    def name(self) -> str:
        """The model's name, and by what it is steered."""
        if self.intervention is None:
            return self.model.name
        return f"{self.model.name} steered {self.intervention.digest()[:6]}"

    @property
    def family(self) -> str:
        """The model's name, steered or not: what is of one model is kin."""
        return self.model.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Weights, config, tokenizer and its chat template, dtype, device, intervention."""
        return {
            "local": self.model.identity,
            "chat_template": getattr(self.model.tokenizer, "chat_template", None),
            "dtype": str(self.model.dtype),
            "device": self.model.device.type,
            "max_tokens": self.max_tokens,
            "intervention": None if self.intervention is None else self.intervention.digest(),
        }

    def complete(
        self, questions: Sequence[Question], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, str]]:
        """Yield what the model says to each question, with its number, the longest first.

        Raises:
            DataError: an empty question.
            ModelError: a system message, and no chat template that takes one.
        """
        encoded = self.encode(questions)
        limit, left = self.limit - max_tokens, []
        # The same question stands beside itself, so that its samples are drawn together.
        for n in sorted(
            range(len(questions)), key=lambda n: (-len(encoded[n]), questions[n].text, n)
        ):
            if len(encoded[n]) > limit:
                yield n, not_asked(len(encoded[n]), limit)
            else:
                left.append(n)
        while left:
            step = max(1, min(_BATCH, _TOKENS // (len(encoded[left[0]]) + max_tokens)))
            some, left = left[:step], left[step:]
            written = generate(
                self.model,
                [self._framed(questions[n].text) for n in some],
                self.intervention,
                sampling=Sampling(max_tokens, temperature, top_p=1.0),
                seeds=[replace(questions[n], text="").draw(self.family) for n in some],
                encoded=[encoded[n] for n in some],
                batch=_BATCH,
            )
            yield from zip(some, (one.text for one in written), strict=True)

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float] | str]]:
        """Yield the log-probability of each option as what the answer begins with, in nats, fp32.

        An option's tokens are those that follow where the answer begins. nan has what can't stand
        there, as a blank that the tokenizer puts together with what is before it; a question that
        is too long has words that say so.

        Raises:
            DataError: an empty question or option.
            ModelError: a system message, and no chat template that takes one; or no head.
        """
        ids = [self.option_ids(option) for option in options]
        read = [one.ids for one in self.encode(questions)]
        limit = self.limit - max((len(option) - 1 for option in ids if option), default=0)
        order = sorted(range(len(read)), key=lambda n: (len(read[n]), n))
        # What stands before an option's last token is all that must be read.
        contexts: dict[tuple[int, ...], list[int]] = {}
        for k, option in enumerate(ids):
            if option:
                contexts.setdefault(tuple(option[:-1]), []).append(k)
        for length, group in groupby(order, key=lambda n: len(read[n])):
            numbers, step = list(group), max(1, _TOKENS // length)
            if length > limit:
                yield from ((n, not_asked(length, limit)) for n in numbers)
                continue
            if once := self.intervention is None and len(contexts) > 1:
                step = max(1, min(step, _SCORED // sum(map(len, ids))))
            for at in range(0, len(numbers), step):
                some = numbers[at : at + step]
                if once and (rows := self._read_once([read[n] for n in some], ids)) is not None:
                    yield from zip(some, rows.tolist(), strict=True)
                    continue
                found = np.full((len(some), len(ids)), np.nan)
                for before, which in contexts.items():
                    logprobs = self._logprobs([[*read[n], *before] for n in some], len(before) + 1)
                    for k in which:
                        target = torch.tensor(ids[k], device=logprobs.device)
                        target = target.expand(len(some), -1)[..., None]
                        own = logprobs.gather(-1, target)[..., 0].double().sum(-1)
                        found[:, k] = own.cpu().numpy()
                yield from ((n, row.tolist()) for n, row in zip(some, found, strict=True))

    def can_begin(self, options: Sequence[str]) -> bool:
        """Return whether each option can be what an answer begins with."""
        return all(map(self.option_ids, options))

    def encode(self, questions: Sequence[Question]) -> list[Encoded]:
        """Return questions as tokens, each up to where the answer begins.

        Raises:
            DataError: an empty question; or a system message or a dialogue, and no chat template.
            ModelError: a chat template that doesn't take them.
        """
        found: dict[int, Encoded] = {}
        alike: dict[tuple[str | None, tuple[tuple[str, str], ...]], list[int]] = {}
        for n, question in enumerate(questions):
            alike.setdefault((question.system, question.turns), []).append(n)
        for (system, turns), rows in alike.items():
            encoded = encode_prompts(
                self.model.tokenizer,
                [self._framed(questions[n].text) for n in rows],
                chat=has_chat(self.model.tokenizer),
                system=system,
                turns=turns,
                thinking=self._thinking,
            )
            found |= dict(zip(rows, encoded, strict=True))
        return [found[n] for n in range(len(questions))]

    @property
    def limit(self) -> int:
        """How many tokens of a question and its answer can be read."""
        return min(self.max_tokens, context_of(self.model) or self.max_tokens)

    @property
    def _thinking(self) -> bool | None:
        return False if has_chat(self.model.tokenizer) else None

    def _framed(self, text: str) -> str:
        return text if has_chat(self.model.tokenizer) or not text.strip() else f"{text}{PLAIN}"

    def option_ids(self, option: str) -> list[int]:
        """Return an option's tokens where the answer begins, none where it can't stand there."""
        if not option:
            raise DataError("an option is empty", "it has no token", "leave it out")
        tokenizer = self.model.tokenizer
        chat = has_chat(tokenizer)
        before = "?".join(chat_frame(tokenizer, thinking=False)) if chat else f"?{PLAIN}"
        bare, longer = (
            list(tokenizer(text, add_special_tokens=not chat)["input_ids"])
            for text in (before, before + option)
        )
        return longer[len(bare) :] if longer[: len(bare)] == bare else []

    @torch.inference_mode()
    def _read_once(
        self, questions: Sequence[list[int]], options: Sequence[list[int]]
    ) -> NDArray[np.float64] | None:
        """Return log-probabilities of options, [questions, options], each question read once.

        None of a model whose cache takes one token at a time. Questions have equally many tokens.
        """
        there = [k for k, option in enumerate(options) if option]
        longer = [k for k in there if len(options[k]) > 1]
        ids = torch.tensor(questions, device=self.model.device)
        out = read_beginnings_once(self.model.model, ids, 1, use_cache=True)
        if not can_go_on(getattr(out, "past_key_values", None)):
            return None
        found = np.full((len(questions), len(options)), np.nan)
        first = [options[k][0] for k in there]
        begins = self._head_of(out)[:, -1].float().log_softmax(-1)
        found[:, there] = begins[:, first].double().cpu().numpy()
        if not longer:
            return found
        most = max(len(options[k]) for k in longer)
        # What is padded stands at the end, where nothing reads it.
        rows = [[*options[k], *[0] * (most - len(options[k]))] for k in longer]
        target = torch.tensor(rows, device=ids.device).repeat(len(questions), 1)
        cache = handed(out.past_key_values, [i for i in range(len(questions)) for _ in longer])
        out = self.model.model(input_ids=target[:, :-1], past_key_values=cache, use_cache=True)
        logits = self._head_of(out).float()
        own = logits.gather(-1, target[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        length = torch.tensor([len(options[k]) - 1 for k in longer], device=own.device)
        said = torch.arange(most - 1, device=own.device) < length.repeat(len(questions))[:, None]
        rest = torch.where(said, own, 0.0).double().sum(-1).reshape(len(questions), -1)
        found[:, longer] += rest.cpu().numpy()
        return found

    @torch.inference_mode()
    def _logprobs(self, ids: list[list[int]], last: int) -> torch.Tensor:
        """Return log-probabilities after the last tokens, [texts, last, vocabulary] fp32.

        Texts have equally many tokens. Their common beginnings are read once, where nothing steers
        the model.
        """
        if self.intervention is None:
            rows = torch.tensor(ids, device=self.model.device)
            out = read_beginnings_once(self.model.model, rows, last, use_cache=False)
            return self._head_of(out).float().log_softmax(dim=-1)
        batch = self.model.collate([Encoded(row, [False] * len(row), False, False) for row in ids])
        with steering(self.model, self.intervention, batch):
            out = self.model.model(input_ids=batch.ids, use_cache=False, logits_to_keep=last)
        return self._head_of(out).float().log_softmax(dim=-1)

    def _head_of(self, out: Any) -> torch.Tensor:
        logits = getattr(out, "logits", None)
        if not isinstance(logits, torch.Tensor):
            raise ModelError(
                f"{self.model.name} gives no logits",
                "it has no language-model head",
                "load the model with its head",
            )
        return logits


def not_asked(tokens: int, limit: int) -> str:
    """Return what stands for the answer to a question that is too long."""
    return f"[not asked: {tokens} tokens, {limit} at most]"


def text_model(
    name: str,
    device: str = "auto",
    *,
    extra: Mapping[str, Any] | None = None,
    at_once: int = AT_ONCE,
) -> TextModel:
    """Return the model of a name: `http://HOST/v1=MODEL`, or one on this machine.

    Args:
        name: a server's address and its model, or what `load_model` takes, `local:` before it or
            not.
        device: of a local one.
        extra: further fields of a request to a server.
        at_once: requests to a server that are under way together.

    Raises:
        As `load_model`; UsageError: an address that isn't one.
    """
    if (server := parse_server(name)) is not None:
        return Server(*server, extra=extra or {}, at_once=at_once)
    from moralprobe.models.load import load_model

    return LocalText(load_model(name.removeprefix(LOCAL), device=device))
