"""A faster product of a few rows on a processor: what writing two texts at once needs.

In fp32 BLAS multiplies two to four rows by a weight at twice the time of one; the transposed
product takes as long as of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional

_FEW = range(2, 5)


@contextmanager
def few_rows(model: nn.Module) -> Iterator[None]:
    """Let a model's linear layers multiply few rows transposed while the block runs.

    Only those in fp32 on the CPU, and of no other kind; results differ in their last bits.
    """
    mine = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and "forward" not in vars(layer)  # someone else's is left as it is
    ]
    for layer in mine:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in mine:
            del layer.forward


def _forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    rows = x.numel() // x.shape[-1]
    if rows not in _FEW or x.dtype != torch.float32:
        return functional.linear(x, layer.weight, layer.bias)
    out = (layer.weight @ x.reshape(rows, -1).T).T.contiguous().reshape(*x.shape[:-1], -1)
    return out if layer.bias is None else out + layer.bias
