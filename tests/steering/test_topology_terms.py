"""The published loss and ours, each against its formula written row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.geometry.categories import category_match, centres, dissimilarity
from moralprobe.steering.losses import (
    Masks,
    geometry_terms,
    published_defects,
    published_terms,
    rdm_term,
)
from moralprobe.steering.tunable import Tunable
from tests.steering.test_rules import KINDS, autoencoder, states

N, F = 160, 15


def rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Masks]:
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.gamma(0.5, 1, (N, F)) * (rng.random((N, F)) < 0.6)).float()
    h = np.zeros((N, 10))
    for i in range(N):
        side = rng.integers(0, 3)
        if side < 2:
            axes = rng.choice(5, rng.integers(1, 3), replace=False)
            h[i, 2 * axes + side] = rng.choice([0.125, 0.25, 0.375, 0.5, 0.75, 1.0])
    weights = rng.random((10, F)) * (rng.random((10, F)) < 0.5)
    weights /= weights.sum(1, keepdims=True)
    poles = np.zeros((10, F))
    for k in range(10):
        poles[k, rng.choice(F, 4, replace=False)] = 0.25
    masks = Masks(
        torch.from_numpy(weights).float(),
        torch.from_numpy(poles).float(),
        torch.from_numpy(rng.random(F) < 0.4),
        torch.from_numpy(rng.integers(0, 10, F)),
    )
    return z, torch.from_numpy(h).float(), masks


def pairs_of(h: torch.Tensor, least: int, seed: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """The random pairs of each pole, drawn in the order of poles."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for k in range(10):
        there = [i for i in range(N) if h[i, k] > 0]
        if len(there) < least:
            continue
        one = torch.randint(len(there), (100,), generator=generator).tolist()
        step = torch.randint(len(there) - 1, (100,), generator=generator).tolist()
        pairs = [
            (there[a], there[(a + 1 + b) % len(there)]) for a, b in zip(one, step, strict=True)
        ]
        assert all(a != b for a, b in pairs)
        found.append((k, pairs))
    return found


def test_the_published_terms_are_their_formulas() -> None:
    z, h, masks = rows()
    found = published_terms(z, h, masks, torch.Generator().manual_seed(5))
    y = [[float(masks.weights[j] @ z[i]) for j in range(10)] for i in range(N)]
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    align = [
        (sigmoid(y[i][j]) - float(h[i, j])) ** 2 for i in range(N) for j in range(10) if h[i, j] > 0
    ]
    assert float(found["align"]) == pytest.approx(np.mean(align), rel=1e-5)
    virtue = [i for i in range(N) if h[i, ::2].max() > 0.3]
    vice = [i for i in range(N) if h[i, 1::2].max() > 0.3]
    per_axis = []
    for a in range(5):
        v = [float(masks.poles[2 * a] @ z[i]) for i in range(N)]
        c = [float(masks.poles[2 * a + 1] @ z[i]) for i in range(N)]
        one = np.mean([max(0.0, 0.5 - v[i] + c[i]) for i in virtue])
        two = np.mean([max(0.0, 0.5 - c[i] + v[i]) for i in vice])
        per_axis.append((one + two) / 2)
    assert float(found["pol"]) == pytest.approx(np.mean(per_axis), rel=1e-5)
    proto = [
        np.mean([max(0.0, 0.1 - float(h[a, k] - h[b, k]) * (y[a][k] - y[b][k])) for a, b in pairs])
        for k, pairs in pairs_of(h, 16, 5)
    ]
    assert proto and float(found["proto"]) == pytest.approx(np.mean(proto), rel=1e-4)
    mono = [
        float(z[i, f]) ** 2 * (int(np.argmax(h[i].numpy())) != int(masks.pole[f]))
        for i in range(N)
        for f in range(F)
        if masks.strict[f]
    ]
    assert float(found["mono"]) == pytest.approx(np.mean(mono), rel=1e-5)


