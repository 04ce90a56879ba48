"""A faster product of two rows on a processor: what writing two texts at once needs.

In fp32, oneDNN or MKL may multiply two rows by a weight at twice the time of one; the transposed
product takes about as long as of one. `benchmarks/page.py` measures both texts, where fp32 is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional

_FEW = 2


@contextmanager
def few_rows(model: nn.Module) -> Iterator[None]:
    """Let a model's linear layers multiply two rows transposed while the block runs.

    Only those in fp32 on the CPU, and of no other kind; results differ in their last bits.
    """
    mine = {
        layer: partial(_forward, layer)
        for layer in model.modules()
        if type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and "forward" not in vars(layer)  # someone else's is left as it is
    }
    try:
        for layer, forward in mine.items():
            layer.forward = forward  # type: ignore[method-assign]
        yield
    finally:
        for layer, forward in mine.items():
            if vars(layer).get("forward") is forward:
                del layer.forward


def _forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    if x.numel() != _FEW * x.shape[-1] or x.dtype != torch.float32:
        return functional.linear(x, layer.weight, layer.bias)
    out = (layer.weight @ x.reshape(_FEW, -1).T).T.contiguous().reshape(*x.shape[:-1], -1)
    return out if layer.bias is None else out + layer.bias
