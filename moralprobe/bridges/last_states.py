"""What a model has read by the last token of each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.sites import Site

_BATCH: Final = 32


def last_states(
    model: CausalModel,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    step: Callable[[int], None] = lambda n: None,
) -> NDArray[np.float32]:
    """Return the residual stream after each layer at the last token, [layers, texts, d] fp32.

    Args:
        model: from `load_model`.
        encoded: texts as tokens.
        layers: counted from 0.
        step: called with how many texts were read.
    """
    found = np.empty((len(layers), len(encoded), model.d_model), np.float32)
    place = {layer: i for i, layer in enumerate(layers)}
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    for at in range(0, len(order), _BATCH):
        rows = order[at : at + _BATCH]
        batch = model.collate([encoded[i] for i in rows])
        last = batch.mask.long().sum(1) - 1

        def take(
            site: Site, hidden: torch.Tensor, rows: list[int] = rows, last: torch.Tensor = last
        ) -> None:
            states = hidden[torch.arange(len(rows), device=hidden.device), last.to(hidden.device)]
            found[place[int(site.layer or 0)], rows] = states.float().cpu().numpy()

        model.run_taps(batch, [Site("resid_post", layer) for layer in layers], take)
        step(len(rows))
    return found
