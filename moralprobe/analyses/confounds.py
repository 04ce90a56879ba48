"""What a number may show instead: text length, and the attention sink."""

from __future__ import annotations

import numpy as np

from moralprobe.analyses.common import CHUNK, joined, too_few
from moralprobe.design import Design
from moralprobe.geometry.arrays import Floats
from moralprobe.geometry.confounds import length_offset, length_share, permuted_length_share
from moralprobe.geometry.measure import MIN_PROTOTYPES, Draws, Measure, not_enough, summarise

_LENGTH_SHUFFLES = 200  # enough for a null that is narrow: texts are many


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
        length_share(X[first], inverse, design.resamples[start : start + CHUNK, groups])
        for start in range(0, len(design.resamples), CHUNK)
    ]
    shuffles = min(len(design.resamples), _LENGTH_SHUFFLES)
    shuffled = np.random.default_rng(4).permuted(np.tile(inverse, (shuffles, 1)), axis=1)
    null = permuted_length_share(X[first], shuffled)
    draws = Draws(value, joined(boot), null, n)
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
