"""Cluster scores against scikit-learn, similarity structure against the formulas written naively."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.optimize import nnls
from scipy.stats import rankdata
from sklearn import metrics
from sklearn.cluster import KMeans

from moralprobe.analyses.structure import _found_again, structure
from moralprobe.design import Design, Labelled, TextFacts, make_design
from moralprobe.geometry import structure as of_structure
from moralprobe.geometry.confounds import word_overlap, words_of
from moralprobe.geometry.draws import interval
from moralprobe.geometry.measure import permutation_p, upper_p
from moralprobe.geometry.similarity import (
    ModelGeometries,
    hidden_geometry,
    mantel_deviation,
    model_geometries,
    similarity,
    squared_distances,
    stratified_subset,
    unique_variance,
)
from moralprobe.geometry.structure import (
    NOISE,
    SCORES,
    agreement,
    centroid_clusters,
    contingency,
    density_clusters,
    leading_components,
    participation_ratio,
    permuted_contingency,
)
from moralprobe.moral_vectors import build_vectors

# -- clusters -------------------------------------------------------------------------------------


def test_clusters_are_found_again_on_the_texts_that_a_resample_holds() -> None:
    """k-means on each distinct text as often as it counts, scores on each row as often as its."""
    rng = np.random.default_rng(1)
    text = np.repeat(np.arange(60), rng.integers(1, 3, 60))
    states = rng.standard_normal((60, 3))
    labels = rng.integers(0, 15, len(text))
    resamples = rng.multinomial(60, [1 / 60] * 60, 4).astype(np.uint8)
    design = Design("audited", text, text, text, text, resamples, (), ())
    labelled = Labelled(labels, np.empty((0, len(text)), np.uint8))
    found = _found_again(states, text, 5, design, labelled, "MFT5")
    for b, drawn in enumerate(resamples):
        kmeans = KMeans(5, n_init=1, max_iter=50, random_state=1 + b)
        clusters = kmeans.fit_predict(states, sample_weight=drawn)
        each = drawn[text].astype(int)
        ari = metrics.adjusted_rand_score(
            np.repeat(labels // 3, each), np.repeat(clusters[text], each)
        )
        assert found["ari"][b] == pytest.approx(ari)


def test_scores_equal_scikit_learns_on_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    clusters, labels = rng.integers(0, 4, 500), rng.integers(0, 15, 500)
    labels[clusters == 1] = 3
    weights = np.concatenate([np.ones((1, 500), int), rng.integers(0, 3, (3, 500))])
    found = agreement(contingency(clusters, labels, weights, n_labels=15))
    for b, w in enumerate(weights):
        c, t = np.repeat(clusters, w), np.repeat(labels, w)
        expected = [
            metrics.adjusted_rand_score(t, c),
            metrics.normalized_mutual_info_score(t, c),
            *metrics.homogeneity_completeness_v_measure(t, c),
        ]
        np.testing.assert_allclose([found[name][b] for name in SCORES], expected, atol=1e-12)


@pytest.mark.parametrize(("k", "n_labels"), [(1, 1), (1, 3), (3, 1)])
def test_scores_of_one_cluster_or_one_label_are_scikit_learns(k: int, n_labels: int) -> None:
    clusters, labels = np.arange(30) % k, np.arange(30) // 3 % n_labels
    found = agreement(contingency(clusters, labels, np.ones((1, 30)), n_labels=n_labels))
    expected = [
        metrics.adjusted_rand_score(labels, clusters),
        metrics.normalized_mutual_info_score(labels, clusters),
        *metrics.homogeneity_completeness_v_measure(labels, clusters),
    ]
    np.testing.assert_allclose([found[name][0] for name in SCORES], expected, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_there_are_no_more_clusters_than_distinct_states() -> None:
    X = np.array([0.0, 1.0, 5.0])[np.arange(60) % 3][:, None].astype(np.float32)
    clusters = centroid_clusters(X, 15, seed=1)
    np.testing.assert_array_equal(clusters, clusters[np.arange(60) % 3])
    assert len(np.unique(clusters)) == 3
    plane = np.stack([X[:, 0], np.arange(60) % 4], axis=1).astype(np.float32)
    assert len(np.unique(centroid_clusters(plane, 5, seed=1))) == 5


def test_permuted_tables_count_permuted_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    clusters, labels = rng.integers(0, 3, 50), rng.integers(0, 4, 50)
    permuted = np.stack([rng.permutation(labels) for _ in range(4)])
    tables = permuted_contingency(clusters, permuted, n_labels=4)
    for table, mine in zip(tables, permuted, strict=True):
        expected = contingency(clusters, mine, np.ones((1, 50)), n_labels=4)[0]
        np.testing.assert_array_equal(table, expected)
    assert permuted_contingency(clusters, permuted[:0], n_labels=4).shape == (0, 3, 4)
    weights = rng.integers(0, 3, (7, 50))
    whole = contingency(clusters, labels, weights, n_labels=4)
    monkeypatch.setattr(of_structure, "_PLACES", 120)  # two draws at a time
    np.testing.assert_array_equal(contingency(clusters, labels, weights, n_labels=4), whole)
    np.testing.assert_array_equal(permuted_contingency(clusters, permuted, n_labels=4), tables)


def test_density_clusters_find_planted_groups_and_leave_the_rest_to_noise() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat([0, 1, 2], [150, 150, 200])
    X = rng.standard_normal((500, 30)) * 0.05
    X[groups == 0, 0] += 5
    X[groups == 1, 1] += 5
    X[groups == 2] = 10 * rng.standard_normal((200, 30))
    found = density_clusters(X - X.mean(0))
    assert set(found[groups < 2]) == {0, 1} and (found[groups == 2] == NOISE).all()
    assert metrics.adjusted_rand_score(groups[groups < 2], found[groups < 2]) == 1
    assert (density_clusters(X[:100]) == NOISE).all()  # fewer than a cluster needs


def test_centroid_clusters_on_leading_components_find_planted_groups() -> None:
    rng = np.random.default_rng(3)
    groups = np.arange(300) % 3
    X = 10 * np.eye(3, 40)[groups] + rng.standard_normal((300, 40))
    X -= X.mean(0)
    assert metrics.adjusted_rand_score(groups, centroid_clusters(X, 3, seed=0)) == 1
    lead = leading_components(X, 5)
    assert metrics.adjusted_rand_score(groups, centroid_clusters(lead, 3, seed=0)) == 1


@pytest.mark.parametrize("shape", [(80, 20), (20, 80)])
def test_leading_components_are_those_of_a_singular_value_decomposition(shape) -> None:
    X = np.random.default_rng(4).standard_normal(shape)
    X -= X.mean(0)
    u, s, _ = np.linalg.svd(X, full_matrices=False)
    expected = (u * s)[:, :5]
    found = leading_components(X, 5)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_participation_ratio_is_that_of_the_covariance_of_repeated_rows() -> None:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((200, 10)) * np.arange(1, 11)
    weights = rng.integers(0, 3, (4, 200))
    for found, w in zip(participation_ratio(X, weights), weights, strict=True):
        values = np.linalg.eigvalsh(np.cov(np.repeat(X, w, axis=0).T, bias=True))
        assert found == pytest.approx(values.sum() ** 2 / np.square(values).sum())
    assert participation_ratio(np.outer(np.arange(9.0), np.ones(4)), np.ones((1, 9))) == (
        pytest.approx(1.0)
    )


# -- similarity structure -------------------------------------------------------------------------

N = 120


def planted(seed: int = 0) -> tuple[np.ndarray, ModelGeometries, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    tags = (rng.random((N, 5)) < 0.3).astype(float)
    polarity, intensity = rng.integers(-1, 2, (N, 1)) * 1.0, rng.choice([0.25, 0.5, 1.0], (N, 1))
    length = np.log(rng.integers(5, 20, (N, 1)))
    features = {"axis": tags, "polarity": polarity, "intensity": intensity}
    words = rng.random((N, N))
    others = {"length": squared_distances(length), "words": (words + words.T) * (1 - np.eye(N))}
    resamples = rng.multinomial(N, np.ones(N) / N, 20).astype(np.uint8)
    weights = np.concatenate([np.ones((1, N), np.uint8), resamples])
    shuffles = np.stack([rng.permutation(N) for _ in range(30)])
    X = np.concatenate([2 * tags, 3 * polarity, 2 * length], axis=1) @ rng.standard_normal((7, 20))
    X += rng.standard_normal((N, 20))
    return X, model_geometries(features, others, weights, shuffles), {**features, **others}


def naive(X, weights, named) -> tuple[list[float], list[float]]:
    """Correlations and unique variances over pairs of different texts, by scipy's NNLS."""
    i, j = np.triu_indices(N, 1)
    hidden = rankdata(1 - np.corrcoef(X)[i, j])
    w = weights[i].astype(float) * weights[j]

    def standard(v: np.ndarray) -> np.ndarray:
        v = v - np.average(v, weights=w)
        return v * np.sqrt(w / np.sum(w * v**2))

    h = standard(hidden)
    columns = {name: standard(D[i, j].astype(float)) for name, D in named.items()}

    def explained(names) -> float:
        return 1 - nnls(np.stack([columns[name] for name in names], axis=1), h)[1] ** 2

    full = explained(columns)
    unique = [full - explained([n for n in columns if n != name]) for name in columns]
    return [float(column @ h) for column in columns.values()], unique


