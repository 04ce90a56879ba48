"""Which tokens an edit reaches: of the prompt, of what is generated, or a span of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from moralprobe.errors import UsageError, nearest
from moralprobe.models.tokens import Batch

POSITIONS: Final = ("all", "prompt", "generated", "spans")


@dataclass(frozen=True)
class Reach:
    """The tokens that are edited.

    `prompt` [texts, tokens] says which of the batch's tokens, never padding; `first` [texts] where
    each text's token 0 stands; `generated` [texts] of which texts every token after the batch's is
    edited too.
    """

    prompt: torch.Tensor
    first: torch.Tensor
    generated: torch.Tensor


def reach(
    batch: Batch,
    positions: str = "all",
    steered: Sequence[bool] | None = None,
    *,
    scored: bool = False,
) -> Reach:
    """Return the tokens of a batch that are edited.

    Args:
        batch: padded on either side, or not at all; no tree.
        positions: `all`; `prompt`, the batch's tokens; `generated`, those after it; `spans`, the
            tokens that the batch marks as its texts' actions.
        steered: which texts are edited at all; every one, if not given.
        scored: the batch holds what is written too, marked as its texts' actions: `prompt` is what
            stands before the first mark, `generated` what stands from there on.

    Raises:
        UsageError: an unknown choice, or spans that hold no token.
    """
    check_positions(positions)
    begun = batch.action.int().cumsum(dim=1) > 0 if scored else torch.zeros_like(batch.mask)
    prompt = {
        "all": batch.mask,
        "prompt": batch.mask & ~begun,
        "generated": batch.mask & begun,
        "spans": batch.action & batch.mask,
    }[positions]
    if positions == "spans" and not bool(prompt.any(dim=1).all()):
        raise UsageError(
            "a span to steer holds no token",
            f"in {int((~prompt.any(dim=1)).sum())} of {len(prompt)} prompts",
            "give the first and the last character of words in the prompt",
        )
    first = batch.mask.int().argmax(dim=1)
    rows = torch.ones_like(first, dtype=torch.bool)
    if steered is not None:
        rows = torch.tensor(steered, dtype=torch.bool, device=rows.device)
    later = rows if positions in ("all", "generated") else torch.zeros_like(rows)
    return Reach(prompt & rows[:, None], first, later)


def check_positions(positions: str) -> None:
    """Refuse a choice that isn't one of `POSITIONS`."""
    if positions not in POSITIONS:
        raise UsageError(
            f"unknown positions {positions!r}", nearest(positions, POSITIONS), "choose one of them"
        )
