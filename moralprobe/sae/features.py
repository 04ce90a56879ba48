"""The moral features of an autoencoder, a row a feature, as published and corrected.

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

from moralprobe.errors import DataError
from moralprobe.foundations import POLES
from moralprobe.geometry.association import MIN_ACTIVE, pearson_of_features
from moralprobe.sae.nulls import published_r, summarise, summarise_published
from moralprobe.sae.published import published
from moralprobe.sae.selection import Tried, as_dense, slopes_of, tried
from moralprobe.sae.text_features import TextFeatures

ENOUGH: Final = 5 * MIN_ACTIVE
"""Texts to choose by, and texts held out, that are needed at least."""


@dataclass(frozen=True)
class MoralFeatures:
    """A row a feature, and what the whole table says: counts, nulls, what was held fixed.

    `random` are the features of the random dictionary, by the same rule.
    """

    frame: pl.DataFrame
    summary: dict[str, Any]
    random: Tried | None = None


def moral_features(read: TextFeatures, *, seed: int = 0) -> MoralFeatures:
    """Choose the moral features of an autoencoder by both modes' rules.

    Columns of `frame`, a row a feature: `density` (share of texts in which it is active); of the
    audited mode `pole` (none where too little is active), `effect` (standard deviations from no
    typicality to full), `t`, `contrast_t`, `q`, `specificity`, `chosen`, `replicated` (chosen, and
    on held-out texts effect and contrast are there again, one-sided at `selection.LEVEL`),
    `half_a`, `half_b` (t on halves of the training texts), `slope` with `slope_low` and
    `slope_high` (Spearman with typicality among the pole's held-out texts, of features chosen that
    are active in `MIN_ACTIVE` of them), `slope_n`; a correlation with each covariate, and with the
    largest typicality of any pole (`r_any_pole`); `matched`, another feature of about its density,
    chosen or not (of features chosen), and `slope_null` with `slope_null_low` and
    `slope_null_high`, that one's slope on the same pole; of li2026 `li_class`, `li_pole`, `li_r`,
    `li_strict`, `li_tuned`.

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
    Y = read.activations
    half = rng.random(len(train)) < 0.5
    found, random = (tried(read, of, half, seed) for of in (Y, read.random))
    untaught = None if read.untaught is None else tried(read, read.untaught, half, seed)
    selection, slopes, r = found.selection, found.slopes, published_r(read, Y)
    tested = np.asarray(np.isfinite(selection.found.t).any(axis=0))
    matched = as_dense(selection.chosen, tested, np.asarray((Y[train] != 0).sum(axis=0)), rng)
    others = slopes_of(read, Y, matched, selection.pole, seed)
    frame = pl.DataFrame(
        {
            "feature": np.arange(Y.shape[1]),
            "density": np.asarray((Y != 0).sum(axis=0)).ravel() / len(train),
            "pole": [POLES[k] if k >= 0 else None for k in selection.pole],
            "effect": selection.at(selection.found.effect),
            "t": selection.at(selection.found.t),
            "contrast_t": selection.at(selection.found.contrast_t),
            "q": selection.q,
            "specificity": found.specificity(selection.pole),
            "chosen": selection.chosen,
            "replicated": found.replicated,
            "half_a": selection.at(found.halves[0].t),
            "half_b": selection.at(found.halves[1].t),
            "matched": matched,
            "slope": slopes[0],
            "slope_low": slopes[1],
            "slope_high": slopes[2],
            "slope_n": slopes[3].astype(np.int64),
            "slope_null": others[0],
            "slope_null_low": others[1],
            "slope_null_high": others[2],
            **_correlations(read),
            **published(r),
        }
    ).with_columns(
        pl.col(pl.Float64).fill_nan(None), pl.when(pl.col("matched") >= 0).then("matched")
    )
    summary = summarise(read, found, random, untaught, matched, others, rng)
    summary["li2026"] = summarise_published(read, frame, r, rng)
    return MoralFeatures(frame, summary, random)


def _correlations(read: TextFeatures) -> dict[str, NDArray[np.float64]]:
    """Return Pearson's r with what else is known of a text, and with how moral it is at all."""
    columns = np.column_stack([read.covariates, read.moral.max(axis=1)])
    names = [*(name.replace(" ", "_") for name in read.names), "any_pole"]
    r = pearson_of_features(read.activations, columns).T
    return {f"r_{name}": values for name, values in zip(names, r, strict=True)}
