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
    `revision` is the pinned commit on the hub, None while none is pinned.
    """

    id: str
    family: str
    role: Literal["base", "instruct", "guard"]
    parameters_b: float
    active_parameters_b: float
    moe: bool
    n_layers: int
    d_model: int
    revision: str | None
    note: str

    @property
    def memory_gb(self) -> float:
        """Memory of the weights in bf16, in gigabytes."""
        return 2 * self.parameters_b


@cache
def models() -> tuple[RegisteredModel, ...]:
    """Return the registered models in the paper's order."""
    text = files("moralprobe.models").joinpath("registry.json").read_text("utf-8")
    return tuple(RegisteredModel(**row) for row in json.loads(text))
