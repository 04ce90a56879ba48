"""What an evaluation's page shows beside win rates, and its numbers in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from moralprobe.evaluating import Evaluation
from moralprobe.report.words import with_interval
from moralprobe.steering.arms import ARMS, STEERED, UNSTEERED

SHOWN: Final = 10
"""Prompts whose texts are shown."""
LONGEST: Final = 4000
"""Characters of a text that are shown."""
IS: Final[Mapping[str, str]] = {STEERED: "the intervention itself", **ARMS}
_LARGE: Final = 1e5  # from here on numbers have three digits and a power of ten
_OK: Final = "ok"
_SUITES: Final = (("side-effects", "Side effects"), ("moral", "Moral suites"))
_SAYS: Final = {
    ("loss", "neutral text"): "how badly neutral text is predicted: loss",
    ("perplexity", "neutral text"): "the same as perplexity: among how many tokens it wavers",
    ("KL", "benign requests"): "how far the next token's probabilities are from the unsteered "
    "model's after harmless requests (KL; 0 is no change)",
    ("repeated 4-grams", "generated"): "runs of four words that stood in the text before",
    ("distinct-1", "generated"): "words of a text that are different",
    ("distinct-2", "generated"): "pairs of words that are different",
    ("empty", "generated"): "texts without a word",
    ("longest loop", "generated"): "longest stretch that is one phrase again and again, in words",
    ("refused", "benign requests"): "harmless requests that are refused",
    ("accuracy", "knowledge"): "questions on plain facts that are answered right",
    ("change of states", "benign requests"): "how far states are moved while harmless requests "
    "are answered, over their length",
    ("lead of the better", "known pairs"): "pairs of which one answer is known to be better: how "
    "much likelier it is than the worse, in log-probability per token",
    ("better is likelier", "known pairs"): "pairs of which one answer is known to be better: it is "
    "likelier than the worse, per token",
    ("per token", "moral stories"): "Moral Stories: the moral action is likelier, per token",
    ("summed", "moral stories"): "Moral Stories: the moral action is likelier as a whole",
    ("mass", "all"): "questionnaire: probability of the five answers together",
    ("spread", "all"): "questionnaire: how evenly the answers are likely (1 is evenly)",
    ("first shown", "all"): "questionnaire: probability of the answer that is shown first",
    ("by order", "all"): "questionnaire: how far ratings move when the answers are turned round",
}

_FILES: Final = (
    ("stories", "Moral Stories", "--moral-stories"),
    ("ethics", "ETHICS", "--ethics"),
    ("mfq", "the questionnaire", "--mfq"),
)


def shown(row: Mapping[str, Any]) -> str:
    """Return a value with its interval in brackets, or what stands in its place."""
    value, low, high = (row[name] for name in ("value", "low", "high"))
    if value is None or math.isnan(value):
        return "not known"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{value:.2f} (no interval)"
    if not max(abs(value), abs(low), abs(high)) < _LARGE:
        return f"{value:.3g} [{low:.3g}, {high:.3g}]"
    return with_interval({"value": value, "ci_low": low, "ci_high": high})


def counted(row: Mapping[str, Any]) -> str:
    """Return how many prompts and pairs a value is of, and how many pairs were left out."""
    return f"{row['prompts']:,} prompts, {row['pairs']:,} pairs, {row['missing']:,} missing"


def layers_of(layers: Sequence[int] | str) -> str:
    """Return layers in words, from a list or from a table's text."""
    numbers = layers.split(",") if isinstance(layers, str) else [str(layer) for layer in layers]
    return ("layer " if len(numbers) == 1 else "layers ") + ", ".join(numbers)


def arms_of(found: Evaluation) -> list[str]:
    """Return the arms that are there, the intervention first, controls in their usual order."""
    return [arm for arm in IS if arm in found.summary["arms"]]


def place_of(found: Evaluation, arm: str) -> dict[str, Any]:
    """Return the columns by which tables know an arm's chosen variant."""
    best = found.summary["arms"][arm]
    layers = ",".join(str(layer) for layer in best["layers"])
    return {"arm": arm, "layers": layers, "strength": float(best["strength"])}


def where(found: Evaluation, arm: str) -> str:
    """Return the strength and layer that were chosen for an arm, in words."""
    place = place_of(found, arm)
    return strength_of(place["strength"], place["layers"])


def strength_of(strength: float, layers: str) -> str:
    """Return a strength and its layers in words; of an arm that has neither, that it has none."""
    return f"strength {strength:g}, {layers_of(layers)}" if strength else "changes no state"


def effects_tables(found: Evaluation) -> list[dict[str, Any]]:
    """Return a table a suite: a row a measure, a cell an arm at its chosen strength.

    A cell has its change from the unsteered model's, and is marked where that excludes 0.
    """
    arms = arms_of(found)
    rows_of = {arm: _by_measure(found.effects.filter(**place_of(found, arm))) for arm in arms}
    tables = []
    for suite, title in _SUITES:
        keys = dict.fromkeys(
            key for rows in rows_of.values() for key, row in rows.items() if row["suite"] == suite
        )
        rows = [_line(key, {arm: rows_of[arm].get(key) for arm in arms}) for key in keys]
        if rows:
            tables.append({"title": title, "rows": rows})
    return tables


