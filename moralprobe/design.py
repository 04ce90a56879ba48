"""What the analyses of a mode have in common: rows, folds, resamples and permutations.

A design doesn't depend on the hidden states. It is made once a mode, so that every layer, pooling
and baseline is measured on the same rows with the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from moralprobe.foundations import AXES, AXIS_TAGS, POLES, PROTOTYPE_SCORE
from moralprobe.geometry.arrays import Bools, Floats, Ints, distinct
from moralprobe.geometry.confounds import word_overlap
from moralprobe.geometry.draws import Draws, resampled, resampled_two
from moralprobe.geometry.held_out import FOLDS
from moralprobe.geometry.similarity import (
    ModelGeometries,
    model_geometries,
    squared_distances,
    stratified_subset,
)
from moralprobe.geometry.trained_probe import random_split
from moralprobe.geometry.uncertainty import (
    PermutationKeys,
    bootstrap_counts,
    group_folds,
    permutations,
    strata_of,
)
from moralprobe.moral_vectors import tag_matrix

Mode = Literal["li2026", "audited"]
WHOLE: Final = 100
"""Resamples that are measured whole too, beside those at half strength."""


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
class Labelled:
    """All rows with the labels that clusters are compared with.

    `labels` [n] number axis and polarity: 3 times the axis, plus 0 for virtue, 1 for vice and 2 for
    neutral. `shuffled` [b, n] are permutations of them within strata.
    """

    labels: Ints
    shuffled: NDArray[np.uint8]


@dataclass(frozen=True)
class Targets:
    """What is read out of the hidden states: a row a text, fold by fold, or a pair (`li2026`).

    `rows` index the design's rows; `values` [t, m] are named by `names`; `tags` [t, 5] say which
    axes stand; `control` [t, m] are labels drawn at random for the texts' first words. `shuffles`
    [b, t] permute texts within strata. In `li2026` mode `part` [t] is the paper's split (0 train, 1
    validation, 2 test), and the shuffles are of the test rows.
    """

    rows: Ints
    names: tuple[str, ...]
    values: Floats
    tags: Bools
    control: Floats
    shuffles: Ints
    part: Ints


@dataclass(frozen=True)
class Likenesses:
    """The texts whose geometry is compared with model geometries: `rows` index the design's."""

    rows: Ints
    models: ModelGeometries


