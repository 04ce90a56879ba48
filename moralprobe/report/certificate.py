"""A certificate of agreement, which says with every number what the number can't say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from moralprobe.behavior.pluralism.agreement import ALL, DISTANCE, MEAN, SKILL
from moralprobe.behavior.pluralism.framing import HARMLESS, IMPERMISSIBLE, controls, silence
from moralprobe.behavior.pluralism.measuring import Agreement
from moralprobe.behavior.pluralism.scope import PROVENANCE, Scope
from moralprobe.files import write_bytes, write_json
from moralprobe.report.consensus import with_interval
from moralprobe.report.page import render

_SHOWN = (DISTANCE, SKILL, "total variation", "mode agreement", "entropy ratio")


def certificate(found: Agreement, scope: Scope) -> tuple[dict[str, Any], str]:
    """Return a certificate as JSON and as a page.

    Args:
        found: from `framing.load_agreement` or `measuring.measure`.
        scope: of the decision.

    Raises:
        DataError: a scope that names communities that weren't surveyed.
    """
    told = controls(found, scope)
    said = silence(found, scope)
    about = {
        "word": told["provenance"]["word"],
        "decision": scope.decision,
        "asked_how": how_asked(found),
        "says": said,
        "would_be_issued_for": [HARMLESS, IMPERMISSIBLE],
        "summary": dict(found.summary),
        "controls": told,
        "measures": found.measures.to_dicts(),
    }
    each = found.measures.filter(
        (pl.col("measure") == DISTANCE) & ~pl.col("community").is_in([ALL, MEAN])
    ).sort("value", "community")
    html = render(
        "certificate.html.j2",
        name=found.summary["name"],
        summary=found.summary,
        how=about["asked_how"],
        spread=_spread(each),
        silence=said,
        decision=scope.decision,
        harmless=HARMLESS,
        impermissible=IMPERMISSIBLE,
        rows=[_row(found.measures, name) for name in _SHOWN],
        nearest=_named(each.row(0, named=True)),
        farthest=_named(each.row(-1, named=True)),
        swap={**told["swap"], "all_identical": all(told["swap"]["identical"].values())},
        options=_options(told["options"]),
        affected=_affected(told["affected"]),
        floors=told["floors"],
        trivial=_trivial(told["trivial"], told["provenance"]),
        provenance={
            **told["provenance"],
            "rows": [(name, scope.provenance.get(name)) for name in PROVENANCE],
        },
    )
    return about, html


def write_certificate(found: Agreement, scope: Scope, folder: Path) -> dict[str, Any]:
    """Write `certificate.json` and `certificate.html`, and return the former."""
    about, html = certificate(found, scope)
    write_json(folder / "certificate.json", about)
    write_bytes(folder / "certificate.html", html.encode())
    return about


def of_certificate(about: Mapping[str, Any]) -> list[str]:
    """Return what a certificate says, a line each."""
    told = about["controls"]
    harmless, impermissible = about["would_be_issued_for"]
    floors = [f"  {rule['why']}: {_breach(rule)}" for rule in told["floors"]]
    missing = told["provenance"]["missing"]
    broken = [rule["why"] for rule in told["floors"] if rule["broken_by_model"]]
    same = all(told["swap"]["identical"].values())
    return [
        f"{about['word'].upper()}{': missing ' + ', '.join(missing) if missing else ''}",
        *([f"BREAKS WHAT NO AGREEMENT OUTWEIGHS: {', '.join(broken)}"] if broken else []),
        f"asked for: {about['decision']}",
        about["asked_how"],
        f"This same certificate would be issued for {harmless}, and for {impermissible}: "
        f"{told['swap']['numbers']:,} numbers are {'' if same else 'NOT '}the same to the bit.",
        _way_out(told["options"]),
        _affected(told["affected"]),
        *(["Rules that no agreement outweighs:", *floors] if floors else ["No rule was given."]),
        f"The model {told['trivial']['word']} the country-blind guess (the mean of "
        f"{told['trivial']['others_pooled']:.1f} other communities).",
        about["says"],
    ]


def how_asked(found: Agreement) -> str:
    """Return how the model was asked, and how much of it was answered."""
    summary, read = found.summary, found.answers.filter(status="ok")
    statuses = found.answers["status"].value_counts(sort=True).iter_rows()
    odd = [f"{name} {n:,}" for name, n in statuses if name != "ok"]
    samples = f", {summary['samples']} samples of each order" if summary.get("samples") else ""
    adapter = f"; adapted to {summary['adapter']}" if summary.get("adapter") else ""
    steer = summary["steer"]
    told = "nothing of communities" if steer == "none" else f"of communities by {steer}"
    mass = float(read["mass"].to_numpy().mean())
    return (
        f"{summary['name']}, told {told}{adapter}; read by {summary['readout']}"
        f"{samples}; {read.height:,} of {found.answers.height:,} answers could be read"
        + (f" ({', '.join(odd)})" if odd else "")
        + f", with {mass:.2f} of its probability on the options."
    )


def _spread(each: pl.DataFrame) -> str:
    return "none" if each.height < 2 else f"{each['value'].std():.3f}"


def _breach(rule: Mapping[str, Any]) -> str:
    if not rule["questions"]:
        return "it is about NO question here, and says nothing"
    unread = f" ({rule['unread']} without an answer of the model)" if rule["unread"] else ""
    return (
        f"broken in {rule['broken_by_model']} of {rule['questions']} questions{unread}, by a "
        f"community in {rule['broken_by_people']}"
    )


def _way_out(found: Mapping[str, Any]) -> str:
    shown = "; ".join(repr(words) for words in found["ways_out"])
    told = (
        f"{found['share_with_a_way_out']:.0%} of the questions have an option that says no or none "
        "of these" + (f" ({shown})." if shown else ".")
    )
    if found["no_by_model"] is None or found["distance_of_these_without_no"] is None:
        return told
    return (
        f"{told} There people chose it with {found['no_by_people']:.2f} and the model with "
        f"{found['no_by_model']:.2f}; the distance is {found['distance_of_these']:.3f} with it and "
        f"{found['distance_of_these_without_no']:.3f} without."
    )


def _row(measures: pl.DataFrame, name: str) -> dict[str, str]:
    of = {row["community"]: row for row in measures.filter(measure=name).to_dicts()}
    form = "+.3f" if name == SKILL else ".3f"
    return {"name": name, "all": _said(of[ALL], form), "mean": _said(of[MEAN], form)}


def _options(found: Mapping[str, Any]) -> dict[str, str]:
    without = found["distance_without_refusals"]
    return {
        "way_out": _way_out(found),
        "refused": f"{found['refused_by_people']:.1%}",
        "distance": f"{found['distance']:.3f}",
        "without": "none" if without is None else f"{without:.3f}",
    }


def _affected(found: Mapping[str, Any]) -> str:
    if not found["known"]:
        return (
            "Nobody said who is affected by the decision: agreement with those who were asked "
            "says nothing of them."
        )
    mean = "none of them was asked" if found["affected"] is None else f"{found['affected']:.3f}"
    worst = (
        f" Of the affected communities {found['worst']} lies farthest, at "
        f"{found['worst_distance']:.3f}."
        if found["worst"]
        else ""
    )
    return (
        f"By those who were asked the distance is {found['surveyed']:.3f}, by those who are "
        f"affected {mean}; {found['not_surveyed']:.0%} of the affected belong to no community that "
        f"was asked.{worst}"
    )


def _trivial(found: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, str]:
    floor = found["noise_floor"]
    assumed = f", of {origin['n_assumed']} respondents, assumed" if origin["n_assumed"] else ""
    return {
        "word": found["word"],
        "skill": _said(found[SKILL], "+.3f"),
        "pooled": _said(found["pooled js distance"]),
        "uniform": _said(found["uniform js distance"]),
        "shuffled": f"{found['shuffled']:.3f}",
        "modal": f"{found['modal']:.3f}",
        "others": f"{found['others_pooled']:.1f}",
        "floor": "How many people were asked isn't known: there is no noise floor."
        if floor is None
        else f"The truth itself would lie at {floor:.3f} from such a survey{assumed}.",
    }


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['community']} ({_said(row)})"


def _said(row: Mapping[str, Any], form: str = ".3f") -> str:
    return with_interval({"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x", form)
