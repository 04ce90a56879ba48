"""Items that are variants of one another: they are drawn, shuffled and held out together.

Data sets vary a sentence many times (ETHICS). Taken one by one such items make intervals too
narrow, chance agreement too rare, and what is held out known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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


def folded(text: str) -> str:
    """Return a text's words alone, in lower case: what is written otherwise is the same."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def connected(first: Sequence[str], second: Sequence[str]) -> Ints:
    """Return a number for each item, [n], the same for those that share either label, or a chain
    of such items.
    """
    a, b = (np.unique(np.array(one, object), return_inverse=True)[1] for one in (first, second))
    n, m = int(a.max()) + 1, int(b.max()) + 1
    graph = coo_array((np.ones(len(a)), (a, n + b)), shape=(n + m, n + m))
    _, label = connected_components(graph, directed=False)
    return np.asarray(label[a], np.int64)


def parted(
    groups: Ints, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Return which items are in which part, [n] each: all of a group in one.

    Args:
        groups: [n] a number for each item, from 0.
        shares: of the groups by the part's name; together 1.
        rng: draws which.
    """
    n = int(groups.max()) + 1
    order = rng.permutation(n)
    edges = np.round(np.cumsum([0.0, *shares.values()]) * n).astype(int)
    return {
        name: np.isin(groups, order[a:b])
        for name, a, b in zip(shares, edges[:-1], edges[1:], strict=True)
    }


@dataclass(frozen=True)
class Together:
    """Groups of items that are drawn and shuffled together: `places` [n], group by group."""

    places: Ints
    starts: Ints
    sizes: Ints

    @classmethod
    def of(cls, groups: Ints, among: NDArray[np.bool_] | None = None) -> Together:
        """Return the groups of items by a number each, [n]; of some of the items, if given."""
        places = np.argsort(groups, kind="stable")
        places = places if among is None else places[among[places]]
        _, starts, sizes = np.unique(groups[places], return_index=True, return_counts=True)
        return cls(places, starts, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def drawn(self, rng: np.random.Generator) -> Ints:
        """Return the places of as many groups as there are, drawn with replacement."""
        g = rng.integers(len(self), size=len(self))
        return self._at(g, self.sizes[g], np.zeros_like(g))

    def resamples(self, draws: int, rng: np.random.Generator) -> list[Ints]:
        """Return all places as they are, and then those of so many draws."""
        return [np.sort(self.places), *(self.drawn(rng) for _ in range(draws))]

    def shuffled(self, rng: np.random.Generator) -> Ints:
        """Return where what is put at `places` comes from.

        A group's places are filled from one other group, over again where that is smaller:
        siblings stay siblings.
        """
        g = rng.permutation(len(self))
        return self._at(g, self.sizes, rng.integers(self.sizes[g]))

    def _at(self, g: Ints, sizes: Ints, first: Ints) -> Ints:
        """Return so many places of each group in a row, from its n-th on and then around."""
        row = np.repeat(np.arange(len(g)), sizes)
        within = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.places[self.starts[g[row]] + (first[row] + within) % self.sizes[g[row]]]