@dataclass(frozen=True)
class Design:
    """All of a mode's analyses that doesn't depend on the hidden states.

    `text` [n] says which text each row is, `group` [n] its text group (0..g-1), `length` [n] its
    tokens; `resamples` [b, g] how often each group stands in each bootstrap resample; `folds` [n].
    `surface` [n, 3] are the text's tokens, log word frequency and valence, where a lexicon knows.
    """

    mode: Mode
    text: Ints
    group: Ints
    length: Ints | Floats
    folds: Ints
    resamples: NDArray[np.uint8]
    categories: tuple[Category, ...]
    oppositions: tuple[Opposition, ...]
    labelled: Labelled | None = None
    targets: Targets | None = None
    likenesses: Likenesses | None = None
    surface: Floats | None = None

    def counts(self, rows: Ints) -> NDArray[np.uint8]:
        """Return how often rows count [1 + b, n]: in the data as they are and in each resample."""
        observed = np.ones((1, len(rows)), np.uint8)
        return np.concatenate([observed, self.resamples[:, self.group[rows]]])

    def both(self, rows: Ints) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return weights of rows where they train and where they are tested, [1 + b + 3h, n] each.

        The data as they are and b resamples at half strength; then h whole resamples of both, of
        the training rows alone and of the tested rows alone (`draws.resampled_two`).
        """
        trained = self.weights(rows, whole=3)
        tested = trained.copy()
        h = len(self.resamples[:WHOLE])
        last = len(trained) - h
        tested[last - h : last] = 1
        trained[last:] = 1
        return trained, tested

    def weights(self, rows: Ints, *, whole: int = 1) -> NDArray[np.uint8]:
        """Return row weights [1 + b + h, n]: the data as they are, and what resamples add to them.

        b resamples beside the data as they are, which is a resample at half strength, and h of
        them whole (`draws.resampled`), as many times over as asked for.
        """
        group, b, h = self.group[rows], len(self.resamples), len(self.resamples[:WHOLE])
        weights = np.ones((1 + b + whole * h, len(rows)), np.uint8)
        weights[1 : 1 + b] += self.resamples[:, group]
        for start in range(1 + b, len(weights), max(1, h)):
            weights[start : start + h] = self.resamples[:WHOLE, group]
        return weights

    def draws_of_two(self, values: Floats, null: Floats, rows: Ints) -> Draws:
        """Return the same of a statistic that was given the weights of `both`."""
        return resampled_two(values, len(self.resamples), null, self.groups_of(rows))

    def draws(self, values: Floats, null: Floats, rows: Ints) -> Draws:
        """Return what a statistic of some rows gave under their `weights`, with its null."""
        return resampled(values, len(self.resamples), null, self.groups_of(rows))

    def groups_of(self, rows: Ints) -> int:
        """Return how many text groups some rows belong to."""
        return len(np.unique(self.group[rows]))

    def digest(self) -> str:
        """Return a hash of rows and resamples: equal where a resample draws the same texts."""
        digest = xxhash.xxh3_128(np.ascontiguousarray(self.resamples).data)
        digest.update(np.ascontiguousarray(self.group).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class TextFacts:
    """What is known of each text of a store without a model; all [n_texts].

    `topics` number topics, `first_words` the texts' first words; `words` are the texts themselves
    as word sets, `valence` and log word `frequency` by lexicons, None where there is none.
    """

    topics: Ints
    first_words: Ints | None = None
    words: Sequence[frozenset[str]] | None = None
    valence: Floats | None = None
    frequency: Floats | None = None


def make_design(
    pairs: pl.DataFrame,
    facts: TextFacts,
    mode: Mode,
    *,
    draws: int,
    seed: int,
    analyses: Sequence[str] = ("separation", "gradient"),
) -> Design:
    """Prepare the analyses of one mode.

    Args:
        pairs: moral vectors with the columns `text_index` and `n_tokens`; in `li2026` mode the
            paper's sample.
        facts: of every text of the store.
        mode: `li2026` scores neutral rows too, as the paper does; `audited` grades only rows of
            the category itself.
        draws: resamples, and permutations.
        seed: of both.
        analyses: which to prepare; the two of categories are always there.
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
    keys = PermutationKeys(int(group.max(initial=-1)) + 1, draws, seed)

    def shuffles(rows: Ints, labels: Floats | Bools) -> Ints:
        strata = strata_of(length[rows], facts.topics[text[rows]])
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
    design = Design(
        mode,
        text,
        group,
        length,
        folds,
        bootstrap_counts(int(group.max(initial=-1)) + 1, draws, seed),
        tuple(categories),
        tuple(oppositions),
        surface=_surface(text, length, facts),
    )
    if "structure" in analyses:
        place = {tag: a for a, tag in enumerate(AXIS_TAGS)}
        labels = 3 * np.array([place[tag] for tag in pairs["axis"]]) + np.where(
            sign > 0, 0, np.where(sign < 0, 1, 2)
        )
        everything = np.arange(len(text))
        shuffled = labels.astype(np.uint8)[shuffles(everything, labels.astype(float))]
        labelled = Labelled(labels, shuffled)
        design = replace(design, labelled=labelled)
        if mode == "audited":
            design = replace(design, likenesses=_likenesses(pairs, design, facts, keys, seed))
    if "recoverability" in analyses:
        make = _text_targets if mode == "audited" else _pair_targets
        design = replace(design, targets=make(pairs, design, facts, keys, seed))
    return design


def _surface(text: Ints, length: Ints, facts: TextFacts) -> Floats | None:
    if facts.valence is None or facts.frequency is None:
        return None
    # A text without words is as common as the average one.
    known = np.isfinite(facts.frequency)
    average = facts.frequency[known].mean() if known.any() else 0.0
    frequency = np.where(known, facts.frequency, average)
    return np.stack([length.astype(np.float64), frequency[text], facts.valence[text]], axis=1)


_VECTOR_TARGETS = (*POLES, "judgment", "agreement")
_MOST_COMPARED = 2000  # texts in a dissimilarity matrix


