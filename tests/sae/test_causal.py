"""Ablating a feature: against the formula text by text, on a plant, and what it must leave alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from scipy import sparse

from moralprobe.errors import DataError, NumericError, UsageError
from moralprobe.geometry.association import MIN_ACTIVE
from moralprobe.geometry.readout import readout
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.sae import causal
from moralprobe.sae.causal import causal_scores, without
from moralprobe.sae.load import LoadedSAE
from moralprobe.sae.text_features import TextFeatures, read_features
from tests.activations.test_extract import starter, tiny

N, D, LAST = 300, 32, 2
POLE = 3


def texts_of(model: CausalModel, n: int = N) -> list[Encoded]:
    """Words drawn at random, of 4 to 12 letters."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeioulnrst"), rng.integers(4, 13))) for _ in range(n)]
    return model.encode(words, [(0, 1)] * n, max_tokens=64)


def load(sae: Any, layer: int, sink_norm: float | None = None) -> LoadedSAE:
    sae.cfg.metadata.sink_norm = sink_norm
    return LoadedSAE(sae.eval(), Path("nowhere"), layer)


def topk(k: int = 8) -> Any:
    torch.manual_seed(3)
    sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=D, d_sae=96, k=k))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=-1) * 1.5)
        sae.W_enc.copy_(0.5 * sae.W_dec.T)
        sae.b_dec.normal_()
    return sae


def topk_of_tokens(layer: int = 1, *, source: str = "tokens") -> LoadedSAE:
    """The same as it is loaded: of a layer, and of tokens or pooled vectors."""
    sae = topk().eval()
    sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
    sae.cfg.metadata.source = source
    return LoadedSAE(sae, Path("nowhere"), layer)


def states_of(model: CausalModel, text: Encoded, layer: int, change: Any = None) -> torch.Tensor:
    """One text alone through the whole model; what leaves `change`'s layer is replaced on the way."""
    seen: dict[int, torch.Tensor] = {}
    handles = []
    for at, block in enumerate(model.decoder.layers):

        def hook(_module: Any, _inputs: Any, output: Any, at: int = at) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if change is not None and at == change[0]:
                states = change[1](states[0])[None]
            seen[at] = states[0].clone()
            return (states, *output[1:]) if isinstance(output, tuple) else states

        handles.append(block.register_forward_hook(hook))
    with torch.no_grad():
        model.model(torch.tensor([text.ids]))
    for handle in handles:
        handle.remove()
    return seen[layer]


def minus(sae: Any, feature: int, limit: float) -> Any:
    """The definition, token by token, of an autoencoder whose decoder is a sum."""

    def change(states: torch.Tensor) -> torch.Tensor:
        states = states.clone()
        with torch.no_grad():
            for at in range(1, len(states)):
                if float(states[at].norm()) <= limit:
                    z = sae.encode(states[at][None])[0, feature]
                    states[at] = states[at] - z * sae.W_dec[feature]
        return states

    return change


def unit_mean(states: Any) -> np.ndarray:
    return np.mean([x / np.linalg.norm(x) for x in np.asarray(states)[1:]], axis=0)


def features_of(
    loaded: LoadedSAE, model: CausalModel, encoded: list[Encoded], moral: np.ndarray
) -> TextFeatures:
    rows = []
    for text in encoded:
        states = states_of(model, text, loaded.layer)[1:]
        with torch.no_grad():
            kept = states[states.norm(dim=-1) <= loaded.sink_norm]
            rows.append(loaded.sae.encode(kept).sum(0).numpy() / max(1, len(kept)))
    n = len(encoded)
    return TextFeatures(
        texts=[f"text {i}" for i in range(n)],
        activations=sparse.csr_array(np.array(rows)),
        random=sparse.csr_array((n, 1)),
        moral=moral,
        covariates=np.zeros((n, 0)),
        names=(),
        train=np.random.default_rng(1).random(n) < 0.5,
        dev_text=np.empty(0, np.int64),
        dev_moral=np.empty((0, 10)),
        explained_variance=0.9,
        warnings=(),
        encoded=tuple(encoded),
    )


