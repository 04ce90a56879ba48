"""EVR, MVP and APV against loops, and what they must obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moralprobe.behavior.elicitation.measures import (
    apv,
    corrected,
    evr,
    interval,
    means,
    mvp,
    self_bleu,
)


def test_by_hand() -> None:
    p = np.array([[0.9, 0.2, 0.6], [0.5, 0.4, 0.1], [np.nan, 0.7, 0.1], [np.nan] * 3])
    np.testing.assert_array_equal(evr(p), [1, 0, 1, np.nan])
    np.testing.assert_array_equal(mvp(p), [0.9, 0.5, 0.7, np.nan])
    np.testing.assert_array_equal(apv(p), [2 / 3, 0, 1 / 2, np.nan])


@given(arrays(np.float64, (4, 5), elements=st.floats(0, 1) | st.just(np.nan)))
def test_they_are_the_loops(p: np.ndarray) -> None:
    for i, row in enumerate(p):
        known = [x for x in row if not np.isnan(x)]
        if not known:
            assert all(np.isnan(f(p)[i]) for f in (evr, mvp, apv))
            continue
        assert evr(p)[i] == float(any(x > 0.5 for x in known))
        assert mvp(p)[i] == max(known)
        assert apv(p)[i] == pytest.approx(sum(x > 0.5 for x in known) / len(known))


@given(arrays(np.float64, (6, 4), elements=st.floats(0, 1)))
def test_what_holds_of_any_of_them(p: np.ndarray) -> None:
    e, m, a = (float(f(p).mean()) for f in (evr, mvp, apv))
    assert e >= a - 1e-12
    assert e / 2 - 1e-12 <= m <= (1 + e) / 2 + 1e-12
    more = np.concatenate([p, p[::-1]], axis=1)
    assert (evr(more) >= evr(p)).all() and (mvp(more) >= mvp(p)).all()


def test_a_scorers_errors_are_taken_out() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < 0.3
    called = np.where(truth, rng.random(len(truth)) < 0.8, rng.random(len(truth)) < 0.25)
    found = corrected(np.asarray(called.mean()), np.asarray(0.8), np.asarray(0.25))
    assert found == pytest.approx(0.3, abs=0.01)
    assert np.isnan(corrected(np.asarray(0.5), np.asarray(0.4), np.asarray(0.4)))
    assert corrected(np.asarray(0.1), np.asarray(0.8), np.asarray(0.25)) == 0


def test_means_are_of_what_is_there() -> None:
    values = np.array([1.0, np.nan, 3.0])
    found = means(values, [np.arange(3), np.array([0, 0, 2]), np.array([1, 1, 1])])
    np.testing.assert_allclose(found, [2, 5 / 3, np.nan])
    assert interval(1.0, np.array([np.nan, np.nan, 1.0])) == {
        "value": 1.0,
        "low": None,
        "high": None,
    }
    assert interval(1.0, np.linspace(0, 1, 101)) == {"value": 1.0, "low": 0.025, "high": 0.975}


def test_self_bleu_is_nltks_and_low_where_texts_differ() -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    texts = [
        "The cat sat on the mat there",
        "the cat sat on a mat here",
        "Dogs run far away at night now",
    ]
    words = [text.lower().split() for text in texts]
    own = [
        sentence_bleu(
            [w for j, w in enumerate(words) if j != i],
            words[i],
            smoothing_function=SmoothingFunction().method2,
        )
        for i in range(3)
    ]
    assert self_bleu(texts) == pytest.approx(100 * np.mean(own))
    same, different = ["a b c d e f"] * 3, ["a b c d", "e f g h", "i j k l"]
    assert self_bleu(same) == pytest.approx(100) and self_bleu(different) < 10
    assert self_bleu(["one text alone"]) is None and self_bleu(["", " "]) is None
