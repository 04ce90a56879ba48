"""The read-out that ablations move: scikit-learn's ridge, fitted without a held-out label."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from moralprobe.geometry.readout import readout
from moralprobe.geometry.recoverability import PENALTIES


def test_the_read_out_is_scikit_learns_and_sees_no_held_out_label() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)) + 3
    moral = X[:, :3] + rng.normal(size=(400, 3)) * [0.1, 3, 30]
    train = rng.random(400) < 0.6
    weights, r = readout(X, moral, train, 0)
    scaler = StandardScaler().fit(X[train])
    for k in range(3):
        fits = [
            Ridge(alpha=p * train.sum()).fit(scaler.transform(X[train]), moral[train, k])
            for p in PENALTIES
        ]
        held = [fit.predict(scaler.transform(X[~train])) for fit in fits]
        mine = X[~train] @ weights[:, k]
        mine -= mine.mean()
        near = [np.abs(mine - (h - h.mean()) / h.std()).max() for h in held]
        assert min(near) < 1e-8
        best = held[int(np.argmin(near))]
        assert r[k] == pytest.approx(np.corrcoef(best, moral[~train, k])[0, 1])
    other = moral.copy()
    other[~train] = rng.normal(size=other[~train].shape)
    np.testing.assert_array_equal(readout(X, other, train, 0)[0], weights)
