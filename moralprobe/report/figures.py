"""Figures of a study: lines over layers with their intervals, nulls and baselines drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from moralprobe.foundations import AXES
from moralprobe.options import ANALYSES
from moralprobe.report.words import confounded_layers, headline_pooling
from moralprobe.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#222222"
ACCENT: Final = "#0072B2"
SECOND: Final = "#D55E00"
NULL: Final = "#BBBBBB"
STYLE: Final[dict[str, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "moralprobe",
    "savefig.dpi": 130,
}
MODES: Final = (("li2026", "li2026, as published"), ("audited", "audited"))


def draw_figures(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure as PNG and SVG and return their captions by file stem."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    with matplotlib.rc_context(STYLE):
        for stem, (draw, caption) in _FIGURES.items():
            if stem in ANALYSES and study.select(analysis=stem).is_empty():
                continue
            figure = draw(study)
            for kind in ("png", "svg"):
                figure.savefig(
                    folder / f"{stem}.{kind}", metadata={"Date": None} if kind == "svg" else None
                )
            captions[stem] = caption
    return captions


def separation_figure(study: Study) -> Figure:
    """Opposed cosine of each axis over layers, both modes side by side."""
    figure, panels = _panels("Cosine of opposed centres")
    for ax, (mode, title) in zip(panels, MODES, strict=True):
        pooling = _frame(ax, study, mode, title)
        if pooling is None:
            continue
        _shade(ax, confounded_layers(study, pooling, mode))
        for axis in AXES:
            rows = _of(study, mode, pooling, "opposed_cosine", axis.tag)
            _line(ax, rows, axis.color, axis.tag, null=False)
        _line(ax, _of(study, mode, pooling, "opposed_cosine", "mean"), INK, "mean of axes")
        ax.set_ylim(-1.05, 1.05)
    return _done(figure, panels)


def held_out_figure(study: Study) -> Figure:
    """Held-out AUROC of virtue against vice, per axis and on average, with the words' baseline."""
    figure, panels = _panels("Held-out AUROC, virtue against vice", columns=2)
    pooling = headline_pooling(study, "audited")
    for ax, tags, title in (
        (panels[0], ["mean"], "mean of axes"),
        (panels[1], [axis.tag for axis in AXES], "each axis"),
    ):
        ax.set_title(f"audited, {title}" + (f" ({pooling})" if pooling else ""))
        if pooling is None:
            _absent(ax)
            continue
        for tag in tags:
            color = next((axis.color for axis in AXES if axis.tag == tag), INK)
            rows = _of(study, "audited", pooling, "auroc", tag)
            _line(ax, rows, color, tag, null=tag == "mean")
            if tag == "mean":
                _baseline(ax, rows)
        ax.axhline(0.5, color=NULL, lw=0.8)
    return _done(figure, panels)


def gradient_figure(study: Study) -> Figure:
    """Rank correlation of typicality and likeness to prototypes, plain and given length."""
    figure, panels = _panels("Spearman's rho inside categories (mean of poles)")
    for ax, (mode, title) in zip(panels, MODES, strict=True):
        pooling = _frame(ax, study, mode, title)
        if pooling is None:
            continue
        _shade(ax, confounded_layers(study, pooling, mode))
        plain = _of(study, mode, pooling, "spearman", "mean")
        given = _of(study, mode, pooling, "spearman_given_length", "mean")
        _line(ax, plain, ACCENT, "typicality and likeness")
        _line(ax, given, SECOND, "the same, given text length", null=False)
        _baseline(ax, plain)
        ax.axhline(0, color=NULL, lw=0.8)
    return _done(figure, panels)


def structure_figure(study: Study) -> Figure:
    """Clusters' agreement with labels as published, and the similarity that labels explain."""
    figure, panels = _panels("Agreement with moral labels", columns=2)
    pooling = _frame(panels[0], study, "li2026", MODES[0][1])
    if pooling is not None:
        rows = _of(study, "li2026", pooling, "ari", "Polarity3")
        _line(panels[0], rows, ACCENT, "ARI, virtue, vice, neutral")
        coverage = _of(study, "li2026", pooling, "coverage", "all")
        _line(panels[0], coverage, SECOND, "rows outside the noise", null=False)
    pooling = _frame(panels[1], study, "audited", MODES[1][1])
    if pooling is not None:
        for name, color in (("axis", ACCENT), ("polarity", SECOND), ("intensity", INK)):
            rows = _of(study, "audited", pooling, "rsa_unique", name)
            _line(panels[1], rows, color, f"unique variance: {name}", null=False)
    return _done(figure, panels)


def recoverability_figure(study: Study) -> Figure:
    """Held-out R2 of the human dimensions over layers, both modes."""
    figure, panels = _panels("R2 on held-out rows (mean of poles)")
    for ax, (mode, title) in zip(panels, MODES, strict=True):
        pooling = _frame(ax, study, mode, title)
        if pooling is None:
            continue
        rows = _of(study, mode, pooling, "r2", "mean")
        _line(ax, rows, ACCENT, "R2")
        _baseline(ax, rows)
        if mode == "li2026":
            adjusted = _of(study, mode, pooling, "r2_adjusted", "mean")
            _line(ax, adjusted, SECOND, "R2 adjusted for width", null=False)
        ax.axhline(0, color=NULL, lw=0.8)
    return _done(figure, panels)


