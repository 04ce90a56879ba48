"""Have a model go on with stories anew, and say how often it breaks their principles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.asking import SAID, sampled, status
from moralprobe.behavior.elicitation.calibration import Calibrated
from moralprobe.behavior.elicitation.completions import REFUSED, ask, seed_of
from moralprobe.behavior.elicitation.measures import (
    CUT,
    means,
    self_bleu,
)
from moralprobe.behavior.elicitation.rates import kin, row, tables
from moralprobe.behavior.elicitation.scorers import Judge, Pair
from moralprobe.behavior.siblings import Together
from moralprobe.behavior.tables import read_table
from moralprobe.behavior.text_model import NoLogprobsError, TextModel
from moralprobe.cache import Cache
from moralprobe.errors import DataError, UsageError
from moralprobe.files import write_bytes, write_result

Floats = NDArray[np.float64]
Rewrite = Callable[[Sequence[Pair]], list[str]]
SCHEMA: Final = ("id", "foundation", "pole", "principle", "prompt", "iter")
FRESH: Final = 1 << 20
"""Added to seeds: no completion here is one that was drawn in a search."""
WARNING: Final = (
    "# Before you read\n\n"
    "The texts in completions.parquet were drawn from a language model by stories that were made "
    "or chosen so that it would break moral principles. They are fiction, may be unpleasant, and "
    "say nothing about what anyone should do. A model that goes on with a story in which somebody "
    "breaks a rule does not thereby approve of it.\n"
)
_BLEU_TEXTS: Final = 300


@dataclass(frozen=True)
class Measured:
    """What came of it.

    `measures` has a row a scorer, round, foundation, pole and measure with its 95 % interval by
    resampled principles; `changes` the same of the last round less the first, on the principles
    that both have; `completions` every text with its probabilities.
    """

    measures: pl.DataFrame
    changes: pl.DataFrame
    completions: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, `measure.json`, and `READ-FIRST.md`, a warning."""
        write_bytes(folder / "READ-FIRST.md", WARNING.encode())
        tables = {
            "measures": self.measures,
            "changes": self.changes,
            "completions": self.completions,
        }
        write_result(folder, "measure", self.summary, tables)


def load_prompts(path: Path) -> pl.DataFrame:
    """Read beginnings of stories.

    Args:
        path: the folder that a search wrote, or a table with the columns `principle` and `prompt`,
            and where there are `id` (of the principle), `foundation`, `pole` and `iter`.

    Raises:
        DataError: what can't be read, a missing column, no prompt, rounds that are no numbers.
    """
    path = Path(path)
    path = path / "prompts.parquet" if path.is_dir() else path
    frame = read_table(path, SCHEMA)
    for name in ("principle", "prompt"):
        if name not in frame.columns:
            raise DataError(
                f"{path} is no table of prompts", f"it has no column {name!r}", "give both"
            )
    missing = {name: pl.lit(None, pl.String) for name in SCHEMA if name not in frame.columns}
    frame = frame.with_columns(**missing).select(SCHEMA)
    text = pl.col("id", "foundation", "pole", "principle", "prompt").cast(pl.String)
    rounds = frame["iter"].cast(pl.String).str.strip_chars().replace("", None)
    wrong = rounds.filter(rounds.is_not_null() & ~rounds.str.contains(r"^\d+(\.0+)?$"))
    if wrong.len():
        raise DataError(
            f"{path} has rounds that are no numbers", repr(wrong[0]), "count them from 0 in iter"
        )
    frame = frame.with_columns(text.str.strip_chars().replace("", None)).with_columns(
        iter=rounds.cast(pl.Float64).cast(pl.Int64).fill_null(0),
        id=pl.col("id").fill_null(pl.col("principle")),
    )
    empty = frame.filter(pl.col("principle").is_null() | pl.col("prompt").is_null())
    if not frame.height or empty.height:
        raise DataError(
            f"{path} has lines without a prompt or a principle",
            f"{empty.height} of {frame.height}",
            "leave them out",
        )
    return frame


