"""Run the four analyses on a store as wide and deep as Qwen3-8B's, without loading it whole.

    python benchmarks/wide.py [--layers 1] [--draws 1000]

Writes a synthetic store of 36 layers, 4,096 wide, with 16,315 texts in bf16 under one pooling of
each mode (about 4.8 GB each), probes its first layers in a process of its own, and writes seconds
and peak memory into `results/wide.json`. Layers are measured one after the other at this width, so
that memory doesn't depend on how many there are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.pop("OPENBLAS_CORETYPE", None)

from results_file import write

STORE = Path("out/wide/store")
TEXTS, LAYERS, WIDTH = 16_315, 36, 4_096
POOLINGS = ("mean", "mean_unit")
SHARD = 512  # texts


def table(path: Path) -> None:
    """Write annotated texts of random words."""
    import numpy as np
    import polars as pl

    from moralprobe.foundations import AXIS_TAGS

    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(400)])
    pl.DataFrame(
        {
            "action": [f"{' '.join(rng.choice(words, 5))} {i}" for i in range(TEXTS)],
            "rot-moral-foundations": rng.choice(AXIS_TAGS, TEXTS),
            "action-moral-judgment": rng.integers(-2, 3, TEXTS),
            "action-agree": rng.choice([1, 2, 3, 4], TEXTS, p=[0.1, 0.2, 0.3, 0.4]),
        }
    ).write_csv(path, separator="\t")


def make_store() -> None:
    """Write the store: noise in which polarity shows a little, each layer scaled anew."""
    import ml_dtypes
    import numpy as np
    import polars as pl
    import xxhash

    from moralprobe import Site, build_vectors
    from moralprobe.activations.store import KIND, STATS, tables_of, tensor_name
    from moralprobe.artifacts import Artifact
    from moralprobe.files import write_bytes

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wide.tsv"
        table(path)
        vectors = build_vectors(path)
    rng = np.random.default_rng(1)
    actions = vectors.frame["action"].unique().sort()
    lengths = rng.integers(8, 24, TEXTS)
    texts = pl.DataFrame(
        {
            "text": actions,
            "status": "ok",
            "n_tokens": lengths,
            "n_action_tokens": lengths - 3,
            "truncated": False,
            "token0_is_content": False,
        },
        schema_overrides={"n_tokens": pl.Int32, "n_action_tokens": pl.Int32},
    )
    tables = tables_of(texts, vectors)
    artifact = Artifact.create(
        STORE,
        KIND,
        {
            "model": {"id": "synthetic"},
            "d_model": WIDTH,
            "n_layers": LAYERS,
            "layers": list(range(LAYERS)),
            "poolings": list(POOLINGS),
            "input_poolings": [],
            "template": "action-is-morally",
            "token0_is_content": False,
            "max_tokens": 128,
            "dtype": "bfloat16",
            "tables": {name: xxhash.xxh3_128_hexdigest(data) for name, data in tables.items()},
        },
    )
    for name, data in tables.items():
        write_bytes(STORE / name, data)
    sign = {"virtue": 1.0, "vice": -1.0}
    polarity = dict(vectors.frame.select("action", "polarity").iter_rows())
    shift = np.array([sign.get(polarity[text], 0.0) for text in actions], np.float32)
    for i, first in enumerate(range(0, TEXTS, SHARD)):
        rows = slice(first, min(first + SHARD, TEXTS))
        n = rows.stop - rows.start
        X = rng.standard_normal((n, WIDTH), np.float32)
        X[:, :20] += 0.3 * shift[rows, None]
        tensors = {}
        for layer in range(LAYERS):
            site = Site("resid_post", layer)
            for pooling in POOLINGS:
                scale = np.float32(1 + layer / LAYERS)
                tensors[tensor_name(site, pooling)] = (X * scale).astype(ml_dtypes.bfloat16)
            for k, name in enumerate(STATS):
                tensors[tensor_name(site, name)] = np.full(n, (30, 3, 0.1)[k], np.float32)
        artifact.add_shard(
            f"shard-{i:05d}.safetensors", tensors, first=rows.start, last=rows.stop - 1
        )


def probe_store(layers: int, draws: int) -> None:
    """Run in a process of its own, so that its peak memory is the analyses' own."""
    import resource

    from moralprobe import ActivationStore, probe

    store = ActivationStore.open(STORE)
    store.layers = store.layers[:layers]
    started = time.perf_counter()
    study = probe(store, hdbscan="none", draws=draws)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    said = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(peak / 1e9, 2),
        "measures": study.frame.height,
    }
    print(json.dumps(said))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--worker", action="store_true")
    asked = parser.parse_args()
    if asked.worker:
        probe_store(asked.layers, asked.draws)
        return
    if not (STORE / "manifest.json").is_file():
        make_store()
    size = sum(path.stat().st_size for path in STORE.iterdir())
    options = ["--layers", str(asked.layers), "--draws", str(asked.draws)]
    command = [sys.executable, __file__, "--worker", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    shape = {"texts": TEXTS, "layers": LAYERS, "width": WIDTH, "poolings": list(POOLINGS)}
    measured = {"layers_measured": asked.layers, "draws": asked.draws}
    results = {**shape, "store_gb": round(size / 1e9, 2), **measured, **found}
    print(write("wide", f"python benchmarks/wide.py {' '.join(options)}", results))


if __name__ == "__main__":
    main()
