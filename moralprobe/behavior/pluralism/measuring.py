"""A model's answers to a survey, and how far they lie from each community's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.options import Readout, choose
from moralprobe.behavior.pluralism.distances import (
    BASE,
    entropy,
    js_distance,
    js_divergence,
    mode_agreement,
    noise_floor,
    total_variation,
    wasserstein,
)
from moralprobe.behavior.pluralism.predictors import pooled
from moralprobe.behavior.pluralism.steering import told_before
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.behavior.text_model import TextModel
from moralprobe.cache import Cache
from moralprobe.errors import DataError
from moralprobe.files import write_json, write_table

Floats = NDArray[np.float64]
ALL: Final = "all answers"
MEAN: Final = "mean of communities"
DISTANCE: Final = "js distance"
FEWEST: Final = 20
"""Questions of a community, for an interval."""
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


@dataclass(frozen=True)
class Agreement:
    """What was measured.

    `measures` has a row a community (`all answers` and `mean of communities` too) and measure, with
    its 95 % interval by resampled questions; `answers` each answer with what the model said and its
    distances.
    """

    measures: pl.DataFrame
    answers: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `agreement.json`."""
        for name in ("measures", "answers"):
            write_table(folder / f"{name}.parquet", getattr(self, name))
        write_json(folder / "agreement.json", dict(self.summary))


