"""Sentences made from a study's numbers by stated rules; none is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from moralprobe.options import POOLINGS_OF
from moralprobe.study import Study
from moralprobe.table import ONE_ANNOTATOR

CONFOUND: Final = "explained by text length"
CONFOUND_SHARE: Final = 0.5
"""The rule: 1 / length explains more than this share of the pooled states' variance, with the whole
95 % interval."""


_SHOWN: Final = 6  # unfilled strata that are named


@dataclass(frozen=True)
class Best:
    """One measure where a mode is at its best or most extreme, as a table cell."""

    mode: str
    pooling: str
    row: dict[str, Any]


def modes_of(study: Study) -> list[str]:
    """Return a study's modes, the published one first."""
    return [mode for mode in POOLINGS_OF if mode in study.meta["modes"]]


def headline_pooling(study: Study, mode: str) -> str | None:
    """Return the pooling that a mode's headline is read from, or None."""
    here = study.meta["modes"].get(mode, [])
    return next((p for p in POOLINGS_OF[mode] if p in here), None)  # type: ignore[index]


def confounded_layers(study: Study, pooling: str, mode: str = "li2026") -> list[int]:
    """Return the layers in which text length explains what a pooling shows, by `CONFOUND_SHARE`."""
    share = study.select(measure="length_share", pooling=pooling, mode=mode)
    # Where texts are of one length the share is nan, which compares as larger than any number.
    known = share.filter(pl.col("ci_low").is_finite())
    return known.filter(pl.col("ci_low") >= CONFOUND_SHARE)["layer"].to_list()


def confound_sentence(study: Study, pooling: str) -> str | None:
    """Say where and how far text length explains the `li2026` numbers; None where it doesn't."""
    layers = confounded_layers(study, pooling)
    if not layers:
        return None
    where = pl.col("layer").is_in(layers)

    def span(measure: str, category: str) -> str | None:
        rows = study.select(measure=measure, category=category, mode="li2026", pooling=pooling)
        values = rows.filter(where)["value"].drop_nans().to_list()
        return _span(values) if values else None

    text = (
        f"In {_layers(layers)} the li2026 numbers under {pooling} pooling are {CONFOUND}: "
        f"one over the number of tokens accounts for {span('length_share', 'all')} of the variance "
        f"of the pooled states"
    )
    # Not every study holds the gradient.
    text += (
        f", and likeness to a category's own centre goes with the number of tokens at a rank "
        f"correlation of {correlation} (mean of absolute values)."
        if (correlation := span("length_correlation", "mean_abs"))
        else "."
    )
    cosine = study.select(
        measure="opposed_cosine", category="mean", mode="li2026", pooling=pooling
    ).filter(where)
    if cosine.height and cosine["value"].is_finite().any():
        text += (
            f" The opposed cosines there ({span('opposed_cosine', 'mean')} on average) follow how "
            f"long the poles' texts are, not how the model tells the poles apart"
        )
        as_shuffled = cosine.filter(pl.col("p") > 0.05).height
        text += (
            f"; in {as_shuffled} of these {len(layers)} layers shuffled labels give the same."
            if as_shuffled
            else "."
        )
    return text


def length_matters(study: Study, pooling: str) -> str | None:
    """Say where length, though it isn't half of the variance, is half of what likeness follows."""
    share = study.select(measure="length_correlation", category="mean_abs", mode="li2026")
    share = share.filter(pooling=pooling).filter(pl.col("ci_low").is_finite())
    named = confounded_layers(study, pooling)
    rows = share.filter((pl.col("ci_low") ** 2 >= CONFOUND_SHARE) & ~pl.col("layer").is_in(named))
    if rows.is_empty():
        return None
    layers = rows["layer"].to_list()
    return (
        f"In {_layers(layers)}, too, likeness to a category's own centre goes with the number of "
        f"tokens under {pooling} pooling (rank correlation {_span(rows['value'].to_list())}, which "
        f"is at least half of its ranks' variance): read the li2026 numbers there with care."
    )


def findings(study: Study) -> list[str]:
    """Return what the study says, a sentence each: the confound first, then each analysis."""
    found = [
        sentence
        for pooling in study.meta["modes"].get("li2026", [])
        for sentence in (confound_sentence(study, pooling), length_matters(study, pooling))
        if sentence is not None
    ]
    pooling = headline_pooling(study, "audited")
    if pooling is not None:
        found += _separation(study, pooling)
        found += _gradient(study, pooling)
        found += _structure(study, pooling)
        found += _recoverability(study, pooling)
    return found + _disagreement(study)