def moral_of(values: np.ndarray) -> np.ndarray:
    moral = np.zeros((len(values), 10))
    moral[:, POLE] = values
    moral[:, 5] = np.random.default_rng(2).random(len(values))
    return moral


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("share", [None, 0.8])
def test_scores_are_the_formula_of_each_text_alone(family: str, share: float | None) -> None:
    model, layer = tiny(family), 1
    encoded = texts_of(model)
    norms = torch.cat([states_of(model, text, layer)[1:] for text in encoded]).norm(dim=-1)
    limit = None if share is None else float(norms.quantile(share))
    loaded = load(topk(), layer, limit)
    clean = np.array([unit_mean(states_of(model, text, LAST)) for text in encoded])
    read = features_of(loaded, model, encoded, moral_of(clean @ np.linspace(-1, 1, D)))
    held = ~read.train
    active = np.asarray((read.activations[held] != 0).sum(axis=0)).ravel()
    feature, other = (int(f) for f in np.argsort(-np.where(active < 80, active, 0))[:2])
    assert active[other] > MIN_ACTIVE
    found = causal_scores(loaded, model, read, [feature], [POLE], [other], n_texts=10**6)
    weights, r = readout(clean, read.moral, read.train, 0)
    for f, score in ((feature, found.score[0]), (other, found.null_score[0])):
        change = minus(loaded.sae, f, loaded.sink_norm)
        mine = [i for i in np.flatnonzero(held) if read.activations[i, f] != 0]
        moves = [
            (unit_mean(states_of(model, encoded[i], LAST, (layer, change))) - clean[i]) @ weights
            for i in mine
        ]
        assert score == pytest.approx(np.mean(moves, axis=0)[POLE], rel=2e-3, abs=2e-5)
        assert abs(score) > 1e-3
    assert found.texts[0] == active[feature]
    assert found.low[0] < found.score[0] < found.high[0]
    assert found.readout.layer == LAST
    np.testing.assert_allclose(found.readout.r, r, atol=1e-4)


def planted(model: CausalModel) -> tuple[LoadedSAE, TextFeatures]:
    """An autoencoder of the last layer: feature 0 writes what pole 3 is, others something else."""
    directions = np.linalg.qr(np.random.default_rng(4).normal(size=(D, D)))[0].T
    sae = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D, d_sae=D))
    with torch.no_grad():
        sae.W_dec.copy_(torch.from_numpy(directions))
        sae.W_enc.copy_(torch.from_numpy(directions).T)
        sae.b_enc.zero_(), sae.b_dec.zero_()
    loaded = load(sae, LAST)
    encoded = texts_of(model)
    clean = np.array([unit_mean(states_of(model, text, LAST)) for text in encoded])
    return loaded, features_of(loaded, model, encoded, moral_of(clean @ directions[0]))


def test_a_feature_that_writes_what_is_read_carries_it_and_another_doesnt() -> None:
    model = tiny()
    loaded, read = planted(model)
    features = np.arange(D)
    found = causal_scores(
        loaded, model, read, features, [POLE] * D, np.roll(features, 1), n_texts=10**6
    )
    clean = [states_of(model, text, LAST).numpy() for text in read.encoded]
    assert found.readout.r[POLE] > 0.99 and abs(found.readout.r[5]) < 0.3
    # What the plant itself says, without any read-out fitted.
    direction = loaded.sae.W_dec[0].detach().numpy()
    ablated = [x - np.outer((x @ direction).clip(0), direction) for x in clean]
    before, after = (
        np.array([unit_mean(x) @ direction for x in rows]) for rows in (clean, ablated)
    )
    held = ~read.train
    expected = (after - before)[held].mean() / before[held].std()
    assert found.score[0] == pytest.approx(expected, rel=0.1) and expected < -0.5
    assert found.high[0] < -0.4
    assert np.abs(found.score[1:]).max() < 0.15 * -found.score[0]
    # The null is the other's score on the same pole: for the first that of the last, and so on.
    np.testing.assert_allclose(found.null_score, np.roll(found.score, 1))
    assert found.null_score[1] == found.score[0]
    np.testing.assert_allclose(found.null_low, np.roll(found.low, 1))
    np.testing.assert_allclose(found.null_high, np.roll(found.high, 1))
    # On a pole that has nothing to do with it, it does nothing of the kind.
    elsewhere = causal_scores(loaded, model, read, [0], [5], [-1])
    assert elsewhere.score[0] > 0.5 * found.score[0]
    assert np.isnan(elsewhere.null_score[0])


