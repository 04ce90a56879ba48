"""What the pages say of a fit: its gain over the best control, by paired intervals."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ARMS = ("unsteered", "steered", "shuffled", "means")
MEASURES = {
    "category_rdm": "all",
    "opposed_cosine": "mean",
    "auroc": "mean",
    "spearman_given_length": "mean",
    "r2": "mean",
}


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill_numbers", BENCHMARKS / "fill_numbers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "_are_texts_better", lambda: "Nobody asked.")
    return module


def results(low: float) -> dict[str, Any]:
    """A fit whose arms' own intervals overlap; `low` of its gain over shuffled labels."""
    rows = [
        {
            **{"arm": arm, "layer": layer, "name": name, "category": category, "n": 90},
            **{"value": value, "ci_low": value - 0.2, "ci_high": value + 0.2, "null_high": 0.3},
            **({} if arm == "steered" else {"gain": 0.1, "gain_low": low}),
        }
        for layer in (3, 5)
        for name, category in MEASURES.items()
        for arm, value in zip(ARMS, (0.4, 0.6, 0.5, 0.55), strict=True)
    ]
    best = [
        {"layer": layer, "name": name, "control": "means", "gain": 0.05}
        | {"gain_low": 0.01 * layer, "gain_high": 0.09, "surely": name != "r2"}
        for layer in (3, 5)
        for name in MEASURES
    ]
    shares = {"unreachable": 0.61, "tied": 0.3, "in_margin": 0.9, "other_axis": 0.7}
    return {
        "model": "tiny",
        "about": {"layer": 3, "features": 4, "of": 96, "defects": shares},
        "features": {"median_r_inverse_length": {"tuned": 0.8, "all": 0.1}},
        "geometry": [row for row in rows if row["layer"] == 3],
        "survival": rows,
        "over_best_control": {
            "geometry": [row for row in best if row["layer"] == 3],
            "survival": best,
        },
        "seeds": {},
    }


def write(module: ModuleType, low: float) -> None:
    for mode in ("geometry", "li2026"):
        (module.RESULTS / f"topology-{mode}.json").write_text(json.dumps(results(low)))


def test_gains_over_the_best_control_are_a_column(pages: ModuleType) -> None:
    write(pages, 0.02)
    said = pages.topology().split("\n\n`li2026`")[0].splitlines()
    assert said[2].endswith("| gain over the best control [interval] |")
    assert said[4].endswith("| +0.050 [+0.030, +0.090] (means) |")
    assert any("(lower is better)" in line for line in said)
    assert [line.startswith("| R2") for line in said if "not surely over all" in line] == [True]
    last = next(line for line in said if "5 (the last)" in line)
    assert last.endswith("| +0.050 [+0.050, +0.090] (means) |")
    assert {line.count("|") for line in said[2:10]} == {6}
    short = " ".join(pages.steering().split())
    assert (
        "Over the best control that is +0.050 [+0.030, +0.090] (means) and +0.050 [+0.050, +0.090] "
        "(means). Nobody asked." in short
    )


def test_whether_shuffled_labels_match_is_decided_by_the_paired_interval(pages: ModuleType) -> None:
    match = "Shuffled labels match as well"
    for low, expected in ((0.02, False), (0.0, True), (-0.1, True)):
        write(pages, low)
        assert (match in pages.topology()) == expected, low


def test_the_published_loss_is_told_with_what_it_asks_in_vain(pages: ModuleType) -> None:
    write(pages, 0.02)
    ours, published = pages.topology().split("\n\n`li2026`")
    assert "61% lie below a half" in published and "30% tie" in published
    assert "lie below a half" not in ours and "|r| 0.80" in ours
