"""What an autoencoder is judged by, against the formulas written naively and against SAELens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from sae_lens.evals import ExplainedVarianceCalculator

from moralprobe.activations.distinct import Tokens
from moralprobe.errors import DataError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.sae.directions import next_tokens
from moralprobe.sae.evaluate import DENSE, evaluate, loss_recovered, reconstruction, spread
from moralprobe.sae.load import LoadedSAE, load_sae
from moralprobe.sae.peer import evaluate_with_sae_lens
from tests.activations.test_extract import tiny

LAYER = 1
TEXTS = ("helping a friend is morally", "lying to him is morally", "stealing", "to be kind")


class Copies:
    """Reconstructs what it is given."""

    device = torch.device("cpu")

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts


def encoded_by(model: CausalModel) -> list[Encoded]:
    return model.encode(TEXTS, [(0, 1)] * len(TEXTS), max_tokens=64)


def naive_loss(model: CausalModel, texts: list[Encoded], change: Any) -> float:
    """Every text alone; what leaves the block is replaced from token 1 on."""
    total, n = 0.0, 0
    for text in texts:
        ids = torch.tensor([text.ids])

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            states = (output[0] if isinstance(output, tuple) else output).clone()
            for at in range(1, states.shape[1]):
                states[0, at] = change(states[0, at])
            return (states, *output[1:]) if isinstance(output, tuple) else states

        handle = model.decoder.layers[LAYER].register_forward_hook(hook)
        with torch.no_grad():
            logits = model.model(ids).logits[0]
        handle.remove()
        for at in range(len(text) - 1):
            total -= float(torch.log_softmax(logits[at], -1)[text.ids[at + 1]])
            n += 1
    return total / n


def test_losses_are_those_of_each_text_alone() -> None:
    model = tiny()
    texts = encoded_by(model)
    mean = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))

    class Doubles(Copies):
        def decode(self, acts: torch.Tensor) -> torch.Tensor:
            return 2 * acts

    found = loss_recovered(Doubles(), model, texts, LAYER, mean=mean)
    expected = {
        "clean": lambda x: x,
        "spliced": lambda x: 2 * x,
        "zero": torch.zeros_like,
        "mean": lambda x: mean,
    }
    assert found.tokens == sum(len(text) - 1 for text in texts)
    for name, change in expected.items():
        assert getattr(found, name) == pytest.approx(naive_loss(model, texts, change), abs=1e-4)
    assert len({round(getattr(found, name), 3) for name in expected}) == 4
    recovered = (found.zero - found.spliced) / (found.zero - found.clean)
    assert found.recovered_from_zero == pytest.approx(recovered)
    recovered = (found.mean - found.spliced) / (found.mean - found.clean)
    assert found.recovered_from_mean == pytest.approx(recovered)


def test_a_copy_costs_nothing_and_sinks_stay_as_they_are() -> None:
    model = tiny()
    texts = encoded_by(model)
    mean = torch.zeros(model.d_model)
    copied = loss_recovered(Copies(), model, texts, LAYER, mean=mean)
    assert copied.recovered_from_zero == pytest.approx(1, abs=1e-5)
    assert copied.zero != pytest.approx(copied.clean, abs=1e-3)
    all_sinks = loss_recovered(Copies(), model, texts, LAYER, mean=mean, limit=0.0)
    assert all_sinks.zero == pytest.approx(all_sinks.clean, abs=1e-6)


def stock(model: CausalModel, folder: Path, **metadata: Any) -> LoadedSAE:
    torch.manual_seed(3)
    sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=model.d_model, d_sae=96, k=24))
    for name, value in {"hook_name": f"blocks.{LAYER}.hook_resid_post", **metadata}.items():
        setattr(sae.cfg.metadata, name, value)
    with torch.no_grad():  # half of what it is given, about
        sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=-1))
        sae.W_enc.copy_(0.5 * sae.W_dec.T)
    sae.save_model(folder)
    return load_sae(folder)


def states_of(model: CausalModel, texts: list[Encoded], first: int) -> torch.Tensor:
    found = []
    for text in texts:
        with torch.no_grad():
            out = model.model(torch.tensor([text.ids]), output_hidden_states=True)
        found.append(out.hidden_states[LAYER + 1][0, first:])
    return torch.cat(found)


def test_a_reconstruction_is_measured_as_it_is_written(tmp_path: Path) -> None:
    model = tiny()
    sae = stock(model, tmp_path / "sae").sae
    x = states_of(model, encoded_by(model), 1)
    found = reconstruction(sae, x)
    with torch.no_grad():
        acts = sae.encode(x)
        out = sae.decode(acts)
    left = sum(float((a - b).pow(2).sum()) for a, b in zip(x, out, strict=True))
    varies = sum(float((a - x.mean(0)).pow(2).sum()) for a in x)
    assert found.explained_variance == pytest.approx(1 - left / varies, rel=1e-4)
    theirs = ExplainedVarianceCalculator()
    theirs.add_batch(out, x)
    assert found.explained_variance == pytest.approx(theirs.compute(), rel=1e-4)
    share = (acts != 0).double().mean(0)
    assert found.n == len(x)
    assert found.l0 == pytest.approx(float((acts != 0).sum(1).double().mean()))
    assert found.dead == pytest.approx(float((share == 0).double().mean()))
    assert found.dense == pytest.approx(float((share > DENSE).double().mean()))
    assert 0 < found.dense < 1
    cosine = torch.nn.functional.cosine_similarity(x, out).mean()
    assert found.cosine == pytest.approx(float(cosine), rel=1e-4)
    assert found.norm_ratio == pytest.approx(float((out.norm(dim=1) / x.norm(dim=1)).mean()))


def test_an_evaluation_leaves_sinks_and_token_0_out(tmp_path: Path) -> None:
    model = tiny()
    texts = encoded_by(model)
    tokens = Tokens.distinct(texts)
    norms = states_of(model, texts, 1).norm(dim=1)
    limit = float(norms.quantile(0.8))
    all_of_them = evaluate(stock(model, tmp_path / "a"), model, tokens)
    fewer = evaluate(stock(model, tmp_path / "b", sink_norm=limit), model, tokens)
    assert all_of_them.sinks == 0 and all_of_them.reconstruction.n == len(tokens)
    assert fewer.reconstruction.n == int((norms <= limit).sum())
    assert fewer.sinks == pytest.approx(1 - fewer.reconstruction.n / len(tokens))
    # They stay as they are in the model too.
    assert fewer.loss.zero != pytest.approx(all_of_them.loss.zero, abs=1e-4)
    assert fewer.loss.clean == pytest.approx(all_of_them.loss.clean)
    with pytest.raises(DataError, match="no text to judge by"):
        evaluate(stock(model, tmp_path / "c"), model, Tokens.distinct([]))


@pytest.mark.parametrize("hook", [f"blocks.{LAYER}.hook_out", f"blocks.{LAYER + 1}.hook_resid_pre"])
def test_sae_lens_evaluates_the_same_file_token_0_too(hook: str, tmp_path: Path) -> None:
    model = tiny()
    texts = encoded_by(model)
    loaded = stock(model, tmp_path / "sae", hook_name=hook)
    theirs = evaluate_with_sae_lens(loaded, model, texts)
    ours = reconstruction(loaded.sae, states_of(model, texts, 0))
    assert theirs.explained_variance == pytest.approx(ours.explained_variance, abs=1e-3)
    assert theirs.l0 == pytest.approx(ours.l0)
    assert math.isfinite(theirs.ce_loss_score)


def test_texts_are_spread_evenly() -> None:
    texts: Any = list(range(10))
    assert spread(texts, 5) == [0, 2, 4, 6, 8]
    assert spread(texts, 50) == texts


def test_next_tokens_are_those_of_the_unembedded_direction(tmp_path: Path) -> None:
    model = tiny()
    loaded = stock(model, tmp_path / "sae")
    raised, lowered = next_tokens(loaded, model, [0, 7], n=4)
    unembed = model.model.get_output_embeddings().weight
    for feature in (0, 7):
        logits = (unembed @ loaded.sae.W_dec[feature]).detach()
        order = logits.argsort(descending=True).tolist()
        assert raised[feature] == [model.tokenizer.decode([i]) for i in order[:4]]
        assert lowered[feature] == [model.tokenizer.decode([i]) for i in order[:-5:-1]]
