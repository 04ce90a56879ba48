"""How an evaluation is done: strengths, seeds, decoding, and whose protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from moralprobe.errors import UsageError, nearest
from moralprobe.steering.arms import STEERED, UNSTEERED
from moralprobe.steering.sampling import Sampling

PROTOCOLS: Final = ("audited", "li2026")
PUBLISHED: Final = {
    UNSTEERED: Sampling(max_new_tokens=1024, temperature=0.7, top_p=1.0),
    STEERED: Sampling(max_new_tokens=512, temperature=0.7, top_p=0.9, repetition_penalty=1.1),
}
"""Decoding of both arms as published (arXiv 2603.15615, released scripts): they differ."""
_USUAL: Final = Sampling(max_new_tokens=256, temperature=0.7, top_p=0.9)


@dataclass(frozen=True)
class Options:
    """How an evaluation is done; see `moralprobe.evaluating`."""

    strengths: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    seeds: tuple[int, ...] = (0, 1)
    sampling: Sampling = field(default_factory=Sampling)
    positions: str = "all"
    off: tuple[str, ...] = ()
    protocol: str = "audited"
    thinking: bool | None = None
    ratings: bool = False
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_protocol(self.protocol)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                "the seeds aren't different numbers from 0",
                f"they are {', '.join(map(str, self.seeds)) or 'none'}",
                "give for example 0,1",
            )


def check_protocol(protocol: str) -> None:
    """Refuse a protocol that isn't one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise UsageError(
            f"unknown protocol {protocol!r}", nearest(protocol, PROTOCOLS), "choose one of them"
        )


def sampling_of(
    protocol: str,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
) -> Sampling:
    """Return how a protocol's arms decode, unless told; as published each in its own way.

    Args:
        protocol: of `PROTOCOLS`.
        max_tokens: new ones at most; as published it cuts both arms' own limits.
        temperature: of all arms.
        top_p: of all arms.

    Raises:
        UsageError: an unknown protocol, or another decoding than the published one under its name.
    """
    check_protocol(protocol)
    if protocol == "li2026":
        if temperature is not None or top_p is not None:
            raise UsageError(
                "the published protocol decodes each arm in its own way",
                "a temperature or top-p is given",
                "leave them out, or take the protocol audited",
            )
        most = max(how.max_new_tokens for how in PUBLISHED.values())
        return Sampling(most if max_tokens is None else max_tokens)
    return Sampling(
        _USUAL.max_new_tokens if max_tokens is None else max_tokens,
        _USUAL.temperature if temperature is None else temperature,
        _USUAL.top_p if top_p is None else top_p,
    )


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Read numbers joined by commas; `name` is that of the option.

    Raises:
        UsageError: anything else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{name} isn't numbers joined by commas", f"it is {text!r}", "write for example 0,0.5"
        ) from error


def parse_seeds(text: str, name: str) -> tuple[int, ...]:
    """Read whole numbers joined by commas; `name` is that of the option.

    Raises:
        UsageError: anything else.
    """
    found = parse_numbers(text, name)
    if any(seed != int(seed) for seed in found):
        raise UsageError(f"{name} aren't whole numbers", f"they are {text!r}", "write 0,1")
    return tuple(int(seed) for seed in found)
