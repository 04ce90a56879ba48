"""Figures of an evaluation: what each arm gains and what it costs, over strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from moralprobe.evaluating import Evaluation
from moralprobe.report.figures import ACCENT, INK, NULL, SECOND, STYLE
from moralprobe.steering.arms import ARMS, PROMPT, STEERED, UNSTEERED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# No arm is known by its colour alone.
_LOOKS: Final = {
    STEERED: (ACCENT, "o"),
    "untuned": (SECOND, "s"),
    "shuffled": ("#009E73", "^"),
    "random_features": ("#CC79A7", "v"),
    "random_direction": ("#E69F00", "D"),
    "means": ("#56B4E9", "P"),
    PROMPT: (INK, "X"),
}
_LOG_FROM: Final = 10.0  # ratio of the largest to the smallest from which a scale is logarithmic
_APART: Final = 0.012  # share of the scale by which arms stand beside each other
_KL: Final = {"measure": "KL", "category": "benign requests"}
_PERPLEXITY: Final = {"measure": "perplexity", "category": "neutral text"}
_LEAD: Final = {"measure": "lead of the better", "category": "known pairs"}
_COSTS: Final = (
    "How far the next token's probabilities are from the unsteered model's (KL, 0 is no "
    "change), and how badly neutral text is predicted (perplexity, lower is better), over "
    "strength; upright lines are 95 % intervals, the grey band is the unsteered model's."
)


_UPRIGHT: Final = "Thin lines through the points are 95 % intervals."
_NO_JUDGE: Final = (
    "No judge is in this: of pairs of which one answer is known to be better, by how much more it "
    "is likelier than the worse than in the unsteered model (log-probability per token). "
)


@dataclass(frozen=True)
class Target:
    """What is gained: `rows` a variant, with the `even` that the unsteered model has."""

    rows: pl.DataFrame
    label: str
    even: float
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Drawn:
    """A figure in two files, `stem`.png and .svg; `judge` is whose win rates it shows, if any."""

    stem: str
    caption: str
    judge: str | None


def draw_evaluation(found: Evaluation, folder: Path, believed: Sequence[str]) -> list[Drawn]:
    """Draw the sweep over strengths, as PNG and SVG.

    Each judge has its win rates beside the side effects, and against them; where no judge that can
    be believed has any, the same is drawn of known pairs, for which no judge is needed; without
    them the side effects by themselves.

    Args:
        found: whose win rates on the half that was chosen by are drawn.
        folder: where the files go.
        believed: the judges that can be believed.
    """
    import matplotlib

    rates = found.judged.filter(pl.col("value").is_finite(), half="choose", measure="win rate")
    known = found.effects.filter(pl.col("value").is_not_nan())
    costs = pl.concat([known.filter(**_KL), known.filter(**_PERPLEXITY)])
    drawn = []
    with matplotlib.rc_context(STYLE):
        judged = rates.filter(pl.col("judge").is_in(list(believed)))
        if not _places(judged):
            drawn += _without_judge(known, costs, folder)
        for number, check in enumerate(found.summary["judges"], 1):
            judge = check["judge"]
            mine = rates.filter(judge=judge)
            if not _places(mine):
                continue
            target = Target(mine, "win rate against unsteered", 0.5, (-0.03, 1.03))
            says = (
                f"Before {judge}: how often each arm's answer is preferred to the unsteered "
                f"model's, on the prompts that strength and layer were chosen by (so the highest "
                f"flatters its arm). "
            )
            higher = f"Before {judge}", "preferred more often"
            drawn += _target_drawn(target, costs, folder, f"judge-{number}", says, higher, judge)
    return drawn


def _without_judge(known: pl.DataFrame, costs: pl.DataFrame, folder: Path) -> list[Drawn]:
    """Draw how known pairs change and what that costs; without them the costs by themselves."""
    leads = known.filter(pl.col("change").is_finite(), **_LEAD).with_columns(
        value="change", low="change_low", high="change_high"
    )
    if _places(leads):
        target = Target(leads, "change of the better's lead, nats per token", 0.0)
        higher = "Known pairs, without a judge", "the better answer is likelier"
        return _target_drawn(target, costs, folder, "known-pairs", _NO_JUDGE, higher, None)
    if not _places(costs):
        return []
    _save(_sweep(None, costs), folder, "side-effects")
    return [Drawn("side-effects", _COSTS + _left_out(costs), None)]


def _target_drawn(
    target: Target,
    costs: pl.DataFrame,
    folder: Path,
    stem: str,
    says: str,
    higher: tuple[str, str],
    judge: str | None,
) -> list[Drawn]:
    """Draw a target beside the side effects, and against them."""
    _save(_sweep(target, costs), folder, f"{stem}-strengths")
    says += _COSTS + _left_out(costs) if costs.height else _UPRIGHT
    drawn = [Drawn(f"{stem}-strengths", says, judge)]
    both = _both(target.rows, costs)
    if _places(both):
        _save(_against(target, both), folder, f"{stem}-costs")
        caption = (
            f"{higher[0]}: what is gained against what it costs, a point for each arm, layer and "
            f"strength, lines in order of strength, the intervention's strengths written beside. "
            f"Higher is {higher[1]}, further right is changed more. {_UPRIGHT}"
        )
        drawn.append(Drawn(f"{stem}-costs", caption, judge))
    return drawn


def _save(figure: Figure, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(folder / f"{stem}.{kind}", metadata=metadata)


def _left_out(costs: pl.DataFrame) -> str:
    n = costs.filter(pl.col("value").is_infinite()).height
    return f" {n} values that are too large for a number are left out." if n else ""


def _places(rows: pl.DataFrame) -> list[str]:
    """Return the layers at which arms with a strength stand, in order."""
    there = rows.filter(~pl.col("arm").is_in([UNSTEERED, PROMPT]))["layers"].unique().to_list()
    return sorted(there, key=lambda layers: [int(layer) for layer in layers.split(",")])


def _sweep(target: Target | None, costs: pl.DataFrame) -> Figure:
    """One row of panels a layer: the target where there is one, KL, perplexity over strength."""
    from matplotlib.figure import Figure as NewFigure

    shown: list[tuple[str, pl.DataFrame]] = []
    if target is not None:
        shown.append((target.label, target.rows))
    if costs.height:
        shown.append(("KL, nats per token", costs.filter(**_KL)))
        shown.append(("perplexity of neutral text", costs.filter(**_PERPLEXITY)))
    places = _places(costs if target is None else target.rows)
    figure = NewFigure(figsize=(3.7 * len(shown) + 0.4, 3.1 * len(places) + 0.6))
    figure.set_layout_engine("constrained")
    # Layers share a column's scale, so that they can be compared.
    panels = figure.subplots(len(places), len(shown), squeeze=False, sharey="col")
    for column, (label, rows) in enumerate(shown):
        for row, place in enumerate(places):
            ax = panels[row, column]
            ax.set_title(_at(place))
            ax.set_ylabel(label)
            ax.set_xlabel("strength")
            finite = rows.filter(pl.col("value").is_finite())
            _arms_over_strength(ax, finite, place)
            if target is not None and rows is target.rows:
                ax.axhline(target.even, color=NULL, lw=0.8)
                if target.limits:
                    ax.set_ylim(target.limits)
            else:
                _log_if_wide(ax, finite["value"].to_list())
    _legend(figure, [ax for line in panels for ax in line])
    return figure


def _arms_over_strength(ax: Axes, rows: pl.DataFrame, place: str) -> None:
    tried = rows.filter(~pl.col("arm").is_in([UNSTEERED, PROMPT]))
    strengths = sorted(tried["strength"].unique().to_list())
    span = (strengths[-1] - strengths[0] or abs(strengths[0])) if strengths else 1.0
    for arm, color in ((UNSTEERED, NULL), (PROMPT, INK)):
        for row in rows.filter(arm=arm).iter_rows(named=True):
            ax.axhline(row["value"], color=color, lw=1.2, ls="--", label=arm)
            if row["low"] is not None and row["high"] is not None:
                ax.axhspan(row["low"], row["high"], color=color, alpha=0.2, lw=0)
    here = rows.filter(layers=place)
    arms = [arm for arm in _LOOKS if arm != PROMPT and here.filter(arm=arm).height]
    for number, arm in enumerate(arms):
        color, marker = _LOOKS[arm]
        line = here.filter(arm=arm).sort("strength")
        # Beside each other, so that no interval hides another.
        aside = (number - (len(arms) - 1) / 2) * _APART * span
        x = line["strength"].to_numpy() + aside
        front = 3 if arm == STEERED else 2
        ax.plot(x, line["value"], color=color, marker=marker, ms=5, lw=1.4, label=arm, zorder=front)
        ax.vlines(x, *_ends(line), color=color, lw=1, zorder=front)
    if strengths:
        ax.set_xticks(strengths, [f"{s:g}" for s in strengths])
        ax.set_xlim(strengths[0] - 0.12 * span, strengths[-1] + 0.12 * span)
    else:
        ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes)


def _log_if_wide(ax: Axes, values: list[float]) -> None:
    if values and min(values) > 0 and max(values) > _LOG_FROM * min(values):
        ax.set_yscale("log")


def _ends(rows: pl.DataFrame) -> tuple[list[float], list[float]]:
    low, high = (rows[name].cast(pl.Float64).fill_null(float("nan")) for name in ("low", "high"))
    return low.to_list(), high.to_list()


def _both(gained: pl.DataFrame, costs: pl.DataFrame) -> pl.DataFrame:
    """Return a row a variant: its target, and its KL with the suffix `_kl`."""
    kl = costs.filter(pl.col("value").is_finite(), **_KL).select(
        "arm", "layers", "strength", "value", "low", "high"
    )
    return gained.join(kl, on=["arm", "layers", "strength"], suffix="_kl").sort("strength")


def _against(target: Target, both: pl.DataFrame) -> Figure:
    """One panel a layer: the target against KL."""
    from matplotlib.figure import Figure as NewFigure

    places = _places(both)
    columns = min(2, len(places))
    rows = -(-len(places) // columns)
    figure = NewFigure(figsize=(11.4 if columns > 1 else 8.0, 3.6 * rows + 0.6))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in panels[len(places) :]:
        ax.axis("off")
    for ax, place in zip(panels, places, strict=False):
        ax.set_title(_at(place))
        ax.set_xlabel("KL, nats per token")
        ax.set_ylabel(target.label)
        ax.axhline(target.even, color=NULL, lw=0.8)
        ax.plot([0], [target.even], marker="+", ms=9, color=INK, ls="", label=UNSTEERED)
        for arm, (color, marker) in _LOOKS.items():
            line = both.filter(arm=arm, layers=place)
            if line.is_empty():
                continue
            x, y = line["value_kl"].to_numpy(), line["value"].to_numpy()
            front = 3 if arm == STEERED else 2
            ax.plot(x, y, color=color, marker=marker, ms=6, lw=1, label=arm, zorder=front)
            ax.vlines(x, *_ends(line), color=color, lw=0.8, zorder=front)
            kl = line.select(low="low_kl", high="high_kl")
            ax.hlines(y, *_ends(kl), color=color, lw=0.8, zorder=front)
            if arm == STEERED:
                for strength, at in zip(line["strength"], zip(x, y, strict=True), strict=True):
                    ax.annotate(f"{strength:g}", at, xytext=(4, 4), textcoords="offset points")
        if target.limits:
            ax.set_ylim(target.limits[0], target.limits[1] + 0.05)
    _legend(figure, list(panels))
    return figure


def _at(place: str) -> str:
    return f"layers {place.replace(',', ', ')}" if "," in place else f"layer {place}"


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    order = [arm for arm in (STEERED, *ARMS) if arm in entries]
    handles = [entries[arm] for arm in order]
    names = [arm.replace("_", " ") for arm in order]
    if order:
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(order)))
