"""Text from a model, steered or not; how one is sampled doesn't depend on others beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from moralprobe.errors import DataError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.chat import encode_prompts, has_chat
from moralprobe.models.few_rows import few_rows
from moralprobe.models.read_once import read_alike
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.steering.apply import steering
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.positions import check_positions
from moralprobe.steering.reading import Drawn, keeping, read_in_turn
from moralprobe.steering.sampling import Draw, Sampling

BATCH: Final = 16


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt, and what was done to it meanwhile.

    `ids` are the new tokens, `ended` says that the last of them ends the text; `edits` counts edits
    of tokens, one a layer and token, and `change` is the mean of |change| / |state| over them.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    ended: bool
    edits: int
    change: float


OnText = Callable[[int, str], None]


def generate(
    model: CausalModel,
    prompts: Sequence[str],
    intervention: Intervention | None = None,
    *,
    sampling: Sampling | None = None,
    positions: str = "all",
    spans: Sequence[tuple[int, int]] | None = None,
    steered: Sequence[bool] | None = None,
    seeds: Sequence[int] | None = None,
    encoded: Sequence[Encoded] | None = None,
    chat: bool | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    batch: int = BATCH,
    on_text: OnText | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Generation]:
    """Let a model write after prompts, with an intervention or as it is.

    In fp32 a batch of n gives what n batches of one do. In 16 bits padding, and what else is read
    at once, change how sums are rounded, and two tokens almost as likely may change places.

    Args:
        model: from `load_model`.
        prompts: what a user says, or with no `chat` the text that is continued.
        intervention: none, or one of strength 0, leaves the model as it is.
        sampling: how tokens are drawn.
        positions: which tokens are edited: `all`, `prompt`, `generated`, `spans`.
        spans: of each prompt the first and the last-but-one character of what is edited.
        steered: which prompts' texts are edited at all; every one, if not given.
        seeds: of each prompt's draws; that of `sampling`, if not given.
        encoded: the prompts as tokens, as whatever they were put into; `chat`, `system`, `thinking`
            and `spans` do it, if not given.
        chat: put prompts into the model's chat template; where it has one, if not given.
        system: a system message.
        thinking: what the template is told of `enable_thinking`.
        batch: prompts that are read together.
        on_text: called with a prompt's number and each piece of text as it comes.
        stop: asked before every token; when true the texts end there.

    Returns:
        A text for every prompt, in their order.

    Raises:
        UsageError: no prompt, unknown positions, or spans that aren't one a prompt.
        DataError: an empty prompt, or one that is too long.
        ModelError: an intervention of another model, or no chat template that can be used.
        NumericError: logits or edits that are NaN or infinity.
    """
    sampling = sampling or Sampling()
    check_positions(positions)
    if not prompts:
        raise UsageError("there is no prompt", "the list is empty", "give one")
    for what, each in (("steered or not", steered), ("drawn by a seed", seeds)):
        if each is not None and len(each) != len(prompts):
            raise UsageError(
                f"every prompt is {what}",
                f"{len(each)} choices for {len(prompts)} prompts",
                "give one of each, or none",
            )
    if (positions == "spans") != (spans is not None) or (spans and len(spans) != len(prompts)):
        raise UsageError(
            "spans are steered where each prompt has one",
            f"positions {positions!r}, {'no' if spans is None else len(spans)} spans for "
            f"{len(prompts)} prompts",
            "give positions='spans' and a span for every prompt, or neither",
        )
    encoded = encoded or encoded_for(
        model, prompts, chat=chat, system=system, thinking=thinking, spans=spans
    )
    context, longest = context_of(model), max(len(text) for text in encoded)
    if context is not None and longest + sampling.max_new_tokens > context:
        raise DataError(
            "the texts would be longer than the model can read",
            f"{longest} tokens of a prompt and {sampling.max_new_tokens} new ones, and {context} "
            "is its context",
            "shorten the prompts, or ask for fewer tokens",
        )
    found: dict[int, Generation] = {}
    # Longest first: what doesn't fit into memory shows at once.
    order = sorted(range(len(prompts)), key=lambda i: (-len(encoded[i]), i))
    for at in range(0, len(order), max(1, batch)):
        rows = order[at : at + max(1, batch)]
        some = _generate(
            model,
            [prompts[i] for i in rows],
            [encoded[i] for i in rows],
            intervention,
            sampling,
            positions,
            [True if steered is None else bool(steered[i]) for i in rows],
            [sampling.seed if seeds is None else seeds[i] for i in rows],
            None if on_text is None else _renumbered(on_text, rows),
            stop,
        )
        found |= dict(zip(rows, some, strict=True))
    return [found[i] for i in range(len(prompts))]


def context_of(model: CausalModel) -> int | None:
    """Return how many tokens a model can read, if its config says."""
    found = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)


def encoded_for(
    model: CausalModel,
    prompts: Sequence[str],
    *,
    chat: bool | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
) -> list[Encoded]:
    """Return prompts as the tokens that `generate` begins with; its arguments, its errors."""
    return encode_prompts(
        model.tokenizer,
        prompts,
        chat=has_chat(model.tokenizer) if chat is None else chat,
        system=system,
        thinking=thinking,
        spans=spans,
        context=context_of(model),
    )


def side_by_side(
    model: CausalModel,
    prompt: str,
    intervention: Intervention,
    *,
    sampling: Sampling | None = None,
    positions: str = "all",
    spans: Sequence[tuple[int, int]] | None = None,
    chat: bool | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    on_text: OnText | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Generation, Generation]:
    """Write after one prompt twice at once, as the model is (0) and steered (1), by the same draws.

    At a strength of 0 both are the same to the token. Arguments and errors are those of `generate`;
    `on_text` is called with 0 or 1 and a piece of that text.
    """
    plain, steered = generate(
        model,
        [prompt, prompt],
        intervention,
        sampling=sampling,
        positions=positions,
        spans=None if spans is None else [*spans, *spans],
        steered=[False, True],
        chat=chat,
        system=system,
        thinking=thinking,
        batch=2,
        on_text=on_text,
        stop=stop,
    )
    return plain, steered


@torch.inference_mode()
def _generate(
    model: CausalModel,
    prompts: list[str],
    encoded: list[Encoded],
    intervention: Intervention | None,
    sampling: Sampling,
    positions: str,
    edited: Sequence[bool],
    seeds: Sequence[int],
    on_text: OnText | None,
    stop: Callable[[], bool],
) -> list[Generation]:
    batch = model.collate(encoded, side="left")
    ends = end_ids(model)
    stream = on_text and _Stream(model.tokenizer, len(prompts), ends, on_text)

    def drawn(rows: Sequence[int]) -> Draw:
        prompt, text, seed = zip(*((prompts[i], encoded[i], seeds[i]) for i in rows), strict=True)
        return Draw(sampling, prompt, text, seed)

    draws: Drawn = drawn(range(len(prompts)))
    active = intervention is not None and bool(intervention.active)
    begun, cache, passed = None, None, 0
    if not active or positions == "generated":
        cache = read_alike(model.model, batch.ids, batch.mask)  # as nothing is edited there
    elif intervention is not None and len(set(edited)) > 1 and batch.ids.shape[1] > 1:
        say = stream.say if stream else None
        begun = read_in_turn(model, batch, intervention, positions, edited, drawn, say)
        draws, cache = keeping(draws, begun.first), begun.cache
    if cache is not None:
        passed = batch.ids.shape[1] - 1
    with steering(model, intervention, batch, positions, edited, passed=passed) as steered:
        out = continued(
            model,
            batch,
            sampling.max_new_tokens,
            draws,
            ends,
            stop=stop,
            stream=stream,
            cache=cache,
        )
    new = [_until(row, ends) for row in out.tolist()]
    # The last token of a text is never read again.
    edits, change = steered.edits([len(ids) - 1 for ids in new])
    if begun is not None and begun.steered is not None and not steered.anew:
        for row, n, size in zip(begun.edited, *begun.steered.edits(), strict=True):
            change[row] = (edits[row] * change[row] + n * size) / max(1, edits[row] + n)
            edits[row] += n
    return [
        Generation(
            prompt=prompt,
            text=model.tokenizer.decode(ids, skip_special_tokens=True),
            ids=tuple(ids),
            ended=bool(ids) and ids[-1] in ends,
            edits=n,
            change=size,
        )
        for prompt, ids, n, size in zip(prompts, new, edits, change, strict=True)
    ]


@torch.inference_mode()
def continued(
    model: CausalModel,
    batch: Batch,
    n: int,
    drawn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ends: Collection[int],
    *,
    stop: Callable[[], bool] = lambda: False,
    stream: Any = None,
    cache: Any = None,
) -> torch.Tensor:
    """Return up to n more tokens of each text, [texts, new tokens].

    Args:
        model: from `load_model`.
        batch: texts that are padded on the left.
        n: how many tokens at most.
        drawn: makes of tokens and logits scores whose largest is the next token.
        ends: tokens at which a text ends; none where all go on to the last.
        stop: asked before every token.
        stream: what transformers calls a streamer.
        cache: of all but the texts' last tokens, where they were read before.
    """
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=n,
        do_sample=False,  # `drawn` has drawn: of what it leaves the likeliest is the only one
        num_beams=1,
        pad_token_id=model.pad_id,
        eos_token_id=sorted(ends) or None,
        use_cache=True,
    )
    with _no_defaults(model), few_rows(model.model):
        out: torch.Tensor = model.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            past_key_values=cache,
            generation_config=config,
            logits_processor=[drawn],
            stopping_criteria=[
                lambda ids, scores: torch.full((len(ids),), stop(), device=ids.device)
            ],
            streamer=stream,
        )
    return out[:, batch.ids.shape[1] :]


def _renumbered(on_text: OnText, rows: Sequence[int]) -> OnText:
    return lambda row, piece: on_text(rows[row], piece)


@contextmanager
def _no_defaults(model: CausalModel) -> Iterator[None]:
    """Take a model's own defaults away: they would fill in whatever isn't set, and differ."""
    from transformers import GenerationConfig

    own = model.model.generation_config
    model.model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.model.generation_config = own


def end_ids(model: CausalModel) -> set[int]:
    """Return the tokens at which a model's text ends."""
    ends = getattr(model.model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = model.tokenizer.eos_token_id
    return {int(i) for i in (ends if isinstance(ends, list | tuple) else [ends]) if i is not None}


def _until(ids: list[int], ends: set[int]) -> list[int]:
    """Return a text's tokens up to the first that ends it."""
    for i, token in enumerate(ids):
        if token in ends:
            return ids[: i + 1]
    return ids


class _Stream:
    """Hands on texts piece by piece, in whole characters; what transformers calls a streamer."""

    def __init__(self, tokenizer: Any, n: int, ends: set[int], on_text: OnText) -> None:
        self._tokenizer = tokenizer
        self._ids: list[list[int]] = [[] for _ in range(n)]
        self._said = [""] * n
        self._ends = ends
        self._on_text = on_text
        self._prompt = True

    def put(self, ids: torch.Tensor) -> None:
        """Take the prompts, and after them one token of each text at a time."""
        if self._prompt:
            self._prompt = False
            return
        for row, token in enumerate(ids.reshape(-1).tolist()):
            own = self._ids[row]
            if own and own[-1] in self._ends:
                continue
            own.append(token)
            self._tell(row, own)

    def say(self, row: int, token: int) -> None:
        """Hand on a text's first token, which comes again with those of the others."""
        self._tell(row, [token])

    def end(self) -> None:
        """Hand on what is left."""
        for row, own in enumerate(self._ids):
            self._say(row, self._tokenizer.decode(own, skip_special_tokens=True))

    def _tell(self, row: int, ids: list[int]) -> None:
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._say(row, text)

    def _say(self, row: int, text: str) -> None:
        if piece := text[len(self._said[row]) :]:
            self._said[row] = text
            self._on_text(row, piece)
