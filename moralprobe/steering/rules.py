"""What an edit adds to the residual stream at strength 1: functions of states, and nothing else.

Every rule takes states x [..., d] in fp32 and gives their change, of the same shape: an edit makes
of x the sum of x and strength times change. Nothing here knows a model, a position or a file; an
autoencoder is anything with SAELens' `encode` and `decode`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from moralprobe.errors import NumericError, UsageError
from moralprobe.steering.tunable import Tunable, check_features, decoder_rows


@dataclass(frozen=True)
class Add:
    """Add a direction, [d], at its own length."""

    direction: torch.Tensor

    def __post_init__(self) -> None:
        _check(self.direction, "direction")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the direction at every state."""
        return self.direction.expand_as(x)


@dataclass(frozen=True)
class ProjectOut:
    """Take away what states have along some directions, [n, d]; at strength 1 all of it."""

    directions: torch.Tensor

    def __post_init__(self) -> None:
        for direction in self.directions:
            _check(direction, "direction")
        rank = int(torch.linalg.matrix_rank(self.directions.double()))
        if rank < len(self.directions):
            raise NumericError(
                "the directions that are projected out depend on each other",
                f"{len(self.directions)} of them span {rank} dimensions",
                "leave out those that follow from others",
            )
        basis = torch.linalg.qr(self.directions.double().T).Q.T
        object.__setattr__(self, "_basis", basis.float())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return minus the projection on the directions' span."""
        basis: torch.Tensor = self._basis.to(x.device)  # type: ignore[attr-defined]
        return -(x @ basis.T) @ basis


@dataclass(frozen=True)
class Cap:
    """Hold what states have along a direction, [d], at a bound at most."""

    direction: torch.Tensor
    bound: float

    def __post_init__(self) -> None:
        _check(self.direction, "direction")
        if not -1e30 < self.bound < 1e30:
            raise NumericError("the bound of a cap is no number", f"it is {self.bound}", "give one")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return minus what is over the bound, along the direction."""
        unit = self.direction / self.direction.norm()
        change: torch.Tensor = -(x @ unit - self.bound).clamp(min=0)[..., None] * unit
        return change


@dataclass(frozen=True)
class Reconstruct:
    """Go from states to what an autoencoder makes of them, its error included.

    The published rule: x + s (Dec(Enc(x)) - x). Source: arXiv 2603.15615, released scripts.
    """

    sae: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction less the states."""
        out: torch.Tensor = self.sae.decode(self.sae.encode(x))
        return out.float() - x


@dataclass(frozen=True)
class SwapFeatures:
    """Put tuned features in the place of an autoencoder's own.

    x + s (Dec'(z') - Dec(z)) over the `features` [n] alone: what the autoencoder doesn't explain,
    and every other feature, stays as it is. `encoder` [n, d], `bias` [n] and `decoder` [n, d] are
    the tuned rows.
    """

    sae: Any
    features: torch.Tensor
    encoder: torch.Tensor
    bias: torch.Tensor
    decoder: torch.Tensor

    def __post_init__(self) -> None:
        tuned = Tunable(self.sae, self.features)
        tuned.put(self.encoder, self.bias, self.decoder)
        object.__setattr__(self, "_tuned", tuned)

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tuned features' part of a reconstruction less the original features'."""
        tuned: Tunable = self._tuned  # type: ignore[attr-defined]
        shape = x.shape
        flat = x.reshape(-1, shape[-1])
        others = tuned.others(flat)
        old = tuned.original()
        change = tuned.acts(flat, others) @ tuned.rows - old.acts(flat, others) @ old.rows
        return change.reshape(shape)


@dataclass(frozen=True)
class ScaleFeatures:
    """Change single features' activations: z becomes `scale` z + `offset`, each [n].

    x + s (Dec(z') - Dec(z)): only the features' change enters. A scale of 0 ablates, 0 with an
    offset sets, 1 with an offset adds.
    """

    sae: Any
    features: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __post_init__(self) -> None:
        check_features(self.sae, self.features)
        if len(self.scale) != len(self.features) or len(self.offset) != len(self.features):
            raise UsageError(
                "every feature needs a scale and an offset",
                f"{len(self.features)} features, {len(self.scale)} scales, "
                f"{len(self.offset)} offsets",
                "give one of each",
            )
        if not bool(torch.isfinite(self.scale).all() and torch.isfinite(self.offset).all()):
            raise NumericError(
                "a scale or offset is no number", "it is NaN or infinity", "give one"
            )
        if bool((self.scale == 1).all() and (self.offset == 0).all()):
            raise NumericError("a change of features changes nothing", "", "give other values")
        object.__setattr__(self, "_rows", decoder_rows(self.sae, self.features))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the decoded change of the features."""
        z = self.sae.encode(x)[..., self.features.to(x.device)].float()
        change = (self.scale.to(z) - 1) * z + self.offset.to(z)
        moved: torch.Tensor = change @ self._rows.to(x)  # type: ignore[attr-defined]
        return moved


Rule = Add | ProjectOut | Cap | Reconstruct | SwapFeatures | ScaleFeatures
RULES: dict[str, Callable[..., Rule]] = {
    "add": Add,
    "project_out": ProjectOut,
    "cap": Cap,
    "reconstruct": Reconstruct,
    "swap_features": SwapFeatures,
    "scale_features": ScaleFeatures,
}
"""By the names that files use."""


@dataclass(frozen=True)
class Gate:
    """Where an edit applies: at states with x . direction + bias above 0."""

    direction: torch.Tensor
    bias: float = 0.0

    def __post_init__(self) -> None:
        _check(self.direction, "gate's direction")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return which states are let through, [...]."""
        return x @ self.direction + self.bias > 0


def _check(direction: torch.Tensor, what: str) -> None:
    if direction.dim() != 1 or direction.dtype != torch.float32:
        raise UsageError(
            f"a {what} is one vector in fp32",
            f"it is {tuple(direction.shape)} in {direction.dtype}",
            "give a tensor of d_model numbers",
        )
    if not bool(torch.isfinite(direction).all()):
        raise NumericError(f"a {what} holds NaN or infinity", "", "compute it anew")
    if not bool(direction.any()):
        raise NumericError(
            f"a {what} is zero", "it would change nothing", "compute it from texts that differ"
        )
