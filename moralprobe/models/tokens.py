"""Texts to token ids, and batches of them: which token is first, last, or part of the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from moralprobe.errors import ModelError

PaddingSide = Literal["left", "right"]

_HOLE: Final = "moralprobe-message"
# Some chat templates print today's date: a store must not depend on the day that it was made.
_FIXED_DATE: Final = (
    "{% macro strftime_now(format) %}"
    "{{ format.replace('%Y', '2024').replace('%y', '24').replace('%B', 'July')"
    ".replace('%b', 'Jul').replace('%m', '07').replace('%d', '26') }}"
    "{% endmacro %}\n"  # the sandbox drops one line end after a block
)


@dataclass(frozen=True)
class Encoded:
    """One text as tokens.

    `ids` holds the tokenizer's leading special tokens (BOS where it adds one) and no trailing ones:
    the last token is always the text's own. `action` marks the tokens that overlap the action.
    """

    ids: list[int]
    action: list[bool]
    truncated: bool
    token0_is_content: bool

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Token sequences as tensors: `ids`, `mask` and `action` are [batch, tokens].

    `padded` says whether any sequence is shorter than the tensor.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    action: torch.Tensor
    padded: bool


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """Return what the tokenizer's chat template puts before and after one message of a user.

    The text ends where the model's answer would begin. A date in it is always 26 July 2024.

    Raises:
        ModelError: no chat template, or one that doesn't hold the message once and unchanged.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "this model has no chat template",
            "its tokenizer names none",
            "choose another --template, or a model that was tuned to chat",
        )
    try:
        rendered: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": _HOLE}],
            chat_template=_FIXED_DATE + tokenizer.get_chat_template(),
            add_generation_prompt=True,
            tokenize=False,
        )
    except (TemplateError, ValueError) as error:
        raise ModelError(
            "this model's chat template can't be used",
            f"on one message of a user it fails: {error}",
            "choose another --template",
        ) from error
    before, *rest = rendered.split(_HOLE)
    if len(rest) != 1:
        raise ModelError(
            "this model's chat template can't be used",
            f"it gives one message of a user {len(rest)} times",
            "choose another --template",
        )
    return before, rest[0]


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    spans: Sequence[tuple[int, int]],
    *,
    max_tokens: int,
    add_special_tokens: bool = True,
) -> list[Encoded]:
    """Tokenize texts with the tokenizer's own special tokens in front.

    Args:
        tokenizer: a fast transformers tokenizer (offsets are needed to find the action).
        texts: what the model reads.
        spans: where the action stands in each text, as character offsets.
        max_tokens: longer texts are cut at the end and marked `truncated`.
        add_special_tokens: false for texts that spell theirs out, as those of a chat template do.

    Raises:
        ModelError: a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "this tokenizer can't say where tokens stand in the text",
            f"{type(tokenizer).__name__} is not a fast tokenizer",
            "load the model with its tokenizer.json",
        )
    if not texts:
        return []
    fields = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    columns = ("input_ids", "offset_mapping", "special_tokens_mask")
    spelled_out = frozenset(tokenizer.all_special_ids)
    return [
        _one(ids, offsets, special, span, max_tokens, spelled_out)
        for ids, offsets, special, span in zip(*(fields[c] for c in columns), spans, strict=True)
    ]


def _one(
    ids: list[int],
    offsets: list[tuple[int, int]],
    special: list[int],
    span: tuple[int, int],
    max_tokens: int,
    spelled_out: frozenset[int],
) -> Encoded:
    end = len(ids)
    while end > 0 and special[end - 1]:
        end -= 1
    truncated = end > max_tokens
    end = min(end, max_tokens)
    low, high = span
    action = [
        not s and a < high and b > low
        for (a, b), s in zip(offsets[:end], special[:end], strict=True)
    ]
    token0_is_content = end > 0 and not special[0] and ids[0] not in spelled_out
    return Encoded(ids[:end], action, truncated, token0_is_content)


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, side: PaddingSide, device: torch.device
) -> Batch:
    """Stack token sequences, padding the shorter ones on one side."""
    longest = max(len(text) for text in encoded)

    def stack(rows: Sequence[Sequence[Any]], filler: Any) -> torch.Tensor:
        padding = [[filler] * (longest - len(row)) for row in rows]
        both = zip(padding, rows, strict=True)
        return torch.tensor(
            [[*gap, *row] if side == "left" else [*row, *gap] for gap, row in both], device=device
        )

    return Batch(
        ids=stack([text.ids for text in encoded], pad_id),
        mask=stack([[True] * len(text) for text in encoded], False),
        action=stack([text.action for text in encoded], False),
        padded=any(len(text) != longest for text in encoded),
    )
