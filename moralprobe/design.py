"""What the analyses of a mode have in common: rows, folds, resamples and permutations.

A design doesn't depend on the hidden states. It is made once a mode, so that every layer, pooling
and baseline is measured on the same rows with the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.foundations import AXES, PROTOTYPE_SCORE
from moralprobe.geometry.arrays import Bools, Floats, Ints
from moralprobe.geometry.held_out import FOLDS
from moralprobe.geometry.uncertainty import (
    bootstrap_counts,
    group_folds,
    permutation_keys,
    permutations,
    strata_of,
)

Mode = Literal["li2026", "audited"]


@dataclass(frozen=True)
class Category:
    """The rows that one pole's gradient is measured on.

    `rows` index the design's rows; `score` is their typicality (0 for neutral rows), `prototypes`
    says which make the centre; `shuffles` [b, n] are permutations of these rows within strata.
    """

    name: str
    rows: Ints
    score: Floats
    prototypes: Bools
    shuffles: Ints


@dataclass(frozen=True)
class Opposition:
    """The rows that one axis' separation is measured on.

    `rows` are its virtue and vice rows, `virtue` says which; `prototypes` are positions in `rows`.
    Both shuffles stay within strata.
    """

    axis: int
    rows: Ints
    virtue: Bools
    prototypes: Ints
    shuffles: Ints
    prototype_shuffles: Ints


@dataclass(frozen=True)
class Design:
    """All of a mode's analyses that doesn't depend on the hidden states.

    `text` [n] says which text each row is, `group` [n] its text group (0..g-1), `length` [n] its
    tokens; `resamples` [b, g] how often each group stands in each bootstrap resample; `folds` [n].
    """

    mode: Mode
    text: Ints
    group: Ints
    length: Ints | Floats
    folds: Ints
    resamples: NDArray[np.uint8]
    categories: tuple[Category, ...]
    oppositions: tuple[Opposition, ...]

    def weights(self, rows: Ints) -> NDArray[np.uint8]:
        """Return row weights [1 + b, n]: the data as they are, then each resample."""
        observed = np.ones((1, len(rows)), np.uint8)
        return np.concatenate([observed, self.resamples[:, self.group[rows]]])

    def groups_of(self, rows: Ints) -> int:
        """Return how many text groups some rows belong to."""
        return len(np.unique(self.group[rows]))

    def without_draws(self) -> Design:
        """Return the same design with neither resamples nor shuffles: for values alone."""
        return replace(
            self,
            resamples=self.resamples[:0],
            categories=tuple(replace(c, shuffles=c.shuffles[:0]) for c in self.categories),
            oppositions=tuple(
                replace(o, shuffles=o.shuffles[:0], prototype_shuffles=o.prototype_shuffles[:0])
                for o in self.oppositions
            ),
        )


def make_design(pairs: pl.DataFrame, topics: Ints, mode: Mode, *, draws: int, seed: int) -> Design:
    """Prepare the analyses of one mode.

    Args:
        pairs: moral vectors with the columns `text_index` and `n_tokens`; in `li2026` mode the
            paper's sample.
        topics: [n_texts] topic of each text, for strata.
        mode: `li2026` scores neutral rows too, as the paper does; `audited` grades only rows of
            the category itself.
        draws: resamples, and permutations.
        seed: of both.
    """
    # The order of the source, so that shuffling a table's rows changes nothing.
    pairs = pairs.sort("row", "axis")
    text = pairs["text_index"].to_numpy()
    # Group numbers follow the sorted group ids, so that they don't depend on the order either.
    _, group = np.unique(pairs["group"].to_numpy().astype(str), return_inverse=True)
    length = pairs["n_tokens"].to_numpy()
    score = pairs["score"].to_numpy()
    sign = np.where(pairs["polarity"] == "virtue", 1, np.where(pairs["polarity"] == "vice", -1, 0))
    folds = group_folds(group, FOLDS, seed)
    keys = permutation_keys(int(group.max(initial=-1)) + 1, draws, seed)

    def shuffles(rows: Ints, labels: Floats | Bools) -> Ints:
        strata = strata_of(length[rows], topics[text[rows]])
        return permutations(group[rows], strata, labels, keys)

    categories, oppositions = [], []
    for a, axis in enumerate(AXES):
        here = (pairs["axis"] == axis.tag).to_numpy()
        rows = np.flatnonzero(here & (sign != 0))
        prototypes = np.flatnonzero(score[rows] == PROTOTYPE_SCORE)
        virtue = sign[rows] > 0
        oppositions.append(
            Opposition(
                a,
                rows,
                virtue,
                prototypes,
                shuffles(rows, virtue) if mode == "audited" else rows[None, :0],
                shuffles(rows[prototypes], virtue[prototypes]),
            )
        )
        for pole, direction in ((axis.virtue, 1), (axis.vice, -1)):
            mine = here & (sign == direction)
            if mode == "li2026":
                mine |= here & (sign == 0)
            rows = np.flatnonzero(mine)
            graded = np.where(sign[rows] == direction, score[rows], 0.0)
            best = graded == PROTOTYPE_SCORE
            categories.append(Category(pole, rows, graded, best, shuffles(rows, graded)))
    return Design(
        mode,
        text,
        group,
        length,
        folds,
        bootstrap_counts(int(group.max(initial=-1)) + 1, draws, seed),
        tuple(categories),
        tuple(oppositions),
    )