def best(study: Study, mode: str, measure: str, category: str, *, lowest: bool) -> Best | None:
    """Return the layer where a measure is lowest or highest under a mode's headline pooling."""
    pooling = headline_pooling(study, mode)
    if pooling is None:
        return None
    rows = study.select(measure=measure, category=category, mode=mode, pooling=pooling)
    rows = rows.filter(pl.col("value").is_finite())
    if rows.is_empty():
        return None
    return Best(mode, pooling, rows.sort("value", descending=not lowest).row(0, named=True))


def _separation(study: Study, pooling: str) -> list[str]:
    if study.select(analysis="separation", mode="audited").is_empty():
        return []
    rows = study.select(measure="auroc", category="mean", mode="audited", pooling=pooling)
    rows = rows.filter(pl.col("value").is_finite())
    if rows.is_empty():
        return ["There are too few texts of opposed poles to say whether they are separated."]
    above_null = rows.filter((pl.col("q") < 0.05) & (pl.col("value") > pl.col("null_high"))).height
    words = rows["baseline"][0]
    above_words = rows.filter(pl.col("gain_low") > 0).height
    top = rows.sort("value", descending=True).row(0, named=True)
    return [
        f"Held out, virtue and vice of one axis are told apart better than text length and topic "
        f"alone allow (labels shuffled within strata, q < 0.05) in {above_null} of "
        f"{rows.height} layers under {pooling} pooling, and better than a bag of words does "
        f"({words:.2f}) in {above_words}: at best AUROC {with_interval(top)} in layer "
        f"{top['layer']}, the highest of {rows.height}, which flatters it."
    ]


def _gradient(study: Study, pooling: str) -> list[str]:
    if study.select(analysis="gradient", mode="audited").is_empty():
        return []
    name = "spearman_given_length"
    rows = study.select(measure=name, category="mean", mode="audited", pooling=pooling)
    rows = rows.filter(pl.col("value").is_finite())
    if rows.is_empty():
        return ["There are too few prototypes to say whether intensity is kept in categories."]
    kept = rows.filter((pl.col("q") < 0.05) & (pl.col("value") > pl.col("null_high"))).height
    above = rows.filter(pl.col("gain_low") > 0).height
    top = rows.sort("value", descending=True).row(0, named=True)
    surface = study.select(
        measure="spearman_given_surface", category="mean", mode="audited", pooling=pooling
    ).filter(layer=top["layer"])
    given = (
        f" With word frequency and valence held constant too, it is "
        f"{with_interval(surface.row(0, named=True))} there."
        if surface.height
        else ""
    )
    return [
        f"Inside categories, likeness to the other texts' prototypes rises with typicality, text "
        f"length held constant, in {kept} of {rows.height} layers under {pooling} pooling "
        f"(q < 0.05), and more than in a bag of words ({rows['baseline'][0]:.2f}) in {above}: at "
        f"best a rank correlation of {with_interval(top)} in layer {top['layer']}.{given}"
    ]


def _structure(study: Study, pooling: str) -> list[str]:
    found = []
    density = study.select(measure="ari", category="Polarity3", mode="li2026")
    density = density.filter(pl.col("value").is_finite())
    if density.height:
        top = density.sort("value", descending=True).row(0, named=True)
        where = {"mode": "li2026", "pooling": top["pooling"], "layer": top["layer"]}
        covered = study.select(measure="coverage", **where)["value"][0]
        noise = study.select(measure="ari_with_noise", category="Polarity3", **where)["value"][0]
        found.append(
            f"The density clusters agree best with virtue, vice and neutral in layer "
            f"{top['layer']} (ARI {with_interval(top)}, li2026), and cover {covered:.0%} of the "
            f"rows there: with noise counted as a cluster the index is {noise:.2f}."
        )
    unique = study.select(measure="rsa_unique", mode="audited", pooling=pooling)
    unique = unique.filter(pl.col("value").is_finite())
    if unique.height:
        parts = []
        for name in ("axis", "polarity", "intensity"):
            mine = unique.filter(pl.col("category") == name).sort("value", descending=True)
            if mine.height:
                parts.append(f"{name} {mine['value'][0]:.1%} (layer {mine['layer'][0]})")
        words = study.select(measure="rsa", category="words", mode="audited", pooling=pooling)
        found.append(
            f"Of the similarity structure under {pooling} pooling the moral labels by themselves "
            f"explain at best: {', '.join(parts)}; shared words go with it at "
            f"{_span(words['value'].drop_nans().to_list())}."
        )
    return found


