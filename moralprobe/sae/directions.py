"""What a feature's direction does to the next token, and whether other seeds find it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moralprobe.errors import ModelError
from moralprobe.models.causal import CausalModel
from moralprobe.sae.features import MoralFeatures
from moralprobe.sae.load import LoadedSAE, check_same_states

_ROWS: Final = 1024


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
        direction = loaded.sae.W_dec[feature].to(unembed.device).float()
        # In blocks: the whole matrix in fp32 may be gigabytes.
        logits = torch.cat([rows.float() @ direction for rows in unembed.split(_ROWS)])
        for found, sign in ((raised, 1), (lowered, -1)):
            ids = (sign * logits).topk(min(n, len(logits))).indices.tolist()
            found[int(feature)] = [model.tokenizer.decode([i]) for i in ids]
    return raised, lowered


def check_other(loaded: LoadedSAE, other: LoadedSAE) -> None:
    """Refuse what isn't another seed of the same states.

    Raises:
        ModelError: of another model, layer, width or source, of shuffled activations, or the same
            autoencoder again.
    """
    check_same_states(loaded, other, shuffled=False)
    if torch.equal(other.sae.W_dec, loaded.sae.W_dec.to(other.sae.W_dec.device)):
        raise ModelError(
            f"{other.folder} is the same autoencoder as {loaded.folder}",
            "their decoders are equal",
            "give one that was trained with another --seed",
        )


def found_again(loaded: LoadedSAE, others: Sequence[LoadedSAE]) -> NDArray[np.float64]:
    """Return how near the nearest direction of other autoencoders is, the worst of them.

    Args:
        loaded: from `load_sae`.
        others: of the same layer, trained with other seeds.

    Returns:
        [features] cosines of decoder directions: 1 where each of the others has the same one.

    Raises:
        As `check_other`.
    """
    for other in others:
        check_other(loaded, other)
    own = loaded.sae.W_dec.detach()
    found: NDArray[np.float64] = np.minimum.reduce(
        [nearest_cosine(own, other.sae.W_dec.detach()) for other in others]
    )
    return found


def nearest_cosine(one: torch.Tensor, other: torch.Tensor) -> NDArray[np.float64]:
    """Return each row's largest cosine with a row of another matrix.

    Args:
        one: [n, d].
        other: [m, d].

    Returns:
        [n]; 0 for rows of zeros.
    """
    one, other = (torch.nn.functional.normalize(rows.float(), dim=-1) for rows in (one, other))
    rows, columns = one, other.T.to(one.device)
    parts = [(rows[at : at + _ROWS] @ columns).amax(1) for at in range(0, len(rows), _ROWS)]
    return torch.cat(parts).double().cpu().numpy()


def with_others(
    found: MoralFeatures, loaded: LoadedSAE, others: Sequence[LoadedSAE], *, seed: int = 0
) -> MoralFeatures:
    """Add to moral features whether other seeds find them.

    Args:
        found: of `loaded`.
        loaded: from `load_sae`.
        others: of the same layer, trained with other seeds.
        seed: of random directions, for comparison.

    Returns:
        With the column `found_again` (see `found_again`), and in the summary its medians: of the
        features that hold, of all, and of random directions.

    Raises:
        As `found_again`.
    """
    again = found_again(loaded, others)
    frame = found.frame.with_columns(found_again=pl.Series(again))
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(len(again), loaded.sae.cfg.d_in, generator=generator)
    by_chance = np.minimum.reduce(
        [nearest_cosine(random, other.sae.W_dec.detach().cpu()) for other in others]
    )
    held = frame.filter("replicated")["found_again"]
    medians = {
        "others": len(others),
        "hold": held.median() if len(held) else None,
        "all": float(np.median(again)),
        "random_directions": float(np.median(by_chance)),
    }
    return replace(found, frame=frame, summary={**found.summary, "found_again": medians})
