"""How far a model's answers lie from each community's, beside a country-blind guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.pluralism.distances import (
    entropy,
    js_distance,
    js_divergence,
    mode_agreement,
    total_variation,
    wasserstein,
)
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.surveys import Answers, Survey
from moralprobe.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ALL: Final = "all answers"
MEAN: Final = "mean of communities"
DISTANCE: Final = "js distance"
FEWEST: Final = 20
"""Batteries of questions, for an interval."""
MEASURES: Final = (
    DISTANCE,
    "js divergence",
    "total variation",
    "wasserstein",
    "mode agreement",
    "entropy ratio",
    "refusal mass",
    "refusal error",
    "js distance without refusals",
    "pooled js distance",
    "uniform js distance",
)
SKILL: Final = "skill"


@dataclass(frozen=True)
class Predicted:
    """What a model says of a question: `shares` [options], empty where it says nothing that can be
    read, and why in `status`; `mass`, the probability that it says an option at all.
    """

    shares: tuple[float, ...]
    mass: float
    status: str = "ok"


Key = tuple[str, tuple[str, ...], str]
"""A question, its options, and a community."""


def key_of(one: Answers) -> Key:
    """Return what an answer is an answer to, and whose."""
    return one.item.question, one.item.options, one.community


def agree(
    survey: Survey,
    predicted: Mapping[Key, Predicted],
    *,
    others: Sequence[Floats | None] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Hold what a model says against what each community answered.

    Skill is 1 - the mean distance / that of the country-blind guess (`predictors.pooled`), on the
    answers that have one: 0 is what the guess scores, below it the model is worse.

    Args:
        survey: what communities answered.
        predicted: by question, options and community.
        others: of each answer the country-blind guess; that of this survey, if not given.
        draws: resamples of batteries: questions of one are answered alike.
        seed: of them.

    Returns:
        Measures by community, and answers.

    Raises:
        DataError: nothing that the model says can be read.
    """
    guesses = pooled(survey) if others is None else others
    rows = [
        _row(one, predicted[key_of(one)], guess)
        for one, guess in zip(survey.answers, guesses, strict=True)
    ]
    answers = pl.DataFrame(rows, schema=_ANSWERS)
    said = answers.filter(pl.col("status") == "ok")
    if not said.height:
        counts = ", ".join(f"{why} {n}" for why, n in answers["status"].value_counts().iter_rows())
        raise DataError(
            "the model answers no question with an option",
            counts,
            "look at its answers, or use another readout",
        )
    unit, weight = resampled_units(said["battery"].to_list(), draws, seed)
    values = said.select(MEASURES).to_numpy()
    names = said["community"].to_numpy()
    table: list[dict[str, Any]] = []
    each: dict[str, list[Floats]] = {}
    for community in sorted(set(names)):
        here = names == community
        found = _resampled(values[here], weight[:, unit[here]])
        for measure, draw in found.items():
            table.append(_measure(community, measure, draw, values[here], unit[here]))
            each.setdefault(measure, []).append(draw)
    for measure, draw in _resampled(values, weight[:, unit]).items():
        table.append(_measure(ALL, measure, draw, values, unit))
    for measure, drawn in each.items():
        table.append(_measure(MEAN, measure, _known_mean(np.array(drawn)), values, unit))
    return pl.DataFrame(table, schema=_SCHEMA), answers


def resampled_units(units: Sequence[str], draws: int, seed: int) -> tuple[Ints, Floats]:
    """Return where each unit of resampling stands, [n], and how often it is drawn.

    The latter is [1 + draws, units], and its first row is the data as they are. By where a unit
    first stands, not by its words: those change no number.
    """
    place: dict[str, int] = {}
    at = np.array([place.setdefault(unit, len(place)) for unit in units], np.int64)
    n = len(place)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return at, np.vstack([np.ones(n), drawn])


