"""From a known dictionary by training to selection: ten moral directions are found, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from moralprobe.foundations import POLES
from moralprobe.sae.features import moral_features
from moralprobe.sae.load import load_sae
from moralprobe.sae.recipe import Recipe, Task
from moralprobe.sae.selection import choose
from moralprobe.sae.text_features import TextFeatures, _encode, _random_twin
from moralprobe.sae.train import train

WIDTH, TRUE, TEXTS, TOKENS = 48, 64, 3000, 6
BOTH, ALL, LONG = 10, 11, 12
"""Directions that go with two poles of an axis, with moral texts of any pole, with length; those
before them go with a pole each, those after them with nothing."""
RECIPE = Recipe(
    expansion=2, k=6, steps=800, batch=512, lr=3e-3, dead_after=50, precision="fp32", seed=0
)


class Truth:
    """Texts of tokens whose states are sums of few of known directions."""

    layers = (0,)
    width = WIDTH

    def __init__(self, *, shuffled: bool = False) -> None:
        rng = np.random.default_rng(0)
        pole = rng.integers(0, 14, TEXTS)  # four of them are none
        self.moral = np.zeros((TEXTS, 10))
        tagged = np.flatnonzero(pole < 10)
        self.moral[tagged, pole[tagged]] = rng.choice([0.25, 0.5, 0.75, 1.0], len(tagged))
        self.length = 3 + rng.poisson(4, TEXTS) + 2 * (pole % 2)
        often = np.full((TEXTS, TRUE), 3 / TRUE)  # how often a token of a text has a direction
        often[:, :10] += 0.5 * self.moral
        often[:, BOTH] += 0.5 * (self.moral[:, 2] + self.moral[:, 3])
        often[:, ALL] += 0.5 * self.moral.max(axis=1)
        often[:, LONG] += 0.06 * np.minimum(self.length - 3, 12)
        active = rng.random((TEXTS, TOKENS, TRUE)) < often[:, None]
        directions = rng.normal(size=(TRUE, WIDTH))
        self.directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        strength = active * (1 + rng.random(active.shape))
        states = (strength @ self.directions).reshape(-1, WIDTH)
        self.states = torch.from_numpy(states + 0.02 * rng.normal(size=states.shape)).float()
        self.read_states = self.states
        if shuffled:
            columns = [rng.permutation(column) for column in self.states.numpy().T]
            self.read_states = torch.from_numpy(np.stack(columns, axis=1))

    def pieces(self, epoch: int) -> int:
        return 1

    def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
        return {0: self.read_states}


def read_by(truth: Truth, sae: Any, untaught: Any) -> TextFeatures:
    """What `read_features` gives of a model's texts, of these."""
    kept = np.ones(len(truth.states), np.bool_)
    means = sparse.kron(sparse.eye_array(TEXTS), np.full((1, TOKENS), 1 / TOKENS), format="csr")
    activations, explained = _encode(sae, truth.states, kept)
    random, _ = _encode(_random_twin(sae, RECIPE.k, 0), truth.states, kept)
    of_untaught, _ = _encode(untaught, truth.states, kept)
    split = np.random.default_rng(1).random(TEXTS)
    dev = np.flatnonzero(split > 0.7)
    return TextFeatures(
        texts=[f"text {i}" for i in range(TEXTS)],
        activations=sparse.csr_array(means @ activations),
        random=sparse.csr_array(means @ random),
        untaught=sparse.csr_array(means @ of_untaught),
        moral=truth.moral,
        covariates=np.column_stack([truth.length, 1 / truth.length]),
        names=("length", "inverse length"),
        train=split < 0.6,
        dev_text=dev,
        dev_moral=truth.moral[dev],
        explained_variance=explained,
        warnings=(),
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, TextFeatures, pl.DataFrame]:
    """The truth, what a trained autoencoder reads, and its features with the direction of each."""
    truth, folder = Truth(), tmp_path_factory.mktemp("planted")
    for source, name in ((truth, "sae"), (Truth(shuffled=True), "untaught")):
        train(source, [Task(0, RECIPE)], folder / name, about={"data": name})
    sae, untaught = (load_sae(folder / name).sae for name in ("sae", "untaught"))
    read = read_by(truth, sae, untaught)
    with torch.no_grad():
        learnt = torch.nn.functional.normalize(sae.W_dec, dim=-1).numpy()
    cosines = learnt @ truth.directions.T
    frame = moral_features(read).frame.with_columns(
        true=pl.Series(cosines.argmax(1)), cosine=pl.Series(cosines.max(1))
    )
    return truth, read, frame


