"""What an extraction costs, from a model's sizes and the lengths of the texts: arithmetic only.

Nothing is measured here and nothing is loaded. What a formula leaves out is said beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from moralprobe.activations.plan import ATTENTION, Plan
from moralprobe.activations.store import STATS
from moralprobe.models.shape import Shape

BYTES: Final[dict[str, int]] = {"bf16": 2, "fp32": 4}
PEAK_TFLOPS: Final = 989.0
"""Dense bf16 peak of an H100 SXM, in TFLOP/s (NVIDIA's data sheet, without sparsity)."""
UTILISATION: Final = 0.4
"""The share of the peak that is assumed to be sustained."""
GPU_BYTES: Final = 80e9

# Of a store beside its tensors, in bytes: what a tensor takes in a shard's header (name, type,
# shape, place, hash), a shard in the manifest, and the manifest's key.
_HEADER: Final = 175
_ROW: Final = 480
_KEY: Final = 2000


@dataclass(frozen=True)
class Cost:
    """What it takes to read a table's texts with one model.

    `texts` are those that can be read, `tokens` what the model reads of them, in `batches`: where
    texts begin alike and the model allows it, their beginning once. `tokens_by` names who counted
    them; `estimated` says that it isn't the model's own tokenizer. `flops`, `disk_bytes` and
    `activations_bytes` are what the functions below give; `gpu_hours` is the arithmetic at the
    assumed throughput, and `gpus` how many of 80 GB hold weights and activations.
    """

    id: str
    layers: int
    d_model: int
    texts: int
    tokens: int
    batches: int
    tokens_by: str
    estimated: bool
    flops: float
    disk_bytes: int
    weights_bytes: int
    activations_bytes: int
    gpu_hours: float
    gpus: int


def cost_of(
    shape: Shape,
    plan: Plan,
    *,
    layers: Sequence[int],
    n_vectors: int,
    dtype: str,
    table_bytes: int,
    device_tflops: float,
    tokens_by: str,
    estimated: bool,
) -> Cost:
    """Return what reading texts costs with one model.

    Args:
        shape: the model's sizes.
        plan: how its texts are read.
        layers: the blocks whose states are kept, counted from 0.
        n_vectors: how many vectors are kept of a text, over layers, inputs and poolings.
        dtype: `bf16` or `fp32`.
        table_bytes: what the two tables take that a store holds beside the states.
        device_tflops: sustained throughput, in TFLOP/s.
        tokens_by: who counted the tokens.
        estimated: whether that isn't the model's own tokenizer.
    """
    itemsize = BYTES[dtype]
    flops = forward_flops(shape, plan, layers)
    weights = shape.parameters * itemsize
    activations = activation_bytes(shape, plan, itemsize)
    return Cost(
        id=shape.id,
        layers=len(layers),
        d_model=shape.d_model,
        texts=len(plan.lengths),
        tokens=plan.n_tokens,
        batches=len(plan.batches),
        tokens_by=tokens_by,
        estimated=estimated,
        flops=flops,
        disk_bytes=table_bytes + store_bytes(plan, len(layers), n_vectors, shape.d_model, itemsize),
        weights_bytes=weights,
        activations_bytes=activations,
        gpu_hours=flops / (device_tflops * 1e12) / 3600,
        gpus=math.ceil((weights + activations) / GPU_BYTES),
    )


def forward_flops(shape: Shape, plan: Plan, layers: Sequence[int]) -> float:
    """Return the floating-point operations of reading texts up to the last layer asked for.

    2 N a token, where N are the parameters of the blocks that act on it, and 4 L² n_heads head_dim
    a block and sequence of L tokens, for the scores and the weighted sum of attention: the forward
    third of 6 N + 12 L H Q T in appendix B of Chowdhery et al. 2022 (PaLM, arXiv 2204.02311). As
    there, all L² scores count, though half and more are masked; so do those outside of a window.

    Not counted: embeddings, which are looked up; the final norm and the language-model head, which
    extraction never runs; softmax, rotary angles, activation functions and pooling. Code that sends
    every token through all experts does more.
    """
    depth = max(layers) + 1
    read = [plan.sequences(batch) for batch in plan.batches]
    linear = 2 * sum(shape.block_parameters[:depth]) * sum(rows * width for rows, width in read)
    attention = 4 * depth * shape.n_heads * shape.head_dim * sum(r * width**2 for r, width in read)
    return float(linear + attention)


def width_cost(shape: Shape) -> float:
    """Return what a token more in every sequence adds to a token's work, as a plan weighs it.

    Attention's 4 L n_heads head_dim operations against the 2 N of a block's linear layers, and how
    much slower they are (`plan.ATTENTION`).
    """
    linear = sum(shape.block_parameters) / len(shape.block_parameters)
    return ATTENTION * 2 * shape.n_heads * shape.head_dim / linear


def bytes_per_text(n_layers: int, n_vectors: int, d_model: int, itemsize: int) -> int:
    """Return what one text takes in a store: its states, and three fp32 numbers on the sink."""
    return n_vectors * d_model * itemsize + n_layers * 4 * len(STATS)


def store_bytes(plan: Plan, n_layers: int, n_vectors: int, d_model: int, itemsize: int) -> int:
    """Return the bytes of a store without its tables: states, headers of shards, manifest."""
    tensors = n_vectors + n_layers * len(STATS)
    states = len(plan.lengths) * bytes_per_text(n_layers, n_vectors, d_model, itemsize)
    return states + len(plan.shards) * (tensors * _HEADER + _ROW) + _KEY


def activation_bytes(shape: Shape, plan: Plan, itemsize: int) -> int:
    """Return about the memory of the states of one batch, beside the weights, in bytes.

    One block's activations, T d (17 + 2.5 L n_heads / d) numbers for T tokens in sequences of L:
    equation 1 of Korthikanti et al. 2022 (arXiv 2205.05198), in bytes at two a number. That is what
    training keeps; inference frees most of it on the way. Beside it the states in fp32 for pooling.
    A bound where the feed-forward width is at most the equation's 4 d; code that sends every token
    through all experts takes more.
    """
    most = 0.0
    for batch in plan.batches:
        rows, length = plan.sequences(batch)
        tokens = rows * length
        block = tokens * (17 * shape.d_model + 2.5 * length * shape.n_heads) * itemsize
        most = max(most, block + 4 * tokens * shape.d_model)
    return math.ceil(most)
