"""The page of an evaluation: what was asked, what may be claimed, and what that rests on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.evaluating import Evaluation
from moralprobe.evaluation.judges import LANGUAGES
from moralprobe.evaluation.settings import PUBLISHED
from moralprobe.files import check_writable, write_bytes
from moralprobe.report.evaluation_cells import (
    IS,
    arms_of,
    change_shown,
    counted,
    effects_tables,
    layers_of,
    not_measured,
    place_of,
    shown,
    strength_of,
    texts_shown,
    where,
)
from moralprobe.report.evaluation_figures import draw_evaluation
from moralprobe.report.page import render
from moralprobe.steering.arms import STEERED, UNSTEERED

NOTHING_CLAIMED: Final = (
    "Nothing is claimed: as published, no control stands beside the intervention, the arms are "
    "decoded differently, and the best strength is told on the prompts that it was chosen by."
)
_PROTOCOLS: Final = {
    "audited": "audited: all arms are decoded alike; strength and layer of each are chosen on one "
    "half of the prompts and reported on the other; judges see both orders",
    "li2026": "li2026, as published: the unsteered answer is always shown first, all prompts "
    "choose the strength and report it, an answer of the judge that can't be read is a tie; judges "
    "on a server draw at a temperature of 0.1 and say at most 10 tokens",
}
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_POSITIONS: Final = {
    "all": "all tokens",
    "prompt": "the prompt's tokens",
    "generated": "the tokens that are written",
}
_THINKING: Final = {None: "as the template has it", True: "on", False: "off"}
_RATED: Final = {"PSC1": "rated 3 of 3 for safety (PSC1)", "PSC2": "rated 3 of 3 for nuance (PSC2)"}


def write_evaluation(found: Evaluation, folder: Path) -> Path:
    """Write an evaluation's page, `index.html`, and its figures; return the page's path.

    Args:
        found: from `evaluate_intervention` or `Evaluation.load`.
        folder: where `index.html` and the folder `figures` go.

    Raises:
        StoreError: the folder can't be written to.
    """
    folder = Path(folder)
    check_writable(folder)
    summary = found.summary
    believed = [check["judge"] for check in summary["judges"] if not check["fails"]]
    figures = draw_evaluation(found, folder / "figures", believed)
    published = summary["protocol"] == "li2026"
    html = render(
        "evaluation.html.j2",
        model=summary["model"]["name"],
        asked=_asked(found),
        published=published,
        verdict=_headline(summary, believed),
        judges=[_judge(check) for check in summary["judges"]],
        agreement=_agreement(summary),
        chosen=_chosen(summary, believed),
        tables=[_table(found, number) for number in range(len(summary["judges"]))],
        arms=[
            (_plain(arm), IS[arm], where(found, arm), change_shown(found, arm))
            for arm in arms_of(found)
        ],
        unlike=summary.get("unlike_arms", []),
        missing=[(_plain(arm), why) for arm, why in _missing(summary)],
        unfinished=_unfinished(summary),
        figures=[figure for figure in figures if figure.judge is None or figure.judge in believed],
        doubted=[
            figure
            for figure in figures
            if figure.judge not in believed and figure.judge is not None
        ],
        effects=effects_tables(found),
        not_measured=not_measured(found),
        columns=[_plain(arm) for arm in arms_of(found)],
        texts=texts_shown(found),
        provenance=json.dumps(_provenance(summary), indent=1, sort_keys=True, ensure_ascii=False),
    )
    page = folder / "index.html"
    # What a model writes may hold characters that no page may.
    write_bytes(page, _CONTROLS.sub("\ufffd", html).encode("utf-8", "replace"))
    return page


def _headline(summary: Mapping[str, Any], believed: Sequence[str]) -> str:
    """Return what is claimed; no win rate where no judge can be believed, or it is as published."""
    if summary["protocol"] != "li2026" or summary["prompts"] is None:
        return str(summary["verdict"]["said"])
    doubted = " No judge can be believed." if summary["judges"] and not believed else ""
    return NOTHING_CLAIMED + doubted


def _plain(arm: str) -> str:
    return arm.replace("_", " ")


def _missing(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(arm, summary["missing_arms"][arm]) for arm in IS if arm in summary["missing_arms"]]


def _provenance(summary: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "interventions", "prompts", "protocol", "options", "suites", "arms")
    return {name: summary[name] for name in names}


def _asked(found: Evaluation) -> list[tuple[str, str]]:
    """Return what was asked for, a name and a value each."""
    summary = found.summary
    options = summary["options"]
    model = summary["model"]
    made = "; ".join(
        f"made by {one.get('made_by', 'an unknown way')}, edits {layers_of(one['layers'])}"
        for one in summary["interventions"]
    )
    rows = [
        ("model", f"{model['name']}, {model['dtype']}"),
        ("intervention" if len(summary["interventions"]) == 1 else "interventions", made),
        ("steered", _POSITIONS.get(options["positions"], options["positions"])),
        ("strengths", ", ".join(f"{s:g}" for s in options["strengths"] if s) + "; 0 is unsteered"),
        ("prompts", _prompts(found)),
    ]
    if summary["prompts"] is not None:
        rows.append(("protocol", _PROTOCOLS.get(summary["protocol"], summary["protocol"])))
    seeds = found.texts["seed"].unique().sort().to_list() or list(options["seeds"])[:1]
    rows.append(("seeds of the draws", ", ".join(map(str, seeds))))
    thinking = _THINKING[options["thinking"]]
    return [*rows, ("decoding", _decoding(summary)), ("thinking", thinking)]


def _prompts(found: Evaluation) -> str:
    asked = found.summary["prompts"]
    if asked is None:
        return "none: side effects and suites alone"
    halves = {half: rows["id"].n_unique() for (half,), rows in found.texts.group_by("half")}
    if "report" not in halves:
        return f"{asked['n']:,} of {asked['name']}"
    return (
        f"{asked['n']:,} of {asked['name']}: {halves.get('choose', 0):,} to choose strength and "
        f"layer by, {halves['report']:,} to report on"
    )


def _unfinished(summary: Mapping[str, Any]) -> str:
    """Return each arm's share of answers that never came, where there are any."""
    shares = summary["unfinished"]
    if not any(shares.values()):
        return ""
    arms = ", ".join(f"{_plain(arm)} {shares[arm]:.0%}" for arm in IS if arm in shares)
    if summary["protocol"] == "li2026":
        return f"Answers whose thought never ended: {arms}. What was written of them is judged."
    return (
        f"Answers whose thought never ended: {arms}. There is nothing to judge in them; their "
        "pairs are missing."
    )


