"""How often rows count in the sets of weights that a design makes."""

from __future__ import annotations

import numpy as np

from moralprobe.design import WHOLE, Design

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
