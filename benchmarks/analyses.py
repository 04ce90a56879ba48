"""Time the four analyses on a store of real hidden states, and measure their memory.

    python benchmarks/analyses.py TABLE [--agreement action-agree] [--model smollm2-135m]
    python benchmarks/analyses.py --density
    python benchmarks/analyses.py --twice
    python benchmarks/analyses.py --headline

The first reads every text of TABLE at every layer (a store that `confound.py` made serves) and runs
the four analyses in both modes with 1,000 resamples and permutations, without density clusters.
`--density` times HDBSCAN apart; `--twice` compares one layer with a store of twice as many texts;
both on the store that is there. `--headline` writes what the studies of the first two say on each
question. Each part writes its figures into `results/analyses.json`.
The draws' time depends on the linear algebra: variables that name another processor to OpenBLAS are
taken away first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_CORETYPE", "NVPL_BLAS_DEBUG_CPU_TYPE"):
    os.environ.pop(name, None)

from results_file import RESULTS, write  # noqa: E402

STORE = Path("out/confound/store")
STUDY = Path("out/analyses/study")


def peak_bytes() -> int:
    """Return the largest resident set that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def probe_store(folder: str, analyses: str, hdbscan: str, layers: int) -> None:
    """Run in a process of its own, so that its peak memory is the analyses' own."""
    from moralprobe import ActivationStore, probe

    store = ActivationStore.open(Path(folder))
    if layers:
        store.layers, store.inputs, store.input_poolings = store.layers[:layers], (), ()
    started = time.perf_counter()
    study = probe(
        store,
        analyses=analyses,
        hdbscan=hdbscan,
        progress=lambda done, total: print(f"{done}/{total}", file=sys.stderr, flush=True),
    )
    seconds = time.perf_counter() - started
    if not layers:
        study.save(STUDY / hdbscan)
    said = {
        "seconds": round(seconds, 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
        "texts": store.texts.height,
        "pairs": study.meta["pairs"],
        "layers": len(store.layers),
        "measures": study.frame.height,
    }
    print(json.dumps(said))


def run(folder: Path, analyses: str, hdbscan: str, layers: int = 0) -> dict[str, Any]:
    """Probe a store in a new process and return what it took."""
    command = [sys.executable, __file__, "--worker", str(folder), analyses, hdbscan, str(layers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def keep(part: str, command: str, found: dict[str, Any]) -> None:
    """Put one part into the results file beside the others."""
    path = RESULTS / "analyses.json"
    old = json.loads(path.read_text()) if path.is_file() else {}
    parts = {k: v for k, v in old.items() if k not in ("command", "machine")}
    print(
        write(
            "analyses",
            "python benchmarks/analyses.py TABLE",
            {**parts, part: {**found, "command": command}},
        )
    )


def headline() -> dict[str, Any]:
    """Return each question's numbers: as published, audited, and of the other readings."""
    import polars as pl

    from moralprobe import Study
    from moralprobe.report.verdicts import QUESTIONS, verdicts
    from moralprobe.report.words import best

    study, density = Study.load(STUDY / "none"), Study.load(STUDY / "paper")
    answers = {verdict.question: verdict for verdict in verdicts(study)}
    published = (
        (study, "opposed_cosine", "mean", True),
        (study, "spearman", "mean", False),
        (density, "ari", "MFT5", False),
        (density, "ari", "Polarity3", False),
        (study, "r2_adjusted", "mean", False),
    )
    numbers = ("value", "ci_low", "ci_high", "layer", "q")
    rows = []
    for question, (of, measure, category, lowest) in zip(QUESTIONS, published, strict=True):
        paper = best(of, "li2026", measure, category, lowest=lowest)
        own = best(study, "audited", question.measure, question.category, lowest=False)
        others = study.baselines.filter(
            mode="audited", measure=question.measure, category=question.category
        ).filter(pl.col("value").is_finite())
        rows.append(
            {
                "question": question.text,
                "answer": answers[question.text].answer,
                "why": answers[question.text].why,
                "published": {
                    "measure": f"{measure} ({category})",
                    **({k: paper.row[k] for k in numbers} if paper else {}),
                },
                "audited": {
                    "measure": f"{question.measure} ({question.category})",
                    **({k: own.row[k] for k in numbers} if own else {}),
                },
                "others": {
                    row["source"]: [row["value"], row["ci_low"], row["ci_high"]]
                    for row in others.iter_rows(named=True)
                },
            }
        )
    return {
        "model": study.frame["model"][0],
        "texts": study.meta["texts"]["distinct"],
        "questions": rows,
    }


def twice(folder: Path) -> Path:
    """Write a store of the first layer of another, each text twice as a text of its own."""
    import numpy as np
    import polars as pl
    import xxhash

    from moralprobe import ActivationStore, MoralVectors, Site
    from moralprobe.activations.store import KIND, STATS, tables_of, tensor_name
    from moralprobe.artifacts import Artifact
    from moralprobe.files import write_bytes

    store = ActivationStore.open(folder)
    vectors, out = store.vectors(), Path("out/analyses/twice")
    other = vectors.frame.with_columns(
        pl.col("action") + " too",
        pl.col("group") + "2",
        pl.col("row") + vectors.frame["row"].max() + 1,
    )
    both = MoralVectors(pl.concat([vectors.frame, other]), vectors.meta)
    texts = pl.concat([store.texts, store.texts.with_columns(pl.col("text") + " too")])
    texts = texts.sort(pl.col("status") != "ok", maintain_order=True)
    tables = tables_of(texts, both)
    layer = store.layers[0]
    key = {**store.key, "layers": [layer], "input_poolings": [], "tables": {}}
    site = Site("resid_post", layer)
    key["tables"] = {name: xxhash.xxh3_128_hexdigest(data) for name, data in tables.items()}
    if not (out / "manifest.json").is_file():
        artifact = Artifact.create(out, KIND, key)
        for name, data in tables.items():
            write_bytes(out / name, data)
        n = store.n_readable
        rng = np.random.default_rng(0)
        tensors = {}
        for pooling in store.poolings:
            X = store.layer(pooling, layer)[:n]
            noise = rng.standard_normal(X.shape).astype(np.float32) * X.std(0)
            tensors[tensor_name(site, pooling)] = np.concatenate([X, X + noise])
        for name in STATS:
            one = store.stats(layer)[name][:n]
            tensors[tensor_name(site, name)] = np.concatenate([one, one])
        artifact.add_shard("shard-00000.safetensors", tensors, first=0, last=2 * n - 1)
    return out


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", nargs="?")
    parser.add_argument("--agreement", default="action-agree")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--density", action="store_true")
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--headline", action="store_true")
    parser.add_argument("--worker", nargs=4)
    asked = parser.parse_args()
    if asked.worker:
        probe_store(*asked.worker[:3], int(asked.worker[3]))
        return
    if asked.table:
        from moralprobe import build_vectors, extract, load_model

        vectors = build_vectors(asked.table, agreement=asked.agreement)
        poolings = "mean,mean_unit,mean_no_sink,last"
        extract(load_model(asked.model), vectors, STORE, poolings=poolings)
        command = f"python benchmarks/analyses.py TABLE --agreement {asked.agreement}"
        keep("all", command, run(STORE, "all", "none"))
    if asked.density:
        found = run(STORE, "structure", "paper")
        keep("density", "python benchmarks/analyses.py --density", found)
    if asked.twice:
        longer = twice(STORE)
        once, both = run(STORE, "all", "none", 1), run(longer, "all", "none", 1)
        ratio = round(both["seconds"] / once["seconds"], 2)
        found = {"one layer": once, "twice as many texts": both, "ratio": ratio}
        keep("twice", "python benchmarks/analyses.py --twice", found)
    if asked.headline:
        keep("headline", "python benchmarks/analyses.py --headline", headline())
    if not (asked.table or asked.density or asked.twice or asked.headline):
        parser.error("name a table, --density, --twice or --headline")


if __name__ == "__main__":
    main()
