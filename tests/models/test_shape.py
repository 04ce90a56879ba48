"""Sizes without weights: the registry's against transformers' own modules, a folder's against its
weights, and which parameters of a mixture of experts act on a token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moralprobe.errors import ModelError
from moralprobe.models.registry import RegisteredModel, models
from moralprobe.models.shape import (
    active_parameters,
    local_folder,
    local_tokenizer,
    model_shape,
)
from moralprobe.models.tiny import FAMILIES, save_tiny, tiny_model

GPT_OSS = {
    "intermediate_size": 2880,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 8,
    "vocab_size": 201088,
}
# What the published configs say beside the registry, by family and billions of parameters.
CONFIGS: dict[tuple[str, float], tuple[str, dict[str, Any]]] = {
    ("Qwen3", 0.6): ("qwen3", {"intermediate_size": 3072, "tie_word_embeddings": True}),
    ("Qwen3", 4.0): ("qwen3", {"intermediate_size": 9728, "tie_word_embeddings": True}),
    ("Qwen3", 8.2): ("qwen3", {"intermediate_size": 12288, "tie_word_embeddings": False}),
    ("Qwen3", 14.8): ("qwen3", {"intermediate_size": 17408, "tie_word_embeddings": False}),
    ("Qwen3", 32.8): ("qwen3", {"intermediate_size": 25600, "tie_word_embeddings": False}),
    ("Qwen3", 235): (
        "qwen3_moe",
        {
            "moe_intermediate_size": 1536,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
    ),
    ("Llama 3.1", 8.03): ("llama", {"intermediate_size": 14336, "vocab_size": 128256}),
    ("Llama 4", 109): (
        "llama4_text",
        {
            "intermediate_size": 8192,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "vocab_size": 202048,
        },
    ),
    ("gpt-oss", 20.9): ("gpt_oss", {**GPT_OSS, "num_local_experts": 32}),
    ("gpt-oss", 116.8): ("gpt_oss", {**GPT_OSS, "num_local_experts": 128}),
}
ONE_OF_EACH = {(m.family, m.parameters_b): m for m in models()}


def test_relatives_share_all_sizes() -> None:
    for model in models():
        twin = ONE_OF_EACH[model.family, model.parameters_b]
        for size in ("n_heads", "head_dim", "block_parameters", "n_layers", "d_model"):
            assert getattr(model, size) == getattr(twin, size), (model.id, size)


@pytest.mark.parametrize("model", ONE_OF_EACH.values(), ids=lambda model: model.id)
def test_the_registry_counts_as_transformers_modules_do(model: RegisteredModel) -> None:
    family, sizes = CONFIGS[model.family, model.parameters_b]
    common = {"num_key_value_heads": 8, "vocab_size": 151936}
    config = transformers.AutoConfig.for_model(
        family,
        hidden_size=model.d_model,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        head_dim=model.head_dim,
        **{**common, **sizes},
    )
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config)
    blocks = {active_parameters(block, config) for block in built.model.layers}
    assert blocks == {model.block_parameters}
    # Llama 4 is published with its image encoder, of just over a billion.
    text_only = model.parameters_b - (1.2 if model.family == "Llama 4" else 0)
    assert sum(p.numel() for p in built.parameters()) / 1e9 == pytest.approx(text_only, rel=0.01)
    # The published active size counts one or both embeddings too, and is rounded.
    active = model.n_layers * model.block_parameters / 1e9
    embeddings = 2 * config.vocab_size * model.d_model / 1e9
    assert active < model.active_parameters_b * 1.01 < 1.07 * (active + embeddings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_s_sizes_are_those_of_its_weights(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path / "m", n_layers=2)
    (folder / "model.safetensors").unlink()  # only the config is read
    shape, built = model_shape(str(folder)), tiny_model(family, n_layers=2)
    assert (shape.id, shape.folder, shape.n_layers) == ("m", folder, 2)
    assert (shape.d_model, shape.n_heads, shape.head_dim) == (32, 4, 8)
    assert shape.parameters == sum(p.numel() for p in built.parameters())
    assert local_tokenizer(folder) is not None


def test_a_token_is_counted_with_its_own_experts_only() -> None:
    """Two of four experts: 3 matrices of 32 x 32 each, beside attention, router and norms."""
    model = tiny_model("qwen3_moe")
    (block, *_) = model.model.layers
    attention = 32 * (32 + 16 + 16) + 32 * 32 + 2 * 8
    assert active_parameters(block, model.config) == attention + 4 * 32 + 2 * 3 * 32 * 32 + 2 * 32
    whole = sum(p.numel() for p in block.parameters())
    assert whole - active_parameters(block, model.config) == 2 * 3 * 32 * 32


def test_experts_in_a_list_are_counted_as_stacked_ones_are() -> None:
    class Config:
        num_experts, num_experts_per_tok = 4, 1

    block = torch.nn.ModuleDict(
        {
            "router": torch.nn.Linear(8, 4, bias=False),
            "experts": torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4)),
        }
    )
    assert active_parameters(block, Config()) == 8 * 4 + 72


def test_a_model_of_the_registry_needs_nothing_on_this_machine() -> None:
    shape = model_shape("Qwen/Qwen3-8B")
    assert shape.folder is None and shape.n_layers == 36 and shape.parameters == 8_200_000_000
    assert local_folder("Qwen/Qwen3-8B") is None and local_folder("./absent") is None


def test_a_model_in_the_hub_s_cache_is_found_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    repo = tmp_path / "models--someone--small"
    save_tiny("llama", repo / "snapshots" / commit, n_layers=2)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    shape = model_shape("someone/small")
    assert shape.id == "someone/small" and shape.n_layers == 2
    assert shape.folder is not None and local_tokenizer(shape.folder) is not None


def test_a_config_that_transformers_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "perceptron"}))
    with pytest.raises(ModelError, match="can't build"):
        model_shape(str(tmp_path))
    assert local_tokenizer(tmp_path) is None
