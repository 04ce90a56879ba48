from __future__ import annotations

import pytest
import torch
from torch import nn

from moralprobe.errors import ModelError
from moralprobe.models.layers import find_decoder
from moralprobe.models.load import load_model
from moralprobe.models.tiny import FAMILIES, tiny_model, tiny_tokenizer
from moralprobe.sites import EMBED, FIRST_INPUT, Site

TEXT = "helping a neighbor. is morally"
AT = [Site("resid_post", layer) for layer in range(3)]


@pytest.mark.parametrize("n_layers", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_taps_equal_output_hidden_states(family: str, n_layers: int) -> None:
    """resid_post.L is hidden_states[L + 1], but for the last, which gets the final norm first."""
    live = load_model(tiny_model(family, n_layers=n_layers), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    read: dict[int, torch.Tensor] = {}
    live.run_taps(
        batch,
        [Site("resid_post", layer) for layer in range(n_layers)],
        lambda site, hidden: read.setdefault(site.layer, hidden.clone()),
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
def test_the_inputs_equal_the_first_hidden_states_and_the_embedding_table(family: str) -> None:
    live = load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    read: dict[Site, torch.Tensor] = {}
    live.run_taps(
        batch, [EMBED, FIRST_INPUT], lambda site, hidden: read.setdefault(site, hidden.clone())
    )
    with torch.inference_mode():
        first = live.model(
            input_ids=batch.ids, output_hidden_states=True, use_cache=False
        ).hidden_states[0]
        table = live.model.get_input_embeddings()(batch.ids)
    torch.testing.assert_close(read[FIRST_INPUT], first, rtol=0, atol=0)
    torch.testing.assert_close(read[EMBED], table, rtol=0, atol=0)


def test_an_embedding_table_may_have_a_width_of_its_own() -> None:
    config = tiny_model("opt").config
    config.word_embed_proj_dim = 16
    live = load_model(type(tiny_model("opt"))(config), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    widths: dict[Site, int] = {}
    live.run_taps(
        batch,
        [EMBED, FIRST_INPUT, AT[0]],
        lambda site, hidden: widths.setdefault(site, hidden.shape[-1]),
    )
    assert widths == {EMBED: 16, FIRST_INPUT: 32, AT[0]: 32}


def test_a_site_that_is_reached_twice_is_an_error() -> None:
    live = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    blocks = live.decoder.layers
    live.decoder.module.layers = nn.ModuleList([blocks[0], blocks[0], blocks[2]])
    with pytest.raises(ModelError, match=r"resid_post\.0, resid_post\.2 asked for and not"):
        live.run_taps(batch, [AT[0], AT[2]], lambda site, hidden: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_never_runs_and_nothing_after_the_last_layer(family: str) -> None:
    live = load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    ran: list[str] = []
    live.model.get_output_embeddings().register_forward_hook(lambda *_: ran.append("head"))
    live.decoder.layers[2].register_forward_hook(lambda *_: ran.append("block 2"))
    live.decoder.final_norm.register_forward_hook(lambda *_: ran.append("norm"))
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))
    live.run_taps(batch, [AT[0], AT[1], EMBED], lambda site, hidden: None)
    assert ran == []
    live.run_taps(batch, [AT[2]], lambda site, hidden: None)
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
    with pytest.raises(ModelError, match=r"did not fire\. resid_post\.2 asked for"):
        live.run_taps(batch, AT, lambda site, hidden: None)


def test_hooks_are_removed_even_after_an_error() -> None:
    live = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    batch = live.collate(live.encode([TEXT], [(0, 19)], max_tokens=128))

    def fails(site: Site, hidden: torch.Tensor) -> None:
        if site == AT[0]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        live.run_taps(batch, [AT[0], EMBED, FIRST_INPUT], fails)
    for module in (*live.decoder.layers, live.decoder.embedding):
        assert not module._forward_hooks and not module._forward_pre_hooks
