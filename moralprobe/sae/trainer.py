"""SAELens' trainer of an autoencoder: how it is made, where it begins, what it saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig

from moralprobe.activations.stream import Source, batches
from moralprobe.files import write_bytes, write_json
from moralprobe.models.lens import hook_name
from moralprobe.sae.load import CONFIG, WEIGHTS
from moralprobe.sae.published_training import PublishedTrainer
from moralprobe.sae.recipe import PUBLISHED, Recipe, Task, new_sae
from moralprobe.sites import Site

ORDER: Final = 0
"""Seed of the order of activations, the same for all: what is trained beside others is what it is
alone."""
_FIRST: Final = 4  # batches that say how large activations are, and where their mean is


def trainer_of(
    task: Task, d_in: int, device: str, metadata: Mapping[str, Any]
) -> SAETrainer[Any, Any]:
    """Return SAELens' trainer of a task's autoencoder, with Adam in one pass over its moments.

    Args:
        task: what is trained.
        d_in: width of the activations.
        device: where.
        metadata: what is written into its config.
    """
    recipe = task.recipe.settled(device)
    named = {**metadata, "hook_name": hook_name(Site("resid_post", task.layer))}
    sae = new_sae(recipe, d_in, device=device, metadata=named)
    config = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.lr,
        lr_end=recipe.lr / 10,
        lr_warm_up_steps=recipe.steps // 20,
        lr_decay_steps=recipe.steps // 5,
        device=device,
        dead_feature_window=recipe.dead_after,
        autocast=recipe.arch == PUBLISHED and recipe.precision == "bf16",
    )
    trainer: SAETrainer[Any, Any] = (
        PublishedTrainer(config, sae)
        if recipe.arch == PUBLISHED
        else SAETrainer(config, sae, data_provider=iter(()))
    )
    for group in trainer.optimizer.param_groups:
        group["foreach"], group["fused"] = False, True
    return trainer


def begin_at_the_mean(
    trainers: Mapping[str, SAETrainer[Any, Any]],
    tasks: list[Task],
    source: Source,
    recipe: Recipe,
) -> None:
    """Scale activations as SAELens does, and begin with their mean as the decoder's bias.

    Scaled, their norm is on average the square root of their width. The mean is most of a residual
    stream; a bias that begins at 0 is led there step by step, and features stand in for it. What is
    trained as published isn't scaled: the mean of all its activations is taken away.
    """
    scaled = [task for task in tasks if task.recipe.arch != PUBLISHED]
    for task in tasks:
        if task not in scaled:
            trainers[task.name].sae.center.copy_(_mean(source, task.layer))
    some: dict[int, list[torch.Tensor]] = {layer: [] for layer in source.layers}
    stream = batches(source, batch=recipe.batch, seed=ORDER)
    for _ in range(_FIRST if scaled else 0):
        for layer, states in next(stream)[1].items():
            some[layer].append(states.float())
    for task in scaled:
        states = torch.cat(some[task.layer])
        trainer = trainers[task.name]
        scale = math.sqrt(source.width) / float(states.norm(dim=-1).mean())
        trainer.activation_scaler.scaling_factor = scale
        with torch.no_grad():
            trainer.sae.b_dec.copy_(states.mean(0) * scale)


def _mean(source: Source, layer: int) -> torch.Tensor:
    """Return the mean of an epoch's activations."""
    total, n = torch.zeros(source.width, dtype=torch.float64), 0
    for piece in range(source.pieces(0)):
        states = source.read(0, piece)[layer]
        total, n = total + states.double().sum(0).cpu(), n + len(states)
    return (total / n).float()


def save_sae(trainer: SAETrainer[Any, Any], folder: Path) -> None:
    """Fold what was scaled into the weights, and write SAELens' files of the stock class.

    Raises:
        StoreError: they can't be written.
    """
    from safetensors.torch import save

    sae = trainer.sae
    if trainer.activation_scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
        trainer.activation_scaler.scaling_factor = None
    trainer.set_final_sae_metadata()
    sae.cfg.normalize_activations = "none"
    weights = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    config = sae.cfg.get_inference_sae_cfg_dict()
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: value.cpu().contiguous() for name, value in weights.items()}
    write_bytes(folder / WEIGHTS, save(contiguous))
    write_json(folder / CONFIG, config)
    write_bytes(
        folder / "sparsity.safetensors",
        save({"sparsity": trainer.log_feature_sparsity.detach().cpu().contiguous()}),
    )
