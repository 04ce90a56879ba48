"""From the states of a text's tokens to one vector: each pooling is a set of token weights.

`mean` is the paper's (arXiv 2603.15615). It contains the attention sink where there is one, and so
reads the text's length; `mean_unit` is the audited answer (docs: "Two modes and a confound").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from moralprobe.errors import UsageError, nearest

Weights = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

SINK_FACTOR: Final = 5.0
"""A token whose norm exceeds this many times the median of its text counts as a sink."""


def mean(norms: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Weigh all tokens of the text alike, the first one and the template included (the paper's)."""
    return _normalised(mask.to(norms.dtype))


def mean_unit(norms: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Leave token 0 out and divide every other state by its own norm (the audited headline)."""
    return _normalised((mask & ~first_token(mask)).to(norms.dtype)) / _safe(norms)


def mean_no_sink(norms: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Leave out token 0 and every token above `SINK_FACTOR` times its text's median norm."""
    return _normalised(_not_sink(norms, mask).to(norms.dtype))


def mean_action(norms: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """As `mean_unit`, over the action's own tokens only."""
    return _normalised((mask & action & ~first_token(mask)).to(norms.dtype)) / _safe(norms)


def last(norms: torch.Tensor, mask: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Take the last token of the text, whichever side the padding is on."""
    reversed_count = mask.flip(1).long().cumsum(1).flip(1)
    return (mask & (reversed_count == 1)).to(norms.dtype)


POOLINGS: Final[dict[str, Weights]] = {
    "mean": mean,
    "mean_unit": mean_unit,
    "mean_no_sink": mean_no_sink,
    "mean_action": mean_action,
    "last": last,
}
"""Every pooling by its name: what gives each token of a text its weight."""
DEFAULT_POOLINGS: Final[tuple[str, ...]] = ("mean", "mean_unit", "mean_no_sink", "last")


def parse_poolings(text: str) -> tuple[str, ...]:
    """Read names joined by commas; an unknown one raises UsageError."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in POOLINGS:
            raise UsageError(
                f"unknown pooling {name!r}", nearest(name, POOLINGS), "choose among these"
            )
    if not names:
        raise UsageError(
            "no pooling is named",
            f"{text!r} holds none",
            f"choose among {', '.join(POOLINGS)}",
        )
    return names


def weigh(
    norms: torch.Tensor, mask: torch.Tensor, action: torch.Tensor, poolings: tuple[str, ...]
) -> torch.Tensor:
    """Return how each pooling weighs a text's tokens: what is stored are the sums by these weights.

    Args:
        norms: [texts, tokens] Euclidean norms of the states, fp32.
        mask: [texts, tokens] true where a token of the text stands.
        action: [texts, tokens] true at the action's own tokens.
        poolings: names of `POOLINGS`.

    Returns:
        [texts, poolings, tokens] fp32; all zero where a pooling has no token left.
    """
    return torch.stack([POOLINGS[name](norms, mask, action) for name in poolings], dim=1)


def first_token(mask: torch.Tensor) -> torch.Tensor:
    """Return where each text begins, [batch, tokens], whichever side the padding is on."""
    return mask & (mask.long().cumsum(1) == 1)


def sink_report(
    norms: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the norm of token 0, the mean norm of the others, and the share that counts as sink.

    Args:
        norms: [batch, tokens].
        mask: [batch, tokens].

    Returns:
        Three [batch] tensors; the last is the share of all tokens that `mean_no_sink` leaves out.
    """
    first = first_token(mask)
    rest = mask & ~first
    token0 = (norms * first).sum(1)
    others = (norms * rest).sum(1) / rest.sum(1).clamp(min=1)
    left_out = 1 - _not_sink(norms, mask).sum(1) / mask.sum(1).clamp(min=1)
    return token0, others, left_out


def _not_sink(norms: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # The lower median, over the text's own tokens: the same for a batch of one and of many.
    median = norms.masked_fill(~mask, torch.nan).nanmedian(dim=1, keepdim=True).values
    rest = mask & ~first_token(mask)
    small = rest & (norms <= SINK_FACTOR * median)
    # In a text of two tokens the median may be token 0's; the other is kept however large it is.
    return torch.where(small.any(1, keepdim=True), small, rest)


def _normalised(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=1)


def _safe(norms: torch.Tensor) -> torch.Tensor:
    return norms.clamp(min=torch.finfo(norms.dtype).tiny)
