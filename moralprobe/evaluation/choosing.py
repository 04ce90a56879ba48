"""Which prompts are answered: a few of every group, and two halves, one to choose on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import xxhash

from moralprobe.data.splits import normalise
from moralprobe.errors import DataError
from moralprobe.evaluation.prompts import Prompt, Prompts


def few(prompts: Prompts, n: int, seed: int = 0) -> Prompts:
    """Keep so many prompts at most, of every group its share; 0 keeps all.

    Files are often sorted by group, so the first n would be of one alone.
    """
    if not 0 < n < len(prompts):
        return prompts
    return replace(prompts, prompts=_share(prompts.prompts, n, seed)[0])


def halves(prompts: Sequence[Prompt], seed: int) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Split prompts into a half to choose on and a half to report on.

    The split goes by a hash of the text within each group: it doesn't depend on the order of the
    prompts, and both halves have the same groups, give or take one prompt of each.

    Args:
        prompts: two at least.
        seed: another one gives another split.

    Returns:
        The two halves, each in the order of `prompts`; the second is the larger, if any is.

    Raises:
        DataError: fewer than two prompts.
    """
    if len(prompts) < 2:
        raise DataError(
            "prompts can't be split into halves",
            f"there are {len(prompts)}",
            "give two at least: what is chosen on a prompt can't be reported on it",
        )
    return _share(prompts, len(prompts) // 2, seed)


def _share(
    prompts: Sequence[Prompt], n: int, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Return n of the prompts, of every group its share, and the others, in their order."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.group, []).append(prompt)
    chosen: set[str] = set()
    seen = 0
    for name in sorted(groups):
        members = sorted(groups[name], key=lambda prompt: (_hash(prompt.text, seed), prompt.id))
        # The share of all that were seen so far: what is left over of groups doesn't add up.
        before, seen = seen, seen + len(members)
        taken = seen * n // len(prompts) - before * n // len(prompts)
        chosen |= {prompt.id for prompt in members[:taken]}
    return (
        tuple(prompt for prompt in prompts if prompt.id in chosen),
        tuple(prompt for prompt in prompts if prompt.id not in chosen),
    )


def _hash(text: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}\n{normalise(text)}".encode())
