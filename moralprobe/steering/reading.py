"""Texts as the model is beside edited ones: read first, so that their first tokens needn't wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from moralprobe.models.causal import CausalModel
from moralprobe.models.read_once import cache_of, can_go_on, forgets_last, joined, read
from moralprobe.models.tokens import Batch
from moralprobe.steering.apply import Steered, steering
from moralprobe.steering.intervention import Intervention, check_intervention
from moralprobe.steering.positions import reach

Drawn = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Begun:
    """Prompts of which all but the last tokens were read.

    `cache` holds them, or is none where a model's can't be put together: then all are read again.
    `first` are the first new tokens of texts that aren't edited, by row; `edited` are the
    rows of the others, and `steered` what was done to them meanwhile.
    """

    cache: Any
    first: Mapping[int, int]
    edited: Sequence[int]
    steered: Steered | None


@torch.inference_mode()
def read_in_turn(
    model: CausalModel,
    batch: Batch,
    intervention: Intervention,
    positions: str,
    edited: Sequence[bool],
    drawn: Callable[[list[int]], Drawn],
    say: Callable[[int, int], None] | None,
) -> Begun:
    """Read texts that are left as they are, say their first tokens, and read those that are edited.

    Args:
        model: from `load_model`.
        batch: texts of two tokens or more, padded on the left.
        intervention: that edits some of them.
        positions: which of their tokens are edited.
        edited: which texts; some are, and some aren't.
        drawn: makes of rows what draws their next tokens, as `generate.continued` takes it.
        say: called with a row and its first new token.

    Raises:
        As `steering`; what can be known before anything is read is refused before it.
    """
    plain, others = ([i for i, yes in enumerate(edited) if yes == which] for which in (False, True))
    mine, theirs = _rows(batch, plain), _rows(batch, others)
    check_intervention(intervention, model)
    reach(batch, positions, edited)
    out = read(model.model, mine.ids, mine.mask)
    scores = drawn(plain)(mine.ids, out.logits[:, -1].to(torch.float32))
    tokens = scores.argmax(dim=-1).tolist()
    first = dict(zip(plain, tokens, strict=True))
    if say is not None:
        for row, token in first.items():
            say(row, token)
    # The last token is read by all texts together.
    cache = cache_of(out)
    if not can_go_on(cache) or not forgets_last(cache):
        return Begun(None, first, others, None)
    with steering(model, intervention, theirs, positions) as steered:
        other = read(model.model, theirs.ids[:, :-1], theirs.mask[:, :-1])
    both = joined(cache, cache_of(other))
    order = {row: i for i, row in enumerate((*plain, *others))}
    both.reorder_cache(torch.tensor([order[row] for row in range(len(edited))]))
    return Begun(both, first, others, steered)


def keeping(drawn: Drawn, first: Mapping[int, int]) -> Drawn:
    """Return what draws as `drawn` does, but for the first tokens of rows that are known."""
    left = dict(first)

    def draws(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = drawn(ids, scores).clone() if left else drawn(ids, scores)
        for row, token in left.items():
            found[row] = -torch.inf
            found[row, token] = 0.0
        left.clear()
        return found

    return draws


def _rows(batch: Batch, rows: list[int]) -> Batch:
    return replace(batch, ids=batch.ids[rows], mask=batch.mask[rows], action=batch.action[rows])
