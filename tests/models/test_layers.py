from __future__ import annotations

import pytest
import torch
from torch import nn

from moralprobe.errors import ModelError
from moralprobe.models.layers import find_decoder
from moralprobe.models.load import load_model
from moralprobe.models.tiny import FAMILIES, tiny_model, tiny_tokenizer

TEXT = "helping a neighbor. is morally"


@pytest.mark.parametrize("n_layers", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_taps_equal_output_hidden_states(family: str, n_layers: int) -> None:
    """resid_post.L is hidden_states[L + 1], but for the last, which gets the final norm first."""
    live = load_model(tiny_model(family, n_layers=n_layers), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    read: dict[int, torch.Tensor] = {}
    live.run_taps(
        batch, range(n_layers), lambda layer, hidden: read.setdefault(layer, hidden.clone())
    )
    with torch.inference_mode():
        states = live.model(
            input_ids=batch.ids, output_hidden_states=True, use_cache=False
        ).hidden_states
    assert len(states) == n_layers + 1 and sorted(read) == list(range(n_layers))
    for layer in range(n_layers - 1):
        torch.testing.assert_close(read[layer], states[layer + 1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(read[layer], states[layer], rtol=1e-2), "one layer off would pass"
    assert live.decoder.final_norm is not None
    with torch.inference_mode():
        torch.testing.assert_close(
            live.decoder.final_norm(read[n_layers - 1]), states[-1], rtol=1e-4, atol=1e-5
        )
    assert not torch.allclose(read[n_layers - 1], states[-1], rtol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_never_runs_and_nothing_after_the_last_layer(family: str) -> None:
    live = load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    ran: list[str] = []
    live.model.get_output_embeddings().register_forward_hook(lambda *_: ran.append("head"))
    live.decoder.layers[2].register_forward_hook(lambda *_: ran.append("block 2"))
    live.decoder.final_norm.register_forward_hook(lambda *_: ran.append("norm"))
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    live.run_taps(batch, [0, 1], lambda layer, hidden: None)
    assert ran == []
    live.run_taps(batch, [2], lambda layer, hidden: None)
    assert ran == ["block 2"]


class _Config:
    num_hidden_layers = 2
    hidden_size = 4

    def get_text_config(self) -> _Config:
        return self


class _Two(nn.Module):
    """Two lists of the right length beside the embedding: nothing says which is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.config = _Config()
        self.embed = nn.Embedding(5, 4)
        self.first = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.second = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


class _Vision(nn.Module):
    """A tower of the same depth as the text, with no token embedding beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = _Config()
        self.tower = nn.Module()
        self.tower.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.text = nn.Module()
        self.text.embed = nn.Embedding(5, 4)
        self.text.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

    def get_input_embeddings(self) -> nn.Module:
        return self.text.embed


def test_ambiguity_is_refused_and_can_be_settled() -> None:
    with pytest.raises(ModelError, match=r"candidates: first, second.*layers_path"):
        find_decoder(_Two())
    assert find_decoder(_Two(), "second").layers_path == "second"
    with pytest.raises(ModelError, match="did you mean second"):
        find_decoder(_Two(), "secnd")


def test_a_vision_tower_of_the_same_depth_is_not_taken() -> None:
    assert find_decoder(_Vision()).layers_path == "text.blocks"


def test_a_tap_that_does_not_fire_is_an_error() -> None:
    live = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    live.decoder.module.layers = nn.ModuleList(list(live.decoder.layers)[:2])
    with pytest.raises(ModelError, match=r"did not fire.*layers \[2\]"):
        live.run_taps(batch, [0, 1, 2], lambda layer, hidden: None)


def test_hooks_are_removed_even_after_an_error() -> None:
    live = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))

    def fails(layer: int, hidden: torch.Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        live.run_taps(batch, [0], fails)
    assert all(not block._forward_hooks for block in live.decoder.layers)
