"""Each token in its context once: what texts that begin alike have in common counts as one.

A causal model's state at a token depends on what stands before it alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy import sparse

from moralprobe.models.causal import CausalModel
from moralprobe.models.prefixes import shared
from moralprobe.models.tokens import Encoded

_HASHED: Final = 2**32


@dataclass(frozen=True)
class Tokens:
    """Distinct tokens in their context: texts by their ids, and what is each one's own.

    `encoded` are sorted; `first` [texts] is the first position of each text that no text before it
    has, and never 0: token 0 is the attention sink wherever there is one.
    """

    encoded: list[Encoded]
    first: NDArray[np.int64]

    @classmethod
    def distinct(cls, encoded: Sequence[Encoded]) -> Tokens:
        """Return the tokens of some texts, each once.

        A causal model's state at a token depends on what stands before it, so a beginning that
        several texts share has one state, and counts once.
        """
        texts = sorted(encoded, key=lambda text: text.ids)
        common = [0, *(shared(a.ids, b.ids) for a, b in pairwise(texts))]
        first = np.maximum(np.array(common[: len(texts)], np.int64), 1)
        own = [i for i, text in enumerate(texts) if len(text) > first[i]]
        return cls([texts[i] for i in own], first[own])

    def __len__(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many tokens are each text's own, [texts]."""
        return np.array([len(text) for text in self.encoded], np.int64) - self.first

    def take(self, texts: NDArray[np.int64]) -> Tokens:
        """Return some of the texts, in ascending order."""
        texts = np.sort(texts)
        return Tokens([self.encoded[i] for i in texts], self.first[texts])

    def split(self, share: float) -> tuple[Tokens, Tokens]:
        """Return two parts, the second of about `share` of the texts.

        A text's side depends on its own tokens alone, and no token with its context is in both.
        """
        hashes = [xxhash.xxh3_64_intdigest(_bytes(text.ids)) % _HASHED for text in self.encoded]
        held = np.array(hashes, np.int64) < round(share * _HASHED)
        return self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held))

    def digest(self) -> str:
        """Return a hash of what is read."""
        digest = xxhash.xxh3_128()
        for text, first in zip(self.encoded, self.first.tolist(), strict=True):
            digest.update(_bytes([len(text), first, *text.ids]))
        return digest.hexdigest()


def windows(model: CausalModel, texts: Sequence[str], context: int) -> list[Encoded]:
    """Cut texts into windows of so many tokens, each behind the tokenizer's own first tokens.

    Args:
        model: whose tokenizer cuts.
        texts: running text.
        context: most tokens in a window.

    Returns:
        The windows of two tokens or more, text after text.
    """
    found: list[Encoded] = []
    whole = model.encode(texts, [(0, 0)] * len(texts), max_tokens=sys.maxsize)
    for text in whole:
        front = [] if text.token0_is_content else text.ids[:1]
        room = max(1, context - len(front))
        rest = text.ids[len(front) :]
        for at in range(0, len(rest), room):
            ids = [*front, *rest[at : at + room]]
            if len(ids) > 1:
                found.append(Encoded(ids, [False] * len(ids), False, text.token0_is_content))
    return found


def token_paths(encoded: Sequence[Encoded], tokens: Tokens) -> sparse.csr_array:
    """Return which of the distinct tokens each text is made of, [texts, tokens], without token 0.

    Args:
        encoded: texts, in any order.
        tokens: `Tokens.distinct` of them.

    Returns:
        1 where a token stands in a text; a row by the states of `tokens` is the sum over the text.
    """
    starts = np.concatenate([[0], np.cumsum(tokens.counts)])
    path: list[int] = []
    paths: dict[tuple[int, ...], list[int]] = {}
    for i, text in enumerate(tokens.encoded):
        # Position p of a text is entry p - 1 of its path: token 0 has none.
        path = path[: int(tokens.first[i]) - 1] + list(range(int(starts[i]), int(starts[i + 1])))
        paths[tuple(text.ids)] = path
    rows = [paths.get(tuple(text.ids), []) for text in encoded]
    indices = np.concatenate([np.array(row, np.int64) for row in rows])
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    shape = len(rows), len(tokens)
    return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=shape)


def _bytes(values: Sequence[int]) -> bytes:
    return np.array(values, np.int64).tobytes()
