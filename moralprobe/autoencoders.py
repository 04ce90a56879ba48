"""Autoencoders in three calls: train them, judge them, find the moral features in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.errors import UsageError, nearest
from moralprobe.foundations import POLES
from moralprobe.models.causal import CausalModel
from moralprobe.sae.causal import Readout, causal_scores
from moralprobe.sae.directions import check_other, with_others
from moralprobe.sae.evaluate import Evaluation, evaluate
from moralprobe.sae.evaluate_pooled import evaluate_pooled, held_out_of
from moralprobe.sae.features import MoralFeatures, moral_features
from moralprobe.sae.load import LoadedSAE, is_pooled
from moralprobe.sae.pooled import features_of_table, train_on_pooled
from moralprobe.sae.recipe import PUBLISHED, Recipe, Task
from moralprobe.sae.selection import strongest
from moralprobe.sae.text_features import TextFeatures
from moralprobe.sae.tokens import TextOptions, judging_tokens, train_on_tokens
from moralprobe.sae.train import State
from moralprobe.sites import parse_layers

DEFAULT: Final = Recipe()
Texts = str | Path | Sequence[str | Path]
Reading = Callable[[int, int], None]


def _nothing(done: int, total: int) -> None:
    pass


def train_sae(
    model: CausalModel,
    texts: Texts | TextOptions,
    out: Path,
    *,
    layers: str,
    recipe: Recipe | Sequence[Recipe] = DEFAULT,
    source: str | None = None,
    pooling: str | None = None,
    shuffled: bool = False,
    states: str | Path | None = None,
    progress: Callable[[State], None] = lambda state: None,
    reading: Reading = _nothing,
) -> list[Path]:
    """Train autoencoders of some layers from one reading; the same call continues.

    Args:
        model: from `load_model`.
        texts: tables of moral vectors, text files, or `starter`; of pooled vectors one table, or
            the store of one.
        out: the folder; of several autoencoders each has one in it.
        layers: decoder blocks from 0: `15`, `10,15`, `8-20:4`.
        recipe: what is trained on each layer; `Recipe.published()` is the paper's.
        source: `tokens`, or `pooled`: a vector a text, and of the paper's one a row. What the
            recipe is published with, if not given.
        pooling: of pooled vectors; `mean_unit`, or `mean` as published, if not given.
        shuffled: every dimension of token states is shuffled by itself: a null.
        states: a folder that keeps token states, for other trainings on the same texts.
        progress: called while training.
        reading: called while the model reads, with what is done and what there is.

    Returns:
        The folders, by layer and recipe.

    Raises:
        UsageError: what can't be trained, or not together.
        DataError: texts that can't be read, or too few.
        StoreError: the folder belongs to another run.
        NumericError: a loss that is no number, or hardly a feature that is ever active.
    """
    recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
    source = source_of(recipes, source, shuffled=shuffled, states=states)
    if not isinstance(texts, TextOptions):
        texts = TextOptions(tuple(_paths(texts)))
    tasks = [Task(layer, r) for layer in parse_layers(layers, model.n_layers) for r in recipes]
    if source == "tokens":
        return train_on_tokens(
            model,
            texts,
            tasks,
            out,
            shuffled=shuffled,
            states=None if states is None else Path(states),
            progress=progress,
            reading=reading,
        )
    return train_on_pooled(
        model,
        texts,
        tasks,
        out,
        pooling=pooling,
        progress=progress,
        reading=lambda done: reading(done.texts, done.total),
    )


def _paths(texts: Texts) -> list[str]:
    return [str(texts)] if isinstance(texts, str | Path) else list(map(str, texts))


def source_of(
    recipes: Sequence[Recipe],
    source: str | None,
    *,
    shuffled: bool,
    states: str | Path | None = None,
) -> str:
    """Return what recipes are trained on, once what doesn't go together is refused.

    Raises:
        UsageError: an unknown source, the paper's of tokens, or pooled vectors to be shuffled or
            kept with token states.
    """
    published = any(recipe.arch == PUBLISHED for recipe in recipes)
    source = source or ("pooled" if published else "tokens")
    known = ("tokens", "pooled")
    if source not in known:
        raise UsageError(f"unknown source {source!r}", nearest(source, known), "choose one of them")
    if published and source == "tokens":
        raise UsageError(
            "the paper's autoencoder is one of pooled vectors",
            "asked for are tokens",
            "leave out --source, or train another architecture",
        )
    if shuffled and source == "pooled":
        raise UsageError(
            "what is shuffled for a null are token states",
            "asked for are pooled vectors",
            "leave out --shuffled, or train an autoencoder of tokens",
        )
    if states is not None and source == "pooled":
        raise UsageError(
            "what is kept with --states are token states",
            "asked for are pooled vectors",
            "leave it out: a store made by extract holds pooled vectors, and may be given as TEXTS",
        )
    return source


def evaluate_sae(
    loaded: LoadedSAE,
    model: CausalModel,
    *,
    texts: Texts | None = None,
    n_texts: int = 2000,
) -> Evaluation:
    """Judge an autoencoder on what it was trained for, on texts that were held out.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        texts: others than its own.
        n_texts: the loss is measured on so many at most.

    Raises:
        ModelError: an autoencoder of another width, layer or model, or one that reconstructs worse
            than the mean.
        DataError: no text.
    """
    paths = None if texts is None else _paths(texts)
    if is_pooled(loaded):
        states, tokens = held_out_of(model, loaded, paths)
        return evaluate_pooled(loaded, model, states, tokens, n_texts=n_texts)
    return evaluate(loaded, model, judging_tokens(model, loaded, paths), n_texts=n_texts)


@dataclass(frozen=True)
class Found(MoralFeatures):
    """The moral features of an autoencoder, and what was `read` for them."""

    read: TextFeatures = field(kw_only=True)


def find_features(
    loaded: LoadedSAE,
    model: CausalModel,
    vectors: str | Path,
    *,
    others: Sequence[LoadedSAE] = (),
    null: LoadedSAE | None = None,
    causal: int = 50,
    seed: int = 0,
    reading: Reading = _nothing,
) -> Found:
    """Find the moral features of an autoencoder, by the published rules and by ours.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        vectors: a table of moral vectors, or the store of one.
        others: of the same layer, trained with other seeds: is a feature there too?
        null: trained on shuffled activations of the same layer: what does it have?
        causal: so many of the strongest features are ablated and their poles read out.
        seed: of shuffles, halves, resamples and the random dictionary.
        reading: called while the model reads.

    Raises:
        ModelError: an autoencoder that doesn't belong or fit.
        DataError: too few texts.
    """
    for other in others:
        check_other(loaded, other)  # what doesn't belong together shouldn't wait for the model
    read = features_of_table(loaded, model, Path(vectors), null=null, seed=seed, reading=reading)
    features = moral_features(read, seed=seed)
    if others:
        features = with_others(features, loaded, others, seed=seed)
    if causal and not is_pooled(loaded):
        features = _with_causal(features, loaded, model, read, most=causal, seed=seed)
    return Found(features.frame, features.summary, features.random, read=read)


def _with_causal(
    found: MoralFeatures,
    loaded: LoadedSAE,
    model: CausalModel,
    read: TextFeatures,
    *,
    most: int,
    seed: int,
) -> MoralFeatures:
    """Add what ablating the strongest does: `causal`, `causal_null`, their intervals."""
    rows = found.frame.filter("chosen").sort("replicated", "t", descending=True).head(most)
    features = rows["feature"].to_numpy()
    poles = np.array([POLES.index(pole) for pole in rows["pole"]], np.int64)
    others = rows["matched"].fill_null(-1).to_numpy()
    scores = causal_scores(loaded, model, read, features, poles, others, seed=seed)
    columns = {
        "causal": scores.score,
        "causal_low": scores.low,
        "causal_high": scores.high,
        "causal_null": scores.null_score,
        "causal_null_low": scores.null_low,
        "causal_null_high": scores.null_high,
    }
    table = pl.DataFrame({"feature": features, **columns}).with_columns(
        pl.col(pl.Float64).fill_nan(None), causal_n=pl.Series(scores.texts)
    )
    summary = {
        **_moved(scores.score, scores.high),
        "others_as_dense": _moved(scores.null_score, scores.null_high),
        "random_dictionary": _of_random(found, loaded, model, read, scores.readout, most, seed),
        "layer": scores.readout.layer,
        "readout_r": dict(zip(POLES, scores.readout.r.tolist(), strict=True)),
    }
    frame = found.frame.join(table, on="feature", how="left", maintain_order="left")
    return replace(found, frame=frame, summary={**found.summary, "causal": summary})


def _of_random(
    found: MoralFeatures,
    loaded: LoadedSAE,
    model: CausalModel,
    read: TextFeatures,
    readout: Readout,
    most: int,
    seed: int,
) -> dict[str, Any]:
    """Ablate the strongest of the random dictionary, which are chosen by the same rule."""
    if found.random is None or read.random_sae is None:
        return _moved(np.empty(0), np.empty(0))
    features, poles = strongest(found.random, most)
    scores = causal_scores(
        replace(loaded, sae=read.random_sae),
        model,
        replace(read, activations=read.random),
        features,
        poles,
        np.full(len(features), -1),
        seed=seed,
        readout=readout,
        refuse=False,  # one that rounding takes is no reason to lose all that was found
    )
    return _moved(scores.score, scores.high)


def _moved(score: NDArray[np.float64], high: NDArray[np.float64]) -> dict[str, Any]:
    """Return how many were ablated, the median of what that does, and how many are surely down."""
    known = score[np.isfinite(score)]
    median = float(np.median(known)) if len(known) else None
    return {"features": len(known), "median": median, "down": int((high < 0).sum())}
