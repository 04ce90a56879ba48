"""What stands beside an intervention: controls that change states by as much.

A control's strength is set so that the mean length of its change, over the training texts' tokens
that are no sinks, is the intervention's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moralprobe.activations.text_states import TableTexts, TextStates
from moralprobe.errors import NumericError
from moralprobe.models.causal import CausalModel
from moralprobe.steering.apply import on_device
from moralprobe.steering.directions import MORAL, of_states
from moralprobe.steering.intervention import Edit, Intervention, model_of
from moralprobe.steering.rules import Add
from moralprobe.steering.tunable import Tunable

STEERED: Final = "steered"
UNSTEERED: Final = "unsteered"
PROMPT: Final = "prompt"
ARMS: Final[Mapping[str, str]] = {
    UNSTEERED: "the model as it is",
    "untuned": "the autoencoder's reconstruction, nothing tuned",
    "shuffled": "tuned to moral vectors that belong to other texts",
    "random_features": "as many other features, as often active, changed as much at random",
    "random_direction": "a random direction",
    "means": "the difference of means of virtue and vice",
    PROMPT: "a system message that asks for it",
}
"""The arms that stand beside an intervention, and what each is."""
_READ: Final = 8192


def matched(
    control: Edit, own: Edit, read: TextStates, rows: NDArray[np.bool_]
) -> tuple[Edit, float]:
    """Return a control's edit where it changes states as much as `own`, and how it was scaled.

    Args:
        control: of the same layer.
        own: the intervention's edit.
        read: states of texts there.
        rows: [texts] which of them are looked at.

    Raises:
        NumericError: one of them changes nothing.
    """
    sizes = [mean_change(edit, read, rows) for edit in (own, control)]
    if not min(sizes) > 0:
        which = "the intervention" if not sizes[0] > 0 else "its control"
        raise NumericError(
            f"{which} changes no state", "in the texts that it was made of", "make it otherwise"
        )
    factor = sizes[0] / sizes[1]
    if isinstance(control.rule, Add):  # a direction has a length of its own
        return replace(control, rule=Add(control.rule.direction * factor)), factor
    return replace(control, strength=control.strength * factor), factor


def mean_change(edit: Edit, read: TextStates, rows: NDArray[np.bool_]) -> float:
    """Return the mean length of an edit's change over some texts' tokens, sinks left out."""
    tokens = np.zeros(len(read.states), np.bool_)
    tokens[read.paths[rows].indices] = True
    at, total = np.flatnonzero(tokens & read.kept), 0.0
    for some in np.array_split(at, max(1, len(at) // _READ)):
        x = read.states[torch.from_numpy(some).to(read.states.device)].float()
        total += float(_change(edit, x).norm(dim=-1).double().sum())
    return total / max(1, len(at))


@torch.no_grad()
def edited_texts(edit: Edit | None, read: TextStates) -> NDArray[np.float32]:
    """Return each text's mean of edited states at unit norm, [texts, d], without a forward pass.

    It is what `mean_unit` reads at the edited layer when all of a text's tokens are steered.
    """
    if edit is None:
        return read.mean_unit()
    unit = np.empty(tuple(read.states.shape), np.float32)
    for at in range(0, len(read.states), _READ):
        x = read.states[at : at + _READ].float()
        new = x + _change(edit, x)
        unit[at : at + _READ] = (new / new.norm(dim=-1, keepdim=True)).cpu().numpy()
    means: NDArray[np.float32] = read.means @ unit
    return means


@torch.no_grad()
def _change(edit: Edit, x: torch.Tensor) -> torch.Tensor:
    edit = on_device(edit, x.device)
    change = edit.strength * edit.rule(x)
    if edit.gate is not None:
        change = torch.where(edit.gate(x)[..., None], change, 0.0)
    return change


@torch.no_grad()
def density_of(sae: Any, read: TextStates) -> NDArray[np.float64]:
    """Return at which share of the tokens that are kept each feature is active, [d_sae]."""
    active = torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device=sae.device)
    kept = torch.from_numpy(np.flatnonzero(read.kept)).to(read.states.device)
    for at in range(0, len(kept), _READ):
        x = read.states[kept[at : at + _READ]].to(sae.device).float()
        active += (sae.encode(x) != 0).sum(dim=0)
    share: NDArray[np.float64] = (active / max(1, len(kept))).cpu().numpy()
    return share


def others_as_dense(
    own: Sequence[int], density: NDArray[np.float64], rng: np.random.Generator
) -> list[int]:
    """Return for each feature another one that is about as often active, each once.

    Features that are never active are left out; fewer come back where there are no more.
    """
    free = np.setdiff1d(np.flatnonzero(density > 0), np.asarray(own, np.int64))
    left = [int(f) for f in rng.permutation(free)]
    found = []
    for feature in own[: len(left)]:
        near = int(np.argmin(np.abs(density[left] - density[feature])))
        found.append(left.pop(near))
    return found


def random_direction(own: Edit, seed: int) -> Edit:
    """Return an edit that adds a random direction of length 1."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(own.width, generator=generator)
    return replace(own, rule=Add(v / v.norm()), strength=1.0, gate=None)


def random_twin(sae: Any, tuned: Tunable, table: pl.DataFrame, seed: int) -> Tunable:
    """Return as many other features, as often active, whose rows are changed as much at random.

    Args:
        sae: that both are features of.
        tuned: the features that were tuned.
        table: of all features, with `density`.
        seed: of which, and of the changes.
    """
    rng = np.random.default_rng([seed, 14])
    density = table.sort("feature")["density"].to_numpy()
    chosen = others_as_dense(tuned.features.tolist(), density, rng)
    twin = Tunable(sae, torch.tensor(chosen, dtype=torch.long))
    original = tuned.original()
    generator = torch.Generator().manual_seed(seed)
    n = len(chosen)
    with torch.no_grad():
        for name in ("W_enc", "W_dec"):
            mine, before = getattr(tuned, name)[:n], getattr(original, name)[:n]
            size = (mine - before).norm(dim=-1, keepdim=True).cpu()
            noise = torch.randn(n, mine.shape[1], generator=generator)
            noise *= size / noise.norm(dim=-1, keepdim=True)
            values: torch.Tensor = getattr(twin, name)
            values.add_(noise.to(values.device))
        twin.b_enc.add_((tuned.b_enc - original.b_enc)[:n])
        twin.renormalise()
    return twin


def controls_of(
    own: Edit,
    candidates: Mapping[str, Edit],
    model: CausalModel,
    texts: TableTexts,
    read: TextStates,
    *,
    told: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Intervention]:
    """Return the controls of an intervention, each changing states as much as it does.

    Args:
        own: the intervention's edit.
        candidates: controls that were made with it, by the names of `ARMS`.
        model: that they are for.
        texts: what it was made of.
        read: their states at the layer.
        told: what else is known of a candidate, by its name.
        seed: of the random direction.
    """
    told = told or {}
    of_means = of_states(model, texts, read, own.layer, MORAL, "means").edits[0]
    every = {
        **candidates,
        "random_direction": random_direction(own, seed),
        "means": replace(of_means, sink_norm=own.sink_norm),
    }
    train = texts.split == "train"
    found = {}
    for name, edit in every.items():
        made, scale = matched(edit, own, read, train)
        about = {"control": name, "is": ARMS[name], "layer": own.layer, "scale": round(scale, 4)}
        found[name] = Intervention((made,), model_of(model), {**about, **told.get(name, {})})
    return found
