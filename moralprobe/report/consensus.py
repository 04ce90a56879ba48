"""What a consensus shows, in lines for the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from moralprobe.behavior.consensus.fitting import Consensus

LEAST_R2 = 0.1
"""Of a head: one below gives so little of the model's scores that nothing is said of the model."""


def of_scores(scores: pl.DataFrame) -> list[str]:
    """Return what came of asking a panel, a line each.

    Args:
        scores: from `score_panel`.
    """
    from moralprobe.behavior.consensus.rating import readouts_agree

    lines = []
    for (model, theory), some in scores.group_by("model", "theory", maintain_order=True):
        known = some["score"].drop_nulls()
        said = f"{known.len():,} of {some.height:,} scored"
        if known.len():
            low, mean, high = (float(known.quantile(q) or 0) for q in (0.05, 0.5, 0.95))
            said += f", median {mean:.2f} (5 to 95 %: {low:.2f} to {high:.2f})"
        for kind in ("logprob", "sampled"):
            if f"{kind}_mass" in some.columns and some[kind].drop_nulls().len():
                mass, apart = (
                    np.nanmean(some[f"{kind}_{what}"].to_numpy()) for what in ("mass", "letters")
                )
                said += f"; {kind}: answers {mass:.0%}, orders apart {apart:.2f}"
        for kind in ("logprob", "sampled", "verbal"):
            if f"{kind}_status" in some.columns:
                counts = some.filter(pl.col(f"{kind}_status") != "ok")[f"{kind}_status"]
                said += "".join(
                    f"; {kind} {status}: {n:,}"
                    for status, n in counts.value_counts(sort=True).iter_rows()
                )
        lines.append(f"  {model:<24} {theory:<16} {said}")
    agree = readouts_agree(scores)
    if agree.height:
        lines += ["", "Do the readouts agree (Spearman; mean difference)?"]
    for row in agree.to_dicts():
        rank = "constant"
        if row["spearman"] is not None:
            rank = f"{row['spearman']:.2f}"
            if row["ci_low"] is not None:
                rank += f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        apart = "" if row["apart"] is None else f"; {row['apart']:.2f}"
        lines.append(
            f"  {row['model']:<24} {row['first']} and {row['second']}: {rank}{apart}  n {row['n']}"
        )
    return lines


def sentences(found: Consensus) -> list[str]:
    """Return what a fit found, a line each."""
    summary = found.summary
    (low, high), slow = summary["bic_shuffled"], summary["not_converged"]
    kinds = "" if summary["stems"] == summary["items"] else f" of {summary['stems']:,} beginnings"
    lines = [
        f"{summary['items']:,} items{kinds}, {len(summary['theories'])} theories, "
        f"{len(summary['models'])} models; {summary['missing_scores']:,} scores missing, "
        f"{summary['unscored_items']:,} items left out that nobody scored",
        f"BIC of two classes less that of one: {summary['bic']:,.0f}; with shuffled scores "
        f"{low:,.0f} to {high:,.0f} (p {summary['p']:.3f})",
    ]
    if not summary["supported"]:
        lines.append(
            f"No consensus of two classes is supported: {summary['why_not']}. No probability is "
            "published, and no model is held against one."
        )
        return lines
    if any(slow.values()):
        counts = ", ".join(f"{what} {n}" for what, n in slow.items() if n)
        lines.append(f"Fits that hadn't converged: {counts}.")
    lines += ["", "d', and what a score tells of the consensus, in bits:"]
    for row in found.models.to_dicts():
        weight = "" if row["weight"] == 1 else f"  weight {row['weight']:.2f}"
        status = "" if row["status"] == "ok" else f"  {row['status']}"
        said = f"{with_interval(row, 'd'):<22} {with_interval(row, 'bits')}"
        lines.append(f"  {row['model']:<20} {said}{weight}{status}")
    away = found.cells.filter("deviates").to_dicts()
    if away:
        lines += ["", "Far from the others' consensus (F1; at their prevalence; AUROC):"]
    for row in away:
        said = "; ".join(with_interval(row, name) for name in ("f1", "f1_matched", "auroc"))
        lines.append(f"  {row['model']:<20} {row['theory']:<14} {said}")
    return lines


def beside_votes(table: pl.DataFrame) -> list[str]:
    """Return how consensus, mean and models meet the majority of people, a line each.

    Args:
        table: from `against_votes`.
    """
    lines = ["", "AUROC for the majority of people (the consensus less it):"]
    for row in table.to_dicts():
        said = with_interval(row, "auroc")
        if row["source"] != "consensus":
            said += f" ({with_interval(row, 'auroc_gain', '+.2f')})"
        lines.append(f"  {row['source']:<20} {row['theory']:<14} {said}  n {row['n']}")
    return lines


