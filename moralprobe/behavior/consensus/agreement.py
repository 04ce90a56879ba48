"""How far a model's scores are from a consensus, and how well it tells the two classes apart.

Scores and consensus are probabilities, [n], and none of them NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from scipy.stats import rankdata

Floats = NDArray[np.float64]
_CUT: Final = 0.5


def divergence(p: Floats, q: Floats) -> float:
    """Return the Jensen-Shannon divergence of Bernoulli variables, in nats, 0 to ln 2; the mean."""
    middle = (p + q) / 2
    return float(np.mean(_entropy(middle) - (_entropy(p) + _entropy(q)) / 2))


def brier(p: Floats, q: Floats) -> float:
    """Return the mean squared distance, 0 to 1."""
    return float(np.mean((p - q) ** 2))


def auroc(p: Floats, q: Floats) -> float:
    """Return how often an item of the consensus scores above one that isn't; ties count half.

    NaN where the consensus, cut at one half, holds one class alone.
    """
    yes = q >= _CUT
    n, m = int(yes.sum()), int((~yes).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(p)[yes].sum() - n * (n + 1) / 2) / (n * m))


def f1(p: Floats, q: Floats) -> float:
    """Return F1 of the scores for the consensus, both cut at one half.

    NaN where the consensus holds one class alone.
    """
    called, yes = p >= _CUT, q >= _CUT
    if yes.all() or not yes.any():
        return float("nan")
    return float(2 * (called & yes).sum() / (called.sum() + yes.sum()))


def f1_matched(p: Floats, q: Floats) -> float:
    """Return F1 where as many items as in the consensus are called acceptable: the highest scores.

    What it has above `f1` is an offset of the scores, not what the model can't tell apart.
    """
    yes = q >= _CUT
    n = int(yes.sum())
    if not 0 < n < len(yes):
        return float("nan")
    cut = np.partition(p, len(p) - n)[len(p) - n]  # the n-th largest
    above, tied = p > cut, p == cut
    # Of those that are tied at the cut as many are right as by chance.
    right = (above & yes).sum() + (n - above.sum()) * yes[tied].mean()
    return float(right / n)


MEASURES: Final[Mapping[str, Callable[[Floats, Floats], float]]] = {
    "js": divergence,
    "brier": brier,
    "auroc": auroc,
    "f1": f1,
    "f1_matched": f1_matched,
}


def _entropy(p: Floats) -> Floats:
    out: Floats = entr(p) + entr(1 - p)
    return out
