"""Assigned values in hidden states: what is planted is found, and not what is shuffled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moralprobe.behavior.orientation.slider import VALUES
from moralprobe.behavior.text_model import Question
from moralprobe.bridges.last_states import last_states
from moralprobe.bridges.ring import (
    OTHERS,
    WORDINGS,
    _relabelled,
    _spanned,
    assigned,
    ordered,
    ring,
    told_apart,
)
from moralprobe.errors import UsageError
from moralprobe.report.orientation import of_ring
from moralprobe.steering.text import LocalText
from tests.bridges.test_instruction_generator import roomy

ASKED = assigned(WORDINGS)


def planted(along: np.ndarray, of_wording: float = 1.0, seed: int = 0) -> np.ndarray:
    """States that lie along a direction by persona, with a place of its own for each wording."""
    rng, d = np.random.default_rng(seed), 24
    own = rng.normal(size=(6, 4, d)) * of_wording  # each wording of each persona
    direction = rng.normal(size=d)
    X = rng.normal(size=(len(ASKED.texts), d)) * 0.3 + own[ASKED.wording, ASKED.persona]
    return (X + along[ASKED.persona][:, None] * direction).astype(np.float32)


def test_every_wording_stands_before_every_item() -> None:
    assert len(ASKED.texts) == 4 * 6 * 6 and len(set(ASKED.texts)) == len(ASKED.texts)
    assert tuple(WORDINGS) == VALUES and len(OTHERS) == 4
    for texts in (*WORDINGS.values(), *OTHERS.values()):
        assert len(texts) == 6
    # The same orders for all: nothing but the persona differs.
    items = {text.split("\n\n", 1)[1] for text in ASKED.texts}
    assert len(items) == 6
    words = {name: np.mean([len(t.split()) for t in texts]) for name, texts in WORDINGS.items()}
    assert max(words.values()) - min(words.values()) < 4


def test_what_lies_along_the_ring_is_found_and_what_is_shuffled_is_not() -> None:
    truth = _relabelled(ASKED, 60, np.random.default_rng(0))
    X = planted(np.array([3.0, 2.0, 0.0, -1.0]))
    order, apart = ordered(X, ASKED.persona, ASKED.wording), told_apart(X, truth, ASKED.wording)
    assert order[0] > 0.9 and (order >= order[0] - 1e-9).sum() == 1 and len(order) == 24
    assert apart[0] > 0.9
    assert (apart[1:] >= apart[0]).mean() < 0.05 and abs(apart[1:].mean() - 0.5) < 0.1
    # Wordings that differ among themselves are no values.
    p = []
    for seed in range(12):
        nothing = planted(np.zeros(4), seed=seed)
        found = told_apart(nothing, truth[:20], ASKED.wording)
        p.append((1 + (found[1:] >= found[0]).sum()) / len(found))
    assert np.mean(np.array(p) <= 0.05) <= 0.25
    # Personas that are told apart, but lie anywhere, lie in no order: nothing is fitted to it.
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        anywhere = planted(np.zeros(4), 0.3, seed) + 3 * rng.normal(size=(4, 24))[ASKED.persona]
        found = ordered(anywhere.astype(np.float32), ASKED.persona, ASKED.wording)
        p.append((found >= found[0] - 1e-9).mean())
    assert np.mean(np.array(p) <= 0.05) <= 0.15


def test_permutations_stay_within_a_wording() -> None:
    for row in _relabelled(ASKED, 5, np.random.default_rng(0))[1:]:
        for w in range(6):
            here = ASKED.wording == w
            pairs = set(zip(ASKED.persona[here].tolist(), row[here].tolist(), strict=True))
            assert len(pairs) == 4 and len({b for _, b in pairs}) == 4


def test_distances_are_between_different_wordings_and_by_hand() -> None:
    from scipy.stats import spearmanr

    X = planted(np.array([3.0, 2.0, 0.0, -1.0]), of_wording=2.0)
    places, pairs, distance = [61.39, 43.22, 0.0, -16.26], [], []
    for a in range(4):
        for b in range(a + 1, 4):
            products = []
            for v in range(6):
                for w in range(6):
                    if v != w:
                        apart = [
                            X[(ASKED.persona == a) & (ASKED.wording == u)].mean(0)
                            - X[(ASKED.persona == b) & (ASKED.wording == u)].mean(0)
                            for u in (v, w)
                        ]
                        products.append(apart[0] @ apart[1])
            distance.append(np.mean(products))
            pairs.append(abs(places[a] - places[b]))
    found = ordered(X, ASKED.persona, ASKED.wording)[0]
    assert found == pytest.approx(spearmanr(distance, pairs).statistic)
    rotated = _spanned(X)
    np.testing.assert_allclose(
        np.linalg.norm(rotated[3] - rotated[50]), np.linalg.norm(X[3] - X[50]), rtol=1e-4
    )


def test_read_outs_by_hand() -> None:
    """Fisher's discriminant by scikit-learn's covariance, a pair and a wording at a time."""
    from sklearn.covariance import LedoitWolf
    from sklearn.metrics import roc_auc_score

    X = planted(np.array([1.0, 0.5, 0.0, -0.5]), of_wording=1.0)
    labels = _relabelled(ASKED, 2, np.random.default_rng(3))
    found = told_apart(X, labels, ASKED.wording)
    for called, value in zip(labels, found, strict=True):
        by_hand = []
        for w in range(6):
            train, test = ASKED.wording != w, ASKED.wording == w
            apart = X[train].copy()
            for p in range(4):
                for v in range(6):
                    cell = (ASKED.persona[train] == p) & (ASKED.wording[train] == v)
                    if cell.any():
                        apart[cell] -= X[train][cell].mean(0)
            inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(apart).covariance_)
            for a in range(4):
                for b in range(a + 1, 4):
                    centres = [X[train][called[train] == p].mean(0) for p in (a, b)]
                    some = test & ((called == a) | (called == b))
                    said = X[some] @ inverse @ (centres[0] - centres[1])
                    by_hand.append(roc_auc_score(called[some] == a, said))
        assert value == pytest.approx(np.mean(by_hand), abs=1e-3)


def test_the_state_is_that_of_the_last_token() -> None:
    model = roomy()
    texts = ["You get one.", "You get two, and the other person gets three.", "No."]
    encoded = LocalText(model).encode([Question(text) for text in texts])
    found = last_states(model, encoded, [0, 2])
    for i, one in enumerate(encoded):
        read = []
        handle = model.decoder.layers[2].register_forward_hook(
            lambda module, args, out, read=read: read.append(
                out[0] if isinstance(out, tuple) else out
            )
        )
        with torch.no_grad():
            model.model(torch.tensor([one.ids]))
        handle.remove()
        np.testing.assert_allclose(found[1, i], read[0][0, -1], rtol=1e-3, atol=1e-4)


def test_a_ring_of_a_model_and_layers_it_does_not_have() -> None:
    model = roomy()
    table = ring(model, layers=[1], draws=19)
    assert table.height == 5 and set(table["personas"]) == {"values", "others"}
    assert table["p"].drop_nulls().is_between(1 / 24, 1).all()
    of = {(r["personas"], r["measure"]): r for r in table.to_dicts()}
    less = of["values", "auroc less others"]
    assert less["measured"] == pytest.approx(
        of["values", "auroc"]["measured"] - of["others", "auroc"]["measured"]
    )
    assert less["low"] < less["measured"] < less["high"]
    assert len(of_ring(table)) == 3
    for layers in ([5], [-1], []):
        with pytest.raises(UsageError, match="doesn't have these layers"):
            ring(model, layers=layers)
