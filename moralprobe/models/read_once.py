"""Read what several texts share once: a model's cache of the different ones, handed to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

_WORTH: Final = 0.1  # of the tokens: less isn't worth another reading
_CACHE: Final = "DynamicCache"  # its subclasses hold more than their layers do
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
    # Some models keep what they have read under another name, or beside the layers of the cache:
    # they read every text themselves.
    cache = cache_of(read(model, ids[first, :-1], mask[first, :-1]))
    return handed(cache, of) if type(cache).__name__ == _CACHE else None


def read(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    """Return a model's output after texts that are padded on the left, with its cache.

    Args:
        model: of transformers.
        ids: [texts, tokens].
        mask: [texts, tokens], false at padding.
    """
    held = mask.long()
    return model(
        input_ids=ids,
        attention_mask=held,
        position_ids=(held.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )


def read_beginnings_once(model: Any, ids: torch.Tensor, last: int, **more: Any) -> Any:
    """Return a model's output after texts of equal length, whose common beginnings are read once.

    Texts that begin alike are cut at one place, so that as few tokens as can be are read; what
    stands before it is read in the same way. A model that can't go on from its cache by several
    tokens reads every text whole.

    Args:
        model: of transformers.
        ids: [texts, tokens], without padding.
        last: of how many tokens at the end there shall be logits.
        more: for the model, as `use_cache`.
    """
    at = best_cut(ids, last)
    if at and can_go_on(cache_of(model(input_ids=ids[:1, :1], use_cache=True, logits_to_keep=1))):
        return _in_parts(model, ids, at, last, more)
    return model(input_ids=ids, logits_to_keep=last, **more)


def _in_parts(model: Any, ids: torch.Tensor, at: int, last: int, more: dict[str, Any]) -> Any:
    if not at:
        return model(input_ids=ids, logits_to_keep=last, **more)
    first, of = torch.unique(ids[:, :at], dim=0, return_inverse=True)
    before = _in_parts(model, first, best_cut(first, 1), 1, {"use_cache": True})
    cache = handed(cache_of(before), of.tolist())
    return model(
        input_ids=ids[:, at:],
        past_key_values=cache,
        logits_to_keep=last,
        **{**more, "use_cache": True},
    )


def best_cut(ids: torch.Tensor, last: int) -> int:
    """Return before which token texts are cut best, 0 where too little would be saved.

    Args:
        ids: [texts, tokens], without padding.
        last: tokens at the end that aren't cut off from each other.
    """
    texts, tokens = ids.shape
    if texts < 2 or tokens <= last:
        return 0
    rows = torch.unique(ids, dim=0)  # in order, so that those that begin alike stand together
    same = (rows[1:] == rows[:-1]).long().cumprod(1).sum(1)  # tokens in common with the one before
    cut = torch.arange(1, tokens - last + 1, device=ids.device)
    different = 1 + (same[None] < cut[:, None]).sum(1)
    saved = cut * (texts - different)
    best = int(saved.argmax())
    return int(cut[best]) if saved[best] > _WORTH * texts * tokens else 0


def cache_of(out: Any) -> Any:
    """Return the cache in a model's output, or none."""
    return getattr(out, "past_key_values", None)


def handed(cache: Any, of: Sequence[int]) -> Any:
    """Return a cache whose rows are copies of those at `of`."""
    cache.reorder_cache(torch.tensor(list(of)))
    return cache


def joined(cache: Any, other: Any) -> Any:
    """Return a cache with the rows of both, the other's last; both have read as many tokens.

    Args:
        cache: one that `can_go_on`; it is changed.
        other: of the same model.
    """
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys = torch.cat([layer.keys, more.keys])
        layer.values = torch.cat([layer.values, more.values])
    return cache


def forgets_last(cache: Any) -> bool:
    """Take the last token out of a cache that `can_go_on`, if it still holds all that were read.

    Layers that look at a window of the text have let go of what the token before the last saw.
    """
    if any(layer.keys.shape[-2] < layer.get_seq_length() for layer in cache.layers):
        return False
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., :-1, :], layer.values[..., :-1, :]
        if type(layer).__name__ != _OF_ATTENTION[0]:
            layer.cumulative_length -= 1
    return True


def can_go_on(cache: Any) -> bool:
    """Return whether several tokens at once may follow a cache.

    Layers that keep a state instead of keys may take several tokens for the beginning of a text,
    and a cache of a kind of its own may hold more than its layers.
    """
    layers = getattr(cache, "layers", None) or ()
    of_attention = all(type(layer).__name__ in _OF_ATTENTION for layer in layers)
    return bool(layers) and type(cache).__name__ == _CACHE and of_attention
