"""A table of scores to a consensus, with what stands beside it: intervals, a null, who deviates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.consensus.agreement import MEASURES
from moralprobe.behavior.consensus.judge import information
from moralprobe.behavior.consensus.latent import Latent, Variant, family_weights, fit, separations
from moralprobe.behavior.consensus.scores import Scores
from moralprobe.behavior.siblings import Ints, Together
from moralprobe.errors import UsageError
from moralprobe.files import write_json, write_table
from moralprobe.provenance import environment

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
VOTES: Final = "votes.parquet"
INFORMATIVE: Final = 0.3
"""Of d': a model nearer to 0 can't be told to deviate, only to say little."""
FEWEST_STEMS: Final = 20
"""Beginnings that texts need where many begin alike: fewer can't be drawn or shuffled."""
_LEVEL: Final = 0.05
_FOLLOWED: Final = 0.99  # share of items where the consensus says what one model says
_FITS: Final = ("whole", "shuffled", "left out", "resampled")
_OF_MODELS: Final = ("mean_1", "sd_1", "mean_0", "sd_0", "d", "bits")


@dataclass(frozen=True)
class Consensus:
    """What was fitted.

    `items` has a row an item and theory: `consensus`, null where two classes aren't supported;
    `models` a model's scores under both labels, d' and information with intervals; `cells` a
    model's distance from the others' consensus under each theory; `left_out` the consensus without
    each model, or without its family where two others are left.
    """

    items: pl.DataFrame
    models: pl.DataFrame
    cells: pl.DataFrame
    left_out: pl.DataFrame
    summary: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write `items`, `models`, `cells` and `left_out` as Parquet, and `consensus.json`.

        What people said of other scores goes.
        """
        (Path(folder) / VOTES).unlink(missing_ok=True)
        for name in ("items", "models", "cells", "left_out"):
            write_table(Path(folder) / f"{name}.parquet", getattr(self, name))
        write_json(Path(folder) / "consensus.json", self.summary)


def fit_consensus(
    scores: Scores,
    *,
    variant: Variant = "exact",
    step: float = 0.05,
    draws: int = 200,
    shuffles: int = 20,
    seed: int = 0,
    progress: Progress = lambda done, total, detail: None,
) -> Consensus:
    """Fit the consensus, leave each model and family out, shuffle, and resample items.

    Items whose texts are siblings are drawn and shuffled together.

    Args:
        scores: from `load_scores`. Models of one family count together as one.
        variant: of the fit, see `latent.fit`.
        step: of the bins.
        draws: resamples of items, for intervals.
        shuffles: of each family's scores over the items of a theory: what the test of two classes
            gives where families have nothing in common.
        seed: of both.
        progress: called with steps done, their number, and what is done.

    Raises:
        DataError: scores that can't be fitted.
        UsageError: an unknown variant, or too few draws.
    """
    if draws < 20 or shuffles < 19:
        raise UsageError(
            "too few draws", f"{draws} resamples, {shuffles} shuffles", "take 20 and 19 at least"
        )
    rng, stems = np.random.default_rng(seed), scores.siblings()
    together = Together.of(stems)
    slow: Counter[str] = Counter()
    n_models, _, n_items = scores.values.shape
    total, done = n_models + shuffles + draws, 0

    def step_on(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, total, what)

    def fitted(what: str, values: Floats, kept: list[int], start: Latent | None = None) -> Latent:
        weights = family_weights([scores.families[m] for m in kept])
        begun = None if start is None else start.of(kept)
        found = fit(values[kept], variant=variant, step=step, weights=weights, start=begun)
        slow[what] += not found.converged
        return found

    every = list(range(n_models))
    whole = fitted("whole", scores.values, every)
    null = []
    for _ in range(shuffles):
        null.append(fitted("shuffled", _shuffled(scores, stems, rng), every).bic)
        step_on("shuffled")
    p = (1 + sum(bic <= whole.bic for bic in null)) / (1 + shuffles)
    why = _why_not(scores, whole, p, len(together))
    others = np.full_like(scores.values, np.nan)
    for m in range(n_models):
        out = left_out(scores, m)
        if why is None and out:
            left = fitted("left out", scores.values, [i for i in every if i not in out], whole)
            if left.bic < 0:  # what the others have in common may be nothing
                others[m] = left.consensus
        step_on(f"without {scores.models[m]}")
    params, cells = [_of_models(whole)], [_of_cells(scores.values, others)]
    for _ in range(draws if why is None else 0):
        at = together.drawn(rng)
        values = scores.values[:, :, at]
        kept = [m for m in every if np.isfinite(values[m]).any()]
        row = np.full((n_models, len(_OF_MODELS)), np.nan)
        if len(kept) > 1:
            row[kept] = _of_models(fitted("resampled", values, kept, whole))
        params.append(row)
        cells.append(_of_cells(values, others[:, :, at]))
        step_on("resampled")
    supported = why is None
    n = np.isfinite(scores.values).any(axis=0).sum(axis=1)
    return Consensus(
        items=_items_frame(scores, whole, supported=supported),
        models=_models_frame(scores, np.array(params), supported=supported),
        cells=_cells_frame(scores, np.array(cells), params[0][:, _OF_MODELS.index("d")]),
        left_out=_left_out_frame(scores, others),
        summary={
            "models": list(scores.models),
            "families": list(scores.families),
            "theories": list(scores.theories),
            "scores": scores.digest(),
            "environment": environment(),
            "words": dict(scores.words),
            "items": n_items,
            "stems": len(together),
            "unscored_items": scores.unscored,
            "missing_scores": int(np.isnan(scores.values).sum()),
            "variant": variant,
            "step": step if variant == "binned" else None,
            "iterations": whole.iterations,
            "not_converged": {what: slow[what] for what in _FITS},
            "bic": whole.bic,
            "bic_shuffled": [min(null), max(null)],
            "p": p,
            "supported": supported,
            "why_not": why,
            "prior": dict(zip(scores.theories, whole.prior.tolist(), strict=True))
            if supported
            else None,
            "scored": dict(zip(scores.theories, n.tolist(), strict=True)),
            "correlations": _correlations(whole.consensus, scores.theories) if supported else None,
            "draws": draws,
            "shuffles": shuffles,
            "seed": seed,
        },
    )


def left_out(scores: Scores, model: int) -> list[int]:
    """Return whom a model is held against the consensus without: its family, or itself.

    Nobody, where fewer than two families would be left, or two models.
    """
    n = len(scores.models)
    kin = [m for m in range(n) if scores.families[m] == scores.families[model]]
    others = {scores.families[m] for m in range(n) if m not in kin}
    if len(others) >= 2:
        return kin
    alone = {scores.families[m] for m in range(n) if m != model}
    return [model] if len(alone) >= 2 else []


def _why_not(scores: Scores, whole: Latent, p: float, n_stems: int) -> str | None:
    """Say why a consensus of two classes isn't supported; None where it is."""
    if len(set(scores.families)) < 2:
        return "all models are of one family (score by another one too, or name --families)"
    if n_stems < min(FEWEST_STEMS, len(scores.items)):
        return f"the items are variants of {n_stems} texts; {FEWEST_STEMS} are needed"
    if whole.bic >= 0:
        return "one class explains the scores as well"
    if p > _LEVEL:
        return "scores that are shuffled over the items give as much"
    called = whole.consensus >= 0.5
    for model, values, pair in zip(scores.models, scores.values, whole.judges, strict=True):
        if any(one.narrowest for one in pair):
            there = np.isfinite(values) & np.isfinite(whole.consensus)
            middle = (pair[0].mean + pair[1].mean) / 2
            if np.mean((values[there] >= middle) == called[there]) >= _FOLLOWED:
                return f"it follows {model} alone, whose scores lie in two narrow heaps"
    return None


