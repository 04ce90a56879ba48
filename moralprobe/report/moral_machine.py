"""A model's choices in dilemmas beside countries', in lines for the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moralprobe.behavior.pluralism.agreement import word_of
from moralprobe.report.consensus import with_interval

if TYPE_CHECKING:
    import polars as pl

    from moralprobe.behavior.pluralism.moral_machine import Dilemmas

SILENT: Final = (
    "This is agreement with what self-selected players of an online game said they prefer, country "
    "by country. It says nothing of what a car should do, or of who may decide it."
)
LEVELS: Final[Mapping[str, str]] = {
    "Intervention": "inaction",
    "Relation to AV": "pedestrians",
    "Law": "the lawful",
    "Gender": "females",
    "Fitness": "the fit",
    "Social Status": "higher status",
    "Age": "the young",
    "No. Characters": "more",
    "Species": "humans",
}


def of_dilemmas(found: Dilemmas) -> list[str]:
    """Return what was measured, a line each."""
    s = found.summary
    odd = "".join(f"; {name} {n}" for name, n in s["statuses"].items() if name != "ok")
    lines = [
        f"{s['name']}: {s['dilemmas']:,} dilemmas in both orders; read by {s['readout']}{odd}",
        f"  letters: the first option has {s['first option']:.3f} (0.5 where they don't decide); "
        f"the two orders differ by {s['order gap']:.3f} (1 where they decide all)",
        "",
        f"  {'effect, and whom it spares':<32} {'the model':<26} mean of countries",
    ]
    for row in found.effects.to_dicts():
        name = f"{row['effect']} ({LEVELS[row['effect']]})"
        mean = s["mean effects"][row["effect"]]
        lines.append(f"  {name:<32} {_said(row, '+.3f'):<26} {mean:+.3f}")
    return [*lines, "", *_distances(s), *_verdict(s), *_spread(found.countries), "", SILENT]


def standing(skill: Mapping[str, float | None]) -> str:
    """Say how a model stands to the other countries' mean; `improves` needs all above 0."""
    return word_of(skill)


def _distances(s: Mapping[str, Any]) -> list[str]:
    """Return the mean distance from countries, and beside it what knows nothing of the model."""
    out = (
        f" ({s['left out']} left out: mean standard error above {s['max_se']:g})"
        if s["left out"]
        else ""
    )
    own = s["noise of dilemmas"]
    noise = f"countries' standard errors {s['noise of countries']:.3f}"
    if own is not None:
        noise += f", the model's by so many dilemmas {own:.3f}"
    correlation = "it doesn't vary" if s["r"]["value"] is None else _said(s["r"], "+.3f")
    return [
        f"  root mean square difference of the nine effects, mean of {s['countries']} "
        f"countries{out}:",
        f"    {'the model':<36} {_said(s['rms'])}; correlation {correlation}",
        f"    {'the mean of the other countries':<36} {s['others rms']:.3f}",
        f"    {'all effects 0, who draws lots':<36} {s['zero rms']:.3f}",
        f"    {'the model, attributes shuffled':<36} {s['shuffled rms']:.3f} "
        f"(p = {s['shuffled p']:.4f})",
        f"    noise: {noise}",
    ]


def _verdict(s: Mapping[str, Any]) -> list[str]:
    skill = s["skill"]
    return [
        f"  it {standing(skill)} the mean of the other countries (skill {_said(skill, '+.3f')})",
        *(
            f"  cluster {name}, {row['n']} countries: {_said(row)}"
            for name, row in s["clusters"].items()
        ),
    ]


def _spread(countries: pl.DataFrame) -> list[str]:
    """Return the nearest and the farthest country."""
    each = [
        f"{row['country']} "
        + _said({"value": row["rms"], "low": row["rms low"], "high": row["rms high"]})
        for row in countries.sort("rms", "country").to_dicts()
    ]
    return [f"  nearest: {each[0]}; farthest: {each[-1]}"]


def _said(row: Mapping[str, Any], form: str = ".3f") -> str:
    return with_interval({"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x", form)
