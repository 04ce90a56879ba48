"""What several analyses share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moralprobe.geometry.arrays import Bools, Floats
from moralprobe.geometry.measure import MIN_PROTOTYPES, Measure, not_enough

CHUNK = 128  # draws at a time where a block is [draws, all texts]


def joined(blocks: Sequence[Floats]) -> Floats:
    """Return blocks of draws as one array."""
    return np.concatenate(blocks) if blocks else np.empty(0)


def smaller(virtue: Bools) -> int:
    """Return how many rows the smaller of two classes has."""
    return int(min(virtue.sum(), (~virtue).sum()))


def too_few(name: str, category: str, unit: str, have: int) -> Measure:
    """Return the row of a measure whose category has too few prototypes."""
    return not_enough(name, category, unit, have=have, needed=MIN_PROTOTYPES, of="prototypes")
