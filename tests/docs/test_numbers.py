"""What the pages say of a fit: its gain over the best control, with and without paired intervals."""

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


def results(low: float | None, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """A fit whose arms' own intervals overlap; `low` of its gain over shuffled labels."""
    rows = [
        {
            **{"arm": arm, "layer": layer, "name": name, "category": category, "n": 90},
            **{"value": value, "ci_low": value - 0.2, "ci_high": value + 0.2, "null_high": 0.3},
            **({} if low is None or arm == "steered" else {"gain": 0.1, "gain_low": low}),
        }
        for layer in (3, 5)
        for name, category in MEASURES.items()
        for arm, value in zip(ARMS, (0.4, 0.6, 0.5, 0.55), strict=True)
    ]
    found: dict[str, Any] = {
        "model": "tiny",
        "about": {"layer": 3, "features": 4, "of": 96, **(about or {})},
        "geometry": [row for row in rows if row["layer"] == 3],
        "survival": rows,
    }
    if low is not None:
        best = [
            {"layer": layer, "name": name, "control": "means", "gain": 0.05}
            | {"gain_low": 0.01 * layer, "gain_high": 0.09, "surely": name != "r2"}
            for layer in (3, 5)
            for name in MEASURES
        ]
        found["over_best_control"] = {
            "geometry": [row for row in best if row["layer"] == 3],
            "survival": best,
        }
    return found


def write(module: ModuleType, mode: str, found: dict[str, Any]) -> None:
    (module.RESULTS / f"topology-{mode}.json").write_text(json.dumps(found))


def test_gains_over_the_best_control_are_a_column_where_they_are_known(pages: ModuleType) -> None:
    write(pages, "geometry", results(0.02))
    said = pages.topology().splitlines()
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
    write(pages, "geometry", results(None))
    said = pages.topology().splitlines()
    assert "gain" not in said[2] and {line.count("|") for line in said[2:10]} == {5}
    assert "Shuffled labels, tuned as long, leave it at 0.500" in " ".join(pages.steering().split())


def test_whether_shuffled_labels_match_is_decided_by_the_paired_interval(pages: ModuleType) -> None:
    match = "Shuffled labels match as well"
    for low, expected in ((0.02, False), (0.0, True), (-0.1, True), (None, True)):
        write(pages, "geometry", results(low))
        assert (match in pages.topology()) == expected, low


def test_the_published_loss_is_told_with_what_it_asks_in_vain(pages: ModuleType) -> None:
    shares = {"unreachable": 0.61, "tied": 0.3, "in_margin": 0.9, "other_axis": 0.7}
    write(pages, "li2026", results(0.02, {"defects": shares}))
    assert "61% lie below a half" in pages.topology() and "30% tie" in pages.topology()
    write(pages, "li2026", results(None))
    assert "chosen on dev and test texts" in pages.topology()
