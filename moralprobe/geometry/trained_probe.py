"""The paper's probe: one linear layer on raw activations, trained by AdamW on mini-batches."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Floats, Ints

EPOCHS: Final = 100
_BATCH: Final = 512
_RATE: Final = 1e-3
_DECAY: Final = 1e-4
_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
_HALVE_AFTER: Final = 5  # epochs without a better validation error
_STOP_AFTER: Final = 10
_BETTER: Final = 1e-4  # relative, as torch's ReduceLROnPlateau counts


def random_split(n: int, seed: int) -> NDArray[np.int64]:
    """Return 0 (train, 70 %), 1 (validation, 10 %) or 2 (test, 20 %) for each row, at random.

    Over rows, as the paper does: a text that stands in several rows may be trained on and tested.
    """
    order = np.random.default_rng([seed, 7]).permutation(n)
    part = np.full(n, 2, np.int64)
    part[order[: int(0.7 * n)]] = 0
    part[order[int(0.7 * n) : int(0.7 * n) + int(0.1 * n)]] = 1
    return part


def trained_predictions(X: Floats, Y: Floats, part: Ints, *, seed: int) -> NDArray[np.float32]:
    """Train the probe and predict the test rows.

    Mean squared error, AdamW (rate 1e-3, weight decay 1e-4), batches of 512, at most 100 epochs,
    the rate halved after 5 and training stopped after 10 epochs without a better validation error.
    What is kept are the weights of the last epoch: the released code means to restore the best
    ones, and doesn't.

    Args:
        X: [n, d] raw activations, neither centred nor scaled.
        Y: [n, m] targets.
        part: [n] from `random_split`.
        seed: of the first weights and of the batches.

    Returns:
        [n_test, m] in the order of the rows.

    Source: arXiv 2603.15615 and its released code; AdamW by Loshchilov and Hutter (2019).
    """
    train, validation = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    rng = np.random.default_rng([seed, 8])
    n, d = len(train), X.shape[1]
    bound = 1 / np.sqrt(d)
    # Rows of `theta` are the features and, last, the bias.
    theta = rng.uniform(-bound, bound, (d + 1, Y.shape[1])).astype(np.float32)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    targets = Y.astype(np.float32)
    held_X, held_Y = X[validation], targets[validation]
    rate, step = _RATE, 0
    best_plateau = best = np.inf
    waiting = idle = 0
    for _ in range(EPOCHS):
        order = train[rng.permutation(n)]
        for start in range(0, n, _BATCH):
            rows = order[start : start + _BATCH]
            batch = X[rows]
            error = batch @ theta[:-1] + theta[-1] - targets[rows]
            error *= 2 / error.size
            gradient = np.concatenate([batch.T @ error, error.sum(0, keepdims=True)])
            step += 1
            theta *= 1 - rate * _DECAY
            first += (1 - _BETAS[0]) * (gradient - first)
            second += (1 - _BETAS[1]) * (gradient**2 - second)
            size = np.sqrt(second / (1 - _BETAS[1] ** step)) + _EPSILON
            theta -= (rate / (1 - _BETAS[0] ** step)) * first / size
        loss = float(np.square(held_X @ theta[:-1] + theta[-1] - held_Y).mean())
        if loss < best_plateau * (1 - _BETTER):
            best_plateau, waiting = loss, 0
        else:
            waiting += 1
            if waiting > _HALVE_AFTER:
                rate, waiting = rate / 2, 0
        if loss < best:
            best, idle = loss, 0
        else:
            idle += 1
            if idle >= _STOP_AFTER:
                break
    test = np.flatnonzero(part == 2)
    return np.asarray(X[test] @ theta[:-1] + theta[-1], np.float32)
