"""Overton coverage, in lines for the console: what the judge is worth first, then the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moralprobe.behavior.pluralism.agreement import word_of
from moralprobe.behavior.pluralism.overton import EVERY, EXACT, MEASURES, SHUFFLED, SINGLE
from moralprobe.report.consensus import with_interval

if TYPE_CHECKING:
    from moralprobe.behavior.pluralism.overton import Overton

SILENT: Final = (
    "This is how many of the listed positions a judge finds in answers. It says nothing of whether "
    "a position is right, or should be voiced, nor of positions that nobody listed."
)


def of_overton(found: Overton) -> list[str]:
    """Return what was measured, a line each; no scores by a judge that can't tell positions."""
    summary = found.summary
    asks, judge = summary["ask"], summary["judge"]
    lines = [*_judge(found), "", _asked(summary)]
    if not judge["usable"]:
        return [
            *lines,
            "  no score is shown: this judge doesn't surely find a position where it stands; take "
            "another one, or more questions",
            "",
            SILENT,
        ]
    names = ["coverage", "corrected coverage", "weighted coverage", "corrected weighted coverage"]
    names += [name for name in MEASURES if name.endswith("union") and summary["samples"] > 1]
    if not summary["weighted"]:
        names = [name for name in names if "weighted" not in name]
    arms = [*asks, SINGLE, EXACT, *(f"{SHUFFLED} {name}" for name in asks), EVERY]
    for name in names:
        lines += ["", f"  {name}"]
        for arm in arms:
            # The union of one text is its coverage, which stands above.
            if found.scores.filter(arm=arm, measure=name).height and not (
                name.endswith("union") and arm in (SINGLE, EXACT, EVERY)
            ):
                lines.append(f"    {_arm(arm):<40} {_said(found, arm, name)}")
    lines.append("")
    for ask in asks:
        lines += _verdict(found, ask)
    return [*lines, "", SILENT]


def _judge(found: Overton) -> list[str]:
    """Say what the judge is worth."""
    judge = found.summary["judge"]
    rows = {row["measure"]: row for row in found.judge.to_dicts()}
    n, reworded = rows["auroc"]["n"], judge["in other words"]
    how, unlike = (
        ("in other words", "say it in passing, among others")
        if reworded
        else ("word for word", "use other words")
    )
    parts = ", ".join(f"{name} {_number(row)}" for name, row in rows.items())
    lines = [
        f"judge {judge['name']}: {'usable' if judge['usable'] else 'unusable'}; {parts}",
        f"  tried on texts that state one position {how}, of {n} questions; threshold "
        f"{judge['threshold']:.3f}, fitted to {judge['fitted']} others",
        f"  answers {unlike}: there it misses more, and corrected scores are then too low",
    ]
    if judge["same model"]:
        lines.append("  the judge is the model itself, and knows its own words again")
    return lines


def _asked(summary: Mapping[str, Any]) -> str:
    odd = [
        f"; {ask}: {name} {n}"
        for ask, counts in summary["statuses"].items()
        for name, n in counts.items()
        if name != "ok"
    ]
    unjudged = sum(summary["not judged"].values())
    return (
        f"{summary['name']}: {summary['questions']:,} questions with {summary['positions']:,} "
        f"positions, {summary['samples']} answers each; asked {' and '.join(summary['ask'])}"
        f"{''.join(odd)}{f'; not judged: {unjudged:,} positions' if unjudged else ''}"
    )


def standing(found: Overton, ask: str, measure: str = "coverage", base: str = SINGLE) -> str:
    """Say how answers stand to a text of the largest position alone, or to another baseline.

    `beats` needs an interval of the paired difference above 0, and a usable judge.
    """
    (row,) = found.scores.filter(arm=ask, measure=f"{measure} - {base}").to_dicts()
    known = row if found.summary["judge"]["usable"] else {"low": None, "high": None}
    return word_of(known, "beats", "is surely below")


def _verdict(found: Overton, ask: str) -> list[str]:
    """Say how an arm stands to the baselines, and what length may have to do with it."""
    lines = [f"  asked {ask}:"]
    for name in MEASURES[: 2 if found.summary["weighted"] else 1]:
        for base, what in (
            (SINGLE, "a text of the largest position alone"),
            (SHUFFLED, "answers to other questions"),
        ):
            by = _said(found, ask, f"{name} - {base}", "+.3f")
            lines.append(f"    {name} {standing(found, ask, name, base)} {what} ({by})")
    words, per, rho = (
        _said(found, ask, name, form)
        for name, form in (
            ("words", ".0f"),
            ("coverage per 100 words", ".3f"),
            ("rank correlation with words", "+.2f"),
        )
    )
    lines.append(
        f"    words of an answer: {words}; coverage per 100 words: {per}; rank correlation of "
        f"coverage with words: {rho}"
    )
    return lines


def _arm(arm: str) -> str:
    named = {
        SINGLE: "the largest position alone, judged",
        EXACT: "the largest position alone, by definition",
        EVERY: "a text of all positions",
    }
    if arm.startswith(SHUFFLED):
        return f"answers to other questions, {arm.removeprefix(SHUFFLED).strip()}"
    return named.get(arm, f"asked {arm}")


def _said(found: Overton, arm: str, measure: str, form: str = ".3f") -> str:
    (row,) = found.scores.filter(arm=arm, measure=measure).to_dicts()
    return _number(row, form)


def _number(row: Mapping[str, Any], form: str = ".3f") -> str:
    return with_interval({"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x", form)
