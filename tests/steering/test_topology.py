"""Tuning end to end: a planted dictionary is brought nearer to judgements, its shuffled twin isn't."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sae_lens
import torch
from scipy import sparse

from moralprobe.activations.text_states import TableTexts, TextStates
from moralprobe.errors import DataError, UsageError
from moralprobe.foundations import POLES
from moralprobe.geometry.categories import category_match
from moralprobe.interventions import swap
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae.load import LoadedSAE
from moralprobe.steering import topology
from moralprobe.steering.arms import edited_texts
from moralprobe.steering.intervention import Edit
from moralprobe.steering.losses import geometry_terms
from moralprobe.steering.selection import Material, frozen_of, masks_of
from moralprobe.steering.topology import Schedule, tune
from moralprobe.steering.tunable import Tunable

D, F, TEXTS, TOKENS = 24, 60, 900, 4
QUICK = Schedule(epochs=40, batch=150, lr=2e-2, weight_decay=0.0, patience=40)


def planted(kind: str = "standard", seed: int = 0) -> Material:
    """Texts whose tokens hold their pole's direction weakly, and an autoencoder that knows it."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(D, D)))[0][:10]
    moral = np.zeros((TEXTS, 10))
    # As in judgements a text's poles are all virtues or all vices, often of neighbouring axes.
    for i in range(TEXTS):
        first, side = rng.integers(0, 5), rng.integers(0, 2)
        axes = [first, (first + 1) % 5][: rng.integers(1, 3)]
        moral[i, [2 * a + side for a in axes]] = rng.choice([0.25, 0.5, 0.75, 1.0])
    # The poles of one axis share most of their direction, which judgements say they don't.
    mixed = directions + 2.5 * np.repeat(directions[::2], 2, axis=0)
    states = moral @ mixed * 1.5
    x = np.repeat(states, TOKENS, axis=0) + rng.normal(size=(TEXTS * TOKENS, D)) * 0.3
    torch.manual_seed(seed)
    config = {
        "standard": sae_lens.StandardSAEConfig(d_in=D, d_sae=F),
        "topk": sae_lens.TopKSAEConfig(d_in=D, d_sae=F, k=6),
    }[kind]
    sae = {"standard": sae_lens.StandardSAE, "topk": sae_lens.TopKSAE}[kind](config)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(F, D), dim=-1))
        sae.W_dec[:10] = torch.nn.functional.normalize(torch.from_numpy(mixed).float(), dim=-1)
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc.fill_(-0.2)
        sae.b_dec.zero_()
    paths = sparse.csr_array(sparse.kron(sparse.eye_array(TEXTS), np.ones((1, TOKENS))))
    splits = np.array(["train"] * 600 + ["dev"] * 150 + ["test"] * 150)
    names = [f"text {i}" for i in range(TEXTS)]
    read = TextStates(
        torch.from_numpy(x).float(),
        np.ones(len(x), np.bool_),
        sparse.csr_array(paths.astype(np.float32)),
        math.inf,
    )
    frame = pl.DataFrame({"group": names, "split": splits.tolist()}).with_columns(
        **{pole: moral[:, k] for k, pole in enumerate(POLES)}
    )
    texts = TableTexts(names, names, moral, splits, ())
    sae.cfg.metadata.source = "tokens"
    return Material(LoadedSAE(sae.eval(), Path("nowhere"), 0), MoralVectors(frame, {}), texts, read)


def table(chosen: int = 10) -> pl.DataFrame:
    at = np.arange(F)
    return pl.DataFrame(
        {
            "feature": at,
            "chosen": at < chosen,
            "pole": [POLES[f] if f < chosen else None for f in at],
            "t": np.where(at < chosen, 5.0, 0.0),
            "li_tuned": at < chosen,
            "li_strict": at < chosen // 2,
            "density": np.full(F, 0.3),
        }
    )


def match(material: Material, edit: Edit | None) -> float:
    test = material.texts.split == "test"
    return category_match(
        edited_texts(edit, material.read)[test], material.texts.moral[test], draws=2
    ).value


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_geometry_on_held_out_texts_comes_nearer_and_the_shuffled_twin_doesnt(kind: str) -> None:
    material = planted(kind)
    before = match(material, None)
    found = tune(material, table(), schedule=QUICK)
    twin = tune(material, table(), schedule=QUICK, shuffled=True)
    after, shuffled = (match(material, Edit(0, swap(fit.tuned))) for fit in (found, twin))
    assert before < 0.6
    assert after > before + 0.2
    assert shuffled < after - 0.2
    assert found.history["loss"][-1] < found.history["loss"][0]


