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


def resampled_cosines(X: Floats, plus: Counts, minus: Counts) -> NDArray[np.float64]:
    """Return the cosine between two centres as it is and under resamples, [b].

    A centre of few rows is long with noise, and a resample adds as much again to what is noise
    already: around so long a centre the cosine moves less than it does from sample to sample. So
    each resampled centre is taken about the centre that is as long as the true one is expected to
    be, c sqrt(1 - s / |c|^2) with s the squared standard error of c.

    Args:
        X: [n, d] centred hidden states.
        plus: [b, n] counts of the rows in the first centre; the first set is the data as they are.
        minus: [b, n] counts in the second.

    Returns:
        [b] in [-1, 1]; nan where a centre has no weight.
    """
    a, b = _about_truth(X, plus), _about_truth(X, minus)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.clip(np.einsum("bd,bd->b", a, b) / norms, -1, 1)
    return np.concatenate([cosine_of_centres(X, plus[:1], minus[:1]), cosines[1:]])


def _about_truth(X: Floats, counts: Counts) -> NDArray[np.float64]:
    """Return resampled centres, less what the observed one is longer than the true one, [b, d]."""
    n = counts.sum(1, dtype=np.float64)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = (counts.astype(X.dtype) @ X).astype(np.float64) / n
    own = X[counts[0] > 0]
    centre = own.mean(0, dtype=np.float64)
    error = np.square(own - centre).sum() / (len(own) * max(len(own) - 1, 1))
    kept = np.sqrt(max(0.0, 1 - error / max(float(centre @ centre), 1e-300)))
    return np.asarray(centres - (1 - kept) * centre, np.float64)
