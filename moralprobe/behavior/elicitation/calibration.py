"""What a scorer is worth: its log-odds turned into probabilities on texts whose truth is known.

A line in log-odds (Platt 1999) is fitted on some principles and measured on others, beside what a
bag of words and the length of the text say of the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from moralprobe.behavior.consensus.agreement import auroc
from moralprobe.behavior.elicitation.measures import CUT, interval
from moralprobe.behavior.elicitation.principles import Cases
from moralprobe.behavior.elicitation.scorers import Pair, Scorer, Step, fit_words
from moralprobe.behavior.siblings import Together, parted
from moralprobe.errors import DataError, UsageError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
PARTS: Final = {"train": 0.5, "calibrate": 0.25, "test": 0.25}
"""Shares of principles: a scorer that learns has the first, its line the second."""
BINS: Final = 10
FEWEST: Final = 20
"""Principles that are needed."""
FEWEST_TEXTS: Final = 8
"""Of a foundation among those tested on, for numbers of its own."""
_MEASURES: Final = ("auroc", "f1", "brier", "hits", "false_alarms")


@dataclass(frozen=True)
class Calibration:
    """A line in log-odds, and how good the probabilities are on principles it wasn't fitted to.

    `overall` and each of `foundations` hold `n`, and with intervals by resampled principles
    `auroc`, `f1`, `brier`, and of the line at 0.5 `hits` (the share of breaking texts that are
    called so) and `false_alarms`; `baselines` the AUROC of a bag of words and of length, and how
    much the scorer is above them; `curve` the bins of a reliability curve. `rates` are hits and
    false alarms, [1 + draws, 2], first as they are and then of the resamples.
    """

    slope: float
    offset: float
    overall: Mapping[str, Any]
    foundations: Mapping[str, Mapping[str, Any]]
    baselines: Mapping[str, Mapping[str, Any]]
    curve: Sequence[Mapping[str, float]]
    rates: Floats

    @property
    def usable(self) -> bool:
        """Whether the scorer surely tells breaking from keeping better than chance."""
        low = self.overall["auroc_low"]
        return low is not None and low > 0.5 and self.slope > 0

    def probability(self, log_odds: Floats) -> Floats:
        """Return the probability that a text breaks its principle, NaN where nothing was said."""
        return np.asarray(expit(self.offset + self.slope * log_odds), np.float64)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        found = asdict(self)
        del found["rates"]
        return {**found, "usable": self.usable}


@dataclass(frozen=True)
class Calibrated:
    """A scorer with its calibration; `forced` where it may be used though it says nothing."""

    scorer: Scorer
    calibration: Calibration
    forced: bool = False

    def __post_init__(self) -> None:
        if not self.calibration.usable and not self.forced:
            of = self.calibration.overall
            raise UsageError(
                f"{self.scorer.name} can't tell breaking a principle from keeping it",
                f"AUROC {of['auroc']:.2f} [{of['auroc_low']:.2f}, {of['auroc_high']:.2f}] "
                f"on {of['n']} texts",
                "calibrate on more texts (--cases moral-stories), take another scorer, or --force",
            )

    def probability(self, pairs: Sequence[Pair], step: Step = lambda n: None) -> Floats:
        """Return the probability that each text breaks its principle, [n]; NaN: it can't say."""
        return self.calibration.probability(self.scorer.log_odds(pairs, step))


def parts_of(cases: Cases, seed: int) -> dict[str, Bools]:
    """Return which cases are in which part, [n] each: all texts of a principle in one.

    Raises:
        DataError: fewer principles than `FEWEST`.
    """
    groups = cases.groups()
    n = int(groups.max()) + 1
    if n < FEWEST:
        raise DataError(
            "there are too few principles to calibrate on",
            f"{n} have texts that keep or break them; {FEWEST} are needed",
            "give more, as Moral Stories",
        )
    found = parted(groups, PARTS, np.random.default_rng(seed))
    for name, some in found.items():
        breaks = cases.breaks[some]
        if breaks.all() or not breaks.any():
            raise DataError(
                "the known texts can't be parted",
                f"those to {name} by {'all' if breaks.all() else 'never'} break a principle",
                "give texts that keep and texts that break most of the principles",
            )
    return found


