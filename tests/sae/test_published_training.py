"""The published training: its loss, schedule and penalty as written down, and what is saved."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import sae_lens
import torch

from moralprobe.errors import DataError
from moralprobe.sae.published_training import (
    PENALTY,
    Penalty,
    epoch_of,
    learning_rate,
    next_penalty,
)
from moralprobe.sae.recipe import EPOCHS, Recipe, Task, for_epochs
from moralprobe.sae.trainer import begin_at_the_mean, trainer_of
from tests.sae.test_train import D_IN, RECIPE, Planted, run, weights

PUBLISHED = replace(RECIPE, arch="li2026", steps=300, k=6, lr=1e-3)


def test_steps_follow_the_formula() -> None:
    """Every number is what an autograd of one's own gives, over epochs of three steps."""
    source = Planted()
    task = Task(0, PUBLISHED)
    trainer = trainer_of(task, D_IN, "cpu", {})
    begin_at_the_mean({task.name: trainer}, [task], source, PUBLISHED)
    W_e = trainer.sae.W_enc.detach().T.clone().requires_grad_()
    W_d = trainer.sae.W_dec.detach().T.clone().requires_grad_()
    b_e, b_d = (b.detach().clone().requires_grad_() for b in (trainer.sae.b_enc, trainer.sae.b_dec))
    torch.testing.assert_close(W_d.norm(dim=0), torch.ones(4 * D_IN))
    center = source.states[0].double().mean(0).float()
    adam = torch.optim.AdamW([W_e, W_d, b_e, b_d], lr=PUBLISHED.lr, weight_decay=0.0)
    penalty, active = PENALTY, []
    with torch.no_grad():
        for ours, bias in ((b_e, trainer.sae.b_enc), (b_d, trainer.sae.b_dec)):
            bias += 0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(1))
            ours.copy_(bias)
    for step in range(30):
        x = source.states[0][step * 64 : (step + 1) * 64]
        output = trainer.step(x)
        trainer.n_training_steps += 1
        epoch = step // 3
        adam.param_groups[0]["lr"] = PUBLISHED.lr * min(1.0, (epoch + 1) / 5)
        if epoch >= 5:
            part = (1 + math.cos(math.pi * (epoch - 5) / 95)) / 2
            adam.param_groups[0]["lr"] = PUBLISHED.lr * (0.01 + 0.99 * part)
        z = torch.relu((x - center) @ W_e.T + b_e)
        out = z @ W_d.T + b_d
        loss = ((out - (x - center)) ** 2).mean() + penalty * z.abs().mean()
        assert float(output.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-4)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([W_e, W_d, b_e, b_d], 1.0)
        adam.step()
        with torch.no_grad():
            W_d /= W_d.norm(dim=0)
        active.append(float((z > 0).sum()) / 64)
        if step % 3 == 2:
            ratio = sum(active[-3:]) / 3 / 6
            penalty *= 1.2 if ratio > 2 else 1.05 if ratio > 1.1 else 0.95 if ratio < 0.9 else 1
    torch.testing.assert_close(trainer.sae.W_enc.detach().T, W_e.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(trainer.sae.W_dec.detach().T, W_d.detach(), rtol=1e-3, atol=1e-5)
    assert trainer.coefficient_schedulers["l1"].value == pytest.approx(penalty)
    assert penalty > PENALTY


def test_what_is_saved_takes_vectors_as_they_are(tmp_path: Path) -> None:
    """The centre lies in the biases of SAELens' stock ReLU."""
    source = Planted()
    source.states[0] = source.states[0] + 7.0
    folder = run(tmp_path / "sae", [Task(0, PUBLISHED)], source)[0]
    stock = sae_lens.SAE.load_from_disk(folder)
    assert stock.cfg.architecture() == "standard"
    assert set(weights(folder)) == {"W_enc", "W_dec", "b_enc", "b_dec"}
    x = source.states[0]
    left = (x - stock(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert 1 - float(left.detach()) > 0.3
    assert 1 - float(left.detach()) == pytest.approx(
        stock.cfg.metadata.explained_variance, abs=0.05
    )
    torch.testing.assert_close(stock.W_dec.norm(dim=-1), torch.ones(4 * D_IN))


def test_the_learning_rate_rises_and_falls_to_a_hundredth() -> None:
    rates = [learning_rate(epoch) for epoch in range(EPOCHS)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert 0.01 < rates[-1] < 0.011


@pytest.mark.parametrize(
    ("l0", "factor"), [(101, 1.2), (100, 1.05), (56, 1.05), (55, 1.0), (45, 1.0), (44, 0.95)]
)
def test_the_penalty_follows_l0(l0: float, factor: float) -> None:
    assert next_penalty(1e-3, l0, 50) == pytest.approx(1e-3 * factor)


def test_the_penalty_stays_within_its_bounds_and_goes_on_where_it_was() -> None:
    assert next_penalty(99.0, 1000, 50) == 100
    assert next_penalty(1e-6, 1, 50) == 1e-6
    one, two = Penalty(200, 50), Penalty(200, 50)
    one.saw(300)
    two.load_state_dict(one.state_dict())
    for penalty in (one, two):
        penalty.saw(0)  # 150 on average
        assert penalty.value == pytest.approx(1e-3 * 1.2)


@pytest.mark.parametrize("steps", [50, 100, 199, 300])
def test_any_number_of_steps_has_the_whole_schedule(steps: int) -> None:
    epochs = [epoch_of(step, steps) for step in range(steps)]
    assert epochs[0] == 0 and epochs[-1] >= 98 and epochs == sorted(epochs)
    assert len(set(epochs)) == min(steps, 100)
    penalty, changes = Penalty(steps, 50), 0
    for _ in range(steps):
        before = penalty.value
        penalty.saw(0)
        changes += penalty.value != before
    assert changes == pytest.approx(min(steps, 100), abs=1)


def test_a_hundred_epochs_are_counted_in_steps() -> None:
    with pytest.raises(DataError, match="too few activations for a batch"):
        for_epochs(Recipe.published(batch=36), 35)
    with pytest.raises(DataError, match="too few activations for a batch"):
        for_epochs(Recipe.published(batch=0), 35)
    assert for_epochs(Recipe(arch="li2026", steps=0, batch=10), 35).steps == 300
    assert for_epochs(Recipe(arch="li2026", steps=7, batch=10), 35).steps == 7
    assert for_epochs(Recipe(arch="topk", steps=0), 35).steps == 0
