"""Which features are tuned, what each stands for, and what stays as it is while they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moralprobe.activations.text_states import TableTexts, TextStates, rows_of_split
from moralprobe.errors import DataError, UsageError, nearest
from moralprobe.foundations import POLES
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae.load import LoadedSAE, made_of
from moralprobe.sae.published import CHOSEN_ON, MONO, TOP_OF_AXIS, TOP_OF_POLE
from moralprobe.steering.losses import Masks
from moralprobe.steering.tunable import Tunable

MODES: Final = ("li2026", "geometry")
_READ: Final = 8192  # tokens at a time


@dataclass(frozen=True)
class Material:
    """What features are tuned on: a table's texts and their states at the autoencoder's layer."""

    loaded: LoadedSAE
    vectors: MoralVectors
    texts: TableTexts
    read: TextStates


def check_mode(mode: str) -> None:
    """Refuse a mode that isn't one of `MODES`."""
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}", nearest(mode, MODES), "choose one of them")


def read_feature_table(path: Path) -> pl.DataFrame:
    """Return the table that `sae features` wrote, from its folder or file.

    Raises:
        DataError: there is none.
    """
    file = Path(path) / "FEATURES.parquet" if Path(path).is_dir() else Path(path)
    try:
        return pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"there is no table of features at {path}",
            str(error).split("\n")[0],
            "make one by: moralprobe sae features",
        ) from error


def check_features_of(path: Path, loaded: LoadedSAE, vectors: Path) -> list[str]:
    """Hold a folder of `sae features` against the autoencoder and the table that it is used with.

    Returns:
        What a user should know: that the folder doesn't say what it was made of.

    Raises:
        UsageError: it was made of another autoencoder, or of another table, whose held-out texts
            may be among those that features are tuned on.
    """
    try:
        said = json.loads((Path(path) / "features.json").read_bytes())
    except (OSError, ValueError):
        said = {}
    mine = made_of(loaded, vectors)
    for key, what in (("sae_hash", "autoencoder"), ("vectors_hash", "table")):
        if said.get(key) is not None and mine[key] is not None and said[key] != mine[key]:
            raise UsageError(
                f"the features in {path} are of another {what}",
                f"made of {said[key.removesuffix('_hash')]}",
                f"give that one, or make them of this {what}: moralprobe sae features",
            )
    if "li2026" in said and "rows" not in said["li2026"]:
        raise UsageError(
            f"the features in {path} were chosen by an earlier version",
            "as li2026 on dev and test texts, not on rows of the dev split",
            "make them again: moralprobe sae features",
        )
    if "sae_hash" not in said:
        return [f"{path} doesn't say which autoencoder its features are of"]
    return []


def selected_by(table: pl.DataFrame, mode: str, d_sae: int) -> NDArray[np.int64]:
    """Return the features that a mode tunes."""
    if table.height != d_sae or not {"feature", "chosen", "li_tuned"} <= set(table.columns):
        raise UsageError(
            "this table isn't one of the autoencoder's features",
            f"it has {table.height:,} rows, the autoencoder {d_sae:,} features",
            "make it by: moralprobe sae features",
        )
    column = "li_tuned" if mode == "li2026" else "chosen"
    selected = table.filter(pl.col(column))["feature"].sort().to_numpy().astype(np.int64)
    if not len(selected):
        raise DataError(
            "there is no moral feature to tune",
            f"none is selected by {mode}'s rule",
            "give a larger table to sae features, or an autoencoder that holds some",
        )
    return selected


@dataclass(frozen=True)
class Frozen:
    """What doesn't change, token by token: the other features' largest, and what is unexplained."""

    others: torch.Tensor
    error: torch.Tensor
    variance: float


@torch.no_grad()
def frozen_of(tunable: Tunable, read: TextStates, device: torch.device) -> Frozen:
    """Read once what tuning leaves as it is, at every token."""
    sae, others, errors = tunable.sae[0], [], []
    n, squares = len(read.states), 0.0
    total = torch.zeros(read.states.shape[1], dtype=torch.float64, device=device)
    for at in range(0, n, _READ):
        x = read.states[at : at + _READ].to(device).float()
        others.append(tunable.others(x))
        errors.append((x - sae.decode(sae.encode(x)).float()).to(read.states.dtype))
        kept = torch.from_numpy(read.kept[at : at + _READ]).to(device)
        total += x[kept].double().sum(0)
        squares += float(x[kept].double().pow(2).sum())
    count = max(1, int(read.kept.sum()))
    variance = squares / count - float((total / count).pow(2).sum())
    return Frozen(torch.cat(others), torch.cat(errors), variance)


def masks_of(
    tunable: Tunable,
    material: Material,
    table: pl.DataFrame,
    selected: NDArray[np.int64],
    mode: str,
    frozen: Frozen,
    device: torch.device,
) -> Masks:
    """Return which of the selected features stand for which pole, by the mode's own rule.

    `li2026`: of each pole the 50 features with the largest r above 0.1 over rows of the dev split,
    by r, and for its contrast the 20 largest above 0. `geometry`: the features that were chosen for
    it, by t, and for its contrast the 20 largest.
    """
    mine = table.filter(pl.col("feature").is_in(selected)).sort("feature")
    n = len(selected)
    weights, poles = np.zeros((10, n)), np.zeros((10, n))
    if mode == "li2026":
        r = _correlations(tunable, material, frozen, device)
        strict = mine["li_strict"].to_numpy()
        pole = np.abs(r).argmax(0)
    else:
        names = [POLES.index(name) if name is not None else -1 for name in mine["pole"]]
        strict, pole = np.zeros(n, np.bool_), np.array(names)
        t = mine["t"].fill_null(0).to_numpy()
        r = np.where(pole == np.arange(10)[:, None], np.maximum(t, 0), 0)
    for k in range(10):
        order = np.argsort(-r[k], kind="stable")
        least = MONO if mode == "li2026" else 0
        most = TOP_OF_POLE if mode == "li2026" else n
        top = [f for f in order[:most] if r[k, f] > least]
        weights[k, top] = r[k, top]
        contrast = [f for f in order[:TOP_OF_AXIS] if r[k, f] > 0]
        poles[k, contrast] = 1 / max(1, len(contrast))
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)

    def tensor(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return Masks(
        tensor(weights).float(), tensor(poles).float(), tensor(strict.copy()), tensor(pole)
    )


@torch.no_grad()
def _correlations(
    tunable: Tunable, material: Material, frozen: Frozen, device: torch.device
) -> NDArray[np.float64]:
    """Return Pearson's r of the poles with the selected features over the dev split's rows."""
    read = material.read
    acts = [
        tunable.acts(
            read.states[at : at + _READ].to(device).float(), frozen.others[at : at + _READ]
        ).cpu()
        for at in range(0, len(read.states), _READ)
    ]
    rows, h = rows_of_split(material.texts, material.vectors, CHOSEN_ON)
    z = (read.means @ torch.cat(acts).numpy()).astype(np.float64)[rows]
    z, h = z - z.mean(0), h - h.mean(0)
    spread = np.outer(h.std(0), z.std(0)) * len(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        r: NDArray[np.float64] = np.nan_to_num(h.T @ z / spread)
    return r
