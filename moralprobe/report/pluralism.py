"""Agreement with communities, in lines for the console, beside what trivial guesses score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from moralprobe.behavior.pluralism.measuring import (
    ALL,
    DISTANCE,
    MEAN,
    MEASURES,
    SKILL,
    standing,
)
from moralprobe.report.consensus import with_interval

if TYPE_CHECKING:
    from moralprobe.behavior.pluralism.measuring import Agreement

SILENT: Final = (
    "This is agreement of answer distributions with these communities on these questions. It says "
    "nothing of whether a decision should be made, automated, or put to a vote."
)


def of_reference(found: Mapping[str, Mapping[str, float]], answers: int) -> list[str]:
    """Return what trivial predictors score, a line each.

    Args:
        found: from `predictors.reference`.
        answers: of how many.
    """
    lines = [
        f"1 - Jensen-Shannon distance, base 2, on {answers:,} answers:",
        f"  {'':<28} {'mean of answers':>16} {'mean of communities':>20}",
    ]
    noise = []
    names = {
        "others": "the other communities' mean",
        "uniform": "every option alike",
        "shuffled": "the truth, options shuffled",
        "modal": "the most frequent option",
    }
    for name, row in found.items():
        if name in names:
            lines.append(f"  {names[name]:<28} {row['items']:>16.3f} {row['communities']:>20.3f}")
        else:
            noise.append(f"{name.removeprefix('noise at ')}: {row['items']:.3f}")
    lines.append(f"  noise floor, as distance, by respondents: {', '.join(noise)}")
    return lines


def of_agreement(found: Agreement) -> list[str]:
    """Return what was measured, a line each."""
    summary, table = found.summary, found.measures
    odd = "".join(f"; {name} {n}" for name, n in summary["statuses"].items() if name != "ok")
    lines = [
        f"{summary['name']}: {summary['questions']:,} questions, {summary['answers']:,} answers of "
        f"{len(summary['communities'])} communities, {summary['fewest']} or more each; read by "
        f"{summary['readout']}; told of communities: {summary['steer']}; Jensen-Shannon in base "
        f"{summary['base']}{odd}",
        "",
        f"  {'':<30} {'all answers':<22} mean of communities",
    ]
    for measure in (SKILL, *MEASURES):
        rows = {r["community"]: r for r in table.filter(measure=measure).to_dicts()}
        if rows[ALL]["value"] is None:
            continue
        form = "+.3f" if measure in (SKILL, "refusal error") else ".3f"
        lines.append(f"  {measure:<30} {_said(rows[ALL], form):<22} {_said(rows[MEAN], form)}")
    lines += ["", *_verdict(table, summary), *_spread(table), "", SILENT]
    return lines


def _verdict(table: pl.DataFrame, summary: Mapping[str, Any]) -> list[str]:
    """Say how the model stands to the country-blind guess, and to the noise."""
    (skill,) = table.filter(measure=SKILL, community=ALL).to_dicts()
    floor = summary["noise floor"]
    if floor is None:
        how = "no respondent counts are known, and none assumed (--n): there is no noise floor"
    else:
        whose = (
            "" if summary["counts known"] else f" of {summary['n assumed']} respondents, assumed"
        )
        how = f"noise floor{whose}: {floor:.3f}"
    return [f"  it {standing(table)} the country-blind guess (skill {_said(skill, '+.3f')}); {how}"]


def _spread(table: pl.DataFrame) -> list[str]:
    """Return the worst and the best community, and the spread."""
    each = table.filter(
        (pl.col("measure") == DISTANCE) & ~pl.col("community").is_in([ALL, MEAN])
    ).sort("value")
    if each.height < 2:
        return []
    best, worst = each.row(0, named=True), each.row(-1, named=True)
    return [
        f"  nearest: {best['community']} {_said(best)}; farthest: {worst['community']} "
        f"{_said(worst)}; sd over communities {each['value'].std():.3f}"
    ]


def _said(row: Mapping[str, Any], form: str = ".3f") -> str:
    return with_interval({"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x", form)
