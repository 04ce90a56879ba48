"""LoRA matrices within a model (arXiv 2106.09685): what is trained while its weights stay."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import xxhash

from moralprobe.behavior.server import parse_server
from moralprobe.errors import ModelError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.steering.text import LOCAL, LocalText

_WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapted:
    """A model with LoRA matrices within it: the model itself is another one from now on.

    `adapted` is peft's model, whose layers are those of `model`.
    """

    model: CausalModel
    adapted: Any

    @property
    def text(self) -> LocalText:
        """The model as it is now, to be asked."""
        identity = {**self.model.identity, "lora": self.identity}
        return LocalText(replace(self.model, identity=identity))

    @property
    def matrices(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.adapted.parameters() if p.requires_grad]

    @property
    def identity(self) -> str:
        """A hash of the matrices."""
        held = xxhash.xxh3_128()
        for name, tensor in sorted(_peft().get_peft_model_state_dict(self.adapted).items()):
            held.update(name.encode())
            held.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return held.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the matrices as peft does, with what they belong to."""
        self.adapted.save_pretrained(folder, safe_serialization=True)

    def away(self) -> None:
        """Take the matrices out again: the model is what it was."""
        self.adapted.unload()


def own_copy(
    name: str, device: str = "auto", instead: str = "name a model on this machine"
) -> LocalText:
    """Load a model that is to be trained, which no one else asks.

    Args:
        name: as of `load_model`.
        device: of the same.
        instead: what to do about a model that can't be trained.

    Raises:
        UsageError: a model on a server.
    """
    if parse_server(name) is not None:
        raise UsageError(
            f"{name} can't be trained",
            "its weights are on a server",
            instead,
        )
    return LocalText(load_model(name.removeprefix(LOCAL), device=device))


def new_lora(model: CausalModel, *, rank: int = 8, seed: int = 0) -> Adapted:
    """Put LoRA matrices into a model's linear layers, that change nothing until they are trained.

    Args:
        model: from `load_model`; it is changed in place, so load one for this alone.
        rank: of the matrices; they are scaled by 2.
        seed: of their first values.

    Raises:
        ModelError: peft isn't installed, or finds no layer that it can adapt.
    """
    from transformers.pytorch_utils import Conv1D

    peft = _peft()
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.model.modules()),
    )
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(seed)
        try:
            adapted = peft.get_peft_model(model.model, config)
        except ValueError as error:
            raise _cannot(model, error) from error
    return Adapted(model, adapted.eval())


def load_lora(folder: Path, model: CausalModel, identity: str | None = None) -> Adapted:
    """Return a model with matrices that were trained in it.

    Args:
        folder: that `Adapted.save` wrote.
        model: from `load_model`, for this alone.
        identity: that the matrices had, where it is known.

    Raises:
        ModelError: no safetensors there, or matrices of another model or another training.
    """
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds no trained matrices", f"no {_WEIGHTS}", "give a folder of a training"
        )
    peft = _peft()
    try:
        with _quiet():
            adapted = peft.PeftModel.from_pretrained(model.model, folder)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise _cannot(model, error) from error
    found = Adapted(model, adapted.eval())
    if identity is not None and found.identity != identity:
        raise ModelError(
            f"{folder} doesn't hold the matrices that are told of beside it",
            "they were trained in another run, perhaps on what is measured now",
            "train them again",
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what peft and transformers tell each other's developers from users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def check_peft() -> None:
    """Find out whether peft is there, before anything takes its time.

    Raises:
        ModelError: it isn't.
    """
    _peft()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ModelError(
            "peft isn't installed", str(error), "pip install 'moralprobe[lora]'"
        ) from error
    return peft


def _cannot(model: CausalModel, error: Exception) -> ModelError:
    return ModelError(
        f"{model.name} can't be adapted",
        str(error).strip().splitlines()[0],
        "give the model that the matrices were trained in",
    )
