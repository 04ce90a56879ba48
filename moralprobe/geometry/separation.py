"""Are opposed categories separated? The cosine of their centres, as the paper measures it.

A cosine can't tell "same direction" from "no difference in noise", so the audited mode adds two
measures that are held out (`geometry.held_out`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats


def cosine_of_centres(X: Floats, plus: Counts, minus: Counts) -> NDArray[np.float64]:
    """Return the cosine between two weighted centres, for many sets of weights, [b].

    Args:
        X: [n, d] centred hidden states.
        plus: [b, n] weights of the rows in the first centre (counts, 0 for rows outside it).
        minus: [b, n] weights in the second.

    Returns:
        [b] in [-1, 1]; nan where a centre has no weight.

    Source: cos(mean of P_k+, mean of P_k-), section 3.1 of the method; bootstrap and permutation
    differ from the observed value in the weights alone.
    """
    a = plus.astype(X.dtype) @ X
    b = minus.astype(X.dtype) @ X
    dots = np.einsum("bd,bd->b", a, b, dtype=np.float64)
    norms = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(
        b.astype(np.float64), axis=1
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, np.clip(dots / norms, -1, 1), np.nan)
