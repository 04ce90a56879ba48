"""Read what several texts share once: a model's cache of the different ones, handed to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

_OF_ATTENTION: Final = ("DynamicLayer", "DynamicSlidingWindowLayer")


def read_alike(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    """Return the cache of all but the last token of texts, where some are the same; else None.

    Args:
        model: of transformers.
        ids: [texts, tokens], padded on the left.
        mask: [texts, tokens], false at padding.
    """
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    place: dict[tuple[tuple[int, ...], tuple[bool, ...]], int] = {}
    of = [place.setdefault((tuple(row), tuple(there)), len(place)) for row, there in rows]
    if len(place) == len(of) or ids.shape[1] < 2:
        return None
    first = [of.index(i) for i in range(len(place))]
    held = mask[first, :-1].long()
    out = model(
        input_ids=ids[first, :-1],
        attention_mask=held,
        position_ids=(held.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = getattr(out, "past_key_values", None)
    # Some models keep what they have read under another name, and read every text themselves.
    return None if cache is None else handed(cache, of)


def handed(cache: Any, of: Sequence[int]) -> Any:
    """Return a cache whose rows are copies of those at `of`."""
    cache.reorder_cache(torch.tensor(list(of)))
    return cache


def can_go_on(cache: Any) -> bool:
    """Return whether several tokens at once may follow a cache.

    Layers that keep a state instead of keys may take several tokens for the beginning of a text.
    """
    layers = getattr(cache, "layers", None) or ()
    return bool(layers) and all(type(layer).__name__ in _OF_ATTENTION for layer in layers)