def matrices(data) -> dict[str, np.ndarray]:
    return {
        name: D if D.shape == (N, N) else squared_distances(D).astype(float)
        for name, D in data.items()
    }


def test_similarity_equals_the_formula_as_the_data_are_and_resampled() -> None:
    X, models, data = planted()
    found = similarity(X, models)
    for b in (0, 1, 7):
        r, unique = naive(X, models.weights[b], matrices(data))
        np.testing.assert_allclose(found.correlation[b], r, atol=2e-5)
        if b == 0:
            once = found.unique(found.correlation[:1])
            np.testing.assert_allclose(once[0], unique, atol=5e-5)


def test_similarity_equals_the_formula_with_labels_permuted() -> None:
    X, models, data = planted()
    found = similarity(X, models)
    for p in (0, 11):
        moved = {
            name: D[models.shuffles[p]] if name in models.moral else D for name, D in data.items()
        }
        r, unique = naive(X, models.weights[0], matrices(moved))
        np.testing.assert_allclose(found.null_correlation[p, :3], r[:3], atol=2e-5)
        np.testing.assert_allclose(found.null_unique[p, :3], unique[:3], atol=5e-5)


def test_the_null_of_what_words_explain_is_that_of_texts_in_any_order() -> None:
    X, models, data = planted()
    named = matrices(data)
    rng = np.random.default_rng(12)
    drawn = []
    for _ in range(150):
        order = rng.permutation(N)
        moved = {**named, "words": named["words"][np.ix_(order, order)]}
        drawn.append(naive(X, models.weights[0], moved)[1][4])
    many = np.tile(models.shuffles, (40, 1))[:1000]
    null = similarity(
        X, replace(models, shuffles=many, null_inner=np.tile(models.null_inner, (40, 1, 1))[:1000])
    ).null_unique[:, 4]
    assert (null >= 0).all() and np.mean(null == 0) == pytest.approx(0.5, abs=0.06)
    assert np.quantile(null, 0.95) == pytest.approx(np.quantile(drawn, 0.95), rel=0.5)
    assert null.mean() == pytest.approx(np.mean(drawn), rel=0.4)


