"""Read the residual stream while it passes: `resid_post.L` is the output of decoder block L.

The off-by-one of the field has its home here. transformers' `hidden_states[L + 1]` equals
`resid_post.L` except for the last layer, where transformers applies the final norm first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.utils.hooks import RemovableHandle

from moralprobe.errors import ModelError
from moralprobe.models.layers import Decoder
from moralprobe.models.tokens import Batch

OnHidden = Callable[[int, torch.Tensor], None]


class _Stop(Exception):  # noqa: N818 (a signal, not an error)
    """Leaves the forward pass after the last layer asked for."""


def run_taps(decoder: Decoder, batch: Batch, layers: Sequence[int], on_hidden: OnHidden) -> None:
    """Run the decoder on a batch and hand over the residual stream after each block asked for.

    The language-model head never runs, and nothing runs after the last layer asked for.

    Args:
        decoder: the model's text decoder.
        batch: token ids [batch, tokens]; padding may stand on either side.
        layers: block indices, counted from 0.
        on_hidden: called with the layer and its hidden states [batch, tokens, d_model], which are
            the model's own tensor: read, don't write. What stands at padding is meaningless.

    Raises:
        ModelError: a tap that didn't fire exactly once, or didn't give [batch, tokens, d_model].
    """
    fired: list[int] = []
    expected = (*batch.ids.shape, decoder.d_model)
    last = max(layers)

    def hook_of(layer: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if not isinstance(hidden, torch.Tensor) or tuple(hidden.shape) != expected:
                raise ModelError(
                    f"block {layer} gave no hidden states",
                    f"expected a tensor of shape {expected}, got {_shape(hidden)}",
                    "name the right list of blocks with layers_path",
                )
            fired.append(layer)
            on_hidden(layer, hidden)
            if layer == last:
                raise _Stop

        return hook

    handles: list[RemovableHandle] = []
    try:
        for layer in layers:
            handles.append(decoder.layers[layer].register_forward_hook(hook_of(layer)))
        with torch.inference_mode():
            decoder.module(**_inputs_of(batch))
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if sorted(fired) != sorted(layers):
        raise ModelError(
            "the tap did not fire",
            f"layers {sorted(set(layers) - set(fired))} were asked for and not reached once",
            "name the right list of blocks with layers_path",
        )


def _inputs_of(batch: Batch) -> dict[str, object]:
    inputs: dict[str, object] = {"input_ids": batch.ids, "use_cache": False}
    if batch.padded:
        # Without padding a causal model needs neither, and takes its fastest attention path.
        mask = batch.mask.long()
        inputs["attention_mask"] = mask
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return inputs


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
