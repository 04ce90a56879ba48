"""Distances between distributions: by hand, against scipy, and what they must be."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from scipy.stats import wasserstein_distance

from moralprobe.behavior.pluralism.distances import (
    entropy,
    js_distance,
    js_divergence,
    mode_agreement,
    noise_floor,
    shuffled_distance,
    total_variation,
    wasserstein,
)


def distributions(n: int = 4) -> st.SearchStrategy[np.ndarray]:
    share = st.floats(0, 1).map(lambda x: x if x > 1e-9 else 0.0)
    weights = st.lists(share, min_size=n, max_size=n).filter(lambda w: sum(w) > 0.1)
    return weights.map(lambda w: np.array(w) / sum(w))


@given(distributions(), distributions())
def test_against_scipy_and_what_must_hold(p: np.ndarray, q: np.ndarray) -> None:
    assert js_distance(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-6)
    assert js_divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    places = np.arange(4)
    assert wasserstein(p, q) == pytest.approx(wasserstein_distance(places, places, p, q) / 3)
    assert total_variation(p, q) == pytest.approx(0.5 * np.abs(p - q).sum())
    assert entropy(p) == pytest.approx(scipy_entropy(p, base=2), abs=1e-9)
    for distance in (js_distance, js_divergence, total_variation, wasserstein):
        assert distance(p, p) == 0
        assert 0 <= distance(p, q) <= 1 + 1e-12
        assert distance(p, q) == pytest.approx(float(distance(q, p)))
    order = np.array([2, 0, 3, 1])  # a relabelling changes no bit
    for distance in (js_distance, js_divergence, total_variation):
        assert float(distance(p, q)) == pytest.approx(
            float(distance(p[order], q[order])), abs=1e-12
        )


def test_by_hand() -> None:
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    middle = [0.75, 0.25]
    by_hand = 0.5 * np.log2(1 / middle[0]) + 0.5 * (
        0.5 * np.log2(0.5 / middle[0]) + 0.5 * np.log2(0.5 / middle[1])
    )
    assert js_divergence(p, q) == pytest.approx(by_hand)
    assert js_distance(np.eye(2)[0], np.eye(2)[1]) == 1
    assert wasserstein(np.eye(3)[0], np.eye(3)[2]) == 1
    assert mode_agreement(np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.1, 0.4])) == 1
    assert mode_agreement(np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])) == 0.5
    assert mode_agreement(np.array([0.5, 0.3, 0.2]), np.full(3, 1 / 3)) == pytest.approx(1 / 3)
    assert mode_agreement(np.array([0.4, 0.4, 0.2]), np.array([0.5, 0.3, 0.2])) == 0.5
    assert mode_agreement(np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.4, 0.5])) == 0


def test_nearer_to_uniform_is_farther_from_the_truth() -> None:
    p, uniform = np.array([0.7, 0.2, 0.1]), np.full(3, 1 / 3)
    mixed = [js_distance(p, (1 - t) * p + t * uniform) for t in np.linspace(0, 1, 9)]
    assert (np.diff(mixed) > 0).all()


def test_shuffling_is_the_mean_over_all_orders() -> None:
    p = np.array([0.6, 0.3, 0.1])
    by_hand = np.mean([jensenshannon(p, p[list(o)], base=2) for o in permutations(range(3))])
    assert shuffled_distance(p, p) == pytest.approx(by_hand)
    many = np.arange(1, 9) / 36
    assert shuffled_distance(many, many) == shuffled_distance(many, many) > 0


def test_the_noise_floor_falls_with_the_respondents() -> None:
    p = np.array([0.5, 0.3, 0.2])
    floors = [noise_floor(p, n) for n in (30, 300, 3000)]
    assert floors[0] > floors[1] > floors[2] > 0
    assert floors[0] / floors[2] == pytest.approx(10, rel=0.2)  # as the root of their number
    assert noise_floor(np.array([1.0, 0.0]), 30) == 0
