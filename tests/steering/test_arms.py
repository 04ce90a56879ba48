"""Controls that change states as much, directions that separate, and what survives later."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from moralprobe.activations.text_states import table_texts, text_states
from moralprobe.errors import DataError, ModelError, NumericError, UsageError
from moralprobe.foundations import POLES
from moralprobe.interventions import (
    direction_intervention,
    does_it_survive,
    feature_intervention,
    vector_intervention,
)
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import MoralVectors
from moralprobe.steering.apply import steered_logits
from moralprobe.steering.arms import (
    density_of,
    edited_texts,
    matched,
    mean_change,
    others_as_dense,
    random_direction,
    random_twin,
)
from moralprobe.steering.directions import contrast, mean_difference, of_states
from moralprobe.steering.generate import generate
from moralprobe.steering.intervention import Edit, Intervention
from moralprobe.steering.rules import Add, ProjectOut
from moralprobe.steering.sampling import Sampling
from moralprobe.steering.survival import as_row, design_of, held_out, measures_of, steered_states
from moralprobe.steering.tunable import Tunable
from tests.activations.test_extract import starter, tiny
from tests.sae.test_causal import topk, topk_of_tokens
from tests.steering.test_generate import vector

D = 32


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return tiny()


@pytest.fixture(scope="module")
def vectors(starter_table: Path) -> Path:
    return starter_table


@pytest.fixture(scope="module")
def read(model: CausalModel, vectors: Path) -> tuple[Any, Any]:
    texts = table_texts(model, MoralVectors.load(vectors))
    return texts, text_states(model, texts, 1)


def test_a_control_changes_states_as_much(read: tuple[Any, Any]) -> None:
    texts, states = read
    train = texts.split == "train"
    own = Edit(1, ProjectOut(vector(1)[None]), 0.8, states.sink_norm)
    control, scale = matched(random_direction(own, 3), own, states, train)
    assert control.strength == 1 and scale == pytest.approx(
        mean_change(own, states, train), rel=1e-5
    )
    # By hand, over each training text's distinct tokens that are no sinks.
    used = np.flatnonzero((states.paths[train].sum(axis=0) > 0) & states.kept)
    x = states.states[torch.from_numpy(used)].float()
    u = vector(1) / vector(1).norm()
    size = float((0.8 * (x @ u)).abs().double().mean())
    assert mean_change(own, states, train) == pytest.approx(size, rel=1e-5)
    assert mean_change(control, states, train) == pytest.approx(size, rel=1e-5)
    assert control.sink_norm == own.sink_norm
    with pytest.raises(NumericError, match="its control changes no state"):
        nothing = Edit(1, Add(vector(1)), 0.0)
        matched(nothing, own, states, train)


def test_what_is_edited_offline_is_what_steering_does(
    model: CausalModel, read: tuple[Any, Any]
) -> None:
    texts, states = read
    rows = held_out(texts)
    edit = Edit(1, Add(vector(2)), 0.6, states.sink_norm)
    offline = edited_texts(edit, states)[rows]
    encoded = [texts.encoded[i] for i in rows]
    online = steered_states(model, encoded, Intervention((edit,)), [1, 2])
    np.testing.assert_allclose(online[1][:, 0], offline, atol=2e-5)
    plain = steered_states(model, encoded, None, [1, 2])
    np.testing.assert_allclose(plain[1][:, 0], states.mean_unit()[rows], atol=2e-5)
    assert np.abs(online[2] - plain[2]).max() > 1e-3


def test_layers_below_are_the_same_to_the_bit(model: CausalModel, read: tuple[Any, Any]) -> None:
    texts, _ = read
    encoded = list(texts.encoded[:40])
    edit = Intervention((Edit(1, Add(vector(2)), 3.0),))
    one, two = (steered_states(model, encoded, i, [0, 1]) for i in (None, edit))
    assert np.array_equal(one[0], two[0]) and not np.array_equal(one[1], two[1])


def test_targets_are_what_they_say() -> None:
    moral = np.zeros((4, 10))
    moral[0, 0], moral[1, 1], moral[2, 2] = 1.0, 0.5, 0.25
    np.testing.assert_allclose(contrast(moral, "care-harm"), [1, -0.5, 0, 0])
    np.testing.assert_allclose(contrast(moral, "moral"), [0.2, -0.1, 0.05, 0])
    np.testing.assert_allclose(contrast(moral, "harm"), [-1, 0.5, -1, -1])
    with pytest.raises(UsageError, match="did you mean care"):
        contrast(moral, "cares")


def test_a_difference_of_means_finds_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice([-1.0, -0.5, 0, 0.5, 1.0], 400)
    v = rng.normal(size=D)
    X = np.outer(y, v) + rng.normal(size=(400, D))
    found = mean_difference(X, y)
    naive = sum(y[i] * X[i] for i in range(400) if y[i] > 0) / y[y > 0].sum()
    naive = naive - sum(-y[i] * X[i] for i in range(400) if y[i] < 0) / -y[y < 0].sum()
    np.testing.assert_allclose(found, naive, atol=1e-10)

    def cosine(w: np.ndarray) -> float:
        return float(w @ v / np.linalg.norm(w) / np.linalg.norm(v))

    assert cosine(found) > 0.9
    shuffled = mean_difference(X, rng.permutation(y))
    assert np.linalg.norm(shuffled) < 0.25 * np.linalg.norm(found)
    with pytest.raises(DataError, match="too few texts"):
        mean_difference(X[:5], y[:5])


@pytest.mark.parametrize("kind", ["means", "ridge"])
def test_a_direction_is_as_long_as_a_state_and_says_how_good_it_is(
    model: CausalModel, read: tuple[Any, Any], kind: str
) -> None:
    texts, states = read
    made = of_states(model, texts, states, 1, "care-harm", kind)
    rule = made.edits[0].rule
    assert isinstance(rule, Add)
    norms = states.states[torch.from_numpy(states.kept)].norm(dim=-1)
    assert float(rule.direction.norm()) == pytest.approx(float(norms.median()), rel=1e-5)
    held = texts.split != "train"
    score = states.mean_unit()[held] @ rule.direction.numpy()
    truth = contrast(texts.moral, "care-harm")[held]
    assert made.about["held_out_r"] == pytest.approx(np.corrcoef(score, truth)[0, 1], abs=1e-6)


def test_directions_come_with_their_controls(model: CausalModel, vectors: Path) -> None:
    care = direction_intervention(model, vectors, 1, target="care-harm")
    assert set(care.controls) == {"shuffled", "random_direction", "means"}
    own, twin = (
        i.edits[0].rule.direction  # type: ignore[union-attr]
        for i in (care, care.controls["shuffled"])
    )
    assert abs(float(torch.cosine_similarity(own, twin, dim=0))) < 0.9
    assert float(twin.norm()) == pytest.approx(float(own.norm()), rel=1e-4)
    whole = direction_intervention(model, vectors, 1)
    assert set(whole.controls) == {"shuffled", "random_direction"}
    with pytest.raises(UsageError, match="no layer 7"):
        direction_intervention(model, vectors, 7)
    with pytest.raises(UsageError, match="unknown kind"):
        direction_intervention(model, vectors, 1, kind="median")


def test_single_features_come_with_as_many_others(model: CausalModel, vectors: Path) -> None:
    loaded = topk_of_tokens()
    texts = table_texts(model, MoralVectors.load(vectors))
    density = density_of(loaded.sae, text_states(model, texts, 1))
    active = np.flatnonzero(density > 0)
    assert len(active) > 4
    changes = {int(active[0]): (0.0, 5.0), int(active[1]): (0.0, 0.0)}
    made = feature_intervention(loaded, model, changes, vectors=vectors)
    assert set(made.controls) == {"random_features", "random_direction", "means"}
    others = made.controls["random_features"].edits[0].rule
    assert not set(others.features.tolist()) & set(changes)  # type: ignore[union-attr]
    near = density[others.features.numpy()]  # type: ignore[union-attr]
    free = np.setdiff1d(active, list(changes))
    for feature, found in zip(changes, near, strict=True):
        gaps = np.sort(np.abs(density[free] - density[feature]))
        assert abs(found - density[feature]) <= gaps[len(changes) - 1]
    assert feature_intervention(loaded, model, changes).controls == {}
    with pytest.raises(UsageError, match="no feature 1000"):
        feature_intervention(loaded, model, {1000: (0.0, 1.0)})


def test_a_vector_of_ones_own(model: CausalModel, vectors: Path, tmp_path: Path) -> None:
    v = vector(5).half()
    save_file({"v": v[None]}, tmp_path / "v.safetensors")
    made = vector_intervention(tmp_path / "v.safetensors", model, 1, vectors=vectors)
    rule = made.edits[0].rule
    assert isinstance(rule, Add) and torch.equal(rule.direction, v.float())
    assert set(made.controls) == {"random_direction", "means"}
    assert vector_intervention(tmp_path / "v.safetensors", model, 1).controls == {}
    save_file({"a": v, "b": v.clone()}, tmp_path / "two.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for file, says in (
        ("two.safetensors", "no vector of the model's width"),
        ("bad.safetensors", "can't read"),
        ("v.pt", "may run code"),
    ):
        with pytest.raises(DataError, match=says):
            vector_intervention(tmp_path / file, model, 1)
    save_file({"v": v * 0}, tmp_path / "zero.safetensors")
    with pytest.raises(NumericError, match="zero"):
        vector_intervention(tmp_path / "zero.safetensors", model, 1)


def test_others_are_as_dense_and_never_dead() -> None:
    density = np.array([0.5, 0.0, 0.1, 0.49, 0.11, 0.0])
    rng = np.random.default_rng(0)
    assert others_as_dense([0, 2], density, rng) == [3, 4]
    # The dead ones are nearest, and would change nothing.
    assert others_as_dense([1, 5], density, rng) == [2, 4]
    assert len(others_as_dense([0, 2, 3], density, rng)) == 1


def test_the_random_twin_is_as_many_others_as_dense_changed_as_much() -> None:
    base = topk()
    n = base.cfg.d_sae
    tuned = Tunable(base, torch.arange(0, 10))
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        tuned.renormalise()
    table = pl.DataFrame({"feature": np.arange(n), "density": np.linspace(0, 1, n)})
    twin = random_twin(base, tuned, table, 0)
    assert len(twin.features) == 10 and not set(twin.features.tolist()) & set(range(10))
    assert max(twin.features.tolist()) < 30  # the nearest density that is free
    for one, two in ((tuned, tuned.original()), (twin, twin.original())):
        assert not torch.equal(one.W_enc, two.W_enc)
    own = (tuned.W_enc - tuned.original().W_enc).norm(dim=-1)
    its = (twin.W_enc - twin.original().W_enc).norm(dim=-1)
    torch.testing.assert_close(own, its, atol=1e-4, rtol=1e-4)


def test_a_planted_geometry_is_seen_and_its_absence_too(read: tuple[Any, Any]) -> None:
    texts, _ = read
    rows = np.arange(len(texts.texts))
    vectors = starter()
    design = design_of(vectors, texts, rows, draws=50, analyses=["separation"])
    rng = np.random.default_rng(0)
    moral = texts.moral
    planted = (moral @ rng.normal(size=(10, D)) + rng.normal(size=(len(moral), D)) * 0.05).astype(
        np.float32
    )
    noise = rng.normal(size=planted.shape).astype(np.float32)

    def auroc(states: np.ndarray) -> float:
        measures = measures_of(states, moral, design, analyses=["separation"], draws=50)
        found = list(map(as_row, measures))
        return next(r["value"] for r in found if (r["name"], r["category"]) == ("auroc", "mean"))

    assert auroc(planted) > 0.95 and abs(auroc(noise) - 0.5) < 0.15
    with pytest.raises(NumericError, match="NaN"):
        measures_of(planted * np.nan, moral, design)


def test_survival_is_measured_under_every_arm_at_later_layers(
    model: CausalModel, vectors: Path
) -> None:
    made = direction_intervention(model, vectors, 1)
    found = does_it_survive(made, model, vectors, analyses=["separation"], draws=20)
    assert set(found["arm"]) == {"unsteered", "steered", "shuffled", "random_direction"}
    assert found["layer"].unique().sort().to_list() == [1, 2]
    with pytest.raises(UsageError, match="nothing changes at layer 0"):
        does_it_survive(made, model, vectors, layers="0", draws=20)
    with pytest.raises(ModelError, match="width"):
        does_it_survive(Intervention((Edit(1, Add(torch.ones(8))),)), model, vectors)


def test_sinks_are_left_alone_unless_published(model: CausalModel) -> None:
    """Token 0 keeps its state: nothing after the layer can tell but by the other tokens."""
    prompt = ["a"]  # BOS and one byte
    spared, everything = (
        Intervention((Edit(1, Add(vector(4)), 1.0, norm),)) for norm in (math.inf, None)
    )
    how = Sampling(max_new_tokens=3, temperature=0)
    one, two = (
        generate(model, prompt, i, sampling=how, chat=False)[0] for i in (spared, everything)
    )
    assert (one.edits, two.edits) == (3, 4)


def test_poles_are_all_targets() -> None:
    assert all(len(contrast(np.eye(10), pole)) == 10 for pole in POLES)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_texts_that_are_scored_are_steered_as_they_were_written(
    model: CausalModel, positions: str
) -> None:
    """The logits of a text that was written while steered are those that wrote it."""
    edit = Intervention((Edit(1, Add(vector(4)), 1.0),))
    how = Sampling(max_new_tokens=6, temperature=0)
    (one,) = generate(model, ["Is it"], edit, sampling=how, positions=positions, chat=False)
    front = model.tokenizer("Is it")["input_ids"]
    ids = [*front, *one.ids]
    marks = [*[False] * len(front), *[True] * len(one.ids)]
    batch = model.collate([Encoded(ids, marks, False, False)])
    logits = steered_logits(model, edit, positions)(batch)[0]
    written = logits[len(front) - 1 : -1].argmax(-1).tolist()
    assert written == list(one.ids)
