"""Time `extract` against transformers alone: the same texts, layers, poolings and dtype.

    python benchmarks/extraction.py [VECTORS] [--model smollm2-135m] [--texts N] [--repeats 3]

VECTORS is a table made by `moralprobe vectors build` (default: the starter set). The rival is what
one would write with transformers: texts sorted by length, batches of 64 with padding,
`output_hidden_states=True`, the language-model head skipped, every layer pooled under the
attention mask and kept in memory. Ours also checks, checksums and writes a store. Runs alternate,
each in a process of its own; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POOLINGS = ("mean", "mean_unit", "mean_no_sink")
BATCH = 64


def ours(vectors_path: str, model_name: str, n: int) -> int:
    """Extract with moralprobe; return how many texts were read."""
    from moralprobe import MoralVectors, build_vectors, extract, load_model

    vectors = (
        build_vectors("starter") if vectors_path == "starter" else MoralVectors.load(vectors_path)
    )
    vectors = MoralVectors(_some(vectors.frame, n), vectors.meta)
    model = load_model(model_name)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = extract(model, vectors, Path(folder) / "store", poolings=POOLINGS)
    return _report(store.texts.height, start)


def rival(vectors_path: str, model_name: str, n: int) -> int:
    """Read the same texts with transformers alone."""
    import torch

    from moralprobe import MoralVectors, build_vectors, load_model

    vectors = (
        build_vectors("starter") if vectors_path == "starter" else MoralVectors.load(vectors_path)
    )
    texts = _some(vectors.frame, n)["action"].unique().sort().to_list()
    loaded = load_model(model_name)
    model, tokenizer = loaded.model.base_model, loaded.tokenizer
    tokenizer.padding_side = "right"
    start = time.perf_counter()
    prompts = [f"{text} is morally" for text in texts]
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    layers = loaded.n_layers
    kept = torch.empty(layers, len(POOLINGS), len(texts), loaded.d_model, dtype=loaded.dtype)
    with torch.inference_mode():
        for at in range(0, len(order), BATCH):
            some = order[at : at + BATCH]
            batch = tokenizer([prompts[i] for i in some], return_tensors="pt", padding=True)
            out = model(**batch, output_hidden_states=True, use_cache=False)
            mask = batch["attention_mask"][..., None].float()
            rest = mask.clone()
            rest[:, 0] = 0
            for layer in range(layers):
                hidden = out.hidden_states[layer + 1].float()
                unit = hidden / hidden.norm(dim=-1, keepdim=True)
                pooled = (
                    (hidden * mask).sum(1) / mask.sum(1),
                    (unit * mask).sum(1) / mask.sum(1),
                    (hidden * rest).sum(1) / rest.sum(1),
                )
                for k, values in enumerate(pooled):
                    kept[layer, k, some] = values.to(loaded.dtype)
    return _report(len(texts), start)


def _some(frame, n: int):  # type: ignore[no-untyped-def]
    """Return the pairs of n distinct texts, chosen by a fixed seed."""
    import polars as pl

    texts = frame["action"].unique().sort()
    if 0 < n < len(texts):
        texts = texts.sample(n, seed=0)
    return frame.filter(pl.col("action").is_in(texts.to_list()))


def _report(texts: int, start: float) -> int:
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"texts": texts, "seconds": seconds, "peak_bytes": peak}))
    return texts


def main() -> None:
    """Alternate the two and write `results/extraction.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("vectors", nargs="?", default="starter")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=0, help="only so many; 0 for all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", choices=["ours", "rival"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        {"ours": ours, "rival": rival}[options.run](options.vectors, options.model, options.texts)
        return
    from results_file import write

    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "rival": []}
    for i in range(options.repeats):
        for name in ("ours", "rival") if i % 2 == 0 else ("rival", "ours"):
            command = [sys.executable, __file__, options.vectors, "--model", options.model]
            command += ["--texts", str(options.texts), "--run", name]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, runs[name][-1], flush=True)
    speed = {
        name: statistics.median(r["texts"] / r["seconds"] for r in some)
        for name, some in runs.items()
    }
    summary = {
        "model": options.model,
        "dtype": "bf16",
        "poolings": list(POOLINGS),
        "texts": int(runs["ours"][0]["texts"]),
        "repeats": options.repeats,
        "texts_per_second": {name: round(value, 1) for name, value in speed.items()},
        "ratio": round(speed["ours"] / speed["rival"], 2),
        "peak_gb": {
            name: round(max(r["peak_bytes"] for r in some) / 1e9, 2) for name, some in runs.items()
        },
        "runs": runs,
    }
    shown = "VECTORS" if options.vectors != "starter" else "starter"
    command = f"python benchmarks/extraction.py {shown} --repeats {options.repeats}"
    command += f" --texts {options.texts}" if options.texts else ""
    print(write("extraction", command, summary))
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))


if __name__ == "__main__":
    main()
