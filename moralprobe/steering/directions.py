"""Directions that tell moral texts apart: differences of means, and linear read-outs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.activations.text_states import TableTexts, TextStates
from moralprobe.errors import DataError, UsageError, nearest
from moralprobe.foundations import AXES, POLES
from moralprobe.geometry.arrays import Bools, Floats
from moralprobe.geometry.readout import readout
from moralprobe.models.causal import CausalModel
from moralprobe.steering.intervention import Edit, Intervention, model_of
from moralprobe.steering.rules import Add

MORAL: Final = "moral"
TARGETS: Final = (MORAL, *(axis.tag for axis in AXES), *POLES)
"""What a direction can lead to: every virtue from every vice, an axis' virtue from its vice, or a
pole from all other texts."""
KINDS: Final = ("means", "ridge")
FEWEST: Final = 10
"""Texts of either side that a direction needs."""


def check_target(target: str, kind: str) -> None:
    """Refuse a target or kind that isn't known."""
    for name, value, known in (("target", target, TARGETS), ("kind", kind, KINDS)):
        if value not in known:
            raise UsageError(
                f"unknown {name} {value!r}", nearest(value, known), "choose one of them"
            )


def contrast(moral: Floats, target: str) -> NDArray[np.float64]:
    """Return how much each text counts for a target, below 0 against it, [n].

    Args:
        moral: [n, 10] moral vectors.
        target: of `TARGETS`.

    Raises:
        UsageError: an unknown target.
    """
    check_target(target, KINDS[0])
    if target in POLES:
        y = np.asarray(moral[:, POLES.index(target)], np.float64)
        return np.where(y > 0, y, -1.0)
    axes = [a for a, axis in enumerate(AXES) if target in (MORAL, axis.tag)]
    signed: NDArray[np.float64] = sum(moral[:, 2 * a] - moral[:, 2 * a + 1] for a in axes)  # type: ignore[assignment]
    return np.asarray(signed / len(axes), np.float64)


def mean_difference(X: Floats, y: Floats) -> NDArray[np.float64]:
    """Return the mean of states for a target, by how much each counts, less that against it.

    Args:
        X: [n, d].
        y: [n] from `contrast`.

    Raises:
        DataError: fewer than `FEWEST` texts on either side.
    """
    sides = [(np.maximum(sign * y, 0)) for sign in (1, -1)]
    fewest = min(int((side > 0).sum()) for side in sides)
    if fewest < FEWEST:
        raise DataError(
            "too few texts for a difference of means",
            f"{fewest} on one side; {FEWEST} needed",
            "give a larger table, or another target",
        )
    high, low = (side @ X / side.sum() for side in sides)
    return np.asarray(high - low, np.float64)


def ridge_direction(X: Floats, moral: Floats, train: Bools, target: str, seed: int) -> Any:
    """Return the weights that read a target out, by a ridge fitted on training texts, [d]."""
    y = contrast(moral, target)
    W, r = readout(X, y[:, None], train, seed)
    if not np.isfinite(W).all():
        raise DataError(
            "too few texts for a ridge",
            f"{int(train.sum())} to fit, {int((~train).sum())} held out",
            "give a larger table",
        )
    del r
    return W[:, 0]


def of_states(
    model: CausalModel,
    texts: TableTexts,
    read: TextStates,
    layer: int,
    target: str,
    kind: str,
    *,
    shuffled: bool = False,
    seed: int = 0,
) -> Intervention:
    """Return an edit that adds a direction, as long as a layer's usual state, and what is known.

    The direction is taken of training texts, at `mean_unit`.

    Args:
        model: that the states are of.
        texts: of a table.
        read: their states at the layer.
        layer: decoder block, counted from 0.
        target: of `TARGETS`.
        kind: `means`, the difference of means; `ridge`, the weights of a linear read-out.
        shuffled: give every text another one's moral vector: a control.
        seed: of the shuffle and the ridge's folds.

    Raises:
        UsageError: an unknown target or kind.
        DataError: too few texts.
    """
    check_target(target, kind)
    X, moral, train = read.mean_unit().astype(np.float64), texts.moral, texts.split == "train"
    if shuffled:
        rows = np.flatnonzero(train)
        moral = moral.copy()
        moral[rows] = moral[np.random.default_rng([seed, 13]).permutation(rows)]
    y = contrast(moral, target)
    if kind == "means":
        found = mean_difference(X[train], y[train])
    else:
        found = ridge_direction(X, moral, train, target, seed)
    score, truth = X[~train] @ found, contrast(texts.moral, target)[~train]
    held = float(np.corrcoef(score, truth)[0, 1]) if np.ptp(truth) > 0 else None
    usual = float(read.states[torch.from_numpy(read.kept)].float().norm(dim=-1).median())
    unit = found / np.linalg.norm(found) * usual
    edit = Edit(layer, Add(torch.from_numpy(unit).float()), 1.0, read.sink_norm)
    about = {
        "made_by": kind,
        "target": target,
        "layer": layer,
        "shuffled": shuffled,
        "seed": seed,
        "texts": int(train.sum()),
        "held_out_r": held,
        "held_out": int((~train).sum()),
        "length": usual,
    }
    return Intervention((edit,), model_of(model), about)


def read_vector(path: Path, width: int) -> torch.Tensor:
    """Return the one vector of a safetensors file, [width] in fp32.

    Raises:
        DataError: another kind of file, several tensors, or one of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise DataError(
            f"{path} isn't a safetensors file",
            "other formats may run code when they are read",
            "convert it where you trust it: safetensors.torch.save_file({'v': vector}, path)",
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(
            f"can't read {path}", str(error).split("\n")[0], "check the file"
        ) from error
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if shapes not in ([(width,)], [(1, width)]):
        raise DataError(
            f"{path} holds no vector of the model's width",
            f"its shapes are {', '.join(map(str, shapes)) or 'none'}; needed is ({width},)",
            "give a file with one vector, of a layer of this model",
        )
    (found,) = tensors.values()
    return found.reshape(-1).float()
