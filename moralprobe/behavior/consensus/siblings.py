"""Items that are variants of one another: they are drawn, shuffled and held out together.

Data sets vary a sentence many times (ETHICS). Taken one by one such items make intervals too
narrow, chance agreement too rare, and what is held out known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
STEM: Final = 6
"""Texts whose first words are alike, so many of them, are siblings."""


def siblings(texts: Sequence[str | None]) -> Ints:
    """Return a number for each text, [n], the same for siblings; an unknown one is alone."""
    begins = [
        f"{i}" if text is None else f" {' '.join(text.casefold().split()[:STEM])}"
        for i, text in enumerate(texts)
    ]
    _, group = np.unique(begins, return_inverse=True)
    return np.asarray(group, np.int64)


def members(groups: Ints) -> list[Ints]:
    """Return the places of each group's items."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def drawn(groups: Sequence[Ints], rng: np.random.Generator) -> Ints:
    """Return the places of as many groups as there are, drawn with replacement."""
    return np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))])


def shuffled(groups: Sequence[Ints], rng: np.random.Generator) -> Ints:
    """Return all places with the groups in a random order, siblings beside each other."""
    return np.concatenate([groups[g] for g in rng.permutation(len(groups))])