def test_the_published_defects_are_counted_as_they_are_defined() -> None:
    z, h, masks = rows()
    found = published_defects(z, h, masks, torch.Generator().manual_seed(5))
    y = [[float(masks.weights[j] @ z[i]) for j in range(10)] for i in range(N)]
    entries = [float(h[i, j]) for i in range(N) for j in range(10)]
    assert found["unreachable"] == (sum(0 < v < 0.5 for v in entries), sum(v > 0 for v in entries))
    assert found["unasked"] == (sum(v == 0 for v in entries), 10 * N)
    assert found["zeros"] == (sum(not h[i].any() for i in range(N)), N)
    # The same pairs that the loss draws.
    pairs = [(k, a, b) for k, some in pairs_of(h, 16, 5) for a, b in some]
    differ = [(k, a, b) for k, a, b in pairs if h[a, k] != h[b, k]]
    assert found["tied"] == (len(pairs) - len(differ), len(pairs))
    costly = [float(h[a, k] - h[b, k]) * (y[a][k] - y[b][k]) < 0.1 for k, a, b in differ]
    assert found["in_margin"] == (sum(costly), len(differ))
    counted, outside = 0, 0
    for i in range(N):
        for side in (0, 1):
            if max(h[i, side::2]) > 0.3:
                counted += 5
                outside += sum(float(h[i, 2 * a + side]) == 0 for a in range(5))
    assert found["other_axis"] == (outside, counted)
    assert 0 < outside < counted and 0 < sum(costly) < len(costly) < len(pairs)


def test_ties_cost_without_a_gradient() -> None:
    z, h, masks = rows()
    z.requires_grad_()
    tied = torch.where(h > 0, 0.5, 0.0)
    terms = published_terms(z, tied, masks, torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad(terms["proto"], z)
    assert float(terms["proto"].detach()) == pytest.approx(0.1) and not gradient.any()
    found = published_defects(z.detach(), tied, masks, torch.Generator().manual_seed(5))
    assert found["tied"][0] == found["tied"][1] > 0 and found["in_margin"] == (0, 0)


def test_too_few_rows_leave_published_terms_at_0() -> None:
    z, h, masks = rows()
    few = published_terms(z[:3], h[:3], masks, torch.Generator())
    assert float(few["pol"]) == 0 and float(few["proto"]) == 0


def test_a_sigmoid_of_what_isnt_negative_is_never_below_a_half() -> None:
    """The published alignment can't reach most of its targets: kept, and known."""
    z, h, masks = rows()
    h = torch.where(h > 0, 0.125, 0.0)
    for size in (0.0, 0.1, 1.0, 10.0):
        found = published_terms(z * size, h, masks, torch.Generator())
        assert float(found["align"]) >= (0.5 - 0.125) ** 2 - 1e-6


def test_our_terms_are_their_formulas() -> None:
    z, h, masks = rows()
    x = states(3, N)
    found = geometry_terms(z, h, x, masks, torch.Generator().manual_seed(5))
    y = (z.double() @ masks.weights.double().T).numpy()
    H = h.double().numpy()
    left = []
    for k in range(10):
        # Least squares of h on y, rows above 0 and rows of 0 weighing the same.
        there = H[:, k] > 0
        w = np.sqrt(np.where(there, 0.5 / there.sum(), 0.5 / (~there).sum()))
        design = np.stack([y[:, k], np.ones(N)], axis=1)
        (a, b), *_ = np.linalg.lstsq(w[:, None] * design, w * H[:, k], rcond=None)
        residual = (w**2 * (a * y[:, k] + b - H[:, k]) ** 2).sum()
        variance = (w**2 * (H[:, k] - (w**2 * H[:, k]).sum()) ** 2).sum()
        left.append(residual / variance if a > 0 else 2 - residual / variance)
    align = np.mean(left)
    assert float(found["align"]) == pytest.approx(align, rel=1e-4)
    contrast = z.double().numpy() @ (masks.poles[::2] - masks.poles[1::2]).double().numpy().T
    contrast = (contrast - contrast.mean(0)) / contrast.std(0, ddof=1)
    pol = [
        np.log1p(np.exp(-(1 if H[i, 2 * k] > 0 else -1) * contrast[i, k]))
        for i in range(N)
        for k in range(5)
        if H[i, 2 * k] > 0 or H[i, 2 * k + 1] > 0
    ]
    assert float(found["pol"]) == pytest.approx(np.mean(pol), rel=1e-4)
    standard = (y - y.mean(0)) / y.std(0, ddof=1)
    ranks = []
    for k, pairs in pairs_of(h, 2, 5):
        steps = [
            np.log1p(np.exp(-np.sign(H[i, k] - H[j, k]) * (standard[i, k] - standard[j, k])))
            for i, j in pairs
            if H[i, k] != H[j, k]
        ]
        ranks.append(np.mean(steps))
    assert float(found["rank"]) == pytest.approx(np.mean(ranks), rel=1e-4)
    rdms = [dissimilarity(centres(v, H)) for v in (x.double().numpy(), H)]
    assert float(found["rdm"]) == pytest.approx(1 - np.corrcoef(rdms)[0, 1], rel=1e-4)


def test_our_terms_dont_care_for_scale() -> None:
    z, h, masks = rows()
    x = states(3, N)

    def terms(by: float) -> dict[str, torch.Tensor]:
        return geometry_terms(by * z, h, x, masks, torch.Generator().manual_seed(1))

    for name, value in terms(1.0).items():
        assert float(terms(10.0)[name]) == pytest.approx(float(value), rel=1e-4)


def test_the_geometry_term_can_be_learnt() -> None:
    _, h, _ = rows()
    x = states(3, N).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.05)
    before = float(rdm_term(x.detach(), h))
    for _ in range(200):
        optimiser.zero_grad()
        rdm_term(x, h).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert before > 0.3 and float(rdm_term(x.detach(), h)) < 0.02


