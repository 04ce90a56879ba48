"""Geometry under personas and adapters: nothing moves by itself, and what moves is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.behavior.pluralism.learning import OWN, SHUFFLED, split
from moralprobe.bridges.adapters import adapters_in, write_adapter
from moralprobe.bridges.adapters import known as read
from moralprobe.bridges.communities import ANYBODY, BASE, CONTROLS, Moved, move
from moralprobe.bridges.community_adapters import learn
from moralprobe.bridges.lora import new_lora
from moralprobe.errors import DataError, ModelError, UsageError
from moralprobe.moral_vectors import MoralVectors
from moralprobe.report.pluralism import of_moved
from moralprobe.steering.text import LocalText
from tests.bridges.test_community_adapters import FAST, SURVEY
from tests.bridges.test_instruction_generator import roomy


@pytest.fixture(scope="module")
def vectors(starter_table: Path) -> MoralVectors:
    return MoralVectors.load(starter_table)


def rows(found: Moved, name: str, category: str = "all") -> dict[str, dict[str, float]]:
    table = found.geometry.filter(name=name, category=category)
    return {row["arm"]: row for row in table.to_dicts()}


def test_a_persona_moves_states_and_nothing_moves_by_itself(vectors: MoralVectors) -> None:
    model = roomy()
    found = move(model, vectors, ["Japan", "in general"], [1], analyses=["separation"], draws=20)
    moved = rows(found, "moved")
    assert list(moved) == [ANYBODY, *(f"people {who}" for who in CONTROLS), "Japan", "in general"]
    assert moved[ANYBODY]["value"] == pytest.approx(0, abs=1e-6)
    assert moved["Japan"]["ci_low"] > 0 and moved["people born on a Tuesday"]["value"] > 0
    for row in found.geometry.filter(arm=ANYBODY).to_dicts():
        assert row["less"] in (None, 0)
    lines = "\n".join(of_moved(found))
    assert "category_rdm all" in lines and "less its controls" in lines
    (sure,) = [line for line in lines.splitlines() if "other than their controls" in line][:1]
    for name in ("Japan", "in general"):
        low, high = moved[name]["beyond_low"], moved[name]["beyond_high"]
        word = "higher" if low > 0 else "lower" if high < 0 else None
        assert (f"{name} ({word})" in sure) == (word is not None)
    assert any(word in sure for word in ("higher", "lower"))
    again = move(model, vectors, ["Japan"], [1], analyses=["separation"], draws=20)
    assert rows(again, "moved")["Japan"] == moved["Japan"]


def test_states_are_of_the_action_alone(vectors: MoralVectors) -> None:
    """`moved` by hand: hidden states of transformers' own, at the action's tokens."""
    model = roomy()
    found = rows(move(model, vectors, ["Japan"], [0], analyses=["separation"], draws=20), "moved")
    frame = vectors.frame.filter(split="test").unique("group", maintain_order=True)
    states: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    for action in frame["action"]:
        for which, sentence in (("a", BASE), ("b", "Answer as people of Japan would.")):
            text = f"{sentence} {action} is morally"
            own = model.tokenizer(text, return_offsets_mapping=True)
            start = len(sentence) + 1
            there = [
                i
                for i, (low, high) in enumerate(own["offset_mapping"])
                if high > start and low < start + len(action) and high > low
            ]
            with torch.no_grad():
                out = model.model(torch.tensor([own["input_ids"]]), output_hidden_states=True)
            h = out.hidden_states[1][0, there].double().numpy()
            states[which].append((h / np.linalg.norm(h, axis=1, keepdims=True)).mean(0))
    a, b = (np.array(some) - np.mean(some, axis=0) for some in states.values())
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found["Japan"]["value"] == pytest.approx(1 - cosine.mean(), rel=1e-3)


def test_adapters_are_read_and_taken_out_again(vectors: MoralVectors, tmp_path: Path) -> None:
    model = roomy()
    learn(
        LocalText(model),
        split(SURVEY, 2, 44),
        arms=["none", OWN, SHUFFLED],
        training=FAST,
        out=tmp_path,
        draws=20,
    )
    known = adapters_in(tmp_path)
    assert [one.name for one in known] == [
        "adapter: north",
        "adapter: south",
        SHUFFLED + ": north",
        SHUFFLED + ": south",
    ]
    found = move(model, vectors, [], [1], adapters=known, analyses=["separation"], draws=20)
    moved = rows(found, "moved")
    assert moved["adapter: north"]["value"] > 1e-4
    own, control = moved["adapter: south"], moved[f"{SHUFFLED}: south"]
    assert (own["kind"], control["kind"]) == ("adapter", "adapter's control")
    others = [moved[f"{SHUFFLED}: {c}"]["value"] for c in ("north", "south")]
    assert own["beyond"] == pytest.approx(own["value"] - np.mean(others))
    assert own["beyond_low"] < own["beyond"] < own["beyond_high"] and control["beyond"] is None
    plain = rows(move(roomy(), vectors, ["Japan"], [1], analyses=["separation"], draws=20), "moved")
    again = rows(move(model, vectors, ["Japan"], [1], analyses=["separation"], draws=20), "moved")
    assert again["Japan"]["value"] == pytest.approx(plain["Japan"]["value"], rel=1e-3)
    untrained = new_lora(roomy(), rank=2)
    write_adapter(untrained, tmp_path / "nobody", OWN, "nobody", SURVEY.answers)
    nobody = move(
        model,
        vectors,
        [],
        [1],
        adapters=[read(tmp_path / "nobody")],
        analyses=["separation"],
        draws=20,
    )
    assert rows(nobody, "moved")["adapter: nobody"]["value"] == pytest.approx(0, abs=1e-4)
    new_lora(roomy(), rank=2, seed=1).save(tmp_path / "nobody")
    with pytest.raises(ModelError, match="doesn't hold the matrices that are told of"):
        move(model, vectors, [], [1], adapters=[read(tmp_path / "nobody")], draws=20)


def test_what_cannot_be_moved_is_refused(vectors: MoralVectors, tmp_path: Path) -> None:
    model = roomy()
    with pytest.raises(UsageError, match="communities are needed"):
        move(model, vectors, [], [1])
    with pytest.raises(UsageError, match="each once"):
        move(model, vectors, ["Japan", "Japan"], [1])
    with pytest.raises(DataError, match="are cut at"):
        move(model, vectors, ["J" + "a" * 600], [1], analyses=["separation"], draws=20)
    with pytest.raises(DataError, match="holds no adapter"):
        adapters_in(tmp_path)
    train = MoralVectors(vectors.frame.with_columns(split=pl.lit("train")), vectors.meta)
    with pytest.raises(DataError, match="no text is held out"):
        move(model, train, ["Japan"], [1])
