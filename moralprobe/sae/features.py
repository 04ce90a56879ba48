"""Which features of an autoencoder go with which moral pole, as published and corrected.

Read are a feature's mean activations over a text's tokens, sinks left out. `li2026` are the paper's
two rules, by Pearson's r over the rows of the dev split; `audited` asks for an effect given length,
valence, word frequency and the other poles, among the training texts, and for the same on texts
that weren't used to choose.
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
    """Which features were chosen by some texts, each [features].

    `pole` is the one with the largest t, -1 where nothing could be tested. A feature is chosen if
    it has an effect there and more of one than on the other poles on average: tested is the larger
    p of both (an intersection-union test), and `q` is its false discovery rate over all features
    and poles.
    """

    found: Associations
    pole: NDArray[np.int64]
    q: NDArray[np.float64]
    chosen: NDArray[np.bool_]

    def at(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return of [poles, features] those of each feature's pole, NaN without one."""
        return np.where(self.pole >= 0, values[self.pole, np.arange(len(self.pole))], np.nan)


def choose(activations: sparse.csr_array, moral: Any, covariates: Any) -> Selection:
    """Choose features by their effects on poles; see `Selection`.

    Args:
        activations: [texts, features].
        moral: [texts, poles] typicality.
        covariates: [texts, any].
    """
    found = associate(activations, moral, covariates)
    both = np.maximum(found.p, found.contrast_p)
    q = false_discovery(both.ravel()).reshape(both.shape)
    tested = np.isfinite(found.t)
    pole = np.where(tested.any(axis=0), np.argmax(np.where(tested, found.t, -np.inf), axis=0), -1)
    selection = Selection(found, pole, q, np.zeros(len(pole), np.bool_))
    q = selection.at(q)
    return Selection(found, pole, q, q < LEVEL)


def _holds(selection: Selection, again: Associations) -> NDArray[np.bool_]:
    """Return which features have an effect and a contrast on their pole in other texts too."""
    return selection.at(np.maximum(again.p, again.contrast_p)) < LEVEL


@dataclass(frozen=True)
class MoralFeatures:
    """A row a feature, and what the whole table says: counts, nulls, what was held fixed."""

    frame: pl.DataFrame
    summary: dict[str, Any]


