"""A linear read-out of typicality that is fitted once, and tried on texts that it hasn't seen."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Bools, Floats
from moralprobe.geometry.association import MIN_ACTIVE
from moralprobe.geometry.recoverability import choose_penalties, gather
from moralprobe.geometry.uncertainty import group_folds

_FOLDS: Final = 5  # the last holds what is held out


def readout(
    X: Floats, moral: Floats, train: Bools, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a ridge on training texts, its penalties chosen among them, and try it on the others.

    Args:
        X: [n, d] pooled states.
        moral: [n, poles] typicality.
        train: [n] which texts it is fitted on.
        seed: of the folds that choose penalties.

    Returns:
        Directions [d, poles] in which the held-out texts have a standard deviation of 1, and
        Pearson's r there, [poles]. NaN of a pole that doesn't vary, and all where either part has
        fewer than `MIN_ACTIVE` texts.
    """
    W = np.full((X.shape[1], moral.shape[1]), np.nan)
    if min(train.sum(), (~train).sum()) < MIN_ACTIVE:
        return W, W[0]
    of_row = np.full(len(X), _FOLDS - 1)
    of_row[train] = group_folds(np.arange(train.sum()), _FOLDS - 1, seed)
    folds = gather(X, of_row)
    # Those of the last fold: it takes no part in them.
    penalties = choose_penalties(folds, moral)[-1]
    products = X[train].T @ (moral[train] - moral[train].mean(0)) / train.sum()
    for p in np.unique(penalties):
        inverse = folds.reader(_FOLDS - 1, int(p), np.float64).inverse
        W[:, penalties == p] = inverse @ products[:, penalties == p]
    z, y = (values[~train] - values[~train].mean(0) for values in (X @ W, moral))
    spread = np.where(z.std(0) > 0, z.std(0), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return W / spread, (z * y).mean(0) / (spread * y.std(0))
