"""What a control says, alone and beside a moral study, in sentences made from numbers by rules."""

from __future__ import annotations

from typing import Any

import polars as pl

from moralprobe.control import NO_FREQUENCY, Beside, beside, is_moral
from moralprobe.report.words import best, confound_sentence
from moralprobe.study import Study


def control_findings(control: Study) -> list[str]:
    """Return what a control says of its own items, a sentence each.

    The rule: audited mode, its headline pooling, the mean over categories of the rank correlation
    with human typicality given text length, in the layer where it is highest.
    """
    found = [
        sentence
        for pooling in control.meta["modes"].get("li2026", [])
        if (sentence := confound_sentence(control, pooling)) is not None
    ]
    top = best(control, "audited", "spearman_given_length", "mean", lowest=False)
    if top is None:
        return [*found, "No category has items enough to say in audited mode how it is ordered."]
    row = top.row
    rows = control.select(
        measure="spearman_given_length", category="mean", mode="audited", pooling=top.pooling
    )
    kept = rows.filter((pl.col("q") < 0.05) & (pl.col("value") > pl.col("null_high"))).height
    above = rows.filter(pl.col("ci_low") > pl.col("baseline")).height
    chosen = (
        f"the best of {rows.height}, which flatters it" if rows.height > 1 else "the only one read"
    )
    found.append(
        f"In {row['model']}, likeness to prototypes follows human typicality in {_kind(control)} "
        f"categories ({_source(control)}) at rho = {_with_interval(row)}, text length held "
        f"constant, in layer {row['layer']} under {top.pooling} pooling: {chosen}. Shuffled "
        f"ratings give {row['null_low']:.2f} to {row['null_high']:.2f}, and {row['baseline_name']} "
        f"{row['baseline']:.2f}; it is above the ones (q < 0.05) in {_layers(kept)} and above the "
        f"others in {_layers(above)}."
    )
    return [*found, _frequency(control, row, top.pooling), *_caveats(control)]


def beside_sentences(control: Study, moral: Study) -> list[str]:
    """Return how well one model orders a control's categories and a moral study's.

    The rule: as in `control_findings`, in both studies, each in its best layer. One is called the
    better where the 95 % interval of the difference (`control.beside`) leaves zero out.
    """
    found = beside(control, moral)
    first, second = _kind(control), _kind(moral)
    if first == second:
        first, second = f"the {first}", f"the other {second}"
    a, b = found.control, found.moral
    return [
        f"The same model orders {first} categories ({_source(control)}) at rho = "
        f"{_with_interval(a)} (layer {a['layer']}), {second} ones ({_source(moral)}) at "
        f"{_with_interval(b)} (layer {b['layer']}); the difference is {found.difference:.2f} "
        f"[{found.low:.2f}, {found.high:.2f}], so that {_verdict(found, first, second)}. In layer "
        f"{a['layer']} {second} ones are at {found.moral_there:.2f}.",
        _ceilings(b, second),
    ]


def _verdict(found: Beside, first: str, second: str) -> str:
    if found.low > 0:
        return f"{second} categories are ordered less well than {first} ones"
    if found.high < 0:
        return f"{second} categories are ordered better than {first} ones"
    return "the two can't be told apart"


def _ceilings(b: dict[str, Any], second: str) -> str:
    ceiling = "unknown" if b["ceiling"] is None else f"{b['ceiling']:.2f}"
    return (
        f"How high a perfect reading would score isn't known of both ({second} ones: {ceiling}): "
        f"the judgement of one annotator can be met less well than the mean of many raters, so "
        f"that a difference needn't be the model's alone."
    )


def _frequency(control: Study, row: dict[str, Any], pooling: str) -> str:
    where = {"measure": "spearman_given_frequency", "mode": "audited"}
    if control.select(**where, status=NO_FREQUENCY).height:
        return (
            "Word frequency, which goes with typicality, is not held constant: the package "
            "wordfreq isn't installed."
        )
    rows = control.select(**where, pooling=pooling, category="mean", layer=row["layer"])
    given = _with_interval(rows.row(0, named=True))
    return f"Word frequency held constant instead of length, it is {given} in the same layer."


def _caveats(control: Study) -> list[str]:
    texts = control.meta["texts"]
    found = []
    if texts["token 0 is the item's"]:
        found.append(
            "Nothing stands in front of the items, so that the poolings that leave token 0 out "
            "lose what it says of them: extract with --template the-item."
        )
    if texts["left out"]:
        found.append(f"{texts['left out']} items are empty or of one token and were left out.")
    missing = control.frame.filter(pl.col("status").str.starts_with("not enough data"))
    if missing.height:
        names = missing["category"].unique().sort().to_list()
        found.append(f"Not enough data for some measures of: {', '.join(names)}.")
    return found


def _layers(n: int) -> str:
    return "1 layer" if n == 1 else f"{n} layers"


def _kind(study: Study) -> str:
    return "moral" if is_moral(study) else "non-moral"


def _source(study: Study) -> str:
    made_from = study.meta.get("ratings") or study.meta["vectors"]
    return str(made_from["source"]["name"])


def _with_interval(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