def moral_features(read: TextFeatures, *, seed: int = 0) -> MoralFeatures:
    """Choose the moral features of an autoencoder by both modes' rules.

    Columns of `frame`, a row a feature: `density` (share of texts in which it is active); of the
    audited mode `pole` (none where too little is active), `effect` (standard deviations from no
    typicality to full), `t`, `contrast_t`, `q`, `specificity`, `chosen`, `replicated` (chosen, and
    on held-out texts effect and contrast are there again, one-sided at `LEVEL`), `half_a`,
    `half_b` (t on halves of the training texts), `slope` with `slope_low` and `slope_high`
    (Spearman with typicality among the pole's held-out texts, of features chosen), `slope_n`; a
    correlation with each covariate; `matched`, another feature of about its density (of features
    chosen); of li2026 `li_class`, `li_pole`, `li_r`, `li_strict`,
    `li_tuned`.

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
    holds = _holds(selection, again)
    replicated = selection.chosen & holds
    halves = rng.random(len(T)) < 0.5
    half = [
        selection.at(associate(Y[rows], T[rows], C[rows]).t)
        for rows in (train & halves, train & ~halves)
    ]
    slopes = _slopes(read, selection, held, seed)
    tested = np.asarray(np.isfinite(selection.found.t).any(axis=0))
    matched = _matched(selection.chosen, tested, np.asarray((Y[train] != 0).sum(axis=0)), rng)
    frame = pl.DataFrame(
        {
            "feature": features,
            "density": np.asarray((Y != 0).sum(axis=0)).ravel() / len(T),
            "pole": [POLES[k] if k >= 0 else None for k in selection.pole],
            "effect": selection.at(selection.found.effect),
            "t": selection.at(selection.found.t),
            "contrast_t": selection.at(selection.found.contrast_t),
            "q": selection.q,
            "specificity": specificity(selection.found.effect, selection.pole),
            "chosen": selection.chosen,
            "replicated": replicated,
            "half_a": half[0],
            "half_b": half[1],
            "matched": matched,
            **slopes,
            **{f"r_{n.replace(' ', '_')}": r for n, r in zip(read.names, _with(Y, C), strict=True)},
            **published(_published_r(read)),
        }
    ).with_columns(
        pl.col(pl.Float64).fill_nan(None), pl.when(pl.col("matched") >= 0).then("matched")
    )
    return MoralFeatures(frame, _summary(read, frame, selection, holds, rng))


def _summary(
    read: TextFeatures,
    frame: pl.DataFrame,
    selection: Selection,
    holds: NDArray[np.bool_],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Count what was chosen, and what the nulls give."""
    train, held = read.train, ~read.train
    Y, T, C = read.activations, read.moral, read.covariates
    replicated = selection.chosen & holds
    matched = frame["matched"].drop_nulls().to_numpy()
    shuffled = [
        int(choose(Y[train], T[train][rng.permutation(int(train.sum()))], C[train]).chosen.sum())
        for _ in range(_SHUFFLES)
    ]
    own = frame.filter("replicated")["specificity"]
    return {
        "texts": len(T),
        "train": int(train.sum()),
        "held_out": int(held.sum()),
        "features": len(holds),
        "tested": int(np.isfinite(selection.found.t).any(axis=0).sum()),
        "chosen": int(selection.chosen.sum()),
        "replicated": int(replicated.sum()),
        "replicated_by_pole": {
            pole: int((replicated & (selection.pole == k)).sum()) for k, pole in enumerate(POLES)
        },
        "specificity_median": own.median() if len(own) else None,
        "null_shuffled_chosen": shuffled,
        "null_random_dictionary": _of_another(read, read.random),
        "null_shuffled_activations": None
        if read.untaught is None
        else _of_another(read, read.untaught),
        "others_as_dense": {"features": len(matched), "hold": int(holds[matched].sum())},
        "li2026": {
            name: int((frame["li_class"] == name).sum()) for name in ("weak", "mono", "poly")
        }
        | {"strict": int(frame["li_strict"].sum()), "tuned": int(frame["li_tuned"].sum())}
        | {"rows": len(read.dev_text)},
        "held_fixed": list(read.names),
        "explained_variance": read.explained_variance,
        "level": LEVEL,
    }


def _of_another(read: TextFeatures, activations: sparse.csr_array) -> dict[str, int]:
    """Count what the same rule gives of another dictionary's features in the same texts."""
    train, held = read.train, ~read.train
    T, C = read.moral, read.covariates
    chosen = choose(activations[train], T[train], C[train])
    holds = _holds(chosen, associate(activations[held], T[held], C[held]))
    return {
        "features": activations.shape[1],
        "chosen": int(chosen.chosen.sum()),
        "replicated": int((chosen.chosen & holds).sum()),
    }


def _published_r(read: TextFeatures) -> NDArray[np.float64]:
    """Return Pearson's r with the ten poles over the rows of the dev split, [features, 10]."""
    if not len(read.dev_text):
        return np.zeros((read.activations.shape[1], len(POLES)))
    return pearson_of_features(read.activations[read.dev_text], read.dev_moral)


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
    """Return for every feature chosen another of the nearest density, chosen or not, each once.

    -1 for features that weren't chosen, and where none is left.
    """
    free = list(rng.permutation(np.flatnonzero(tested)))
    matched = np.full(len(chosen), -1)
    for feature in rng.permutation(np.flatnonzero(chosen)):
        distance = np.abs(density[free] - density[feature]).astype(float)
        distance[np.array(free) == feature] = np.inf
        nearest = int(np.argmin(distance))
        if not np.isfinite(distance[nearest]):
            break
        matched[feature] = free.pop(nearest)
    return matched
