"""Which features of an autoencoder go with which moral pole, as published and corrected.

Read are a feature's mean activations over a text's tokens, sinks left out. `li2026` are the paper's
two rules, by Pearson's r; `audited` asks for an effect given length, valence, word frequency and
the other poles, among the training texts, and for the same on texts that weren't used to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from moralprobe.errors import DataError
from moralprobe.foundations import POLES
from moralprobe.geometry.association import (
    MIN_ACTIVE,
    Associations,
    associate,
    pearson_of_features,
    specificity,
)
from moralprobe.geometry.gradient import spearman_interval
from moralprobe.geometry.uncertainty import false_discovery
from moralprobe.sae.published import published
from moralprobe.sae.text_features import TextFeatures

LEVEL: Final = 0.05
"""Of false discoveries among selected features, and of each replication."""
ENOUGH: Final = 5 * MIN_ACTIVE
"""Texts to choose by, and texts held out, that are needed at least."""
_DRAWS: Final = 500
_SHUFFLES: Final = 5


@dataclass(frozen=True)
class Selection:
    """Which features were chosen by some texts: `pole` [features], `chosen`, `q`, `contrast_q`.

    Chosen is a feature whose effect on its best pole, and whose effect there less that on the other
    poles, are both discoveries at `LEVEL` over all features and poles.
    """

    found: Associations
    pole: NDArray[np.int64]
    q: NDArray[np.float64]
    contrast_q: NDArray[np.float64]
    chosen: NDArray[np.bool_]


def choose(activations: sparse.csr_array, moral: Any, covariates: Any) -> Selection:
    """Choose features by their effects on poles; see `Selection`.

    Args:
        activations: [texts, features].
        moral: [texts, poles] typicality.
        covariates: [texts, any].
    """
    found = associate(activations, moral, covariates)
    q = _over_all(found.p)
    contrast_q = _over_all(found.contrast_p)
    pole = np.argmax(np.where(np.isnan(found.t), -np.inf, found.t), axis=0)
    at = pole, np.arange(len(pole))
    chosen = (q[at] < LEVEL) & (contrast_q[at] < LEVEL)
    return Selection(found, pole, q[at], contrast_q[at], chosen)


def _over_all(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return false_discovery(p.ravel()).reshape(p.shape)


@dataclass(frozen=True)
class MoralFeatures:
    """A row a feature, and what the whole table says: counts, nulls, what was held fixed."""

    frame: pl.DataFrame
    summary: dict[str, Any]


def moral_features(read: TextFeatures, *, seed: int = 0) -> MoralFeatures:
    """Choose the moral features of an autoencoder by both modes' rules.

    Columns of `frame`, a row a feature: `density` (share of texts in which it is active); of the
    audited mode `pole`, `effect` (standard deviations from no typicality to full), `t`, `q`,
    `contrast_q`, `specificity`, `chosen`, `replicated` (chosen, and again on held-out texts, both
    effect and contrast one-sided at `LEVEL`), `half_a`, `half_b` (t on halves of the training
    texts), `slope` with `slope_low` and `slope_high` (Spearman with typicality among the pole's
    held-out texts, of features chosen), `slope_n`; a correlation with each covariate; of li2026
    `li_class`, `li_pole`, `li_r`, `li_strict`, `li_tuned`.

    Args:
        read: from `read_features`.
        seed: of shuffles, halves, resamples and matched features.

    Raises:
        DataError: too few texts to choose by, or to hold out.
    """
    train, held = read.train, ~read.train
    if min(train.sum(), held.sum()) < ENOUGH:
        raise DataError(
            "not enough texts to choose features by and to try them on",
            f"{int(train.sum())} to choose, {int(held.sum())} held out; {ENOUGH} needed",
            "give a larger table",
        )
    rng = np.random.default_rng([seed, 7])
    Y, T, C = read.activations, read.moral, read.covariates
    selection = choose(Y[train], T[train], C[train])
    again = associate(Y[held], T[held], C[held])
    features = np.arange(Y.shape[1])
    at = selection.pole, features
    holds = (again.p[at] < LEVEL) & (again.contrast_p[at] < LEVEL)
    replicated = selection.chosen & holds
    halves = rng.random(len(T)) < 0.5
    half = [
        associate(Y[rows], T[rows], C[rows]).t[at] for rows in (train & halves, train & ~halves)
    ]
    slopes = _slopes(read, selection, held, seed)
    effect = selection.found.effect[at]
    frame = pl.DataFrame(
        {
            "feature": features,
            "density": np.asarray((Y != 0).sum(axis=0)).ravel() / len(T),
            "pole": [POLES[k] for k in selection.pole],
            "effect": effect,
            "t": selection.found.t[at],
            "q": selection.q,
            "contrast_q": selection.contrast_q,
            "specificity": specificity(selection.found.effect),
            "chosen": selection.chosen,
            "replicated": replicated,
            "half_a": half[0],
            "half_b": half[1],
            **slopes,
            **{f"r_{n.replace(' ', '_')}": r for n, r in zip(read.names, _with(Y, C), strict=True)},
            **published(pearson_of_features(Y[held], T[held])),
        }
    ).with_columns(pl.col(pl.Float64).fill_nan(None))
    tested = np.asarray(np.isfinite(selection.found.t).any(axis=0))
    matched = _matched(selection.chosen, tested, np.asarray((Y[train] != 0).sum(axis=0)), rng)
    shuffled = [
        int(choose(Y[train], T[train][rng.permutation(int(train.sum()))], C[train]).chosen.sum())
        for _ in range(_SHUFFLES)
    ]
    twin = choose(read.random[train], T[train], C[train])
    twin_again = associate(read.random[held], T[held], C[held])
    twin_at = twin.pole, features
    twin_holds = (twin_again.p[twin_at] < LEVEL) & (twin_again.contrast_p[twin_at] < LEVEL)
    own = frame.filter("replicated")["specificity"]
    summary = {
        "texts": len(T),
        "train": int(train.sum()),
        "held_out": int(held.sum()),
        "features": len(features),
        "tested": int(tested.sum()),
        "chosen": int(selection.chosen.sum()),
        "replicated": int(replicated.sum()),
        "replicated_by_pole": {
            pole: int((replicated & (selection.pole == k)).sum()) for k, pole in enumerate(POLES)
        },
        "specificity_median": own.median() if len(own) else None,
        "null_shuffled_chosen": shuffled,
        "null_random_dictionary": {
            "chosen": int(twin.chosen.sum()),
            "replicated": int((twin.chosen & twin_holds).sum()),
        },
        "null_matched_density": {"features": len(matched), "hold": int(holds[matched].sum())},
        "li2026": {
            name: int((frame["li_class"] == name).sum()) for name in ("weak", "mono", "poly")
        }
        | {"strict": int(frame["li_strict"].sum()), "tuned": int(frame["li_tuned"].sum())},
        "held_fixed": list(read.names),
        "explained_variance": read.explained_variance,
        "level": LEVEL,
    }
    return MoralFeatures(frame, summary)


def _with(Y: sparse.csr_array, covariates: Any) -> NDArray[np.float64]:
    return pearson_of_features(Y, covariates).T


def _slopes(
    read: TextFeatures, selection: Selection, held: NDArray[np.bool_], seed: int
) -> dict[str, Any]:
    """Of features chosen, Spearman with typicality among their pole's held-out texts."""
    n = read.activations.shape[1]
    columns: dict[str, Any] = {
        name: np.full(n, np.nan) for name in ("slope", "slope_low", "slope_high")
    }
    counts = np.zeros(n, np.int64)
    by_feature = read.activations.tocsc()
    for feature in np.flatnonzero(selection.chosen):
        scores = read.moral[:, selection.pole[feature]]
        rows = held & (scores > 0)
        counts[feature] = rows.sum()
        if rows.sum() < MIN_ACTIVE:
            continue
        active = by_feature[:, [feature]].toarray().ravel()[rows]
        found = spearman_interval(active, scores[rows], draws=_DRAWS, seed=seed)
        for name, value in zip(columns, found, strict=True):
            columns[name][feature] = value
    return {**columns, "slope_n": counts}


def _matched(
    chosen: NDArray[np.bool_],
    tested: NDArray[np.bool_],
    density: NDArray[np.integer],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return for every feature chosen another of the nearest density, each once."""
    free = list(np.flatnonzero(tested & ~chosen))
    matched: list[int] = []
    for feature in rng.permutation(np.flatnonzero(chosen)):
        if not free:
            break
        nearest = int(np.argmin(np.abs(density[free] - density[feature])))
        matched.append(int(free.pop(nearest)))
    return np.array(matched, np.int64)
