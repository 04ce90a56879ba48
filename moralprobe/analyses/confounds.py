"""What a number may show instead: text length, and the attention sink."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moralprobe.analyses.common import CHUNK, joined, too_few
from moralprobe.design import Design
from moralprobe.geometry.arrays import Floats, blocks, distinct
from moralprobe.geometry.confounds import (
    length_offset,
    length_share,
    permuted_length_share,
    sink_ratio,
)
from moralprobe.geometry.measure import MIN_PROTOTYPES, Measure, not_enough, summarise

_LENGTH_SHUFFLES = 200  # enough for a null that is narrow: texts are many


def length_explains(X: Floats, design: Design) -> Measure:
    """Measure which share of the states' variance 1 / length explains, `length_share`.

    Args:
        X: [n_rows, d] hidden states of the design's rows.
        design: from `make_design`.
    """
    first, _ = distinct(design.text)  # each text once
    inverse = 1.0 / design.length[first]
    if len(np.unique(design.length[first])) < 2:
        return not_enough(
            "length_share", "all", "share of variance", have=1, needed=2, of="lengths of text"
        )
    states, weights = X[first], design.weights(first)
    values = [length_share(states, inverse, weights[some]) for some in blocks(len(weights), CHUNK)]
    rng = np.random.default_rng(4)
    shuffles = min(len(design.resamples), _LENGTH_SHUFFLES)
    null = [
        permuted_length_share(
            states, rng.permuted(np.tile(inverse, (some.stop - some.start, 1)), axis=1)
        )
        for some in blocks(shuffles, CHUNK)
    ]
    draws = design.draws(joined(values), joined(null), first)
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
            found.append(too_few("length_offset", category.name, "1/token", have))
            continue
        values = length_offset(inverse, prototypes, weights)
        rng = np.random.default_rng(5)
        picked = [rng.choice(inverse, have, replace=False).mean() for _ in design.resamples]
        null = np.array(picked) - inverse.mean()
        draws = design.draws(values, null, category.rows[category.prototypes])
        # Rows are drawn, not text groups, which are fewer.
        found.append(summarise("length_offset", category.name, draws, "1/token", null="spreads"))
    return found


def of_texts(name: str, values: Floats, design: Design, unit: str) -> Measure:
    """Average something known of each text over a design's texts; it has no null.

    Args:
        name: of the measure.
        values: [n_texts], by a store's texts.
        design: from `make_design`.
        unit: of the values.
    """
    texts, first = np.unique(design.text, return_index=True)
    mine = np.asarray(values, np.float64)[texts]
    weights = design.weights(first)
    draws = design.draws((weights @ mine) / weights.sum(1), np.empty(0), first)
    return summarise(name, "all", draws, unit)


def sink(stats: Mapping[str, Floats], design: Design) -> list[Measure]:
    """Measure the attention sink: `sink_ratio`, and `left_out_share`.

    Args:
        stats: a layer's sink report, each [n_texts]: `token0_norm`, `other_norm`,
            `left_out_share`.
        design: from `make_design`.

    Returns:
        The mean over texts of token 0's norm over the mean norm of the others, and of the share of
        tokens that `mean_no_sink` leaves out.
    """
    ratio = sink_ratio(stats["token0_norm"], stats["other_norm"])
    return [
        of_texts("sink_ratio", ratio, design, "ratio of norms"),
        of_texts("left_out_share", stats["left_out_share"], design, "share"),
    ]
