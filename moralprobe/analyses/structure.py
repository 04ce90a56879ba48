"""Do the states group themselves, and lie to each other, as moral categories would have it?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moralprobe.design import Design, Labelled
from moralprobe.geometry.arrays import Floats, Ints, distinct
from moralprobe.geometry.draws import Draws, as_spread, narrowed
from moralprobe.geometry.measure import MIN_GROUPS, Measure, not_enough, summarise
from moralprobe.geometry.similarity import similarity
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

LABELINGS = {"MFT5": 5, "Polarity3": 3, "MFT15": 15}
"""The paper's labels: axis; virtue, vice or neutral; both."""
MIN_CLUSTERED = 10
"""Fewer rows outside the noise, and the paper's scores are undefined."""
_COMPONENTS = 64  # that k-means sees
_CLUSTERED_AGAIN = 30  # resamples on which k-means is run anew
_UNITS = {name: "ARI" if name == "ari" else "share" for name in SCORES}


def structure(X: Floats, design: Design, *, density: bool) -> list[Measure]:
    """Measure whether the states' own structure is a moral one.

    Args:
        X: [n_rows, d] hidden states of the design's rows, centred on their mean.
        design: from `make_design` with `structure`.
        density: whether to find the paper's density clusters, which takes long.

    Returns:
        With `density`, the paper's five scores of HDBSCAN clusters on rows outside the noise, their
        `coverage`, and `ari_with_noise`, which counts noise as a cluster. In `audited` mode also
        `kmeans_ari` and `kmeans_nmi` at the known number of clusters, `rsa` and `rsa_unique` of
        each model geometry, and `participation_ratio`.
    """
    labelled = design.labelled
    if labelled is None:
        raise ValueError("the design was made without structure")
    # Clusters are found on distinct texts and scored on all rows; those of density are never found
    # again for an interval, which resamples the rows' groups.
    first, text = distinct(design.text)
    found: list[Measure] = []
    if density:
        found += _density(density_clusters(X[first])[text], design, labelled)
    if design.mode == "audited":
        lead = leading_components(X[first], _COMPONENTS)
        for labeling, k in LABELINGS.items():
            if len(first) < max(k, MIN_GROUPS):
                found += [
                    not_enough(name, labeling, unit, have=len(first), needed=max(k, 10), of="texts")
                    for name, unit in (("kmeans_ari", "ARI"), ("kmeans_nmi", "share"))
                ]
                continue
            clusters = centroid_clusters(lead, k, seed=0)[text]
            scores = _scores(clusters, np.arange(len(clusters)), design, labelled)
            again = _found_again(lead, text, k, design, labelled, labeling)
            for name in ("ari", "nmi"):
                draws = as_spread(scores[name, labeling], again[name])
                found.append(summarise(f"kmeans_{name}", labeling, draws, _UNITS[name]))
        found += _likeness(X, design)
    return found


def _density(clusters: Ints, design: Design, labelled: Labelled) -> list[Measure]:
    inside = np.flatnonzero(clusters != NOISE)
    everything = np.arange(len(clusters))
    covered = (clusters != NOISE).astype(np.float64)
    weights = design.weights(everything)
    share = weights @ covered / weights.sum(1, dtype=np.float64)
    none = np.empty(0)
    count = Draws(float(clusters.max(initial=-1) + 1), none, none, design.groups_of(everything))
    found = [
        summarise("coverage", "all", design.draws(share, none, everything), "share"),
        summarise("clusters", "all", count, "clusters"),
    ]
    for labeling in LABELINGS:
        if len(inside) < MIN_CLUSTERED:
            found += [
                not_enough(
                    name,
                    labeling,
                    unit,
                    have=len(inside),
                    needed=MIN_CLUSTERED,
                    of="rows outside the noise",
                )
                for name, unit in (*_UNITS.items(), ("ari_with_noise", "ARI"))
            ]
            continue
        scores = _scores(clusters[inside], inside, design, labelled)
        found += [
            summarise(name, labeling, scores[name, labeling], unit) for name, unit in _UNITS.items()
        ]
        with_noise = _scores(clusters + 1, everything, design, labelled)["ari", labeling]
        found.append(summarise("ari_with_noise", labeling, with_noise, "ARI"))
    return found


