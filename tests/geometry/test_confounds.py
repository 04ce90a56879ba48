from __future__ import annotations

import re

import numpy as np
import pytest

from moralprobe.geometry.baselines import bag_of_words, topics
from moralprobe.geometry.confounds import (
    length_offset,
    length_share,
    permuted_length_share,
    word_overlap,
    words_of,
)
from moralprobe.geometry.reliability import auroc_ceiling, icc_oneway, krippendorff_alpha
from moralprobe.geometry.separation import cosine_of_centres


def pooled_with_sink(lengths: np.ndarray, sink: float, d: int = 16, seed: int = 0) -> np.ndarray:
    """Means over tokens of noise, the first of which holds one huge state."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(len(lengths), d)) / np.sqrt(lengths)[:, None]
    X[:, 0] += sink / lengths
    return (X - X.mean(0)).astype(np.float32)


def test_word_overlap_is_the_share_of_words_in_common() -> None:
    texts = [
        "Helping a friend.",
        "helping, a FRIEND friend",
        "hurting a friend",
        "stealing",
        "",
        "...",
        "don't steal café food",
    ]
    found = word_overlap([words_of(text) for text in texts])
    assert found.shape == (7, 7) and found.dtype == np.float32
    sets = [set(re.findall(r"\w+", text.lower())) for text in texts]
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            expected = len(one & other) / len(one | other) if one | other else 1
            assert found[i, j] == pytest.approx(expected), (texts[i], texts[j])
    assert found[0, 1] == 1 and found[0, 2] == pytest.approx(0.5) and found[4, 5] == 1


def test_length_share_equals_a_regression_and_its_resamples() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(4, 15, 80)
    X = pooled_with_sink(lengths, sink=5.0)
    counts = np.concatenate([np.ones((1, 80), int), rng.integers(0, 3, (4, 80))])
    got = length_share(X, 1 / lengths, counts)
    for b in range(5):
        rows = np.repeat(np.arange(80), counts[b])
        design = np.stack([np.ones(len(rows)), 1 / lengths[rows]], 1)
        fitted = design @ np.linalg.lstsq(design, X[rows].astype(float), rcond=None)[0]
        centred = X[rows] - X[rows].mean(0)
        expected = np.square(fitted - fitted.mean(0)).sum() / np.square(centred).sum()
        assert got[b] == pytest.approx(expected, rel=1e-4)
    shuffled = np.stack([rng.permutation(1 / lengths) for _ in range(3)])
    for b in range(3):
        one = length_share(X, shuffled[b], np.ones((1, 80)))[0]
        assert permuted_length_share(X, shuffled)[b] == pytest.approx(one, rel=1e-3)


def test_many_draws_are_what_each_is_alone() -> None:
    """They are taken in blocks."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(4, 15, 4000)
    X, inverse = pooled_with_sink(lengths, sink=5.0, d=4), 1 / lengths
    weights = rng.integers(0, 3, (600, 4000)).astype(np.uint8)
    shuffled = np.stack([rng.permutation(inverse) for _ in range(600)])
    some = (rng.random(4000) < 0.2).astype(float)
    for of, draws in (
        (lambda drawn: length_share(X, inverse, drawn), weights),
        (lambda drawn: length_offset(inverse, some, drawn), weights),
        (lambda drawn: permuted_length_share(X, drawn), shuffled),
    ):
        found = of(draws)
        assert found.shape == (600,) and len(np.unique(found)) == 600
        for b in (0, 261, 262, 263, 599):
            assert found[b] == pytest.approx(of(draws[b : b + 1])[0], rel=1e-4)


def test_a_sink_turns_length_into_opposed_centres() -> None:
    """The confound itself: no moral signal at all, categories differ in length only."""
    rng = np.random.default_rng(2)
    short, long = rng.integers(5, 9, 100), rng.integers(9, 14, 100)
    lengths = np.concatenate([short, long])
    virtue = np.arange(200) < 100
    with_sink = pooled_with_sink(lengths, sink=1000.0)
    assert length_share(with_sink, 1 / lengths, np.ones((1, 200)))[0] > 0.99
    assert cosine_of_centres(with_sink, virtue[None], ~virtue[None])[0] < -0.99
    offsets = [
        length_offset(1 / lengths, group.astype(float), np.ones((1, 200)))[0]
        for group in (virtue, ~virtue)
    ]
    assert offsets[0] > 0 > offsets[1], "opposite offsets predict a cosine of minus one"


def test_texts_of_one_length_have_no_share() -> None:
    lengths = np.full(30, 8)
    X = pooled_with_sink(lengths, sink=1000.0)
    assert np.isnan(length_share(X, 1 / lengths, np.ones((2, 30)))).all()


def test_icc_equals_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 3))
    items = np.repeat(np.arange(40), 3)
    between, within = 3 * values.mean(1).var(ddof=1), values.var(1, ddof=1).mean()
    assert icc_oneway(values.ravel(), items) == pytest.approx(
        (between - within) / (between + 2 * within)
    )
    assert np.isnan(icc_oneway(np.zeros(9), np.repeat(np.arange(3), 3)))
    assert np.isnan(icc_oneway(rng.normal(size=5), np.arange(5)))


def test_alpha_equals_a_worked_example() -> None:
    # Krippendorff's coincidences by hand: 3 items, 2 coders, one disagreement.
    tags = np.array([True, True, False, False, True, False])
    items = np.array([0, 0, 1, 1, 2, 2])
    # observed disagreement 2/6; expected 2 * 3 * 3 / (6 * 5)
    assert krippendorff_alpha(tags, items) == pytest.approx(1 - (2 / 6) / (18 / 30))
    assert krippendorff_alpha(np.array([True, True, False, False]), np.array([0, 0, 1, 1])) == 1.0
    assert np.isnan(krippendorff_alpha(np.ones(4, bool), np.array([0, 0, 1, 1])))


def test_auroc_ceiling_is_that_of_a_perfect_reading() -> None:
    assert auroc_ceiling(1.0) == 1.0 and auroc_ceiling(-0.1) == 0.5
    values = [auroc_ceiling(icc) for icc in (0.2, 0.5, 0.8)]
    assert 0.6 < values[0] < values[1] < values[2] < 1
    # with truth and noise of equal variance: P(t1 > t0 | labels), checked against plain simulation
    rng = np.random.default_rng(9)
    truth = rng.normal(size=4000)
    label = truth + rng.normal(size=4000) > 0
    won = (truth[label][:, None] > truth[~label][None, :]).mean()
    assert values[1] == pytest.approx(won, abs=0.02)


def test_bag_of_words_knows_words_and_not_models() -> None:
    texts = [
        "helping a friend move",
        "helping a friend cook",
        "stealing from a shop",
        "stealing from a bank",
    ] * 3
    X = bag_of_words(texts)
    assert X.shape[0] == 12 and np.isfinite(X).all()
    np.testing.assert_allclose(X[0], X[4], atol=1e-6)
    assert X[0] @ X[1] > X[0] @ X[2] + 0.1
    assert (topics(texts) == 0).all(), "too few texts for topics"
    many = [f"{'stealing money' if i % 2 else 'feeding animals'} number {i}" for i in range(300)]
    found = topics(many)
    # the two kinds of text never share a topic
    assert not set(found[::2]) & set(found[1::2])