def test_the_published_loss_goes_down_by_its_own_schedule() -> None:
    material = planted()
    found = tune(material, table(), mode="li2026", schedule=Schedule(epochs=8, lr=1e-2))
    assert found.history["loss"][-1] < found.history["loss"][0]
    assert {"rec", "sparse", "align", "pol", "proto", "mono"} <= set(found.history.columns)
    assert found.about["rows"] == {"train": 600, "dev": 150}


def test_what_the_published_loss_asks_in_vain_is_told_of_the_rows_tuned_to() -> None:
    material = planted()
    schedule = Schedule(epochs=2, lr=1e-2, batch=200)
    found = tune(material, table(), mode="li2026", schedule=schedule)
    told = found.about["defects"]
    h = material.texts.moral[material.texts.split == "train"]
    assert told["unreachable"] == (h[h > 0] < 0.5).mean()
    assert told["unasked"] == (h == 0).mean() and told["zeros"] == 0
    # Pairs as they are drawn from batch after batch, with the features as tuning left them.
    device = torch.device("cpu")
    tunable = Tunable(material.loaded.sae, torch.arange(10))
    frozen = frozen_of(tunable, material.read, device)
    masks = masks_of(tunable, material, table(), np.arange(10), "li2026", frozen, device)
    with torch.no_grad():
        z = found.tuned.written().encode(material.read.states)[:, :10]
    y = z.reshape(TEXTS, TOKENS, 10).mean(1) @ masks.weights.T
    generator = torch.Generator().manual_seed(2)
    tied, inside = [], []
    for start in (0, 200, 400):
        for k in range(10):
            there = [i for i in range(start, start + 200) if h[i, k] > 0]
            if len(there) < 16:
                continue
            one = torch.randint(len(there), (100,), generator=generator).tolist()
            step = torch.randint(len(there) - 1, (100,), generator=generator).tolist()
            for a, by in zip(one, step, strict=True):
                i, j = there[a], there[(a + 1 + by) % len(there)]
                tied.append(h[i, k] == h[j, k])
                if not tied[-1]:
                    inside.append((h[i, k] - h[j, k]) * float(y[i, k] - y[j, k]) < 0.1)
    assert told["tied"] == np.mean(tied) and 0.2 < told["tied"] < 0.3
    assert told["in_margin"] == pytest.approx(np.mean(inside), abs=1e-3)
    assert 0 < told["in_margin"] < 1
    assert "defects" not in tune(material, table(), schedule=QUICK, epochs=1).about


def test_a_batch_costs_what_a_loop_over_its_texts_costs() -> None:
    """Reconstruction and readings text by text, against the bags of tokens."""
    material = planted("topk")
    device = torch.device("cpu")
    tunable = Tunable(material.loaded.sae, torch.arange(10))
    with torch.no_grad():
        for parameter in tunable.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    frozen = frozen_of(tunable, material.read, device)
    masks = masks_of(tunable, material, table(), np.arange(10), "geometry", frozen, device)
    run = topology._Run(material, tunable, frozen, masks, "geometry", device)
    chosen = np.array([3, 500, 3, 42, 7, 8, 9, 11])
    h = torch.from_numpy(material.texts.moral[chosen]).float()
    with torch.no_grad():
        found = run.terms(chosen, h, torch.Generator().manual_seed(0))
    sae, written = material.loaded.sae, tunable.written()
    x_all = material.read.states
    lost, states, z_texts = [], [], []
    for i in chosen:
        units, zs = [], []
        for x in x_all[TOKENS * i : TOKENS * (i + 1)]:
            with torch.no_grad():
                z, z_old = written.encode(x[None])[0, :10], sae.encode(x[None])[0, :10]
                change = z @ written.W_dec[:10] - z_old @ sae.W_dec[:10]
                lost.append((sae.decode(sae.encode(x[None]))[0] + change - x).pow(2).sum())
            new = x + change
            units.append(new / new.norm())
            zs.append(z)
        states.append(torch.stack(units).mean(0))
        z_texts.append(torch.stack(zs).mean(0))
    variance = float((x_all - x_all.mean(0)).pow(2).sum(1).mean())
    assert float(found["rec"]) == pytest.approx(
        float(torch.stack(lost).mean()) / variance, rel=1e-3
    )
    again = geometry_terms(
        torch.stack(z_texts), h, torch.stack(states), masks, torch.Generator().manual_seed(0)
    )
    for name, value in again.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5)


