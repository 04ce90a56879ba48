"""A place in a network, with one spelling: `resid_post.12`, `resid_pre.0`, `embed`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from moralprobe.errors import UsageError

KINDS: Final[tuple[str, ...]] = ("resid_pre", "resid_post")
"""The kinds of place that every decoder block has one of."""
# Digits are bounded: no network is that deep, and int() refuses thousands of them.
_SPELLING = re.compile(rf"({'|'.join(KINDS)})\.(0|[1-9][0-9]{{0,5}})")
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6})(?::([0-9]{1,6}))?)?")


@dataclass(frozen=True, order=True)
class Site:
    """One place whose activations can be read.

    `resid_post.L` is the residual stream after decoder block L, counted from 0, before the final
    norm; `resid_pre.L` is what block L receives. `embed` has no layer: it is the output of the
    input embedding table, before positions are added.
    """

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read `resid_post.12` or `embed`; anything else raises UsageError."""
        if text == EMBED.kind:
            return EMBED
        match = _SPELLING.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is no site",
                "a site is a kind and a layer joined by a dot",
                f"write embed, or for example resid_post.12 (kinds: {', '.join(KINDS)})",
            )
        return cls(match[1], int(match[2]))


EMBED: Final = Site("embed")
FIRST_INPUT: Final = Site("resid_pre", 0)
"""What the first decoder block receives: `hidden_states[0]` of transformers."""


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Read a choice of layers: `all`, `12`, `8-20`, `8-20:2`, or several joined by commas.

    Args:
        text: the choice; ranges include both ends.
        n_layers: how many decoder blocks the model has.

    Returns:
        The layers, sorted, each once.

    Raises:
        UsageError: a spelling that isn't one of these, or a layer the model doesn't have.
    """
    if text == "all":
        return tuple(range(n_layers))
    layers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or (match[3] is not None and int(match[3]) == 0):
            raise UsageError(
                f"{part!r} is no choice of layers",
                "layers are counted from 0 and ranges include both ends",
                "write all, 12, 8-20, 8-20:2, or several joined by commas",
            )
        first = int(match[1])
        last = int(match[2]) if match[2] is not None else first
        if last < first or last >= n_layers:
            raise UsageError(
                f"layer {max(first, last)} is out of range"
                if last >= n_layers
                else f"{part!r} runs backwards",
                f"the model has {n_layers} layers, 0 to {n_layers - 1}",
                "choose layers within that range",
            )
        layers.update(range(first, last + 1, int(match[3] or 1)))
    return tuple(sorted(layers))
