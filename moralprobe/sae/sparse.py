"""TopK and BatchTopK whose decoder and backward pass touch the active features alone.

Of the d_sae features of a TopK autoencoder k are active in an activation, and only they have a
gradient. So past the encoder's one dense product everything is a weighted sum of few rows: the
reconstruction a sum over an activation's features, a feature's gradient a sum over the activations
in which it is active. The classes are SAELens' own but for that, and are saved as its stock ones.

SAELens selects features by their pre-activation times the norm of their decoder row, and divides
by that norm again when it decodes, so the norm decides what is active and cancels out of the
values and gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUSAEConfig,
    SAEConfig,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    register_sae_training_class,
)
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch.nn.functional import embedding_bag

from moralprobe.errors import UsageError
from moralprobe.models.load import DTYPES

GROUP: Final = 32
"""Features whose largest value is looked at first when the active ones are chosen."""


class Active(NamedTuple):
    """Which features are active in a batch: activation by activation, features ascending.

    `rows` and `features` are [n]; `starts` [batch] says where each activation's begin.
    """

    rows: torch.Tensor
    features: torch.Tensor
    starts: torch.Tensor


def top_each(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k largest entries of each row.

    The k largest lie in the k groups with the largest maxima, so most entries are only compared
    with their neighbours.

    Args:
        scores: [batch, d_sae].
        k: how many, at most d_sae.

    Returns:
        Their columns, [batch, k], ascending.
    """
    n, width = scores.shape
    groups = width // GROUP
    if width % GROUP or groups <= k:
        return scores.topk(k, sorted=False).indices.sort().values
    # Group j holds columns j, j + groups, ...: so the maximum runs over whole rows of memory.
    grouped = scores.view(n, GROUP, groups)
    best = grouped.amax(1).topk(k, sorted=False).indices
    candidates = grouped.gather(2, best[:, None].expand(n, GROUP, k)).reshape(n, GROUP * k)
    chosen = candidates.topk(k, sorted=False).indices
    columns = (chosen // k) * groups + best.gather(1, chosen % k)
    return columns.sort().values


def top_of_all(scores: torch.Tensor, n: int) -> torch.Tensor:
    """Return the n largest entries of a batch, wherever they stand.

    Args:
        scores: [batch, d_sae].
        n: how many, at most all.

    Returns:
        Their places in the flattened batch, [n], ascending.
    """
    batch, width = scores.shape
    groups = width // GROUP
    if width % GROUP or batch * groups <= n:
        return scores.flatten().topk(n, sorted=False).indices.sort().values
    grouped = scores.view(batch, GROUP, groups)
    best = grouped.amax(1).flatten().topk(n, sorted=False).indices
    row, group = best // groups, best % groups
    candidates = grouped[row, :, group]
    chosen = candidates.flatten().topk(n, sorted=False).indices
    at, member = chosen // GROUP, chosen % GROUP
    places = row[at] * width + member * groups + group[at]
    return places.sort().values


class _Reconstruct(torch.autograd.Function):
    """sum_f z_f W_dec[f] + b_dec with z = relu of given pre-activations of the active features."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        z: torch.Tensor,
        active: Active,
        b_dec_in_encoder: bool,
    ) -> torch.Tensor:
        # The bag keeps a graph of its own: its gradient in z is dot products of rows.
        with torch.enable_grad():
            weights = z.detach().requires_grad_()
            decoded = embedding_bag(
                active.features,
                W_dec.detach(),
                active.starts,
                mode="sum",
                per_sample_weights=weights,
            )
        ctx.bag = decoded, weights
        ctx.active = active
        ctx.b_dec_in_encoder = b_dec_in_encoder
        ctx.save_for_backward(x, W_enc, b_dec)
        return decoded.detach() + b_dec

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, W_enc, b_dec = ctx.saved_tensors
        decoded, z = ctx.bag
        active: Active = ctx.active
        grad = grads[0].contiguous()
        (grad_z,) = torch.autograd.grad(decoded, z, grad)
        z = z.detach()
        grad_pre = grad_z * (z > 0)
        d_sae = W_enc.shape[1]
        # The same entries, feature by feature.
        features, order = active.features.sort()
        rows = active.rows[order]
        starts = torch.searchsorted(features, torch.arange(d_sae, device=x.device))
        encoded = x - b_dec if ctx.b_dec_in_encoder else x
        grad_W_dec = embedding_bag(rows, grad, starts, mode="sum", per_sample_weights=z[order])
        grad_W_enc = embedding_bag(
            rows, encoded, starts, mode="sum", per_sample_weights=grad_pre[order]
        ).T
        # As all else a sum in a stated order: index_add_ has none on a GPU.
        grad_b_enc = embedding_bag(order, grad_pre[:, None], starts, mode="sum")[:, 0]
        grad_b_dec = grad.sum(0)
        if ctx.b_dec_in_encoder:
            grad_b_dec = grad_b_dec - W_enc @ grad_b_enc
        return None, grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, None, None, None


class _Revive(torch.autograd.Function):
    """acts @ W_dec, where acts are given values of some pre-activations, else 0.

    `places` says which, in the flattened acts: a mask of them all would take longer to apply.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inside: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        acts: torch.Tensor,
        places: torch.Tensor,
        b_dec_in_encoder: bool,
    ) -> torch.Tensor:
        narrow = W_dec.to(acts.dtype)
        ctx.b_dec_in_encoder = b_dec_in_encoder
        ctx.save_for_backward(inside, W_enc, narrow, acts, places)
        return (acts @ narrow).to(inside.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inside, W_enc, narrow, acts, places = ctx.saved_tensors
        grad, dtype = grads[0].to(acts.dtype), inside.dtype
        grad_pre = grad @ narrow.T
        flat = grad_pre.view(-1)
        kept = flat[places]
        flat.zero_().index_copy_(0, places, kept)
        grad_W_enc = (inside.to(acts.dtype).T @ grad_pre).to(dtype)
        grad_b_enc = grad_pre.sum(0).to(dtype)
        # Of the bias in the input only its sum over the batch is wanted.
        grad_b_dec = -(W_enc @ grad_b_enc) if ctx.b_dec_in_encoder else None
        grad_W_dec = (acts.T @ grad).to(dtype)
        return None, grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, None, None, None


def training_step(sae: SparseSAE, step: TrainStepInput) -> TrainStepOutput:
    """Run a batch forward: SAELens' losses of TopK and BatchTopK, by sparse sums.

    Args:
        sae: what is trained.
        step: the batch [batch, d_in] and which features are dead.

    Returns:
        As SAELens', with `feature_acts` as a coalesced COO tensor and `hidden_pre` empty.

    Raises:
        UsageError: an autoencoder that normalises every activation by itself, or a batch whose own
            gradient is wanted: there is none.
    """
    cfg = sae.cfg
    if step.sae_in.requires_grad:
        raise UsageError(
            "the sparse trainer gives no gradient of activations",
            "the batch asks for one",
            "detach it, or train SAELens' own class",
        )
    if cfg.normalize_activations in ("constant_norm_rescale", "layer_norm"):
        raise UsageError(
            "the sparse trainer reads activations as they are",
            f"normalize_activations is {cfg.normalize_activations!r}",
            "use 'none' or 'expected_average_only_in', or train SAELens' own class",
        )
    x = sae.hook_sae_input(step.sae_in.to(sae.dtype))
    with torch.no_grad():
        norms = sae.W_dec.norm(dim=-1) if cfg.rescale_acts_by_decoder_norm else None
        # In full precision: what the bias takes away may be most of x.
        inside = x - sae.b_dec if cfg.apply_b_dec_to_input else x
        scores = _scores(sae, inside, norms)
        active = sae.choose(scores)
        values = scores[active.rows, active.features].to(x.dtype).relu_()
        z = values if norms is None else values / norms[active.features]
        acts = torch.sparse_coo_tensor(
            torch.stack([active.rows, active.features]),
            values,
            scores.shape,
            is_coalesced=True,
            check_invariants=False,
        )
    weights = sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec
    out = _Reconstruct.apply(x, *weights, z, active, bool(cfg.apply_b_dec_to_input))
    mse = sae.mse_loss_fn(out, step.sae_in).sum(dim=-1).mean()
    aux = auxiliary_loss(sae, inside, scores, (x - out).detach(), step.dead_neuron_mask)
    return TrainStepOutput(
        sae_in=step.sae_in,
        sae_out=out,
        feature_acts=acts,
        hidden_pre=scores.new_empty(0),
        loss=mse + aux,
        losses={"mse_loss": mse, "auxiliary_reconstruction_loss": aux},
    )


def auxiliary_loss(
    sae: SparseSAE,
    inside: torch.Tensor,
    scores: torch.Tensor,
    missing: torch.Tensor,
    dead: torch.Tensor | None,
) -> torch.Tensor:
    """Return SAELens' loss that revives dead features: they reconstruct what is left over.

    Only the dead features' columns are multiplied.

    Args:
        sae: what is trained.
        inside: what the encoder multiplies, [batch, d_in].
        scores: by what features are chosen, [batch, d_sae].
        missing: what the reconstruction leaves over, [batch, d_in].
        dead: which features are dead, [d_sae].

    Returns:
        A scalar, 0 where none is dead (Gao et al. 2024, appendix A.2, as SAELens scales it).
    """
    features = torch.nonzero(dead).flatten() if dead is not None else ()
    n_dead = len(features)
    if n_dead == 0:
        return inside.new_tensor(0.0)
    cfg = sae.cfg
    most = inside.shape[-1] // 2
    rows = math.ceil(len(inside) * cfg.aux_share)  # batches are shuffled: any rows will do
    inside, missing = inside[:rows], missing[:rows]
    W_enc, b_enc, W_dec = sae.W_enc[:, features], sae.b_enc[features], sae.W_dec[features]
    with torch.no_grad():
        pre = scores[:rows, features]
        best = pre.topk(min(most, n_dead), sorted=False).indices
        values = pre.gather(1, best)
        if cfg.rescale_acts_by_decoder_norm:
            values /= W_dec.norm(dim=-1).to(values.dtype)[best]
        begins = torch.arange(rows, device=pre.device)[:, None] * n_dead
        places = (begins + best).flatten()
        acts = torch.zeros_like(pre)
        acts.view(-1).index_copy_(0, places, values.flatten())
    weights = W_enc, b_enc, W_dec, sae.b_dec
    found = _Revive.apply(inside, *weights, acts, places, cfg.apply_b_dec_to_input)
    loss = (found - missing).pow(2).sum(dim=-1).mean()
    return cfg.aux_loss_coefficient * min(n_dead / most, 1.0) * loss


def _scores(sae: SparseSAE, inside: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    """Return by what features are chosen, [batch, d_sae]: one dense product in `precision`."""
    dtype = DTYPES[sae.cfg.precision]
    W_enc, b_enc = sae.W_enc, sae.b_enc
    if norms is not None:
        W_enc, b_enc = W_enc * norms, b_enc * norms
    return torch.addmm(b_enc.to(dtype), inside.to(dtype), W_enc.to(dtype))


@dataclass(kw_only=True)
class SparseOptions:
    """What the sparse step adds to SAELens' configs.

    `precision` is that of the encoder's product (`models.load.DTYPES`); `aux_share` the share of a
    batch on which dead features are revived, whose loss is the same in expectation.
    """

    precision: str = "bf16"
    aux_share: float = 1.0


@dataclass
class SparseTopKTrainingSAEConfig(TopKTrainingSAEConfig, SparseOptions):
    """SAELens' config of TopK, and the sparse step's options."""

    @classmethod
    def architecture(cls) -> str:
        """Return the name that SAELens knows it by."""
        return "moralprobe_topk"

    def get_inference_config_class(self) -> type[SAEConfig]:
        """Return what it is saved as: SAELens' stock TopK."""
        return TopKSAEConfig


class SparseTopKTrainingSAE(TopKTrainingSAE):
    """SAELens' TopK with a sparse decoder and a backward pass of its own."""

    cfg: SparseTopKTrainingSAEConfig

    def choose(self, scores: torch.Tensor) -> Active:
        """Return the k features with the largest scores of each activation."""
        k = int(self.cfg.k)
        features = top_each(scores, k)
        starts = torch.arange(len(scores), device=scores.device) * k
        rows = torch.arange(len(scores), device=scores.device).repeat_interleave(k)
        return Active(rows, features.flatten(), starts)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Run a batch forward; see `training_step`."""
        return training_step(self, step_input)


@dataclass
class SparseBatchTopKTrainingSAEConfig(BatchTopKTrainingSAEConfig, SparseOptions):
    """SAELens' config of BatchTopK, and the sparse step's options."""

    @classmethod
    def architecture(cls) -> str:
        """Return the name that SAELens knows it by."""
        return "moralprobe_batchtopk"

    def get_inference_config_class(self) -> type[SAEConfig]:
        """Return what it is saved as: SAELens' stock JumpReLU."""
        return JumpReLUSAEConfig


class SparseBatchTopKTrainingSAE(BatchTopKTrainingSAE):
    """SAELens' BatchTopK with a sparse decoder and a backward pass of its own."""

    cfg: SparseBatchTopKTrainingSAEConfig

    def choose(self, scores: torch.Tensor) -> Active:
        """Return the k features an activation, on average, with the largest scores of the batch."""
        batch, width = scores.shape
        places = top_of_all(scores, int(self.cfg.k * batch))
        rows = places // width
        starts = torch.searchsorted(rows, torch.arange(batch, device=scores.device))
        return Active(rows, places % width, starts)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Run a batch forward and move the threshold; see `training_step`."""
        output = training_step(self, step_input)
        self.update_topk_threshold(output.feature_acts.values())
        output.metrics["topk_threshold"] = self.topk_threshold
        return output


SparseSAE = SparseTopKTrainingSAE | SparseBatchTopKTrainingSAE

register_sae_training_class("moralprobe_topk", SparseTopKTrainingSAE, SparseTopKTrainingSAEConfig)
register_sae_training_class(
    "moralprobe_batchtopk", SparseBatchTopKTrainingSAE, SparseBatchTopKTrainingSAEConfig
)