def _scores(
    clusters: Ints, rows: Ints, design: Design, labelled: Labelled
) -> dict[tuple[str, str], Draws]:
    """Compare clusters of some rows with the three labelings, by score and labeling."""
    _, clusters = np.unique(clusters, return_inverse=True)
    tables = contingency(clusters, labelled.labels[rows], design.weights(rows), n_labels=15)
    # Shuffled among all rows, so that a row in a cluster may get the label of one in the noise.
    null = permuted_contingency(clusters, labelled.shuffled[:, rows], n_labels=15)
    found = {}
    for labeling in LABELINGS:
        mine, shuffled = agreement(_merge(tables, labeling)), agreement(_merge(null, labeling))
        for name in SCORES:
            found[name, labeling] = design.draws(mine[name], shuffled[name], rows)
    return found


def _found_again(
    lead: Floats, text: Ints, k: int, design: Design, labelled: Labelled, labeling: str
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of clusters that are found anew on whole resamples."""
    rows = np.arange(len(text))
    _, first = np.unique(text, return_index=True)
    weights = design.counts(rows)[1 : 1 + _CLUSTERED_AGAIN]
    tables = [
        contingency(
            centroid_clusters(lead, k, seed=1 + b, weights=mine[first])[text],
            labelled.labels,
            mine[None],
            n_labels=15,
        )
        for b, mine in enumerate(weights)
    ]
    parts = [agreement(_merge(table, labeling)) for table in tables]
    return {name: np.array([part[name][0] for part in parts]) for name in SCORES}


def _merge(tables: NDArray[np.float64], labeling: str) -> NDArray[np.float64]:
    """Merge the 15 labels (axis x polarity) into those of a labeling."""
    if labeling == "MFT15":
        return tables
    by_axis = tables.reshape(*tables.shape[:2], 5, 3)
    merged: NDArray[np.float64] = by_axis.sum(3 if labeling == "MFT5" else 2)
    return merged


def _likeness(X: Floats, design: Design) -> list[Measure]:
    likenesses = design.likenesses
    if likenesses is None:
        raise ValueError("the design was made without model geometries")
    models, rows = likenesses.models, likenesses.rows
    n = design.groups_of(rows)
    if n < MIN_GROUPS:
        return [
            not_enough("rsa", name, "r", have=n, needed=MIN_GROUPS, of="texts")
            for name in models.names
        ]
    states = X[rows]
    found = similarity(states, models)
    # What is unique isn't smooth where it ends, at zero: it is taken of correlations that spread as
    # samples do, of which a half may be in excess at most.
    near = found.correlation[:1].repeat(1 + len(design.resamples), 0)
    for j in range(len(models.names)):
        draws = design.draws(found.correlation[:, j], found.null_correlation[:, j], rows)
        near[1:, j] += narrowed(draws, least=0.5)
    unique = found.unique(near)
    measures = []
    for j, name in enumerate(models.names):
        r = found.correlation[:, j]
        if not np.isfinite(r[0]):
            measures.append(not_enough("rsa", name, "r", have=1, needed=2, of="different values"))
            continue
        draws = design.draws(r, found.null_correlation[:, j], rows)
        measures.append(summarise("rsa", name, draws, "r", null_value=0.0))
        boot = unique[1 : 1 + len(design.resamples), j]
        draws = Draws(float(unique[0, j]), boot, found.null_unique[:, j], n)
        # Never below zero, so that only what is large against the null says anything.
        measures.append(summarise("rsa_unique", name, draws, "share of variance", one_sided=True))
    spread = participation_ratio(states, models.weights)
    draws = design.draws(spread, np.empty(0), rows)
    measures.append(summarise("participation_ratio", "all", draws, "dimensions"))
    return measures
