"""The published autoencoder: a ReLU on centred vectors, with mean |z| as penalty.

Its loss, schedule and control of sparsity, inside SAELens' trainer; it is saved as SAELens' stock
class. Facts are from the code of Li et al. (2026). An epoch is a hundredth of the steps, as they
train for a hundred; their early stop, at a squared error below 0.001, is left out. Dead features
aren't revived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from sae_lens import (
    SAEConfig,
    SAETrainer,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    register_sae_training_class,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch.optim.lr_scheduler import LambdaLR

from moralprobe.sae.recipe import EPOCHS

WARM_UP: Final = 5
FLOOR: Final = 0.01
"""Of the learning rate, at the last epoch, as a part of the highest."""
PENALTY: Final = 1e-3
"""The penalty's weight in the first epoch."""
BOUNDS: Final = (1e-6, 100.0)


def learning_rate(epoch: int) -> float:
    """Return the learning rate of an epoch as a part of the highest: up in 5, then a cosine."""
    if epoch < WARM_UP:
        return (epoch + 1) / WARM_UP
    done = (epoch - WARM_UP) / (EPOCHS - WARM_UP)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2


def epoch_of(step: int, steps: int) -> int:
    """Return in which of the hundred epochs a step lies, both counted from 0."""
    return min(step * EPOCHS // steps, EPOCHS - 1)


def next_penalty(penalty: float, l0: float, target: float) -> float:
    """Return the penalty's weight of the epoch after one.

    Args:
        penalty: in that epoch.
        l0: mean number of active features in it.
        target: what it should be.
    """
    ratio = l0 / target
    factor = 1.2 if ratio > 2 else 1.05 if ratio > 1.1 else 0.95 if ratio < 0.9 else 1.0
    return min(max(penalty * factor, BOUNDS[0]), BOUNDS[1])


class Penalty:
    """The penalty's weight, `value`, in the place of one of SAELens' schedulers of coefficients."""

    def __init__(self, steps: int, target: float) -> None:
        self.value = PENALTY
        self._all = steps
        self._target = target
        self._steps = 0
        self._began = 0
        self._l0 = 0.0

    def step(self) -> None:
        """Do nothing: what it follows is known after the step."""

    def saw(self, l0: float) -> None:
        """Count a batch, and at an epoch's end follow its mean L0."""
        epoch = epoch_of(self._steps, self._all)
        self._steps += 1
        self._l0 += l0
        if self._steps == self._all or epoch_of(self._steps, self._all) != epoch:
            mean = self._l0 / (self._steps - self._began)
            self.value = next_penalty(self.value, mean, self._target)
            self._began, self._l0 = self._steps, 0.0

    def state_dict(self) -> dict[str, float]:
        """Return where it is."""
        return {
            "value": self.value,
            "steps": self._steps,
            "began": self._began,
            "l0": self._l0,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from where `state_dict` was."""
        self.value, self._l0 = state["value"], state["l0"]
        self._steps, self._began = int(state["steps"]), int(state["began"])


@dataclass
class PublishedTrainingSAEConfig(StandardTrainingSAEConfig):
    """SAELens' config of a ReLU autoencoder; `target` is the mean number of active features."""

    target: float = 50.0

    @classmethod
    def architecture(cls) -> str:
        """Return the name that SAELens knows it by."""
        return "moralprobe_li2026"

    def get_inference_config_class(self) -> type[SAEConfig]:
        """Return what it is saved as: SAELens' stock ReLU."""
        return StandardSAEConfig


class PublishedTrainingSAE(StandardTrainingSAE):
    """z = relu(W_enc (x - center) + b_enc), x' = W_dec z + b_dec + center.

    `center` [d_in] is no parameter: the mean of what is trained on.
    """

    cfg: PublishedTrainingSAEConfig
    center: torch.Tensor

    def initialize_weights(self) -> None:
        """Draw both matrices by `kaiming_uniform_` at its defaults, untied."""
        super().initialize_weights()
        with torch.no_grad():
            torch.nn.init.kaiming_uniform_(self.W_enc.T)
            torch.nn.init.kaiming_uniform_(self.W_dec.T)
        self.unit_decoder()
        self.register_buffer("center", torch.zeros_like(self.b_dec))

    @torch.no_grad()
    def unit_decoder(self) -> None:
        """Give every feature's direction unit length."""
        self.W_dec /= self.W_dec.norm(dim=-1, keepdim=True)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Run a batch forward: the mean of (x' - x)^2 and of |z|, over activations and entries."""
        x = step_input.sae_in - self.center
        acts, pre = self.encode_with_hidden_pre(x)
        out = self.decode(acts).float()
        mse = (out - x).pow(2).mean()
        penalty = step_input.coefficients["l1"] * acts.float().mean()
        return TrainStepOutput(
            sae_in=x,
            sae_out=out,
            feature_acts=acts,
            hidden_pre=pre,
            loss=mse + penalty,
            losses={"mse_loss": mse, "l1_loss": penalty},
        )

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """Fold the centre into the biases."""
        super().process_state_dict_for_saving_inference(state_dict)
        center = state_dict.pop("center")
        state_dict["b_enc"] = state_dict["b_enc"] - center @ state_dict["W_enc"]
        state_dict["b_dec"] = state_dict["b_dec"] + center


register_sae_training_class("moralprobe_li2026", PublishedTrainingSAE, PublishedTrainingSAEConfig)


class PublishedTrainer(SAETrainer[Any, Any]):
    """SAELens' trainer with AdamW, the published schedule, and unit decoder rows after each step.

    The gradient is clipped to a norm of 1, by SAELens as where it was published; AdamW without
    weight decay is Adam.
    """

    def __init__(self, cfg: SAETrainerConfig, sae: PublishedTrainingSAE) -> None:
        super().__init__(cfg, sae, data_provider=iter(()))
        steps = cfg.total_training_steps
        self.lr_scheduler = LambdaLR(
            self.optimizer, lambda step: learning_rate(epoch_of(step, steps))
        )
        self._penalty = Penalty(steps, sae.cfg.target)
        self.coefficient_schedulers = {"l1": self._penalty}

    def step(self, batch: torch.Tensor) -> TrainStepOutput:
        """Train on a batch, as SAELens does, and then do what follows a step."""
        output = super().step(batch)
        self.sae.unit_decoder()
        self._penalty.saw(float((output.feature_acts > 0).sum()) / len(batch))
        return output