def test_planted_geometries_are_found_and_absent_ones_are_not() -> None:
    X, models, _ = planted()
    found = similarity(X, models)
    r = dict(zip(models.names, found.correlation[0], strict=True))
    null = np.abs(found.null_correlation[:, :3]).max()
    assert min(r["axis"], r["polarity"]) > 1.5 * null and r["length"] > 0.05
    assert abs(r["intensity"]) < null and abs(r["words"]) < 0.05
    noise = np.random.default_rng(9).standard_normal((N, 20))
    for name, value in zip(models.names, similarity(noise, models).correlation[0], strict=True):
        assert abs(value) < 0.06, name


def test_a_rotation_changes_nothing_and_a_constant_label_is_left_out() -> None:
    X, models, data = planted()
    # Correlation takes the mean over dimensions out: a rotation about that direction.
    d = X.shape[1]
    basis = np.linalg.qr(np.column_stack([np.ones(d), np.eye(d)[:, 1:]]))[0]
    turn = np.eye(d)
    turn[1:, 1:] = np.linalg.qr(np.random.default_rng(1).standard_normal((d - 1, d - 1)))[0]
    Q = basis @ turn @ basis.T
    once, turned = (similarity(states, models) for states in (X, X @ Q))
    np.testing.assert_allclose(turned.correlation, once.correlation, atol=1e-4)
    unique = [x.unique(x.correlation) for x in (turned, once)]
    np.testing.assert_allclose(*unique, atol=1e-4)
    assert not np.allclose(X, X @ Q, atol=0.1)
    flat = model_geometries(
        {"axis": data["axis"], "polarity": np.ones((N, 1))}, {}, models.weights, models.shuffles
    )
    found = similarity(X, flat)
    assert (
        np.isnan(found.correlation[:, 1]).all()
        and np.isfinite(found.unique(found.correlation)[:, 0]).all()
    )


