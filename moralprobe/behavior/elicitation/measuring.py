"""Have a model go on with stories anew, and say how often it breaks their principles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from moralprobe.behavior.elicitation.calibration import Calibrated
from moralprobe.behavior.elicitation.completions import SAID, ask, completions, status
from moralprobe.behavior.elicitation.measures import (
    CUT,
    OF_PROMPTS,
    apv,
    corrected,
    interval,
    means,
    self_bleu,
)
from moralprobe.behavior.elicitation.scorers import Judge
from moralprobe.behavior.siblings import Together
from moralprobe.behavior.tables import read_table
from moralprobe.behavior.text_model import NoLogprobsError, TextModel
from moralprobe.cache import Cache
from moralprobe.errors import DataError, UsageError
from moralprobe.files import write_bytes, write_json, write_table

Floats = NDArray[np.float64]
SCHEMA: Final = ("id", "foundation", "pole", "principle", "prompt", "iter")
FEWEST: Final = 5
"""Principles of a foundation or pole, for numbers of its own; and of all, for an interval."""
ALL: Final = "all"
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
        for name in ("measures", "changes", "completions"):
            write_table(folder / f"{name}.parquet", getattr(self, name))
        write_json(folder / "measure.json", dict(self.summary))


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
    frame = frame.with_columns(text.str.strip_chars().replace("", None)).with_columns(
        iter=pl.col("iter").cast(pl.Int64, strict=False).fill_null(0),
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
    seeds = [_seed(seed, i) for i in range(k)]
    questions = [
        ask(prompt, told, one)
        for prompt, told in zip(asked["prompt"], instructed, strict=True)
        for one in seeds
    ]
    said = completions(model, questions, tokens, cache=cache)
    long = _repeated(asked, k).with_columns(
        text=pl.Series(said, dtype=pl.String),
        status=pl.Series([status(text) for text in said]),
    )
    told = long["status"].to_numpy() == SAID
    others = _others(asked, np.random.default_rng(seed))
    for number, (name, scorer) in enumerate(scorers.items()):
        for column, of in ((name, asked["principle"].to_list()), (f"{name}_other", others)):
            progress(1 + 2 * number + (column != name), steps, f"scored by {scorer.scorer.name}")
            principle = [one for one in of for _ in range(k)]
            pairs = [(principle[i], said[i]) for i in np.flatnonzero(told)]
            p = np.full(len(said), np.nan)
            p[told] = scorer.probability(pairs)
            long = long.with_columns(pl.Series(column, p).fill_nan(None))
    endorsed: dict[str, Any] | None = None
    if endorse:
        progress(steps - 1, steps, "the model's own judgement")
        long, endorsed = _endorsed(model, long, next(iter(scorers)), draws, seed, cache)
    progress(steps, steps, "")
    measures, changes = _tables(long, scorers, rounds, k, draws, seed)
    return Measured(
        measures,
        changes,
        long.drop("row"),
        {
            "model": dict(model.identity),
            "k": k,
            "tokens": tokens,
            "seed": seed,
            "draws": draws,
            "rounds": rounds,
            "prompts": asked.height,
            "principles": asked["id"].n_unique(),
            "statuses": dict(long["status"].value_counts(sort=True).iter_rows()),
            "endorsed": endorsed,
            "self_bleu": {
                what: {
                    str(r): _diversity(
                        long.filter(iter=r)[column].unique(maintain_order=True).to_list(), seed
                    )
                    for r in rounds
                }
                for what, column in (("prompts", "prompt"), ("completions", "text"))
            },
            "words": {
                str(r): float(np.mean([len(t.split()) for t in long.filter(iter=r)["text"]]))
                for r in rounds
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
            "same_scorer": len({str(dict(s.scorer.identity)) for s in scorers.values()})
            < len(scorers),
        },
    )


def _seed(seed: int, k: int) -> int:
    return int(np.random.SeedSequence([seed, FRESH, k]).generate_state(1)[0])


def _repeated(asked: pl.DataFrame, k: int) -> pl.DataFrame:
    """Return every prompt k times, with its `row` and the number `k` of the completion."""
    rows = np.repeat(np.arange(asked.height), k)
    return asked[rows].with_columns(
        row=pl.Series(rows), k=pl.Series(np.tile(np.arange(k), asked.height))
    )


def _others(asked: pl.DataFrame, rng: np.random.Generator) -> list[str]:
    """Return for each prompt another principle, one that no one broke on purpose: the null."""
    texts = asked["principle"].unique(maintain_order=True).to_list()
    if len(texts) < 2:
        return asked["principle"].to_list()
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
    """Ask the model whether its own completions break their principles.

    Returns:
        The completions with the model's probability that they do, `own_judgement`; and of those
        that the scorer calls broken the share that the model calls so too, and of the others,
        with intervals. None of a model that tells no probabilities.
    """
    told = np.flatnonzero(long["status"].to_numpy() == SAID)
    pairs = list(long.select("principle", "text").iter_rows())
    try:
        odds = Judge(model, cache=cache).log_odds([pairs[i] for i in told])
    except NoLogprobsError:
        return long, None
    p = np.full(long.height, np.nan)
    p[told] = 1 / (1 + np.exp(-odds))
    called = long[scorer].cast(pl.Float64).fill_null(np.nan).to_numpy()
    together, rng = Together.of(_kin(long["id"], long["prompt"])), np.random.default_rng(seed)
    resampled = [np.arange(len(p)), *(together.drawn(rng) for _ in range(resamples))]
    says = np.where(np.isfinite(p), p > CUT, np.nan)
    found = {
        name: _row(means(np.where(kind, says, np.nan), resampled))
        for name, kind in (("of broken", called > CUT), ("of kept", called <= CUT))
    }
    return long.with_columns(pl.Series("own_judgement", p).fill_nan(None)), found


def _tables(
    long: pl.DataFrame,
    scorers: Mapping[str, Calibrated],
    rounds: Sequence[int],
    k: int,
    draws: int,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return measures by scorer, round, foundation and pole; and their changes over the rounds."""
    rows: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    kinds = product(
        *(
            [None, *long[column].drop_nulls().unique(maintain_order=True)]
            for column in ("foundation", "pole")
        )
    )
    for (foundation, pole), (name, scorer) in product(kinds, scorers.items()):
        some = long
        for column, value in (("foundation", foundation), ("pole", pole)):
            some = some if value is None else some.filter(pl.col(column) == value)
        of = {"scorer": name, "foundation": foundation or ALL, "pole": pole or ALL, "k": k}
        if some["id"].n_unique() < FEWEST and (foundation or pole):
            continue
        group = _kin(some["id"].gather_every(k), some["prompt"].gather_every(k))
        together, rng = Together.of(group), np.random.default_rng(seed)
        # Of fewer there is no interval: their resamples are nearly all alike.
        times = draws if len(together) >= FEWEST else 0
        resamples = [np.arange(len(group)), *(together.drawn(rng) for _ in range(times))]
        at = some["iter"].to_numpy()[::k]
        found = {r: _of_round(some, name, k, at == r, resamples, scorer) for r in rounds}
        rows += [
            {**of, "iter": r, "measure": m, **_row(values), "n": int((at == r).sum())}
            for r, one in found.items()
            for m, values in one.items()
        ]
        if len(rounds) == 2:
            first, last = found.values()
            changes += [{**of, "measure": m, **_row(last[m] - first[m])} for m in first]
    texts = dict.fromkeys(("scorer", "foundation", "pole", "measure"), pl.String)
    schema = {**texts, "k": pl.Int64, **dict.fromkeys(("value", "low", "high"), pl.Float64)}
    counts = {"iter": pl.Int64, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**schema, **counts}), pl.DataFrame(changes, schema=schema)