def predict(
    model: TextModel,
    asked: Sequence[tuple[Item, str | None]],
    *,
    readout: Readout | None = None,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> list[Predicted]:
    """Have a model answer questions, under several orders of their options.

    Args:
        model: any.
        asked: questions of any number of options, and what stands before each, if anything does.
        readout: `logprob` or `sampled`.
        cache: from `open_cache`.
        progress: called with the questions that are done, their number, and what is done.

    Raises:
        NoLogprobsError: `logprob` of a model that tells none.
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    readout = readout or Readout()
    of: dict[int, list[int]] = {}
    for i, (item, _) in enumerate(asked):
        of.setdefault(len(item.options), []).append(i)
    found: list[Predicted | None] = [None] * len(asked)
    done = 0
    for n, rows in sorted(of.items()):
        progress(done, len(asked), f"questions of {n} options")
        put = [
            (item.question if before is None else f"{before}\n\n{item.question}", item.options)
            for item, before in (asked[i] for i in rows)
        ]
        for i, one in zip(rows, choose(model, put, readout=readout, cache=cache), strict=True):
            found[i] = Predicted(one.shares, one.mass, one.status)
        done += len(rows)
    progress(len(asked), len(asked), "")
    return [one for one in found if one is not None]


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
        draws: resamples of questions.
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
    # By where a question first stands, not by its words: those change no number.
    place: dict[tuple[str, tuple[str, ...]], int] = {}
    question = np.array(
        [
            place.setdefault((text, tuple(options)), len(place))
            for text, options in said.select("question", "options").iter_rows()
        ]
    )
    n = len(place)
    rng = np.random.default_rng(seed)
    weight = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=draws)])
    values = said.select(MEASURES).to_numpy()
    names = said["community"].to_numpy()
    table: list[dict[str, Any]] = []
    each: dict[str, list[Floats]] = {}
    for community in sorted(set(names)):
        here = names == community
        found = _resampled(values[here], weight[:, question[here]])
        for measure, draw in found.items():
            table.append(_measure(community, measure, draw, int(here.sum())))
            each.setdefault(measure, []).append(draw)
    for measure, draw in _resampled(values, weight[:, question]).items():
        table.append(_measure(ALL, measure, draw, len(values)))
    for measure, drawn in each.items():
        table.append(_measure(MEAN, measure, _known_mean(np.array(drawn)), len(drawn)))
    return pl.DataFrame(table, schema=_SCHEMA), answers


def _row(one: Answers, said: Predicted, others: Floats | None) -> dict[str, Any]:
    """Return an answer's distances, none where the model says nothing."""
    row: dict[str, Any] = {
        "question": one.item.question,
        "options": list(one.item.options),
        "refusals": list(one.item.refusals),
        "ordinal": one.item.ordinal,
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


def _measure(community: str, measure: str, draws: Floats, n: int) -> dict[str, Any]:
    known = draws[1:][np.isfinite(draws[1:])]
    value = float(draws[0]) if np.isfinite(draws[0]) else None
    found = {"community": community, "measure": measure, "value": value, "n": n}
    if value is not None and len(known) > len(draws) // 2 and (n >= FEWEST or community == MEAN):
        low, high = np.quantile(known, (0.025, 0.975))
        return {**found, "low": float(low), "high": float(high)}
    return {**found, "low": None, "high": None}


def standing(measures: pl.DataFrame) -> str:
    """Say how a model stands to the country-blind guess; `improves` needs an interval above 0."""
    (skill,) = measures.filter(measure=SKILL, community=ALL).to_dicts()
    if skill["low"] is None:
        return "isn't known against"
    if skill["low"] > 0:
        return "improves on"
    return "is surely worse than" if skill["high"] < 0 else "can't be told from"


def floors(survey: Survey, n: int | None = None, *, draws: int = 50, seed: int = 0) -> float | None:
    """Return how far the truth itself lies from a survey of so many: the mean noise floor.

    Args:
        survey: whose answers have counts.
        n: respondents that are assumed where nobody said; without one, None is returned then.
        draws: of each answer.
        seed: of them.
    """
    counts = [one.count if one.count is not None else n for one in survey.answers]
    if any(count is None for count in counts):
        return None
    return float(
        np.mean(
            [
                noise_floor(one.shares, count, draws=draws, seed=seed + i)
                for i, (one, count) in enumerate(zip(survey.answers, counts, strict=True))
                if count is not None
            ]
        )
    )


def measure(
    model: TextModel,
    survey: Survey,
    *,
    readout: Readout | None = None,
    steer: str = "none",
    n: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Agreement:
    """Have a model answer a survey, and hold it against every community.

    Args:
        model: any.
        survey: what communities answered.
        readout: `logprob` or `sampled`.
        steer: what the model is told of a community, of `steering.STEERS`.
        n: respondents that are assumed of a community where nobody said how many.
        draws: resamples of questions.
        seed: of them, of the noise floor, and of which answers are shown.
        cache: from `open_cache`.
        progress: called with the questions that are done, their number, and what is done.

    Raises:
        As `predict` and `agree`.
    """
    readout = readout or Readout()
    told = told_before(survey, steer, seed=seed)
    asked = list(dict.fromkeys(zip((one.item for one in survey.answers), told, strict=True)))
    said = predict(model, asked, readout=readout, cache=cache, progress=progress)
    of = dict(zip(asked, said, strict=True))
    predicted = {
        key_of(one): of[one.item, before] for one, before in zip(survey.answers, told, strict=True)
    }
    measures, answers = agree(survey, predicted, draws=draws, seed=seed)
    summary = {
        "model": dict(model.identity),
        "name": model.name,
        "readout": readout.kind,
        "steer": steer,
        "base": BASE,
        "communities": list(survey.communities),
        "questions": len({key_of(one)[:2] for one in survey.answers}),
        "answers": len(survey),
        "fewest": survey.fewest(),
        "statuses": dict(answers["status"].value_counts(sort=True).iter_rows()),
        "counts known": all(one.count is not None for one in survey.answers),
        "n assumed": n,
        "noise floor": floors(survey, n, seed=seed),
        "draws": draws,
        "seed": seed,
    }
    return Agreement(measures, answers, summary)


_ANSWERS: Final[dict[str, Any]] = {
    "question": pl.String,
    "options": pl.List(pl.String),
    "refusals": pl.List(pl.Int64),
    "ordinal": pl.Boolean,
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
