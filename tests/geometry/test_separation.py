from __future__ import annotations

import numpy as np
import pytest

from moralprobe.geometry.separation import cosine_of_centres, resampled_cosines


def test_cosine_equals_the_formula_and_resamples_equal_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 7)).astype(np.float32)
    virtue = np.arange(40) < 15
    counts = rng.integers(0, 3, (6, 40))
    got = cosine_of_centres(X, counts * virtue, counts * ~virtue)
    for b in range(6):
        rows = np.repeat(np.arange(40), counts[b])
        a, c = X[rows[virtue[rows]]].mean(0), X[rows[~virtue[rows]]].mean(0)
        assert got[b] == pytest.approx(a @ c / np.linalg.norm(a) / np.linalg.norm(c), abs=1e-5)
    assert np.isnan(cosine_of_centres(X, np.zeros((1, 40)), np.ones((1, 40))))[0]


def test_resampled_cosines_move_as_far_as_those_of_other_samples() -> None:
    """Of noise alone in d dimensions a cosine has variance 1 / d; resampling finds less of it."""
    rng = np.random.default_rng(2)
    d, n = 16, 12
    spread: dict[str, list[float]] = {"plain": [], "about the truth": []}
    for _ in range(150):
        X = rng.normal(size=(2 * n, d)).astype(np.float32)
        plus, minus = np.zeros((2, 201, 2 * n))
        plus[0, :n] = minus[0, n:] = 1
        plus[1:, :n] = rng.multinomial(n, np.full(n, 1 / n), 200)
        minus[1:, n:] = rng.multinomial(n, np.full(n, 1 / n), 200)
        plain, found = cosine_of_centres(X, plus, minus), resampled_cosines(X, plus, minus)
        assert found[0] == pytest.approx(plain[0], abs=1e-6)  # sums in single precision
        spread["plain"].append(plain[1:].var())
        spread["about the truth"].append(found[1:].var())
    assert np.mean(spread["plain"]) < 0.85 / d < 0.9 / d < np.mean(spread["about the truth"])


def test_resampled_cosines_of_many_rows_are_the_plain_ones() -> None:
    rng = np.random.default_rng(3)
    n = 4000
    X = (rng.normal(size=(n, 6)) + np.where(np.arange(n) < n // 2, 1, -1)[:, None]).astype("f4")
    virtue = np.arange(n) < n // 2
    weights = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), 20)])
    plain = cosine_of_centres(X, weights * virtue, weights * ~virtue)
    found = resampled_cosines(X, weights * virtue, weights * ~virtue)
    np.testing.assert_allclose(found, plain, atol=2e-3)
