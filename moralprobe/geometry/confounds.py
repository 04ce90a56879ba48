"""What a number may show instead of morality: the attention sink, text length, shared words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moralprobe.geometry.arrays import Counts, Floats, blocks

_CELLS = 1 << 20  # of a [draws, rows] block


def sink_ratio(token0_norm: Floats, other_norm: Floats) -> NDArray[np.float64]:
    """Return each text's norm of token 0 over the mean norm of its other tokens, [n]."""
    return np.asarray(token0_norm, np.float64) / np.asarray(other_norm, np.float64)


def length_share(X: Floats, inverse_length: Floats, weights: Counts) -> NDArray[np.float64]:
    """Return the share of the states' variance that 1 / length explains linearly, [b].

    A mean over T tokens that holds one huge state M is about M / T plus signal. Where this share is
    near 1 the pooled vectors vary because texts differ in length, and cosines between centres show
    which texts are longer.

    Args:
        X: [n, d] pooled states, centred.
        inverse_length: [n] one over the number of tokens pooled.
        weights: [b, n] counts of a resample; a row of ones gives the observed share.

    Returns:
        [b] in [0, 1]; nan where the texts don't differ in length.
    """
    t = _centred(inverse_length)
    columns = np.stack([np.ones_like(t), t, t * t, np.einsum("nd,nd->n", X, X, dtype=float)], 1)
    tX = X * t[:, None].astype(X.dtype)
    result = np.empty(len(weights))
    for some in blocks(len(weights), _CELLS // max(1, len(X))):
        n, sum_t, sum_tt, sum_xx = (weights[some].astype(np.float64) @ columns).T
        w = weights[some].astype(X.dtype)
        sum_x, sum_tx = (w @ X).astype(np.float64), (w @ tX).astype(np.float64)
        slope = sum_tx - (sum_t / n)[:, None] * sum_x
        spread = sum_tt - sum_t**2 / n
        variance = sum_xx - np.square(sum_x).sum(1) / n
        result[some] = _share(np.square(slope).sum(1), spread / n, variance * n)
    return result


def permuted_length_share(X: Floats, inverse_lengths: Floats) -> NDArray[np.float64]:
    """Return the same share for many permutations of the lengths, [b].

    Args:
        X: [n, d] pooled states.
        inverse_lengths: [b, n].
    """
    X = X - X.mean(0)
    variance = np.einsum("nd,nd->", X, X, dtype=np.float64)
    result = np.empty(len(inverse_lengths))
    for some in blocks(len(inverse_lengths), _CELLS // max(1, len(X))):
        t = _centred(inverse_lengths[some])
        slope = (t.astype(X.dtype) @ X).astype(np.float64)
        result[some] = _share(np.square(slope).sum(1), np.square(t).mean(1), variance * X.shape[0])
    return result


def _centred(inverse_length: Floats) -> NDArray[np.float64]:
    t = np.asarray(inverse_length, np.float64)
    centred: NDArray[np.float64] = t - t.mean(-1, keepdims=True)
    return centred


def _share(explained: Floats, spread: Floats, variance: Floats) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = (spread > 1e-12) & (variance > 0)
        return np.where(usable, explained / (spread * variance), np.nan)


def length_offset(inverse_length: Floats, prototypes: Counts, weights: Counts) -> Floats:
    """Return how far the prototypes' mean 1 / length lies from everybody's, [b].

    Where a sink decides, a centre points along the sink times this offset, so that the sign of an
    opposed cosine is the sign of the product of its two poles' offsets.

    Args:
        inverse_length: [n].
        prototypes: [n] 1 for the pole's prototypes, else 0.
        weights: [b, n] counts of a resample.
    """
    inverse_length = np.asarray(inverse_length, np.float64)
    mine = np.asarray(prototypes, np.float64)
    columns = np.stack([mine * inverse_length, mine, inverse_length, np.ones_like(mine)], axis=1)
    sums = [
        weights[some].astype(np.float64) @ columns
        for some in blocks(len(weights), _CELLS // max(1, len(mine)))
    ]
    of_mine, n_mine, of_all, n = np.concatenate(sums).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(of_mine / n_mine - of_all / n, np.float64)


def word_overlap(words: Sequence[frozenset[str]]) -> NDArray[np.float32]:
    """Return which share of their words two texts have in common, [n, n]: the Jaccard index.

    Args:
        words: [n] the distinct words of each text; two texts without any overlap fully.
    """
    place = {word: i for i, word in enumerate(sorted(frozenset().union(*words)))}
    has = np.zeros((len(words), len(place)), np.float32)
    for i, mine in enumerate(words):
        has[i, [place[word] for word in mine]] = 1
    common = has @ has.T
    size = has.sum(1)
    either = size[:, None] + size - common
    overlap: NDArray[np.float32] = np.where(either > 0, common / np.maximum(either, 1), 1)
    return overlap.astype(np.float32)


def words_of(text: str) -> frozenset[str]:
    """Return the distinct words of a text, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower()))
