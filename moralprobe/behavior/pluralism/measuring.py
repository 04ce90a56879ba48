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
_OF_ANSWERS: Final = (
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
    items: Sequence[Item],
    *,
    readout: Readout | None = None,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> list[Predicted]:
    """Have a model answer questions, under several orders of their options.

    Args:
        model: any.
        items: questions of any number of options.
        readout: `logprob` or `sampled`.
        cache: from `open_cache`.
        progress: called with the questions that are done, their number, and what is done.

    Raises:
        NoLogprobsError: `logprob` of a model that tells none.
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    readout = readout or Readout()
    of: dict[int, list[int]] = {}
    for i, item in enumerate(items):
        of.setdefault(len(item.options), []).append(i)
    found: list[Predicted | None] = [None] * len(items)
    done = 0
    for n, rows in sorted(of.items()):
        progress(done, len(items), f"questions of {n} options")
        asked = [(items[i].question, items[i].options) for i in rows]
        for i, one in zip(rows, choose(model, asked, readout=readout, cache=cache), strict=True):
            found[i] = Predicted(one.shares, one.mass, one.status)
        done += len(rows)
    progress(len(items), len(items), "")
    return [one for one in found if one is not None]


def agree(
    survey: Survey,
    predicted: Mapping[tuple[str, tuple[str, ...]], Predicted],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Hold what a model says against what each community answered.

    Skill is 1 - the mean distance / that of the country-blind guess (`predictors.pooled`), on the
    answers that have one: 0 is what the guess scores, below it the model is worse.

    Args:
        survey: what communities answered.
        predicted: by question and options.
        draws: resamples of questions.
        seed: of them.

    Returns:
        Measures by community, and answers.

    Raises:
        DataError: nothing that the model says can be read.
    """
    rows = [
        _row(one, predicted[one.item.question, one.item.options], others)
        for one, others in zip(survey.answers, pooled(survey), strict=True)
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
    question = said["question"].rank("dense").cast(pl.Int64).to_numpy() - 1
    n = int(question.max()) + 1
    rng = np.random.default_rng(seed)
    weight = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=draws)])
    values = said.select(_OF_ANSWERS).to_numpy()
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
        table.append(_measure(MEAN, measure, np.nanmean(drawn, axis=0), len(drawn)))
    return pl.DataFrame(table, schema=_MEASURES), answers


def _row(one: Answers, said: Predicted, others: Floats | None) -> dict[str, Any]:
    """Return an answer's distances, none where the model says nothing."""
    row: dict[str, Any] = {
        "question": one.item.question,
        "options": list(one.item.options),
        "community": one.community,
        "shares": one.shares.tolist(),
        "said": list(said.shares),
        "mass": said.mass,
        "status": said.status,
        **dict.fromkeys(_OF_ANSWERS),
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
        own, guess = (_OF_ANSWERS.index(name) for name in (DISTANCE, "pooled js distance"))
        both = there[:, guess]
        skill = 1 - (weight[:, both] @ filled[both, own]) / (weight[:, both] @ filled[both, guess])
    return {**dict(zip(_OF_ANSWERS, mean.T, strict=True)), SKILL: skill}


def _measure(community: str, measure: str, draws: Floats, n: int) -> dict[str, Any]:
    known = draws[1:][np.isfinite(draws[1:])]
    value = float(draws[0]) if np.isfinite(draws[0]) else None
    found = {"community": community, "measure": measure, "value": value, "n": n}
    if value is not None and len(known) > len(draws) // 2 and (n >= FEWEST or community == MEAN):
        low, high = np.quantile(known, (0.025, 0.975))
        return {**found, "low": float(low), "high": float(high)}
    return {**found, "low": None, "high": None}


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
        n: respondents that are assumed of a community where nobody said how many.
        draws: resamples of questions.
        seed: of them and of the noise floor.
        cache: from `open_cache`.
        progress: called with the questions that are done, their number, and what is done.

    Raises:
        As `predict` and `agree`.
    """
    readout = readout or Readout()
    items = list(dict.fromkeys(one.item for one in survey.answers))
    said = predict(model, items, readout=readout, cache=cache, progress=progress)
    by_item = {(item.question, item.options): one for item, one in zip(items, said, strict=True)}
    measures, answers = agree(survey, by_item, draws=draws, seed=seed)
    summary = {
        "model": dict(model.identity),
        "name": model.name,
        "readout": readout.kind,
        "base": BASE,
        "communities": list(survey.communities),
        "questions": len(items),
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
    "community": pl.String,
    "shares": pl.List(pl.Float64),
    "said": pl.List(pl.Float64),
    "mass": pl.Float64,
    "status": pl.String,
    **dict.fromkeys(_OF_ANSWERS, pl.Float64),
}
_MEASURES: Final[dict[str, Any]] = {
    "community": pl.String,
    "measure": pl.String,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
