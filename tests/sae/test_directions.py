"""What other seeds find, and what an autoencoder of shuffled activations has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sae_lens
import torch

from moralprobe.errors import ModelError
from moralprobe.sae.directions import found_again, nearest_cosine
from moralprobe.sae.load import LoadedSAE, load_sae
from tests.sae.test_features import run, trained

__all__ = ["trained"]  # the fixture


def stock(seed: int, layer: int = 1, d_in: int = 16) -> LoadedSAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=d_in, d_sae=40, k=4))
    return LoadedSAE(sae, Path(f"sae-{seed}"), layer)


def test_a_direction_that_others_have_is_found_whatever_its_number_and_length() -> None:
    one, two, three = stock(0), stock(1), stock(2)
    with torch.no_grad():
        two.sae.W_dec[7] = 3 * one.sae.W_dec[2]
        three.sae.W_dec[30] = 0.5 * one.sae.W_dec[2]
        two.sae.W_dec[8] = one.sae.W_dec[3]  # and the third hasn't got it
        three.sae.W_dec[9] = -one.sae.W_dec[2]
    again = found_again(one, [two, three])
    assert again[2] == pytest.approx(1, abs=1e-5)
    assert again[3] < 0.95
    a, b = one.sae.W_dec.detach().double(), three.sae.W_dec.detach().double()
    cosines = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    expected = cosines.amax(1).numpy()
    np.testing.assert_allclose(found_again(one, [three]), expected, atol=1e-5)


def test_rows_of_zeros_are_near_nothing() -> None:
    assert nearest_cosine(torch.zeros(2, 4), torch.eye(4)).tolist() == [0, 0]


def test_what_isnt_another_seed_is_refused() -> None:
    with pytest.raises(ModelError, match=r"isn't of the same states.*layer 2 and 1"):
        found_again(stock(0), [stock(1, layer=2)])
    with pytest.raises(ModelError, match=r"isn't of the same states.*width 8 and 16"):
        found_again(stock(0), [stock(1, d_in=8)])
    for said, why in (
        ({"source": "pooled", "pooling": "mean"}, "source pooled and tokens"),
        ({"model_identity": {"weights": "another"}}, "on another model"),
        ({"shuffled": True}, "was trained on shuffled activations"),
    ):
        other = stock(1)
        for name, value in said.items():
            setattr(other.sae.cfg.metadata, name, value)
        with pytest.raises(ModelError, match=why):
            found_again(stock(0), [other])
    with pytest.raises(ModelError, match="is the same autoencoder"):
        found_again(stock(0), [stock(1), stock(0)])


def test_other_seeds_and_a_null_stand_beside_the_features(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = (
        *("sae", "train", trained / "model", trained / "starter.parquet", "--layer", 1),
        *("--expansion", 4, "--k", 4, "--steps", 60, "--batch", 512, "--dtype", "fp32"),
        *("--precision", "fp32", "--lr", 2e-3, "--quiet"),
    )
    run(*train, "--seed", 1, "--out", tmp_path / "other")
    run(*train, "--shuffled", "--out", tmp_path / "null")
    assert load_sae(tmp_path / "null").sae.cfg.metadata.shuffled is True
    features = ("sae", "features", trained / "sae", trained / "starter.parquet")
    run(
        *(*features, "--other", tmp_path / "other", "--null", tmp_path / "null"),
        *("--causal", 0, "--out", tmp_path / "features"),
    )
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "features" / "features.json").read_bytes())
    frame = pl.read_parquet(tmp_path / "features" / "FEATURES.parquet")
    null = summary["null_shuffled_activations"]
    page = (tmp_path / "features" / "index.html").read_text()
    assert f"<b>{null['tested']}; {null['chosen']}; {null['replicated']}; " in page
    assert "other seeds" in page
    assert f"shuffled activations: {null['chosen']} of {null['tested']} features" in said
    again = summary["found_again"]
    one, other = (load_sae(at).sae.W_dec.detach() for at in (trained / "sae", tmp_path / "other"))
    np.testing.assert_allclose(frame["found_again"], nearest_cosine(one, other), atol=1e-5)
    random = [
        float(np.median(nearest_cosine(torch.randn(128, 32), other))) for _ in range(20)
    ]  # of any seed
    assert again["others"] == 1 and again["all"] == pytest.approx(frame["found_again"].median())
    assert min(random) - 0.02 < again["random_directions"] < max(random) + 0.02
    assert "nearest direction of 1 other" in said
    with pytest.raises(ModelError, match="activations that weren't shuffled"):
        run(*features, "--null", tmp_path / "other", "--out", tmp_path / "b")
    with pytest.raises(ModelError, match="is the same autoencoder"):
        run(*features, "--other", trained / "sae", "--out", tmp_path / "c")
