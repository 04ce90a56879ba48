"""In which order texts are read, and what belongs to one batch and to one shard.

Where a model allows it, texts that begin alike are packed as trees (`models.prefixes`), and trees
of about the same size read together. Elsewhere texts are batched with others of the same length:
nothing is ever padded.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Final

import xxhash

from moralprobe.models.prefixes import cut_blocks

SHARD_BYTES: Final = 96 << 20
"""About what a shard holds, and one batch at least: so much is lost by a kill."""
BATCH_TOKENS: Final[dict[str, int]] = {"cpu": 2048, "cuda": 4096}
"""In a batch, by the type of device: enough for its matrix products, and no more memory."""
TREE_TOKENS: Final = (64, 128, 256, 512)
"""Sizes of trees that are weighed against each other: a larger one shares more and is filled
better, and attention's work grows with its square."""
ATTENTION: Final = 3.0
"""How many times longer an operation of attention takes than one of a linear layer, about, as its
products are small (benchmarks/attention.py). It only decides between plans."""


@dataclass(frozen=True)
class Plan:
    """Positions in the ordered texts: all ranges are half-open, [start, stop).

    `order` says which of the texts that were handed over stands where, `lengths` are their tokens.
    `batches` are made of `blocks`, the texts of one tree each, with `nodes` tokens, where
    beginnings are shared; else there are none.
    """

    order: tuple[int, ...]
    lengths: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]
    shards: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, int], ...] = ()
    nodes: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        """How many tokens the model reads; what fills a batch up isn't one."""
        return sum(self.nodes if self.blocks else self.lengths)

    def digest(self) -> str:
        """Return the hash that stands in a store's key."""
        return xxhash.xxh3_128_hexdigest(
            json.dumps([self.lengths, self.batches, self.shards, self.blocks]).encode()
        )

    def batches_of(self, shard: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the batches that make a shard."""
        return [batch for batch in self.batches if shard[0] <= batch[0] < shard[1]]

    def blocks_of(self, batch: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the blocks that make a batch."""
        return self.blocks[self._places(batch)]

    def sequences(self, batch: tuple[int, int]) -> tuple[int, int]:
        """Return the shape that a model reads a batch in: sequences, and tokens in each."""
        if self.blocks:
            nodes = self.nodes[self._places(batch)]
            return len(nodes), max(nodes)
        return batch[1] - batch[0], self.lengths[batch[0]]

    def work(self, width_cost: float) -> float:
        """Return how long it takes, in tokens of a linear layer.

        Args:
            width_cost: what a token more in every sequence adds to a token's work, by attention.
        """
        shapes = (self.sequences(batch) for batch in self.batches)
        return sum(rows * width * (1 + width * width_cost) for rows, width in shapes)

    def _places(self, batch: tuple[int, int]) -> slice:
        return slice(bisect_left(self.blocks, batch[:1]), bisect_left(self.blocks, batch[1:]))


def make_plan(
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    bytes_per_text: int,
    shard_bytes: int | None = None,
) -> Plan:
    """Cut ordered texts into batches of one length and shards of bounded size.

    Args:
        lengths: tokens of each text, ascending.
        batch_tokens: at most so many tokens in a batch (one text at least).
        bytes_per_text: what one text takes in the store.
        shard_bytes: at most so much in a shard (one batch at least); `SHARD_BYTES`, if not given.
    """
    batches: list[tuple[int, int]] = []
    start = 0
    for i, length in enumerate(lengths):
        if i > start and (length != lengths[start] or (i - start + 1) * length > batch_tokens):
            batches.append((start, i))
            start = i
    if len(lengths) > start:
        batches.append((start, len(lengths)))
    shards = _shards(batches, bytes_per_text, shard_bytes)
    return Plan(tuple(range(len(lengths))), tuple(lengths), tuple(batches), shards)


def share_beginnings(
    texts: Sequence[Sequence[Any]],
    *,
    tree_tokens: int,
    batch_tokens: int,
    bytes_per_text: int,
    shard_bytes: int | None = None,
) -> Plan:
    """Cut texts into trees, batches of them and shards; the smallest trees come first.

    Args:
        texts: token ids, in lexicographic order.
        tree_tokens: at most so many tokens in a tree (one text at least).
        batch_tokens: at most so many tokens in a batch (one text at least).
        bytes_per_text: what one text takes in the store.
        shard_bytes: at most so much in a shard (one batch at least); `SHARD_BYTES`, if not given.
    """
    runs, sizes = cut_blocks(texts, min(tree_tokens, batch_tokens))
    # All trees of a batch take the room of its largest.
    by_size = sorted(range(len(runs)), key=sizes.__getitem__)
    nodes = [sizes[i] for i in by_size]
    order = [text for i in by_size for text in range(*runs[i])]
    ends = list(accumulate((runs[i][1] - runs[i][0] for i in by_size), initial=0))
    blocks = list(pairwise(ends))
    batches: list[tuple[int, int]] = []
    first = 0
    for i in range(1, len(blocks) + 1):
        if i == len(blocks) or (i - first + 1) * nodes[i] > batch_tokens:
            batches.append((blocks[first][0], blocks[i - 1][1]))
            first = i
    shards = _shards(batches, bytes_per_text, shard_bytes)
    lengths = tuple(len(texts[i]) for i in order)
    return Plan(tuple(order), lengths, tuple(batches), shards, tuple(blocks), tuple(nodes))


def best_plan(texts: Sequence[list[Any]], *, share: bool, width_cost: float, **sizes: Any) -> Plan:
    """Return the plan with the least work: trees of one size or another, or batches of one length.

    Args:
        texts: token ids, in any order.
        share: whether the model allows trees.
        width_cost: as `Plan.work` takes it.
        **sizes: what `make_plan` and `share_beginnings` have in common.
    """

    def made(order: list[int], plan: Plan) -> Plan:
        return replace(plan, order=tuple(order[i] for i in plan.order))

    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    plans = [made(by_length, make_plan([len(texts[i]) for i in by_length], **sizes))]
    if share:
        sorted_ = sorted(range(len(texts)), key=texts.__getitem__)
        in_order = [texts[i] for i in sorted_]
        plans += [
            made(sorted_, share_beginnings(in_order, tree_tokens=n, **sizes)) for n in TREE_TOKENS
        ]
    return min(plans, key=lambda plan: plan.work(width_cost))


def shard_name(i: int) -> str:
    """Return the file name of a plan's i-th shard."""
    return f"shard-{i:05d}.safetensors"


def _shards(
    batches: Sequence[tuple[int, int]], bytes_per_text: int, shard_bytes: int | None
) -> tuple[tuple[int, int], ...]:
    size = SHARD_BYTES if shard_bytes is None else shard_bytes
    rows = max(1, size // max(1, bytes_per_text))
    shards: list[tuple[int, int]] = []
    begin = 0
    for start, stop in batches:
        if stop - begin > rows and start > begin:
            shards.append((begin, start))
            begin = start
    if batches:
        shards.append((begin, batches[-1][1]))
    return tuple(shards)
