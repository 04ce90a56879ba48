"""Names for the arrays that the measures take, and how they are taken in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]
Counts = NDArray[Any]
"""Row weights: how often a row counts, as whole numbers, floats or booleans."""


def blocks(n: int, step: int) -> Iterator[slice]:
    """Yield slices that cover n rows, `step` at a time; one at least."""
    step = max(1, step)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def distinct(names: Ints) -> tuple[Ints, Ints]:
    """Return where each name stands first, ascending, and which of these each name is, [n].

    So what is done with each once doesn't depend on how they are numbered.
    """
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]
