"""Whether a model's texts may share their beginnings: asked of its config, then of its states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from moralprobe.models.causal import CausalModel
from moralprobe.models.prefixes import cut_blocks
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.sites import Site

TRIED: Final = 512
"""Tokens in the largest tree that is read later, where the plan isn't known yet."""
_ALONE: Final = 4  # of its texts that are read alone
_WINDOWS: Final = ("sliding_window", "window_size", "attention_chunk_size")
_NEAR: Final = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.15}
"""How far a token's state may lie from the same text's read alone, as a share of its norm: rounding
takes less, and a token that sees a wrong one moves by about its own size."""


def why_not(
    model: CausalModel, texts: Sequence[Encoded], layer: int, *, tree_tokens: int = TRIED
) -> str:
    """Return why beginnings can't be shared, or nothing.

    Sharing needs attention that sees all tokens before one and no other, positions that are handed
    over, and a mask that is taken as it is. A config that speaks against it is believed; one that
    doesn't is tried on a few of the texts.

    Args:
        model: which would read.
        texts: in lexicographic order of their ids.
        layer: the last that is read.
        tree_tokens: tokens in the largest tree that is read later. The one that is tried is no
            smaller: a window that counts nodes instead of positions cuts nothing from a small one.
    """
    longest = max(map(len, texts))
    if why := _model_says(model, longest):
        return why
    start, stop = _tree_to_try([text.ids for text in texts], max(tree_tokens, longest))
    tree = list(texts[start:stop])
    try:
        together = _states(model, model.collate_trees([tree]), layer)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"it can't read a tree: {str(error).strip().splitlines()[0]}"
    for i in sorted({(len(tree) - 1) * n // (_ALONE - 1) for n in range(_ALONE)}):
        alone = _states(model, model.collate(tree[i : i + 1]), layer)[0]
        moved = together[i, : len(alone)] - alone
        share = (moved.norm(dim=-1) / alone.norm(dim=-1)).max()
        if not bool(share <= _NEAR[model.dtype]):
            return f"states move by {float(share):.0%} of their norm in layer {layer}"
    return ""


def _tree_to_try(texts: Sequence[list[int]], tokens: int) -> tuple[int, int]:
    """Return sorted texts whose tree has so many tokens, if there are so many: of those the most.

    With room for a text more, only the last tree may have fewer, and two of the longest texts have
    room in one: a tree of one text would show nothing.
    """
    blocks, sizes = cut_blocks(texts, tokens + max(map(len, texts)))
    large = [block for block, size in zip(blocks, sizes, strict=True) if size >= tokens]
    return max(large or blocks, key=lambda block: block[1] - block[0])


def _states(model: CausalModel, batch: Batch, layer: int) -> torch.Tensor:
    found: list[torch.Tensor] = []
    model.run_taps(
        batch,
        [Site("resid_post", layer)],
        lambda _, hidden: found.append(batch.of_texts(hidden).float()),
    )
    return found[0]


def _model_says(model: CausalModel, longest: int) -> str:
    config = model.model.config.get_text_config()
    if why := config_says(config, longest):
        return why
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention, {config._attn_implementation}, takes no mask"
    if model.dtype not in _NEAR:
        return f"nothing is known of rounding in {model.dtype}"
    taken = inspect.signature(model.decoder.module.forward).parameters
    if missing := {"attention_mask", "position_ids"} - taken.keys():
        return f"it takes no {' and no '.join(sorted(missing))}"
    return ""


def config_says(config: Any, longest: int) -> str:
    """Return what in the config of a text model forbids it, or nothing.

    Args:
        config: of transformers.
        longest: tokens of the longest text.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if others := sorted(k for k in kinds if not k.endswith("attention") or "linear" in k):
        return f"layers of {', '.join(others)} carry a state from token to token"
    for name in _WINDOWS:
        window = getattr(config, name, None)
        if isinstance(window, int) and 0 < window < longest:
            return f"its {name} of {window} is shorter than the longest text, of {longest} tokens"
    return ""


def folder_says(folder: Path | None, longest: int) -> str:
    """Return what `config_says` of the config in a folder; of a model that isn't here, nothing."""
    if folder is None:
        return ""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    return config_says(config.get_text_config(), longest)