def _row(one: Answers, said: Predicted, others: Floats | None) -> dict[str, Any]:
    """Return an answer's distances, none where the model says nothing."""
    row: dict[str, Any] = {
        "question": one.item.question,
        "options": list(one.item.options),
        "refusals": list(one.item.refusals),
        "ordinal": one.item.ordinal,
        "battery": one.item.unit,
        "count": one.count,
        "community": one.community,
        "shares": one.shares.tolist(),
        "said": list(said.shares),
        "mass": said.mass,
        "status": said.status,
        **dict.fromkeys(MEASURES),
    }
    if not said.shares:
        return row
    p, q = one.shares, np.array(said.shares)
    refusals = list(one.item.refusals)
    kept = [i for i in range(len(p)) if i not in one.item.refusals]
    own, other = p[kept].sum(), q[kept].sum()
    apart = len(kept) > 1 and own > 0 and other > 0
    row |= {
        DISTANCE: float(js_distance(p, q)),
        "js divergence": float(js_divergence(p, q)),
        "total variation": float(total_variation(p, q)),
        "wasserstein": float(wasserstein(p[kept] / own, q[kept] / other))
        if one.item.ordinal and apart
        else None,
        "mode agreement": mode_agreement(p, q),
        "entropy ratio": float(entropy(q) / entropy(p)) if entropy(p) > 0 else None,
        "refusal mass": float(q[refusals].sum()) if refusals else None,
        "refusal error": float(q[refusals].sum() - p[refusals].sum()) if refusals else None,
        "js distance without refusals": float(js_distance(p[kept] / own, q[kept] / other))
        if apart
        else None,
        "pooled js distance": None if others is None else float(js_distance(p, others)),
        "uniform js distance": float(js_distance(p, np.full(len(p), 1 / len(p)))),
    }
    return row


def _resampled(values: Floats, weight: Floats) -> dict[str, Floats]:
    """Return means of the measures in each resample, and skill, [1 + draws]."""
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weight @ filled) / (weight @ there.astype(np.float64))
        own, guess = (MEASURES.index(name) for name in (DISTANCE, "pooled js distance"))
        both = there[:, guess]
        skill = 1 - (weight[:, both] @ filled[both, own]) / (weight[:, both] @ filled[both, guess])
    return {**dict(zip(MEASURES, mean.T, strict=True)), SKILL: skill}


def _known_mean(values: Floats) -> Floats:
    """Return the mean over rows of what is known, nan where nothing is."""
    there = np.isfinite(values)
    total, n = np.where(there, values, 0.0).sum(0), there.sum(0)
    return np.asarray(total / np.where(n, n, np.nan), np.float64)


def _measure(
    community: str, measure: str, draws: Floats, values: Floats, unit: Ints
) -> dict[str, Any]:
    """Return a row: n are the answers that it is of; their batteries decide on an interval."""
    there = np.isfinite(values[:, MEASURES.index(DISTANCE if measure == SKILL else measure)])
    if measure == SKILL:
        there &= np.isfinite(values[:, MEASURES.index("pooled js distance")])
    n, units = int(there.sum()), len(set(unit[there].tolist()))
    return {"community": community, "measure": measure, **bounded(draws, units), "n": n}


def bounded(draws: Floats, units: int) -> dict[str, float | None]:
    """Return a value and its 95 % interval.

    None of fewer than 20 batteries, or where most resamples give no number.

    Args:
        draws: [1 + draws], the value first; nan where there is none.
        units: batteries that it is of.
    """
    if not np.isfinite(draws[0]):
        return {"value": None, "low": None, "high": None}
    known = draws[1:][np.isfinite(draws[1:])]
    low = high = None
    if units >= FEWEST and len(known) > len(draws) // 2:
        low, high = map(float, np.quantile(known, (0.025, 0.975)))
    return {"value": float(draws[0]), "low": low, "high": high}


def standing(measures: pl.DataFrame) -> str:
    """Say how a model stands to the country-blind guess; `improves` needs an interval above 0."""
    (skill,) = measures.filter(measure=SKILL, community=ALL).to_dicts()
    return word_of(skill)


def word_of(
    row: Mapping[str, float | None],
    better: str = "improves on",
    worse: str = "is surely worse than",
) -> str:
    """Say by the interval of a difference how one thing stands to another."""
    low, high = row["low"], row["high"]
    if low is None or high is None:
        return "isn't known against"
    if low > 0:
        return better
    return worse if high < 0 else "can't be told from"


_ANSWERS: Final[dict[str, Any]] = {
    "question": pl.String,
    "options": pl.List(pl.String),
    "refusals": pl.List(pl.Int64),
    "ordinal": pl.Boolean,
    "battery": pl.String,
    "count": pl.Int64,
    "community": pl.String,
    "shares": pl.List(pl.Float64),
    "said": pl.List(pl.Float64),
    "mass": pl.Float64,
    "status": pl.String,
    **dict.fromkeys(MEASURES, pl.Float64),
}
_SCHEMA: Final[dict[str, Any]] = {
    "community": pl.String,
    "measure": pl.String,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
