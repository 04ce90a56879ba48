"""The analyses of one layer: hidden states of a design's rows in, measures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from moralprobe.design import Category, Design, Opposition
from moralprobe.foundations import AXES, POLES, PROTOTYPE_SCORE
from moralprobe.geometry.arrays import Bools, Floats, Ints
from moralprobe.geometry.confounds import length_offset, length_share, permuted_length_share
from moralprobe.geometry.gradient import (
    permuted_rank_correlations,
    prototype_similarity,
    rank_correlations,
)
from moralprobe.geometry.measure import (
    MIN_GROUPS,
    MIN_PROTOTYPES,
    Draws,
    Measure,
    mean_draws,
    not_enough,
    summarise,
)
from moralprobe.geometry.separation import (
    cosine_of_centres,
    crossnobis,
    held_out_scores,
    weighted_auroc,
)

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
    for side in design.oppositions:
        tag = AXES[side.axis].tag
        have = _smaller(side.virtue[side.prototypes])
        if have < MIN_PROTOTYPES:
            found.append(_too_few("opposed_cosine", tag, "cosine", have))
            continue
        draws = _opposed_cosine(X, design, side)
        enough.append(draws)
        found.append(summarise("opposed_cosine", tag, draws, "cosine"))
    if enough:
        found.append(summarise("opposed_cosine", "mean", mean_draws(enough), "cosine"))
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


def _moments(X: Floats, labels: Ints, weights: Floats) -> Floats:
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
            for name, unit in (("auroc", "AUROC"), ("crossnobis", "squared distance")):
                tag = AXES[side.axis].tag
                found.append(
                    not_enough(name, tag, unit, have=have, needed=MIN_GROUPS, of="texts of a pole")
                )
        else:
            usable.append(side)
    if not usable:
        return found
    rows = np.concatenate([side.rows for side in usable])
    axis = np.concatenate([np.full(len(side.rows), side.axis) for side in usable])
    vice = np.concatenate([~side.virtue for side in usable])
    folds = design.folds[rows]
    scores = held_out_scores(X[rows], 2 * axis + vice, folds, axis)
    parts: dict[str, list[Draws]] = {"auroc": [], "crossnobis": []}
    for side in usable:
        mine = axis == side.axis
        weights = design.weights(side.rows)
        shuffled = side.virtue[side.shuffles]
        n = design.groups_of(side.rows)
        for name, statistic in (("auroc", weighted_auroc), ("crossnobis", crossnobis)):
            values = statistic(
                scores[mine], weights * side.virtue, weights * ~side.virtue, folds[mine]
            )
            null = statistic(scores[mine], shuffled, ~shuffled, folds[mine])
            draws = Draws(float(values[0]), values[1:], null, n)
            parts[name].append(draws)
            found.append(summarise(name, AXES[side.axis].tag, draws, _UNITS[name]))
    found += [summarise(name, "mean", mean_draws(p), _UNITS[name]) for name, p in parts.items()]
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
    parts: dict[str, list[Draws]] = {
        name: [] for name in ("spearman", "spearman_given_length", "length_correlation")
    }
    pooled = []
    for category in design.categories:
        have = int(np.sum(category.score == PROTOTYPE_SCORE))
        if have < MIN_PROTOTYPES:
            found += [_too_few(name, category.name, "rho", have) for name in parts]
            continue
        draws, observed, null_pair = _category_gradient(X, design, category)
        pooled.append((category, observed, null_pair))
        for name, part in draws.items():
            parts[name].append(part)
            p = _p_of_no_correlation(part) if name == "length_correlation" else None
            found.append(summarise(name, category.name, part, "rho", p=p))
        if design.mode == "li2026":
            found.append(_pearson(category, observed, draws["spearman"].n))
    if not pooled:
        return found
    for name, some in parts.items():
        absolute = name == "length_correlation"
        draws_mean = mean_draws(some, absolute=absolute)
        found.append(summarise(name, "mean_abs" if absolute else "mean", draws_mean, "rho"))
    if design.mode == "li2026":
        found.append(_overall(design, pooled))
    return found


_Pair = tuple[Floats, Floats]


def _category_gradient(
    X: Floats, design: Design, category: Category
) -> tuple[dict[str, Draws], Floats, _Pair]:
    """Return a category's draws, its rows' similarities, and the null's similarities and scores."""
    rows, score = category.rows, category.score
    mine, lengths = X[rows], design.length[rows]
    groups = design.group[rows] if design.mode == "audited" else None
    prototypes = (score == PROTOTYPE_SCORE)[None, :]
    similarity = prototype_similarity(mine, prototypes, groups)[0]
    r = rank_correlations(similarity, score, lengths, design.weights(rows))
    # The null runs the whole pipeline on shuffled scores: prototypes, centre, similarity. What the
    # paper's circular prototypes gain by themselves shows in it.
    shuffled = score[category.shuffles]
    null_similarity = prototype_similarity(mine, shuffled == PROTOTYPE_SCORE, groups)
    null = permuted_rank_correlations(null_similarity, shuffled, lengths)
    n = design.groups_of(rows)
    # No permutation is needed where length is no label: independent ranks correlate about N(0, .).
    seed = POLES.index(category.name)
    independent = np.random.default_rng(seed).normal(0, 1 / np.sqrt(max(n - 1, 1)), len(shuffled))
    draws = {
        "spearman": Draws(float(r.score[0]), r.score[1:], null.score, n),
        "spearman_given_length": Draws(
            float(r.score_given_length[0]), r.score_given_length[1:], null.score_given_length, n
        ),
        "length_correlation": Draws(float(r.length[0]), r.length[1:], independent, n),
    }
    return draws, similarity, (null_similarity, shuffled)


def _p_of_no_correlation(draws: Draws) -> float:
    """Two-sided p of a rank correlation: under independence about N(0, 1 / (n - 1))."""
    return float(2 * stats.norm.sf(abs(draws.value) * np.sqrt(max(draws.n - 1, 1))))


def _pearson(category: Category, similarity: Floats, n: int) -> Measure:
    r = float(np.corrcoef(category.score, similarity)[0, 1])
    z, half = np.arctanh(r), stats.norm.ppf(0.975) / np.sqrt(max(n - 3, 1))
    return Measure(
        "pearson",
        category.name,
        r,
        float(np.tanh(z - half)),
        float(np.tanh(z + half)),
        float(-np.tanh(half)),
        float(np.tanh(half)),
        float(2 * stats.norm.sf(abs(z) * np.sqrt(max(n - 3, 1)))),
        n,
        "r",
    )


def _overall(design: Design, pooled: list[tuple[Category, Floats, _Pair]]) -> Measure:
    """The paper's pooled correlation; a neutral row counts once under each pole of its axis."""
    rows = np.concatenate([category.rows for category, _, _ in pooled])
    score = np.concatenate([category.score for category, _, _ in pooled])
    similarity = np.concatenate([s for _, s, _ in pooled])
    r = rank_correlations(similarity, score, design.length[rows], design.weights(rows)).score
    null = [
        permuted_rank_correlations(
            np.concatenate([pair[0][start : start + _CHUNK] for _, _, pair in pooled], axis=1),
            np.concatenate([pair[1][start : start + _CHUNK] for _, _, pair in pooled], axis=1),
            design.length[rows],
        ).score
        for start in range(0, len(pooled[0][2][0]), _CHUNK)
    ]
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
        prototypes[category.rows[category.score == PROTOTYPE_SCORE]] = 1
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