def test_the_match_of_categories_finds_what_was_planted_and_nothing_else() -> None:
    _, h, _ = rows()
    H = np.tile(h.double().numpy(), (5, 1))
    rng = np.random.default_rng(2)
    planted = H @ (np.eye(10, 24)) * 3 + rng.normal(size=(len(H), 24)) * 0.3
    found = category_match(planted, H, draws=200)
    assert found.value > 0.9 and found.ci_low > 0.7 and found.p < 0.02
    nothing = category_match(rng.normal(size=(len(H), 24)), H, draws=200)
    assert nothing.null_low < nothing.value < nothing.null_high


@pytest.mark.parametrize("kind", KINDS)
def test_tuned_features_are_those_of_the_autoencoder_that_is_written(kind: str) -> None:
    sae, x = autoencoder(kind), states(0, 60)
    features = torch.tensor([1, 4, 9, 30])
    tunable = Tunable(sae, features)
    others = tunable.others(x)
    with torch.no_grad():
        torch.testing.assert_close(
            tunable.acts(x, others), sae.encode(x)[:, features], atol=1e-5, rtol=1e-4
        )
        for parameter in tunable.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        tunable.renormalise()
        written = tunable.written()
        z = written.encode(x)
        torch.testing.assert_close(tunable.acts(x, others), z[:, features], atol=1e-5, rtol=1e-4)
        assert not torch.equal(z[:, features], sae.encode(x)[:, features])
        torch.testing.assert_close(
            written.W_dec.norm(dim=-1), sae.W_dec.norm(dim=-1), atol=1e-5, rtol=1e-5
        )
        rest = torch.ones(40, dtype=torch.bool)
        rest[features] = False
        assert torch.equal(written.W_enc[:, rest], sae.W_enc[:, rest])
        assert torch.equal(written.b_dec, sae.b_dec)
        # What each adds to the reconstruction is its row, as the written one decodes.
        only = torch.zeros_like(z)
        only[:, features] = z[:, features]
        part = written.decode(only) - written.decode(torch.zeros_like(z))
        torch.testing.assert_close(z[:, features] @ tunable.rows, part, atol=1e-4, rtol=1e-4)
        original = tunable.original()
        torch.testing.assert_close(
            original.acts(x, others), sae.encode(x)[:, features], atol=1e-5, rtol=1e-4
        )


def test_gradients_reach_the_selected_features_alone() -> None:
    sae, x = autoencoder("topk"), states(0, 60)
    tunable: Any = Tunable(sae, torch.tensor([1, 4, 9, 30]))
    (tunable.acts(x, tunable.others(x)) @ tunable.rows).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tunable.parameters())
    assert all(p.grad is None for p in sae.parameters())
    assert {id(p) for p in tunable.parameters()} == {
        id(p) for p in (tunable.W_enc, tunable.b_enc, tunable.W_dec)
    }
