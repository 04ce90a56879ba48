"""Whether the states group themselves as morality would: clusters, and over how many dimensions."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats, Ints, blocks

MIN_CLUSTER_SIZE: Final = 100
MIN_SAMPLES: Final = 20
PCA_VARIANCE: Final = 0.95
NOISE: Final = -1
_PLACES: Final = 1 << 21  # of a [draws, rows] block
SCORES: Final = ("ari", "nmi", "homogeneity", "completeness", "v_measure")


# -- clusters -------------------------------------------------------------------------------------


def density_clusters(X: Floats) -> NDArray[np.int64]:
    """Return the paper's clusters: PCA to 95 % of the variance, then HDBSCAN, [n]; -1 is noise.

    Args:
        X: [n, d] centred states.

    Source: arXiv 2603.15615; HDBSCAN by Campello et al. (2013), at least 100 texts a cluster and
    20 neighbours.
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    if len(X) <= MIN_CLUSTER_SIZE:
        return np.full(len(X), NOISE, np.int64)
    pca = PCA(PCA_VARIANCE, svd_solver="covariance_eigh")
    reduced = pca.fit_transform(np.asarray(X, np.float64))
    clusters = HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, min_samples=MIN_SAMPLES, copy=False)
    return np.asarray(clusters.fit_predict(reduced), np.int64)


def centroid_clusters(
    X: Floats, k: int, *, seed: int, weights: Counts | None = None
) -> NDArray[np.int64]:
    """Return k-means clusters, [n], from one start and at most 50 rounds.

    Args:
        X: [n, d] states, or their leading components.
        k: how many clusters; fewer where fewer rows are distinct.
        seed: of the start.
        weights: [n] counts of a resample.
    """
    from sklearn.cluster import KMeans

    if len(np.unique(X[:, 0])) < k:
        k = min(k, len(np.unique(X, axis=0)))
    kmeans = KMeans(k, n_init=1, max_iter=50, random_state=seed)
    return np.asarray(kmeans.fit_predict(X, sample_weight=weights), np.int64)


def contingency(
    clusters: Ints, labels: Ints, weights: Counts, *, n_labels: int
) -> NDArray[np.float64]:
    """Return how much weight lies in each cluster and label, under many sets of row weights.

    Args:
        clusters: [n] from 0.
        labels: [n] from 0.
        weights: [b, n] counts of a resample.
        n_labels: how many labels there are.

    Returns:
        [b, clusters, labels].
    """
    k = int(clusters.max(initial=-1)) + 1
    cells = np.zeros((len(clusters), k * n_labels), np.float32)
    cells[np.arange(len(clusters)), clusters * n_labels + labels] = 1
    tables = np.empty((len(weights), cells.shape[1]))
    for some in blocks(len(weights), _PLACES // max(1, len(clusters))):
        tables[some] = weights[some].astype(np.float32) @ cells
    return tables.reshape(len(weights), k, n_labels)


def permuted_contingency(clusters: Ints, labels: Ints, *, n_labels: int) -> NDArray[np.float64]:
    """Return the same tables for permutations of the labels, [b, clusters, labels].

    Args:
        clusters: [n] from 0.
        labels: [b, n] from 0, a permutation a row.
        n_labels: how many labels there are.
    """
    k = int(clusters.max(initial=-1)) + 1
    cells = k * n_labels
    tables = np.empty((len(labels), cells))
    for some in blocks(len(labels), _PLACES // max(1, len(clusters))):
        mine = labels[some]
        place = clusters * n_labels + mine + np.arange(len(mine))[:, None] * cells
        counts = np.bincount(place.ravel(), minlength=tables[some].size)
        tables[some] = counts.reshape(len(mine), cells)
    return tables.reshape(len(labels), k, n_labels)


def agreement(tables: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return how far clusters and labels agree, each of `SCORES` [b].

    Args:
        tables: [b, clusters, labels] from `contingency`.

    Returns:
        Adjusted Rand index (Hubert and Arabie 1985), mutual information normalised by the mean of
        the entropies, homogeneity, completeness and their harmonic mean (Rosenberg and Hirschberg
        2007). Homogeneity is 1 where labels don't vary, completeness where clusters don't.
    """
    n = tables.sum((1, 2))
    a, b = tables.sum(2), tables.sum(1)

    def pairs(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        apart = tuple(range(1, counts.ndim))
        found: NDArray[np.float64] = (counts * (counts - 1) / 2).sum(apart)
        return found

    def entropy(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            p = counts / n.reshape(-1, *[1] * (counts.ndim - 1))
            terms: NDArray[np.float64] = np.where(p > 0, -p * np.log(np.where(p > 0, p, 1)), 0.0)
        return np.asarray(terms.sum(tuple(range(1, counts.ndim))))

    together, in_a, in_b, total = pairs(tables), pairs(a), pairs(b), n * (n - 1) / 2
    h_clusters, h_labels, h_both = entropy(a), entropy(b), entropy(tables)
    shared = np.maximum(h_clusters + h_labels - h_both, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = in_a * in_b / total
        spread = (in_a + in_b) / 2 - chance
        # One cluster and one label, or all apart: the same partition.
        ari = np.where(np.abs(spread) > 1e-12, (together - chance) / spread, 1.0)
        nmi = np.where(h_clusters + h_labels > 0, 2 * shared / (h_clusters + h_labels), 1.0)
        homogeneity = np.where(h_labels > 0, shared / h_labels, 1.0)
        completeness = np.where(h_clusters > 0, shared / h_clusters, 1.0)
        both = homogeneity + completeness
        v = np.where(both > 0, 2 * homogeneity * completeness / both, 0.0)
    scores = dict(zip(SCORES, (ari, nmi, homogeneity, completeness, v), strict=True))
    return {name: np.where(n > 1, values, np.nan) for name, values in scores.items()}


# -- dimensionality -------------------------------------------------------------------------------


def participation_ratio(X: Floats, weights: Counts) -> NDArray[np.float64]:
    """Return how many dimensions the states' variance is spread over, [b], between 1 and d.

    The squared sum of the covariance's eigenvalues over the sum of their squares.

    Args:
        X: [n, d] states, centred.
        weights: [b, n] counts of a resample.
    """
    Z = np.asarray(X, np.float64)
    kernel = Z @ Z.T
    w = weights.astype(np.float64)
    n = w.sum(1)
    towards = w @ kernel / n[:, None]  # each state's product with the mean
    mean = np.einsum("bn,bn->b", towards, w) / n
    trace = w @ np.diag(kernel) / n - mean
    squares = np.einsum("bn,bn->b", w @ np.square(kernel), w) / n**2
    squares += mean**2 - 2 * np.einsum("bn,bn->b", w, np.square(towards)) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(squares > 0, trace**2 / squares, np.nan))


def leading_components(X: Floats, k: int) -> NDArray[np.float32]:
    """Return the states in their first k principal components, [n, k]; signs are arbitrary.

    Args:
        X: [n, d] states, centred.
        k: components; all where there are fewer.
    """
    gram = X.T @ X if X.shape[1] <= len(X) else X @ X.T
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    lead = vectors[:, ::-1][:, :k]
    if X.shape[1] > len(X):
        return np.asarray(lead * np.sqrt(np.maximum(values[::-1][:k], 0)), np.float32)
    return np.asarray(X @ lead.astype(X.dtype), np.float32)
