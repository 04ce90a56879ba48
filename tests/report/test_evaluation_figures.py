"""The figures of an evaluation hold its tables' numbers and tell arms apart without colour."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from moralprobe.report.evaluation import write_evaluation
from tests.report.evaluations import (
    effect,
    effects,
    evaluation,
    judged,
    leads,
    page_of,
)
from tests.report.test_page import shown


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by file stem, as they are saved."""
    found: dict[str, Figure] = {}
    save = Figure.savefig

    def saving(self: Figure, path: Path, **more: Any) -> None:
        found[Path(path).stem] = self
        save(self, path, **more)

    monkeypatch.setattr(Figure, "savefig", saving)
    return found


def lines_of(figure: Figure, title: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Of each panel of a layer, by its label: points of each arm."""
    return {
        ax.get_ylabel() + "/" + ax.get_xlabel(): {
            str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()]
            for line in ax.get_lines()
            if not str(line.get_label()).startswith("_")
        }
        for ax in figure.axes
        if ax.get_title(loc="left") == title
    }


def test_figures_show_the_tables_numbers_a_panel_a_layer(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    places = ("4", "10", "4,10")
    found = evaluation(rows=judged(places=places), beside=effects(places))
    write_evaluation(found, tmp_path)
    assert set(drawn) == {"judge-1-strengths", "judge-1-costs"}
    sweep = drawn["judge-1-strengths"]
    titles = [ax.get_title(loc="left") for ax in sweep.axes]
    assert titles[::3] == ["layer 4", "layers 4, 10", "layer 10"]
    of = lines_of(sweep, "layer 10")
    rates = of["win rate against unsteered/strength"]
    assert [y for _, y in rates["steered"]] == pytest.approx([0.7312 - 0.035, 0.7312 - 0.06])
    assert [x for x, _ in rates["steered"]] == pytest.approx([0.5, 1.0], abs=0.02)
    assert rates["prompt"][0][1] == pytest.approx(0.6134)
    kl = of["KL, nats per token/strength"]
    assert [y for _, y in kl["shuffled"]] == pytest.approx([1.535, 2.07])
    assert of["perplexity of neutral text/strength"]["unsteered"][0][1] == pytest.approx(20.11)
    both = lines_of(drawn["judge-1-costs"], "layer 10")
    (points,) = both.values()
    x, y = zip(*points["steered"], strict=True)
    assert x == pytest.approx((0.535, 1.07)) and y == pytest.approx((0.6962, 0.6712))
    assert points["unsteered"] == [(0, 0.5)]
    # An interval stands at every point, with the table's ends.
    for figure in drawn.values():
        ax = figure.axes[0]
        ends = [segment[:, 1] for c in ax.collections for segment in c.get_segments()]
        for value in (0.7312 - 0.025, 0.7312 - 0.05, 0.5523 - 0.025):
            assert any(end == pytest.approx([value - 0.03, value + 0.03]) for end in ends)


def test_no_arm_is_known_by_its_colour_alone(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    write_evaluation(evaluation(), tmp_path)
    for figure in drawn.values():
        lines = [line for line in figure.axes[0].get_lines() if line.get_label()[0] != "_"]
        looks = {(line.get_marker(), line.get_linestyle(), line.get_color()) for line in lines}
        assert len(looks) == len(lines) > 2
        marked = [line.get_marker() for line in lines if line.get_marker() != "None"]
        assert len(set(marked)) == len(marked) >= 2


def test_one_strength_is_drawn_as_points(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    rows = [row for row in judged() if row["strength"] != 0.5 or row["half"] == "report"]
    beside = [row for row in effects() if row["strength"] != 0.5]
    write_evaluation(evaluation(rows=rows, beside=beside), tmp_path)
    rates = lines_of(drawn["judge-1-strengths"], "layer 4")["win rate against unsteered/strength"]
    assert len(rates["steered"]) == 1 and rates["steered"][0][1] == pytest.approx(0.6812)


def test_perplexity_beyond_all_numbers_is_left_out_and_said(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    beside = [row for row in effects() if (row["arm"], row["measure"]) != ("steered", "perplexity")]
    beside += [effect("steered", s, "perplexity", v) for s, v in ((0.5, 900.0), (1.0, math.inf))]
    rows = [{**row, "value": 0.02} if row["arm"] == "shuffled" else row for row in judged()]
    page_of(evaluation(rows=rows, beside=beside), tmp_path)
    assert "1 values that are too large for a number are left out" in shown(tmp_path / "index.html")
    rates, _, perplexity = drawn["judge-1-strengths"].axes
    assert perplexity.get_yscale() == "log" and rates.get_yscale() == "linear"
    # Shares are drawn whole, with the line at which arms are even.
    assert rates.get_ylim() == pytest.approx((-0.03, 1.03))
    assert any(list(line.get_ydata()) == [0.5, 0.5] for line in rates.get_lines())


def test_without_a_judge_known_pairs_are_drawn_against_what_it_costs(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    places = ("4", "10")
    beside = [*effects(places), *leads(places)]
    tables = page_of(evaluation(checks=(), rows=[], beside=beside), tmp_path)
    assert set(drawn) == {"known-pairs-strengths", "known-pairs-costs"}
    label = "change of the better's lead, nats per token"
    of = lines_of(drawn["known-pairs-strengths"], "layer 10")
    lead = of[f"{label}/strength"]
    # By how much it changes, not where it stands.
    assert [y for _, y in lead["steered"]] == pytest.approx([0.2, 0.4])
    assert lead["prompt"][0][1] == pytest.approx(0.1) and "unsteered" not in lead
    assert len(of) == 3
    (points,) = lines_of(drawn["known-pairs-costs"], "layer 10").values()
    x, y = zip(*points["steered"], strict=True)
    assert x == pytest.approx((0.535, 1.07)) and y == pytest.approx((0.2, 0.4))
    assert points["unsteered"] == [(0, 0)]
    ax = drawn["known-pairs-costs"].axes[0]
    ends = [segment[:, 1] for c in ax.collections for segment in c.get_segments()]
    assert any(end == pytest.approx([0.18, 0.22]) for end in ends)
    assert [("No judge" in alt or "without a judge" in alt) for alt, _ in tables.alts] == [True] * 2
    assert not any("preferred" in alt for alt, _ in tables.alts)


def test_with_a_judge_that_can_be_believed_its_win_rates_are_drawn_alone(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    page_of(evaluation(beside=[*effects(), *leads()]), tmp_path)
    assert set(drawn) == {"judge-1-strengths", "judge-1-costs"}
