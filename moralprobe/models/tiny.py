"""Small random models of real families, built from their configs: for tests, with no network.

What makes a family different is kept: its blocks, norms, positions, window pattern, experts. Only
sizes shrink, and windows stay wider than the short texts that are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from moralprobe.errors import UsageError, nearest

_COMMON: Final[dict[str, Any]] = {
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_EXPERTS: Final[dict[str, Any]] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SIZES: Final[dict[str, dict[str, Any]]] = {
    "llama": _COMMON,
    "llama4_text": {
        **_COMMON,
        "intermediate_size_mlp": 64,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 128,
    },
    "qwen2": _COMMON,
    "qwen3": _COMMON,
    "qwen3_moe": {
        **_COMMON,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gemma2": {**_COMMON, "sliding_window": 64, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_COMMON, "sliding_window": 64, "query_pre_attn_scalar": 8},
    "mistral": {**_COMMON, "sliding_window": 64},
    "phi": _COMMON,
    "gpt_oss": {**_COMMON, **_EXPERTS, "sliding_window": 64},
    "gpt2": {"n_head": 4, "n_positions": 256},
    "gpt_neox": {
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
    "opt": {"ffn_dim": 64, "num_attention_heads": 4, "max_position_embeddings": 256},
}
FAMILIES: Final[tuple[str, ...]] = tuple(_SIZES)


def tiny_model(family: str, *, n_layers: int = 3, d_model: int = 32, seed: int = 0) -> Any:
    """Return a random model of a family in fp32, the same for the same seed.

    Raises:
        UsageError: an unknown family.
    """
    import transformers

    if family not in _SIZES:
        raise UsageError(f"unknown family {family!r}", nearest(family, FAMILIES))
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=260,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
        **({"word_embed_proj_dim": d_model} if family == "opt" else {}),
        **_SIZES[family],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # Fresh weights are so small that layers hardly differ; real ones aren't.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_tokenizer(*, bos: bool = False) -> Any:
    """Return a fast tokenizer whose tokens are bytes; with `bos` it puts a special token in front.

    Returns:
        A `PreTrainedTokenizerFast` of 259 tokens with offsets, a pad and an end token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {byte: i for i, byte in enumerate(alphabet)}
    special = ["<pad>", "<bos>", "<eos>"]
    vocabulary |= {token: 256 + i for i, token in enumerate(special)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 257)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def save_tiny(family: str, folder: Path, *, bos: bool = False, **sizes: int) -> Path:
    """Write a tiny model and its tokenizer into a folder that `load_model` reads."""
    from moralprobe.models.quiet import quiet_transformers

    with quiet_transformers():
        tiny_model(family, **sizes).save_pretrained(folder)
        tiny_tokenizer(bos=bos).save_pretrained(folder)
    return folder
