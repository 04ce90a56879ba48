"""Ridge from sufficient statistics against scikit-learn, and read-outs against planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moralprobe.analyses import recoverability as analysis
from moralprobe.geometry import recoverability
from moralprobe.geometry.auroc import permuted_auroc, weighted_auroc
from moralprobe.geometry.explained import adjusted_r2, r2, r2_growth, weighted_r2
from moralprobe.geometry.recoverability import (
    PENALTIES,
    choose_again,
    choose_penalties,
    gather,
    out_of_fold,
    permuted,
    permuted_r2,
    read_again,
    reduced_rank,
)
from moralprobe.geometry.trained_probe import random_split, trained_predictions

N, D, M = 300, 12, 4


@pytest.fixture(scope="module")
def data() -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Correlated features of very different size and place, one that never varies."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D)) @ rng.standard_normal((D, D)) * np.geomspace(0.01, 100, D)
    X += 30 * rng.standard_normal(D)
    X[:, 3] = 7.0
    Y = (X[:, 4 : 4 + M] - X[:, 4 : 4 + M].mean(0)) / X[:, 4 : 4 + M].std(0)
    Y += rng.standard_normal((N, M)) + 0.5
    return X.astype(np.float32), Y, rng.integers(0, 5, N)


def pipeline(alpha: float) -> object:
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha))


def test_predictions_and_penalties_equal_scikit_learns_on_the_same_folds(data) -> None:
    X, Y, fold = data
    folds = gather(X, fold)
    penalties = choose_penalties(folds, Y)
    predicted = out_of_fold(folds, Y, penalties)
    X64 = X.astype(np.float64)
    for f in range(5):
        train = fold != f
        for j in range(M):
            errors = []
            for penalty in PENALTIES:
                error = 0.0
                for g in set(range(5)) - {f}:
                    inner = train & (fold != g)
                    model = pipeline(penalty * inner.sum()).fit(X64[inner], Y[inner, j])
                    error += np.sum((Y[fold == g, j] - model.predict(X64[fold == g])) ** 2)
                errors.append(error)
            assert penalties[f, j] == np.argmin(errors)
            model = pipeline(PENALTIES[penalties[f, j]] * train.sum()).fit(X64[train], Y[train, j])
            expected = model.predict(X64[~train])
            np.testing.assert_allclose(predicted[~train, j], expected, rtol=1e-6, atol=1e-9)


def test_r2_under_weights_is_r2_of_repeated_rows(data) -> None:
    _, Y, _ = data
    rng = np.random.default_rng(1)
    predicted = Y + rng.standard_normal(Y.shape)
    weights = rng.integers(0, 4, (3, N))
    found = r2(Y, predicted, weights)
    for b, w in enumerate(weights):
        rows = np.repeat(np.arange(N), w)
        expected = r2_score(Y[rows], predicted[rows], multioutput="raw_values")
        np.testing.assert_allclose(found[b], expected, rtol=1e-9)
    assert np.isnan(r2(np.ones((5, 1)), np.ones((5, 1)), np.ones((1, 5)))).all()


def test_nulls_are_what_fitting_again_gives(data) -> None:
    X, Y, fold = data
    X = X - X.mean(0)
    folds = gather(X, fold)
    penalties = choose_penalties(folds, Y)
    rng = np.random.default_rng(2)
    shuffles = np.stack([rng.permutation(N) for _ in range(7)])
    ordered = folds.ordered(shuffles)
    found = permuted_r2(folds, Y[:, 1], penalties[:, 1], ordered, at_once=3 * N)
    blocks = list(permuted(folds, Y[:, 1], penalties[:, 1], ordered, at_once=3 * N))
    labels, read = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
    for b, shuffle in enumerate(shuffles):
        y = Y[shuffle, 1]
        again = out_of_fold(folds, y[:, None], penalties[:, 1:2])[:, 0]
        np.testing.assert_allclose(labels[:, b], y[folds.order], rtol=1e-6)
        np.testing.assert_allclose(read[:, b], again[folds.order], atol=1e-3)
        assert found[b] == pytest.approx(r2_score(y, again), abs=1e-4)
    constant = permuted_r2(folds, np.ones(N), penalties[:, 1], ordered)
    assert np.isnan(constant).all() and constant.shape == (7,)


def test_reduced_rank_is_the_full_read_out_at_full_rank_and_best_at_the_rank_of_the_truth() -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((400, 20)).astype(np.float32)
    B = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 6))
    Y = X @ B + 6 * rng.standard_normal((400, 6))
    folds = gather(X, rng.integers(0, 5, 400))
    penalty = np.full(5, 2)
    one, two, full = reduced_rank(folds, Y[:, None], penalty, (1, 2, 6))[:, :, 0]
    shared = np.repeat(penalty[:, None], 6, axis=1)
    np.testing.assert_allclose(full, out_of_fold(folds, Y, shared), atol=1e-9)
    once = np.ones((1, 400))
    by_rank = [r2(Y, p, once).mean() for p in (one, two, full)]
    assert by_rank[1] > by_rank[0] + 0.02 and by_rank[1] > by_rank[2]
    # Several sets at a time are each set by itself.
    sets = np.stack([Y, Y[::-1]], axis=1)
    together = reduced_rank(folds, sets, penalty, (2,))
    alone = reduced_rank(folds, sets[:, 1:], penalty, (2,))
    np.testing.assert_allclose(together[:, :, 1:], alone, atol=1e-9)


def within(fold, labels, scores, weights) -> float:
    """AUROC of pairs of one fold, folds by their number of pairs."""
    won = compared = 0.0
    for f in range(fold.max() + 1):
        w = weights * (fold == f)
        pairs = w[labels].sum() * w[~labels].sum()
        if pairs:
            won += pairs * roc_auc_score(labels, scores, sample_weight=w)
            compared += pairs
    return won / compared


def test_auroc_equals_scikit_learns_within_folds() -> None:
    rng = np.random.default_rng(4)
    fold = rng.integers(0, 3, 200)
    folds = gather(np.zeros((200, 1), np.float32), fold)
    scores = rng.standard_normal(200)
    labels = rng.random(200) < 0.3
    weights = rng.integers(0, 4, (3, 200))
    areas = weighted_auroc(folds, scores, labels, weights)
    for area, w in zip(areas, weights, strict=True):
        assert area == pytest.approx(within(fold, labels, scores, w))
    coarse = np.round(scores)  # with ties, which count one half
    areas = weighted_auroc(folds, coarse, labels, weights)
    for area, w in zip(areas, weights, strict=True):
        assert area == pytest.approx(within(fold, labels, coarse, w))
    many = rng.standard_normal((200, 5)) * np.geomspace(1e-20, 1e20, 5)
    tags = np.stack([rng.permutation(labels) for _ in range(5)], axis=1)
    areas = permuted_auroc(folds, many[folds.order].astype(np.float32), tags[folds.order])
    for area, s, t in zip(areas, many.T, tags.T, strict=True):
        assert area == pytest.approx(within(fold, t, s, np.ones(200)), abs=1e-6)


def test_read_outs_of_weighted_rows_are_weighted_regressions_to_first_order(data) -> None:
    """A row that counts a little more, in every read-out that it trains."""
    X, Y, fold = data
    X = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)  # for single precision
    folds = gather(X, fold)
    penalties = choose_penalties(folds, Y)
    predicted = out_of_fold(folds, Y, penalties)
    rng = np.random.default_rng(6)
    step = 0.1
    weights = 1 + step * (rng.integers(0, 3, (4, N)) - 1.0)
    for j in (0, 2):
        mine = slice(j, j + 1)
        again = read_again(folds, Y[:, mine], predicted[:, mine], penalties[:, mine], weights)
        for w, found in zip(weights, again[:, :, 0].T, strict=True):
            expected = np.empty(N)
            for f in range(5):
                train = fold != f
                scaler = StandardScaler().fit(X[train].astype(float))
                alpha = PENALTIES[penalties[f, j]] * train.sum()
                model = Ridge(alpha=alpha).fit(
                    scaler.transform(X[train].astype(float)), Y[train, j], sample_weight=w[train]
                )
                expected[~train] = model.predict(scaler.transform(X[~train].astype(float)))
            moved = expected - predicted[:, j]
            # Residuals out of fold stand for those of the fit, which are smaller by the leverage,
            # here 12 / 240 of a row on average: the read-outs move somewhat too far.
            error = np.linalg.norm(found - expected) / np.linalg.norm(moved)
            assert error < 0.35, error
            slope = float((found - predicted[:, j]) @ moved / (moved @ moved))
            assert 0.9 < slope < 1.3, slope
    many = rng.integers(0, 3, (70, N)) + 1.0  # more than are taken at a time
    scores = weighted_r2(Y[:, :2], predicted[:, None, :2].repeat(70, 1), many)
    np.testing.assert_allclose(scores, r2(Y[:, :2], predicted[:, :2], many), atol=1e-6)


def test_penalties_chosen_again_are_those_of_weighted_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(7)
    X = rng.standard_normal((N, D)).astype(np.float32)
    # So little signal that penalties are a matter of chance.
    Y = 0.25 * X[:, :M] + rng.standard_normal((N, M))
    fold = rng.integers(0, 5, N)
    folds = gather(X, fold)
    penalties = choose_penalties(folds, Y)
    predicted = out_of_fold(folds, Y, penalties)
    as_they_are = choose_again(folds, Y, predicted, np.ones((2, N)))
    assert (as_they_are == penalties[:, None]).all()
    weights = (1 + rng.multinomial(N, np.full(N, 1 / N), 6)) / 2
    found = choose_again(folds, Y, predicted, weights)
    assert found.shape == (5, 6, M)
    with monkeypatch.context() as few:
        few.setattr(recoverability, "_LABELS", 4 * N * M)  # four sets at a time
        np.testing.assert_array_equal(choose_again(folds, Y, predicted, weights), found)
    assert choose_again(folds, Y, predicted, weights[:0]).shape == (5, 0, M)
    assert (found != penalties[:, None]).mean() > 0.15, "they do jump here"
    lost_now, lost_before = [], []
    for b, w in enumerate(weights):
        for f in range(5):
            errors = np.zeros((len(PENALTIES), M))
            for g in set(range(5)) - {f}:
                inner, tested = (fold != f) & (fold != g), fold == g
                scaler = StandardScaler().fit(X[inner])
                for p, penalty in enumerate(PENALTIES):
                    model = Ridge(alpha=penalty * inner.sum())
                    model.fit(scaler.transform(X[inner]), Y[inner], sample_weight=w[inner])
                    lost = np.square(Y[tested] - model.predict(scaler.transform(X[tested])))
                    errors[p] += w[tested] @ lost
            # As good as the best of weighted regressions, to first order; those that the data as
            # they are choose aren't.
            loss = errors / errors.min(0) - 1
            lost_now.append(loss[found[f, b], range(M)])
            lost_before.append(loss[penalties[f], range(M)])
    assert np.mean(lost_now) < 0.2 * np.mean(lost_before), (lost_now, lost_before)


def test_sets_may_have_penalties_of_their_own(data) -> None:
    X, Y, fold = data
    folds = gather((X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1), fold)
    rng = np.random.default_rng(8)
    penalties = rng.integers(0, len(PENALTIES), (5, 3, M))
    weights = rng.integers(0, 3, (3, N)) / 2 + 0.5
    predicted = out_of_fold(folds, Y, np.full((5, M), 2))
    together = read_again(folds, Y, predicted, penalties, weights)
    sets = np.stack([Y, Y[::-1], Y + 1], axis=1)
    low_rank = reduced_rank(folds, sets, penalties[:, :, 0], (1, 2))
    for b in range(3):
        w = weights[b : b + 1]
        for j in range(M):
            mine = slice(j, j + 1)
            alone = read_again(folds, Y[:, mine], predicted[:, mine], penalties[:, b, mine], w)
            np.testing.assert_allclose(together[:, b, j], alone[:, 0, 0], atol=1e-4)
        alone = reduced_rank(folds, sets[:, b : b + 1], penalties[:, b, 0], (1, 2))
        np.testing.assert_allclose(low_rank[:, :, b], alone[:, :, 0], atol=1e-9)


def test_sets_with_penalties_of_their_own_are_scored_in_blocks_as_at_once(
    data, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, Y, fold = data
    folds = gather((X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1), fold)
    rng = np.random.default_rng(9)
    penalties = rng.integers(0, len(PENALTIES), (5, 7, M))
    weights = rng.integers(1, 4, (7, N)) / 2
    predicted = out_of_fold(folds, Y, np.full((5, M), 2))
    at_once = weighted_r2(Y, read_again(folds, Y, predicted, penalties, weights), weights)
    monkeypatch.setattr(analysis, "_MOVED", 3 * Y.size)
    found = analysis._scored(folds, Y, predicted, penalties, weights)
    np.testing.assert_allclose(found, at_once, atol=1e-5)
    assert np.abs(np.diff(at_once, axis=0)).max() > 1e-2


def test_adjusted_r2_falls_with_width_where_there_is_nothing() -> None:
    # The figures that the formula gives for the paper's sample.
    assert adjusted_r2(np.array(0.0), 16_315, 1_024) == pytest.approx(-0.067, abs=1e-3)
    assert adjusted_r2(np.array(0.0), 16_315, 5_120) == pytest.approx(-0.457, abs=1e-3)
    assert adjusted_r2(np.array(0.446), 16_315, 4_096) == pytest.approx(0.26, abs=1e-3)
    assert np.isnan(adjusted_r2(np.array(0.5), 3_263, 4_096))


# -- the paper's probe ----------------------------------------------------------------------------


def test_the_split_is_of_rows_at_70_10_20() -> None:
    part = random_split(1000, 42)
    np.testing.assert_array_equal(np.bincount(part), [700, 100, 200])
    np.testing.assert_array_equal(part, random_split(1000, 42))
    assert (part != random_split(1000, 43)).any()


def test_the_trained_probe_takes_the_steps_that_torch_takes(monkeypatch) -> None:
    """The same weights, batches and rates through torch's AdamW and ReduceLROnPlateau."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    X = rng.standard_normal((1500, 6)).astype(np.float32)
    Y = (X @ rng.standard_normal((6, 3)) + rng.standard_normal((1500, 3))).astype(np.float32)
    part = random_split(1500, 1)
    found = trained_predictions(X, Y, part, seed=3)

    train, held, test = (np.flatnonzero(part == k) for k in range(3))
    draws = np.random.default_rng([3, 8])
    theta = draws.uniform(-1 / np.sqrt(6), 1 / np.sqrt(6), (7, 3)).astype(np.float32)
    linear = torch.nn.Linear(6, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(theta[:-1].T))
        linear.bias.copy_(torch.tensor(theta[-1]))
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    best, idle = np.inf, 0
    for _ in range(100):
        order = train[draws.permutation(len(train))]
        for start in range(0, len(order), 512):
            rows = order[start : start + 512]
            loss = torch.nn.functional.mse_loss(
                linear(torch.tensor(X[rows])), torch.tensor(Y[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error = torch.nn.functional.mse_loss(
                linear(torch.tensor(X[held])), torch.tensor(Y[held])
            ).item()
        scheduler.step(error)
        best, idle = (error, 0) if error < best else (best, idle + 1)
        if idle >= 10:
            break
    with torch.no_grad():
        expected = linear(torch.tensor(X[test])).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_trained_probe_finds_a_planted_direction_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(6)
    X = rng.standard_normal((4000, 20)).astype(np.float32)
    Y = np.stack([X[:, 0] * 0.3, rng.standard_normal(4000) * 0.3], axis=1)
    part = random_split(4000, 0)
    predicted = trained_predictions(X, Y, part, seed=0)
    scores = r2(Y[part == 2], predicted, np.ones((1, 800)))[0]
    assert scores[0] > 0.9 and abs(scores[1]) < 0.1


def test_r2_near_zero_varies_by_four_over_n_for_each_unit() -> None:
    """Of planted effects: what the variance of R2 gains by them, and that of a mean of several."""
    rng = np.random.default_rng(3)
    n, m = 400, 6
    found = {}
    for strength in (0.0, 0.15):
        x = rng.standard_normal((2000, n))
        e = rng.standard_normal((2000, n, m))
        y = strength * x[:, :, None] + e
        r = np.einsum("bn,bnm->bm", x, y) / np.sqrt(
            np.square(x).sum(1)[:, None] * np.square(y).sum(1)
        )
        found[strength] = np.square(r)
    one, mean = (
        {s: (v.mean(), v.var(0).mean() if k == 0 else v.mean(1).var()) for s, v in found.items()}
        for k in (0, 1)
    )
    rises = found[0.15].mean() - found[0.0].mean()
    independent = rng.standard_normal((100_000, m))
    grown = (one[0.15][1] - one[0.0][1]) / rises
    assert grown == pytest.approx(r2_growth(independent[:, :1], n), rel=0.1)
    grown = (mean[0.15][1] - mean[0.0][1]) / rises
    assert grown == pytest.approx(r2_growth(independent, n), rel=0.35)
    same = np.repeat(independent[:, :1], m, axis=1)
    assert r2_growth(same, n) == pytest.approx(4 / n)
    assert r2_growth(independent, n) == pytest.approx(4 / (n * m), rel=0.01)
    alike = np.sqrt(0.5) * (independent[:, :2] + independent[:, 2:3])  # they correlate at 0.5
    assert r2_growth(alike, n) == pytest.approx(4 / n * (2 + 2 * 0.25) / 4, rel=0.03)
    # The slope of 4 v (1 - v)^2 / n.
    v, h = 0.2, 1e-6
    slope = 4 / n * ((v + h) * (1 - v - h) ** 2 - v * (1 - v) ** 2) / h
    assert r2_growth(independent[:, :1], n, v) == pytest.approx(slope, rel=1e-4)
    assert r2_growth(independent, n, 0.5) == 0 and r2_growth(same, n, -1.0) == r2_growth(same, n)
