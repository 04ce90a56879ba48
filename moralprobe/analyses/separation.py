"""Are opposed categories separated?"""

from __future__ import annotations

import numpy as np

from moralprobe.analyses.common import CHUNK, smaller, too_few
from moralprobe.design import Design, Opposition
from moralprobe.foundations import AXES
from moralprobe.geometry.arrays import Counts, Floats, Ints, blocks
from moralprobe.geometry.draws import Draws, mean_draws
from moralprobe.geometry.held_out import measure, prepare
from moralprobe.geometry.measure import MIN_GROUPS, MIN_PROTOTYPES, Measure, not_enough, summarise
from moralprobe.geometry.separation import cosine_of_centres, resampled_cosines


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
        have = smaller(side.virtue[side.prototypes])
        if have < MIN_PROTOTYPES:
            found.append(too_few("opposed_cosine", tag, "cosine", have))
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
    counts = design.counts(rows)
    cosines = resampled_cosines(X[rows], counts * virtue, counts * ~virtue)
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
        return [too_few(name, "all", "cosine", have) for name in names]
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
    return [
        summarise(name, "all", design.draws(moments[:, k], null[:, k], rows), "cosine")
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
    read_outs = prepare(X[rows], pair, design.folds[rows])
    observed = measure(read_outs, virtue[None], design.both(rows))
    null = [np.empty((0, len(usable)))] * 2
    for some in blocks(len(usable[0].shuffles), CHUNK):
        shuffled = np.concatenate([side.virtue[side.shuffles[some]] for side in usable], axis=1)
        null = [
            np.concatenate(part) for part in zip(null, measure(read_outs, shuffled), strict=True)
        ]
    for name, values, nulls in zip(_UNITS, observed, null, strict=True):
        parts = [
            design.draws_of_two(values[:, k], nulls[:, k], side.rows)
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