def test_rows_are_drawn_by_the_published_weights() -> None:
    h = np.zeros((8, 10))
    h[1, 0], h[2, 2], h[3, 4] = 0.125, 0.25, 0.5
    h[4, 1], h[5, 3] = 0.75, 1.0
    # Three virtues, two vices: the rarer ones count 3 / 2 times.
    expected = [0.3, 1.0, 1.5, 1.5, 2.0 * 1.5, 2.0 * 1.5, 0.3, 0.3]
    np.testing.assert_allclose(topology._published_weights(h), expected)


def test_rows_keep_their_own_vectors_and_shuffled_texts_take_another_s_place() -> None:
    material = planted()
    frame = material.vectors.frame
    # Text 0 stands in a second row, of which something else was judged.
    more = frame.head(1).with_columns(care=pl.lit(0.0), harm=pl.lit(0.75))
    two = Material(
        material.loaded, MoralVectors(pl.concat([frame, more]), {}), material.texts, material.read
    )
    device = torch.device("cpu")
    how: dict[str, Any] = {"by_row": True, "seed": 0, "device": device}
    rows = topology._examples(two, "train", shuffled=False, **how)
    assert len(rows.text) == 601 and rows.text[-1] == 0
    assert (
        float(rows.moral[-1, 1]) == 0.75 and float(rows.moral[0, 1]) == material.texts.moral[0, 1]
    )
    other = topology._examples(two, "train", shuffled=True, **how)
    assert torch.equal(other.moral, rows.moral)
    assert other.text[0] == other.text[-1] != 0  # both rows of a text go to the same one
    assert sorted(set(other.text)) == sorted(set(rows.text))


def test_the_twin_is_tuned_as_long() -> None:
    material = planted()
    found = tune(material, table(), schedule=QUICK)
    kept = found.about["kept_epoch"]
    twin = tune(material, table(), schedule=QUICK, shuffled=True, epochs=kept)
    assert twin.history.height == twin.about["kept_epoch"] == kept > 1


def test_masks_follow_the_published_rule_by_the_rows_of_the_dev_split() -> None:
    plain = planted()
    frame = plain.vectors.frame
    # A fifth of the dev texts stands in a second row, of which something else was judged.
    more = frame.filter(split="dev")[::5].with_columns(
        **{pole: pl.col(POLES[k - 4]) for k, pole in enumerate(POLES)}
    )
    both = MoralVectors(pl.concat([frame, more]), {})
    material = Material(plain.loaded, both, plain.texts, plain.read)
    dev = both.frame.filter(split="dev")
    rows = [plain.texts.group.index(group) for group in dev["group"]]
    h = dev.select(POLES).to_numpy()
    assert len(rows) == 180
    tunable = Tunable(material.loaded.sae, torch.arange(10))
    device = torch.device("cpu")
    frozen = frozen_of(tunable, material.read, device)
    masks = masks_of(tunable, material, table(), np.arange(10), "li2026", frozen, device)
    with torch.no_grad():
        z = material.loaded.sae.encode(material.read.states)[:, :10].numpy()
    z = z.reshape(TEXTS, TOKENS, 10).mean(1)[rows]
    for k in range(10):
        r = np.array([np.corrcoef(z[:, f], h[:, k])[0, 1] for f in range(10)])
        weights = np.where(r > 0.1, r, 0)
        np.testing.assert_allclose(masks.weights[k], weights / weights.sum(), atol=1e-5)
        np.testing.assert_allclose(masks.poles[k], (r > 0) / (r > 0).sum(), atol=1e-6)


def test_what_cant_be_tuned_is_refused() -> None:
    material = planted()
    with pytest.raises(UsageError, match="did you mean geometry"):
        tune(material, table(), mode="geometri")
    with pytest.raises(UsageError, match="10 rows, the autoencoder 60 features"):
        tune(material, table().head(10))
    with pytest.raises(DataError, match="no moral feature"):
        tune(material, table(0))
    sae: Any = sae_lens.GatedSAE(sae_lens.GatedSAEConfig(d_in=D, d_sae=F))
    gated = Material(
        LoadedSAE(sae, Path("nowhere"), 0), material.vectors, material.texts, material.read
    )
    with pytest.raises(UsageError, match="gated"):
        tune(gated, table())
