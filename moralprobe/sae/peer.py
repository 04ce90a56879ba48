"""SAELens' own evaluation of the same file on the same texts, to hold ours against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moralprobe.models.causal import CausalModel
from moralprobe.models.lens import bridge_of
from moralprobe.models.tokens import Encoded
from moralprobe.sae.evaluate import of_one_length
from moralprobe.sae.load import LoadedSAE


@dataclass(frozen=True)
class PeerEvaluation:
    """What SAELens' evaluation says, under its own names.

    It counts every token, token 0 too, and replaces token 0 too: where that one is an attention
    sink, which has many times the norm of others and which no autoencoder of ours has seen, it
    decides both figures.
    """

    explained_variance: float
    l0: float
    ce_loss_score: float


class _Texts:
    """Batches of token ids, handed over as SAELens' store of activations does."""

    def __init__(self, batches: Sequence[torch.Tensor]) -> None:
        self._next = iter(batches)

    def get_batch_tokens(self, _n: int) -> torch.Tensor:
        return next(self._next)


def evaluate_with_sae_lens(
    loaded: LoadedSAE, model: CausalModel, encoded: Sequence[Encoded]
) -> PeerEvaluation:
    """Run SAELens' evaluation through TransformerLens' bridge.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        encoded: texts as tokens.

    Raises:
        ModelError: TransformerLens doesn't know the architecture.
    """
    from sae_lens.evals import (
        get_downstream_reconstruction_metrics,
        get_sparsity_and_variance_metrics,
    )
    from sae_lens.training.activation_scaler import ActivationScaler

    bridge = bridge_of(model)
    batches = [batch.ids for batch in of_one_length(model, encoded)]
    common = {
        "activation_scaler": ActivationScaler(),
        "n_batches": len(batches),
        "eval_batch_size_prompts": 0,
        "ignore_tokens": [-1],  # none; without any it takes batches of one length only
        "model_kwargs": {},
    }
    with torch.no_grad():
        spliced = get_downstream_reconstruction_metrics(
            sae=loaded.sae,
            model=bridge,
            activation_store=_Texts(batches),
            compute_kl=False,
            compute_ce_loss=True,
            **common,
        )
        metrics, _ = get_sparsity_and_variance_metrics(
            sae=loaded.sae,
            model=bridge,
            activation_store=_Texts(batches),
            compute_l2_norms=False,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
            **common,
        )
    return PeerEvaluation(metrics["explained_variance"], metrics["l0"], spliced["ce_loss_score"])
