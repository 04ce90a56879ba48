"""Resamples of statistics whose parts are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from moralprobe.geometry.draws import (
    Draws,
    interval,
    narrowed,
    resampled,
    resampled_two,
    spread_of_choice,
)

N, DRAWS, WHOLE = 60, 50, 20
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, N))
COUNTS = RNG.multinomial(N, [1 / N] * N, DRAWS)
ONCE = np.ones((1, N))


def mean(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (weights @ x) / N


def test_a_mean_moves_whole_and_has_no_excess() -> None:
    values = mean(np.concatenate([ONCE, (1 + COUNTS) / 2, COUNTS[:WHOLE]]), X)
    draws = resampled(values, DRAWS, np.empty(0), N)
    np.testing.assert_allclose(draws.boot, mean(COUNTS, X))
    np.testing.assert_allclose(draws.excess, 0, atol=1e-12)


def test_the_excess_of_a_square_is_what_pairs_of_units_add() -> None:
    values = mean(np.concatenate([ONCE, (1 + COUNTS) / 2, COUNTS[:WHOLE]]), X) ** 2
    draws = resampled(values, DRAWS, np.empty(0), N)
    moved = mean(COUNTS, X) - X.mean()
    np.testing.assert_allclose(draws.boot, X.mean() ** 2 + 2 * X.mean() * moved + moved**2 / 2)
    np.testing.assert_allclose(draws.excess, moved[:WHOLE] ** 2)


def test_the_excess_of_a_product_is_what_either_side_alone_does_not_move() -> None:
    whole = COUNTS[:WHOLE]
    same = np.ones_like(whole)
    trained = np.concatenate([ONCE, (1 + COUNTS) / 2, whole, whole, same])
    tested = np.concatenate([ONCE, (1 + COUNTS) / 2, whole, same, whole])
    values = mean(trained, X) * mean(tested, Y)
    draws = resampled_two(values, DRAWS, np.empty(0), N)
    moved = (mean(whole, X) - X.mean()) * (mean(whole, Y) - Y.mean())
    np.testing.assert_allclose(draws.excess, moved, atol=1e-12)


def test_narrowing_takes_the_variance_of_the_excess_off() -> None:
    values = mean(np.concatenate([ONCE, (1 + COUNTS) / 2, COUNTS[:WHOLE]]), X + 0.3) ** 2
    draws = resampled(values, DRAWS, np.empty(0), N)
    left = draws.boot.var() - draws.excess.var()
    assert left > draws.boot.var() / 2.25  # else the least share would stand here
    np.testing.assert_allclose(narrowed(draws).var(), left)


def test_a_choice_made_again_widens_by_what_it_adds() -> None:
    rng = np.random.default_rng(9)
    kept = rng.standard_normal(40)
    assert spread_of_choice(5 + 2 * kept, kept) == pytest.approx(2)
    assert spread_of_choice(kept / 2, kept) == 1.0, "it is never said to be narrower"
    assert spread_of_choice(kept[:1], kept[:1]) == spread_of_choice(kept[:0], kept[:0]) == 1.0
    draws = Draws(3.0, 2.0 + rng.standard_normal(500), rng.standard_normal(99), 9)
    low, high = interval(draws)
    assert interval(draws, wider=2.0) == pytest.approx((2 * low - 3, 2 * high - 3))
