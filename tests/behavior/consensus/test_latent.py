"""The consensus of judges whose parameters are known: as good as who knows them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import truncnorm
from sklearn.metrics import roc_auc_score

from moralprobe.behavior.consensus.latent import (
    VARIANTS,
    family_weights,
    fit,
    separations,
)
from moralprobe.errors import DataError, UsageError
from tests.behavior.consensus.panel import PUBLISHED, draw, known, panel


def against_known(
    seed: int, scores: np.ndarray, labels: np.ndarray, odds: np.ndarray, **options: object
) -> tuple[float, float]:
    """Accuracy and AUROC of the fit less those of who knows the parameters."""
    found = fit(scores, **options)  # type: ignore[arg-type]
    gamma, truth = found.consensus[0], labels[0]
    accuracy = float(((gamma > 0.5) == truth).mean() - ((odds[0] > 0) == truth).mean())
    return accuracy, float(roc_auc_score(truth, gamma) - roc_auc_score(truth, odds[0]))


def random_judges(seed: int, n: int, items: int) -> np.ndarray:
    return (np.random.default_rng([seed, 9]).random((n, 1, items)) < 0.5).astype(float)


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(20), marks=pytest.mark.slow)])
def test_it_is_as_good_as_who_knows_the_judges(seeds: range) -> None:
    """The bar of the exact variant, over fixed seeds: with random judges of 0 and 1 among it too."""
    found: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 3: []}
    for seed in seeds:
        labels, scores = panel(seed)
        odds = known(scores, PUBLISHED)
        for extra, rows in found.items():
            more = np.concatenate([scores, random_judges(seed, extra, scores.shape[2])])
            rows.append(against_known(seed, more, labels, odds))
    for extra, rows in found.items():
        accuracy, auroc = np.abs(np.mean(rows, axis=0))
        assert accuracy < (0.003 if extra else 0.002), (extra, rows)
        assert auroc < 0.001, (extra, rows)


def test_separations_are_those_of_samples_and_of_the_published_table() -> None:
    _, scores = panel(7)
    labels, _ = panel(7)
    found = separations(fit(np.concatenate([scores, random_judges(7, 1, scores.shape[2])])))
    for d, a in zip(found, scores, strict=False):
        one, zero = a[labels], a[~labels]
        spread = np.sqrt((one.var() + zero.var()) / 2)
        assert d == pytest.approx((one.mean() - zero.mean()) / spread, abs=0.05)
    assert found[:4] == pytest.approx([1.78, 1.46, 1.78, 0.87], abs=0.08)
    assert abs(found[4]) < 0.3, "who says 0 or 1 by chance tells nothing apart"


def test_a_simple_mean_falls_where_a_judge_is_random() -> None:
    labels, scores = panel(0)
    for extra, most in ((1, 0.75), (3, 0.70)):
        more = np.concatenate([scores, random_judges(0, extra, scores.shape[2])])
        assert ((more.mean(axis=0) > 0.5) == labels).mean() < most
        assert ((fit(more).consensus > 0.5) == labels).mean() > 0.93


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_come_back(variant: str) -> None:
    _, scores = panel(1)
    found = fit(scores, variant=variant, step=0.05)  # type: ignore[arg-type]
    # Moments are of the truncated scores, not of the normal before.
    near = 0.012 if variant != "moments" else 0.02
    at = [[one.centre, one.width, zero.centre, zero.width] for zero, one in found.judges]
    np.testing.assert_allclose(at, PUBLISHED, atol=near)
    assert found.prior == pytest.approx([0.45], abs=0.015)
    assert found.converged and found.bic < -5000


def test_the_posterior_is_bayes_row_by_row() -> None:
    _, scores = panel(2, 500)
    scores = np.repeat(scores, 2, axis=1)
    scores[1, 0, 3] = scores[:3, 1, 4] = np.nan
    scores[:, 0, 5] = np.nan
    w = np.array([1.0, 0.5, 0.5, 1.0])
    found = fit(scores, weights=w)
    for j, i in ((0, 0), (0, 3), (1, 4), (1, 499)):
        odds = np.log(found.prior[j] / (1 - found.prior[j]))
        for m in range(4):
            if np.isnan(scores[m, j, i]):
                continue
            for k, sign in ((1, 1), (0, -1)):
                mean, width = found.judges[m][k].centre, found.judges[m][k].width
                low, high = -mean / width, (1 - mean) / width
                log = truncnorm.logpdf(scores[m, j, i], low, high, loc=mean, scale=width)
                odds += sign * w[m] * log
        assert found.consensus[j, i] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-9)
    assert np.isnan(found.consensus[0, 5]), "nobody scored it"


SEEDS = [range(3), pytest.param(range(20), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", SEEDS)
def test_copies_of_a_judge_count_as_one_where_they_are_kin(seeds: range) -> None:
    weights = family_weights(["a", "b", "c", "d", "d", "d", "d"])
    np.testing.assert_allclose(weights, [1, 1, 1, 0.25, 0.25, 0.25, 0.25])
    tempered, alone = [], []
    for seed in seeds:
        labels, scores = panel(seed)
        noise = np.random.default_rng(seed).normal(0, 0.02, (3, *scores.shape[1:]))
        more = np.concatenate([scores, np.clip(scores[[3, 3, 3]] + noise, 0, 1)])
        odds = known(scores, PUBLISHED)
        tempered.append(against_known(seed, more, labels, odds, weights=weights)[0])
        alone.append(against_known(seed, more, labels, odds)[0])
    assert abs(np.mean(tempered)) < 0.005 and np.mean(alone) < -0.1


@pytest.mark.parametrize("seeds", SEEDS)
def test_without_two_classes_the_test_says_so(seeds: range) -> None:
    one = np.array([[m, s, m, s] for m, s in ((0.5, 0.2), (0.55, 0.15), (0.4, 0.2), (0.6, 0.3))])
    for seed in seeds:
        rng = np.random.default_rng(seed)
        assert fit(draw(rng, one, np.zeros((1, 5_000), dtype=bool))).bic > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_judge_of_zeros_and_ones_is_weighed_as_one_who_errs(variant: str) -> None:
    """A curve that puts a fifth at the far end is flat, or a spike that outweighs everyone."""
    labels, scores = panel(8, 4000)
    rng = np.random.default_rng([8, 1])  # not the panel's own numbers
    right = rng.random(labels.shape) < 0.8
    blunt = np.where(right, labels, ~labels).astype(float)
    found = fit(np.concatenate([scores, blunt[None]]), variant=variant)  # type: ignore[arg-type]
    zero, one = found.judges[4]
    assert one.shares[1] == pytest.approx(0.8, abs=0.03) and zero.shares[1] == pytest.approx(
        0.2, abs=0.03
    )
    right_alone = (fit(scores).consensus > 0.5) == labels
    assert ((found.consensus > 0.5) == labels).mean() > right_alone.mean()
    # Nobody but such judges: the likeliest of all is no one's own opinion.
    many = [np.where(rng.random(labels.shape) < p, labels, ~labels) for p in (0.9, 0.8, 0.75, 0.7)]
    panel_of_four = fit(np.array(many, dtype=float))
    shares = [pair[1].shares[1] for pair in panel_of_four.judges]
    assert shares == pytest.approx([0.9, 0.8, 0.75, 0.7], abs=0.05)


def test_kin_who_are_reversed_do_not_turn_the_label() -> None:
    labels, scores = panel(9, 2000)
    reversed_kin = np.repeat(1 - scores[[0]], 4, axis=0)
    more = np.concatenate([scores[:3], reversed_kin])
    found = fit(more, weights=family_weights(["a", "b", "c", "k", "k", "k", "k"]))
    # Four of one's own kin, turned, are that one again: no more than a second voice for it.
    assert ((found.consensus > 0.5) == labels).mean() > 0.8


def test_a_fit_that_begins_with_another_keeps_its_labels() -> None:
    labels, scores = panel(10, 2000)
    turned = np.concatenate([scores[:2], 1 - scores[[0]]])
    whole = fit(turned)
    assert ((whole.consensus > 0.5) == labels).mean() > 0.8
    without = fit(turned[[1, 2]], start=whole.of([1, 2]))
    assert ((without.consensus > 0.5) == labels).mean() > 0.8, "the two left disagree on the label"


def test_a_theory_that_nobody_scored_has_no_prior() -> None:
    _, scores = panel(11, 300)
    more = np.concatenate([scores, np.full_like(scores, np.nan)], axis=1)
    found = fit(more)
    assert np.isnan(found.prior[1]) and np.isnan(found.consensus[1]).all()
    assert found.bic == pytest.approx(fit(scores).bic)


def test_a_reversed_judge_is_learned_and_the_label_is_where_most_score_high() -> None:
    labels, scores = panel(4)
    turned = scores.copy()
    turned[3] = 1 - turned[3]
    found = fit(turned)
    assert found.judges[3][1].mean < found.judges[3][0].mean
    assert ((found.consensus > 0.5) == labels).mean() > 0.93
    every = fit(1 - scores)
    assert (separations(every) > 0).all(), "the label is called by where they score high"


def test_a_constant_judge_changes_nothing() -> None:
    _, scores = panel(5, 4000)
    constant = np.concatenate([scores, np.full((1, *scores.shape[1:]), 0.7)])
    found, alone = fit(constant), fit(scores)
    np.testing.assert_allclose(found.consensus, alone.consensus, atol=5e-3)
    zero, one = found.judges[4]
    assert zero.mean == pytest.approx(one.mean, abs=1e-6)


def test_the_order_of_judges_theories_and_items_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    scores = draw(rng, PUBLISHED, rng.random((2, 300)) < 0.4)
    found = fit(scores)
    judges, items = rng.permutation(4), rng.permutation(300)
    other = fit(scores[judges][:, ::-1][:, :, items])
    np.testing.assert_allclose(other.consensus, found.consensus[::-1][:, items], atol=1e-6)


def test_what_cannot_be_fitted_is_refused() -> None:
    _, scores = panel(0, 50)
    with pytest.raises(DataError, match="two judges"):
        fit(scores[:1])
    for bad in (1.2, -0.1, np.inf):
        wrong = scores.copy()
        wrong[0, 0, 0] = bad
        with pytest.raises(DataError, match="between 0 and 1"):
            fit(wrong)
    silent = scores.copy()
    silent[2] = np.nan
    with pytest.raises(DataError, match="no score at all"):
        fit(silent)
    with pytest.raises(UsageError, match="unknown variant"):
        fit(scores, variant="exakt")  # type: ignore[arg-type]
    for step in (0.3, 1e-9, 0.0, 1.0):
        with pytest.raises(UsageError, match="isn't one of a scale"):
            fit(scores, step=step)
    with pytest.raises(UsageError, match="weights"):
        fit(scores, weights=np.array([1.0, 0.0, 1.0, 1.0]))
