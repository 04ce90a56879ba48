"""In which order texts are read, and what belongs to one batch and to one shard.

Texts are ordered by their number of tokens and batched with texts of the same length: nothing is
ever padded, so that a batch of many equals many batches of one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import xxhash

SHARD_BYTES: Final = 96 << 20


@dataclass(frozen=True)
class Plan:
    """Positions in the ordered texts: `batches` and `shards` are half-open ranges [start, stop)."""

    lengths: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]
    shards: tuple[tuple[int, int], ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(self.lengths)

    def digest(self) -> str:
        """Return the hash that stands in a store's key."""
        return xxhash.xxh3_128_hexdigest(
            json.dumps([self.lengths, self.batches, self.shards]).encode()
        )

    def batches_of(self, shard: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the batches that make a shard."""
        return [batch for batch in self.batches if shard[0] <= batch[0] < shard[1]]


def make_plan(lengths: Sequence[int], *, batch_tokens: int, bytes_per_text: int) -> Plan:
    """Cut ordered texts into batches of one length and shards of bounded size.

    Args:
        lengths: tokens of each text, ascending.
        batch_tokens: at most so many tokens in a batch (one text at least).
        bytes_per_text: what one text takes in the store.
    """
    batches: list[tuple[int, int]] = []
    start = 0
    for i, length in enumerate(lengths):
        if i > start and (length != lengths[start] or (i - start + 1) * length > batch_tokens):
            batches.append((start, i))
            start = i
    if len(lengths) > start:
        batches.append((start, len(lengths)))
    rows = max(1, SHARD_BYTES // max(1, bytes_per_text))
    shards: list[tuple[int, int]] = []
    begin = 0
    for batch_start, batch_stop in batches:
        if batch_stop - begin > rows and batch_start > begin:
            shards.append((begin, batch_start))
            begin = batch_start
    if batches:
        shards.append((begin, batches[-1][1]))
    return Plan(tuple(lengths), tuple(batches), tuple(shards))
