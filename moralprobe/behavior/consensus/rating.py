"""Ask a panel how acceptable things are, each under each theory: scores from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import spearmanr, truncnorm

from moralprobe.behavior.consensus.dilemmas import Dilemmas
from moralprobe.behavior.consensus.panel import Rater
from moralprobe.behavior.consensus.scores import ABOUT, SCORES
from moralprobe.behavior.options import Readout, choose, lettered, orders_of, rate
from moralprobe.behavior.siblings import Together, siblings
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.cache import Cache
from moralprobe.errors import UsageError
from moralprobe.files import write_json, write_table

VERSION: Final = "1"
"""Of the texts below, which are part of what answers are kept under."""
ACCEPTABLE: Final = ("It is acceptable.", "It is not acceptable.")
_ONE: Final = "{text}\n\nJudge this {theory}. Is it morally acceptable?"
_TWO: Final = "Judge two things that people did {theory}. Which of them is more acceptable?"
_NUMBER: Final = (
    "{text}\n\nJudge this {theory}. How morally acceptable is it, from 0 (not at all) to 10 "
    "(entirely)? Answer with one number and nothing else."
)
_DRAWS: Final = 200
PEOPLE: Final = "people.parquet"
"""What people said of the items, for `consensus fit --votes`."""


def score_panel(
    raters: Sequence[Rater],
    dilemmas: Dilemmas,
    theories: Mapping[str, str],
    readouts: Sequence[Readout],
    *,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> pl.DataFrame:
    """Ask every rater of every dilemma under every theory.

    Of one text the score is the probability that it is acceptable, of two that the first is the
    more acceptable one; both orders of the answers are asked and averaged. A number that is said
    is taken over 10; of two texts half the difference of their numbers, above one half.

    Args:
        raters: from `panel_of`.
        dilemmas: from `load_dilemmas`.
        theories: words that follow "Judge this", by name.
        readouts: how a judgement is read; the score is the first one's.
        cache: from `open_cache`; what stands in it isn't asked again.
        progress: called with the answers that are there, their number, and nothing more.

    Returns:
        A row a rater, theory and item: `model`, `family`, `theory`, `item`, `text` of one,
        `score`; and by readout its own score (null where none could be read) and `_status`; of a
        choice `_mass` (the probability of an answer at all, or the share of answers that could be
        read) and `_letters` (how far the two orders lie apart, 0 to 1); and `_said`, a sample of
        words, or of probabilities what stands in their place.

    Raises:
        UsageError: no readout, or one twice.
        NoLogprobsError: `logprob` of a model that tells none.
        UnansweredError: a model can't be reached.
    """
    kinds = [readout.kind for readout in readouts]
    if not kinds or len(set(kinds)) < len(kinds):
        raise UsageError("a readout is named once", f"given are {kinds}", "give one or several")
    letters = [f"{kind}_letters" for kind in kinds if kind != "verbal"]
    total = len(raters) * len(theories) * sum(asked_by(dilemmas, readout) for readout in readouts)
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total, "")

    # What one text says belongs to a score; two are one question, and no text.
    judged = {"text": list(dilemmas.texts)} if dilemmas.others is None else {}
    frames = []
    for rater in raters:
        for theory, words in theories.items():
            columns: dict[str, Any] = {}
            for readout in readouts:
                read = _numbers if readout.kind == "verbal" else _choices
                columns |= read(rater, dilemmas, words, readout, cache, step)
            frames.append(
                pl.DataFrame(
                    {
                        "model": rater.name,
                        "family": rater.family,
                        "theory": theory,
                        "item": list(dilemmas.items),
                        **judged,
                        "score": columns[kinds[0]],
                        **columns,
                    },
                    schema_overrides=dict.fromkeys(["score", *kinds, *letters], pl.Float64),
                )
            )
    return pl.concat(frames, how="diagonal")


def noisy(
    name: str,
    acceptable: Mapping[str, bool],
    parameters: tuple[float, float, float, float],
    *,
    seed: int = 0,
) -> Scripted:
    """Return a judge whose truth is known: scores are drawn by the model that `fit` assumes.

    Args:
        name: of the judge.
        acceptable: whether each text is; of others it knows nothing, and says so.
        parameters: mean and width of its scores where a text is acceptable, and where it isn't, of
            a normal truncated to 0 and 1 (arXiv 2506.14625).
        seed: of its draws, one a text and theory; judges of different names draw apart.
    """
    yes, wide, no, narrow = parameters

    def score(text: str, theory: str) -> float:
        mean, width = (yes, wide) if acceptable[text] else (no, narrow)
        rng = np.random.default_rng([seed, *f"{name}\n{theory}\n{text}".encode()])
        low, high = -mean / width, (1 - mean) / width
        return float(truncnorm.rvs(low, high, loc=mean, scale=width, random_state=rng))

    def asked(question: Question) -> tuple[str, str]:
        text, judge = question.text.split("\n\n")[:2]
        return text, judge.split(". Is it")[0].split(". How")[0]

    def believes(question: Question) -> dict[str, float]:
        (text, theory), first = asked(question), f"A. {ACCEPTABLE[0]}"
        if text not in acceptable:
            return {}
        p = score(text, theory)
        p = p if first in question.text else 1 - p
        return {"A": p, "B": 1 - p}

    def says(question: Question) -> str:
        text, theory = asked(question)
        return f"{10 * score(text, theory):.1f}" if text in acceptable else "I don't know it."

    return Scripted(name, says, believes)


def asked_by(dilemmas: Dilemmas, readout: Readout) -> int:
    """Return how many answers a readout needs of one rater under one theory."""
    if readout.kind == "verbal":
        return len(dilemmas) * (1 if dilemmas.others is None else 2)
    return len(dilemmas) * len(orders_of(2)) * (readout.samples if readout.kind == "sampled" else 1)


def score_questions(dilemmas: Dilemmas, theory: str) -> list[Question]:
    """Return what is put to a model of single texts by log-probabilities, in one of the orders."""
    return [Question(lettered(text, ACCEPTABLE)) for text in _of_one(dilemmas, theory)]


def _of_one(dilemmas: Dilemmas, theory: str) -> list[str]:
    return [_ONE.format(text=text, theory=theory) for text in dilemmas.texts]


def _choices(
    rater: Rater,
    dilemmas: Dilemmas,
    theory: str,
    readout: Readout,
    cache: Cache | None,
    step: Callable[[int], None],
) -> dict[str, list[Any]]:
    if dilemmas.others is None:
        asked = [(text, ACCEPTABLE) for text in _of_one(dilemmas, theory)]
    else:
        question = _TWO.format(theory=theory)
        asked = [(question, pair) for pair in zip(dilemmas.texts, dilemmas.others, strict=True)]
    told = [rater.role] * len(asked)
    found = choose(rater.model, asked, system=told, readout=readout, cache=cache, step=step)
    kind = readout.kind
    apart = [abs(one.by_order[0][0] - one.by_order[1][0]) if one.shares else None for one in found]
    return {
        kind: [one.shares[0] if one.shares else None for one in found],
        f"{kind}_status": [one.status for one in found],
        f"{kind}_mass": [one.mass for one in found],
        f"{kind}_letters": apart,
        f"{kind}_said": [one.said for one in found],
    }


def _numbers(
    rater: Rater,
    dilemmas: Dilemmas,
    theory: str,
    readout: Readout,
    cache: Cache | None,
    step: Callable[[int], None],
) -> dict[str, list[Any]]:
    texts = [*dilemmas.texts, *(dilemmas.others or ())]
    asked = [_NUMBER.format(text=text, theory=theory) for text in texts]
    told = [rater.role] * len(asked)
    found = rate(rater.model, asked, system=told, readout=readout, cache=cache, step=step)
    n = len(dilemmas)
    rows = found[:n]
    scores = [number for number, _, _ in rows]
    if dilemmas.others is not None:
        scores = [0.5 + (a - b[0]) / 2 for a, b in zip(scores, found[n:], strict=True)]
        rows = [b if a[1] == "ok" else a for a, b in zip(rows, found[n:], strict=True)]
    kind = readout.kind
    return {
        kind: [None if math.isnan(score) else score for score in scores],
        f"{kind}_status": [status for _, status, _ in rows],
        f"{kind}_said": [said for _, _, said in rows],
    }


def save_scores(
    folder: Path,
    scores: Sequence[pl.DataFrame],
    dilemmas: Dilemmas,
    theories: Mapping[str, str],
    roles: Mapping[str, str | None],
    readouts: Sequence[Readout],
    models: Sequence[Mapping[str, Any]],
) -> pl.DataFrame:
    """Write `scores.parquet`, `people.parquet` where people were asked, and `score.json`.

    Args:
        folder: that is written.
        scores: of `score_panel`, a table a model.
        dilemmas: what was judged.
        theories: words by name.
        roles: who each model was told to be.
        readouts: of each judgement.
        models: their identities.

    Returns:
        All scores.

    Raises:
        UsageError: two models of one name.
        StoreError: the folder can't be written to.
    """
    names = [model for one in scores for model in one["model"].unique(maintain_order=True)]
    if len(set(names)) < len(names):
        raise UsageError(
            "a panel has models of different names",
            f"given are {', '.join(names)}",
            "give each once; roles make several judges of one",
        )
    frame = pl.concat(scores, how="diagonal")
    write_table(folder / SCORES, frame)
    (folder / PEOPLE).unlink(missing_ok=True)  # of other dilemmas
    if dilemmas.shares is not None:
        votes = pl.DataFrame({"item": dilemmas.items, "share": dilemmas.shares}).drop_nulls()
        write_table(folder / PEOPLE, votes)
    about = {
        "texts": VERSION,
        "items": len(dilemmas),
        "of": "one text" if dilemmas.others is None else "two texts",
        "theories": dict(theories),
        "roles": dict(roles),
        "readouts": [asdict(readout) for readout in readouts],
        "models": [dict(model) for model in models],
    }
    write_json(folder / ABOUT, about)
    return frame


def readouts_agree(scores: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Say how far the readouts of each model go together: rank correlation over items and theories.

    Returns:
        A row a model and two readouts: `n`, `spearman` with its 95 % interval by resampled items
        (null where one of them is constant), `apart`, the mean difference of their scores.
    """
    kinds = [kind for kind in ("logprob", "sampled", "verbal") if kind in scores.columns]
    rows = []
    for (model,), mine in scores.group_by("model", maintain_order=True):
        for a, b in combinations(kinds, 2):
            both = mine.drop_nulls([a, b])
            row = {"model": model, "first": a, "second": b, "n": both.height}
            x, y = (both[kind].to_numpy() for kind in (a, b))
            group = siblings(both["text"].to_list()) if "text" in both.columns else _items(both)
            rows.append({**row, **_rank_correlation(x, y, group, seed)})
    numbers = dict.fromkeys(("spearman", "ci_low", "ci_high", "apart"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=numbers)


def _items(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Return a number for each row, the same for those of one item."""
    _, group = np.unique(rows["item"].to_numpy(), return_inverse=True)
    return np.asarray(group, np.int64)


def _rank_correlation(x: Any, y: Any, group: Any, seed: int) -> dict[str, float | None]:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        apart = float(np.abs(x - y).mean()) if len(x) else None
        return {"spearman": None, "ci_low": None, "ci_high": None, "apart": apart}
    rng = np.random.default_rng(seed)
    together, found = Together.of(group), []
    for _ in range(_DRAWS):
        at = together.drawn(rng)
        if np.ptp(x[at]) and np.ptp(y[at]):
            found.append(spearmanr(x[at], y[at]).statistic)
    low, high = np.quantile(found, (0.025, 0.975)) if len(found) > _DRAWS // 2 else (None, None)
    return {
        "spearman": float(spearmanr(x, y).statistic),
        "ci_low": low,
        "ci_high": high,
        "apart": float(np.abs(x - y).mean()),
    }
