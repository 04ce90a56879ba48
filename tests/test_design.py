"""How often rows count in the sets of weights that a design makes."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pytest

from moralprobe.analyses import recoverability as analysis
from moralprobe.analyses.confounds import length_explains
from moralprobe.analyses.recoverability import recoverability
from moralprobe.analyses.structure import structure
from moralprobe.design import WHOLE, Design, TextFacts, make_design
from moralprobe.foundations import POLES
from moralprobe.geometry.arrays import distinct
from moralprobe.geometry.baselines import bag_of_words, topics
from moralprobe.moral_vectors import build_vectors

DRAWS = WHOLE + 20
GROUP = np.array([0, 0, 1, 2, 3, 3])
RESAMPLES = np.random.default_rng(0).integers(0, 4, (DRAWS, 4)).astype(np.uint8)
DESIGN = Design("audited", GROUP, GROUP, GROUP, GROUP, RESAMPLES, (), ())
ROWS = np.array([5, 0, 2])
DRAWN = RESAMPLES[:, GROUP[ROWS]]


def test_counts_are_the_data_and_every_resample() -> None:
    counts = DESIGN.counts(ROWS)
    assert (counts[0] == 1).all()
    np.testing.assert_array_equal(counts[1:], DRAWN)


def test_weights_are_the_data_resamples_beside_them_and_some_whole() -> None:
    weights = DESIGN.weights(ROWS)
    assert (weights[0] == 1).all()
    np.testing.assert_array_equal(weights[1 : 1 + DRAWS], DRAWN + 1)
    np.testing.assert_array_equal(weights[1 + DRAWS :], DRAWN[:WHOLE])


def test_what_trains_and_what_is_tested_are_drawn_together_and_then_apart() -> None:
    trained, tested = DESIGN.both(ROWS)
    weights = DESIGN.weights(ROWS)
    for sets in (trained, tested):
        np.testing.assert_array_equal(sets[: 1 + DRAWS + WHOLE], weights)
    alone, apart = np.split(trained[1 + DRAWS + WHOLE :], 2)
    np.testing.assert_array_equal(alone, DRAWN[:WHOLE])  # only what trains is drawn
    assert (apart == 1).all()
    alone, apart = np.split(tested[1 + DRAWS + WHOLE :], 2)
    assert (alone == 1).all()
    np.testing.assert_array_equal(apart, DRAWN[:WHOLE])


def of_starter(number: np.ndarray | None = None) -> tuple[pl.DataFrame, Design]:
    """A design of the starter set; `number` says which text each is in the store."""
    frame = build_vectors("starter").frame
    _, text = np.unique(frame["group"].to_numpy().astype(str), return_inverse=True)
    n = int(text.max()) + 1
    lengths = np.random.default_rng(0).integers(5, 20, n)
    number = np.arange(n) if number is None else number
    pairs = frame.with_columns(
        text_index=pl.Series(number[text]), n_tokens=pl.Series(lengths[text])
    )
    of_store = np.argsort(number)
    facts = TextFacts((np.arange(n) % 3)[of_store], first_words=(np.arange(n) // 4)[of_store])
    parts = ("structure", "recoverability")
    return pairs, make_design(pairs, facts, "audited", draws=50, seed=0, analyses=parts)


def test_what_is_read_out_stands_fold_by_fold_with_all_that_is_its_own() -> None:
    pairs, design = of_starter()
    targets = design.targets
    assert targets is not None
    text, folds = design.text[targets.rows], design.folds[targets.rows]
    assert (np.diff(folds) >= 0).all() and len(np.unique(folds)) == 5
    assert len(np.unique(text)) == len(text) == pairs["text_index"].n_unique()
    for t, values, tags in zip(text, targets.values, targets.tags, strict=True):
        mine = pairs.filter(text_index=t).unique("row")
        expected = mine.select(*POLES, "judgment", "agreement").mean().row(0)
        np.testing.assert_allclose(values, expected, atol=1e-12)
        assert tags.any() and set(np.flatnonzero(values[:10]) // 2) <= set(np.flatnonzero(tags))
    # A first word's label is that of one text, for all texts that begin with it.
    for word in np.unique(text // 4):
        control = targets.control[text // 4 == word]
        assert (control == control[0]).all()
        assert (targets.values == control[0]).all(1).any()
    assert len(targets.shuffles) == 50
    np.testing.assert_array_equal(
        np.sort(targets.shuffles, axis=1), np.tile(np.arange(len(text)), (50, 1))
    )
    assert (targets.shuffles != np.arange(len(text))).mean() > 0.5
    assert (text[targets.shuffles] % 3 == text % 3).all(), "within topics"


def test_how_many_draws_are_read_out_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, design = of_starter()
    rng = np.random.default_rng(1)
    X = rng.standard_normal((len(design.text), 12)).astype(np.float32)[design.text]
    together = recoverability(X, design)
    monkeypatch.setattr(analysis, "_MOVED", 1)
    alone = recoverability(X, design)
    assert {"r2", "r2_low_rank", "selectivity", "tag_auroc"} == {m.name for m in together}
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(
            [a.value, a.ci_low, a.ci_high, a.p], [b.value, b.ci_low, b.ci_high, b.p], atol=1e-4
        )


def test_how_a_store_numbers_its_texts_changes_nothing() -> None:
    _, design = of_starter()
    n = int(design.text.max()) + 1
    number = np.random.default_rng(2).permutation(n)
    _, other = of_starter(number)
    np.testing.assert_array_equal(other.text, number[design.text])
    for part in ("targets", "labelled", "likenesses"):
        mine, theirs = getattr(design, part), getattr(other, part)
        for name in ("rows", "values", "tags", "control", "shuffles", "labels", "shuffled"):
            if hasattr(mine, name):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    X = np.random.default_rng(1).standard_normal((n, 12)).astype(np.float32)[design.text]
    for analysis_of in (recoverability, partial(structure, density=False)):
        for a, b in zip(analysis_of(X, design), analysis_of(X, other), strict=True):
            np.testing.assert_array_equal([a.value, a.ci_low, a.p], [b.value, b.ci_low, b.p])
    a, b = length_explains(X, design), length_explains(X, other)
    assert (a.value, a.ci_low, a.p, a.null_low) == (b.value, b.ci_low, b.p, b.null_low)


def test_topics_and_words_are_those_of_the_texts_in_any_order() -> None:
    texts = build_vectors("starter").frame["action"].unique().sort().to_list()
    order = np.random.default_rng(3).permutation(len(texts))
    shuffled = [texts[i] for i in order]
    np.testing.assert_array_equal(topics(shuffled), topics(texts)[order])
    assert len(np.unique(topics(texts))) > 3
    np.testing.assert_array_equal(bag_of_words(shuffled), bag_of_words(texts)[order])


def test_names_are_numbered_by_where_they_stand_first() -> None:
    first, which = distinct(np.array([7, 3, 7, 9, 3, 0]))
    assert first.tolist() == [0, 1, 3, 5] and which.tolist() == [0, 1, 0, 2, 1, 3]
    first, which = distinct(np.empty(0, np.int64))
    assert len(first) == len(which) == 0
