"""The positive control: the gradient's own machinery on human ratings of other things.

"The model orders moral categories badly" means little until the same model, read in the same way,
is seen to order birds and furniture well. Poolings, leave-one-out prototypes, rank correlations,
resamples and shuffles are those of the moral gradient; only where the rows come from differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from moralprobe.activations.store import ActivationStore
from moralprobe.analyses.confounds import length_explains, length_offsets, sink
from moralprobe.analyses.gradient import gradient
from moralprobe.analyses.layer import centred, rows_of
from moralprobe.data import lexicon
from moralprobe.data.prompts import get_template
from moralprobe.data.ratings import Ratings
from moralprobe.design import Category, Design, Mode
from moralprobe.errors import UsageError
from moralprobe.foundations import POLES
from moralprobe.geometry.arrays import Bools, Floats, Ints
from moralprobe.geometry.baselines import CHARACTER_NGRAMS, character_ngrams
from moralprobe.geometry.measure import MIN_GROUPS, MIN_PROTOTYPES, Measure, not_enough
from moralprobe.geometry.uncertainty import (
    PermutationKeys,
    bootstrap_counts,
    difference_interval,
    permutations,
    strata_of,
)
from moralprobe.options import POOLINGS_OF, parse_modes, poolings_of
from moralprobe.study import Study, request_of
from moralprobe.table import COLUMNS, row, with_q

ANALYSIS: Final = "control"
FREQUENCY_MEASURES: Final[dict[str, str]] = {
    "spearman_given_length": "spearman_given_frequency",
    "length_correlation": "frequency_correlation",
}
"""Measures of text length, and their names where word frequency takes its place."""
NO_CEILING: Final = "ceiling not known"
NO_FREQUENCY: Final = "not measured (wordfreq isn't installed)"
_GRADED: Final = ("spearman", "spearman_given_length", "length_correlation")
_CEILED: Final = ("spearman", "pearson", "spearman_given_length", "spearman_given_frequency")


def probe_control(
    store: ActivationStore,
    *,
    mode: str = "both",
    draws: int = 1000,
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Measure at every layer how well likeness to prototypes follows human typicality.

    Prototypes are the most typical tenth of a category, at least five items, and whatever is rated
    as high as the last of them. Items that share one rating (`Ratings`) are one row, the mean of
    their states.

    Args:
        store: from `extract` of a `Ratings` table.
        mode: `li2026`, `audited`, or `both`, as in `probing.probe`.
        draws: bootstrap resamples and permutations behind every interval and null.
        seed: of the draws.
        progress: called with steps done and steps in all.

    Returns:
        A study whose rows have analysis `control` and the gradient's measures, given word frequency
        too where the package wordfreq is installed. The baseline is character n-grams.

    Raises:
        DataError: a store that wasn't made of ratings.
        UsageError: an unknown mode, or a store without a pooling that the mode reads.
        IntegrityError: bytes that aren't those that were written.
        NumericError: NaN or infinity in the stored states.
    """
    ratings = Ratings.load(store.table_file())
    modes = parse_modes(mode)
    chosen = poolings_of(store, modes)
    features = character_ngrams(store.texts["text"].to_list())
    rows: list[dict[str, Any]] = []
    steps = len(store.layers) * sum(len(poolings) for poolings in chosen.values())
    done = 0
    with threadpool_limits(1):  # numbers don't depend on how many cores there are
        for m in modes:
            for pooling in chosen[m]:
                control = _prepare(ratings, store, pooling, m, draws=draws, seed=seed)
                if pooling == chosen[m][0]:
                    rows += _of_texts(store, control)
                words = {(name, x.category): x for name, x in control.graded(features, "words")}
                for layer in store.layers:
                    for name, x in control.measures(store.layer(pooling, layer), f"layer {layer}"):
                        known = words.get((name, x.category))
                        found = row(store, m, layer, pooling, x, baseline=known)
                        rows.append(found | {"measure": name})
                    done += 1
                    if progress is not None:
                        progress(done, steps)
    request = request_of(store, **options_of(mode=mode, draws=draws, seed=seed))
    return Study(_table(rows), _meta(store, ratings, chosen, request))


def options_of(*, mode: str, draws: int, seed: int) -> dict[str, str | int]:
    """Return what, beside the store, can change a control's numbers: for `study.finished`."""
    frequency = lexicon.versions().get("wordfreq", "missing")
    return {"mode": mode, "draws": draws, "seed": seed, "frequency": frequency}


