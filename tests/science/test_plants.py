"""On plants whose truth is known: silent where only length differs, and finding what is there.

The figures over 400 sets are those of `benchmarks/planted.py`, whose code this runs on few.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from moralprobe.analyses import gradient, recoverability, structure
from moralprobe.geometry.draws import Draws
from moralprobe.geometry.measure import Measure, summarise
from moralprobe.table import HEADLINES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SETS, DRAWS = 40, 99
MOST = 6  # of 40 at one in twenty: more come up in one run of 300


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("planted", BENCHMARKS / "planted.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_audited_headlines_are_silent_where_only_length_differs(planted: ModuleType) -> None:
    sets = [
        planted.measured(seed, "audited", planted.PLANTS["length"], DRAWS) for seed in range(SETS)
    ]
    for measure, category in HEADLINES:
        wrong = sum(found[f"{measure} {category}"][3] <= 0.05 for found in sets)
        assert wrong <= MOST, (measure, category, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["nothing", "effect"])
def test_audited_intervals_of_headlines_cover(planted: ModuleType, plant: str) -> None:
    plants = planted.PLANTS[plant]
    sets = [planted.measured(seed, "audited", plants, DRAWS) for seed in range(SETS)]
    others = [planted.measured(seed, "audited", plants, 1) for seed in range(10_000, 10_080)]
    lines = {(x["measure"], x["category"]): x for x in planted.summary(sets, others)}
    for measure, category in HEADLINES:
        # At 0.95 fewer than 33 of 40 cover in one run of 2,000.
        assert lines[measure, category]["covered"] >= 33 / SETS, (measure, category)


def test_penalties_chosen_again_widen_intervals_and_nothing_else(
    planted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted, "ANALYSES", ("recoverability",))
    plants = planted.PLANTS["length"]
    ratios: dict[str, list[float]] = {}
    for seed in range(4):
        chosen = planted.measured(seed, "audited", plants, DRAWS)
        with monkeypatch.context() as patch:
            patch.setattr(recoverability, "_CHOSEN_AGAIN", 0)
            kept = planted.measured(seed, "audited", plants, DRAWS)
        for name, (value, low, high, p) in chosen.items():
            assert value == kept[name][0] and p == pytest.approx(kept[name][3])
            ratio = (high - low) / (kept[name][2] - kept[name][1])
            if name.startswith("tag_auroc"):
                assert ratio == 1
            ratios.setdefault(name.split(" ")[0], []).append(ratio)
    assert min(map(min, ratios.values())) > 1 - 1e-12
    for measure in ("r2", "r2_low_rank", "selectivity"):
        assert max(ratios[measure]) > 1.02, f"penalties jump in this plant: {measure}"


def test_nothing_is_less_than_the_control_by_what_the_control_explains(
    planted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted, "ANALYSES", ("recoverability",))
    told: dict[str, tuple[Draws, float | None]] = {}

    def record(name: str, category: str, draws: Draws, unit: str, **options: float) -> Measure:
        told[f"{name} {category}"] = draws, options.get("null_value")
        return summarise(name, category, draws, unit, **options)

    monkeypatch.setattr(recoverability, "summarise", record)
    explained = []
    for seed in range(4):
        planted.measured(seed, "audited", planted.PLANTS["length"], 30)
        (mean, none), (selective, null_value) = told["r2 mean"], told["selectivity mean"]
        control = mean.value - selective.value
        assert none is None
        assert null_value == pytest.approx(min(0.0, float(mean.null.mean())) - control)
        explained.append(mean.null.mean())
    assert min(explained) < 0 < max(explained), "strata keep what length explains"


def test_the_null_decides_what_it_is_the_null_of(
    planted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[tuple[str, str], dict[str, Any]] = {}

    def record(name: str, category: str, draws: Draws, unit: str, **options: Any) -> Measure:
        told[name, category] = options | {"value": draws.value}
        return summarise(name, category, draws, unit, **options)

    for module in (gradient, recoverability, structure):
        monkeypatch.setattr(module, "summarise", record)
    for mode, null in (("audited", "decides"), ("li2026", "spreads")):
        told.clear()
        planted.measured(0, mode, planted.PLANTS["effect"], 40)
        for (name, category), options in told.items():
            of_pole = name == "length_correlation" and category != "mean_abs"
            if name in ("spearman", "spearman_given_length", "pearson", "r2") or of_pole:
                says = options.get("null", "decides")
                assert says == ("apart" if of_pole else null), (mode, name, category)
            assert options.get("one_sided", False) == (name == "rsa_unique")
            # Of the ridge alone: what the trained probe's R2 would vary by isn't known.
            grows = options.get("growth", 0.0)
            ridge = mode == "audited" and name in ("r2", "r2_low_rank", "selectivity")
            assert (grows > 0) == ridge, (mode, name, category)
            if ridge and name == "r2" and category != "mean":
                v = max(options["value"], 0.0)
                assert grows == pytest.approx(4 * (1 - v) * (1 - 3 * v) / planted.TEXTS)


@pytest.mark.parametrize("draws", [0, 1, 2, 30])
def test_few_draws_give_numbers_without_intervals(
    planted: ModuleType, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    monkeypatch.setattr(planted, "ANALYSES", ("recoverability",))
    found = planted.measured(0, "audited", planted.PLANTS["effect"], draws)
    value, low, high, p = np.array(list(found.values())).T
    assert np.isfinite(value).all() and np.isfinite(p).all() == (draws > 0)
    has_interval = np.isfinite(low) & np.isfinite(high)
    # r2_low_rank takes half as many resamples.
    few = np.array([name.startswith("r2_low_rank") for name in found])
    assert (has_interval == (draws >= 20) & ~few).all()


@pytest.mark.slow
def test_they_find_what_is_there(planted: ModuleType) -> None:
    sets = [planted.measured(seed, "audited", planted.PLANTS["effect"], DRAWS) for seed in range(5)]
    for measure, category in HEADLINES:
        if measure != "spearman_given_length":  # weak in this plant: it is said in the table
            found = [one[f"{measure} {category}"][3] for one in sets]
            assert max(found) <= 0.05, (measure, category, found)


@pytest.mark.slow
def test_the_published_cosine_calls_length_an_opposition(planted: ModuleType) -> None:
    sink_and_length = {"length": 4.0, "sink": 300.0}
    sets = [planted.measured(seed, "li2026", sink_and_length, DRAWS) for seed in range(5)]
    cosines = [one["opposed_cosine mean"][0] for one in sets]
    assert sum(cosines) / 5 < -0.7, "poles opposite, of nothing but length"
    assert min(one["length_correlation mean_abs"][0] for one in sets) > 0.8
