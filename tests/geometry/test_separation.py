from __future__ import annotations

import numpy as np
import pytest

from moralprobe.geometry.separation import cosine_of_centres


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
