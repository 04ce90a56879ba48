"""Apply an intervention while a model runs: right under the KV cache and any padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch

from moralprobe.errors import ModelError, NumericError
from moralprobe.models.causal import CausalModel
from moralprobe.models.edits import edited_blocks
from moralprobe.models.taps import inputs_of
from moralprobe.models.tokens import Batch
from moralprobe.steering.intervention import Edit, Intervention, check_intervention
from moralprobe.steering.positions import Reach, reach


class Steered:
    """What was done to a batch of texts: it fills while the model runs."""

    def __init__(self, batch: Batch, layers: Sequence[_Layer] = ()) -> None:
        self._width = batch.ids.shape[1]
        self._n = len(batch.ids)
        self._layers = layers

    @property
    def anew(self) -> bool:
        """Whether the model has read from the beginning, also where tokens were read before."""
        return any(layer.record and layer.record[0][0] == 0 for layer in self._layers)

    def edits(self, generated: Sequence[int] | None = None) -> tuple[list[int], list[float]]:
        """Return how many edits each text got, one a layer and token, and how large they were.

        Args:
            generated: how many tokens after the batch's count of each text, all if not given:
                what a text is given after its end is none of it.

        Returns:
            Counts, and means of |change| / |state| over them, 0 where there are none.
        """
        counts, sums = torch.zeros(self._n, dtype=torch.int64), torch.zeros(self._n)
        last = None if generated is None else self._width + torch.tensor(generated)
        for layer in self._layers:
            for start, touched, ratio in layer.record:
                at = start + torch.arange(touched.shape[1])
                counted = torch.ones(touched.shape, dtype=torch.bool)
                if last is not None:
                    counted = (at < self._width) | (at < last[:, None])
                counts += (touched.cpu() & counted).sum(1)
                sums += torch.where(counted, ratio.cpu(), 0.0).sum(1)
        return counts.tolist(), (sums / counts.clamp(min=1)).tolist()


@contextmanager
def steering(
    model: CausalModel,
    intervention: Intervention | None,
    batch: Batch,
    positions: str = "all",
    steered: Sequence[bool] | None = None,
    *,
    scored: bool = False,
    passed: int = 0,
) -> Iterator[Steered]:
    """Steer what the model makes of a batch within the `with`: one forward pass, or a generation.

    Tokens are counted as they pass: those of the batch come first, in one pass or several, and all
    that come after them are generated. With no intervention, or one of strength 0, nothing is
    hooked.

    Args:
        model: from `load_model`.
        intervention: that is applied.
        batch: the token ids that the model is given, padded on either side; no tree.
        positions: which tokens are edited; see `positions.reach`.
        steered: which of the batch's texts are edited at all; every one, if not given.
        scored: the batch holds what is written too; see `positions.reach`.
        passed: tokens of the batch that were read before, and aren't given again.

    Yields:
        What was done, filled as it happens.

    Raises:
        ModelError: an intervention of another model, layer or width, or an edit that never ran.
        NumericError: an edit that gives NaN or infinity.
        UsageError: unknown positions.
    """
    reached = reach(batch, positions, steered, scored=scored)
    if intervention is not None:
        check_intervention(intervention, model)
    if intervention is None or not intervention.active:
        yield Steered(batch)
        return
    by_layer: dict[int, list[Edit]] = {}
    for edit in intervention.active:
        by_layer.setdefault(edit.layer, []).append(edit)
    layers: dict[int, _Layer] = {
        at: _Layer(edits, reached, passed) for at, edits in by_layer.items()
    }
    with edited_blocks(model.decoder, layers):
        yield Steered(batch, list(layers.values()))
    for layer, edited in layers.items():
        if not all(bool(torch.isfinite(ratio).all()) for _, _, ratio in edited.record):
            raise NumericError(
                f"steering at resid_post.{layer} gives NaN or infinity",
                "the edits there, or the states that come, are no numbers",
                "lower the strength",
            )


def steered_logits(
    model: CausalModel,
    intervention: Intervention | None,
    positions: str = "all",
    *,
    done: Callable[[Steered], None] = lambda steered: None,
) -> Callable[[Batch], torch.Tensor]:
    """Return what gives a model's logits of texts that are there already, while it is steered.

    What a batch marks as its texts' actions is taken as written by the model, for `positions`.

    Args:
        model: with its language-model head.
        intervention: none leaves the model as it is.
        positions: which tokens are edited; see `positions.reach`.
        done: called after each batch with what was done to it.

    Raises:
        ModelError: when called, of a model without a language-model head.
        As `steering`.
    """

    @torch.inference_mode()
    def logits_of(batch: Batch) -> torch.Tensor:
        with steering(model, intervention, batch, positions, scored=True) as steered:
            logits = getattr(model.model(**inputs_of(batch)), "logits", None)
        if not isinstance(logits, torch.Tensor):
            raise ModelError(
                f"{model.name} gives no logits",
                "it has no language-model head",
                "load the model with its head",
            )
        done(steered)
        return logits

    return logits_of


class _Layer:
    """The edits of one layer in one run, and how many tokens have passed there."""

    def __init__(self, edits: list[Edit], reached: Reach, passed: int = 0) -> None:
        self.record: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self._edits = edits
        self._reach = reached
        self._passed = passed
        self._later = bool(reached.generated.any()), bool(reached.generated.all())
        self._device: torch.device | None = None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if self._device is None:
            self._device = states.device
            self._edits = [on_device(edit, states.device) for edit in self._edits]
        n = states.shape[1]
        if not self.record and self._passed + n > self._reach.prompt.shape[1]:
            self._passed = 0  # some models begin anew where their context's kind changes
        start = self._passed
        self._passed += n
        if start >= self._reach.prompt.shape[1] and not self._later[0]:
            return states
        where, first = self._where(start, n, states.device)
        x = states.float()
        norm = x.norm(dim=-1)
        total = torch.zeros_like(x)
        for edit in self._edits:
            keep = _keep(edit, x, norm, where, first)
            change = edit.strength * edit.rule(x)
            total += change if keep is None else torch.where(keep[..., None], change, 0.0)
        size = total.norm(dim=-1)
        touched = size != 0
        self.record.append((start, touched, size / norm.clamp(min=1e-12)))
        return torch.where(touched[..., None], (x + total).to(states.dtype), states)

    def _where(
        self, start: int, n: int, device: torch.device
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return which tokens are reached, none for all, and which of them are token 0s."""
        width = self._reach.prompt.shape[1]
        later = self._reach.generated.to(device)[:, None]
        if start >= width:
            return None if self._later[1] else later.expand(-1, n), None
        where = self._reach.prompt[:, start : start + n].to(device)
        if (over := n - where.shape[1]) > 0:
            where = torch.cat([where, later.expand(-1, over)], dim=1)
        at = torch.arange(start, start + n, device=device)
        return where, at == self._reach.first.to(device)[:, None]


