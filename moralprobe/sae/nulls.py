"""What stands beside the counts of moral features: what the same rules give where less is true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from moralprobe.foundations import POLES
from moralprobe.geometry.association import pearson_of_features
from moralprobe.sae.published import counts, published
from moralprobe.sae.selection import LEVEL, Tried, as_dense, at, choose
from moralprobe.sae.text_features import TextFeatures

SPECIFIC: Final = 0.5
"""Of specificity: the effect on its own pole is at least twice that on any other."""
_SHUFFLES: Final = 5


def summarise(
    read: TextFeatures,
    found: Tried,
    random: Tried,
    untaught: Tried | None,
    matched: NDArray[np.int64],
    slopes: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Count what was chosen by the audited rule, and what it gives of nulls.

    Args:
        read: the texts, and how active all features are in them.
        found: of the autoencoder's own features.
        random: of a random dictionary's.
        untaught: of an autoencoder of shuffled activations, if there is one.
        matched: [features] another of about its density, of features chosen; -1 for none.
        slopes: [4, features] of those matched, on the poles of features chosen.
        rng: shuffles poles.
    """
    train, pole = read.train, found.selection.pole
    Y, T, C = read.activations[train], read.moral[train], read.covariates[train]
    order = [rng.permutation(len(T)) for _ in range(_SHUFFLES)]
    others = np.full(len(matched), -1)  # by the pole of the feature for which it stands in
    others[matched[matched >= 0]] = pole[matched >= 0]
    return {
        "texts": len(read.moral),
        "train": int(train.sum()),
        "held_out": int((~train).sum()),
        **_dictionary(found),
        "replicated_by_pole": {
            name: int((found.replicated & (pole == k)).sum()) for k, name in enumerate(POLES)
        },
        "null_shuffled_chosen": [int(choose(Y, T[rows], C).chosen.sum()) for rows in order],
        "null_random_dictionary": _dictionary(random),
        "null_shuffled_activations": None if untaught is None else _dictionary(untaught),
        "others_as_dense": _told(found, others, found.holds(others), slopes),
        "held_fixed": list(read.names),
        "explained_variance": read.explained_variance,
        "level": LEVEL,
    }


def _dictionary(found: Tried) -> dict[str, Any]:
    """Count what the audited rule gives of one dictionary."""
    selection = found.selection
    return {
        "features": len(selection.chosen),
        "chosen": int(selection.chosen.sum()),
        **_told(found, selection.pole, found.replicated, found.slopes),
        "strongest_of_poles": leading(selection.found.t, selection.chosen),
    }


def _told(
    found: Tried, pole: NDArray[np.int64], hold: NDArray[np.bool_], slopes: NDArray[np.float64]
) -> dict[str, Any]:
    """Count features that hold on their poles, how specific they are, and how graded."""
    own = found.specificity(pole)[hold]
    own = own[np.isfinite(own)]  # another's effect may be on held-out texts alone
    return {
        "tested": int(np.isfinite(at(found.selection.found.t, pole)).sum()),
        "replicated": int(hold.sum()),
        "in_both_halves": int((hold & found.in_both_halves(pole)).sum()),
        "specificity_median": float(np.median(own)) if len(own) else None,
        "specific": int((own >= SPECIFIC).sum()),
        "slope": _slope(slopes),
    }


def _slope(found: NDArray[np.float64]) -> dict[str, Any]:
    """Return how many slopes are known, their median, and how many are surely above 0."""
    known = found[0][np.isfinite(found[0])]
    median = float(np.median(known)) if len(known) else None
    return {"features": len(known), "median": median, "up": int((found[1] > 0).sum())}


def leading(of_poles: NDArray[np.float64], chosen: NDArray[np.bool_]) -> dict[str, int]:
    """Count the poles' strongest features: where one leads for all, it says "moral text".

    Args:
        of_poles: [poles, features] how strong each is.
        chosen: [features] which were chosen.

    Returns:
        `poles` that have a strongest feature, how many different `features` these are, and how many
        of them are `chosen`: of noise all are different and none is.
    """
    known = np.where(of_poles > 0, of_poles, -1)
    some = known[(known > 0).any(axis=1)]
    leaders = np.unique(some.argmax(axis=1)) if len(some) else np.empty(0, np.int64)
    return {
        "poles": len(some),
        "features": len(leaders),
        "chosen": int(chosen[leaders].sum()),
    }


# -- as published ---------------------------------------------------------------------------------


def published_r(read: TextFeatures, activations: sparse.csr_array) -> NDArray[np.float64]:
    """Return Pearson's r with the ten poles over the rows of the dev split, [features, 10]."""
    if not len(read.dev_text):
        return np.zeros((activations.shape[1], len(POLES)))
    return pearson_of_features(activations[read.dev_text], read.dev_moral)


def summarise_published(
    read: TextFeatures,
    frame: pl.DataFrame,
    r: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Count what the paper's rules give, and what they give of nulls.

    Texts are shuffled whole: a text of several rows has one activation in all of them.

    Args:
        read: the texts, and how active all features are in them.
        frame: a row a feature, with what the rules gave.
        r: from `published_r`, by which they gave it.
        rng: shuffles texts, and picks others as dense among the rows that are read.
    """

    def of(read: TextFeatures, activations: sparse.csr_array) -> dict[str, int]:
        return counts(published(published_r(read, activations)))

    texts, row = np.unique(read.dev_text, return_inverse=True)
    shuffled = [
        replace(read, dev_text=rng.permutation(texts)[row].astype(np.int64))
        for _ in range(_SHUFFLES)
    ]
    mono, strict = (frame["li_class"] == "mono").to_numpy(), frame["li_strict"].to_numpy()
    density = np.asarray((read.activations[texts] != 0).sum(axis=0)).ravel()
    others = as_dense(mono, density > 0, density, rng)
    others = others[others >= 0]
    return {
        **counts(frame.to_dict(as_series=True)),
        "rows": len(row),
        "strongest_of_poles": leading(r.T, strict),
        "null_shuffled_texts": [of(twin, read.activations) for twin in shuffled],
        "null_random_dictionary": of(read, read.random),
        "null_shuffled_activations": None if read.untaught is None else of(read, read.untaught),
        "others_as_dense": {
            "features": len(others),
            "mono": int(mono[others].sum()),
            "strict": int(strict[others].sum()),
        },
    }
