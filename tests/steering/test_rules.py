"""Each rule against its formula, written state by state; what can't be a rule is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import sae_lens
import torch

from moralprobe.errors import NumericError, UsageError
from moralprobe.steering.rules import (
    Add,
    Cap,
    Gate,
    ProjectOut,
    Reconstruct,
    ScaleFeatures,
    SwapFeatures,
)
from moralprobe.steering.tunable import decoder_rows

D = 12


def states(seed: int = 0, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (2, 5)), D, generator=generator)


def direction(seed: int = 7) -> torch.Tensor:
    return states(seed, 1)[0]


def autoencoder(kind: str = "topk", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sae = {
        "topk": lambda: sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=D, d_sae=40, k=5)),
        "topk, rescaled": lambda: sae_lens.TopKSAE(
            sae_lens.TopKSAEConfig(d_in=D, d_sae=40, k=5, rescale_acts_by_decoder_norm=True)
        ),
        "standard": lambda: sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D, d_sae=40)),
        "jumprelu": lambda: sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(d_in=D, d_sae=40)),
    }[kind]()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
        if kind == "jumprelu":
            sae.threshold.abs_()
    return sae.eval()


KINDS = ["topk", "topk, rescaled", "standard", "jumprelu"]


def test_add_gives_the_direction_everywhere() -> None:
    v = direction()
    change = Add(v)(states())
    assert change.shape == states().shape
    assert all(torch.equal(row, v) for row in change.flatten(0, 1))


def test_what_is_projected_out_is_gone_and_the_rest_stays() -> None:
    x, v, w = states(), direction(1), direction(2)
    y = x + ProjectOut(torch.stack([v, w]))(x)
    assert (y @ v).abs().max() < 1e-5 and (y @ w).abs().max() < 1e-5
    # What is orthogonal to both is untouched.
    u = direction(3).double()
    basis = torch.linalg.qr(torch.stack([v, w]).double().T).Q
    u = (u - basis @ (basis.T @ u)).float()
    torch.testing.assert_close(y @ u, x @ u, atol=1e-5, rtol=0)
    one = ProjectOut(v[None])(x)
    naive = torch.stack([-(row @ v) / (v @ v) * v for row in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(one, naive, atol=1e-5, rtol=1e-5)


def test_directions_that_depend_on_each_other_are_refused() -> None:
    v = direction()
    with pytest.raises(NumericError, match="2 of them span 1"):
        ProjectOut(torch.stack([v, 2 * v]))


def test_a_cap_holds_the_projection_and_nothing_else() -> None:
    x, v = states(), direction()
    unit = v / v.norm()
    y = x + Cap(v, 0.3)(x)
    torch.testing.assert_close(y @ unit, (x @ unit).clamp(max=0.3), atol=1e-5, rtol=0)
    below = (x @ unit) <= 0.3
    assert below.any() and (~below).any()
    assert torch.equal(y[below], x[below])


def test_reconstruct_is_the_published_rule() -> None:
    x, sae = states(), autoencoder("standard")
    s = 0.4
    with torch.no_grad():
        blend = (1 - s) * x + s * sae.decode(sae.encode(x))
        torch.testing.assert_close(x + s * Reconstruct(sae)(x), blend, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_a_feature_adds(kind: str) -> None:
    sae, x = autoencoder(kind), states()
    features = torch.arange(40)
    rows = decoder_rows(sae, features)
    with torch.no_grad():
        z = sae.encode(x)
        torch.testing.assert_close(
            z @ rows + sae.decode(torch.zeros_like(z)), sae.decode(z), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_features_is_the_difference_of_two_decodings(kind: str) -> None:
    sae, x = autoencoder(kind), states()
    features = torch.tensor([3, 17, 39])
    scale, offset = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 0.5, -1.0])
    with torch.no_grad():
        z = sae.encode(x)
        changed = z.clone()
        for f, a, b in zip(features.tolist(), scale.tolist(), offset.tolist(), strict=True):
            changed[..., f] = a * z[..., f] + b
        expected = sae.decode(changed) - sae.decode(z)
        found = ScaleFeatures(sae, features, scale, offset)(x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def rows_of(sae: Any, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return sae.W_enc[:, features].T.clone(), sae.b_enc[features], sae.W_dec[features].clone()


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_features_enter_and_no_other(kind: str) -> None:
    old, new, x = autoencoder(kind, 0), autoencoder(kind, 1), states()
    features = torch.tensor([0, 5, 21])
    whole = copy.deepcopy(old)  # the original with the new rows in it
    with torch.no_grad():
        whole.W_enc[:, features], whole.b_enc[features], whole.W_dec[features] = (
            rows.T if i == 0 else rows for i, rows in enumerate(rows_of(new, features))
        )
        if kind == "topk, rescaled":  # rows keep their lengths, by which activations are weighed
            lengths = old.W_dec[features].norm(dim=-1, keepdim=True)
            whole.W_dec[features] *= lengths / whole.W_dec[features].norm(dim=-1, keepdim=True)
        parts = []
        for sae in (whole, old):
            z = sae.encode(x)
            only = torch.zeros_like(z)
            only[..., features] = z[..., features]
            parts.append(sae.decode(only) - sae.decode(torch.zeros_like(z)))
    found = SwapFeatures(old, features, *rows_of(whole, features))(x)
    same = SwapFeatures(old, features, *rows_of(old, features))(x)
    torch.testing.assert_close(found, parts[0] - parts[1], atol=1e-4, rtol=1e-4)
    assert same.abs().max() == 0


def test_a_gate_lets_through_what_is_above_its_bias() -> None:
    x, v = states(), direction()
    assert torch.equal(Gate(v, -0.5)(x), (x @ v) > 0.5)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.zeros(D), "zero"),
        (torch.full((D,), torch.nan), "NaN"),
        (torch.full((D,), torch.inf), "NaN or infinity"),
    ],
)
def test_directions_that_are_none_are_refused(bad: torch.Tensor, says: str) -> None:
    for make in (Add, lambda v: ProjectOut(v[None]), lambda v: Cap(v, 1.0), Gate):
        with pytest.raises(NumericError, match=says):
            make(bad)


def test_a_direction_in_16_bits_is_refused() -> None:
    with pytest.raises(UsageError, match="fp32"):
        Add(direction().half())


def test_features_that_arent_there_are_refused() -> None:
    sae, one = autoencoder(), torch.ones(1)
    with pytest.raises(UsageError, match="no feature 40"):
        ScaleFeatures(sae, torch.tensor([40]), one, one)
    with pytest.raises(UsageError, match="twice"):
        ScaleFeatures(sae, torch.tensor([1, 1]), torch.ones(2), torch.ones(2))
    with pytest.raises(NumericError, match="no number"):
        ScaleFeatures(sae, torch.tensor([1]), one, one * torch.nan)
    with pytest.raises(NumericError, match="changes nothing"):
        ScaleFeatures(sae, torch.tensor([1]), one, one * 0)
    with pytest.raises(UsageError, match="no feature is given"):
        SwapFeatures(sae, torch.tensor([], dtype=torch.long), one, one, one)
    with pytest.raises(UsageError, match=r"\(1,\) where \(1, 12\)"):
        SwapFeatures(sae, torch.tensor([1]), one, one, one)


def test_an_autoencoder_that_rescales_its_inputs_is_refused() -> None:
    sae = sae_lens.StandardSAE(
        sae_lens.StandardSAEConfig(d_in=D, d_sae=40, normalize_activations="layer_norm")
    )
    with pytest.raises(UsageError, match="layer_norm"):
        ScaleFeatures(sae, torch.tensor([1]), torch.zeros(1), torch.zeros(1))


def test_a_cap_needs_a_bound() -> None:
    with pytest.raises(NumericError, match="bound"):
        Cap(direction(), float("nan"))
