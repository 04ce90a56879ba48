"""What a text's words alone say: how pleasant they are, and how common.

Both readings come with the extra `lexicon` and no model: vaderSentiment's lexicon (Hutto & Gilbert
2014) and wordfreq's frequency lists (Speer 2022). A number that they explain shows no morality.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.errors import UsageError

PACKAGES: Final[tuple[str, ...]] = ("vaderSentiment", "wordfreq")


def missing() -> tuple[str, ...]:
    """Return which packages of the extra `lexicon` aren't installed."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def versions() -> dict[str, str]:
    """Return the installed packages of the extra `lexicon` with their versions."""
    return {name: importlib.metadata.version(name) for name in PACKAGES if find_spec(name)}


def valence(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return how pleasant the words of each text are, [n] in -1 to 1: VADER's compound score.

    A text without a word of the lexicon has 0.

    Raises:
        UsageError: vaderSentiment isn't installed.
    """
    _need("vaderSentiment", "valence")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    scores = SentimentIntensityAnalyzer().polarity_scores
    return np.array([scores(text)["compound"] for text in texts], np.float32)


def log_frequency(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the mean log frequency of each text's English words, [n] in Zipf units.

    A word's Zipf value is the base-10 logarithm of how often it stands in a billion words: "the"
    has 7.7, a word that the lists lack has 0. NaN where a text has no word.

    Raises:
        UsageError: wordfreq isn't installed.
    """
    _need("wordfreq", "word frequency")
    from wordfreq import tokenize, zipf_frequency

    zipf = functools.cache(lambda word: zipf_frequency(word, "en"))
    words = [tokenize(text, "en") for text in texts]
    means = [sum(map(zipf, some)) / len(some) if some else np.nan for some in words]
    return np.array(means, np.float32)


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise UsageError(
            f"{what} needs {package}",
            "it isn't installed",
            "pip install 'moralprobe[lexicon]'",
        )
