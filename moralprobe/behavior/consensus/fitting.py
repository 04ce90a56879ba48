"""A table of scores to a consensus, with what stands beside it: intervals, a null, who deviates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.consensus.agreement import MEASURES
from moralprobe.behavior.consensus.latent import Latent, Variant, family_weights, fit, separations
from moralprobe.behavior.consensus.scores import Scores
from moralprobe.behavior.consensus.truncated import information
from moralprobe.errors import UsageError
from moralprobe.files import write_json, write_table

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
INFORMATIVE: Final = 0.3
"""Of d': a model below it can't be told to deviate, only to say little."""
_LEVEL: Final = 0.05
_OF_MODELS: Final = ("mean_1", "width_1", "mean_0", "width_0", "d", "bits")


@dataclass(frozen=True)
class Consensus:
    """What was fitted.

    `items` has a row an item and theory: `consensus`, null where two classes aren't supported;
    `models` a model's parameters, d' and information with intervals; `cells` a model's distance
    from the others' consensus under each theory; `left_out` the consensus without each model, or
    without its family where two others are left.
    """

    items: pl.DataFrame
    models: pl.DataFrame
    cells: pl.DataFrame
    left_out: pl.DataFrame
    summary: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write `items`, `models`, `cells` and `left_out` as Parquet, and `consensus.json`."""
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

    Args:
        scores: from `load_scores`. Models of one family count together as one.
        variant: of the fit, see `latent.fit`.
        step: of the bins.
        draws: resamples of items, for intervals.
        shuffles: of each model's scores over the items of a theory: what the test of two classes
            gives where models have nothing in common.
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
    rng = np.random.default_rng(seed)
    n_models, _, n_items = scores.values.shape
    total, done = n_models + shuffles + draws, 0

    def step_on(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, total, what)

    def fitted(some: Scores, values: Floats | None = None, start: Latent | None = None) -> Latent:
        weights = family_weights(list(some.families))
        values = some.values if values is None else values
        return fit(values, variant=variant, step=step, weights=weights, start=start)

    whole = fitted(scores)
    null = []
    for _ in range(shuffles):
        null.append(fitted(scores, _shuffled(scores.values, rng)).bic)
        step_on("shuffled")
    p = (1 + sum(bic <= whole.bic for bic in null)) / (1 + shuffles)
    supported = whole.bic < 0 and p <= _LEVEL
    others = np.full_like(scores.values, np.nan)
    for m in range(n_models):
        if supported and (left := left_out(scores, m)):
            others[m] = fitted(scores.without(left)).consensus
        step_on(f"without {scores.models[m]}")
    params, cells = [_of_models(whole)], [_of_cells(scores.values, others)]
    for _ in range(draws):
        at = rng.integers(n_items, size=n_items)
        params.append(_of_models(fitted(scores, scores.values[:, :, at], whole)))
        cells.append(_of_cells(scores.values[:, :, at], others[:, :, at]))
        step_on("resampled")
    models = _models_frame(scores, whole, np.array(params))
    deviating = _cells_frame(scores, np.array(cells), models["d"].to_list())
    return Consensus(
        items=_items_frame(scores, whole, supported=supported),
        models=models,
        cells=deviating,
        left_out=_left_out_frame(scores, others),
        summary={
            "models": list(scores.models),
            "families": list(scores.families),
            "theories": list(scores.theories),
            "items": n_items,
            "unscored_items": scores.unscored,
            "missing_scores": int(np.isnan(scores.values).sum()),
            "variant": variant,
            "step": step if variant == "binned" else None,
            "iterations": whole.iterations,
            "converged": whole.converged,
            "prior": dict(zip(scores.theories, whole.prior.tolist(), strict=True)),
            "bic": whole.bic,
            "bic_shuffled": [min(null), max(null)],
            "p": p,
            "supported": supported,
            "correlations": _correlations(whole.consensus, scores.theories),
            "draws": draws,
            "shuffles": shuffles,
            "seed": seed,
        },
    )


def left_out(scores: Scores, model: int) -> list[int]:
    """Return whom a model is held against the consensus without: its family, or itself.

    Nobody, where fewer than two models would be left.
    """
    n = len(scores.models)
    kin = [m for m in range(n) if scores.families[m] == scores.families[model]]
    return kin if n - len(kin) >= 2 else [model] if n > 2 else []


def _shuffled(values: Floats, rng: np.random.Generator) -> Floats:
    """Shuffle each model's scores over the items of each theory, by themselves."""
    return rng.permuted(values, axis=2)


def _of_models(latent: Latent) -> Floats:
    """Return `_OF_MODELS` of each model, [models, 6]."""
    prior = float(latent.prior.mean())
    bits = [
        information((m1, s1), (m0, s0), prior)
        for (m0, m1), (s0, s1) in zip(latent.mean, latent.width, strict=True)
    ]
    columns = (latent.mean[:, 1], latent.width[:, 1], latent.mean[:, 0], latent.width[:, 0])
    return np.column_stack([*columns, separations(latent), bits])


