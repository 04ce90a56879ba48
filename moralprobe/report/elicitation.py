"""What scorers are worth and what was elicited, in lines for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from moralprobe.report.consensus import with_interval

if TYPE_CHECKING:
    from moralprobe.behavior.elicitation.calibration import Calibration
    from moralprobe.behavior.elicitation.measuring import Measured
    from moralprobe.behavior.elicitation.repair import Repair
    from moralprobe.behavior.elicitation.search import Found

_NAMES = {
    "evr": "EVR",
    "mvp": "MVP",
    "apv": "APV",
    "apv corrected": "APV, the scorer's errors taken out",
    "apv of another principle": "APV of another principle",
}
_GAIN = {"value": "", "low": "_low", "high": "_high"}


def of_calibration(name: str, found: Calibration) -> list[str]:
    """Return what a scorer is worth on texts whose truth is known, a line each."""
    overall = found.overall
    lines = [
        f"{name}: AUROC {with_interval(dict(overall), 'auroc')}, "
        f"F1 {with_interval(dict(overall), 'f1')}, Brier {with_interval(dict(overall), 'brier')}, "
        f"hits {with_interval(dict(overall), 'hits')}, false alarms "
        f"{with_interval(dict(overall), 'false_alarms')} (n {overall['n']})",
    ]
    for other, row in found.baselines.items():
        lines.append(
            f"  {other}: AUROC {with_interval(dict(row), 'auroc')}; the scorer "
            f"{with_interval(dict(row), 'scorer_above', '+.2f')}"
        )
    for axis, row in found.foundations.items():
        lines.append(
            f"  {axis}: AUROC {with_interval(dict(row), 'auroc')}, "
            f"F1 {with_interval(dict(row), 'f1')} (n {row['n']})"
        )
    curve = ", ".join(f"{one['p']:.2f}: {one['share']:.2f}" for one in found.curve)
    lines.append(f"  said and so: {curve}")
    if overall["unsaid"]:
        lines.append(f"  {overall['unsaid']} texts without an answer")
    if not found.usable:
        lines.append("  It can't surely tell breaking from keeping: its numbers say nothing.")
    return lines


def of_search(found: Found, rounds: int, *, forced: bool = False) -> list[str]:
    """Return what a search found, a line each; `forced` by a scorer that says nothing."""
    moved = sum(history[-1].prompt != history[0].prompt for history in found.incumbents)
    lines = [
        f"{len(found.principles)} principles, {rounds} rounds: {moved} have another beginning than "
        "at first"
    ]
    if found.unused:
        counts = ", ".join(f"{why} {n}" for why, n in sorted(found.unused.items()) if n)
        lines.append(f"proposals that weren't used: {counts or 'none'}")
    if found.without:
        lines.append(f"{len(found.without)} principles have no beginning that could be used")
    if found.context_fit < 1:
        lines.append(
            f"in {1 - found.context_fit:.0%} of the choices the model doesn't tell how probable "
            "whole texts are: there what broke the principle alone counted"
        )
    if forced:
        lines.append("FORCED: the scorer can't tell breaking from keeping, nor what was found")
    return lines


def of_measures(found: Measured) -> list[str]:
    """Return what was measured, a line each."""
    summary, table = found.summary, found.measures
    statuses = {name: n for name, n in summary["statuses"].items() if name != "ok"}
    odd = "".join(f"; {name} {n:,}" for name, n in statuses.items())
    lines = [
        f"{summary['prompts']} prompts of {summary['principles']} principles, K = {summary['k']} "
        f"fresh completions of {summary['tokens']} tokens at most{odd}",
    ]
    for name, scorer in summary["scorers"].items():
        forced = "  (FORCED: it can't tell breaking from keeping)" if scorer["forced"] else ""
        lines += ["", f"{name}: {scorer['name']}{forced}"]
        of = (
            (pl.col("scorer") == name) & (pl.col("foundation") == "all") & (pl.col("pole") == "all")
        )
        for number in summary["rounds"]:
            some = {
                row["measure"]: row
                for row in table.filter(of & (pl.col("iter") == number)).to_dicts()
            }
            for measure, label in _NAMES.items():
                if measure in some:
                    lines.append(f"  round {number}  {label:<36} {_said(some[measure])}")
        changes = {row["measure"]: row for row in found.changes.filter(of).to_dicts()}
        if "apv" in changes:
            lines.append(f"  the last round less the first: APV {_said(changes['apv'], '+.3f')}")
    if summary["same_scorer"]:
        lines += ["", "One scorer searched and reports: what it errs in was searched for as well."]
    if (own := summary["endorsed"]) is None:
        lines += ["", "Whether the model itself calls its completions broken isn't known."]
    else:
        broken, kept = own["of broken"], own["of kept"]
        lines += [
            "",
            "Asked about its own completions, the model calls broken "
            f"{_said(broken)} of those that the scorer calls so, {_said(kept)} of the others",
        ]
    bleu = summary["self_bleu"]
    said = "; ".join(
        f"{what} "
        + ", ".join(f"{value:.1f}" if value is not None else "none" for value in of_round.values())
        for what, of_round in bleu.items()
    )
    lines.append(f"Self-BLEU by round (lower is more diverse): {said}")
    if (fluency := summary.get("perplexity")) is not None:
        lines.append(
            f"perplexity by {fluency['model']}: "
            + "; ".join(f"{what} {_said(row, '.1f')}" for what, row in fluency["of"].items())
        )
    lines.append("A story in which a rule is broken doesn't say that the model approves of it.")
    return lines


def of_repair(found: Repair) -> list[str]:
    """Return what was learnt, a line each."""
    lines = [f"{len(found.lessons)} of {len(found.seen)} prompts have an instruction"]
    known = [(one.before, one.reward) for one in found.lessons if one.before is not None]
    if known:
        before, after = (sum(values) / len(known) for values in zip(*known, strict=True))
        lines.append(
            f"completions keep their principles by {before:.3f} without one, and {after:.3f} with "
            "the best that was tried, which is also the luckiest"
        )
    lines.append(f"for all prompts: {found.for_all or 'none that can be used was written'}")
    if found.unused:
        counts = ", ".join(f"{why} {n}" for why, n in sorted(found.unused.items()))
        lines.append(f"instructions that weren't used: {counts}")
    return lines


def of_training(rewards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what instructions of each round of training are worth, a line each.

    Args:
        rewards: from `instructions.rewards_by_round`.
    """
    if len(rewards) < 2:
        return []
    lines = ["the writer's instructions keep principles by, on the prompts that it learns from:"]
    for one in rewards:
        more = f"  ({_gain(one)})" if one["round"] else ""
        lines.append(f"  round {one['round']}  {_said(one)}{more}")
    return lines


def of_arms(table: pl.DataFrame, scorer: str, trained: pl.DataFrame | None = None) -> list[str]:
    """Return what each way of repair does to fresh completions of other principles, a line each.

    Args:
        table: from `rates.against`.
        scorer: who measured.
        trained: the same of the trained writer against the writer as it was.
    """
    n = table["n"][0]
    lines = [f"{n} prompts of principles that nothing was learnt from; scored by {scorer}"]
    for measure in ("apv", "evr", "mvp"):
        lines += ["", f"  {measure.upper():<14} {'':<24} less that of none"]
        for row in table.filter(measure=measure).to_dicts():
            refused = f"  refused {row['refused']}" if row["refused"] else ""
            lines.append(f"  {row['arm']:<14} {_said(row):<24} {_gain(row)}{refused}")
        if trained is not None:
            (row,) = trained.filter(measure=measure).to_dicts()
            lines.append(f"  {'trained less written':<39} {_gain(row)}")
    return lines


def _gain(row: Mapping[str, Any]) -> str:
    return _said({name: row[f"gain{end}"] for name, end in _GAIN.items()}, "+.3f")


def _said(row: Mapping[str, Any], form: str = ".3f") -> str:
    return with_interval({"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x", form)