def test_training_finds_the_dictionary(found: tuple[Truth, TextFeatures, pl.DataFrame]) -> None:
    _, read, frame = found
    assert read.explained_variance > 0.9
    assert frame.filter(pl.col("cosine") > 0.95)["true"].n_unique() > 0.9 * TRUE


def test_selection_finds_the_ten_and_specificity_ranks_them(
    found: tuple[Truth, TextFeatures, pl.DataFrame],
) -> None:
    _, _, frame = found
    chosen = frame.filter("replicated").sort("specificity", descending=True)
    ten = chosen.filter((pl.col("cosine") > 0.95) & (pl.col("true") < 10)).sort("true")
    assert ten["true"].to_list() == list(range(10))
    assert ten["pole"].to_list() == list(POLES)
    assert ten["specificity"].min() > 0.9 and (ten["slope_low"] > 0).all()
    # What goes with both poles of an axis is chosen too, and specificity says what it is.
    both = frame.filter((pl.col("true") == BOTH) & (pl.col("cosine") > 0.95))
    assert both["specificity"].max() < 0.3
    assert set(chosen["true"].to_list()[:10]) == set(range(10))
    # Moral text at all, length and nothing aren't chosen, however much goes with them.
    near = frame.filter(pl.col("cosine") > 0.95)
    assert not near.filter(pl.col("true") > BOTH)["chosen"].any()
    assert near.filter(pl.col("true") == ALL)["r_any_pole"].max() > 0.5
    assert near.filter(pl.col("true") == LONG)["r_length"].max() > 0.3
    assert len(chosen) <= 15


def test_untrained_and_untaught_directions_hold_and_are_less_specific(
    found: tuple[Truth, TextFeatures, pl.DataFrame],
) -> None:
    """A random dictionary isn't silent: of its features more hold, and fewer are one pole's."""
    _, read, _ = found
    summary = moral_features(read).summary
    random, untaught = summary["null_random_dictionary"], summary["null_shuffled_activations"]
    assert summary["specific"] >= 10 and summary["specificity_median"] > 0.9
    for null in (random, untaught):
        assert null["replicated"] > summary["replicated"]
        assert null["specificity_median"] < 0.7
        share = summary["specific"] / summary["replicated"]
        assert null["specific"] / null["replicated"] < 0.7 * share
        up, own = null["slope"], summary["slope"]
        assert up["up"] / up["features"] < 0.7 * own["up"] / own["features"]
        assert up["median"] < 0.5 * own["median"]


def test_the_shuffled_twin_finds_none(
    found: tuple[Truth, TextFeatures, pl.DataFrame],
) -> None:
    """At a false discovery rate of 5 % any discovery of nothing is one in 20 tables'."""
    _, read, _ = found
    rng = np.random.default_rng(5)
    twins = [
        choose(read.activations, read.moral[rng.permutation(TEXTS)], read.covariates)
        for _ in range(40)
    ]
    assert sum(twin.chosen.any() for twin in twins) <= 6  # 7 or more once in 200 times
    # One test alone errs at its level at most; skewed features do so less often.
    for p in ("p", "contrast_p"):
        level = np.nanmean([getattr(twin.found, p) < 0.05 for twin in twins])
        assert 0.02 < level < 0.06
    order, dev = rng.permutation(TEXTS), rng.permutation(len(read.dev_moral))
    nothing = replace(read, moral=read.moral[order], dev_moral=read.dev_moral[dev])
    assert moral_features(nothing).summary["replicated"] == 0
