"""Tune an autoencoder's moral features, and see what held-out texts show, there and later.

    python benchmarks/topology.py SAE FEATURES VECTORS --out DIR [--mode geometry] [--layers ...]

SAE is a folder made by `moralprobe sae train` (or by `benchmarks/sae.py --real --keep`), FEATURES
one by `moralprobe sae features`. What DIR holds already isn't made again. Written is
`results/topology-MODE.json`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

# Set on some machines for the tests; they slow numpy, and say nothing of ours.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
    os.environ.pop(_name, None)


def main() -> None:
    """Fit, measure, and write the headline measures of every arm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sae")
    parser.add_argument("features")
    parser.add_argument("vectors")
    parser.add_argument("--out", required=True)
    parser.add_argument("--mode", default="geometry")
    parser.add_argument("--layers", default="later")
    options = parser.parse_args()
    import polars as pl
    from results_file import write

    from moralprobe import load_model
    from moralprobe.interventions import does_it_survive, fit_topology
    from moralprobe.sae.load import load_sae
    from moralprobe.sae.tokens import origin_of
    from moralprobe.steering.intervention import FILE, Intervention
    from moralprobe.steering.selection import read_feature_table

    loaded, out = load_sae(Path(options.sae)), Path(options.out)
    model = load_model(**origin_of(loaded))
    if not (out / FILE).exists():
        table = read_feature_table(Path(options.features))
        fit_topology(loaded, model, table, options.vectors, mode=options.mode).save(out)
    made = Intervention.load(out)
    later = out / "survival.parquet"
    if not later.exists():
        does_it_survive(
            made, model, options.vectors, layers=options.layers, analyses=["separation", "gradient"]
        ).write_parquet(later)
    summary = {
        "model": model.name,
        "about": {key: said for key, said in made.about.items() if key != "vectors"},
        "geometry": headline(pl.read_parquet(out / "geometry.parquet")),
        "survival": headline(pl.read_parquet(later)),
    }
    command = (
        "python benchmarks/topology.py SAE FEATURES VECTORS --out DIR "
        f"--mode {options.mode} --layers {options.layers}"
    )
    print(write(f"topology-{options.mode}", command, summary))
    print(json.dumps(summary, indent=1))


def headline(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of the measures that are printed."""
    from moralprobe.steering.survival import SHOWN

    kept = [row for row in frame.iter_rows(named=True) if (row["name"], row["category"]) in SHOWN]
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in kept]


if __name__ == "__main__":
    main()