def confound_figure(study: Study) -> Figure:
    """The sink, and what text length has to do with the pooled states, per layer."""
    figure, panels = _panels("What length explains")
    mode = "audited" if "audited" in study.meta["modes"] else "li2026"
    _line(panels[0], _of(study, mode, "none", "sink_ratio", "all"), INK, "token 0 over the others")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("ratio of norms")
    panels[0].set_title("attention sink")
    for (mode, _), color in zip(MODES, (SECOND, ACCENT), strict=True):
        pooling = headline_pooling(study, mode)
        if pooling is None:
            continue
        share = _of(study, mode, pooling, "length_share", "all")
        likeness = _of(study, mode, pooling, "length_correlation", "mean_abs")
        _line(panels[1], share, color, f"{mode}: share of variance", null=False)
        _line(panels[1], likeness, color, f"{mode}: |rho| with likeness", null=False, style="--")
    panels[1].set_ylim(-0.03, 1.03)
    panels[1].set_title("1 / length and the pooled states")
    return _done(figure, panels)


_FIGURES: Final = {
    "separation": (
        separation_figure,
        "Cosine between the centres of opposed categories, with 95 % bootstrap intervals over text "
        "groups; hatched is the mean's 95 % range under polarity shuffled within strata of "
        "length and topic. Shaded layers: what is shown there is explained by text length.",
    ),
    "held_out": (
        held_out_figure,
        "Virtue against vice within an axis, on texts that the read-out hasn't seen, with 95 % "
        "intervals. Hatched: labels shuffled within strata. Dotted: the same read-out on a bag "
        "of words.",
    ),
    "gradient": (
        gradient_figure,
        "Rank correlation between human typicality and likeness to the category's prototypes. The "
        "audited mode leaves a text's own prototypes out. Hatched: shuffled scores run through "
        "the whole pipeline; dotted: a bag of words. Shaded layers: explained by text length.",
    ),
    "structure": (
        structure_figure,
        "Left: how far the published density clusters agree with virtue, vice and neutral on rows "
        "outside the noise, and how many rows those are. Right: variance of the texts' similarity "
        "structure that only one moral geometry explains, beside text length and shared words.",
    ),
    "recoverability": (
        recoverability_figure,
        "Share of variance of the ten human dimensions that a linear read-out explains on rows it "
        "wasn't trained on. Left: the published probe, split at random over rows, so that a text "
        "may be trained on and tested. Right: ridge regression, split by text. Hatched: labels "
        "shuffled within strata; dotted: a bag of words.",
    ),
    "confound": (
        confound_figure,
        "Left: norm of token 0 over the mean norm of the other tokens. Right: share of the pooled "
        "states' variance that 1 / length explains, and mean absolute rank correlation of text "
        "length with likeness to the own category's centre.",
    ),
}


def _panels(label: str, columns: int = 2) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(9, 3.8), layout="constrained")
    panels = list(figure.subplots(1, columns))
    panels[0].set_ylabel(label)
    for ax in panels:
        ax.set_xlabel("layer (resid_post)")
    return figure, panels


def _frame(ax: Axes, study: Study, mode: str, title: str) -> str | None:
    pooling = headline_pooling(study, mode)
    ax.set_title(title + (f" ({pooling} pooling)" if pooling else ""))
    if pooling is None:
        _absent(ax)
    return pooling


def _absent(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not computed", ha="center", va="center", transform=ax.transAxes)


def _of(study: Study, mode: str, pooling: str, measure: str, category: str) -> pl.DataFrame:
    rows = study.select(mode=mode, pooling=pooling, measure=measure, category=category)
    return rows.filter(pl.col("value").is_finite(), pl.col("layer").is_not_null())


def _line(
    ax: Axes, rows: pl.DataFrame, color: str, label: str, *, null: bool = True, style: str = "-"
) -> None:
    if rows.is_empty():
        return
    x = rows["layer"].to_numpy()
    marker = "o" if rows.height == 1 else ""
    ax.plot(x, rows["value"].to_numpy(), style, color=color, label=label, lw=1.4, marker=marker)
    low, high = rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy()
    ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    if null and rows["null_low"].is_finite().any():
        low, high = rows["null_low"].to_numpy(), rows["null_high"].to_numpy()
        # Hatched, so that it isn't taken for an interval.
        ax.fill_between(
            x, low, high, facecolor="none", edgecolor=NULL, hatch="////", lw=0, label="shuffled"
        )


def _baseline(ax: Axes, rows: pl.DataFrame) -> None:
    words = rows["baseline"].drop_nulls().drop_nans()
    if len(words):
        ax.axhline(words[0], color=INK, ls=":", lw=1, label="bag of words")


def _shade(ax: Axes, layers: list[int]) -> None:
    for i, layer in enumerate(layers):
        label = "explained by length" if i == 0 else None
        ax.axvspan(layer - 0.5, layer + 0.5, color="#F0E442", alpha=0.25, lw=0, label=label)


def _done(figure: Figure, panels: list[Axes]) -> Figure:
    entries: dict[str, Any] = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        columns = min(4, len(entries))
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
    return figure
