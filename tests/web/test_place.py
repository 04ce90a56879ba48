"""Where a sentence lies: against the formula read text by text, and on a planted table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.errors import DataError
from moralprobe.foundations import POLES
from moralprobe.geometry.categories import centres, likeness, plane
from moralprobe.models.causal import CausalModel
from moralprobe.moral_vectors import MoralVectors
from moralprobe.steering.intervention import Edit, Intervention
from moralprobe.steering.rules import Add
from moralprobe.web import place as placing
from moralprobe.web.loaded import Loaded
from moralprobe.web.place import Landmarks, landmarks_of, place
from tests.activations.test_extract import starter, tiny

SENTENCE = "helping a friend move to another town."


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return tiny()


@pytest.fixture(scope="module")
def marks(model: CausalModel) -> Landmarks:
    return landmarks_of(model, starter(150))


def naive(model: CausalModel, action: str) -> dict[str, list[np.ndarray]]:
    """A text's pooled states at every layer, read alone: token 0 in one mode, not in the other."""
    ids = torch.tensor([model.tokenizer(f"{action} is morally")["input_ids"]])
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out)[0])
        )
        for block in model.decoder.layers
    ]
    with torch.no_grad():
        model.model(ids)
    for handle in handles:
        handle.remove()
    return {
        "li2026": [x.mean(0).numpy() for x in seen],
        "audited": [(x / x.norm(dim=-1, keepdim=True))[1:].mean(0).numpy() for x in seen],
    }


def test_likeness_is_that_of_the_formula(model: CausalModel, marks: Landmarks) -> None:
    frame = starter(150).frame.unique("row", keep="first", maintain_order=True)
    texts = frame.group_by("group", maintain_order=True).first()
    moral = texts.select(POLES).to_numpy().astype(float)
    read = [naive(model, action) for action in texts["action"]]
    mine = naive(model, SENTENCE)
    found = place(model, marks, SENTENCE, None)
    assert found.after is None and found.texts == len(read)
    for mode in ("li2026", "audited"):
        for layer in range(model.n_layers):
            X = np.stack([one[mode][layer] for one in read]).astype(float)
            mean, x = X.mean(0), mine[mode][layer]
            for i in range(10):
                w = moral[:, i]
                got = found.before[mode][layer][i]
                if w.sum() == 0:
                    assert got is None
                    continue
                centre = (w[:, None] * X).sum(0) / w.sum() - mean
                cosine = (x - mean) @ centre / np.linalg.norm(x - mean) / np.linalg.norm(centre)
                assert got == pytest.approx(cosine, abs=2e-3)


def test_steering_moves_a_sentence_from_the_layer_on(model: CausalModel, marks: Landmarks) -> None:
    """Pushed along care's centre at layer 1 it lies nearer to it there, and nowhere else below."""
    i = POLES.index("care")
    direction = torch.from_numpy(marks.centres["audited"][1, i]).float()
    made = Intervention((Edit(1, Add(200 * direction / direction.norm())),))
    found = place(model, marks, SENTENCE, made)
    assert found.after is not None
    assert found.after["audited"][0] == found.before["audited"][0]
    assert found.after["audited"][1][i] > max(0.9, found.before["audited"][1][i] or 0)
    assert found.maps[0].before == found.maps[0].after
    assert found.maps[1].before != found.maps[1].after
    assert place(model, marks, SENTENCE, made * 0).after is None


def test_a_pole_without_texts_has_no_likeness_and_no_point(model: CausalModel) -> None:
    vectors = starter()
    frame = vectors.frame.filter((pl.col("sanctity") == 0) & (pl.col("degradation") == 0))
    some = MoralVectors(frame.head(120), vectors.meta)
    found = place(model, landmarks_of(model, some), SENTENCE, None)
    there = {
        pole for pole, x in zip(POLES, found.before["audited"][1], strict=True) if x is not None
    }
    assert {"care", "harm"} <= there < set(POLES)
    assert [point is not None for point in found.maps[1].poles] == [p in there for p in POLES]


def test_length_and_sinks_are_warned_of(
    model: CausalModel, marks: Landmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place(model, marks, SENTENCE, None).warnings == []
    (said,) = place(model, marks, "helping " * 30, None).warnings
    assert "nine tenths of the table's texts" in said
    monkeypatch.setattr(placing, "_sink_ratios", lambda model, text: [1.0, 20.0, 7.0])
    (said,) = place(model, marks, SENTENCE, None).warnings
    assert "In 2 layers, 1 to 2, token 0 is an attention sink" in said


def test_the_sink_ratio_is_token_0s_norm_over_the_others(
    model: CausalModel, marks: Landmarks
) -> None:
    ids = torch.tensor([model.tokenizer(f"{SENTENCE} is morally")["input_ids"]])
    with torch.no_grad():
        states = model.model(ids, output_hidden_states=True).hidden_states
    norms = states[2][0].norm(dim=-1)
    found = place(model, marks, SENTENCE, None).sink_ratio
    assert found[1] == pytest.approx(float(norms[0] / norms[1:].mean()), rel=1e-2)


def test_many_texts_are_drawn_from(
    model: CausalModel, monkeypatch: pytest.MonkeyPatch, marks: Landmarks
) -> None:
    monkeypatch.setattr(placing, "MOST", 40)
    some = landmarks_of(model, starter(150))
    assert some.n == 40 < marks.n


def test_a_sentence_that_cannot_be_read_is_refused(model: CausalModel, marks: Landmarks) -> None:
    with pytest.raises(DataError, match="no text can be read"):
        place(model, marks, "   ", None)


def test_a_plane_holds_what_lies_in_one() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(12, 2)))[0]
    C = rng.normal(size=(10, 2)) @ basis.T * rng.uniform(1, 9, (10, 1))
    C[3] = np.nan
    axes, share = plane(C)
    assert share == pytest.approx(1)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(axes @ basis @ basis.T, axes, atol=1e-9)
    again, _ = plane(7 * C)
    np.testing.assert_allclose(again, axes, atol=1e-9)
    assert plane(rng.normal(size=(10, 500)))[1] < 0.4


def test_likeness_is_a_cosine_from_the_mean() -> None:
    rng = np.random.default_rng(1)
    X, moral = rng.normal(size=(50, 6)) + 5, rng.uniform(size=(50, 3))
    C = centres(X, moral)
    found = likeness(X, X.mean(0), C)
    x = X[7] - X.mean(0)
    assert found[7, 2] == pytest.approx(x @ C[2] / np.linalg.norm(x) / np.linalg.norm(C[2]))
    assert found.shape == (50, 3) and np.abs(found).max() <= 1 + 1e-12


def test_the_table_is_read_once(model: CausalModel, tmp_path: Path) -> None:
    starter(100).save(tmp_path / "t.parquet")
    loaded = Loaded(model, vectors=tmp_path / "t.parquet")
    marks = loaded.landmarks(lambda: False)
    assert loaded.landmarks(lambda: False) is marks
