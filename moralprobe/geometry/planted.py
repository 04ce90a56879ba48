"""Hidden states whose answer is known, with and without a sink and a length confound.

What every measure is held to: it finds what was planted, its interval covers what it should, and it
stays silent where texts differ in length only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Planted:
    """Texts with judgements, lengths and hidden states, all [n] or [n, d].

    `axis` is the one foundation axis of each text, `judgment` in -2..2 and `agreement` in 0..4 are
    its rating; `tokens` its length. `unit` is what pooling without a sink gives, `mean` what the
    mean over tokens gives where token 0 is a sink: the same plus the sink over the length.
    """

    axis: NDArray[np.int64]
    judgment: NDArray[np.int64]
    agreement: NDArray[np.int64]
    tokens: NDArray[np.int64]
    unit: NDArray[np.float32]
    mean: NDArray[np.float32]

    @property
    def typicality(self) -> NDArray[np.float64]:
        """The signed typicality, judgment / 2 times agreement / 4."""
        return self.judgment * self.agreement / 8


def plant(
    n: int,
    d: int,
    *,
    seed: int,
    separation: float = 0.0,
    gradient: float = 0.0,
    clusters: float = 0.0,
    length: float = 0.0,
    typical: float = 0.0,
    sink: float = 0.0,
    leak: float = 0.0,
) -> Planted:
    """Draw texts and hidden states.

    Args:
        n: texts.
        d: dimensions, 12 at least.
        seed: of everything.
        separation: how far the two poles of an axis lie from its middle, in standard deviations of
            the noise, along a direction of the axis' own; with it polarity can be read out.
        gradient: how far a text of typicality 1 lies further out along that direction.
        clusters: how far the axes' centres lie from the origin, each in its own direction.
        length: tokens by which virtue texts are longer on average than vice texts.
        typical: tokens by which texts of typicality 1 are longer than those of 0.
        sink: norm of token 0, which the mean over tokens takes in at one over the length.
        leak: how far a standard deviation of length moves all states, however they are pooled.
    """
    rng = np.random.default_rng(seed)
    axis = rng.integers(0, 5, n)
    judgment = rng.integers(-2, 3, n)
    agreement = rng.choice([1, 2, 3, 4], n, p=[0.1, 0.2, 0.3, 0.4])
    m = judgment * agreement / 8
    mean = 12 + length / 2 * np.sign(judgment) + typical * np.abs(m)
    tokens = np.clip(np.rint(rng.normal(mean, 3)), 4, 30)
    directions = np.eye(12, d)
    states = rng.standard_normal((n, d))
    states += (separation * np.sign(m) + gradient * m)[:, None] * directions[axis]
    states += clusters * directions[5 + axis]
    states += leak * ((tokens - tokens.mean()) / tokens.std())[:, None] * directions[11]
    pulled = states + (sink / tokens)[:, None] * directions[10]
    return Planted(
        axis,
        judgment,
        agreement,
        tokens.astype(np.int64),
        states.astype(np.float32),
        pulled.astype(np.float32),
    )