def prototypes_of(score: Floats) -> Bools:
    """Return which items are prototypes, [n]: the top tenth, at least five, ties with them too."""
    k = min(len(score), max(MIN_PROTOTYPES, -(-len(score) // 10)))
    prototypes: Bools = score >= np.sort(score)[-k]
    return prototypes


@dataclass(frozen=True)
class _Control:
    """One mode under one pooling: which texts each row is the mean of, and its design.

    `texts` are the rows' texts one row after the other, `starts` [n] where each row's begin;
    `frequency` [n] or None; `scarce` says of categories that are too small how many items they
    have beside their prototypes.
    """

    texts: Ints
    starts: Ints
    design: Design
    frequency: Floats | None
    scarce: dict[str, int]

    def mean(self, values: Floats) -> Floats:
        """Return the mean over each row's texts, [n, ...], of values of all texts."""
        sizes = np.diff([*self.starts, len(self.texts)])
        sums = np.add.reduceat(values[self.texts], self.starts, axis=0)
        return np.asarray(sums / sizes.reshape(-1, *(1,) * (sums.ndim - 1)), values.dtype)

    def measures(self, values: Floats, what: str) -> Iterator[tuple[str, Measure]]:
        """Yield all of a layer's measures by their names."""
        share = length_explains(self._rows(values, what), self.design)
        yield share.name, share
        yield from self.graded(values, what)

    def graded(self, values: Floats, what: str) -> Iterator[tuple[str, Measure]]:
        """Yield the gradient's measures by their names, given length and given frequency."""
        X = self._rows(values, what)
        for measure in (*gradient(X, self.design), *self._not_enough(_GRADED)):
            yield measure.name, measure
        if self.frequency is not None:
            given = gradient(X, replace(self.design, length=self.frequency))
            for measure in (*given, *self._not_enough(tuple(FREQUENCY_MEASURES))):
                if measure.name in FREQUENCY_MEASURES:
                    yield FREQUENCY_MEASURES[measure.name], measure

    def _rows(self, values: Floats, what: str) -> Floats:
        return centred(rows_of(self.mean(values), np.arange(len(self.starts)), what))

    def _not_enough(self, names: tuple[str, ...]) -> Iterator[Measure]:
        for category, have in self.scarce.items():
            for name in names:
                of = "items beside the prototypes"
                yield not_enough(name, category, "rho", have=have, needed=MIN_GROUPS, of=of)


def _prepare(
    ratings: Ratings, store: ActivationStore, pooling: str, mode: Mode, *, draws: int, seed: int
) -> _Control:
    readable = store.valid(pooling)
    texts = store.texts.select("text", "n_tokens").with_row_index("text_index")
    if "wordfreq" not in lexicon.missing():
        frequency = pl.Series("frequency", lexicon.log_frequency(texts["text"].to_list()))
        texts = texts.with_columns(frequency)
    units = (
        ratings.frame.join(texts.filter(readable), left_on="action", right_on="text")
        # Sorted, so that the order of the table's rows changes nothing.
        .sort("category", "unit", "group")
        .group_by("category", "unit", maintain_order=True)
        .agg(
            pl.col("score").first(),
            pl.col("text_index"),
            pl.col("group").str.join("+"),
            pl.col("n_tokens", *(["frequency"] if "frequency" in texts.columns else [])).mean(),
        )
    )
    sizes = units["text_index"].list.len().to_numpy()
    design, scarce = _design(units, mode, draws=draws, seed=seed)
    return _Control(
        units["text_index"].explode().to_numpy().astype(np.int64),
        np.cumsum([0, *sizes[:-1]]),
        design,
        units["frequency"].to_numpy() if "frequency" in units.columns else None,
        scarce,
    )


def _design(
    units: pl.DataFrame, mode: Mode, *, draws: int, seed: int
) -> tuple[Design, dict[str, int]]:
    """Return the design of a table of units, and the categories that are too small for a number."""
    _, first, group = np.unique(
        units["group"].to_numpy().astype(str), return_index=True, return_inverse=True
    )
    length, score = units["n_tokens"].to_numpy(), units["score"].to_numpy()
    keys = PermutationKeys(len(first), draws, seed)
    categories: list[Category] = []
    scarce: dict[str, int] = {}
    for name in units["category"].unique(maintain_order=True):
        rows = np.flatnonzero((units["category"] == name).to_numpy())
        prototypes = prototypes_of(score[rows])
        if (others := int(np.sum(~prototypes))) < MIN_GROUPS:
            scarce[name] = others
            continue
        strata = strata_of(length[rows], np.zeros(len(rows), np.int64))
        shuffles = permutations(group[rows], strata, score[rows], keys)
        categories.append(Category(name, rows, score[rows], prototypes, shuffles))
    return Design(
        mode,
        text=first[group],  # an item of several categories is one text
        group=group,
        length=length,
        folds=np.zeros(len(group), np.int64),
        resamples=bootstrap_counts(len(first), draws, seed),
        categories=tuple(categories),
        oppositions=(),
    ), scarce


def _of_texts(store: ActivationStore, control: _Control) -> Iterator[dict[str, Any]]:
    """Yield the rows of what isn't of one pooling: the sink, lengths, and what is missing."""
    mode = control.design.mode
    for layer in store.layers:
        stats = {name: control.mean(values) for name, values in store.stats(layer).items()}
        for measure in sink(stats, control.design):
            yield row(store, mode, layer, "none", measure)
    for measure in length_offsets(control.design):
        yield row(store, mode, None, "none", measure)
    if control.frequency is None:
        for known, name in FREQUENCY_MEASURES.items():
            nothing = not_enough(known, "all", "rho", have=0, needed=0, of="")
            nothing = replace(nothing, status=NO_FREQUENCY)
            yield row(store, mode, None, "none", nothing) | {"measure": name}


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Put the rows into the long table, under this analysis and its baseline."""
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    without_ceiling = pl.col("measure").is_in(_CEILED) & pl.col("value").is_finite()
    words = (
        pl.when(pl.col("baseline").is_null()).then(pl.lit("")).otherwise(pl.lit(CHARACTER_NGRAMS))
    )
    return with_q(
        frame.with_columns(
            analysis=pl.lit(ANALYSIS),
            baseline_name=words,
            status=pl.when(without_ceiling).then(pl.lit(NO_CEILING)).otherwise("status"),
        )
    )


def _meta(
    store: ActivationStore,
    ratings: Ratings,
    chosen: dict[Mode, tuple[str, ...]],
    request: dict[str, Any],
) -> dict[str, Any]:
    return {
        "request": request,
        "store": store.key,
        "ratings": ratings.meta,
        "modes": {m: list(poolings) for m, poolings in chosen.items()},
        "items": len(ratings),
        "texts": {
            "distinct": store.texts.height,
            "left out": int((store.texts["status"] != "ok").sum()),
            "token 0 is the item's": bool(store.key["token0_is_content"])
            and not get_template(store.template).before,
        },
    }


# -- beside a moral study -------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """The best layers of a control and of a moral study of one model, as rows of their tables.

    `difference` is the control's rank correlation minus the moral one, with its 95 % interval;
    `moral_there` is the moral one in the control's best layer.
    """

    control: dict[str, Any]
    moral: dict[str, Any]
    difference: float
    low: float
    high: float
    moral_there: float


def beside(control: Study, moral: Study) -> Beside:
    """Compare how well one model orders a control's categories and a moral study's.

    Both are read in audited mode under the first pooling that both have: the mean over categories
    of `spearman_given_length`, in the layer where it is highest. The best of many layers flatters
    both; the two sets of texts are taken as independent.

    Raises:
        UsageError: studies of different models, or without a number to compare.
    """
    models = [study.meta["store"]["model"] for study in (control, moral)]
    if models[0] != models[1]:
        raise UsageError(
            "the studies are of different models",
            " and ".join(str(model["id"]) for model in models) + ", or other weights of that name",
            "read both tables with one model",
        )
    here = [study.meta["modes"].get("audited", []) for study in (control, moral)]
    pooling = next((p for p in POOLINGS_OF["audited"] if p in here[0] and p in here[1]), "none")
    where = {"mode": "audited", "measure": "spearman_given_length", "category": "mean"}
    rows = [study.select(**where, pooling=pooling) for study in (control, moral)]
    rows = [part.filter(pl.col("value").is_finite()) for part in rows]
    if any(part.is_empty() for part in rows):
        raise UsageError(
            "there is nothing to compare",
            "no pooling of audited mode has a mean over categories in both studies",
            "make both with --mode both or --mode audited, and the same --pooling",
        )
    a, b = (part.sort("value", descending=True).row(0, named=True) for part in rows)
    low, high = difference_interval(
        (a["value"], a["ci_low"], a["ci_high"]), (b["value"], b["ci_low"], b["ci_high"])
    )
    there = rows[1].filter(layer=a["layer"])["value"]
    moral_there = float(there[0]) if len(there) else float("nan")
    return Beside(a, b, a["value"] - b["value"], low, high, moral_there)


def is_moral(study: Study) -> bool:
    """Return whether a study's gradients are all of the ten moral poles."""
    graded = study.frame.filter(measure="spearman")["category"].unique()
    return set(graded.to_list()) <= {*POLES, "mean", "overall"}
