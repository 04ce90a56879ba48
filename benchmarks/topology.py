"""Tune an autoencoder's moral features, and see what held-out texts show, there and later.

    python benchmarks/topology.py SAE FEATURES VECTORS --out DIR [--mode geometry] [--layers ...]
        [--seeds 0,1,2]

SAE is a folder made by `moralprobe sae train` (or by `benchmarks/sae.py --real --keep`), FEATURES
one by `moralprobe sae features`. What DIR holds already isn't made again, the fit and each of its
tables by itself. Written is `results/topology-MODE.json`. Seeds after the first tune anew, in
DIR/seed-N, and are measured at the layer itself.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

# Set on some machines for the tests; they slow numpy, and say nothing of ours.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
    os.environ.pop(_name, None)

GEOMETRY = "geometry.parquet"


def main() -> None:
    """Fit, measure, and write the headline measures of every arm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sae")
    parser.add_argument("features")
    parser.add_argument("vectors")
    parser.add_argument("--out", required=True)
    parser.add_argument("--mode", default="geometry")
    parser.add_argument("--layers", default="later")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    import polars as pl
    from results_file import write

    from moralprobe import load_model
    from moralprobe.interventions import does_it_survive, fit_topology
    from moralprobe.sae.load import load_sae
    from moralprobe.sae.tokens import origin_of
    from moralprobe.steering.intervention import FILE, Intervention
    from moralprobe.steering.selection import read_feature_table
    from moralprobe.steering.survival import over_best_control

    loaded, out = load_sae(Path(options.sae)), Path(options.out)
    model = load_model(**origin_of(loaded))
    table = read_feature_table(Path(options.features))
    first, *others = (int(seed) for seed in options.seeds.split(","))
    folders = {first: out} | {seed: out / f"seed-{seed}" for seed in others}
    for seed, folder in folders.items():
        if not (folder / FILE).exists():
            fit_topology(loaded, model, table, options.vectors, mode=options.mode, seed=seed).save(
                folder
            )
        elif not (folder / GEOMETRY).exists():
            kept = Intervention.load(folder)
            does_it_survive(
                kept, model, options.vectors, layers=str(loaded.layer), seed=seed
            ).write_parquet(folder / GEOMETRY)
    made = Intervention.load(out)
    later = out / "survival.parquet"
    if not later.exists():
        does_it_survive(
            made, model, options.vectors, layers=options.layers, analyses=["separation", "gradient"]
        ).write_parquet(later)
    tables = {"geometry": pl.read_parquet(out / GEOMETRY), "survival": pl.read_parquet(later)}
    summary = {
        "model": model.name,
        "about": {key: said for key, said in made.about.items() if key != "vectors"},
        "features": what_they_follow(table, "li_tuned" if options.mode == "li2026" else "chosen"),
        **{name: headline(found) for name, found in tables.items()},
        "over_best_control": {
            name: rounded(over_best_control(found)) for name, found in tables.items()
        },
        "seeds": {
            str(seed): headline(pl.read_parquet(folder / GEOMETRY))
            for seed, folder in folders.items()
            if seed != first
        },
    }
    command = (
        "python benchmarks/topology.py SAE FEATURES VECTORS --out DIR "
        f"--mode {options.mode} --layers {options.layers} --seeds {options.seeds}"
    )
    print(write(f"topology-{options.mode}", command, summary))


def what_they_follow(table: Any, column: str) -> dict[str, Any]:
    """Return how closely the features that are tuned, and all, go with the length of a text."""
    tuned = table.filter(column)
    return {
        "tuned": tuned.height,
        "median_r_inverse_length": {
            name: round(float(rows["r_inverse_length"].abs().median()), 3)
            for name, rows in (("tuned", tuned), ("all", table))
        },
    }


def headline(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of the measures that are printed."""
    from moralprobe.steering.survival import SHOWN

    return [row for row in rounded(frame) if (row["name"], row["category"]) in SHOWN]


def rounded(frame: Any) -> list[dict[str, Any]]:
    """Return rows with four digits."""
    return [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        for row in frame.iter_rows(named=True)
    ]


if __name__ == "__main__":
    main()
