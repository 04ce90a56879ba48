"""Side effects, suites and texts of an evaluation, cell by cell."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from moralprobe.evaluating import Evaluation
from moralprobe.report.evaluation_cells import LONGEST, SHOWN
from tests.report.evaluations import (
    ARMS,
    changed,
    effect,
    effects,
    evaluation,
    page_of,
    texts,
)
from tests.report.test_page import shown


def quick(**more: Any) -> Evaluation:
    """Without judges, so that little is drawn."""
    return evaluation(checks=(), rows=[], **more)


def test_effects_stand_by_measure_and_arm_with_what_they_are_held_against(tmp_path: Path) -> None:
    more = {"suite": "moral", "category": "care", "chance": 0.5, "surface": 0.5625}
    few = "not enough data (n: 1, needed 2)"
    rows = [
        *effects(),
        effect("steered", 0.5, "accuracy", 0.8125, **more),
        effect("unsteered", 0.0, "accuracy", 0.75, **more),
        effect("shuffled", 1.0, "accuracy", math.nan, status=few, **more),
        effect("steered", 0.5, "loss", 1e7, category="neutral text"),
    ]
    tables = page_of(evaluation(beside=rows), tmp_path)
    (line,) = tables.starting("accuracy: care")
    assert "chance 0.50; a rule that reads no content 0.56" in line[0]
    assert line[1] == "0.81 [0.61, 1.01] n = 40" and line[2] == "0.75 [0.55, 0.95] n = 40"
    assert line[3] == few and line[4] == "not measured"
    (kl,) = tables.starting("how far the next token")
    # Of the chosen strengths: 0.5 of the intervention, 1 of its control.
    assert kl[1] == "0.54 [0.34, 0.74] n = 40; change 0.54 [0.44, 0.64] ▲ above unsteered"
    assert kl[2] == "0.00 [-0.20, 0.20] n = 40" and kl[3].startswith("2.07 [1.87, 2.27]")
    (loss,) = tables.starting("how badly")
    assert loss[1].startswith("1e+07 [1e+07, 1e+07]")
    text = shown(tmp_path / "index.html")
    assert text.index("Side effects") < text.index("Moral suites") < text.index("accuracy: care")


@pytest.mark.parametrize(
    ("by", "mark"), [(0.11, "▲"), (0.1, ""), (0.0, ""), (-0.1, ""), (-0.11, "▼"), (math.nan, "")]
)
def test_marked_is_a_change_whose_interval_excludes_zero(
    by: float, mark: str, tmp_path: Path
) -> None:
    """Whether the intervals of both meet says nothing: they owe the same to the choice of items."""
    wide = {"low": -9.0, "high": 9.0}
    rows = [
        effect("steered", 0.5, "loops", 1.0 + by, **wide, **changed(by, 0.1)),
        effect("shuffled", 1.0, "loops", 9.0, low=8.9, high=9.1, **changed(0.01, 0.1)),
        effect("unsteered", 0.0, "loops", 1.0, **wide),
    ]
    (line,) = page_of(quick(beside=rows), tmp_path).starting("loops")
    assert ("▲" in line[1], "▼" in line[1]) == (mark == "▲", mark == "▼")
    assert not set("▲▼") & set(line[2] + line[3])
    assert "change" not in line[2] and "; change 0.010 [-0.090, 0.110]" not in line[2]
    assert "; change " in line[1] and "; change " in line[3]


def test_what_isnt_steered_has_no_value_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [
        effect("steered", 0.5, "loops", math.nan, status="not steered at these positions"),
        effect("shuffled", 1.0, "loops", 0.5, n=18, left_out=12),
        effect("unsteered", 0.0, "loops", 1.0),
    ]
    (line,) = page_of(quick(beside=rows), tmp_path).starting("loops")
    assert line[1] == "not steered at these positions"
    assert line[3] == "0.50 [0.30, 0.70] n = 18, 12 left out"


def test_texts_are_of_the_first_seed_at_the_chosen_strength_on_prompts_that_report(
    tmp_path: Path,
) -> None:
    other = [{**row, "strength": 9.0, "text": "of another strength"} for row in texts()]
    tables = page_of(quick(beside=[], written=texts() + other), tmp_path)
    text = shown(tmp_path / "index.html")
    for arm in ARMS:
        for i in range(4):
            assert f"{arm} says {i} of 3 in report." in text
    assert "of 5 in" not in text and "in choose" not in text and "another strength" not in text
    assert "36 tokens edited, by 12% of their state's length on average" in text
    assert "12 tokens, ended by itself; no token edited" in text
    assert text.index("may be offensive") < text.index("says 0 of 3")
    assert text.index("unsteered says 0") < text.index(
        "steered says 0 of 3", text.index("says 0 of")
    )
    assert "says" not in tables.seen


def test_texts_are_taken_evenly_from_groups(tmp_path: Path) -> None:
    sizes = {"large": 30, "middle": 3, "small": 1}
    rows = []
    for group, n in sizes.items():
        rows += [
            {**row, "id": f"{group} {row['id']}", "group": group, "prompt": f"{group} {row['id']}?"}
            for row in texts(n)
        ]
    page_of(quick(beside=[], written=rows), tmp_path)
    text = shown(tmp_path / "index.html")
    counts = {group: len(re.findall(rf"{group} report\d+\?", text)) for group in sizes}
    assert counts == {"large": SHOWN - 4, "middle": 3, "small": 1}


def test_a_very_long_text_is_cut_and_an_empty_one_is_said(tmp_path: Path) -> None:
    rows = texts(1)
    lengths = {"steered": LONGEST, "shuffled": LONGEST + 1234}
    for row in rows:
        row["text"] = lengths.get(row["arm"], 0) * "w" or " \n"
        row["ended"] = False
    page_of(quick(beside=[], written=rows), tmp_path)
    text = shown(tmp_path / "index.html")
    assert "(1,234 more characters are left out)" in text and text.count("more characters") == 1
    assert "w" * LONGEST in text and "w" * (LONGEST + 1) not in text
    assert text.count("wrote no answer") == 2 and "cut at the limit" in text
