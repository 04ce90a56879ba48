"""The three calls: what is ablated beside its match, and what doesn't go together."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moralprobe.autoencoders import _with_causal, source_of
from moralprobe.errors import UsageError
from moralprobe.foundations import POLES
from moralprobe.models.load import load_model
from moralprobe.sae.causal import causal_scores
from moralprobe.sae.features import MoralFeatures
from moralprobe.sae.recipe import Recipe
from tests.activations.test_extract import tiny
from tests.sae.test_causal import POLE, planted

__all__ = ["load_model"]


def test_the_strongest_are_ablated_on_their_poles_beside_their_matches() -> None:
    model = tiny()
    loaded, read = planted(model)
    n = read.activations.shape[1]
    matched = [None] * n
    matched[0], matched[1] = 2, 0
    frame = pl.DataFrame(
        {
            "feature": np.arange(n),
            "pole": [POLES[POLE], POLES[POLE], *[None] * (n - 2)],
            "chosen": [True, True, *[False] * (n - 2)],
            "replicated": [False, True, *[False] * (n - 2)],
            "t": [9.0, 3.0, *[0.0] * (n - 2)],
            "matched": pl.Series(matched, dtype=pl.Int64),
        }
    )
    found = _with_causal(MoralFeatures(frame, {}), loaded, model, read, most=5, seed=0)
    scores = causal_scores(loaded, model, read, [1, 0], [POLE, POLE], [0, 2], seed=0)
    rows = found.frame.filter(pl.col("feature").is_in([0, 1])).sort("feature")
    for column, values in (
        ("causal", scores.score),
        ("causal_low", scores.low),
        ("causal_high", scores.high),
        ("causal_null", scores.null_score),
        ("causal_null_low", scores.null_low),
        ("causal_null_high", scores.null_high),
        ("causal_n", scores.texts),
    ):
        np.testing.assert_allclose(rows[column].to_numpy(), values[::-1], rtol=1e-5)
    assert found.frame["feature"].to_list() == list(range(n))
    assert found.frame["causal"].null_count() == n - 2
    said = found.summary["causal"]
    assert said["features"] == 2 and said["down"] == int((scores.high < 0).sum())
    assert said["null_down"] == int((scores.null_high < 0).sum())
    assert said["readout_r"][POLES[POLE]] == pytest.approx(scores.readout_r[POLE])
    # Those that hold come first, whatever their t.
    one = _with_causal(MoralFeatures(frame, {}), loaded, model, read, most=1, seed=0)
    assert one.frame.drop_nulls("causal")["feature"].to_list() == [1]


def test_what_is_trained_on_follows_from_what_is_trained() -> None:
    assert source_of([Recipe()], None, shuffled=True) == "tokens"
    assert source_of([Recipe.published()], None, shuffled=False) == "pooled"
    assert source_of([Recipe()], "pooled", shuffled=False) == "pooled"
    for recipe, source, shuffled in (
        (Recipe.published(), "tokens", False),
        (Recipe.published(), None, True),
        (Recipe(), "store", False),
    ):
        with pytest.raises(UsageError):
            source_of([recipe], source, shuffled=shuffled)
