"""Texts that begin alike, read once where they do.

A causal model's state at a token depends on the tokens before it alone. So sorted texts are packed
as a tree of their prefixes: each token stands once under all the texts that begin with it, at the
position that it has in them, and sees its own ancestors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Block:
    """Some sorted texts as a tree: `ids`, `depth` and `parent` are [nodes], parents come first.

    A node without a parent has -1. `paths` holds each text's nodes, from its first token on.
    """

    ids: NDArray[np.int64]
    depth: NDArray[np.int64]
    parent: NDArray[np.int64]
    paths: list[list[int]]


def shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return how many tokens two texts have in common from the start."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def cut_blocks(
    texts: Sequence[Sequence[Any]], nodes: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """Cut sorted texts into runs whose trees have at most so many nodes (one text at least).

    Args:
        texts: token ids, in lexicographic order.
        nodes: most in a run.

    Returns:
        Half-open ranges of texts, and the nodes of each one's tree.
    """
    blocks: list[tuple[int, int]] = []
    sizes: list[int] = []
    start = size = 0
    for i, ids in enumerate(texts):
        new = len(ids) - (shared(texts[i - 1], ids) if i > start else 0)
        if i > start and size + new > nodes:
            blocks.append((start, i))
            sizes.append(size)
            start, size, new = i, 0, len(ids)
        size += new
    if len(texts) > start:
        blocks.append((start, len(texts)))
        sizes.append(size)
    return blocks, sizes


def grow(texts: Sequence[Sequence[int]]) -> Block:
    """Return the tree of some sorted texts."""
    ids: list[int] = []
    depth: list[int] = []
    parent: list[int] = []
    paths: list[list[int]] = []
    for i, text in enumerate(texts):
        common = shared(texts[i - 1], text) if i else 0
        path = paths[-1][:common] if i else []
        for position in range(common, len(text)):
            parent.append(path[-1] if path else -1)
            path.append(len(ids))
            ids.append(text[position])
            depth.append(position)
        paths.append(path)
    return Block(np.array(ids), np.array(depth), np.array(parent), paths)


def ancestors(block: Block) -> NDArray[np.bool_]:
    """Return which nodes each node sees, [nodes, nodes]: itself and those on the way to it."""
    n = len(block.ids)
    seen = np.zeros((n, n), np.bool_)
    for node, parent in enumerate(block.parent):
        if parent >= 0:
            seen[node] = seen[parent]
        seen[node, node] = True
    return seen