def _text_targets(
    pairs: pl.DataFrame, design: Design, facts: TextFacts, keys: PermutationKeys, seed: int
) -> Targets:
    """Each text once: its vector, judgment and agreement, means over the rows that it stands in."""
    rows, values, tags = _merged(pairs, design)
    text = design.text[rows]
    rng = np.random.default_rng([seed, 9])
    heads = facts.first_words if facts.first_words is not None else facts.topics
    drawn = rng.integers(0, len(rows), int(heads.max(initial=0)) + 1)  # a text for each first word
    control = values[drawn[heads[text]]]
    # Fold by fold, as read-outs take them: a layer's states and permutations aren't copied again.
    order = np.argsort(design.folds[rows], kind="stable")
    rows, values, tags, control = rows[order], values[order], tags[order], control[order]
    strata = strata_of(design.length[rows], facts.topics[design.text[rows]])
    signed = values[:, :10:2].sum(1) - values[:, 1:10:2].sum(1)
    shuffles = permutations(design.group[rows], strata, signed, keys)
    return Targets(
        rows,
        _VECTOR_TARGETS,
        values,
        tags,
        control,
        np.asfortranarray(shuffles),
        np.zeros(len(rows), np.int64),
    )


def _pair_targets(
    pairs: pl.DataFrame, design: Design, facts: TextFacts, keys: PermutationKeys, seed: int
) -> Targets:
    """Every pair of the paper's sample, split at random over rows as the paper does."""
    values = pairs.select(POLES).to_numpy().astype(np.float64)
    part = random_split(len(values), seed)
    test = np.flatnonzero(part == 2)
    strata = strata_of(design.length[test], facts.topics[design.text[test]])
    signed = values[test, ::2].sum(1) - values[test, 1::2].sum(1)
    return Targets(
        np.arange(len(values)),
        tuple(POLES),
        values,
        tag_matrix(pairs["axes"]),
        values[:0],
        permutations(design.group[test], strata, signed, keys),
        part,
    )


def _merged(pairs: pl.DataFrame, design: Design) -> tuple[Ints, Floats, Bools]:
    """Return a row of each text, its mean targets [t, 12] and its tags [t, 5]."""
    once = np.flatnonzero(pairs["row"].is_first_distinct().to_numpy())
    rows = pairs[once]
    first, inverse = distinct(design.text[once])
    counts = np.bincount(inverse)
    columns = np.concatenate(
        [rows.select(*POLES, "judgment", "agreement").to_numpy(), tag_matrix(rows["axes"])], axis=1
    ).astype(np.float64)
    sums = np.zeros((len(first), columns.shape[1]))
    np.add.at(sums, inverse, columns)
    means = sums / counts[:, None]
    return once[first], means[:, :12], means[:, 12:] >= 0.5


def _likenesses(
    pairs: pl.DataFrame, design: Design, facts: TextFacts, keys: PermutationKeys, seed: int
) -> Likenesses:
    """At most 2,000 texts, in the shares that their labels have, and the model geometries."""
    rows, values, tags = _merged(pairs, design)
    signed = values[:, :10:2].max(1) - values[:, 1:10:2].max(1)
    axis = tags.argmax(1)
    chosen = stratified_subset(
        3 * axis + np.sign(signed).astype(int) + 1, _MOST_COMPARED, seed=seed
    )
    rows, signed, tags = rows[chosen], signed[chosen], tags[chosen]
    text, length = design.text[rows], design.length[rows]
    strata = strata_of(length, facts.topics[text])
    others = {"length": squared_distances(np.log(length)[:, None])}
    if facts.words is not None:
        others["words"] = 1 - word_overlap([facts.words[t] for t in text])
    if facts.valence is not None:
        others["valence"] = squared_distances(facts.valence[text][:, None])
    models = model_geometries(
        {
            "axis": tags.astype(np.float64),
            "polarity": np.sign(signed)[:, None],
            "intensity": np.abs(signed)[:, None],
        },
        others,
        design.weights(rows),
        permutations(design.group[rows], strata, signed, keys),
    )
    return Likenesses(rows, models)
