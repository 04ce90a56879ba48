"""The models that the paper studies, as data (arXiv 2603.15615; `registry.json`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal


@dataclass(frozen=True)
class RegisteredModel:
    """One model of the registry.

    Parameters are in billions; of a mixture of experts `active_parameters_b` act on a token.
    `n_heads` and `head_dim` are those of the attention's queries, and `block_parameters` counts the
    parameters of one decoder block that act on a token: the sizes are those of the published
    config, the count is that of transformers' own modules at these sizes. `revision` is the pinned
    commit on the hub, None while none is pinned.
    """

    id: str
    family: str
    role: Literal["base", "instruct", "guard"]
    parameters_b: float
    active_parameters_b: float
    moe: bool
    n_layers: int
    d_model: int
    n_heads: int
    head_dim: int
    block_parameters: int
    revision: str | None
    note: str

    @property
    def memory_gb(self) -> float:
        """Memory of the weights in bf16, in gigabytes."""
        return 2 * self.parameters_b

    @property
    def size(self) -> str:
        """Parameters in billions, and in brackets those that act on a token: `235B (22B)`."""
        active = f" ({self.active_parameters_b:g}B)" if self.moe else ""
        return f"{self.parameters_b:g}B{active}"


@cache
def models() -> tuple[RegisteredModel, ...]:
    """Return the registered models in the paper's order."""
    text = files("moralprobe.models").joinpath("registry.json").read_text("utf-8")
    return tuple(RegisteredModel(**row) for row in json.loads(text))
