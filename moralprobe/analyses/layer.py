"""One layer's states in, its measures out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moralprobe.analyses.confounds import length_explains
from moralprobe.analyses.gradient import gradient
from moralprobe.analyses.recoverability import recoverability
from moralprobe.analyses.separation import separation
from moralprobe.analyses.structure import structure
from moralprobe.design import Design
from moralprobe.errors import NumericError
from moralprobe.geometry.measure import Measure


def measure_states(
    states: NDArray[np.float32], design: Design, analyses: Sequence[str], *, density: bool
) -> list[Measure]:
    """Run the analyses on the states of a design's rows."""
    X = centred(states)
    # The paper's probe reads the activations as they are; otherwise a wide layer's memory is freed.
    states = states if design.mode == "li2026" else X
    found = []
    if "separation" in analyses:
        found += [*separation(X, design), length_explains(X, design)]
    if "gradient" in analyses:
        found += gradient(X, design)
    if "structure" in analyses:
        found += structure(X, design, density=density)
    if "recoverability" in analyses:
        found += recoverability(states, design)
    return found


def rows_of(values: NDArray[np.float32], text: NDArray[Any], what: str) -> NDArray[np.float32]:
    """Return the rows' states; refuse what isn't a number."""
    X: NDArray[np.float32] = values[text]
    if not np.isfinite(X).all():
        raise NumericError(
            f"{what} holds NaN or infinity",
            f"in {int((~np.isfinite(X).all(1)).sum())} rows",
            "run: moralprobe verify, and extract again",
        )
    return X


def centred(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return states less their mean over rows."""
    less: NDArray[np.float32] = X - X.mean(0, dtype=np.float64).astype(np.float32)
    return less
