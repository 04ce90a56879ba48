"""Features against poles: the formula written naively, plants that are found, shuffles that aren't."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from moralprobe.geometry.association import MIN_ACTIVE, associate, pearson_of_features, specificity
from moralprobe.geometry.uncertainty import false_discovery

N, K = 1500, 4


def texts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Typicality by pole, mostly 0, and covariates that go with it."""
    rng = np.random.default_rng(seed)
    pole = rng.integers(0, K + 2, N)
    targets = np.zeros((N, K))
    tagged = pole < K
    targets[tagged, pole[tagged]] = rng.choice([0.125, 0.375, 0.5, 1.0], tagged.sum())
    length = rng.poisson(9, N) + 2.0 * (pole == 0)
    return targets, np.column_stack([length, rng.normal(size=N)])


def noise(rng: np.random.Generator, features: int) -> np.ndarray:
    active = rng.random((N, features)) < 0.08
    return active * rng.exponential(1.0, (N, features))


def test_it_is_ordinary_least_squares_with_white_errors() -> None:
    targets, covariates = texts()
    rng = np.random.default_rng(1)
    Y = noise(rng, 5) + targets @ rng.random((K, 5)) * (rng.random((N, 5)) < 0.3)
    found = associate(sparse.csr_array(Y), targets, covariates)
    Z = (covariates - covariates.mean(0)) / covariates.std(0)
    X = np.column_stack([np.ones(N), targets, Z])
    inverse = np.linalg.inv(X.T @ X)
    free = N - X.shape[1]
    for f in range(5):
        b = inverse @ X.T @ Y[:, f]
        e = Y[:, f] - X @ b
        cov = inverse @ (X.T * e**2) @ X @ inverse * N / free
        for k in range(K):
            assert found.effect[k, f] == pytest.approx(b[1 + k] / Y[:, f].std())
            t = b[1 + k] / np.sqrt(cov[1 + k, 1 + k])
            assert found.t[k, f] == pytest.approx(t)
            assert found.p[k, f] == pytest.approx(stats.t.sf(t, free))
            c = np.zeros(len(b))
            c[1 : 1 + K] = -1 / (K - 1)
            c[1 + k] = 1
            assert found.contrast_t[k, f] == pytest.approx(c @ b / np.sqrt(c @ cov @ c))


def test_where_nothing_is_no_more_than_the_stated_share_is_called() -> None:
    """Sparse and heavy-tailed features, and poles that go with length: half the share, about.

    What makes an effect large makes its error large too, where activations are skewed.
    """
    rates = []
    for seed in range(4):
        targets, covariates = texts(seed)
        Y = sparse.csr_array(noise(np.random.default_rng(100 + seed), 600))
        found = associate(Y, targets, covariates)
        rates.append([(found.p < 0.05).mean(), (found.contrast_p < 0.05).mean()])
        q = false_discovery(found.p.ravel())
        assert (q < 0.05).sum() <= 3
    assert np.all((np.mean(rates, axis=0) > 0.01) & (np.mean(rates, axis=0) < 0.055))


def test_planted_features_are_found_with_their_pole_and_confounds_arent() -> None:
    targets, covariates = texts()
    rng = np.random.default_rng(2)
    Y = noise(rng, 200)
    for k in range(K):  # one feature a pole
        Y[:, k] = targets[:, k] * rng.exponential(1.0, N)
    moral = targets.sum(1) > 0
    Y[:, 10] = moral * rng.exponential(1.0, N)  # moral text at all
    Y[:, 11] = covariates[:, 0] * (1 + rng.exponential(0.1, N))  # length: pole 0 has more
    Y[:, 12] = (targets[:, 0] + targets[:, 1]) * rng.exponential(1.0, N)  # two poles
    found = associate(sparse.csr_array(Y), targets, covariates)
    q = false_discovery(found.p.ravel()).reshape(found.p.shape)
    contrast = false_discovery(found.contrast_p.ravel()).reshape(found.p.shape)
    for k in range(K):
        assert np.argmax(found.t[:, k]) == k
        assert q[k, k] < 1e-6 and contrast[k, k] < 1e-6
    assert (q[:, 10] < 0.01).all() and not (contrast[:, 10] < 1e-3).any()
    assert not (q[:, 11] < 0.05).any()
    assert np.nanmax(pearson_of_features(sparse.csr_array(Y), targets)[11]) > 0.1
    own = specificity(found.effect, np.argmax(found.t, axis=0))
    assert own[:K].min() > 0.9
    assert own[12] < 0.4 and own[10] < 0.4
    # With the texts' poles shuffled none of them is found.
    shuffled = associate(sparse.csr_array(Y), targets[rng.permutation(N)], covariates)
    assert (false_discovery(shuffled.p.ravel()) < 0.05).sum() <= 2


def test_features_that_are_hardly_active_give_no_number() -> None:
    targets, covariates = texts()
    Y = np.zeros((N, 3))
    Y[: MIN_ACTIVE - 1, 0] = 1
    Y[:MIN_ACTIVE, 1] = 1
    found = associate(sparse.csr_array(Y), targets, covariates)
    assert np.isnan(found.t[:, [0, 2]]).all() and np.isnan(found.p[:, 0]).all()
    assert np.isfinite(found.t[:, 1]).all()


def test_a_covariate_that_never_varies_and_a_pole_without_texts_change_nothing() -> None:
    targets, covariates = texts()
    Y = sparse.csr_array(noise(np.random.default_rng(3), 20))
    plain = associate(Y, targets, covariates)
    constant = associate(Y, targets, np.column_stack([covariates, np.ones(N)]))
    np.testing.assert_allclose(plain.t, constant.t)
    empty = associate(Y, np.column_stack([targets, np.zeros(N)]), covariates)
    np.testing.assert_allclose(plain.t, empty.t[:K], rtol=1e-6)
    assert np.isnan(empty.t[K]).all()


def test_pearson_is_numpys() -> None:
    targets, _ = texts()
    Y = noise(np.random.default_rng(4), 6)
    Y[:, 5] = 0
    found = pearson_of_features(sparse.csr_array(Y), targets)
    for f in range(5):
        for k in range(K):
            assert found[f, k] == pytest.approx(np.corrcoef(Y[:, f], targets[:, k])[0, 1])
    assert (found[5] == 0).all()


@pytest.mark.parametrize("n", [1, 2, 5, MIN_ACTIVE - 1])
def test_a_pole_of_a_few_texts_is_not_called(n: int) -> None:
    """They are fitted exactly, so that their residuals say nothing of the error."""
    targets, covariates = texts()
    few = np.zeros(N)
    few[:n] = 1
    Y = noise(np.random.default_rng(5), 40)
    Y[:n] += 1
    found = associate(sparse.csr_array(Y), np.column_stack([targets, few]), covariates)
    assert np.isnan(found.p[K]).all() and np.isnan(found.effect[K]).all()
    own = specificity(found.effect, np.zeros(40, int))
    assert np.isfinite(own[found.effect[0] > 0]).all()


def test_specificity_is_of_the_pole_that_is_meant() -> None:
    effect = np.array([[1.0, 2.0, -1.0], [0.5, 1.0, 3.0], [np.nan, np.nan, np.nan]])
    assert specificity(effect, np.array([0, 1, 1])) == pytest.approx([0.5, -1.0, 1.0])
    assert np.isnan(specificity(effect, np.array([2, 2, 0]))).all()