def _keep(
    edit: Edit,
    x: torch.Tensor,
    norm: torch.Tensor,
    where: torch.Tensor | None,
    first: torch.Tensor | None,
) -> torch.Tensor | None:
    """Return which states an edit changes, none for all of them."""
    masks = [] if where is None else [where]
    if edit.sink_norm is not None:
        if first is not None:
            masks.append(~first)
        if math.isfinite(edit.sink_norm):
            masks.append(norm <= edit.sink_norm)
    if edit.gate is not None:
        masks.append(edit.gate(x))
    if not masks:
        return None
    keep = masks[0]
    for mask in masks[1:]:
        keep = keep & mask
    return keep


def on_device(edit: Edit, device: torch.device) -> Edit:
    """Return an edit whose tensors lie on a device; an autoencoder is moved there."""
    moved: dict[str, Any] = {}
    for f in fields(edit.rule):
        value = getattr(edit.rule, f.name)
        at_home = isinstance(value, float | int)
        moved[f.name] = value if at_home else value.to(device)
    rule = edit.rule
    if any(getattr(rule, name) is not value for name, value in moved.items()):
        rule = replace(rule, **moved)
    gate = edit.gate and replace(edit.gate, direction=edit.gate.direction.to(device))
    return replace(edit, rule=rule, gate=gate)
