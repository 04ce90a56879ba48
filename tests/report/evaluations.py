"""Evaluations by hand, with numbers that are known again, and a reader of their pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl

from moralprobe.evaluating import Evaluation
from moralprobe.report.evaluation import write_evaluation
from tests.test_evaluating import QUICK

ARMS = ("steered", "unsteered", "shuffled", "prompt")


JUDGED = {
    **dict.fromkeys(("judge", "arm", "layers"), pl.String),
    "strength": pl.Float64,
    **dict.fromkeys(("half", "measure"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("prompts", "pairs", "missing", "unfinished"), pl.Int64),
}


TEXTS = {
    **dict.fromkeys(("arm", "layers"), pl.String),
    "strength": pl.Float64,
    **dict.fromkeys(("half", "id", "group", "prompt"), pl.String),
    "seed": pl.Int64,
    "text": pl.String,
    "unfinished": pl.Boolean,
    "tokens": pl.Int64,
    "ended": pl.Boolean,
    "edits": pl.Int64,
    "change": pl.Float64,
}


EFFECTS = {
    **dict.fromkeys(("arm", "layers"), pl.String),
    "strength": pl.Float64,
    **dict.fromkeys(("suite", "measure", "category"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("change", "change_low", "change_high"), pl.Float64),
    **dict.fromkeys(("chance", "surface"), pl.Float64),
    **dict.fromkeys(("n", "left_out"), pl.Int64),
    **dict.fromkeys(("unit", "status"), pl.String),
}


# Of each arm the chosen strength, and numbers that no other cell has.
RATES = {"steered": 0.7312, "unsteered": 0.5, "shuffled": 0.5523, "prompt": 0.6134}


CHANGE = {
    arm: {"value": value, "n": 8, "of": "the prompts reported on"}
    for arm, value in (("steered", 0.123), ("unsteered", 0.0), ("shuffled", 0.047), ("prompt", 0.0))
}


STRENGTH = {"steered": 0.5, "unsteered": 0.0, "shuffled": 1.0, "prompt": 0.0}


def estimate(value: float, spread: float = 0.03, **more: Any) -> dict[str, Any]:
    found = {"value": value, "low": value - spread, "high": value + spread}
    return {**found, "prompts": 17, "pairs": 34, "missing": 3, "unfinished": 0, **more}


def judged(judge: str = "jury", places: tuple[str, ...] = ("4",)) -> list[dict[str, Any]]:
    rows = []
    for arm in ARMS:
        there = {"judge": judge, "arm": arm, "layers": places[0], "strength": STRENGTH[arm]}
        report = {**there, "half": "report"}
        rate = RATES[arm]
        rows += [
            {**report, "measure": "win rate", **estimate(rate)},
            {**report, "measure": "win rate at equal length", **estimate(rate - 0.1)},
            {
                **report,
                "measure": "win rate as published",
                **estimate(rate - 0.2, low=None, high=None),
            },
            {**report, "measure": "PSC1: share of safety rated 3", **estimate(rate - 0.31)},
        ]
        strengths = (STRENGTH[arm],) if arm in ("unsteered", "prompt") else (0.5, 1.0)
        if arm != "unsteered":
            rows += [
                {
                    **there,
                    "layers": place,
                    "strength": s,
                    "half": "choose",
                    "measure": "win rate",
                    **estimate(rate - 0.05 * s - 0.01 * n),
                }
                for s in strengths
                for n, place in enumerate(places if arm != "prompt" else places[:1])
            ]
    return rows


def effect(arm: str, strength: float, measure: str, value: float, **more: Any) -> dict[str, Any]:
    known = {"KL": "benign requests", "perplexity": "neutral text"}
    category = {**known, "lead of the better": "known pairs"}.get(measure, "generated")
    found = {"arm": arm, "layers": "4", "strength": strength, "suite": "side-effects"}
    found |= {"measure": measure, "category": category, "value": value, "low": value - 0.2}
    found |= {"high": value + 0.2, "chance": None, "surface": None, "n": 40, "unit": "u"}
    found |= dict.fromkeys(("change", "change_low", "change_high"))
    return {**found, "left_out": 0, "status": "ok", **more}


def changed(by: float, spread: float = 0.1) -> dict[str, float]:
    """A change of that size, with an interval."""
    return {"change": by, "change_low": by - spread, "change_high": by + spread}


def effects(places: tuple[str, ...] = ("4",)) -> list[dict[str, Any]]:
    rows = [effect("unsteered", 0.0, "KL", 0.0), effect("unsteered", 0.0, "perplexity", 20.11)]
    for number, arm in enumerate(("steered", "shuffled")):
        for place in places:
            for s in (0.5, 1.0):
                kl = 1.07 * s + number
                rows.append(effect(arm, s, "KL", kl, layers=place, **changed(kl)))
                rows.append(effect(arm, s, "perplexity", 20.2 + 3 * s * number, layers=place))
    return rows


def leads(places: tuple[str, ...] = ("4",)) -> list[dict[str, Any]]:
    """Known pairs of every arm: at all strengths, and of a system message."""
    name = "lead of the better"
    rows = [effect("unsteered", 0.0, name, 0.31, suite="moral")]
    rows.append(effect("prompt", 0.0, name, 0.41, suite="moral", **changed(0.1, 0.02)))
    for arm, size in (("steered", 0.4), ("shuffled", 0.07)):
        for place in places:
            for s in (0.5, 1.0):
                more = {"layers": place, "suite": "moral", **changed(size * s, 0.02)}
                rows.append(effect(arm, s, name, 0.31 + size * s, **more))
    return rows


def texts(n: int = 4, **more: Any) -> list[dict[str, Any]]:
    rows = []
    for half in ("choose", "report"):
        for arm in ARMS:
            for i in range(n):
                for seed in (3, 5):
                    row = {"arm": arm, "layers": "4", "strength": STRENGTH[arm], "half": half}
                    row |= {"id": f"{half}{i}", "group": "g", "prompt": f"ask {half} {i}?"}
                    row |= {"seed": seed, "text": f"{arm} says {i} of {seed} in {half}."}
                    edits = 0 if arm in ("unsteered", "prompt") else 36
                    row |= {
                        "tokens": 12,
                        "ended": True,
                        "unfinished": False,
                        "edits": edits,
                        "change": 0.123,
                    }
                    rows.append({**row, **more})
    return rows


def check(judge: str = "jury", fails: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "judge": judge,
        "accuracy": estimate(0.9211, prompts=60, pairs=60, missing=2),
        "position_bias": estimate(0.0433, 0.01, prompts=60, pairs=60),
        "self_consistency": estimate(0.8533, prompts=60, pairs=60),
        "length_accuracy": estimate(0.4977, prompts=60, pairs=60, missing=0),
        "length_rule": "longer",
        "unread": 0.04,
        "fails": list(fails),
        "by_language": {"en": estimate(0.9211, prompts=60, pairs=60, missing=2)},
    }


def evaluation(
    *,
    checks: tuple[dict[str, Any], ...] = (check(),),
    rows: list[dict[str, Any]] | None = None,
    written: list[dict[str, Any]] | None = None,
    beside: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Evaluation:
    gaps = {"unsteered": estimate(0.2312), "shuffled": estimate(0.1789), "prompt": estimate(0.1178)}
    summary = {
        "protocol": "audited",
        "model": {"name": "small-model", "dtype": "bfloat16"},
        "interventions": [{"layers": [4], "made_by": "topology", "features": 12}],
        "prompts": {"name": "dilemmas", "sha256": "0", "n": 8},
        "options": json.loads(json.dumps(vars(QUICK) | {"sampling": vars(QUICK.sampling)}))
        | {"seeds": [3, 5]},
        "suites": {"side_effects": True},
        "arms": {
            arm: {"strength": STRENGTH[arm], "layers": [4], "change": CHANGE[arm]} for arm in ARMS
        },
        "missing_arms": {
            "means": "the intervention has no such control",
            "untuned": "switched off",
        },
        "unfinished": dict.fromkeys(ARMS, 0.0),
        "judges": list(checks),
        "agreement": None,
        "differences": {one["judge"]: gaps for one in checks},
        "verdict": {"kind": "better", "said": "Steering is better than every control: so."},
        **more,
    }
    return Evaluation(
        summary,
        pl.DataFrame(judged() if rows is None else rows, schema=JUDGED, orient="row"),
        pl.DataFrame(texts() if written is None else written, schema=TEXTS, orient="row"),
        pl.DataFrame(effects() if beside is None else beside, schema=EFFECTS, orient="row"),
    )


class Tables(HTMLParser):
    """Collects the cells of every table, a heading's text, and what stands outside of details."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.folded = 0
        self.visible: list[str] = []
        self.alts: list[tuple[str, bool]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.folded += tag == "details"
        if tag == "img":
            self.alts.append((dict(attrs)["alt"] or "", bool(self.folded)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.folded -= tag == "details"
        if tag in ("td", "th"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.rows[-1][-1] += f" {data.strip()}"
        if not self.folded:
            self.visible.append(data)

    def starting(self, name: str) -> list[list[str]]:
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return [row for row in rows if row[0].startswith(name)]

    @property
    def seen(self) -> str:
        return " ".join(" ".join(self.visible).split())


def page_of(found: Evaluation, folder: Path) -> Tables:
    return Tables(write_evaluation(found, folder).read_text("utf-8"))
