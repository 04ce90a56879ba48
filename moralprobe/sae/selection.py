"""Which features go with which pole: chosen by some texts, tried on others.

Asked for is an effect given length, valence, word frequency and the other poles, and more of one
than on the other poles on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import norm

from moralprobe.geometry.association import (
    MIN_ACTIVE,
    Associations,
    associate,
    specificity,
)
from moralprobe.geometry.gradient import spearman_interval
from moralprobe.geometry.uncertainty import false_discovery
from moralprobe.sae.text_features import TextFeatures

LEVEL: Final = 0.05
"""Of false discoveries among selected features, and of each replication."""
_ONE_SIDED: Final = float(norm.isf(LEVEL))
_DRAWS: Final = 500


@dataclass(frozen=True)
class Selection:
    """Which features were chosen by some texts, each [features].

    `pole` is the one with the largest t, -1 where nothing could be tested. A feature is chosen if
    it has an effect there and more of one than on the other poles on average: tested is the larger
    p of both (an intersection-union test), and `q` is its false discovery rate over all features
    and poles.
    """

    found: Associations
    pole: NDArray[np.int64]
    q: NDArray[np.float64]
    chosen: NDArray[np.bool_]

    def at(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return of [poles, features] those of each feature's pole, NaN without one."""
        return at(values, self.pole)


def at(values: NDArray[np.float64], pole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return of [poles, features] those of one pole each, NaN of -1, [features]."""
    return np.where(pole >= 0, values[pole, np.arange(len(pole))], np.nan)


def choose(activations: sparse.csr_array, moral: Any, covariates: Any) -> Selection:
    """Choose features by their effects on poles; see `Selection`.

    Args:
        activations: [texts, features].
        moral: [texts, poles] typicality.
        covariates: [texts, any].
    """
    found = associate(activations, moral, covariates)
    both = np.maximum(found.p, found.contrast_p)
    q = false_discovery(both.ravel()).reshape(both.shape)
    tested = np.isfinite(found.t)
    pole = np.where(tested.any(axis=0), np.argmax(np.where(tested, found.t, -np.inf), axis=0), -1)
    selection = Selection(found, pole, q, np.zeros(len(pole), np.bool_))
    q = selection.at(q)
    return Selection(found, pole, q, q < LEVEL)


@dataclass(frozen=True)
class Tried:
    """A dictionary's features, chosen by the training texts and tried on the others.

    `again` is what the held-out texts say, `halves` what each half of the training texts does, by
    both of which features were chosen; `slopes` [4, f] are of features chosen, as `slopes_of` has
    them. What a method says of a feature it says of a pole, [f]: its own, or another's for which it
    stands in; -1 for none.
    """

    selection: Selection
    again: Associations
    halves: tuple[Associations, Associations]
    slopes: NDArray[np.float64]

    def holds(self, pole: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return where effect and contrast are there in held-out texts, one-sided at `LEVEL`."""
        return at(np.maximum(self.again.p, self.again.contrast_p), pole) < LEVEL

    def in_both_halves(self, pole: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return where the effect is surely positive in each half of the training texts."""
        one, two = (at(half.t, pole) > _ONE_SIDED for half in self.halves)
        return one & two

    def specificity(self, pole: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how far each effect is the pole's own; see `geometry.association`."""
        return np.where(pole >= 0, specificity(self.selection.found.effect, pole), np.nan)

    @property
    def replicated(self) -> NDArray[np.bool_]:
        """Which were chosen, and hold."""
        return self.selection.chosen & self.holds(self.selection.pole)


def tried(
    read: TextFeatures, activations: sparse.csr_array, half: NDArray[np.bool_], seed: int
) -> Tried:
    """Choose features of a dictionary by the training texts, and try them on the others.

    Args:
        read: the texts.
        activations: [texts, features] of the dictionary in them.
        half: [texts] which of the training texts are in the first half.
        seed: of the slopes' resamples.
    """
    T, C, train = read.moral, read.covariates, read.train

    def of(rows: NDArray[np.bool_]) -> Associations:
        return associate(activations[rows], T[rows], C[rows])

    selection = choose(activations[train], T[train], C[train])
    chosen = np.where(selection.chosen, np.arange(len(selection.chosen)), -1)
    slopes = slopes_of(read, activations, chosen, selection.pole, seed)
    return Tried(selection, of(~train), (of(train & half), of(train & ~half)), slopes)


def strongest(found: Tried, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the strongest features that are chosen, at most so many, and the pole of each.

    Those that hold on held-out texts come first, then those with the largest t.
    """
    chosen = found.selection.chosen
    order = np.lexsort((-found.selection.at(found.selection.found.t), ~found.replicated))
    features = order[chosen[order]][:most]
    return features, found.selection.pole[features]


def slopes_of(
    read: TextFeatures,
    activations: sparse.csr_array,
    features: NDArray[np.int64],
    poles: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """Of each feature, Spearman with typicality among a pole's held-out texts.

    Args:
        read: the texts.
        activations: [texts, features].
        features: [n] numbers of features, -1 for none.
        poles: [n] the pole of each.
        seed: of the resamples.

    Returns:
        [4, n]: rho, low and high, NaN where a feature is active in fewer than `MIN_ACTIVE` of the
        texts, and the number of texts.
    """
    found = np.full((4, len(features)), np.nan)
    found[3] = 0
    columns = activations.tocsc()
    for i in np.flatnonzero(features >= 0):
        scores = read.moral[:, poles[i]]
        rows = ~read.train & (scores > 0)
        found[3, i] = rows.sum()
        active = columns[:, [features[i]]].toarray().ravel()[rows]
        # Active in a few of many texts, each resample is about as far from 0, on the same side.
        if np.count_nonzero(active) >= MIN_ACTIVE:
            found[:3, i] = spearman_interval(active, scores[rows], draws=_DRAWS, seed=seed)
    return found


def as_dense(
    wanted: NDArray[np.bool_],
    known: NDArray[np.bool_],
    density: NDArray[Any],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return for every feature that is wanted another of the nearest density, each once.

    The other is wanted or not, as one picked at random would be. -1 for features that aren't
    wanted, and where none is left.

    Args:
        wanted: [features].
        known: [features] which may be another.
        density: [features].
        rng: decides in which order they choose, and between equals.
    """
    order = rng.permutation(np.flatnonzero(known))
    place = np.full(len(wanted), -1)
    place[order] = np.arange(len(order))
    left = density[order].astype(np.float64)  # infinite once taken
    matched = np.full(len(wanted), -1)
    for feature in rng.permutation(np.flatnonzero(wanted)):
        distance = np.abs(left - density[feature])
        if place[feature] >= 0:
            distance[place[feature]] = np.inf
        nearest = int(np.argmin(distance)) if len(order) else 0
        if not len(order) or not np.isfinite(distance[nearest]):
            break
        matched[feature], left[nearest] = order[nearest], np.inf
    return matched
