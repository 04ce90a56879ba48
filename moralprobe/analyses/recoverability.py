"""Which human dimensions does a linear read-out recover?"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from moralprobe.design import Design, Targets
from moralprobe.foundations import AXES, POLES
from moralprobe.geometry.arrays import Floats, Ints, blocks
from moralprobe.geometry.auroc import permuted_auroc, weighted_auroc
from moralprobe.geometry.draws import Draws, combined, mean_draws, resampled, spread_of_choice
from moralprobe.geometry.explained import adjusted_r2, r2, r2_growth, weighted_r2
from moralprobe.geometry.measure import (
    MIN_GROUPS,
    Measure,
    not_enough,
    null_value_of,
    summarise,
)
from moralprobe.geometry.recoverability import (
    Folds,
    choose_again,
    choose_penalties,
    gather,
    out_of_fold,
    permuted,
    permuted_r2,
    read_again,
    reduced_rank,
    reweighted,
)
from moralprobe.geometry.trained_probe import trained_predictions

RANKS = (1, 3)
_LOW_RANK_SHUFFLES = 100
_TRAINED_AGAIN = 200  # resamples at half strength
_WHOLE = 100  # whole resamples
_CHOSEN_AGAIN = 40  # resamples at half strength in which penalties are chosen again
_CHUNK = 32  # draws at a time
_MOVED = 1 << 21  # of a [rows, draws, targets] block


def recoverability(X: Floats, design: Design, *, seed: int = 42) -> list[Measure]:
    """Measure how much of the human judgements a linear read-out recovers from held-out texts.

    Args:
        X: [n_rows, d] hidden states of the design's rows: as they are in `li2026` mode, centred on
            their mean in `audited` mode.
        design: from `make_design` with `recoverability`.
        seed: of the paper's probe.

    Returns:
        `r2` of each pole and their mean. In `li2026` mode, from the paper's trained probe on its
        random split, also `r2_adjusted`. In `audited` mode, from ridge regression cross-validated
        over text groups, also `r2` of judgment and of agreement, `tag_auroc` of each axis' tag,
        `r2_low_rank`, and `selectivity`: the mean R2 less that of labels drawn at random for the
        texts' first words.
    """
    targets = design.targets
    if targets is None:
        raise ValueError("the design was made without recoverability")
    if design.mode == "li2026":
        return _trained(X, design, targets, seed)
    return _ridge(X[targets.rows], design, targets)


# -- audited --------------------------------------------------------------------------------------


def _ridge(X: Floats, design: Design, targets: Targets) -> list[Measure]:
    group = design.group[targets.rows]
    shares = _shares(design, targets.rows)
    n = len(np.unique(group))
    enough = [
        len(np.unique(group[values != 0])) >= MIN_GROUPS and np.ptp(values) > 0
        for values in targets.values.T
    ]
    found = [
        not_enough(
            "r2",
            name,
            "R2",
            have=len(np.unique(group[values != 0])),
            needed=MIN_GROUPS,
            of="texts",
        )
        for name, values, ok in zip(targets.names, targets.values.T, enough, strict=True)
        if not ok
    ]
    folds_of = design.folds[targets.rows]
    poles = [j for j, name in enumerate(targets.names) if name in POLES and enough[j]]
    if n < MIN_GROUPS or not poles or len(np.unique(folds_of)) < 3:
        return [
            not_enough("r2", name, "R2", have=n, needed=MIN_GROUPS, of="texts")
            for name in (*targets.names, "mean")
        ]
    folds = gather(X, folds_of)
    del X  # at 4,096 dimensions a copy is a quarter of a gigabyte
    shuffles = folds.ordered(targets.shuffles)
    m = targets.values.shape[1]
    Y = np.concatenate([targets.values, targets.tags, targets.control[:, poles]], axis=1)
    penalties = choose_penalties(folds, Y)
    predicted = out_of_fold(folds, Y, penalties)
    scores, areas = _again(folds, Y, predicted, penalties, shares, slice(m, m + len(AXES)))
    half = len(shares) - 1 - min(_WHOLE, len(design.resamples))
    parts = {
        j: resampled(scores[:, j], half, permuted_r2(folds, Y[:, j], penalties[:, j], shuffles), n)
        for j in range(m)
        if enough[j]
    }
    # Which of the resamples choose their penalties again; one alone would say nothing of a spread.
    some = slice(1, 1 + (min(_CHOSEN_AGAIN, half) if half > 1 else 0))
    again = choose_again(folds, Y[:, :m], predicted[:, :m], shares[some])
    chosen, kept = _scored(folds, Y[:, :m], predicted[:, :m], again, shares[some]), scores[some]
    found += [
        summarise(
            "r2",
            targets.names[j],
            part,
            "R2",
            wider=spread_of_choice(chosen[:, j], kept[:, j]),
            growth=r2_growth(Y[:, j : j + 1], n, part.value),
        )
        for j, part in parts.items()
    ]
    mean = mean_draws([parts[j] for j in poles], n)
    growth = r2_growth(Y[:, poles], n, mean.value)
    chosen_mean, kept_mean = chosen[:, poles].mean(1), kept[:, poles].mean(1)
    wider = spread_of_choice(chosen_mean, kept_mean)
    found.append(summarise("r2", "mean", mean, "R2", wider=wider, growth=growth))
    # A control label that no first word drew doesn't vary, and has no R2.
    by_label = scores[:, m + len(AXES) :]
    varies = np.isfinite(by_label[0])
    if varies.any():
        control = by_label[:, varies].mean(1)
        drawn = resampled(control, half, np.empty(0), n)
        selective = replace(combined([mean, drawn], [1.0, -1.0]), null=mean.null - control[0])
        null_value = null_value_of("R2", mean.null)
        found.append(
            summarise(
                "selectivity",
                "mean",
                selective,
                "R2",
                null_value=None if null_value is None else null_value - control[0],
                wider=spread_of_choice(chosen_mean - control[some], kept_mean - control[some]),
                growth=growth,
            )
        )
    else:
        found.append(not_enough("selectivity", "mean", "R2", have=1, needed=2, of="first words"))
    few = np.concatenate([shares[: 1 + half // 2], shares[1 + half :][: half // 4]])
    found += _low_rank(
        folds, Y[:, poles], penalties[:, poles], again[:, :, poles], few, half // 2, targets, n
    )
    tags = slice(m, m + len(AXES))
    return found + _tags(folds, Y[:, tags], penalties[:, tags], areas, half, group, shuffles)


def _shares(design: Design, rows: Ints) -> NDArray[np.float32]:
    """Return the weights of `Design.weights` of mean 1, as few as read-outs are trained again."""
    drawn = design.resamples[:_TRAINED_AGAIN, design.group[rows]].astype(np.float32)
    once = np.ones((1, len(rows)), np.float32)
    return np.concatenate([once, (1 + drawn) / 2, drawn[:_WHOLE]])


def _again(
    folds: Folds, Y: Floats, predicted: Floats, penalties: Ints, shares: Floats, tags: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return R2 of every target [b, m], and AUROC of the tags [b, 5], under each set of weights."""
    scores = np.empty((len(shares), Y.shape[1]))
    areas = np.empty((len(shares), tags.stop - tags.start))
    for j, some in product(range(Y.shape[1]), blocks(len(shares), _MOVED // len(Y))):
        mine, weights = slice(j, j + 1), shares[some]
        again = read_again(folds, Y[:, mine], predicted[:, mine], penalties[:, mine], weights)
        scores[some, mine] = weighted_r2(Y[:, mine], again, weights)
        if tags.start <= j < tags.stop:
            labels = Y[:, j] > 0
            areas[some, j - tags.start] = [
                weighted_auroc(folds, read, labels, w[None])[0]
                for read, w in zip(again[:, :, 0].T, weights, strict=True)
            ]
    return scores, areas


def _scored(
    folds: Folds, Y: Floats, predicted: Floats, penalties: Ints, shares: Floats
) -> NDArray[np.float64]:
    """Return R2 of targets [b, m] under sets of weights with penalties of their own."""
    scores = np.empty((len(shares), Y.shape[1]))
    for some in blocks(len(shares), _MOVED // Y.size):
        again = read_again(folds, Y, predicted, penalties[:, some], shares[some])
        scores[some] = weighted_r2(Y, again, shares[some])
    return scores


def _low_rank(
    folds: Folds,
    Y: Floats,
    penalties: NDArray[np.int64],
    again: NDArray[np.int64],
    shares: Floats,
    half: int,
    targets: Targets,
    n: int,
) -> list[Measure]:
    penalty = _one_for_all(penalties)
    few = targets.shuffles[:_LOW_RANK_SHUFFLES]
    error = np.empty((len(RANKS), len(few), Y.shape[1]))
    step = _MOVED // Y.size
    for chunk in blocks(len(few), step):
        shuffled = Y.astype(np.float32)[few[chunk].T]  # [n, c, m]
        error[:, chunk] = np.square(shuffled - reduced_rank(folds, shuffled, penalty, RANKS)).sum(1)
    null = (1 - error / np.square(Y - Y.mean(0)).sum(0)).mean(2)  # [ranks, c]
    # The directions turn with a resample: they are found again in each.
    same = np.repeat(penalty[:, None], Y.shape[1], axis=1)
    read = out_of_fold(folds, Y, same)

    def scores(weights: Floats, of_set: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean R2 under each set of weights, by rank; `of_set` [folds, b] penalties."""
        found = np.empty((len(RANKS), len(weights)))
        for chunk in blocks(len(weights), step):
            moved = reweighted(Y, read, weights[chunk])
            for k, low in enumerate(reduced_rank(folds, moved, of_set[:, chunk], RANKS)):
                found[k, chunk] = weighted_r2(Y, low, weights[chunk]).mean(1)
        return found

    kept = scores(shares, np.repeat(penalty[:, None], len(shares), axis=1))
    some = slice(1, 1 + min(again.shape[1], half))
    chosen = scores(shares[some], _one_for_all(again)[:, : some.stop - 1])
    found = []
    for k, rank in enumerate(RANKS):
        draws = resampled(kept[k], half, null[k], n)
        wider = spread_of_choice(chosen[k], kept[k, some])
        growth = r2_growth(Y, n, draws.value)
        found.append(
            summarise("r2_low_rank", f"rank_{rank}", draws, "R2", wider=wider, growth=growth)
        )
    return found


def _one_for_all(penalties: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the middle one of the targets' penalties, which stand along the last axis."""
    return np.asarray(np.median(penalties, axis=-1), np.int64)


def _tags(
    folds: Folds,
    tags: Floats,
    penalties: NDArray[np.int64],
    areas: NDArray[np.float64],
    half: int,
    group: Ints,
    shuffles: Ints,
) -> list[Measure]:
    found: list[Measure] = []
    parts: list[Draws] = []
    n = len(np.unique(group))
    for k, axis in enumerate(AXES):
        labels = tags[:, k] > 0
        have = min(len(np.unique(group[labels])), len(np.unique(group[~labels])))
        if have < MIN_GROUPS:
            found.append(
                not_enough(
                    "tag_auroc",
                    axis.tag,
                    "AUROC",
                    have=have,
                    needed=MIN_GROUPS,
                    of="texts of a tag",
                )
            )
            continue
        null = [
            permuted_auroc(folds, read, shuffled > 0.5)
            for shuffled, read in permuted(folds, tags[:, k], penalties[:, k], shuffles)
        ]
        shuffled = np.concatenate(null) if null else np.empty(0)
        parts.append(resampled(areas[:, k], half, shuffled, n))
        found.append(summarise("tag_auroc", axis.tag, parts[-1], "AUROC"))
    if parts:
        found.append(summarise("tag_auroc", "mean", mean_draws(parts, n), "AUROC"))
    return found


# -- li2026 ---------------------------------------------------------------------------------------


def _trained(X: Floats, design: Design, targets: Targets, seed: int) -> list[Measure]:
    test = targets.rows[targets.part == 2]
    n = design.groups_of(test)
    names = (*targets.names, "mean")
    if n < MIN_GROUPS:
        return [
            not_enough(measure, name, "R2", have=n, needed=MIN_GROUPS, of="test texts")
            for measure in ("r2", "r2_adjusted")
            for name in names
        ]
    predicted = trained_predictions(X[targets.rows], targets.values, targets.part, seed=seed)
    Y = targets.values[targets.part == 2]
    scores = r2(Y, predicted, design.weights(test))
    null = _shuffled_r2(Y, predicted, targets)
    rows, width = len(targets.rows), X.shape[1]
    found: list[Measure] = []
    plain: list[Draws] = []
    adjusted: list[Draws] = []
    for j, name in enumerate(targets.names):
        if not np.isfinite(scores[0, j]):
            found += [
                not_enough(measure, name, "R2", have=1, needed=2, of="different values")
                for measure in ("r2", "r2_adjusted")
            ]
            continue
        plain.append(design.draws(scores[:, j], null[:, j], test))
        found.append(summarise("r2", name, plain[-1], "R2", null="spreads"))
        if rows > width + 1:
            shuffled = adjusted_r2(null[:, j], rows, width)
            adjusted.append(design.draws(adjusted_r2(scores[:, j], rows, width), shuffled, test))
            found.append(summarise("r2_adjusted", name, adjusted[-1], "R2", null="spreads"))
    if plain:
        found.append(summarise("r2", "mean", mean_draws(plain, n), "R2", null="spreads"))
    if adjusted:
        found.append(
            summarise("r2_adjusted", "mean", mean_draws(adjusted, n), "R2", null="spreads")
        )
    if rows <= width + 1:
        found.append(
            not_enough("r2_adjusted", "mean", "R2", have=rows, needed=width + 2, of="rows")
        )
    return found


def _shuffled_r2(Y: Floats, predicted: Floats, targets: Targets) -> NDArray[np.float64]:
    """Return R2 of predictions that stand beside other test rows' labels, [b, m].

    The probe isn't trained again: its random split tests texts that it was trained on, which is
    what this null can't show and the audited mode avoids. So it decides no interval.
    """
    spread = np.square(Y - Y.mean(0)).sum(0)
    squares = np.square(Y).sum(0) + np.square(predicted, dtype=np.float64).sum(0)
    null = np.empty((len(targets.shuffles), Y.shape[1]))
    for some in blocks(len(null), _CHUNK):
        shuffled = Y[targets.shuffles[some]]
        products = np.einsum("bnm,nm->bm", shuffled, predicted)
        with np.errstate(invalid="ignore", divide="ignore"):
            null[some] = 1 - (squares - 2 * products) / spread
    return null
