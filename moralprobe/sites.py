"""A place in a network, with one spelling: `resid_post.12`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from moralprobe.errors import UsageError

KINDS: Final[tuple[str, ...]] = ("resid_post",)
# Digits are bounded: no network is that deep, and int() refuses thousands of them.
_SPELLING = re.compile(r"([a-z_]+)\.(0|[1-9][0-9]{0,5})")
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6})(?::([0-9]{1,6}))?)?")


@dataclass(frozen=True, order=True)
class Site:
    """One place whose activations can be read.

    `resid_post.L` is the residual stream after decoder block L, counted from 0, before the final
    norm.
    """

    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read `resid_post.12`; anything else raises UsageError."""
        match = _SPELLING.fullmatch(text)
        if match is None or match[1] not in KINDS:
            raise UsageError(
                f"{text!r} is no site",
                "a site is a kind and a layer joined by a dot",
                f"write for example resid_post.12 (kinds: {', '.join(KINDS)})",
            )
        return cls(match[1], int(match[2]))


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
