"""What trivial predictors score: the figures that every other one stands beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.behavior.pluralism.distances import js_distance, noise_floor, shuffled_distance
from moralprobe.behavior.pluralism.surveys import Survey

Floats = NDArray[np.float64]
PREDICTORS: Final = ("others", "uniform", "shuffled", "modal")
NOISE_AT: Final = (30, 100, 1000)


def pooled(survey: Survey) -> list[Floats | None]:
    """Return for each answer what a country-blind guess says: the mean of the other communities'.

    None where no other community answered that question with those options.
    """
    total: dict[object, Floats] = {}
    count: dict[object, int] = {}
    for one in survey.answers:
        key = (one.item.question, one.item.options)
        total[key] = total.get(key, 0.0) + one.shares
        count[key] = count.get(key, 0) + 1
    found: list[Floats | None] = []
    for one in survey.answers:
        key = (one.item.question, one.item.options)
        n = count[key] - 1
        found.append((total[key] - one.shares) / n if n else None)
    return found


def similarities(survey: Survey) -> dict[str, Floats]:
    """Return 1 - Jensen-Shannon distance (base 2) of each trivial predictor by answer, [answers].

    `others` is `pooled`, nan where there is none; `uniform`; `shuffled`, the community's own
    distribution with its options in another order, the mean of all orders; `modal`, certainty of
    the community's most frequent option.
    """
    found: dict[str, list[float]] = {name: [] for name in PREDICTORS}
    for one, others in zip(survey.answers, pooled(survey), strict=True):
        p, n = one.shares, len(one.shares)
        found["others"].append(np.nan if others is None else 1 - float(js_distance(p, others)))
        found["uniform"].append(1 - float(js_distance(p, np.full(n, 1 / n))))
        found["shuffled"].append(1 - shuffled_distance(p, p))
        found["modal"].append(1 - float(js_distance(p, np.eye(n)[int(p.argmax())])))
    return {name: np.array(values) for name, values in found.items()}


def averaged(survey: Survey, values: Floats) -> dict[str, float]:
    """Return the mean over answers, `items`, and the mean of communities' means, `communities`.

    nan where nothing is known.
    """
    names = np.array([one.community for one in survey.answers])
    there = np.isfinite(values)
    if not there.any():
        return {"items": float("nan"), "communities": float("nan")}
    means = [values[there & (names == name)].mean() for name in sorted(set(names[there]))]
    return {"items": float(values[there].mean()), "communities": float(np.mean(means))}


def reference(
    survey: Survey, *, draws: int = 50, seed: int = 0
) -> Mapping[str, Mapping[str, float]]:
    """Return what trivial predictors score, by both averages, and the noise floor by respondents.

    The floor is the distance (base 2) of a distribution from n respondents drawn from it, the mean
    over answers.
    """
    scores = {name: averaged(survey, values) for name, values in similarities(survey).items()}
    floor = {
        f"noise at {n}": averaged(
            survey,
            np.array(
                [
                    noise_floor(one.shares, n, draws=draws, seed=seed + i)
                    for i, one in enumerate(survey.answers)
                ]
            ),
        )
        for n in NOISE_AT
    }
    return {**scores, **floor}