def _of_cells(values: Floats, others: Floats) -> Floats:
    """Return `MEASURES` of each model under each theory, [models, theories, measures]."""
    found = np.full((*values.shape[:2], len(MEASURES)), np.nan)
    for m, j in np.ndindex(*values.shape[:2]):
        there = np.isfinite(values[m, j]) & np.isfinite(others[m, j])
        if there.any():
            p, q = values[m, j, there], others[m, j, there]
            found[m, j] = [measure(p, q) for measure in MEASURES.values()]
    return found


def _interval(draws: Floats) -> tuple[float | None, float | None]:
    """Return the 95 % interval of draws; none where one of them isn't a number."""
    if not np.isfinite(draws).all():
        return None, None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _with_intervals(names: tuple[str, ...], found: Floats) -> dict[str, float | None]:
    """Return values by name, each with its low and high; `found` [1 + draws, names]."""
    row: dict[str, float | None] = {}
    for i, name in enumerate(names):
        value = float(found[0, i])
        row[name] = value if np.isfinite(value) else None
        row[f"{name}_low"], row[f"{name}_high"] = _interval(found[1:, i])
    return row


def _models_frame(scores: Scores, whole: Latent, found: Floats) -> pl.DataFrame:
    weights = family_weights(list(scores.families))
    rows = []
    for m, model in enumerate(scores.models):
        values = scores.values[m]
        d = found[0, m, _OF_MODELS.index("d")]
        there = values[np.isfinite(values)]
        said = "ok"
        if there.min() == there.max():
            said = "says one score alone"
        elif d < 0:
            said = "reversed: it scores lower what the others find acceptable"
        elif d <= INFORMATIVE:
            said = "says little"
        rows.append(
            {
                "model": model,
                "family": scores.families[m],
                "weight": float(weights[m]),
                "n": len(there),
                "missing": int(np.isnan(values).sum()),
                **_with_intervals(_OF_MODELS, found[:, m]),
                "status": said,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _cells_frame(scores: Scores, found: Floats, d: list[float]) -> pl.DataFrame:
    """Return a row a model and theory, and whether it deviates.

    It does where F1 lies more than 1.5 median absolute deviations under the cells' median or the
    divergence is in their worst quarter, and the model isn't one that says little.
    """
    names = tuple(MEASURES)
    js, f1 = (found[0, :, :, names.index(name)] for name in ("js", "f1"))
    known = np.isfinite(f1)
    middle = float(np.median(f1[known])) if known.any() else np.nan
    spread = float(np.median(np.abs(f1[known] - middle))) if known.any() else np.nan
    worst = float(np.nanquantile(js, 0.75)) if np.isfinite(js).any() else np.nan
    rows = []
    for m, j in np.ndindex(*f1.shape):
        far = bool(f1[m, j] < middle - 1.5 * spread or js[m, j] > worst)
        rows.append(
            {
                "model": scores.models[m],
                "theory": scores.theories[j],
                "without": ", ".join(scores.models[i] for i in left_out(scores, m)) or None,
                "n": int(np.isfinite(scores.values[m, j]).sum()),
                **_with_intervals(names, found[:, m, j]),
                "deviates": far and d[m] > INFORMATIVE,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _items_frame(scores: Scores, whole: Latent, *, supported: bool) -> pl.DataFrame:
    n = np.isfinite(scores.values).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(scores.values, axis=0) / np.where(n, n, np.nan)
    return pl.DataFrame(
        {
            "item": np.tile(scores.items, len(scores.theories)),
            "theory": np.repeat(scores.theories, len(scores.items)),
            "consensus": whole.consensus.ravel() if supported else np.full(n.size, np.nan),
            "mean_score": mean.ravel(),
            "models": n.ravel(),
        }
    ).with_columns(pl.col("consensus", "mean_score").fill_nan(None))


def _left_out_frame(scores: Scores, others: Floats) -> pl.DataFrame:
    m, j, i = scores.values.shape
    return pl.DataFrame(
        {
            "model": np.repeat(scores.models, j * i),
            "theory": np.tile(np.repeat(scores.theories, i), m),
            "item": np.tile(scores.items, m * j),
            "score": scores.values.ravel(),
            "consensus": others.ravel(),
        }
    ).with_columns(pl.col("score", "consensus").fill_nan(None))


def _correlations(consensus: Floats, theories: tuple[str, ...]) -> dict[str, float]:
    """Return the correlation of two theories' consensus, by their names."""
    found = {}
    for a in range(len(theories)):
        for b in range(a + 1, len(theories)):
            both = np.isfinite(consensus[[a, b]]).all(axis=0)
            if both.sum() > 2:
                r = np.corrcoef(consensus[a, both], consensus[b, both])[0, 1]
                found[f"{theories[a]}, {theories[b]}"] = float(r)
    return found
