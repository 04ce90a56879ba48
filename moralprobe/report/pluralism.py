"""Agreement with communities, in lines for the console, beside what trivial guesses score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from moralprobe.behavior.pluralism.agreement import (
    ALL,
    DISTANCE,
    MEAN,
    MEASURES,
    SKILL,
    standing,
    word_of,
)
from moralprobe.behavior.pluralism.learning import EVERYONE, OWN, SHUFFLED
from moralprobe.report.consensus import with_interval

if TYPE_CHECKING:
    from moralprobe.behavior.pluralism.learning import Learnt
    from moralprobe.behavior.pluralism.measuring import Agreement
    from moralprobe.behavior.pluralism.steerable import Steered
    from moralprobe.bridges.communities import Moved

SHOWN_GEOMETRY: Final = (
    ("category_rdm", "all"),
    ("opposed_cosine", "mean"),
    ("auroc", "mean"),
    ("r2", "mean"),
)
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
    if summary["samples"] is not None:
        odd += (
            f"; {summary['samples']} samples of each order, which lie {summary['own noise']:.3f} "
            "from what they are drawn from, and count as distance"
        )
    odd += f"; {summary['mass']:.2f} of its probability is on the options"
    adapted = f"; adapted to {summary['adapter']}" if summary["adapter"] else ""
    lines = [
        f"{summary['name']}: {summary['questions']:,} questions, {summary['answers']:,} answers of "
        f"{len(summary['communities'])} communities, {summary['fewest']} or more each; read by "
        f"{summary['readout']}; told of communities: {summary['steer']}{adapted}; "
        f"Jensen-Shannon in base {summary['base']}{odd}",
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
    if not summary["others pooled"]:
        none = "no other community answered the same questions: there is no country-blind guess"
        return [f"  {none} (take more --communities); {how}"]
    return [
        f"  it {standing(table)} the country-blind guess, the mean of "
        f"{summary['others pooled']:.1f} other communities (skill {_said(skill, '+.3f')}); {how}"
    ]


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


def of_steered(found: Steered) -> list[str]:
    """Return how a model that is told of communities differs from itself untold, a line each."""
    summary, table = found.summary, found.measures
    lines = [
        f"{summary['name']}: told of communities by {summary['steer']}, against itself untold; "
        f"{summary['questions']:,} questions, {summary['answers']:,} answers"
        + (f"; left out {summary['left out']:,}" if summary["left out"] else ""),
        "",
    ]
    every = {row["measure"]: row for row in table.filter(community=ALL).to_dicts()}
    for measure, row in every.items():
        plain = measure.startswith(("match", "moved where")) or measure == "moved"
        if row["value"] is not None:
            lines.append(f"  {measure:<32} {_said(row, '.3f' if plain else '+.3f')}")
    specific = every["specific"]
    if specific["low"] is None:
        word = "isn't known to answer as"
    elif specific["low"] > 0:
        word = "answers more as"
    else:
        word = "answers less as" if specific["high"] < 0 else "can't be told from one that ignores"
    lines += [
        "",
        f"  told of a community it {word} the community that it is told of, the others beside it "
        f"(p {summary['p']:.3f} of {summary['orders']:,} orders of the communities' names)",
    ]
    each = table.filter((pl.col("measure") == "specific") & (pl.col("community") != ALL)).sort(
        "value"
    )
    if each.height > 1:
        worst, best = each.row(0, named=True), each.row(-1, named=True)
        lines.append(
            f"  least specific: {worst['community']} {_said(worst, '+.3f')}; most: "
            f"{best['community']} {_said(best, '+.3f')}"
        )
    return [*lines, "", SILENT]


def of_learnt(found: Learnt) -> list[str]:
    """Return what was learnt of communities is worth on other questions, a line each."""
    summary, table = found.summary, found.arms
    every = table.filter(community=ALL)
    lines = [
        f"{summary['name']}: {', '.join(summary['communities'])}; {summary['learnt']} questions to "
        f"learn from, {summary['measured']} others to measure on; skill against the country-blind "
        f"guess, Jensen-Shannon in base 2; {summary['compared']} of {summary['answers']} answers "
        "are given by all arms and have a guess beside them",
        "",
        f"  {'':<28} {'js distance':<22} {'skill':<26} skill less that of none",
    ]
    of = {(row["arm"], row["measure"], row["than"]): row for row in every.to_dicts()}
    for arm in every["arm"].unique(maintain_order=True):
        distance, skill = of[arm, DISTANCE, ""], of[arm, SKILL, ""]
        less = of.get((arm, SKILL, "none"))
        gain = "" if less is None else _said(less, "+.3f")
        lines.append(
            f"  {arm:<28} {_said(distance):<22} {_said(skill, '+.3f'):<26} {gain}".rstrip()
        )
    lines += ["", *(f"  {line}" for line in _worth(of))]
    for name, (before, after) in summary["divergence"].items():
        went = f"went from {before:.3f} to {after:.3f} nats"
        lines.append(f"  on what it learnt from, the divergence of {name} {went}")
    return [*lines, "", SILENT]


def _worth(of: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[str]:
    """Say what the adapters are worth; the interval decides the word."""
    told = []
    for than, what in (
        ("none", "the model as it was"),
        (EVERYONE, "an adapter of everybody who was asked"),
        (SHUFFLED, "an adapter of shuffled options"),
    ):
        row = of.get((OWN, SKILL, than))
        if row is None:
            continue
        told.append(f"a community's own adapter {word_of(row)} {what}: {_said(row, '+.3f')}")
    best = [
        arm
        for (arm, measure, than), row in of.items()
        if measure == SKILL and not than and row["low"] is not None and row["low"] > 0
    ]
    told.append(
        "better than the country-blind guess, each by its own interval: "
        f"{', '.join(best) if best else 'none'}"
    )
    return told


def of_moved(found: Moved) -> list[str]:
    """Return how telling of communities moves moral geometry, a line each arm and measure shown."""
    summary, table = found.summary, found.geometry
    lines = [
        f"{summary['name']}: {summary['texts']:,} held-out actions, each arm less that of "
        f"{summary['sentences']['anybody']!r} by the same resampled texts",
    ]
    for layer in summary["layers"]:
        here = table.filter(pl.col("layer") == layer)
        for name, category in (("moved", "all"), *SHOWN_GEOMETRY):
            rows = here.filter(name=name, category=category, status="ok").to_dicts()
            if not rows:
                continue
            lines += ["", f"  layer {layer}: {name} {category}"]
            lines += [f"    {row['arm']:<30} {_arm(row)}" for row in rows]
            beyond = [row for row in rows if row["beyond_low"] is not None]
            sure = [
                f"{row['arm']} ({'higher' if row['beyond_low'] > 0 else 'lower'})"
                for row in beyond
                if row["beyond_low"] * row["beyond_high"] > 0
            ]
            if beyond:
                lines.append(
                    f"    other than their controls, each by its own interval, of {len(beyond)}: "
                    f"{', '.join(sure) if sure else 'none'}"
                )
    return lines


def _arm(row: Mapping[str, Any]) -> str:
    own = _said({"value": row["value"], "low": row["ci_low"], "high": row["ci_high"]}, "+.3f")
    told = [own]
    for name, what in (("less", "less anybody"), ("beyond", "less its controls")):
        if row[name] is not None and row["kind"] != "base":
            of = {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            told.append(f"{what} {_said(of, '+.3f')}")
    return "; ".join(told)
