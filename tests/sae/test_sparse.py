"""The sparse step against SAELens' dense one from the same weights, and against plain choices."""

from __future__ import annotations

from typing import Any

import pytest
import sae_lens
import torch
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput

from moralprobe.errors import UsageError
from moralprobe.sae import sparse

D_IN, D_SAE, K, BATCH = 48, 384, 6, 160
PAIRS = {
    "topk": (
        (sparse.SparseTopKTrainingSAE, sparse.SparseTopKTrainingSAEConfig),
        (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
    ),
    "batchtopk": (
        (sparse.SparseBatchTopKTrainingSAE, sparse.SparseBatchTopKTrainingSAEConfig),
        (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
    ),
}


def pair(arch: str, precision: str = "fp32", **options: Any) -> tuple[Any, Any]:
    """Ours and SAELens', with the same weights, none of them zero."""
    torch.manual_seed(202)  # what is chosen and what just isn't lie 1e-4 apart: no near ties
    (ours, our_config), (theirs, their_config) = PAIRS[arch]
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "k": K, **options}
    a, b = ours(our_config(**sizes, precision=precision)), theirs(their_config(**sizes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    a.load_state_dict(b.state_dict())
    return a, b


def batch(seed: int = 0) -> torch.Tensor:
    return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(seed)) + 0.7


def step(sae: Any, x: torch.Tensor, dead: torch.Tensor | None = None) -> Any:
    output = sae.training_forward_pass(TrainStepInput(x, {}, dead, 0, False))
    output.loss.backward()
    return output


@pytest.mark.parametrize("arch", PAIRS)
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("dead", [0, 5, 200])
def test_losses_and_gradients_are_those_of_sae_lens(
    arch: str, rescale: bool, inside: bool, dead: int
) -> None:
    # 24 features are most that revive at once: 5 dead are fewer, 200 more.
    ours, theirs = pair(arch, rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=inside)
    mask = torch.arange(D_SAE) % 3 == 0
    mask &= mask.cumsum(0) <= dead
    a, b = step(ours, batch(), mask), step(theirs, batch(), mask)
    for name, loss in b.losses.items():
        torch.testing.assert_close(a.losses[name], loss, rtol=1e-5, atol=1e-5)
    assert dead == 0 or float(a.losses["auxiliary_reconstruction_loss"].detach()) > 0
    torch.testing.assert_close(a.sae_out, b.sae_out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.feature_acts.to_dense(), b.feature_acts, rtol=1e-4, atol=1e-5)
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert q.grad is not None and float(q.grad.abs().max()) > 0
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_a_batch_that_wants_a_gradient_is_refused() -> None:
    ours, _ = pair("topk")
    with pytest.raises(UsageError, match="no gradient of activations"):
        step(ours, batch().requires_grad_())


def test_dead_features_are_revived_on_a_share_of_the_batch() -> None:
    ours, theirs = pair("topk")
    ours.cfg.aux_share = 0.25
    dead = torch.arange(D_SAE) % 4 == 0
    losses = [
        float(step(sae, x, dead).losses["auxiliary_reconstruction_loss"].detach())
        for sae, x in ((ours, batch()), (theirs, batch()[: BATCH // 4]))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("arch", PAIRS)
def test_training_goes_where_sae_lens_goes(arch: str) -> None:
    losses = []
    for sae in pair(arch):
        config = SAETrainerConfig(40 * BATCH, BATCH, lr=1e-3, lr_end=1e-4, dead_feature_window=8)
        trainer = SAETrainer(config, sae, iter(()))
        row = []
        for i in range(40):
            output = trainer.step(batch(i))
            trainer.n_training_steps += 1
            row.append([float(loss.detach()) for loss in output.losses.values()])
        losses.append(torch.tensor(row))
        assert float(losses[-1][-1, 0]) < 0.7 * float(losses[-1][0, 0])
    assert float(losses[1][:, 1].max()) > 0  # features were revived
    torch.testing.assert_close(*losses, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("arch", PAIRS)
def test_bf16_chooses_nearly_the_same(arch: str) -> None:
    ours, theirs = pair(arch, "bf16")
    a, b = step(ours, batch()), step(theirs, batch())
    losses = [float(output.losses["mse_loss"].detach()) for output in (a, b)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    same = (a.feature_acts.to_dense() > 0) == (b.feature_acts > 0)
    assert float(same.float().mean()) > 0.99


@pytest.mark.parametrize("k", [1, 5, 11, 12, 40, 384])
def test_the_largest_of_each_row(k: int) -> None:
    # 384 entries are 12 groups of 32: from 12 on they are compared at once.
    scores = torch.randn(30, 384, generator=torch.Generator().manual_seed(k))
    expected = scores.topk(k).indices.sort().values
    assert torch.equal(sparse.top_each(scores, k), expected)


@pytest.mark.parametrize("n", [1, 50, 359, 360, 5000, 30 * 384])
def test_the_largest_of_all(n: int) -> None:
    scores = torch.randn(30, 384, generator=torch.Generator().manual_seed(n))
    expected = scores.flatten().topk(n).indices.sort().values
    assert torch.equal(sparse.top_of_all(scores, n), expected)


@pytest.mark.parametrize("width", [33, 40])
def test_widths_that_are_no_multiple(width: int) -> None:
    scores = torch.randn(7, width, generator=torch.Generator().manual_seed(2))
    assert torch.equal(sparse.top_each(scores, 3), scores.topk(3).indices.sort().values)
    assert torch.equal(sparse.top_of_all(scores, 9), scores.flatten().topk(9).indices.sort().values)


def test_fewer_positive_features_than_k_leave_the_rest_silent() -> None:
    ours, theirs = pair("topk")
    with torch.no_grad():
        for sae in (ours, theirs):
            sae.b_enc.fill_(-3)
    a, b = step(ours, batch()), step(theirs, batch())
    acts = a.feature_acts.to_dense()
    assert float((acts > 0).sum(1).float().min()) < K
    torch.testing.assert_close(acts, b.feature_acts, rtol=1e-4, atol=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", PAIRS)
def test_what_is_saved_is_sae_lens_stock_class(arch: str, tmp_path: Any) -> None:
    ours, theirs = pair(arch)
    step(ours, batch())
    step(theirs, batch())
    for name, sae in (("ours", ours), ("theirs", theirs)):
        sae.save_inference_model(tmp_path / name)
    a, b = (sae_lens.SAE.load_from_disk(tmp_path / name) for name in ("ours", "theirs"))
    assert type(a) is type(b)
    torch.testing.assert_close(a(batch(3)), b(batch(3)), rtol=1e-4, atol=1e-4)


def test_the_threshold_of_batchtopk_follows_the_smallest_active() -> None:
    ours, theirs = pair("batchtopk")
    for i in range(3):
        step(ours, batch(i))
        step(theirs, batch(i))
    assert float(ours.topk_threshold) > 0
    torch.testing.assert_close(ours.topk_threshold, theirs.topk_threshold)


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale"])
def test_activations_that_are_normalised_one_by_one_are_refused(norm: str) -> None:
    ours, _ = pair("topk", normalize_activations=norm)
    with pytest.raises(UsageError, match=norm):
        step(ours, batch())