def _recoverability(study: Study, pooling: str) -> list[str]:
    rows = study.select(measure="r2", category="mean", mode="audited", pooling=pooling)
    rows = rows.filter(pl.col("value").is_finite())
    if rows.is_empty():
        return []
    kept = rows.filter((pl.col("q") < 0.05) & (pl.col("value") > pl.col("null_high"))).height
    above = rows.filter(pl.col("gain_low") > 0).height
    top = rows.sort("value", descending=True).row(0, named=True)
    return [
        f"A linear read-out recovers some of the ten human dimensions from texts it hasn't seen in "
        f"{kept} of {rows.height} layers under {pooling} pooling (q < 0.05), and more than from a "
        f"bag of words (R2 {rows['baseline'][0]:.2f}) in {above}: at best a mean R2 of "
        f"{with_interval(top)} in layer {top['layer']}."
    ]


def _disagreement(study: Study) -> list[str]:
    """Name the headline measures whose intervals under the two sink-free poolings don't meet."""
    audited = study.frame.filter(pl.col("mode") == "audited", pl.col("ci_low").is_finite())
    keys = ["layer", "measure", "category"]
    headline = pl.col("measure").is_in(["opposed_cosine", "auroc", "spearman_given_length"])
    both = audited.filter(headline, pooling="mean_unit").join(
        audited.filter(pooling="mean_no_sink"), on=keys, suffix="_2"
    )
    if both.is_empty():
        return []
    apart = both.filter(
        (pl.col("ci_low") > pl.col("ci_high_2")) | (pl.col("ci_low_2") > pl.col("ci_high"))
    )
    if apart.is_empty():
        return [
            "The two poolings without sink, mean_unit and mean_no_sink, agree within their "
            "intervals on every headline measure, at every layer."
        ]
    parts = [
        f"{name} ({category}) in {_layers(sorted(set(part['layer'].to_list())))}"
        for (name, category), part in apart.group_by(["measure", "category"], maintain_order=True)
    ]
    return [
        "mean_unit and mean_no_sink disagree beyond their intervals on "
        + "; ".join(parts)
        + ": what is left of the sink, or of other large tokens, matters there."
    ]


def caveats(study: Study) -> list[str]:
    """Return what a reader must know of the data behind the numbers."""
    vectors, texts = study.meta["vectors"], study.meta["texts"]
    found = []
    if vectors["source"]["name"] == "starter":
        found.append(
            "The texts are the starter set, authored for demonstration: it holds no human "
            "annotation, and nothing here is a finding about human morality."
        )
    if vectors["agreement"] == "rot-agree":
        found.append(
            "Agreement is taken from rot-agree (with the rule of thumb), not from action-agree."
        )
    if (study.frame["status"] == ONE_ANNOTATOR).any():
        found.append(
            "Every row has one annotator, so there is no noise ceiling: how high a perfect reading "
            "would score isn't known."
        )
    sample = study.meta["sample"]
    if "li2026" in study.meta["modes"] and sample is not None and sample["unfilled"]:
        short = sample["unfilled"]
        found.append(
            f"li2026 is computed on the paper's stratified sample; {len(short)} of its strata fall "
            f"short of their quota: "
            + ", ".join(f"{s['stratum']} ({s['have']} of {s['quota']})" for s in short[:_SHOWN])
            + (f" and {len(short) - _SHOWN} more (see Provenance)." if len(short) > _SHOWN else ".")
        )
    if texts["left out"]:
        found.append(f"{texts['left out']} texts are empty or of one token and were left out.")
    if texts["truncated"]:
        limit = study.meta["store"]["max_tokens"]
        found.append(f"{texts['truncated']} texts were cut at {limit} tokens.")
    if texts["token 0 is content"]:
        found.append(
            "The tokenizer puts no BOS in front, so token 0 is part of the action; the poolings "
            "that leave it out lose its content."
        )
    missing = study.frame.filter(pl.col("status").str.starts_with("not enough data"))
    if missing.height:
        names = missing.select("category").unique().sort("category")["category"].to_list()
        found.append(f"Not enough data for some measures of: {', '.join(names)}.")
    return found


def with_interval(row: dict[str, Any]) -> str:
    """Return a row's value with its interval in brackets; with three digits where all is small."""
    numbers = [row["value"], row["ci_low"], row["ci_high"]]
    digits = 3 if max(map(abs, numbers)) < 0.1 else 2
    # Adding zero makes a negative zero a plain one.
    value, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in numbers)
    return f"{value} [{low}, {high}]"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _layers(layers: Sequence[int]) -> str:
    """Return layers in words, runs joined: `layers 11 to 27`, `layer 3`, `layers 2, 5 to 7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    parts = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(parts)
