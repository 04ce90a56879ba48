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
TEMPLATE: Final = 20
"""A beginning that more texts share, and a tenth of all of them, is a template, and says nothing of
kin: the words that follow what all of these have in common count instead."""
_TENTH: Final = 0.1


def siblings(texts: Sequence[str | None]) -> Ints:
    """Return a number for each text, [n], the same for siblings; an unknown one is alone."""
    words = [None if text is None else text.casefold().split() for text in texts]
    known = [i for i, one in enumerate(words) if one is not None]
    label = [str(i) for i in range(len(texts))]
    _name(label, {i: words[i] or [] for i in known}, " ", _TENTH * len(texts))
    _, group = np.unique(label, return_inverse=True)
    return np.asarray(group, np.int64)


def _name(label: list[str], words: dict[int, list[str]], before: str, most: float) -> None:
    """Name texts by their first words; those of a template by the words after it."""
    begins: dict[str, list[int]] = {}
    for i, own in words.items():
        begins.setdefault(" ".join(own[:STEM]), []).append(i)
    for begin, some in begins.items():
        rest = {i: words[i][_common([words[i] for i in some]) :] for i in some}
        if len(some) > max(TEMPLATE, most) and any(rest.values()):
            _name(label, rest, f"{before}{begin} ", most)
        else:
            for i in some:
                label[i] = before + begin


def _common(texts: list[list[str]]) -> int:
    """Return how many first words all texts have in common."""
    return next(
        (n for n, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1),
        min(map(len, texts)),
    )


def members(groups: Ints) -> list[Ints]:
    """Return the places of each group's items."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def drawn(groups: Sequence[Ints], rng: np.random.Generator) -> Ints:
    """Return the places of as many groups as there are, drawn with replacement."""
    return np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))])


def shuffled(groups: Sequence[Ints], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return where each group's items are put: places, and the places that they come from.

    A group's places are filled from one other group, over again where that is smaller: siblings
    stay siblings.
    """
    other = rng.permutation(len(groups))
    came = [
        np.resize(rng.permutation(groups[other[g]]), len(places)) for g, places in enumerate(groups)
    ]
    return np.concatenate(list(groups)), np.concatenate(came)