def test_at_most_so_many_texts_are_taken_evenly_and_the_same_by_seed_and_company() -> None:
    model = tiny()
    loaded, read = planted(model)
    every = causal_scores(loaded, model, read, [0], [POLE], [1], n_texts=10**6)
    seen: list[tuple[int, int]] = []
    some, again = (
        causal_scores(
            loaded,
            model,
            read,
            features,
            [POLE] * len(features),
            [-1] * len(features),
            n_texts=40,
            progress=lambda done, total: seen.append((done, total)),
        )
        for features in ([0], [7, 0, 7])
    )
    assert every.texts[0] > 40 and some.texts[0] == 40
    assert seen[-1] == (N + 80, N + 80) and (N + 40, N + 40) in seen
    assert again.score[1] == pytest.approx(some.score[0], rel=1e-5)
    assert again.score[0] == again.score[2]
    # From the weakest to the strongest alike, so that the mean is near that of all.
    assert some.score[0] == pytest.approx(every.score[0], rel=0.05)
    assert some.score[0] != every.score[0]
    other = causal_scores(loaded, model, read, [0], [POLE], [-1], n_texts=40, seed=1)
    assert other.score[0] != some.score[0]
    # A read-out that is there is taken, and the texts aren't read again.
    seen.clear()
    doubled = replace(some.readout, weights=2 * some.readout.weights)
    taken = causal_scores(
        *(loaded, model, read, [0], [POLE], [-1]),
        n_texts=40,
        readout=doubled,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert taken.score[0] == pytest.approx(2 * some.score[0], rel=1e-5)
    assert seen[-1] == (40, 40)


@pytest.mark.parametrize(
    "sae",
    [
        sae_lens.StandardSAEConfig(d_in=D, d_sae=96),
        sae_lens.StandardSAEConfig(d_in=D, d_sae=96, normalize_activations="constant_norm_rescale"),
        sae_lens.StandardSAEConfig(d_in=D, d_sae=96, normalize_activations="layer_norm"),
        sae_lens.TopKSAEConfig(d_in=D, d_sae=96, k=6, rescale_acts_by_decoder_norm=True),
        sae_lens.JumpReLUSAEConfig(d_in=D, d_sae=96),
        sae_lens.GatedSAEConfig(d_in=D, d_sae=96),
    ],
    ids=lambda config: f"{config.architecture()}-{config.normalize_activations}",
)
def test_what_is_taken_away_is_the_features_part_of_the_decoding(sae: Any) -> None:
    torch.manual_seed(0)
    sae = sae_lens.SAE.get_sae_class_for_architecture(sae.architecture())(sae)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(std=0.5)
        states = 3 * torch.randn(4, 7, D)
        features = torch.tensor([5, 11, 5, 60])
        found = states - without(sae, states, features)
        taken = 0
        for row, feature in enumerate(features.tolist()):
            x = states[row]
            whole = sae.decode(sae.encode(x))
            z = sae.encode(x)
            taken += int((z[:, feature] != 0).sum())
            z[:, feature] = 0
            torch.testing.assert_close(found[row], whole - sae.decode(z), rtol=1e-3, atol=1e-4)
    assert taken > 0


def test_no_other_feature_is_chosen_in_its_place() -> None:
    sae = topk(k=4)
    states = 5 * torch.randn(1, 200, D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        acts = sae.encode(states)[0]
        feature = int((acts != 0).sum(0).argmax())
        found = (states - without(sae, states, torch.tensor([feature])))[0]
        assert 0 < int((acts[:, feature] != 0).sum()) < 200
        expected = acts[:, feature, None] * sae.W_dec[feature]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        # An encoder without the feature would have taken another.
        sae.W_enc[:, feature] = 0
        sae.b_enc[feature] = -100
        assert ((sae.encode(states)[0] != 0).sum(1) == 4).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_token_0_and_sinks_stay_as_they_are(family: str) -> None:
    model, layer = tiny(family), 1
    encoded = texts_of(model, 250)
    norms = torch.cat([states_of(model, text, layer)[1:] for text in encoded]).norm(dim=-1)
    loaded = load(topk(k=96), layer, float(norms.median()))
    read = features_of(loaded, model, encoded, moral_of(np.random.default_rng(0).random(250)))
    feature = int(np.asarray((read.activations != 0).sum(axis=0)).argmax())
    ids: list[tuple[int, ...]] = []
    entering: list[torch.Tensor] = []

    def record(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        entering.extend((args[0] if args else named["hidden_states"]).clone())

    handles = [
        model.decoder.embedding.register_forward_pre_hook(
            lambda _, args: ids.extend(tuple(row.tolist()) for row in args[0])
        ),
        model.decoder.layers[layer + 1].register_forward_pre_hook(record, with_kwargs=True),
    ]
    found = causal_scores(loaded, model, read, [feature], [POLE], [-1])
    for handle in handles:
        handle.remove()
    clean = dict(zip(ids[:250], entering[:250], strict=True))
    assert len(entering[250:]) == found.texts[0] == 64
    same = changed = 0
    for text, states in zip(ids[250:], entering[250:], strict=True):
        stays = clean[text].norm(dim=-1) > loaded.sink_norm
        stays[0] = True
        torch.testing.assert_close(states[stays], clean[text][stays], rtol=1e-4, atol=1e-4)
        same += int(stays[1:].sum())
        changed += int(((states - clean[text]).norm(dim=-1) > 1e-3)[~stays].sum())
    assert same > 50 and changed > 50


def test_too_few_texts_give_no_number() -> None:
    model = tiny()
    loaded, read = planted(model)
    rows = np.flatnonzero(~read.train)[: MIN_ACTIVE - 1]
    activations = read.activations.tolil()
    activations[:, 4] = 0
    activations[rows, 4] = 1
    rare = replace(read, activations=sparse.csr_array(activations))
    found = causal_scores(loaded, model, rare, [4, 0, 0], [POLE, -1, POLE], [0, 0, 4])
    for values in (found.score, found.low, found.high):
        assert np.isnan(values[:2]).all() and np.isfinite(values[2])
    assert found.texts.tolist() == [0, 0, 64]
    assert np.isfinite(found.null_score[0]) and np.isnan(found.null_score[1:]).all()
    # A pole that is nowhere is read by nothing.
    assert np.isnan(causal_scores(loaded, model, rare, [0], [7], [-1]).score[0])
    assert np.isnan(found.readout.r[7])
    # Neither is any where too few texts are left to fit a read-out, or to try it.
    for train in (np.zeros(N, bool), np.arange(N) >= MIN_ACTIVE - 1):
        none = causal_scores(loaded, model, replace(read, train=train), [0], [POLE], [-1])
        assert np.isnan(none.score[0]) and np.isnan(none.readout.r).all()
    nobody = causal_scores(loaded, model, read, [], [], [])
    assert len(nobody.score) == len(nobody.null_score) == 0


def test_an_ablation_that_changes_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    loaded, read = planted(model)
    with pytest.raises(NumericError, match=r"feature 0 doesn't change .*resid_post.2"):
        # All tokens are sinks: the hook runs, and changes none.
        causal_scores(load(loaded.sae, LAST, 1e-6), model, read, [0], [POLE], [-1])
    with monkeypatch.context() as patch:
        patch.setattr(causal, "edited", lambda *_: nullcontext())
        with pytest.raises(NumericError, match="in 64 of 64 texts"):
            causal_scores(loaded, model, read, [0], [POLE], [-1])
    # Texts of other activations than their own.
    mixed = replace(read, encoded=(read.encoded[0],) * N)
    dead = int(np.asarray(read.activations[[0]].todense()).ravel().argmin())
    with pytest.raises(NumericError, match=f"feature {dead} "):
        causal_scores(loaded, model, mixed, [dead], [POLE], [-1])


def test_what_cant_be_read_out_is_refused() -> None:
    model = tiny()
    loaded, read = planted(model)
    for layer in (LAST - 1, LAST + 1):
        with pytest.raises(UsageError, match=f"resid_post.{layer}"):
            causal_scores(loaded, model, read, [0], [POLE], [-1], readout_layer=layer)
    with pytest.raises(DataError, match="tokens of the texts are missing"):
        causal_scores(loaded, model, replace(read, encoded=()), [0], [POLE], [-1])
    with pytest.raises(UsageError, match="ablated in no text"):
        causal_scores(loaded, model, read, [0], [POLE], [-1], n_texts=0)


def test_a_layer_that_can_be_chosen_is_read_out() -> None:
    model = tiny()
    encoded = texts_of(model)
    loaded = load(topk(), 0)
    clean = np.array([unit_mean(states_of(model, text, 1)) for text in encoded])
    read = features_of(loaded, model, encoded, moral_of(clean @ np.linspace(-1, 1, D)))
    middle, last = (
        causal_scores(loaded, model, read, [], [], [], readout_layer=layer).readout.r[POLE]
        for layer in (1, 2)
    )
    assert middle > 0.999 and middle > last


def test_features_that_are_read_bring_their_tokens() -> None:
    model = tiny()
    loaded = load(topk(k=24), 1)
    loaded.sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    with torch.no_grad():
        loaded.sae.W_dec.copy_(torch.nn.functional.normalize(loaded.sae.W_dec, dim=-1))
        loaded.sae.b_dec.zero_()
    read = read_features(loaded, model, starter(60))
    assert len(read.encoded) == len(read.texts)
    for text, encoded in zip(read.texts, read.encoded, strict=True):
        assert text in model.tokenizer.decode(encoded.ids)
