"""Is intensity kept inside categories?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from moralprobe.analyses.common import CHUNK, joined, too_few
from moralprobe.design import Category, Design
from moralprobe.geometry.arrays import Floats, blocks
from moralprobe.geometry.draws import Draws, mean_draws
from moralprobe.geometry.gradient import (
    pearson,
    permuted_rank_correlations,
    prototype_similarity,
    rank_correlations,
)
from moralprobe.geometry.measure import (
    MIN_PROTOTYPES,
    Measure,
    NullSays,
    not_enough,
    summarise,
)


def gradient(X: Floats, design: Design) -> list[Measure]:
    """Measure whether intensity is kept inside categories, and what text length has to do with it.

    Args:
        X: [n_rows, d] hidden states of the design's rows, centred on their mean.
        design: from `make_design`.

    Returns:
        `spearman`, `spearman_given_length` and `length_correlation` for each pole and their mean
        (of `length_correlation` the mean of absolute values); `spearman_given_surface` where the
        design knows of the texts' surface; in `li2026` mode also `pearson`, and `spearman` over all
        poles pooled.
    """
    found: list[Measure] = []
    names = ["spearman", "spearman_given_length", "length_correlation"]
    if design.surface is not None:
        names.insert(2, "spearman_given_surface")
    parts: dict[str, list[Draws]] = {name: [] for name in names}
    rows, pooled = [], []
    # As published a text helps to make the centre that it is graded by, and on plants intervals are
    # too narrow already: such a null doesn't end them sooner.
    null: NullSays = "decides" if design.mode == "audited" else "spreads"
    for category in design.categories:
        have = int(np.sum(category.prototypes))
        if have < MIN_PROTOTYPES:
            found += [too_few(name, category.name, "rho", have) for name in names]
            continue
        if X.shape[1] < 2:  # every cosine is 1 or -1: ranks would be those of rounding
            found += [
                not_enough(name, category.name, "rho", have=1, needed=2, of="dimensions")
                for name in names
            ]
            continue
        graded = _graded(X, design, category)
        rows.append(category.rows)
        if design.mode == "li2026":
            pooled.append(graded)
        for name, part in _category_draws(design, graded).items():
            unit = "r" if name == "pearson" else "rho"
            if name == "length_correlation":
                p = _p_of_no_correlation(part)
                found.append(summarise(name, category.name, part, unit, p=p, null="apart"))
            else:
                found.append(summarise(name, category.name, part, unit, null=null))
            parts.setdefault(name, []).append(part)
    if not rows:
        return found
    n = design.groups_of(np.concatenate(rows))
    for name in names:
        absolute = name == "length_correlation"
        draws = mean_draws(parts[name], n, absolute=absolute)
        of = "mean_abs" if absolute else "mean"
        found.append(summarise(name, of, draws, "rho", null=null))
    if design.mode == "li2026":
        found.append(_overall(design, pooled))
    return found


@dataclass(frozen=True)
class _Graded:
    """A category's likeness to its prototypes: as it is and resampled [1 + b, n], and shuffled."""

    category: Category
    weights: NDArray[np.uint8]
    similarity: NDArray[np.float32]
    null_similarity: NDArray[np.float32]
    null_score: Floats


def _graded(X: Floats, design: Design, category: Category) -> _Graded:
    mine, prototypes = X[category.rows], category.prototypes
    groups = design.group[category.rows] if design.mode == "audited" else None
    trained, weights = design.both(category.rows)
    # Resamples draw the prototypes anew, and shuffled scores make other rows prototypes: interval
    # and null run the whole pipeline. What circular prototypes gain by themselves shows in it.
    shuffles = category.shuffles
    return _Graded(
        category,
        weights,
        prototype_similarity(mine, trained * prototypes, groups),
        prototype_similarity(mine, prototypes[shuffles], groups),
        category.score.astype(np.float32)[shuffles],
    )


def _category_draws(design: Design, graded: _Graded) -> dict[str, Draws]:
    category = graded.category
    rows = category.rows
    length, n = design.length[rows], design.groups_of(rows)
    surface = design.surface[rows] if design.surface is not None else None
    r = rank_correlations(graded.similarity, category.score, length, graded.weights, surface)
    null = permuted_rank_correlations(graded.null_similarity, graded.null_score, length, surface)
    # No permutation is needed where length is no label: independent ranks correlate about N(0, .).
    names = [other.name for other in design.categories]
    rng = np.random.default_rng(names.index(category.name))
    independent = rng.normal(0, 1 / np.sqrt(max(n - 1, 1)), len(graded.null_score))
    draws = {
        "spearman": design.draws_of_two(r.score, null.score, rows),
        "spearman_given_length": design.draws_of_two(
            r.score_given_length, null.score_given_length, rows
        ),
        "length_correlation": design.draws_of_two(r.length, independent, rows),
    }
    if surface is not None:
        draws["spearman_given_surface"] = design.draws_of_two(
            r.score_given_surface, null.score_given_surface, rows
        )
    if design.mode == "li2026":
        linear = pearson(graded.similarity, category.score[None], graded.weights)
        shuffled = pearson(graded.null_similarity, graded.null_score, np.ones((1, 1)))
        draws["pearson"] = design.draws_of_two(linear, shuffled, rows)
    return draws


def _p_of_no_correlation(draws: Draws) -> float:
    """Two-sided p of a rank correlation: under independence about N(0, 1 / (n - 1))."""
    return float(2 * stats.norm.sf(abs(draws.value) * np.sqrt(max(draws.n - 1, 1))))


def _overall(design: Design, pooled: list[_Graded]) -> Measure:
    """The paper's pooled correlation; a neutral row counts once under each pole of its axis."""
    rows = np.concatenate([graded.category.rows for graded in pooled])
    score = np.concatenate([graded.category.score for graded in pooled])
    weights, length = design.both(rows)[1], design.length[rows]
    boot, null = [], []
    for part in blocks(len(weights), CHUNK):
        similarity = np.concatenate([graded.similarity[part] for graded in pooled], axis=1)
        boot.append(rank_correlations(similarity, score, length, weights[part]).score)
        similarity = np.concatenate([graded.null_similarity[part] for graded in pooled], axis=1)
        shuffled = np.concatenate([graded.null_score[part] for graded in pooled], axis=1)
        if len(shuffled):
            null.append(permuted_rank_correlations(similarity, shuffled, length).score)
    draws = design.draws_of_two(joined(boot), joined(null), rows)
    return summarise("spearman", "overall", draws, "rho", null="spreads")
