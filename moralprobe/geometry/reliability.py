"""How far annotators agree, and the ceiling that this puts on any prediction of one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Agreement of annotators on one axis.

    `icc` is ICC(1,1) of the signed typicality, 0 where the axis isn't tagged, with a 95 % interval
    over items; `alpha` is Krippendorff's alpha of the tag (nan where it never or always stands).
    """

    icc: float
    icc_low: float
    icc_high: float
    alpha: float
    items: int
    annotations: int


def icc_oneway(values: Floats, items: NDArray[np.int64]) -> float:
    """Return ICC(1,1): the share of variance that lies between items.

    Args:
        values: [n] one annotation each.
        items: [n] index of the item annotated, 0..n_items-1; items may have unequal counts.

    Returns:
        At most 1; nan where nothing varies or no item is annotated twice.

    Source: Shrout and Fleiss (1979), case 1, with the mean group size of Searle for unequal counts.
    """
    counts = np.bincount(items).astype(np.float64)
    counts_present = counts[counts > 0]
    sums = np.bincount(items, values)
    squares = float(np.sum(values**2))
    return _icc_from_sums(
        len(values),
        float(values.sum()),
        squares,
        float(np.sum(sums[counts > 0] ** 2 / counts_present)),
        len(counts_present),
        float(np.sum(counts_present**2)),
    )


def _icc_from_sums(
    n: float, total: float, squares: float, between: float, n_items: float, counts_sq: float
) -> float:
    if n_items < 2 or n <= n_items:
        return float("nan")
    ms_between = (between - total**2 / n) / (n_items - 1)
    ms_within = (squares - between) / (n - n_items)
    size = (n - counts_sq / n) / (n_items - 1)
    denominator = ms_between + (size - 1) * ms_within
    # Rounding leaves a trace where nothing varies at all.
    if denominator <= 1e-12 * max(1.0, squares / n):
        return float("nan")
    return float((ms_between - ms_within) / denominator)


def krippendorff_alpha(tags: NDArray[np.bool_], items: NDArray[np.int64]) -> float:
    """Return Krippendorff's alpha for a binary nominal label.

    Args:
        tags: [n] one annotation each.
        items: [n] index of the item annotated; items with one annotation don't count.

    Returns:
        1 for full agreement, 0 for chance; nan where the label doesn't vary.

    Source: Krippendorff (2011), alpha = 1 - D_observed / D_expected from the coincidence matrix.
    """
    counts = np.bincount(items)
    ones = np.bincount(items, tags)
    usable = counts >= 2
    counts, ones = counts[usable].astype(np.float64), ones[usable]
    zeros = counts - ones
    n, n_ones, n_zeros = counts.sum(), ones.sum(), zeros.sum()
    if n_ones == 0 or n_zeros == 0:
        return float("nan")
    observed = float(np.sum(2 * ones * zeros / (counts - 1))) / n
    expected = 2 * n_ones * n_zeros / (n * (n - 1))
    return float(1 - observed / expected)


def reliability_of_annotation(
    m: Floats,
    tags: NDArray[np.bool_],
    items: NDArray[np.int64],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Reliability:
    """Return how far annotators agree on one axis.

    Args:
        m: [n] signed typicality of each annotation, in [-1, 1].
        tags: [n] whether the annotation tags the axis; where it doesn't, its value is 0.
        items: [n] index of the item annotated.
        draws: bootstrap draws over items for the interval.
        seed: of the draws.
    """
    values = np.where(tags, m, 0.0)
    counts = np.bincount(items).astype(np.float64)
    sums = np.bincount(items, values)
    squares = np.bincount(items, values**2)
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(draws):
        pick = rng.integers(0, len(counts), len(counts))
        c, s = counts[pick], sums[pick]
        resampled.append(
            _icc_from_sums(
                c.sum(), s.sum(), squares[pick].sum(), np.sum(s**2 / c), len(c), np.sum(c**2)
            )
        )
    finite = np.array([value for value in resampled if np.isfinite(value)])
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return Reliability(
        icc=icc_oneway(values, items),
        icc_low=float(low),
        icc_high=float(high),
        alpha=krippendorff_alpha(tags, items),
        items=len(counts),
        annotations=len(values),
    )


def auroc_ceiling(icc: float, *, samples: int = 200_000, seed: int = 0) -> float:
    """Return the AUROC that a perfect reading of the item reaches against one noisy annotator.

    Simulates the noise model behind ICC(1,1): an item's truth is normal with variance `icc`, an
    annotator adds normal noise with variance 1 - `icc`, and the label is the sum's sign.
    """
    from scipy.stats import rankdata

    if not 0 < icc < 1:
        return 1.0 if icc >= 1 else 0.5
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, np.sqrt(icc), samples)
    positive = truth + rng.normal(0, np.sqrt(1 - icc), samples) > 0
    n = int(positive.sum())
    ranks = float(rankdata(truth)[positive].sum())
    return float((ranks - n * (n + 1) / 2) / (n * (samples - n)))
