"""A small head that reads a judgement from a state, and what stands beside it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from torch import nn

HIDDEN: Final = 256
_EPOCHS: Final = 400
_PATIENCE: Final = 40
_LEAST: Final = 1e-6


class Head(nn.Module):
    """Linear, GELU, linear, sigmoid on a standardised state: how acceptable it is, 0 to 1."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.inner = nn.Linear(len(mean), HIDDEN)
        self.outer = nn.Linear(HIDDEN, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return probabilities [n] of states [n, d]."""
        x = (states - self.mean) / self.scale
        out: torch.Tensor = self.outer(nn.functional.gelu(self.inner(x)))
        return out[:, 0].sigmoid()

    @torch.no_grad()
    def read(self, states: torch.Tensor) -> NDArray[np.float64]:
        """Return probabilities [n] as an array."""
        found: NDArray[np.float64] = self(states).double().cpu().numpy()
        return found

    def fidelity(
        self, states: torch.Tensor, own: NDArray[np.float64], test: NDArray[np.int64]
    ) -> dict[str, float | None]:
        """Say how well the head gives the model's own scores on items that it wasn't fitted to.

        Returns:
            `r2`, the share of their variance (None where they don't vary), and `error`, the mean
            absolute difference.
        """
        p, truth = self.read(states)[test], own[test]
        variance = float(np.var(truth))
        r2 = 1 - float(np.mean((p - truth) ** 2)) / variance if variance > _LEAST**2 else None
        return {"r2": r2, "error": float(np.abs(p - truth).mean())}


def fit_head(
    states: torch.Tensor,
    target: NDArray[np.float64],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    seed: int,
) -> Head:
    """Fit a head by cross-entropy to probabilities; of all epochs that which validates best.

    Args:
        states: [n, d].
        target: [n] probabilities.
        train: which items are fitted.
        validation: which say when to stop.
        seed: of the weights.
    """
    x, y = states.detach(), torch.tensor(target, dtype=torch.float32, device=states.device)
    scale = x[train].std(0).clamp(min=1e-3 * float(x[train].std()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(x[train].mean(0), scale)
        # It begins at the mean: what it says of an item it must have learnt from its state.
        mean = float(y[train].double().mean().clamp(_LEAST, 1 - _LEAST))
        nn.init.zeros_(head.outer.weight)
        nn.init.constant_(head.outer.bias, float(logit(mean)))
    head = head.to(states.device)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2)
    best, kept, since = np.inf, head.state_dict(), 0
    for _ in range(_EPOCHS):
        with torch.enable_grad():
            loss = nn.functional.binary_cross_entropy(head(x[train]), y[train])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        with torch.no_grad():
            value = float(nn.functional.binary_cross_entropy(head(x[validation]), y[validation]))
        if value < best:
            best, since = value, 0
            kept = {name: values.clone() for name, values in head.state_dict().items()}
        elif (since := since + 1) >= _PATIENCE:
            break
    head.load_state_dict(kept)
    return head.requires_grad_(False)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of Bernoulli variables, [n] in nats, 0 to ln 2."""

    def entropy(x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(_LEAST, 1 - _LEAST)
        return -(x * x.log() + (1 - x) * (1 - x).log())

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def shifted(
    p: NDArray[np.float64], target: NDArray[np.float64], train: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return scores moved and stretched in log-odds, as cross-entropy to the target has it best.

    What this reaches needs no change of the model at all (Platt 1999).
    """
    x = logit(np.clip(p, _LEAST, 1 - _LEAST))

    def loss(ab: Any) -> float:
        z = ab[0] + ab[1] * x[train]
        return float(np.mean(np.logaddexp(0, z) - target[train] * z))

    found = minimize(loss, np.array([0.0, 1.0]), method="Nelder-Mead")
    out: NDArray[np.float64] = expit(found.x[0] + found.x[1] * x)
    return out
