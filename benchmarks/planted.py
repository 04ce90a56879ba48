"""Hold every measure to plants: what is called an effect, and what intervals cover.

    python benchmarks/planted.py [--sets 400]

Draws sets of texts and hidden states whose truth is known (`moralprobe.geometry.planted`): nothing;
separated, graded and grouped; nothing but text length, which moves the states and stands behind a
sink; and both together. Each is measured in both modes, `audited` on states pooled without the
sink, `li2026`, on a quarter of the sets, on the mean that holds it. Writes `results/planted.json`:
for each measure the share of sets with p at or below 0.05, the share of intervals that hold the
measure's expectation (the mean over 200 other sets), and that expectation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from results_file import write

from moralprobe.analyses.layer import measure_states
from moralprobe.design import Mode, make_design
from moralprobe.foundations import AXIS_TAGS
from moralprobe.geometry.planted import Planted, plant
from moralprobe.moral_vectors import build_vectors
from moralprobe.options import ANALYSES
from moralprobe.probing import text_facts

TEXTS, DIMENSIONS, DRAWS = 800, 16, 199
PLANTS: dict[str, dict[str, float]] = {
    "nothing": {},
    "effect": {"separation": 0.5, "gradient": 0.5, "clusters": 1.0},
    "length": {"length": 4.0, "typical": 2.0, "sink": 300.0, "leak": 1.0},
    "both": {"separation": 0.5, "gradient": 0.5, "clusters": 1.0}
    | {"length": 4.0, "typical": 2.0, "sink": 300.0, "leak": 1.0},
}
EXPECTED_FROM = 200
WORDS = ("stealing", "helping", "lying", "sharing", "mocking", "thanking", "hitting", "praising")


def pairs_of(planted: Planted, seed: int) -> pl.DataFrame:
    """Return the moral vectors of planted texts, two random words each."""
    words = np.random.default_rng([seed, 1]).choice(WORDS, (len(planted.axis), 2))
    table = pl.DataFrame(
        {
            "action": [f"{a} {b} number {i}" for i, (a, b) in enumerate(words)],
            "rot-moral-foundations": [AXIS_TAGS[a] for a in planted.axis],
            "action-moral-judgment": planted.judgment,
            "action-agree": planted.agreement,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.tsv"
        table.write_csv(path, separator="\t")
        frame = build_vectors(path).frame
    row = frame["row"].to_numpy()
    return frame.with_columns(text_index=pl.Series(row), n_tokens=pl.Series(planted.tokens[row]))


def measured(seed: int, mode: Mode, plants: dict[str, float], draws: int) -> dict[str, list[float]]:
    """Return value, interval and p of every measure on one set, by name and category."""
    from threadpoolctl import threadpool_limits

    planted = plant(TEXTS, DIMENSIONS, seed=seed, **plants)
    pairs = pairs_of(planted, seed)
    facts = text_facts(pairs.sort("text_index")["action"].to_list())
    with threadpool_limits(1):
        design = make_design(pairs, facts, mode, draws=draws, seed=seed, analyses=ANALYSES)
        states = (planted.unit if mode == "audited" else planted.mean)[design.text]
        found = measure_states(states, design, ANALYSES, density=False)
    return {
        f"{m.name} {m.category}": [m.value, m.ci_low, m.ci_high, m.p]
        for m in found
        if m.status == "ok"
    }


def summary(sets: list[dict[str, list[float]]], others: list[dict[str, list[float]]]) -> list[Any]:
    """Return a line for each measure and category that most sets have."""
    lines = []
    for name in sorted({name for found in sets for name in found}):
        rows = np.array([found[name] for found in sets if name in found])
        values = [found[name][0] for found in others if name in found]
        if len(rows) < len(sets) / 2 or len(values) < len(others) / 2:
            continue
        expected = float(np.nanmean(values))
        called = rows[np.isfinite(rows[:, 3]), 3] <= 0.05
        covered = (rows[:, 1] <= expected) & (expected <= rows[:, 2])
        measure, category = name.split(" ")
        lines.append(
            {
                "measure": measure,
                "category": category,
                "expected": round(expected, 4),
                "called": round(float(called.mean()), 4) if len(called) else None,
                "covered": round(float(covered.mean()), 4),
                "sets": len(rows),
            }
        )
    return lines


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=400)
    asked = parser.parse_args()
    results: dict[str, Any] = {"texts": TEXTS, "dimensions": DIMENSIONS, "draws": DRAWS}
    # Spawned, not forked: a fork beside other threads' locks may wait forever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context) as pool:
        for name, plants in PLANTS.items():
            for mode in ("audited", "li2026"):
                one = partial(measured, mode=mode, plants=plants, draws=DRAWS)
                bare = partial(measured, mode=mode, plants=plants, draws=1)
                many = asked.sets if mode == "audited" else asked.sets // 4
                sets = list(pool.map(one, range(many)))
                others = list(pool.map(bare, range(10_000, 10_000 + EXPECTED_FROM)))
                results[f"{name} {mode}"] = summary(sets, others)
                path = write(
                    "planted", f"python benchmarks/planted.py --sets {asked.sets}", results
                )
                print(
                    f"{name} {mode}: {len(results[f'{name} {mode}'])} measures in {path}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