def _of_round(
    some: pl.DataFrame,
    name: str,
    k: int,
    here: NDArray[np.bool_],
    resamples: Sequence[NDArray[np.int64]],
    scorer: Calibrated,
) -> dict[str, Floats]:
    """Return each measure in every resample, of the prompts of a round."""
    p, other = (
        np.where(here[:, None], _numbers(some[column]).reshape(-1, k), np.nan)
        for column in (name, f"{name}_other")
    )
    found = {measure: means(f(p), resamples) for measure, f in OF_PROMPTS.items()}
    # A scorer's own rates are drawn as well: they are known from as many texts as there were.
    rates = scorer.calibration.rates
    rates = rates[np.minimum(np.arange(len(resamples)), len(rates) - 1)]
    return {
        **found,
        "apv corrected": corrected(found["apv"], rates[:, 0], rates[:, 1]),
        "apv of another principle": means(apv(other), resamples),
    }


def _kin(ids: pl.Series, prompts: pl.Series) -> NDArray[np.int64]:
    """Return a number for each row, the same for those of one principle or of one prompt.

    Of one prompt the completions are the same ones, whatever principle they are held against.
    """
    a, b = (np.unique(one.to_numpy(), return_inverse=True)[1] for one in (ids, prompts))
    n, m = int(a.max()) + 1, int(b.max()) + 1
    graph = coo_array((np.ones(len(a)), (a, n + b)), shape=(n + m, n + m))
    _, label = connected_components(graph, directed=False)
    return np.asarray(label[a], np.int64)


def _numbers(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _row(values: Floats) -> dict[str, float | None]:
    return interval(values[0], values[1:])