def of_alignment(arms: pl.DataFrame, elsewhere: pl.DataFrame, summary: dict[str, Any]) -> list[str]:
    """Return what training a word's rows did on held-out items, a line each.

    Args:
        arms: of `bridges.align.Aligned`.
        elsewhere: of the same.
        summary: of the same.
    """
    items, head = summary["items"], summary["head"]
    r2 = "no variance" if head["r2"] is None else f"r2 {head['r2']:.2f}"
    if head["r2"] is not None and head["r2"] < LEAST_R2:
        r2 += " (hardly better than their mean: what it reads isn't the model's judgement)"
    lines = [
        f"rows of {', '.join(map(repr, summary['tokens']))}; {items['train']:,} items trained on, "
        f"{items['validation']:,} choose, {items['test']:,} held out; lambda {summary['lambda']:g}",
        f"the head gives the model's own scores: {r2}, off by {head['error']:.3f}",
        "",
        f"  {'held out':<14} {'JS':<24} {'Brier':<24} {'AUROC':<24} {'F1':<24} F1 at prevalence",
    ]
    for arm, some in arms.group_by("arm", maintain_order=True):
        rows = {row["measure"]: row for row in some.to_dicts()}
        said = " ".join(
            f"{with_interval(rows[name], 'value', form):<24}"
            for name, form in (("js", ".4f"), ("brier", ".3f"), ("auroc", ".2f"), ("f1", ".2f"))
        )
        lines.append(f"  {arm[0]:<14} {said} {with_interval(rows['f1_matched'], 'value')}")
    lines += ["", "JS less that before:"]
    for row in arms.filter(pl.col("measure") == "js").to_dicts():
        if row["arm"] not in ("before", "own scores"):
            lines.append(f"  {row['arm']:<14} {with_interval(row, 'gain', '+.4f')}")
    lines += ["", "Where the question names (JS from its own theory's consensus, and by rows):"]
    for row in elsewhere.filter("shares_token").to_dicts():
        said = "no consensus of it"
        if row["js"] is not None:
            said = f"{row['js']:.4f}, {with_interval(row, 'gain', '+.4f')}"
        lines.append(f"  {row['word']:<20} moves by {row['moved']:.4f}; {said}")
    if apart := elsewhere.filter(~pl.col("shares_token"))["word"].to_list():
        lines.append(f"  nothing changes where no token is shared: {', '.join(apart)}")
    loss = ", ".join(f"{name} {value:.4f}" for name, value in summary["neutral_loss"].items())
    drift = ", ".join(f"{value:.3f}" for value in summary["drift"])
    lines += [
        "",
        f"cosine drift: {drift}; loss of neutral text: {loss} nats a token"
        + ("" if summary["neutral_tokens_trained"] else " (no trained token is in it: no change)"),
    ]
    if (asked := summary["asked"]) is not None:
        lines.append(
            f"the model itself, asked again ({asked['n']} texts): JS {asked['js']:.4f}, by rows "
            f"{with_interval(asked, 'gain', '+.4f')}; its scores move by {asked['moved']:.4f}"
            + ("" if asked["holds"] else " (no trained token is in what it is asked: no change)")
        )
    if summary["too_long"]:
        lines.append(f"{summary['too_long']:,} texts left out: the model can't read them whole")
    return [*lines, "", _alignment_in_words(arms, head["r2"])]


def _alignment_in_words(arms: pl.DataFrame, r2: float | None) -> str:
    if r2 is None or r2 < LEAST_R2:
        return "The head doesn't give the model's own scores: nothing is said of the model."
    gains = {r["arm"]: r for r in arms.filter(pl.col("measure") == "js").to_dicts()}
    rows = gains["rows"]
    if rows["gain_high"] is None or rows["gain_high"] >= 0:
        return "On held-out items the rows bring the model no surely nearer to the consensus."
    controls = ("shift", "head", "random rows")
    as_near = [arm for arm in controls if not (gains[arm]["above_rows_low"] or 0) > 0]
    said = "On held-out items the rows bring what the head reads nearer to the consensus"
    if not as_near:
        return f"{said}, and surely nearer than each control does."
    return f"{said}, but not surely nearer than {', '.join(as_near)}."


def with_interval(row: dict[str, Any], name: str, form: str = ".2f") -> str:
    """Return a number with its interval."""
    if row[name] is None:
        return "not enough data"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None:
        return f"{row[name]:{form}} (no interval)"
    return f"{row[name]:{form}} [{low:{form}}, {high:{form}}]"
