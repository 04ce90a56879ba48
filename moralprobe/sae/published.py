"""The paper's rules for which features are moral, by Pearson's r with the ten poles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.foundations import AXES, POLES

WEAK: Final = 0.05
"""Below this |r| a feature is weak; above the next it is tied to a pole, and above `STRICT` and
`RATIO` times the second largest strictly to one (arXiv 2603.15615, released scripts)."""
MONO: Final = 0.1
STRICT: Final = 0.1
RATIO: Final = 1.5
TOP_OF_POLE: Final = 50
TOP_OF_AXIS: Final = 20
CHOSEN_ON: Final = "dev"
"""The split by whose rows features are chosen and tuning is stopped: the paper's validation."""


def published(r: NDArray[np.float64]) -> dict[str, Any]:
    """Apply the paper's two rules to Pearson's r, [features, 10].

    Reporting: weak where max |r| < 0.05; mono-semantic where exactly one |r| > 0.1, or two that are
    the poles of one axis; else poly-semantic. Tuning: strict where max |r| > 0.1 and more than 1.5
    times the second; tuned are these, the 50 features with the largest r > 0.1 of every pole, and
    the 20 with the largest of both poles of every axis.

    Returns:
        Columns, a value a feature: `li_class`, `li_pole` and `li_r` (of the largest |r|),
        `li_strict`, `li_tuned`.

    Source: arXiv 2603.15615, released scripts `feature-identification.py` and `sae-fine-tune.py`.
    """
    size = np.abs(r)
    largest = size.argmax(axis=1)
    ordered = np.sort(size, axis=1)
    tied = size > MONO
    one_axis = np.zeros(len(r), np.bool_)
    for a in range(len(AXES)):
        outside = np.delete(tied, [2 * a, 2 * a + 1], axis=1)
        one_axis |= tied[:, 2 * a] & tied[:, 2 * a + 1] & ~outside.any(axis=1)
    mono = (tied.sum(axis=1) == 1) | one_axis
    kinds = np.where(ordered[:, -1] < WEAK, "weak", np.where(mono, "mono", "poly"))
    strict = (ordered[:, -1] > STRICT) & (ordered[:, -1] > RATIO * ordered[:, -2])
    tuned = strict.copy()
    for pole in range(r.shape[1]):
        order = np.argsort(-r[:, pole], kind="stable")
        tuned[[f for f in order[:TOP_OF_POLE] if r[f, pole] > MONO]] = True
        tuned[[f for f in order[:TOP_OF_AXIS] if r[f, pole] > 0]] = True
    return {
        "li_class": kinds.tolist(),
        "li_pole": [POLES[k] if size[f, k] > 0 else None for f, k in enumerate(largest)],
        "li_r": r[np.arange(len(r)), largest],
        "li_strict": strict,
        "li_tuned": tuned,
    }


def counts(columns: Mapping[str, Any]) -> dict[str, int]:
    """Count the features of each class, those that are strict, and those that are tuned.

    Args:
        columns: as `published` gives them.
    """
    kinds = list(columns["li_class"])
    return {name: kinds.count(name) for name in ("weak", "mono", "poly")} | {
        "strict": int(sum(columns["li_strict"])),
        "tuned": int(sum(columns["li_tuned"])),
    }
