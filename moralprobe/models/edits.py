"""Change what leaves a decoder block while the model runs; the hooks are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from moralprobe.errors import ModelError
from moralprobe.models.layers import Decoder

OnStates = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def edited_blocks(decoder: Decoder, edits: Mapping[int, OnStates]) -> Iterator[None]:
    """Replace decoder blocks' outputs within the `with`.

    Args:
        decoder: the model's text decoder.
        edits: by layer, counted from 0, a function of the states [batch, tokens, d_model] that
            leave it, which gives what goes on, of the same shape and dtype.

    Raises:
        ModelError: a block that gives no hidden states, or that never ran within the `with`.
    """
    ran: set[int] = set()

    def hook_of(layer: int) -> Callable[[torch.nn.Module, object, Any], Any]:
        def hook(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if not isinstance(states, torch.Tensor) or states.shape[-1] != decoder.d_model:
                raise ModelError(
                    f"resid_post.{layer} gave no hidden states",
                    f"expected a tensor of width {decoder.d_model}, got {type(states).__name__}",
                    "name the right list of blocks with layers_path",
                )
            ran.add(layer)
            changed = edits[layer](states)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    handles = []
    try:
        for layer in edits:
            handles.append(decoder.layers[layer].register_forward_hook(hook_of(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if missed := sorted(edits.keys() - ran):
        raise ModelError(
            "an edit never happened",
            f"no states left layer {', '.join(map(str, missed))}",
            "run the model within the block, and check the layers",
        )
