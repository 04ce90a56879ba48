"""Texts to token ids, and batches of them: which token is first, last, or part of the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from moralprobe.errors import ModelError

PaddingSide = Literal["left", "right"]


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


def encode(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[tuple[int, int]], *, max_tokens: int
) -> list[Encoded]:
    """Tokenize texts with the tokenizer's own special tokens in front.

    Args:
        tokenizer: a fast transformers tokenizer (offsets are needed to find the action).
        texts: what the model reads.
        spans: where the action stands in each text, as character offsets.
        max_tokens: longer texts are cut at the end and marked `truncated`.

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
        add_special_tokens=True,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    columns = ("input_ids", "offset_mapping", "special_tokens_mask")
    return [
        _one(ids, offsets, special, span, max_tokens)
        for ids, offsets, special, span in zip(*(fields[c] for c in columns), spans, strict=True)
    ]


def _one(
    ids: list[int],
    offsets: list[tuple[int, int]],
    special: list[int],
    span: tuple[int, int],
    max_tokens: int,
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
    return Encoded(ids[:end], action, truncated, end > 0 and not special[0])


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
