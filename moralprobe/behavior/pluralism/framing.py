"""The controls without which no certificate of agreement is issued.

They follow from the argument of arXiv 2603.02420, a satire after Keyes, Hutson and Durbin 2019
(arXiv 1908.06166): a measure that depends on distributions over numbered options alone can't know
what is decided, so that the same certificate would be issued for a harmless decision and for one
that no agreement can license.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from moralprobe.behavior.pluralism.measuring import (
    ALL,
    DISTANCE,
    MEAN,
    SKILL,
    Agreement,
    Key,
    Predicted,
    agree,
    key_of,
    standing,
)
from moralprobe.behavior.pluralism.scope import Scope
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.errors import DataError

HARMLESS: Final = "which soup the canteen serves on Monday"
IMPERMISSIBLE: Final = "which of the residents is killed on Monday"
CERTIFIED, UNCERTIFIED = "certified", "uncertified"
_OUT: Final = re.compile(
    r"\b(?:none|neither|nobody|no one|never|not at all|do(?:es)? not|don['’]t|should not|"
    r"shouldn['’]t|nothing|not be|against)\b",
    re.I,
)


def load_agreement(folder: str | Path) -> Agreement:
    """Read what `pluralism measure` wrote.

    Raises:
        DataError: a folder that holds none.
    """
    import json

    folder = Path(folder)
    try:
        summary = json.loads((folder / "agreement.json").read_text("utf-8"))
        measures, answers = (
            pl.read_parquet(folder / f"{name}.parquet") for name in ("measures", "answers")
        )
        summary["draws"], summary["seed"], answers["refusals"]  # what the controls need
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder} holds no measured agreement", repr(error)[:200], "pluralism measure"
        ) from error
    return Agreement(measures, answers, summary)


def controls(found: Agreement, scope: Scope) -> dict[str, Any]:
    """Run all six controls on what was measured.

    Returns:
        `swap` (FC1), `options` (FC2), `affected` (FC3), `floors` (FC4), `trivial` (FC5) and
        `provenance` (FC6), each as JSON.
    """
    return {
        "swap": swapped(found),
        "options": option_audit(found),
        "affected": weighed(found, scope),
        "floors": breaches(found, scope),
        "trivial": trivial(found),
        "provenance": provenance(found, scope),
    }


def swapped(found: Agreement) -> dict[str, Any]:
    """Measure anew with every question and option renamed: is any bit of any number another one?

    Every number of the certificate is one of a harmless decision and of an impermissible one as
    well, which differ from this one in nothing but words.
    """
    original = _again(found, None)
    same = {
        name: original.equals(_again(found, name), null_equal=True)
        for name in (HARMLESS, IMPERMISSIBLE)
    }
    return {"identical": same, "numbers": original.height}


def _again(found: Agreement, name: str | None) -> pl.DataFrame:
    """Return the measures of the stored answers, with other words where a name is given."""
    numbers: dict[tuple[str, tuple[str, ...]], int] = {}
    answers: list[Answers] = []
    said: dict[Key, Predicted] = {}
    for row in found.answers.iter_rows(named=True):
        key = (row["question"], tuple(row["options"]))
        number = numbers.setdefault(key, len(numbers))
        question, options = key
        if name is not None:
            question = f"{name} ({number})"
            options = tuple(f"choice {i}" for i in range(len(options)))
        item = Item(question, options, tuple(row["refusals"]), row["ordinal"])
        answers.append(Answers(item, row["community"], np.array(row["shares"])))
        said[key_of(answers[-1])] = Predicted(tuple(row["said"]), row["mass"], row["status"])
    measures, _ = agree(
        Survey(tuple(answers)), said, draws=found.summary["draws"], seed=found.summary["seed"]
    )
    return measures


def option_audit(found: Agreement) -> dict[str, Any]:
    """Ask what could be answered: how many questions let one say no, and how much is refused.

    By words such as "none", "not", "never": a rough reading, which says what it found.
    """
    items = found.answers.unique(["question", "options"], maintain_order=True)
    out = [
        any(_OUT.search(option) for option in row["options"]) for row in items.iter_rows(named=True)
    ]
    removed = [
        sum(row["shares"][i] for i in row["refusals"])
        for row in found.answers.iter_rows(named=True)
    ]
    value = {
        row["measure"]: row["value"] for row in found.measures.filter(community=ALL).to_dicts()
    }
    return {
        "questions": items.height,
        "share_with_a_way_out": float(np.mean(out)),
        "refused_by_people": float(np.mean(removed)),
        "distance": value[DISTANCE],
        "distance_without_refusals": value["js distance without refusals"],
    }


def weighed(found: Agreement, scope: Scope) -> dict[str, Any]:
    """Weigh communities by who is affected instead of by who was surveyed.

    Raises:
        DataError: an affected community that wasn't surveyed.
    """
    each = {
        row["community"]: row["value"]
        for row in found.measures.filter(measure=DISTANCE).to_dicts()
        if row["community"] not in (ALL, MEAN)
    }
    surveyed = float(np.mean(list(each.values())))
    if scope.affected is None:
        return {"known": False, "surveyed": surveyed}
    if strangers := [name for name in scope.affected if name not in each]:
        raise DataError(
            "an affected community wasn't surveyed",
            f"{strangers[0]!r} isn't among {', '.join(sorted(each)[:8])} ...",
            "add its share to not_surveyed",
        )
    total = sum(scope.affected.values())
    mean = (
        sum(share * each[name] for name, share in scope.affected.items()) / total if total else None
    )
    worst = max(
        (n for n, s in scope.affected.items() if s > 0), key=lambda n: each[n], default=None
    )
    return {
        "known": True,
        "surveyed": surveyed,
        "affected": mean,
        "not_surveyed": scope.not_surveyed,
        "worst": worst,
        "worst_distance": None if worst is None else each[worst],
    }


def breaches(found: Agreement, scope: Scope) -> list[dict[str, Any]]:
    """Look for what agreement doesn't outweigh: where the option that is agreed on breaks a rule.

    Of each rule the questions that it is about, and of these how many have a likeliest option, of
    the model or of the people, that breaks it.
    """
    told = []
    for rule in scope.floors:
        question, option = re.compile(rule.question, re.I), re.compile(rule.option, re.I)
        seen: dict[str, set[Any]] = {"about": set(), "model": set(), "people": set()}
        for row in found.answers.iter_rows(named=True):
            if not question.search(row["question"]):
                continue
            key = (row["question"], tuple(row["options"]))
            seen["about"].add(key)
            for who, shares in (("model", row["said"]), ("people", row["shares"])):
                if shares and option.search(row["options"][int(np.argmax(shares))]):
                    seen[who].add(key)
        told.append(
            {
                "why": rule.why,
                "questions": len(seen["about"]),
                "broken_by_model": len(seen["model"]),
                "broken_by_people": len(seen["people"]),
            }
        )
    return told


def trivial(found: Agreement) -> dict[str, Any]:
    """Hold the distance against the trivial guesses and the noise floor, and choose the word.

    `improves` needs an interval of the skill that lies above 0.
    """
    rows = {row["measure"]: row for row in found.measures.filter(community=ALL).to_dicts()}
    names = (DISTANCE, "pooled js distance", "uniform js distance", SKILL)
    return {
        "word": standing(found.measures),
        "noise_floor": found.summary["noise floor"],
        **{name: {k: rows[name][k] for k in ("value", "low", "high")} for name in names},
    }


def provenance(found: Agreement, scope: Scope) -> dict[str, Any]:
    """Ask who collected the answers, on what basis, and of how many: else nothing is certified."""
    missing = list(scope.missing)
    if not found.summary["counts known"]:
        missing.append("respondent counts")
    return {
        "word": UNCERTIFIED if missing else CERTIFIED,
        "missing": missing,
        "given": dict(scope.provenance),
        "n_assumed": found.summary["n assumed"],
    }


def silence(found: Agreement, scope: Scope) -> str:
    """Return what a certificate says of itself."""
    communities = found.summary["communities"]
    who = ", ".join(communities) if len(communities) <= 4 else f"{len(communities)} communities"
    when: Mapping[str, str] = scope.provenance
    return (
        f"Measures agreement of answer distributions with {who} "
        f"({when.get('collected_when') or 'no date'}) on {found.summary['questions']:,} questions. "
        "Says nothing about whether the decision should be made, automated, or put to a vote."
    )
