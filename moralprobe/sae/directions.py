"""What a feature's direction does to the next token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from moralprobe.models.causal import CausalModel
from moralprobe.sae.load import LoadedSAE


@torch.no_grad()
def next_tokens(
    loaded: LoadedSAE, model: CausalModel, features: Sequence[int], *, n: int = 10
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return which tokens features promote and demote most: their directions, unembedded.

    The final norm and the layers between are left out.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        features: their numbers.
        n: how many tokens.

    Returns:
        Promoted and demoted tokens, the strongest first, by feature.
    """
    unembed = model.model.get_output_embeddings().weight
    raised: dict[int, list[str]] = {}
    lowered: dict[int, list[str]] = {}
    for feature in features:
        logits = unembed.float() @ loaded.sae.W_dec[feature].to(unembed.device).float()
        for found, sign in ((raised, 1), (lowered, -1)):
            ids = (sign * logits).topk(min(n, len(logits))).indices.tolist()
            found[int(feature)] = [model.tokenizer.decode([i]) for i in ids]
    return raised, lowered
