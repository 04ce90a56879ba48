"""Does the topology survive? The analyses of held-out texts, steered, at later layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moralprobe.activations.pooling import weigh
from moralprobe.activations.text_states import TableTexts
from moralprobe.analyses.layer import measure_states
from moralprobe.design import Design, make_design
from moralprobe.errors import DataError, NumericError
from moralprobe.geometry.categories import category_match
from moralprobe.geometry.measure import Measure, gain
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import MoralVectors
from moralprobe.probing import text_facts
from moralprobe.sites import Site
from moralprobe.steering.apply import steering
from moralprobe.steering.arms import STEERED, UNSTEERED
from moralprobe.steering.intervention import Intervention

ANALYSES: Final = ("separation", "gradient", "structure", "recoverability")
SHOWN: Final = (
    ("category_rdm", "all"),
    ("opposed_cosine", "mean"),
    ("auroc", "mean"),
    ("spearman_given_length", "mean"),
    ("rsa_unique", "axis"),
    ("rsa_unique", "polarity"),
    ("r2", "mean"),
)
"""Measure and category of what is printed; all are kept."""
LOWER_IS_BETTER: Final = ("opposed_cosine",)
"""Of these."""
GAIN: Final = ("gain", "gain_low", "gain_high")
_AT_ONCE: Final = 64


def held_out(texts: TableTexts, split: str = "test") -> NDArray[np.int64]:
    """Return which texts belong to a split, as places in `texts`.

    Raises:
        DataError: none.
    """
    rows = np.flatnonzero(texts.split == split)
    if not len(rows):
        raise DataError("no text is held out", f"there is no {split} split", "give a larger table")
    return rows


def design_of(
    vectors: MoralVectors,
    texts: TableTexts,
    rows: NDArray[np.int64],
    *,
    draws: int = 200,
    seed: int = 0,
    analyses: Sequence[str] = ANALYSES,
) -> Design:
    """Return the audited analyses' design of some texts, whose states come in the order of rows."""
    names = [texts.texts[i] for i in rows]
    place = pl.DataFrame(
        {
            "group": [texts.group[i] for i in rows],
            "text_index": np.arange(len(rows)),
            "n_tokens": [len(texts.encoded[i]) for i in rows],
        }
    )
    frame = vectors.frame.with_columns(pl.col("group").cast(pl.String))
    pairs = frame.join(place, on="group", how="inner")
    return make_design(
        pairs, text_facts(names), "audited", draws=draws, seed=seed, analyses=analyses
    )


def measures_of(
    states: NDArray[np.float32],
    moral: NDArray[np.float64],
    design: Design,
    *,
    analyses: Sequence[str] = ANALYSES,
    draws: int = 200,
    seed: int = 0,
) -> list[Measure]:
    """Measure texts' states: the audited analyses, and how the ten categories lie to each other.

    Args:
        states: [texts, d] in the order of the design's texts.
        moral: [texts, 10].
        design: from `design_of`.
        analyses: of the design.
        draws: of the categories' match.
        seed: of the same.

    Raises:
        NumericError: NaN or infinity in the states.
    """
    if not np.isfinite(states).all():
        raise NumericError(
            "steered states hold NaN or infinity",
            f"in {int((~np.isfinite(states).all(1)).sum())} of {len(states)} texts",
            "lower the strength",
        )
    return [
        category_match(states, moral, draws=draws, seed=seed),
        *measure_states(states[design.text], design, analyses, density=False),
    ]


def as_row(measure: Measure) -> dict[str, Any]:
    """Return a measure's name, category, value, interval, null range, p, n, unit and status."""
    names = ("name", "category", "value", "ci_low", "ci_high", "null_low", "null_high", "p", "n")
    return {name: getattr(measure, name) for name in (*names, "unit", "status")}


def _gain(steered: Measure | None, arm: str, measure: Measure) -> dict[str, float | None]:
    """Return what steering has over another arm, by the resamples that both share."""
    if steered is None or arm == STEERED:
        return dict.fromkeys(GAIN)
    values = (steered.value - measure.value, *gain(steered, measure))
    return dict(zip(GAIN, values, strict=True))


