"""The analyses of one layer: hidden states of a design's rows in, measures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from moralprobe.design import Category, Design, Opposition
from moralprobe.foundations import AXES
from moralprobe.geometry.arrays import Bools, Counts, Floats, Ints
from moralprobe.geometry.confounds import length_offset, length_share, permuted_length_share
from moralprobe.geometry.gradient import (
    pearson,
    permuted_rank_correlations,
    prototype_similarity,
    rank_correlations,
)
from moralprobe.geometry.held_out import measure, prepare
from moralprobe.geometry.measure import (
    MIN_GROUPS,
    MIN_PROTOTYPES,
    Draws,
    Measure,
    mean_draws,
    not_enough,
    summarise,
)
from moralprobe.geometry.separation import cosine_of_centres

_CHUNK = 128  # draws at a time where a block is [draws, all texts]
_LENGTH_SHUFFLES = 200  # enough for a null that is narrow: texts are many


# -- separation -----------------------------------------------------------------------------------


def separation(X: Floats, design: Design) -> list[Measure]:
    """Measure whether opposed categories are separated.

    Args:
        X: [n_rows, d] hidden states of the design's rows, centred on their mean.
        design: from `make_design`.

    Returns:
        `opposed_cosine` for each axis and their mean; in `li2026` mode the moments of the 45
        cosines between the ten centres; in `audited` mode held-out `auroc` and `crossnobis`.
    """
    found: list[Measure] = []
    enough: list[Draws] = []
    prototypes: list[Ints] = []
    for side in design.oppositions:
        tag = AXES[side.axis].tag
        have = _smaller(side.virtue[side.prototypes])
        if have < MIN_PROTOTYPES:
            found.append(_too_few("opposed_cosine", tag, "cosine", have))
            continue
        draws = _opposed_cosine(X, design, side)
        enough.append(draws)
        prototypes.append(side.rows[side.prototypes])
        found.append(summarise("opposed_cosine", tag, draws, "cosine"))
    if enough:
        draws = mean_draws(enough, design.groups_of(np.concatenate(prototypes)))
        found.append(summarise("opposed_cosine", "mean", draws, "cosine"))
    if design.mode == "li2026":
        return found + _centre_cosines(X, design)
    return found + _held_out(X, design)


def _opposed_cosine(X: Floats, design: Design, side: Opposition) -> Draws:
    rows, virtue = side.rows[side.prototypes], side.virtue[side.prototypes]
    weights = design.weights(rows)
    cosines = cosine_of_centres(X[rows], weights * virtue, weights * ~virtue)
    shuffled = virtue[side.prototype_shuffles]
    null = cosine_of_centres(X[rows], shuffled, ~shuffled)
    return Draws(float(cosines[0]), cosines[1:], null, design.groups_of(rows))


def _centre_cosines(X: Floats, design: Design) -> list[Measure]:
    """The paper's summary of all ten centres: moments of their 45 cosines."""
    names = [f"centre_cosine_{moment}" for moment in ("mean", "sd", "min", "max")]
    rows = np.concatenate([side.rows[side.prototypes] for side in design.oppositions])
    label = np.concatenate(
        [2 * s.axis + (~s.virtue[s.prototypes]).astype(int) for s in design.oppositions]
    )
    have = int(np.bincount(label, minlength=10).min()) if len(label) else 0
    if have < MIN_PROTOTYPES:
        return [_too_few(name, "all", "cosine", have) for name in names]
    weights = design.weights(rows)
    # The null keeps each axis' prototypes and shuffles their polarity, as for one axis.
    starts = np.cumsum([0, *(len(s.prototypes) for s in design.oppositions)])
    shuffled = np.concatenate(
        [
            label[start + s.prototype_shuffles]
            for start, s in zip(starts[:-1], design.oppositions, strict=True)
        ],
        axis=1,
    )
    observed = np.broadcast_to(label, weights.shape)
    moments = _moments(X[rows], observed, weights)
    null = _moments(X[rows], shuffled, np.ones_like(shuffled, dtype=np.float32))
    n = design.groups_of(rows)
    return [
        summarise(name, "all", Draws(float(moments[0, k]), moments[1:, k], null[:, k], n), "cosine")
        for k, name in enumerate(names)
    ]