def _shuffled(scores: Scores, stems: Ints, rng: np.random.Generator) -> Floats:
    """Shuffle each family's scores over the items that it scored, theory by theory.

    What siblings share they share afterwards: it is there by chance as often as it can be.
    """
    values = scores.values.copy()
    for family in dict.fromkeys(scores.families):
        kin = [m for m, name in enumerate(scores.families) if name == family]
        for j in range(values.shape[1]):
            scored = np.asarray(np.isfinite(values[kin, j]).any(axis=0))
            there = Together.of(stems, scored)
            came = there.shuffled(rng)
            for m in kin:
                values[m, j, there.places] = values[m, j, came]
    return values


def _of_models(latent: Latent) -> Floats:
    """Return `_OF_MODELS` of each model, [models, 6]."""
    prior = float(np.nanmean(latent.prior))
    rows = [
        [
            *(one.mean, np.sqrt(one.variance), zero.mean, np.sqrt(zero.variance)),
            *(d, information(zero, one, prior)),
        ]
        for (zero, one), d in zip(latent.judges, separations(latent), strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def _of_cells(values: Floats, others: Floats) -> Floats:
    """Return `MEASURES` of each model under each theory, [models, theories, measures]."""
    found = np.full((*values.shape[:2], len(MEASURES)), np.nan)
    for m, j in np.ndindex(*values.shape[:2]):
        there = np.isfinite(values[m, j]) & np.isfinite(others[m, j])
        if there.any():
            p, q = values[m, j, there], others[m, j, there]
            found[m, j] = [measure(p, q) for measure in MEASURES.values()]
    return found


def _with_intervals(names: tuple[str, ...], found: Floats) -> dict[str, float | None]:
    """Return values by name, each with its 95 % interval; `found` [1 + draws, names].

    No interval, where a draw gave no number.
    """
    row: dict[str, float | None] = {}
    for i, name in enumerate(names):
        value, draws = float(found[0, i]), found[1:, i]
        row[name] = value if np.isfinite(value) else None
        row[f"{name}_low"] = row[f"{name}_high"] = None
        if len(draws) and np.isfinite(found[:, i]).all():
            low, high = np.quantile(draws, [0.025, 0.975])
            row[f"{name}_low"], row[f"{name}_high"] = float(low), float(high)
    return row


def _models_frame(scores: Scores, found: Floats, *, supported: bool) -> pl.DataFrame:
    weights = family_weights(list(scores.families))
    rows = []
    for m, model in enumerate(scores.models):
        values = scores.values[m]
        there = values[np.isfinite(values)]
        numbers = _with_intervals(
            _OF_MODELS, found[:, m] if supported else np.full_like(found[:, m], np.nan)
        )
        rows.append(
            {
                "model": model,
                "family": scores.families[m],
                "weight": float(weights[m]),
                "n": len(there),
                "missing": int(np.isnan(values).sum()),
                **numbers,
                "status": _status(there, numbers),
            }
        )
    return pl.DataFrame(rows, schema_overrides=_floats(_OF_MODELS), infer_schema_length=None)


def _status(there: Floats, numbers: dict[str, float | None]) -> str:
    d, high = numbers["d"], numbers["d_high"]
    if there.min() == there.max():
        return "says one score alone"
    if d is None:
        return "no consensus to be held against"
    if abs(d) <= INFORMATIVE:
        return "says little"
    low = numbers["d_low"]
    if low is None or high is None or low <= 0 <= high:
        return "can't be told: the interval of d' holds 0, or there is none"
    if d < 0:
        return "reversed: it scores lower what the others find acceptable"
    return "ok"


def _cells_frame(scores: Scores, found: Floats, d: Floats) -> pl.DataFrame:
    """Return a row a model and theory, and whether it deviates.

    It does where the whole interval of F1 lies more than 1.5 median absolute deviations under the
    cells' median or that of the divergence in their worst quarter, and the model isn't one that
    says little.
    """
    names = tuple(MEASURES)
    js, f1 = (found[0, :, :, names.index(name)] for name in ("js", "f1"))
    low, worst = -np.inf, np.inf
    if (known := f1[np.isfinite(f1)]).size:
        low = np.median(known) - 1.5 * np.median(np.abs(known - np.median(known)))
    if np.isfinite(js).any():
        worst = float(np.nanquantile(js, 0.75))
    rows = []
    for m, j in np.ndindex(*f1.shape):
        numbers = _with_intervals(names, found[:, m, j])
        f1_high, js_low = numbers["f1_high"], numbers["js_low"]
        far = (f1_high is not None and f1_high < low) or (js_low is not None and js_low > worst)
        rows.append(
            {
                "model": scores.models[m],
                "theory": scores.theories[j],
                "without": ", ".join(scores.models[i] for i in left_out(scores, m)) or None,
                "n": int(np.isfinite(scores.values[m, j]).sum()),
                **numbers,
                "deviates": bool(far and abs(d[m]) > INFORMATIVE),
            }
        )
    kinds = {**_floats(names), "without": pl.String}
    return pl.DataFrame(rows, schema_overrides=kinds, infer_schema_length=None)


def _floats(names: tuple[str, ...]) -> dict[str, Any]:
    return {f"{name}{end}": pl.Float64 for name in names for end in ("", "_low", "_high")}


def _named(names: Sequence[str | None], at: NDArray[np.int64]) -> pl.Series:
    return pl.Series(names, dtype=pl.String).gather(at)


def _items_frame(scores: Scores, whole: Latent, *, supported: bool) -> pl.DataFrame:
    n = np.isfinite(scores.values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(scores.values, axis=0) / np.where(n, n, np.nan)
    theory, item = np.indices(n.shape).reshape(2, -1)
    texts = {} if scores.texts is None else {"text": _named(scores.texts, item)}
    return pl.DataFrame(
        {
            "item": _named(scores.items, item),
            "theory": _named(scores.theories, theory),
            **texts,
            "consensus": whole.consensus.ravel() if supported else np.full(n.size, np.nan),
            "mean_score": mean.ravel(),
            "models": n.ravel(),
        }
    ).with_columns(pl.col("consensus", "mean_score").fill_nan(None))


def _left_out_frame(scores: Scores, others: Floats) -> pl.DataFrame:
    model, theory, item = np.indices(others.shape).reshape(3, -1)
    return pl.DataFrame(
        {
            "model": _named(scores.models, model),
            "theory": _named(scores.theories, theory),
            "item": _named(scores.items, item),
            "score": scores.values.ravel(),
            "consensus": others.ravel(),
        }
    ).with_columns(pl.col("score", "consensus").fill_nan(None))


def _correlations(consensus: Floats, theories: tuple[str, ...]) -> dict[str, float | None]:
    """Return the correlation of two theories' consensus, by their names."""
    found: dict[str, float | None] = {}
    for a in range(len(theories)):
        for b in range(a + 1, len(theories)):
            x, y = consensus[a], consensus[b]
            both = np.isfinite(x) & np.isfinite(y)
            varies = both.sum() > 2 and x[both].std() > 0 and y[both].std() > 0
            r = float(np.corrcoef(x[both], y[both])[0, 1]) if varies else None
            found[f"{theories[a]}, {theories[b]}"] = r
    return found