def over_best_control(found: pl.DataFrame) -> pl.DataFrame:
    """Return what steering has over the control that does best, of the measures that are printed.

    It is the least of the gains over all controls, and `surely` says whether every control's
    interval lies above zero; where lower is better the largest, and below. `unsteered` is none.

    Args:
        found: from `survival`.

    Returns:
        A row a layer and measure: `layer`, `name`, `category`, the `control`, `gain`, `gain_low`,
        `gain_high` and `surely`.
    """
    keys = ("layer", "name", "category")
    if not {"layer", "gain"} <= set(found.columns):  # made before gains were
        return pl.DataFrame(schema=[*keys, "control", *GAIN, "surely"])
    shown = pl.DataFrame(SHOWN, schema=["name", "category"], orient="row")
    lower = pl.col("name").is_in(LOWER_IS_BETTER)
    beaten = pl.when(lower).then(pl.col("gain_high") < 0).otherwise(pl.col("gain_low") > 0)
    compared = pl.all_horizontal(pl.col(GAIN).is_finite())
    return (
        found.filter(~pl.col("arm").is_in([STEERED, UNSTEERED]), compared)
        .join(shown, on=["name", "category"], how="semi", maintain_order="left")
        .with_columns(surely=beaten.all().over(keys))
        .sort(pl.when(lower).then(-pl.col("gain")).otherwise("gain"), maintain_order=True)
        .unique(keys, keep="first", maintain_order=True)
        .select(*keys, pl.col("arm").alias("control"), *GAIN, "surely")
    )


def steered_states(
    model: CausalModel,
    encoded: Sequence[Encoded],
    intervention: Intervention | None,
    layers: Sequence[int],
    poolings: tuple[str, ...] = ("mean_unit",),
    *,
    step: Callable[[int], None] = lambda n: None,
) -> dict[int, NDArray[np.float32]]:
    """Return texts' pooled states at some layers while all of their tokens are steered.

    Args:
        model: from `load_model`.
        encoded: texts as tokens.
        intervention: none leaves the model as it is.
        layers: decoder blocks, counted from 0.
        poolings: names of `POOLINGS`.
        step: called with the number of texts after every batch.

    Returns:
        By layer, [texts, poolings, d_model].
    """
    sites = [Site("resid_post", layer) for layer in sorted(layers)]
    shape = len(encoded), len(poolings), model.d_model
    found = {int(site.layer or 0): np.empty(shape, np.float32) for site in sites}
    order = np.argsort([len(text) for text in encoded], kind="stable")
    for at in range(0, len(order), _AT_ONCE):
        rows = order[at : at + _AT_ONCE]
        batch = model.collate([encoded[i] for i in rows])

        def keep(site: Site, hidden: torch.Tensor, batch: Any = batch, rows: Any = rows) -> None:
            there, states = batch.to(hidden.device), hidden.float()
            states = torch.where(there.mask[..., None], states, 0.0)
            weights = weigh(states.norm(dim=-1), there.mask, there.action, poolings)
            found[int(site.layer or 0)][rows] = there.sums(weights, states).cpu().numpy()

        with steering(model, intervention, batch):
            model.run_taps(batch, sites, keep)
        step(len(rows))
    return found


def survival(
    model: CausalModel,
    vectors: MoralVectors,
    texts: TableTexts,
    arms: Mapping[str, Intervention | None],
    layers: Sequence[int],
    *,
    analyses: Sequence[str] = ANALYSES,
    draws: int = 200,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> pl.DataFrame:
    """Measure held-out texts under every arm at some layers.

    Args:
        model: from `load_model`.
        vectors: a table of moral vectors.
        texts: its distinct texts; those of the test split are read.
        arms: interventions by name.
        layers: of an edit's own and after.
        analyses: of the four.
        draws: resamples and permutations.
        seed: of them.
        progress: called after every arm and layer.

    Returns:
        A row an arm, layer and measure: `arm`, `layer`, the columns of `as_row`, and of every other
        arm `gain`, what `steered` has less that arm, with its 95 % interval from `gain_low` to
        `gain_high`. All arms are measured on the same texts and resamples, so the interval is of
        paired differences.
    """
    rows = held_out(texts)
    design = design_of(vectors, texts, rows, draws=draws, seed=seed, analyses=analyses)
    encoded = [texts.encoded[i] for i in rows]
    read: dict[tuple[str, int], list[Measure]] = {}
    total = len(arms) * len(layers)
    for name, intervention in arms.items():
        states = steered_states(model, encoded, intervention, layers)
        for layer in layers:
            read[name, layer] = measures_of(
                states[layer][:, 0],
                texts.moral[rows],
                design,
                analyses=analyses,
                draws=draws,
                seed=seed,
            )
            progress(len(read), total, f"{name}, layer {layer}")
    return _table(read)


def _table(read: Mapping[tuple[str, int], Sequence[Measure]]) -> pl.DataFrame:
    """Return arms' measures at layers as rows, each with what steering has over it."""
    steered = {
        (layer, one.name, one.category): one
        for (arm, layer), measures in read.items()
        if arm == STEERED
        for one in measures
    }
    rows = [
        {
            "arm": arm,
            "layer": layer,
            **as_row(one),
            **_gain(steered.get((layer, one.name, one.category)), arm, one),
        }
        for (arm, layer), measures in read.items()
        for one in measures
    ]
    overrides: dict[str, Any] = dict.fromkeys(GAIN, pl.Float64)
    return pl.DataFrame(rows, schema_overrides=overrides, infer_schema_length=None)
