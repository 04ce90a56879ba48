"""Valence and word frequency, against the packages' own words and against what everybody knows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moralprobe.data import lexicon
from moralprobe.data.lexicon import log_frequency, missing, valence
from moralprobe.errors import UsageError

TEXTS = [
    "helping a wonderful friend",
    "walking to the shop",
    "a cruel and violent murder",
    "",
    "!?",
]
needs_valence = pytest.mark.skipif(
    "vaderSentiment" in missing(), reason="needs pip install 'moralprobe[lexicon]'"
)
needs_frequency = pytest.mark.skipif(
    "wordfreq" in missing(), reason="needs pip install 'moralprobe[lexicon]'"
)


@needs_valence
def test_valence_orders_kind_plain_and_cruel_texts() -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    kind, plain, cruel, empty, marks = found = valence(TEXTS)
    assert found.dtype == np.float32
    assert 1 >= kind > 0.5 and plain == empty == marks == 0 and -1 <= cruel < -0.5
    analyzer = SentimentIntensityAnalyzer()
    scores = [analyzer.polarity_scores(text)["compound"] for text in TEXTS]
    np.testing.assert_allclose(found, scores, rtol=1e-6)


@needs_frequency
def test_log_frequency_is_the_mean_of_the_words_zipf_values() -> None:
    from wordfreq import word_frequency

    texts = [
        "stealing the car",
        "Stealing, THE car!",
        "the the",
        "defenestrating a zzqqxj",
        "don't",
    ]
    naive = [
        np.mean(
            [math.log10(word_frequency(word, "en") * 1e9) for word in ("stealing", "the", "car")]
        ),
        log_frequency(["the"])[0],
    ]
    found = log_frequency(texts)
    assert found.dtype == np.float32
    assert found[0] == found[1] == pytest.approx(naive[0], abs=0.01)
    assert found[2] == naive[1] and 7 < found[2] < 8, "once in twenty words"
    assert found[3] < found[0]
    assert log_frequency(["zzqqxj"])[0] == 0
    assert np.isnan(log_frequency(["", "!?"])).all()


@pytest.mark.parametrize("read", [valence, log_frequency])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    read: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexicon, "find_spec", lambda name: None)
    assert missing() == ("vaderSentiment", "wordfreq")
    assert callable(read)
    with pytest.raises(UsageError, match=r"isn't installed.*moralprobe\[lexicon\]"):
        read(["helping a friend"])
