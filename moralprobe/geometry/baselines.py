"""What the words alone give: the same measures on features that no model has read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BAG_OF_WORDS = "bag of words"
CHARACTER_NGRAMS = "character n-grams"


def bag_of_words(texts: Sequence[str], *, dimensions: int = 256) -> NDArray[np.float32]:
    """Return TF-IDF features of words and word pairs, reduced without labels, [n, dimensions].

    They go through the very measures that hidden states go through, so that a baseline stands
    beside every number: what a reader of words, with no model, would have scored.

    Args:
        texts: the actions.
        dimensions: of the truncated singular value decomposition; fewer where texts are few.
    """
    # In one order, whichever they are handed over in: what is drawn by chance follows the rows.
    order = sorted(range(len(texts)), key=texts.__getitem__)
    reduced = _reduced(_tfidf([texts[i] for i in order]), dimensions)
    found = np.empty_like(reduced)
    found[order] = reduced
    return found


def character_ngrams(words: Sequence[str], *, dimensions: int = 256) -> NDArray[np.float32]:
    """Return TF-IDF features of one to four neighbouring letters, reduced alike, [n, dimensions].

    A bag of words says nothing of single words, which have none in common.

    Args:
        words: single words or short names.
        dimensions: as of `bag_of_words`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    return _reduced(vectorizer.fit_transform(words), dimensions)


def _reduced(tfidf, dimensions: int) -> NDArray[np.float32]:  # type: ignore[no-untyped-def]
    from sklearn.decomposition import TruncatedSVD

    if min(tfidf.shape) < 2:  # a single text, or a single word in all: nothing to reduce
        return np.asarray(tfidf.toarray(), np.float32)
    k = max(1, min(dimensions, min(tfidf.shape) - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a text without any known word
        reduced = TruncatedSVD(k, random_state=0).fit_transform(tfidf)
    return np.asarray(reduced, np.float32)


def topics(texts: Sequence[str], *, most: int = 20, texts_each: int = 100) -> NDArray[np.int64]:
    """Return a topic for each text, [n]: k-means on TF-IDF, fitted without labels.

    Args:
        texts: the actions.
        most: how many topics at most.
        texts_each: and so few that each holds about so many texts.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    k = int(np.clip(len(texts) // texts_each, 1, most))
    if k == 1:
        return np.zeros(len(texts), np.int64)
    order = sorted(range(len(texts)), key=texts.__getitem__)
    features = bag_of_words(texts, dimensions=64)[order]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # texts so alike that they are one topic
        labels = KMeans(k, n_init=1, random_state=0).fit_predict(features)
    found = np.empty(len(texts), np.int64)
    found[order] = labels
    return found


def _tfidf(texts: Sequence[str]):  # type: ignore[no-untyped-def]  # a scipy sparse matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Words that stand once say nothing that generalises; of few texts all are kept.
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=2 if len(texts) >= 200 else 1,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",
    )
    return vectorizer.fit_transform(texts)
