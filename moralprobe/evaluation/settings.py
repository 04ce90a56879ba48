"""How an evaluation is done: strengths, seeds, decoding, and whose protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from moralprobe.errors import UsageError, nearest
from moralprobe.steering.sampling import Sampling

PROTOCOLS: Final = ("audited", "li2026")


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
        if self.protocol not in PROTOCOLS:
            raise UsageError(
                f"unknown protocol {self.protocol!r}",
                nearest(self.protocol, PROTOCOLS),
                "choose one of them",
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                "the seeds aren't different numbers from 0",
                f"they are {', '.join(map(str, self.seeds)) or 'none'}",
                "give for example 0,1",
            )
