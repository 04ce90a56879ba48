"""A training run's state on disk: safetensors and JSON, the last good one kept until the next is.

A small JSON file says which files are the checkpoint and what their hashes are. It is written last
and renamed into place, so that a kill leaves the checkpoint before it or the new one, never half of
each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import xxhash
from sae_lens.training.sae_trainer import SAETrainer
from safetensors import SafetensorError
from safetensors.torch import load, save

from moralprobe.activations.stream import Position
from moralprobe.errors import IntegrityError
from moralprobe.files import write_bytes, write_json

NAME: Final = "checkpoint.json"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    folder: Path, trainers: Mapping[str, SAETrainer[Any, Any]], step: int, position: Position
) -> None:
    """Write the state of several trainers after a step; the checkpoint before it is then removed.

    Args:
        folder: of the run.
        trainers: by the name of their task.
        step: that was done last.
        position: of the batch that comes next.

    Raises:
        StoreError: it can't be written; the checkpoint before it stays.
    """
    files = {}
    for name, trainer in trainers.items():
        tensors, rest = _state_of(trainer)
        data = save(tensors, metadata={"state": json.dumps(rest, sort_keys=True)})
        file = f"checkpoint-{name}-{step}.safetensors"
        write_bytes(folder / file, data)
        files[name] = {"file": file, "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    write_json(folder / NAME, {"step": step, "position": position, "files": files})
    clear_checkpoints(folder, keep={entry["file"] for entry in files.values()})


def load_checkpoint(
    folder: Path, trainers: Mapping[str, SAETrainer[Any, Any]]
) -> tuple[int, Position]:
    """Put trainers where a checkpoint left them.

    Returns:
        The steps that were done, 0 without a checkpoint, and where the next batch is.

    Raises:
        IntegrityError: a checkpoint whose bytes aren't those that were written.
    """
    path = folder / NAME
    if not path.exists():
        return 0, Position()
    try:
        found = json.loads(path.read_bytes())
        step, position = int(found["step"]), Position(*map(int, found["position"]))
        files = {name: found["files"][name] for name in trainers}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "it is no checkpoint") from error
    for name, trainer in trainers.items():
        file = folder / Path(files[name]["file"]).name
        try:
            data = file.read_bytes()
        except OSError as error:
            raise _damaged(file, str(error.strerror or error)) from error
        if xxhash.xxh3_128_hexdigest(data) != files[name]["xxh3_128"]:
            raise _damaged(file, "its checksum doesn't match")
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            rest = json.loads(header["__metadata__"]["state"])
            _restore(trainer, load(data), rest)
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise _damaged(file, f"it is of another run: {error}") from error
    return step, position


def clear_checkpoints(folder: Path, keep: set[str] | None = None) -> None:
    """Remove checkpoints and what a kill left of one; without `keep`, all."""
    if keep is None:
        (folder / NAME).unlink(missing_ok=True)
    for path in folder.glob("checkpoint-*.safetensors"):
        if path.name not in (keep or ()):
            path.unlink(missing_ok=True)
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def _state_of(trainer: SAETrainer[Any, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors = {f"sae.{name}": value for name, value in trainer.sae.state_dict().items()}
    state = trainer.optimizer.state_dict()
    for i, moments in state["state"].items():
        for name in _MOMENTS:
            tensors[f"adam.{i}.{name}"] = torch.as_tensor(moments[name])
    tensors["act_freq_scores"] = trainer.act_freq_scores
    tensors["n_forward_passes_since_fired"] = trainer.n_forward_passes_since_fired
    rest = {
        "param_groups": state["param_groups"],
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {
            name: scheduler.state_dict()
            for name, scheduler in trainer.coefficient_schedulers.items()
        },
        "n_training_steps": trainer.n_training_steps,
        "n_training_samples": trainer.n_training_samples,
        "n_frac_active_samples": trainer.n_frac_active_samples,
        "scaling_factor": trainer.activation_scaler.scaling_factor,
    }
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, rest


def _restore(
    trainer: SAETrainer[Any, Any], tensors: dict[str, torch.Tensor], rest: dict[str, Any]
) -> None:
    device = trainer.cfg.device
    weights = {k.removeprefix("sae."): v for k, v in tensors.items() if k.startswith("sae.")}
    trainer.sae.load_state_dict(weights)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    trainer.optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
    trainer.lr_scheduler.load_state_dict(rest["lr_scheduler"])
    for name, scheduler in trainer.coefficient_schedulers.items():
        scheduler.load_state_dict(rest["coefficients"][name])
    trainer.act_freq_scores = tensors["act_freq_scores"].to(device)
    trainer.n_forward_passes_since_fired = tensors["n_forward_passes_since_fired"].to(device)
    trainer.n_training_steps = rest["n_training_steps"]
    trainer.n_training_samples = rest["n_training_samples"]
    trainer.n_frac_active_samples = rest["n_frac_active_samples"]
    trainer.activation_scaler.scaling_factor = rest["scaling_factor"]


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged", why, "remove the checkpoint to begin anew, or restore it from a copy"
    )