def calibrate(
    scorer: Scorer, cases: Cases, *, seed: int = 0, draws: int = 1000, step: Step = lambda n: None
) -> Calibration:
    """Fit a line in log-odds, and measure what comes of it.

    Args:
        scorer: any; one that learns has learnt from the part `train` of the same seed.
        cases: whose truth is known.
        seed: of the parts and resamples.
        draws: resamples of the principles tested on.
        step: called with the number of answers that came.

    Raises:
        DataError: too few principles, or a scorer that says nothing of them.
    """
    parts = parts_of(cases, seed)
    asked = np.flatnonzero(parts["calibrate"] | parts["test"])
    pairs, said = cases.pairs(), np.full(len(cases), np.nan)
    said[asked] = scorer.log_odds([pairs[i] for i in asked], step)
    known = np.isfinite(said)
    fitted, test = (np.flatnonzero(parts[name] & known) for name in ("calibrate", "test"))
    if any(len(set(cases.breaks[some].tolist())) < 2 for some in (fitted, test)):
        raise DataError(
            f"{scorer.name} says nothing of the texts whose truth is known",
            f"{int(known.sum())} of {len(asked)} were scored",
            "look at its answers, or give more texts",
        )
    line = LogisticRegression(C=np.inf).fit(said[fitted, None], cases.breaks[fitted])
    slope, offset = float(line.coef_[0, 0]), float(line.intercept_[0])
    p = np.asarray(expit(offset + slope * said), np.float64)
    groups = cases.groups()
    rng = np.random.default_rng(seed)
    resamples = Together.of(groups[test]).resamples(draws, rng)
    overall = _measured(p[test], cases.breaks[test], said[test], resamples)
    axes = np.array([one.foundation or "" for one in cases.principles])
    foundations = {
        str(axis): {
            **_with_intervals(
                _measured(
                    p[some],
                    cases.breaks[some],
                    said[some],
                    Together.of(groups[some]).resamples(draws, rng),
                )
            ),
            "n": len(some),
        }
        for axis in dict.fromkeys(axes[test].tolist())
        if axis and len(some := test[axes[test] == axis]) >= FEWEST_TEXTS
    }
    return Calibration(
        slope,
        offset,
        {
            **_with_intervals(overall),
            "n": len(test),
            "unsaid": int(len(asked) - known.sum()),
        },
        foundations,
        _baselines(cases, parts["train"], test, said[test], resamples),
        _curve(p[test], cases.breaks[test]),
        overall[:, -2:],
    )


def _measured(
    p: Floats, breaks: Bools, said: Floats, resamples: Sequence[NDArray[np.int64]]
) -> Floats:
    """Return `_MEASURES` of each resample, [resamples, 5]."""
    rows = []
    for at in resamples:
        truth, called = breaks[at], p[at] > CUT
        rows.append(
            [
                auroc(said[at], truth.astype(np.float64)),
                f1_score(truth, called, zero_division=0.0),
                float(np.mean((p[at] - truth) ** 2)),
                float(called[truth].mean()) if truth.any() else np.nan,
                float(called[~truth].mean()) if not truth.all() else np.nan,
            ]
        )
    return np.array(rows, np.float64)


def _with_intervals(found: Floats) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for name, values in zip(_MEASURES, found.T, strict=True):
        row |= _with_interval(name, values)
    return row


def _with_interval(name: str, values: Floats) -> dict[str, float | None]:
    found = interval(values[0], values[1:])
    return {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def _baselines(
    cases: Cases,
    train: Bools,
    test: NDArray[np.int64],
    said: Floats,
    resamples: Sequence[NDArray[np.int64]],
) -> dict[str, Any]:
    """Return what words and length tell of the same texts, and the scorer's AUROC above them."""
    pairs = cases.pairs()
    words = fit_words([pairs[i] for i in np.flatnonzero(train)], cases.breaks[train])
    length = np.array([len(text) for text in cases.texts], np.float64)
    longer = length[train & cases.breaks].mean() >= length[train & ~cases.breaks].mean()
    beside = {
        "bag of words": words.log_odds([pairs[i] for i in test]),
        "length": length[test] if longer else -length[test],
    }
    truth = cases.breaks[test].astype(np.float64)
    found = {}
    for name, other in beside.items():
        rows = np.array([[auroc(x[at], truth[at]) for x in (other, said)] for at in resamples])
        found[name] = _with_interval("auroc", rows[:, 0]) | _with_interval(
            "scorer_above", rows[:, 1] - rows[:, 0]
        )
    return found


def _curve(p: Floats, breaks: Bools) -> list[dict[str, float]]:
    """Return bins of as many texts: mean probability, share that breaks, number."""
    order = np.argsort(p, kind="stable")
    return [
        {"p": float(p[some].mean()), "share": float(breaks[some].mean()), "n": len(some)}
        for some in np.array_split(order, min(BINS, len(p)))
    ]