_Key = tuple[str, str, str]


def _by_measure(effects: pl.DataFrame) -> dict[_Key, dict[str, Any]]:
    return {
        (row["suite"], row["measure"], row["category"]): row
        for row in effects.iter_rows(named=True)
    }


def _line(key: _Key, rows: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    there = [row for row in rows.values() if row is not None]
    _, measure, category = key
    unit = there[0]["unit"]
    beside = []
    for name, says in (("chance", "chance"), ("surface", "a rule that reads no content")):
        # The same for every arm; were it not, all would stand here.
        values = dict.fromkeys(
            f"{row[name]:.2f}" for row in there if row[name] is not None and row[name] == row[name]
        )
        if values:
            beside.append(f"{says} {' or '.join(values)}")
    return {
        "label": _SAYS.get((measure, category), f"{measure}: {category}"),
        "name": f"{measure} ({category})" + (f", {unit}" if unit != measure else ""),
        "beside": "; ".join(beside),
        "cells": [_cell(row) for row in rows.values()],
    }


def _cell(row: Mapping[str, Any] | None) -> dict[str, str]:
    if row is None:
        return {"said": "not measured", "n": "", "mark": ""}
    if row["status"] != _OK:
        return {"said": row["status"], "n": _left_out(row), "mark": ""}
    n = f"n = {row['n']:,}" + (f", {left}" if (left := _left_out(row)) else "")
    if row["change"] is None:
        return {"said": shown(row), "n": n, "mark": ""}
    change = {
        "value": row["change"],
        "low": row["change_low"],
        "high": row["change_high"],
    }
    return {"said": shown(row), "n": f"{n}; change {shown(change)}", "mark": _mark(change)}


def _left_out(row: Mapping[str, Any]) -> str:
    return f"{row['left_out']:,} left out" if row["left_out"] else ""


def _mark(change: Mapping[str, Any]) -> str:
    """Return which way a change goes whose interval excludes 0."""
    if change["low"] > 0:
        return "▲ above unsteered"
    return "▼ below unsteered" if change["high"] < 0 else ""


def not_measured(found: Evaluation) -> str:
    """Return which parts of the moral suite had no file, and how each is given."""
    suites = found.summary["suites"]
    if not suites.get("pairs"):
        return ""
    left = [f"{name} (give {option})" for key, name, option in _FILES if not suites.get(key)]
    return f"Not measured, as no file was given: {', '.join(left)}." if left else ""


def change_shown(found: Evaluation, arm: str) -> tuple[str, str]:
    """Return by how much an arm changed states while it wrote, and on how many of which texts."""
    change = found.summary["arms"][arm].get("change")
    if change is None:
        return "not known", ""
    return f"{change['value']:.1%}", f"n = {change['n']:,}, {change['of']}"


def texts_shown(found: Evaluation) -> list[dict[str, Any]]:
    """Return what arms wrote with the first seed after at most `SHOWN` prompts, evenly of groups.

    The prompts are those that are reported on, each arm at its chosen strength and layer.
    """
    texts = found.texts.filter(pl.col("half") != "choose")
    seeds = [seed for seed in found.summary["options"]["seeds"] if seed in texts["seed"]]
    if not seeds:
        return []
    texts = texts.filter(seed=seeds[0])
    arms = {arm: _by_id(texts.filter(**place_of(found, arm))) for arm in arms_of(found)}
    prompts = texts.unique("id", keep="first", maintain_order=True)
    groups = [
        list(rows.iter_rows(named=True))
        for _, rows in prompts.group_by("group", maintain_order=True)
    ]
    chosen = []
    for round_ in range(SHOWN):
        chosen += [group[round_] for group in groups if round_ < len(group)]
    order = [UNSTEERED, *(arm for arm in arms if arm != UNSTEERED)]
    return [
        {
            "prompt": _cut(prompt["prompt"]),
            "group": prompt["group"],
            "written": [
                {"arm": arm, "where": where(found, arm), **_written(arms[arm][prompt["id"]])}
                for arm in order
                if prompt["id"] in arms.get(arm, {})
            ],
        }
        for prompt in chosen[:SHOWN]
    ]


def _by_id(texts: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in texts.iter_rows(named=True)}


def _written(row: Mapping[str, Any]) -> dict[str, str]:
    edits = "no token edited"
    if row["edits"]:
        edits = (
            f"{row['edits']:,} tokens edited, by {row['change']:.0%} of their state's length on "
            f"average"
        )
    end = "ended by itself" if row["ended"] else "cut at the limit"
    if row["unfinished"]:
        end += " within a thought"
    return {"text": _cut(row["text"]), "said": f"{row['tokens']:,} tokens, {end}; {edits}"}


def _cut(text: str) -> str:
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} ... ({left:,} more characters are left out)"