def test_unique_variance_is_that_of_scipys_nnls_where_coefficients_would_be_negative() -> None:
    rng = np.random.default_rng(7)
    A = rng.standard_normal((200, 4)) @ (np.eye(4) + 0.5 * rng.standard_normal((4, 4)))
    y = A @ np.array([1.0, -1.0, 0.5, 0.0]) + rng.standard_normal(200)
    A, y = (A - A.mean(0)) / A.std(0), (y - y.mean()) / y.std()
    R, r = (A.T @ A / 200)[None], (A.T @ y / 200)[None]
    full = 1 - nnls(A, y)[1] ** 2 / 200
    without = [1 - nnls(np.delete(A, k, 1), y)[1] ** 2 / 200 for k in range(4)]
    np.testing.assert_allclose(unique_variance(R, r)[0], full - np.array(without), atol=1e-8)


def test_mantels_deviation_is_that_of_permutations() -> None:
    rng = np.random.default_rng(8)
    X, _, data = planted()
    A, B = hidden_geometry(X).astype(float), np.asarray(data["length"], float)
    i, j = np.triu_indices(N, 1)
    drawn = []
    for _ in range(2000):
        p = rng.permutation(N)
        drawn.append(np.corrcoef(A[i, j], B[p][:, p][i, j])[0, 1])
    assert mantel_deviation(A, B) == pytest.approx(np.std(drawn), rel=0.06)


def test_word_overlap_is_the_jaccard_index() -> None:
    words = [words_of(text) for text in ("Telling a lie.", "telling the truth", "", "LYING!")]
    expected = [[1, 1 / 5, 0, 0], [1 / 5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(word_overlap(words), expected)


def test_a_stratified_subset_keeps_shares_and_is_the_same_every_time() -> None:
    strata = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = stratified_subset(strata, 100, seed=1)
    assert len(np.unique(chosen)) == 100
    np.testing.assert_allclose(np.bincount(strata[chosen]), [60, 30, 10], atol=1)
    np.testing.assert_array_equal(chosen, stratified_subset(strata, 100, seed=1))
    np.testing.assert_array_equal(stratified_subset(strata[:50], 100, seed=1), np.arange(50))


def test_what_is_unique_has_the_p_of_its_upper_tail_and_what_correlates_that_of_both() -> None:
    frame = build_vectors("starter").frame
    _, text = np.unique(frame["group"].to_numpy().astype(str), return_inverse=True)
    n = int(text.max()) + 1
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 20, n)
    pairs = frame.with_columns(text_index=pl.Series(text), n_tokens=pl.Series(lengths[text]))
    facts = TextFacts(np.zeros(n, int))
    design = make_design(pairs, facts, "audited", draws=40, seed=0, analyses=("structure",))
    assert design.likenesses is not None
    X = rng.standard_normal((n, 8)).astype(np.float32)[design.text]
    models = design.likenesses.models
    found = {(m.name, m.category): m for m in structure(X, design, density=False)}
    null = similarity(X[design.likenesses.rows], models)
    for j, name in enumerate(models.names):
        unique, r = found["rsa_unique", name], found["rsa", name]
        assert unique.p == upper_p(unique.value, null.null_unique[:, j])
        assert r.p == permutation_p(r.value, null.null_correlation[:, j])
        draws = design.draws(
            null.correlation[:, j], null.null_correlation[:, j], design.likenesses.rows
        )
        # Nothing is at zero, wherever strata move the null.
        assert (r.ci_low, r.ci_high) == interval(draws, -1, 1, null_value=0.0)
    assert any(  # the two differ here, so that one can't stand for the other
        upper_p(found["rsa_unique", name].value, null.null_unique[:, j])
        != permutation_p(found["rsa_unique", name].value, null.null_unique[:, j])
        for j, name in enumerate(models.names)
    )
