"""The three calls: what is ablated beside its match, and what doesn't go together."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.autoencoders import _with_causal, source_of
from moralprobe.errors import UsageError
from moralprobe.foundations import POLES
from moralprobe.models.load import load_model
from moralprobe.sae.causal import causal_scores
from moralprobe.sae.features import MoralFeatures
from moralprobe.sae.recipe import Recipe
from moralprobe.sae.selection import strongest, tried
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
    assert said["others_as_dense"]["down"] == int((scores.null_high < 0).sum())
    assert said["random_dictionary"] == {"features": 0, "median": None, "down": 0}
    assert said["readout_r"][POLES[POLE]] == pytest.approx(scores.readout.r[POLE])
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
    assert source_of([Recipe()], None, shuffled=False, states="states") == "tokens"
    for recipe, source in ((Recipe.published(), None), (Recipe(), "pooled")):
        with pytest.raises(UsageError, match="token states"):
            source_of([recipe], source, shuffled=False, states="states")


def test_the_strongest_of_a_random_dictionary_are_ablated_by_its_own_directions() -> None:
    model = tiny()
    loaded, read = planted(model)
    half = np.arange(len(read.texts)) % 2 == 0
    # The dictionary itself, its features turned about: what is ablated must be turned as well.
    n = read.activations.shape[1]
    turn = np.random.default_rng(0).permutation(n)
    random = copy.deepcopy(loaded.sae)
    with torch.no_grad():
        random.W_enc.copy_(loaded.sae.W_enc[:, turn])
        random.b_enc.copy_(loaded.sae.b_enc[turn])
        random.W_dec.copy_(loaded.sae.W_dec[turn])
    read = replace(read, random=read.activations[:, turn], random_sae=random)
    of_random = tried(read, read.random, half, 0)
    features, poles = strongest(of_random, 5)
    own, own_poles = strongest(tried(read, read.activations, half, 0), 5)
    assert len(own) and (turn[features] == own).all() and (poles == own_poles).all()
    frame = pl.DataFrame(
        {
            "feature": own,
            "pole": [POLES[k] for k in own_poles],
            "chosen": [True] * len(own),
            "replicated": [True] * len(own),
            "t": np.arange(len(own), 0.0, -1),
            "matched": pl.Series([None] * len(own), dtype=pl.Int64),
        }
    )
    features = MoralFeatures(frame, {}, of_random)
    said = _with_causal(features, loaded, model, read, most=5, seed=0).summary["causal"]
    assert said["random_dictionary"]["down"] == said["down"]
    # In which of its texts a feature is ablated is drawn by its number.
    assert said["random_dictionary"]["median"] == pytest.approx(said["median"], rel=0.02)


def test_a_null_that_cant_be_ablated_loses_nothing() -> None:
    model = tiny()
    loaded, read = planted(model)
    half = np.arange(len(read.texts)) % 2 == 0
    read = replace(read, random=read.activations, random_sae=copy.deepcopy(loaded.sae))
    with torch.no_grad():
        read.random_sae.b_enc.fill_(-1e9)  # never active
    of_random = tried(read, read.random, half, 0)
    frame = pl.DataFrame(
        {
            "feature": [0],
            "pole": [POLES[POLE]],
            "chosen": [True],
            "replicated": [True],
            "t": [9.0],
            "matched": [1],
        }
    )
    found = _with_causal(MoralFeatures(frame, {}, of_random), loaded, model, read, most=5, seed=0)
    said = found.summary["causal"]
    assert said["features"] == 1
    assert said["random_dictionary"] == {"features": 0, "median": None, "down": 0}