def measure(
    model: TextModel,
    prompts: pl.DataFrame,
    scorers: Mapping[str, Calibrated],
    *,
    k: int = 10,
    tokens: int = 100,
    draws: int = 1000,
    seed: int = 0,
    instructions: Sequence[str | None] | None = None,
    rewrite: Rewrite | None = None,
    endorse: bool = True,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Measured:
    """Draw K fresh completions of every prompt, and measure them by every scorer.

    Args:
        model: that goes on with the stories.
        prompts: from `load_prompts`; of several rounds the first and the last are measured.
        scorers: by what they are used for, as `report` and `search`.
        k: completions of each prompt.
        tokens: of a completion.
        draws: resamples of principles.
        seed: of the completions and resamples.
        instructions: what stands before each prompt of the rounds that are measured; nothing, if
            not given.
        rewrite: makes other texts of principles and completions, before they are scored.
        endorse: ask the model itself whether what it wrote breaks the principle.
        cache: from `open_cache`.
        progress: called with the steps that are done, their number, and what is done.

    Raises:
        UnansweredError: the model can't be reached; what it said is in the cache.
        UsageError: no scorer, or a k below 1.
    """
    if not scorers or k < 1 or tokens < 1:
        raise UsageError("nothing can be measured", f"k {k}, {len(scorers)} scorers", "give both")
    rounds = sorted({int(prompts["iter"].min() or 0), int(prompts["iter"].max() or 0)})  # type: ignore[arg-type]
    asked = prompts.filter(pl.col("iter").is_in(rounds))
    steps = 1 + 2 * len(scorers) + endorse
    progress(0, steps, "completions")
    instructed = [None] * asked.height if instructions is None else list(instructions)
    seeds = [seed_of(seed, FRESH, i) for i in range(k)]
    questions = [
        ask(prompt, told, one)
        for prompt, told in zip(asked["prompt"], instructed, strict=True)
        for one in seeds
    ]
    said = sampled(model, questions, tokens, cache=cache)
    if rewrite is not None:
        of = [principle for principle in asked["principle"] for _ in range(k)]
        said = rewrite(list(zip(of, said, strict=True)))
    long = _repeated(asked, k).with_columns(
        text=pl.Series(said, dtype=pl.String),
        status=pl.Series([status(text) for text in said]),
    )
    done = 1
    others = _others(asked, np.random.default_rng(seed))
    for name, scorer in scorers.items():
        for column, held in ((name, asked["principle"].to_list()), (f"{name}_other", others)):
            progress(done, steps, f"scored by {scorer.scorer.name}")
            done += 1
            p = _scored(long, held, scorer)
            long = long.with_columns(pl.Series(column, p).fill_nan(None))
    endorsed: dict[str, Any] | None = None
    if endorse:
        progress(steps - 1, steps, "the model's own judgement")
        long, endorsed = _endorsed(model, long, next(iter(scorers)), draws, seed, cache)
    progress(steps, steps, "")
    measures, changes = tables(long, scorers, rounds, k, draws, seed)
    about = {"k": k, "tokens": tokens, "seed": seed, "draws": draws, "rounds": rounds}
    summary = {**_summary(model, long, scorers, rounds, seed), **about, "endorsed": endorsed}
    return Measured(measures, changes, long.drop("row"), summary)


def _scored(long: pl.DataFrame, held: Sequence[str] | None, scorer: Calibrated) -> Floats:
    """Return the probability that each completion breaks the principle it is held against.

    Args:
        long: every completion, with the `row` of its prompt.
        held: a principle for each prompt; none, where there is none to hold against.
        scorer: who says.
    """
    p = np.full(long.height, np.nan)
    if held is None:
        return p
    status_of = long["status"].to_numpy()
    p[np.isin(status_of, REFUSED)] = 0.0  # nothing was broken
    told = np.flatnonzero(status_of == SAID)
    rows, texts = long["row"].to_list(), long["text"].to_list()
    p[told] = scorer.probability([(held[rows[i]], texts[i]) for i in told])
    return p


def _summary(
    model: TextModel,
    long: pl.DataFrame,
    scorers: Mapping[str, Calibrated],
    rounds: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Return what stands beside the measures: who, how many, how diverse and how long."""
    by_round = {str(r): long.filter(iter=r) for r in rounds}
    return {
        "model": dict(model.identity),
        "prompts": long["row"].n_unique(),
        "principles": long["id"].n_unique(),
        "statuses": dict(long["status"].value_counts(sort=True).iter_rows()),
        "self_bleu": {
            # Completions may repeat each other word for word; a prompt has K of them.
            "prompts": {
                r: _diversity(some["prompt"].unique(maintain_order=True).to_list(), seed)
                for r, some in by_round.items()
            },
            "completions": {
                r: _diversity(some["text"].to_list(), seed) for r, some in by_round.items()
            },
        },
        "words": {
            r: float(np.mean([len(text.split()) for text in some["text"]]))
            for r, some in by_round.items()
        },
        "scorers": {
            name: {
                "identity": dict(one.scorer.identity),
                "name": one.scorer.name,
                "calibration": one.calibration.as_json(),
                "forced": one.forced and not one.calibration.usable,
            }
            for name, one in scorers.items()
        },
        "same_scorer": len({str(dict(one.scorer.identity)) for one in scorers.values()})
        < len(scorers),
    }


def _repeated(asked: pl.DataFrame, k: int) -> pl.DataFrame:
    """Return every prompt k times, with its `row` and the number `k` of the completion."""
    rows = np.repeat(np.arange(asked.height), k)
    return asked[rows].with_columns(
        row=pl.Series(rows), k=pl.Series(np.tile(np.arange(k), asked.height))
    )


def _others(asked: pl.DataFrame, rng: np.random.Generator) -> list[str] | None:
    """Return for each prompt another principle, one that no one broke on purpose: the null.

    None where there is one principle alone.
    """
    texts = asked["principle"].unique(maintain_order=True).to_list()
    if len(texts) < 2:
        return None
    order = rng.permutation(len(texts))
    following = {texts[a]: texts[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
    return [following[one] for one in asked["principle"]]


def _diversity(texts: Sequence[str], seed: int) -> float | None:
    """Return Self-BLEU of so many texts at most, drawn: it takes the square of their number."""
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(texts))[:_BLEU_TEXTS]
    return self_bleu([texts[i] for i in some])


def _endorsed(
    model: TextModel,
    long: pl.DataFrame,
    scorer: str,
    resamples: int,
    seed: int,
    cache: Cache | None,
) -> tuple[pl.DataFrame, dict[str, Any] | None]:
    """Ask the model whether its own completions of the last round break their principles.

    Returns:
        The completions with the model's probability that they do, `own_judgement`; and of those
        that the scorer calls broken the share that the model calls so too, and of the others,
        with intervals. None of a model that tells no probabilities.
    """
    last = (long["iter"] == long["iter"].max()).to_numpy()
    told = np.flatnonzero((long["status"].to_numpy() == SAID) & last)
    pairs = list(long.select("principle", "text").iter_rows())
    try:
        odds = Judge(model, cache=cache).log_odds([pairs[i] for i in told])
    except NoLogprobsError:
        return long, None
    p = np.full(long.height, np.nan)
    p[told] = 1 / (1 + np.exp(-odds))
    called = long[scorer].cast(pl.Float64).fill_null(np.nan).to_numpy()
    together, rng = Together.of(kin(long["principle"], long["prompt"])), np.random.default_rng(seed)
    resampled = together.resamples(resamples, rng)
    says = np.where(np.isfinite(p), p > CUT, np.nan)
    found = {
        name: row(means(np.where(kind, says, np.nan), resampled))
        for name, kind in (("of broken", called > CUT), ("of kept", called <= CUT))
    }
    return long.with_columns(pl.Series("own_judgement", p).fill_nan(None)), found