def _moments(X: Floats, labels: Ints, weights: Counts) -> Floats:
    """Return mean, sd, min and max of the off-diagonal cosines of ten centres, [b, 4]."""
    centres = np.stack(
        [(weights * (labels == k)).astype(X.dtype) @ X for k in range(10)], axis=1
    )  # [b, 10, d]; the cosine doesn't ask for the mean
    norms = np.linalg.norm(centres, axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(norms > 0, centres / norms, np.nan)
    cosines = np.einsum("bid,bjd->bij", unit, unit)[:, *np.triu_indices(10, 1)]
    return np.stack([cosines.mean(1), cosines.std(1), cosines.min(1), cosines.max(1)], axis=1)


def _held_out(X: Floats, design: Design) -> list[Measure]:
    """Held-out AUROC and crossnobis distance of virtue against vice within each axis."""
    found: list[Measure] = []
    usable = []
    for side in design.oppositions:
        have = min(
            design.groups_of(side.rows[side.virtue]), design.groups_of(side.rows[~side.virtue])
        )
        if have < MIN_GROUPS:
            for name, unit in _UNITS.items():
                tag = AXES[side.axis].tag
                found.append(
                    not_enough(name, tag, unit, have=have, needed=MIN_GROUPS, of="texts of a pole")
                )
        else:
            usable.append(side)
    if not usable:
        return found
    rows = np.concatenate([side.rows for side in usable])
    virtue = np.concatenate([side.virtue for side in usable])
    pair = np.repeat(np.arange(len(usable)), [len(side.rows) for side in usable])
    weights = design.weights(rows)
    shuffled = np.concatenate([side.virtue[side.shuffles] for side in usable], axis=1)
    read_outs = prepare(X[rows], pair, design.folds[rows])
    observed = measure(read_outs, weights * virtue, weights * ~virtue, relabelled=False)
    null = measure(read_outs, shuffled, ~shuffled, relabelled=True)
    for name, values, nulls in zip(_UNITS, observed, null, strict=True):
        parts = [
            Draws(float(values[0, k]), values[1:, k], nulls[:, k], design.groups_of(side.rows))
            for k, side in enumerate(usable)
        ]
        found += [
            summarise(name, AXES[side.axis].tag, part, _UNITS[name])
            for side, part in zip(usable, parts, strict=True)
        ]
        mean = mean_draws(parts, design.groups_of(rows))
        found.append(summarise(name, "mean", mean, _UNITS[name]))
    return found


_UNITS = {"auroc": "AUROC", "crossnobis": "squared distance"}


# -- gradient -------------------------------------------------------------------------------------


def gradient(X: Floats, design: Design) -> list[Measure]:
    """Measure whether intensity is kept inside categories, and what text length has to do with it.

    Args:
        X: [n_rows, d] hidden states of the design's rows, centred on their mean.
        design: from `make_design`.

    Returns:
        `spearman`, `spearman_given_length` and `length_correlation` for each pole and their mean
        (of `length_correlation` the mean of absolute values); in `li2026` mode also `pearson`, and
        `spearman` over all poles pooled.
    """
    found: list[Measure] = []
    names = ["spearman", "spearman_given_length", "length_correlation"]
    parts: dict[str, list[Draws]] = {name: [] for name in names}
    pooled = []
    for category in design.categories:
        have = int(np.sum(category.prototypes))
        if have < MIN_PROTOTYPES:
            found += [_too_few(name, category.name, "rho", have) for name in names]
            continue
        pooled.append(_graded(X, design, category))
        for name, part in _category_draws(design, pooled[-1]).items():
            p = _p_of_no_correlation(part) if name == "length_correlation" else None
            found.append(
                summarise(name, category.name, part, "r" if name == "pearson" else "rho", p=p)
            )
            parts.setdefault(name, []).append(part)
    if not pooled:
        return found
    n = design.groups_of(np.concatenate([graded.category.rows for graded in pooled]))
    for name in names:
        absolute = name == "length_correlation"
        draws = mean_draws(parts[name], n, absolute=absolute)
        found.append(summarise(name, "mean_abs" if absolute else "mean", draws, "rho"))
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
    weights = design.weights(category.rows)
    # Resamples draw the prototypes anew, and shuffled scores make other rows prototypes: interval
    # and null run the whole pipeline. What circular prototypes gain by themselves shows in it.
    shuffles = category.shuffles
    return _Graded(
        category,
        weights,
        prototype_similarity(mine, weights * prototypes, groups),
        prototype_similarity(mine, prototypes[shuffles], groups),
        category.score[shuffles],
    )


def _category_draws(design: Design, graded: _Graded) -> dict[str, Draws]:
    category = graded.category
    length, n = design.length[category.rows], design.groups_of(category.rows)
    r = rank_correlations(graded.similarity, category.score, length, graded.weights)
    null = permuted_rank_correlations(graded.null_similarity, graded.null_score, length)
    # No permutation is needed where length is no label: independent ranks correlate about N(0, .).
    names = [other.name for other in design.categories]
    rng = np.random.default_rng(names.index(category.name))
    independent = rng.normal(0, 1 / np.sqrt(max(n - 1, 1)), len(graded.null_score))
    draws = {
        "spearman": Draws(float(r.score[0]), r.score[1:], null.score, n),
        "spearman_given_length": Draws(
            float(r.score_given_length[0]), r.score_given_length[1:], null.score_given_length, n
        ),
        "length_correlation": Draws(float(r.length[0]), r.length[1:], independent, n),
    }
    if design.mode == "li2026":
        linear = pearson(graded.similarity, category.score[None], graded.weights)
        shuffled = pearson(graded.null_similarity, graded.null_score, np.ones((1, 1)))
        draws["pearson"] = Draws(float(linear[0]), linear[1:], shuffled, n)
    return draws


def _p_of_no_correlation(draws: Draws) -> float:
    """Two-sided p of a rank correlation: under independence about N(0, 1 / (n - 1))."""
    return float(2 * stats.norm.sf(abs(draws.value) * np.sqrt(max(draws.n - 1, 1))))


def _overall(design: Design, pooled: list[_Graded]) -> Measure:
    """The paper's pooled correlation; a neutral row counts once under each pole of its axis."""
    rows = np.concatenate([graded.category.rows for graded in pooled])
    score = np.concatenate([graded.category.score for graded in pooled])
    weights, length = design.weights(rows), design.length[rows]
    boot, null = [], []
    for start in range(0, len(weights), _CHUNK):
        part = slice(start, start + _CHUNK)
        similarity = np.concatenate([graded.similarity[part] for graded in pooled], axis=1)
        boot.append(rank_correlations(similarity, score, length, weights[part]).score)
        similarity = np.concatenate([graded.null_similarity[part] for graded in pooled], axis=1)
        shuffled = np.concatenate([graded.null_score[part] for graded in pooled], axis=1)
        if len(shuffled):
            null.append(permuted_rank_correlations(similarity, shuffled, length).score)
    r = np.concatenate(boot)
    draws = Draws(float(r[0]), r[1:], _joined(null), design.groups_of(rows))
    return summarise("spearman", "overall", draws, "rho")


# -- confounds ------------------------------------------------------------------------------------


def length_explains(X: Floats, design: Design) -> Measure:
    """Measure which share of the states' variance 1 / length explains, `length_share`.

    Args:
        X: [n_rows, d] hidden states of the design's rows.
        design: from `make_design`.
    """
    _, first = np.unique(design.text, return_index=True)  # each text once
    inverse = 1.0 / design.length[first]
    n, groups = design.groups_of(first), design.group[first]
    if len(np.unique(design.length[first])) < 2:
        return not_enough(
            "length_share", "all", "share of variance", have=1, needed=2, of="lengths of text"
        )
    value = float(length_share(X[first], inverse, np.ones((1, len(first))))[0])
    boot = [
        length_share(X[first], inverse, design.resamples[start : start + _CHUNK, groups])
        for start in range(0, len(design.resamples), _CHUNK)
    ]
    shuffles = min(len(design.resamples), _LENGTH_SHUFFLES)
    shuffled = np.random.default_rng(4).permuted(np.tile(inverse, (shuffles, 1)), axis=1)
    null = permuted_length_share(X[first], shuffled)
    draws = Draws(value, _joined(boot), null, n)
    return summarise("length_share", "all", draws, "share of variance")


def length_offsets(design: Design) -> list[Measure]:
    """Measure how far each pole's prototypes lie from everybody in mean 1 / length."""
    rows = np.arange(len(design.text))
    inverse = 1.0 / design.length
    found = []
    weights = design.weights(rows)
    for category in design.categories:
        prototypes = np.zeros(len(rows))
        prototypes[category.rows[category.prototypes]] = 1
        have = int(prototypes.sum())
        if have < MIN_PROTOTYPES:
            found.append(_too_few("length_offset", category.name, "1/token", have))
            continue
        values = length_offset(inverse, prototypes, weights)
        rng = np.random.default_rng(5)
        picked = [rng.choice(inverse, have, replace=False).mean() for _ in design.resamples]
        draws = Draws(float(values[0]), values[1:], np.array(picked) - inverse.mean(), have)
        found.append(summarise("length_offset", category.name, draws, "1/token"))
    return found


def sink(ratio: Floats, design: Design) -> Measure:
    """Summarise the sink ratio over texts, `sink_ratio`; it has no null.

    Args:
        ratio: [n_texts] norm of token 0 over the mean norm of the others.
        design: from `make_design`.
    """
    texts, first = np.unique(design.text, return_index=True)
    values = ratio[texts]
    weights = design.resamples[:, design.group[first]]
    boot = (weights @ values) / weights.sum(1) if len(weights) else np.empty(0)
    draws = Draws(float(values.mean()), boot, np.empty(0), design.groups_of(first))
    return summarise("sink_ratio", "all", draws, "ratio of norms")


def _joined(blocks: Sequence[Floats]) -> Floats:
    return np.concatenate(blocks) if blocks else np.empty(0)


def _smaller(virtue: Bools) -> int:
    return int(min(virtue.sum(), (~virtue).sum()))


def _too_few(name: str, category: str, unit: str, have: int) -> Measure:
    return not_enough(name, category, unit, have=have, needed=MIN_PROTOTYPES, of="prototypes")
