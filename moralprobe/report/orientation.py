"""A model's social value orientation, in lines for the console and as a ring of angles."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from moralprobe.behavior.orientation.asking import CONDITIONS
from moralprobe.behavior.orientation.rationality import (
    ALL,
    FEWEST,
    TARGETS,
    UNPROMPTED,
    chance,
    followed,
)
from moralprobe.behavior.orientation.slider import BOUNDARIES, VALUES
from moralprobe.files import write_bytes
from moralprobe.report.consensus import with_interval
from moralprobe.report.figures import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moralprobe.behavior.orientation.run import Orientation

_COLOURS: Final = dict(zip(VALUES, ("#2a7f62", "#3b6fb6", "#b07d2b", "#a33f3f"), strict=True))
_MARKS: Final = dict(zip(CONDITIONS, "o^x", strict=True))
_SPAN: Final = (-20, 65)  # degrees that are drawn: what the items reach lies within


def of_orientation(found: Orientation) -> list[str]:
    """Return what was measured, a line each, with what chance gives beside it."""
    by_chance, table = chance(), found.measures
    statuses = {name: n for name, n in found.summary["statuses"].items() if name != "ok"}
    odd = "".join(f"; {name} {n}" for name, n in statuses.items())
    mass = found.summary["mass"]
    read = "" if mass is None else f"; a letter is said with a probability of {mass:.2f}"
    lines = [
        f"{found.summary['name']}: {found.summary['sessions']} sessions, "
        f"{found.choices.height} answers{odd}{read}",
        f"Random answers: angle {by_chance.mean:.2f}, sd {by_chance.sd:.2f}, "
        f"{by_chance.share['prosocial']:.1%} prosocial, "
        f"{by_chance.share['individualistic']:.1%} individualistic: to be called one of these "
        "says nothing.",
    ]
    for condition in table["condition"].unique(maintain_order=True):
        some = table.filter(condition=condition)
        chance_of = "" if found.summary["settings"]["novel"] else f" ({by_chance.mean:.1f})"
        lines += [
            "",
            f"{condition:<17} {'n':<8}{'angle' + chance_of:<21} {'rationality (0)':<21} "
            f"{'above unprompted (0)':<21} {'category (chance)':<18} transitive (chance)",
        ]
        for value in VALUES:
            of = {r["measure"]: r for r in some.filter(value=value).to_dicts()}
            if "angle" not in of:
                continue
            n = f"{of['angle']['n']}/{of['angle']['sessions']}"
            above = of.get("above unprompted")
            lines.append(
                f"  {value:<16}{n:<8}{_said(of['angle'], '.1f'):<21} "
                f"{_said(of['rationality']):<21} "
                f"{_said(above, '+.2f') if above else '':<21} "
                f"{_percent(of['category hit']):<18} {_percent(of['transitive'])}"
            )
        for row in some.filter(value=ALL).to_dicts():
            known = "" if row["chance"] is None else f" (chance {row['chance']:g})"
            lines.append(f"  {row['measure']:<16} {_said(row)}{known}")
    return [*lines, "", *_verdict(table)]


def _verdict(table: pl.DataFrame) -> list[str]:
    """Say of which values it may be claimed that they are followed."""
    assigned = table.filter(pl.col("condition") != UNPROMPTED)
    if not assigned.height:
        return ["Nothing was assigned: what these angles would be worth under each value."]
    tried = assigned.filter(measure="rationality")
    if tried["p"].is_null().all():
        return ["What chance gives isn't known for these items: of no value a claim is made."]
    than = "by chance"
    if assigned.filter(measure="above unprompted").height:
        than = "by chance and than unprompted"
    sure = followed(table)
    named = ", ".join(
        f"{row['value']} ({row['condition']})"
        for row in tried.to_dicts()
        if (row["value"], row["condition"]) in sure
    )
    few = f" (fewer than {FEWEST} sessions say nothing)" if (tried["n"] < FEWEST).any() else ""
    return [f"Surely followed better than {than}, of {tried.height} tried: {named or 'none'}{few}"]


def of_ring(table: pl.DataFrame) -> list[str]:
    """Return what is read in hidden states, a line a layer, beside personas of no meaning here.

    Args:
        table: from `bridges.ring.ring`.
    """
    lines = [
        "on a wording that wasn't learnt from; in brackets 95 % of the null, of less others an "
        "interval:",
        f"{'layer':<7}{'values apart':<21}{'others apart':<21}{'less others':<23}"
        f"{'values in order':<24}others in theirs",
    ]
    for layer in table["layer"].unique(maintain_order=True):
        of = {(r["personas"], r["measure"]): r for r in table.filter(layer=layer).to_dicts()}
        null = [
            f"{c['measured']:.2f} [{c['null_low']:.2f}, {c['null_high']:.2f}]"
            for c in (
                of[personas, measure]
                for measure in ("auroc", "order")
                for personas in ("values", "others")
            )
        ]
        less = _said(of["values", "auroc less others"], "+.2f")
        lines.append(f"{layer:<7}{null[0]:<21}{null[1]:<21}{less:<23}{null[2]:<24}{null[3]}")
    return lines


def _said(row: dict[str, Any], form: str = ".2f") -> str:
    return with_interval(
        {"x": row["measured"], "x_low": row["low"], "x_high": row["high"]}, "x", form
    )


def _percent(row: dict[str, Any]) -> str:
    if row["measured"] is None:
        return "none"
    known = "" if row["chance"] is None else f" ({row['chance']:.1%})"
    return f"{row['measured']:.0%}{known}"


def ring_figure(found: Orientation) -> Figure:
    """Draw every session's angle on the ring, by value and condition, over targets and chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    ax: Any = figure.add_subplot(projection="polar")
    ax.set_thetamin(_SPAN[0])
    ax.set_thetamax(_SPAN[1])
    ax.set_ylim(0, 1.12)
    ax.set_yticks([])
    ax.bar(
        np.radians(chance().mean),
        1.0,
        width=np.radians(2 * chance().sd),
        color="0.9",
        zorder=0,
        label="random answers, mean and sd",
    )
    for edge in BOUNDARIES:
        ax.plot([np.radians(edge)] * 2, [0.15, 1.0], color="0.7", lw=0.8, ls=":", zorder=1)
    radii = {condition: 0.55 + 0.17 * i for i, condition in enumerate(CONDITIONS)}
    for value in VALUES:
        low, high = TARGETS[value]
        # A target that is a point is drawn a degree wide.
        aim = np.radians(np.linspace(low - 0.5, high + 0.5, 20))
        ax.plot(aim, [1.04] * 20, color=_COLOURS[value], lw=6, solid_capstyle="butt")
    answered = found.sessions.filter(pl.col("angle").is_not_null())
    for (value, condition), some in answered.group_by(["value", "condition"], maintain_order=True):
        ax.scatter(
            np.radians(some["angle"].to_numpy()),
            np.full(some.height, radii[str(condition)]),
            color=_COLOURS.get(str(value), "0.35"),
            marker=_MARKS[str(condition)],
            s=26,
            alpha=0.75,
            label=str(condition) if value is None else f"{value}, {condition}",
        )
    ax.set_title(f"{found.summary['name']}: angles of sessions, targets outside", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def write_ring(found: Orientation, path: Path) -> Path:
    """Write the ring as SVG."""
    import matplotlib

    held = io.BytesIO()
    with matplotlib.rc_context(STYLE):  # the same figure is the same file
        ring_figure(found).savefig(held, format="svg", metadata={"Date": None})
    write_bytes(path, held.getvalue())
    return path
