"""The truncated normal against scipy's, and fits against a grid and against sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import truncnorm

from moralprobe.behavior.consensus import truncated
from moralprobe.behavior.consensus.judge import Distribution, information
from moralprobe.behavior.consensus.truncated import (
    MEAN,
    WIDTH,
    fit_binned,
    fit_exact,
    fit_moments,
    log_bins,
    log_density,
    moments,
)

CASES = [(0.66, 0.13), (0.0, 0.05), (1.0, 0.3), (0.5, 1.0), (0.27, 0.16)]


@pytest.mark.parametrize(("mean", "width"), CASES)
def test_density_bins_and_moments_are_scipys(mean: float, width: float) -> None:
    frozen = truncnorm(-mean / width, (1 - mean) / width, loc=mean, scale=width)
    a = np.linspace(0, 1, 41)
    np.testing.assert_allclose(log_density(a, mean, width), frozen.logpdf(a), rtol=1e-9, atol=1e-9)
    assert moments(mean, width) == pytest.approx((frozen.mean(), frozen.var()), rel=1e-8)
    edges = np.linspace(0, 1, 11)
    bins = np.exp(log_bins(mean, width, edges))
    np.testing.assert_allclose(bins, np.diff(frozen.cdf(edges)), rtol=1e-6, atol=1e-12)
    assert bins.sum() == pytest.approx(1)
    raw = [integrate.quad(lambda x, k=k: x**k * frozen.pdf(x), 0, 1)[0] for k in range(1, 5)]
    assert truncated._raw_moments(mean, width) == pytest.approx(raw, rel=1e-6)


def naive(a: np.ndarray, w: np.ndarray, mean: float, width: float) -> float:
    frozen = truncnorm(-mean / width, (1 - mean) / width, loc=mean, scale=width)
    return float(w @ frozen.logpdf(a))


@pytest.mark.parametrize(("mean", "width"), [(0.66, 0.13), (0.2, 0.4), (0.9, 0.2)])
@pytest.mark.parametrize("newton", [True, False])
def test_the_fit_is_the_likeliest_of_a_grid(
    mean: float, width: float, newton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either search, and of weighted scores."""
    if not newton:
        monkeypatch.setattr(truncated, "_newton", lambda *_: None)
    rng = np.random.default_rng(0)
    a = truncnorm.rvs(
        -mean / width, (1 - mean) / width, loc=mean, scale=width, size=3000, random_state=rng
    )
    w = rng.random(3000)
    found = fit_exact(w.sum(), w @ a, w @ a**2, (0.5, 0.3))
    best = naive(a, w, *found)
    for dm in (-0.01, 0, 0.01):
        for ds in (-0.01, 0, 0.01):
            at = float(np.clip(found[0] + dm, *MEAN)), float(np.clip(found[1] + ds, *WIDTH))
            assert naive(a, w, *at) <= best + 1e-6
    assert found == pytest.approx((mean, width), abs=0.05)


def test_bins_of_rounded_scores_give_what_the_scores_came_from() -> None:
    rng = np.random.default_rng(1)
    a = truncnorm.rvs(
        -0.66 / 0.13, 0.34 / 0.13, loc=0.66, scale=0.13, size=50_000, random_state=rng
    )
    edges = np.concatenate([[0], (np.arange(10) + 0.5) / 10, [1]])
    counts = np.histogram(np.round(a, 1), edges)[0].astype(float)
    assert fit_binned(counts, edges, (0.5, 0.3)) == pytest.approx((0.66, 0.13), abs=0.005)
    mean, width = fit_moments(len(a), a.sum(), (a**2).sum(), (0.5, 0.3))
    assert (mean, width) == pytest.approx((a.mean(), a.std()))


def test_fits_keep_within_their_bounds_and_without_weight_stay_where_they_began() -> None:
    for a in (np.zeros(10), np.ones(10), np.array([0.0, 1.0]), np.full(10, 0.7)):
        for fit in (fit_exact, fit_moments):
            mean, width = fit(len(a), a.sum(), (a**2).sum(), (0.5, 0.3))
            assert MEAN[0] <= mean <= MEAN[1] and WIDTH[0] <= width <= WIDTH[1]
    assert fit_exact(0.0, 0.0, 0.0, (0.4, 0.2)) == (0.4, 0.2)
    # A judge of zeros and ones says nothing: as flat as can be.
    assert fit_exact(1000, 500, 500, (0.5, 0.3))[1] == pytest.approx(1.0)


def test_information_is_the_sums_of_samples_and_nothing_of_one_distribution() -> None:
    flat = Distribution(0.5, 0.2)
    assert information(flat, flat, 0.3) == pytest.approx(0, abs=1e-9)
    sure = Distribution(0.0, 0.05), Distribution(1.0, 0.05)
    assert information(*sure, 0.5) == pytest.approx(1, abs=1e-3)
    coarse = [Distribution(values=(0.0, 1.0), shares=(p, 1 - p)) for p in (0.8, 0.2)]
    h = -(0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    assert information(*coarse, 0.5) == pytest.approx(1 - h)
    rng = np.random.default_rng(0)
    one, zero, prior = (0.66, 0.13), (0.42, 0.14), 0.4
    label = rng.random(200_000) < prior
    mean, width = (np.where(label, one[i], zero[i]) for i in (0, 1))
    a = truncnorm.rvs(-mean / width, (1 - mean) / width, loc=mean, scale=width, random_state=rng)
    f1, f0 = np.exp(log_density(a, *one)), np.exp(log_density(a, *zero))
    mixed = prior * f1 + (1 - prior) * f0
    each = np.where(label, np.log2(f1 / mixed), np.log2(f0 / mixed))
    found = information(Distribution(*zero), Distribution(*one), prior)
    assert found == pytest.approx(each.mean(), abs=0.005)
