"""Read the residual stream while it passes: `resid_post.L` is the output of decoder block L.

The off-by-one of the field has its home here. transformers' `hidden_states[L + 1]` equals
`resid_post.L` except for the last layer, where transformers applies the final norm first;
`hidden_states[0]` is `resid_pre.0`, and `embed` is what `get_input_embeddings()` gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from moralprobe.errors import ModelError
from moralprobe.models.layers import Decoder
from moralprobe.models.tokens import Batch
from moralprobe.sites import EMBED, Site

OnHidden = Callable[[Site, torch.Tensor], None]


class _Stop(Exception):  # noqa: N818 (a signal, not an error)
    """Leaves the forward pass after the last site asked for."""


def run_taps(decoder: Decoder, batch: Batch, sites: Sequence[Site], on_hidden: OnHidden) -> None:
    """Run the decoder on a batch and hand over the states at each site asked for, as they pass.

    The language-model head never runs, and nothing runs after the last site asked for.

    Args:
        decoder: the model's text decoder.
        batch: token ids [batch, tokens]; padding may stand on either side.
        sites: each once; layers are counted from 0.
        on_hidden: called with the site and its states [batch, tokens, d_model], which are the
            model's own tensor: read, don't write. What stands at padding is meaningless. A few
            models' embeddings have another width, and are projected to d_model afterwards.

    Raises:
        ModelError: a tap that didn't fire exactly once, or didn't give [batch, tokens, d_model].
    """
    handles: list[RemovableHandle] = []
    with handing_over(decoder.d_model, batch, sites, on_hidden) as read:
        try:
            for site in sites:
                handles.append(_hook(decoder, site, read))
            with torch.inference_mode():
                decoder.module(**inputs_of(batch))
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def handing_over(
    d_model: int, batch: Batch, sites: Sequence[Site], on_hidden: OnHidden
) -> Iterator[Callable[[Site, object], None]]:
    """Yield what is to be called with each site's states; after the last it leaves the block.

    Args:
        d_model: width of the residual stream.
        batch: what the states are of.
        sites: those asked for, each once.
        on_hidden: called with the site and its states, once they are seen to be some.

    Yields:
        A function of a site and what passes there.

    Raises:
        ModelError: a tap that didn't fire exactly once, or didn't give [batch, tokens, d_model].
    """
    fired: list[Site] = []

    def read(site: Site, states: object) -> None:
        width = states.shape[-1:] if site == EMBED and isinstance(states, torch.Tensor) else ()
        expected = (*batch.ids.shape, *(width or (d_model,)))
        if not isinstance(states, torch.Tensor) or tuple(states.shape) != expected:
            raise ModelError(
                f"{site} gave no hidden states",
                f"expected a tensor of shape {expected}, got {_shape(states)}",
                "name the right list of blocks with layers_path",
            )
        fired.append(site)
        on_hidden(site, states)
        if len(fired) == len(sites):
            raise _Stop

    with suppress(_Stop):
        yield read
    if Counter(fired) != Counter(sites):
        missed = [str(site) for site in sites if fired.count(site) != 1]
        raise ModelError(
            "the tap did not fire",
            f"{', '.join(missed)} asked for and not reached once",
            "name the right list of blocks with layers_path",
        )


def _hook(decoder: Decoder, site: Site, read: Callable[[Site, object], None]) -> RemovableHandle:
    """Call `read` with what passes at a site."""

    def after(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        read(site, output[0] if isinstance(output, tuple) else output)

    def before(_module: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        read(site, args[0] if args else named.get("hidden_states"))

    if site.layer is None:
        return decoder.embedding.register_forward_hook(after)
    block = decoder.layers[site.layer]
    if site.kind == "resid_pre":
        return block.register_forward_pre_hook(before, with_kwargs=True)
    return block.register_forward_hook(after)


def inputs_of(batch: Batch) -> dict[str, object]:
    """Return what a model is called with to read a batch in one pass, padding and trees masked."""
    inputs: dict[str, object] = {"input_ids": batch.ids, "use_cache": False}
    if batch.tree is not None:
        # A mask of four dimensions is taken as it is.
        inputs["attention_mask"] = batch.tree.attention
        inputs["position_ids"] = batch.tree.positions
    elif batch.padded:
        # Without padding a causal model needs neither, and takes its fastest attention path.
        mask = batch.mask.long()
        inputs["attention_mask"] = mask
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return inputs


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