def _decoding(summary: Mapping[str, Any]) -> str:
    sampling = summary["options"]["sampling"]
    if summary["protocol"] != "li2026" or summary["prompts"] is None:
        return _sampling(sampling)
    limit = sampling["max_new_tokens"]
    arms = {
        arm: {**vars(how), "max_new_tokens": min(how.max_new_tokens, limit)}
        for arm, how in PUBLISHED.items()
    }
    # Side effects aren't of the published design: both arms write alike there.
    every = {**arms, "side effects of both": sampling}
    return "; ".join(f"{name}: {_sampling(how)}" for name, how in every.items())


def _sampling(how: Mapping[str, Any]) -> str:
    parts = [f"at most {how['max_new_tokens']:,} new tokens", f"temperature {how['temperature']:g}"]
    if how["top_p"] < 1:
        parts.append(f"the likeliest tokens that make up {how['top_p']:g} (top-p)")
    if how["top_k"]:
        parts.append(f"the {how['top_k']:,} likeliest tokens (top-k)")
    if how["repetition_penalty"] != 1:
        parts.append(f"repetition penalty {how['repetition_penalty']:g}")
    return ", ".join(parts)


def _judge(check: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a judge does on pairs whose better answer is known, as the cells of a row."""
    rule = check["length_accuracy"]

    def cell(name: str) -> tuple[str, str]:
        found = check[name]
        if found is None:
            return "no verdict was read", ""
        return shown(found), f"n = {found['pairs']:,} pairs, {found['missing']:,} missing"

    said, n = cell("accuracy")
    return {
        "judge": check["judge"],
        "cells": [
            (said, "; ".join([*([n] if n else []), *_by_language(check)])),
            (shown(rule), f"takes the {check['length_rule']}; n = {rule['pairs']:,} pairs"),
            cell("position_bias"),
            cell("self_consistency"),
            (f"{check['unread']:.0%}", f"of the answers to {rule['pairs']:,} pairs"),
        ],
        "fails": list(check["fails"]),
    }


def _by_language(check: Mapping[str, Any]) -> list[str]:
    """Return the languages in which a judge was checked, with its accuracy where it's several."""
    found = check["by_language"]
    if len(found) == 1:
        return [f"in {LANGUAGES[one]}" for one in found]
    return [
        f"in {LANGUAGES[one]} {'not known' if its is None else shown(its)}"
        for one, its in found.items()
    ]


def _agreement(summary: Mapping[str, Any]) -> str:
    found = summary["agreement"]
    if found is None:
        return ""
    one, two = (check["judge"] for check in summary["judges"][:2])
    said = f"{one} and {two} agree on the intervention's pairs at a kappa of {shown(found)}"
    if found["value"] != found["value"]:
        said = f"Kappa of {one} and {two} isn't defined: both always say the same"
    return (
        f"{said}, {counted(found)}. Kappa is 1 where two judges always agree, and 0 where they "
        f"agree as often as chance has it."
    )


def _chosen(summary: Mapping[str, Any], believed: Sequence[str]) -> str:
    """Say how the strength and layer of every arm came about."""
    if not summary["judges"]:
        return "No judge was asked, so each arm stands at the largest strength that was tried."
    if summary["protocol"] == "li2026":
        return "The strength is the one with the highest published win rate on the same prompts."
    by = (
        "by the win rate before the judges that can be believed"
        if believed
        else "by the win rate before judges that can't be believed, for want of others"
    )
    return f"Strength and layer of every arm were chosen on the other half of the prompts, {by}."


def _table(found: Evaluation, number: int) -> dict[str, Any]:
    """Return what a judge says of the arms that are reported."""
    check = found.summary["judges"][number]
    judge = check["judge"]
    rows = found.judged.filter(pl.col("half") != "choose", judge=judge)
    rated = [name for name in _RATED if rows["measure"].str.starts_with(f"{name}:").any()]
    published = found.summary["protocol"] == "li2026"
    lines = _published_lines(rows, rated) if published else _lines(found, rows, judge, rated)
    return {
        "judge": judge,
        "believed": not check["fails"],
        # The published sentence is made of the first judge's win rates.
        "said": found.summary["verdict"]["said"] if published and number == 0 else "",
        "rated": [_RATED[name] for name in rated],
        "lines": lines,
    }


def _lines(
    found: Evaluation, rows: pl.DataFrame, judge: str, rated: Sequence[str]
) -> list[dict[str, Any]]:
    gaps = found.summary["differences"].get(judge, {})
    lines = []
    for arm in arms_of(found):
        of = _by_measure(rows.filter(**place_of(found, arm)))
        rate = of.get("win rate")
        gap = gaps.get(arm)
        plain = arm == UNSTEERED
        lines.append(
            {
                "arm": _plain(arm),
                "is": IS[arm],
                "where": where(found, arm),
                "change": change_shown(found, arm),
                "rate": "even by definition" if plain else _or(rate, "not judged"),
                "n": _counted(rate) if rate is not None and not plain else "",
                "equal": "" if plain else _or(of.get("win rate at equal length"), "not known"),
                "published": "" if plain else _bare(of.get("win rate as published")),
                "gap": "" if arm == STEERED else _or(gap, "not known"),
                "gap_n": f"{gap['prompts']:,} prompts" if gap is not None else "",
                "rated": [_rating(of, name) for name in rated],
            }
        )
    return lines


def _published_lines(rows: pl.DataFrame, rated: Sequence[str]) -> list[dict[str, Any]]:
    """Return every variant that was tried, in the published protocol."""
    lines = []
    variants = rows.group_by(["arm", "layers", "strength"], maintain_order=True)
    for (arm, layers, strength), its in variants:
        of = _by_measure(its)
        rate = of.get("win rate as published")
        plain = arm == UNSTEERED
        lines.append(
            {
                "arm": _plain(str(arm)),
                "where": strength_of(strength, str(layers)),
                "rate": "" if plain else _bare(rate),
                "n": _counted(rate) if rate is not None else "",
                "rated": [_rating(of, name) for name in rated],
            }
        )
    return lines


def _by_measure(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["measure"]: row for row in rows.iter_rows(named=True)}


def _or(row: Mapping[str, Any] | None, otherwise: str) -> str:
    return otherwise if row is None or row["value"] is None else shown(row)


def _bare(row: Mapping[str, Any] | None) -> str:
    return "not known" if row is None or row["value"] is None else f"{row['value']:.2f}"


def _rating(of: Mapping[str, Mapping[str, Any]], name: str) -> tuple[str, str]:
    row = next((row for measure, row in of.items() if measure.startswith(f"{name}:")), None)
    return ("not rated", "") if row is None else (shown(row), _counted(row))


def _counted(row: Mapping[str, Any]) -> str:
    """Return how many a value is of, and how many of those that are missing are unfinished."""
    unfinished = f" ({row['unfinished']:,} for an unfinished thought)" if row["unfinished"] else ""
    return counted(row) + unfinished
