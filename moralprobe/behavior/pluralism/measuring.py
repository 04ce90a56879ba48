"""A model's answers to a survey, and how far they lie from each community's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.options import Readout, choose, orders_of
from moralprobe.behavior.pluralism.agreement import (
    FEWEST,
    Predicted,
    agree,
    key_of,
)
from moralprobe.behavior.pluralism.distances import BASE, noise_floor
from moralprobe.behavior.pluralism.steering import told_before
from moralprobe.behavior.pluralism.surveys import Item, Survey
from moralprobe.behavior.text_model import TextModel
from moralprobe.behavior.verbalised import verbalised
from moralprobe.cache import Cache
from moralprobe.errors import DataError
from moralprobe.files import write_result

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """What was measured.

    `measures` has a row a community (`all answers` and `mean of communities` too) and measure, with
    its 95 % interval by resampled batteries of questions; `answers` each answer with what the model
    said and its distances.
    """

    measures: pl.DataFrame
    answers: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `agreement.json`."""
        tables = {"measures": self.measures, "answers": self.answers}
        write_result(folder, "agreement", self.summary, tables)


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
        readout: `logprob`, `sampled` or `verbalised`.
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
        chosen = (
            verbalised(model, put, cache=cache)
            if readout.kind == "verbalised"
            else choose(model, put, readout=readout, cache=cache)
        )
        for i, one in zip(rows, chosen, strict=True):
            found[i] = Predicted(one.shares, one.mass, one.status)
        done += len(rows)
    progress(len(asked), len(asked), "")
    return [one for one in found if one is not None]


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
    adapter: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Agreement:
    """Have a model answer a survey, and hold it against every community.

    Args:
        model: any.
        survey: what communities answered.
        readout: `logprob`, `sampled` or `verbalised`.
        steer: what the model is told of a community, of `steering.STEERS`.
        n: respondents that are assumed of a community where nobody said how many.
        adapter: what the model was adapted to, where it was: a certificate says so.
        draws: resamples of batteries of questions.
        seed: of them, of the noise floor, and of which answers are shown.
        cache: from `open_cache`.
        progress: called with the questions that are done, their number, and what is done.

    Raises:
        DataError: a community with fewer than 20 questions.
        As `predict` and `agree`.
    """
    readout = readout or Readout()
    if survey.fewest() < FEWEST:
        few = survey.communities[-1]
        raise DataError(
            "a community answered too few questions",
            f"{few} answered {survey.fewest()}",
            f"leave out those with fewer than {FEWEST}: --communities {enough}"
            if (enough := _enough(survey))
            else f"give {FEWEST} questions at least",
        )
    told = told_before(survey, steer, seed=seed)
    asked = list(dict.fromkeys(zip((one.item for one in survey.answers), told, strict=True)))
    said = predict(model, asked, readout=readout, cache=cache, progress=progress)
    of = dict(zip(asked, said, strict=True))
    predicted = {
        key_of(one): of[one.item, before] for one, before in zip(survey.answers, told, strict=True)
    }
    measures, answers = agree(survey, predicted, draws=draws, seed=seed)
    read = answers.filter(status="ok")
    summary = {
        "model": dict(model.identity),
        "name": model.name,
        "readout": readout.kind,
        "samples": readout.samples if readout.kind == "sampled" else None,
        "own noise": own_noise(read, readout.samples, seed) if readout.kind == "sampled" else None,
        "steer": steer,
        "adapter": adapter,
        "base": BASE,
        "communities": list(survey.communities),
        "questions": len({key_of(one)[:2] for one in survey.answers}),
        "answers": len(survey),
        "fewest": survey.fewest(),
        "statuses": dict(answers["status"].value_counts(sort=True).iter_rows()),
        "questions read": read.select("question", "options").n_unique(),
        "mass": read["mass"].mean(),
        "others pooled": others_pooled(survey),
        "counts known": all(one.count is not None for one in survey.answers),
        "n assumed": n,
        "noise floor": floors(survey, n, seed=seed),
        "draws": draws,
        "seed": seed,
    }
    return Agreement(measures, answers, summary)


def _enough(survey: Survey) -> int:
    """Return how many communities, those with most answers first, have enough."""
    n = Counter(one.community for one in survey.answers)
    return sum(k >= FEWEST for k in n.values())


def others_pooled(survey: Survey) -> float:
    """Return of how many other communities the country-blind guess is, on average."""
    n = Counter(key_of(one)[:2] for one in survey.answers)
    counts = [n[key_of(one)[:2]] - 1 for one in survey.answers]
    return float(np.mean([k for k in counts if k] or [0]))


def own_noise(answers: pl.DataFrame, samples: int, seed: int) -> float:
    """Return how far so many samples lie from what a model would say of itself, on average."""
    return float(
        np.mean(
            [
                noise_floor(
                    np.array(said), samples * len(orders_of(len(said))), draws=50, seed=seed + i
                )
                for i, said in enumerate(answers["said"])
            ]
        )
    )
