"""A text voices what a sentence of it entails: by hand, and by a model of known entailments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moralprobe.behavior.pluralism.overton import measure
from moralprobe.behavior.pluralism.voicing import calibrate, load_positions
from moralprobe.behavior.text_model import Scripted
from moralprobe.bridges.position_judge import Entails
from moralprobe.bridges.scorer import Entailment, load_entailment
from tests.bridges.test_scorer import mnli


def test_the_sentence_that_entails_most_counts(tmp_path: Path) -> None:
    labels = {0: "contradiction", 1: "entailment", 2: "neutral"}
    nli = load_entailment(mnli(tmp_path / "nli", labels), device="cpu")
    pairs = [
        ("q", "a thing. be it so! or so", "a thing"),
        ("q", "one\ntwo", "be"),
        ("q", "one", "a"),
        ("q", "  ", "a"),
    ]
    found = Entails(nli).voiced(pairs)
    parts = [["a thing.", "be it so!", "or so"], ["one", "two"], ["one"], []]
    for (_, _, position), some, said in zip(pairs, parts, found, strict=True):
        each = []
        for sentence in some:
            with torch.no_grad():
                batch = nli.tokenizer(sentence, position, return_tensors="pt")
                each.append(float(nli.model(**batch).logits[0].double().softmax(-1)[1]))
        assert said == pytest.approx(max(each, default=0.0), abs=1e-6)
    assert len({*np.round(found, 9)}) == 4


def test_who_knows_what_follows_is_usable_and_finds_what_is_voiced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = load_positions("starter")
    follows = {
        (f"One view is this: {words}", position)
        for one in items
        for position, words in zip(one.positions, one.paraphrases, strict=True)
    }
    knows = Entailment("knows", None, None, (0, 1))
    monkeypatch.setattr(
        Entailment,
        "entailed",
        lambda self, pairs: np.array([0.9 if pair in follows else 0.1 for pair in pairs]),
    )
    judge = Entails(knows)
    assert calibrate(items, judge, draws=100).usable
    first = {one.question: one.texts[0] for one in items}
    model = Scripted("first", lambda question: first[question.text.split("\n\n")[0]])
    found = measure(model, items, judge, ask=["plain"], samples=1, draws=50)
    (row,) = found.scores.filter(arm="plain", measure="coverage").to_dicts()
    assert row["value"] == pytest.approx(1 / 3)
    assert found.summary["judge"]["name"] == "knows"
