"""Train embedding rows towards a consensus: divergence and a price on drift, under a cap."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.bridges.judgement_head import Head, divergence
from moralprobe.bridges.word_rows import Reader, Rows
from moralprobe.errors import UsageError


@dataclass(frozen=True)
class Options:
    """How rows are trained: `lambdas` are prices on drift, of which held-out items choose one."""

    lambdas: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    most_drift: float = 0.3
    epochs: int = 5
    lr: float = 1e-3
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        numbers = np.isfinite([*self.lambdas, self.lr, self.most_drift]).all()
        wrong = not self.lambdas or min(self.lambdas) < 0 or self.epochs < 1 or self.lr <= 0
        if wrong or not numbers or not 0 < self.most_drift <= 2 or self.draws < 20:
            raise UsageError(
                "these options can't train rows",
                f"{self}",
                "lambdas of 0 or more, drift up to 2, an epoch and 20 draws at least",
            )


@dataclass(frozen=True)
class Trained:
    """Rows, the head that reads what they do, the price they were trained at, and the divergence on
    the validation items.
    """

    rows: Rows
    head: Head
    price: float
    loss: float


def train_rows(
    reader: Reader,
    ids: Sequence[int],
    head: Head,
    target: NDArray[np.float64],
    price: float,
    options: Options,
    step: Callable[[], None] = lambda: None,
    *,
    head_too: bool = False,
) -> Trained:
    """Train rows from where they are; of all epochs, none among them, the best one is kept.

    The loss is the Jensen-Shannon divergence of what the head reads from the consensus, and the
    price times the mean cosine distance of the rows from where they were (arXiv 2506.14625).

    Args:
        reader: of the prompts, in the parts `train` and `validation`.
        ids: the rows' token ids.
        head: from `fit_head`; a copy is trained where `head_too` asks for it.
        target: [prompts] the consensus.
        price: of drift.
        options: of the training.
        step: called after every epoch.
        head_too: train the head as well, as the paper does.
    """
    model, device = reader.model, reader.model.device
    aim = torch.tensor(target, dtype=torch.float32, device=device)
    delta = torch.zeros(len(ids), model.d_model, device=device, requires_grad=True)
    rows = Rows(torch.tensor(ids, device=device), delta)
    head = copy.deepcopy(head).requires_grad_(head_too)
    groups: list[dict[str, Any]] = [{"params": [delta], "lr": options.lr}]
    if head_too:
        groups.append({"params": list(head.parameters()), "lr": options.lr / 10})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    rng = np.random.default_rng([options.seed, 1])

    def distance(batch: int) -> torch.Tensor:
        places, states = reader.states(batch, rows)
        return divergence(head(states), aim[places])

    def now() -> Trained:
        with torch.no_grad():
            loss = float(torch.cat([distance(k) for k in reader.of["validation"]]).mean())
        still = copy.deepcopy(head).requires_grad_(False)
        return Trained(Rows(rows.ids, delta.detach().clone()), still, price, loss)

    best = now()
    for _ in range(options.epochs):
        for k in rng.permutation(reader.of["train"]).tolist():
            loss = distance(k).mean() + price * rows.drift(model).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            with torch.no_grad():
                delta.copy_(rows.capped(model, options.most_drift).delta)
        reached = now()
        best = reached if reached.loss < best.loss else best
        step()
    return best
