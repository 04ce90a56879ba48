"""How common words are, where the package wordfreq is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def frequency_source() -> str | None:
    """Return which package knows frequencies, with its version; None where it's missing."""
    if importlib.util.find_spec("wordfreq") is None:
        return None
    return f"wordfreq {importlib.metadata.version('wordfreq')}"


def zipf_frequencies(items: Sequence[str], *, language: str = "en") -> NDArray[np.float64]:
    """Return the base-10 logarithm of how often items stand in a billion words, [n].

    An item of several words gets wordfreq's estimate for the phrase; an unknown one gets 0.
    """
    from wordfreq import zipf_frequency

    return np.array([zipf_frequency(item, language) for item in items], np.float64)
