"""Time `extract` against what else reads hidden states: the same texts, layers, poolings and dtype.

    python benchmarks/extraction.py [VECTORS] [--dtype bf16] [--texts N] [--repeats 3]
    python benchmarks/extraction.py VECTORS... --scale

VECTORS is a table made by `moralprobe vectors build` (default: the starter set). The others are
written as one would write them, and keep what they pool in memory:

    sorted-32, -64, -128  transformers' base model, texts sorted by length and padded in batches,
                          `output_hidden_states=True`, no cache, no language-model head
    padded-64             the same in random order
    bridge-64             TransformerLens' bridge with a cache of every block's output, sorted

All of them read on a GPU where there is one; `benchmarks/random_model.py` makes a model of another
size. Ours also checks, checksums and writes a store. Runs alternate, each in a process of its own;
the figures are medians. Beside them stands what the machine's matrix products reach alone.

`--scale` compares the rate on 8,000 prompts with that on all distinct prompts of the tables under
four templates, and the memory above the loaded model.
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
from typing import Any

POOLINGS = ("mean", "mean_unit", "mean_no_sink")
TEMPLATES = ("action-is-morally", "morally-speaking", "is-it-acceptable", "people-judge")
SMALL = 8000
OTHERS = ("sorted-32", "sorted-64", "sorted-128", "padded-64", "bridge-64")


def texts_of(paths: list[str], n: int) -> list[str]:
    """Return n distinct actions of some tables, neighbours in the alphabet; all for 0.

    Neighbours begin alike as often as in the whole table; n drawn at random would do so less.
    """
    import polars as pl

    from moralprobe import MoralVectors, build_vectors

    frames = [
        (build_vectors("starter") if path == "starter" else MoralVectors.load(path)).frame
        for path in paths
    ]
    texts = pl.concat([frame.select("action") for frame in frames])["action"].unique().sort()
    return (texts.slice(len(texts) // 4, n) if 0 < n < len(texts) else texts).to_list()


def ours(texts: list[str], dtype: str, model_name: str, template: str) -> dict[str, Any]:
    """Extract with moralprobe."""
    from moralprobe import extract, load_model
    from moralprobe.data.texts import Texts

    model = load_model(model_name, dtype=dtype)
    before = resident()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "store"
        store = extract(model, Texts(texts), out, poolings=POOLINGS, template=template)
        seconds = time.perf_counter() - start
        found = {"texts": store.n_readable, "seconds": seconds, **memory(before)}
        written = sum(path.stat().st_size for path in out.iterdir())
    sizes = {"layers": model.n_layers, "d_model": model.d_model}
    return {**found, **operations(model, texts, template), **sizes, "bytes": written}


def operations(model: Any, texts: list[str], template: str) -> dict[str, float]:
    """Count the operations that our plan needs, and the tokens with and without sharing."""
    from moralprobe.activations.cost import forward_flops
    from moralprobe.activations.job import Options, make_job
    from moralprobe.data.texts import Texts
    from moralprobe.models.shape import shape_of

    job = make_job(model, Texts(texts), Options(template=template))
    flops = forward_flops(shape_of(model), job.plan, range(model.n_layers))
    return {"flops": flops, "tokens": job.plan.n_tokens, "tokens_unshared": sum(job.plan.lengths)}


def rival(texts: list[str], dtype: str, model_name: str, name: str) -> dict[str, Any]:
    """Read the same texts with another library."""
    import torch

    from moralprobe import load_model

    kind, size = name.split("-")
    loaded = load_model(model_name, dtype=dtype)
    before = resident()
    tokenizer, layers = loaded.tokenizer, loaded.n_layers
    tokenizer.padding_side = "right"
    states = (of_bridge if kind == "bridge" else of_transformers)(loaded)
    start = time.perf_counter()
    prompts = [f"{text} is morally" for text in texts]
    if kind == "padded":
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
    else:
        lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
        order = sorted(range(len(prompts)), key=lengths.__getitem__)
    shape = (layers, len(POOLINGS), len(texts), loaded.d_model)
    kept = torch.empty(shape, dtype=loaded.dtype, device=loaded.device)
    with torch.inference_mode():
        for at in range(0, len(order), int(size)):
            some = order[at : at + int(size)]
            batch = tokenizer([prompts[i] for i in some], return_tensors="pt", padding=True)
            batch = batch.to(loaded.device)
            mask = batch["attention_mask"][..., None].float()
            rest = mask.clone()
            rest[:, 0] = 0
            for layer, hidden in enumerate(states(batch)):
                hidden = hidden.float()
                unit = hidden / hidden.norm(dim=-1, keepdim=True)
                pooled = (
                    (hidden * mask).sum(1) / mask.sum(1),
                    (unit * rest).sum(1) / rest.sum(1),
                    (hidden * rest).sum(1) / rest.sum(1),
                )
                for k, values in enumerate(pooled):
                    kept[layer, k, some] = values.to(loaded.dtype)
    kept = kept.cpu()
    return {"texts": len(texts), "seconds": time.perf_counter() - start, **memory(before)}


def of_transformers(loaded: Any) -> Any:
    """Every layer's states by `output_hidden_states` of the base model."""
    model = loaded.model.base_model
    return lambda batch: model(**batch, output_hidden_states=True, use_cache=False).hidden_states[
        1:
    ]


def of_bridge(loaded: Any) -> Any:
    """Every layer's states from the cache of TransformerLens' bridge."""
    from moralprobe.models.lens import bridge_of, hook_name
    from moralprobe.sites import Site

    bridge = bridge_of(loaded)
    names = [hook_name(Site("resid_post", layer)) for layer in range(loaded.n_layers)]

    def states(batch: Any) -> list[Any]:
        _, cache = bridge.run_with_cache(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            names_filter=lambda name: name in names,
        )
        return [cache[name] for name in names]

    return states


def peak(dtype: str) -> dict[str, Any]:
    """Measure what matrix products reach here: a block's widths, many rows, the best of many."""
    import torch

    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    best, device = 0.0, "cuda" if torch.cuda.is_available() else "cpu"
    for n in (1024, 2048, 4096) if device == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
        for _ in range(12):
            start = time.perf_counter()
            torch.mm(a, b)[0, 0].item()
            best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return {"gflops": best / 1e9, "texts": 0, "seconds": 1.0, "peak_bytes": 0, "above_bytes": 0}


def resident() -> int:
    """Return the resident set of this process, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def memory(before: int) -> dict[str, int]:
    """Return the peak of this process, and how far it lies above what was there."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"peak_bytes": peak_bytes, "above_bytes": peak_bytes - before, "gpu_bytes": on_gpu}


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Do the run that a process was started for."""
    if options.run == "peak":
        return peak(options.dtype)
    texts = texts_of(options.vectors, options.texts)
    if options.run == "ours":
        return ours(texts, options.dtype, options.model, "action-is-morally")
    if options.run == "prompts":
        from moralprobe.data.prompts import get_template

        prompts = [get_template(name).render(text) for name in TEMPLATES for text in texts]
        prompts = sorted(set(prompts))
        if options.some:
            import random

            prompts = random.Random(0).sample(prompts, options.some)
        return ours(prompts, options.dtype, options.model, "action")
    return rival(texts, options.dtype, options.model, options.run)


def start(options: argparse.Namespace, name: str, some: int = 0) -> dict[str, Any] | None:
    """Run in a process of its own; None where a library isn't installed."""
    command = [sys.executable, __file__, *options.vectors, "--model", options.model]
    command += ["--texts", str(options.texts), "--dtype", options.dtype, "--run", name]
    command += ["--some", str(some)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
        environment.pop(variable, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        if "No module named" in done.stderr:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return None
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, found, flush=True)
    return found


def main() -> None:
    """Alternate the contenders and write `results/extraction.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("vectors", nargs="*", default=["starter"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--texts", type=int, default=0, help="only so many; 0 for all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--others", default=",".join(OTHERS), help="joined by commas")
    parser.add_argument("--scale", action="store_true", help="8,000 prompts against all")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--some", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(one(options)))
        return
    from results_file import suffix, write

    shown = " ".join("VECTORS" if path != "starter" else path for path in options.vectors)
    command = f"python benchmarks/extraction.py {shown} --model {Path(options.model).name}"
    if options.scale:
        summary, command = scale(options), f"{command} --scale"
        print(write("extraction-scale", command, summary))
    else:
        summary = alternate(options)
        command += f" --dtype {options.dtype} --repeats {options.repeats}"
        command += f" --texts {options.texts}" if options.texts else ""
        if options.others != ",".join(OTHERS):
            command += f" --others {options.others}"
        print(write(f"extraction-{options.dtype}{suffix()}", command, summary))
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))


def alternate(options: argparse.Namespace) -> dict[str, Any]:
    """Run all contenders in turn, forwards and backwards, and summarise."""
    names = ["ours", *options.others.split(",")]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    peaks = []
    for i in range(options.repeats):
        for name in names if i % 2 == 0 else reversed(names):
            if (found := start(options, name)) is not None:
                runs[name].append(found)
        peaks.append((start(options, "peak") or {})["gflops"])
    runs = {name: some for name, some in runs.items() if some}
    speed = {
        name: statistics.median(run["texts"] / run["seconds"] for run in some)
        for name, some in runs.items()
    }
    best_sorted = max((name for name in speed if name.startswith("sorted")), key=speed.__getitem__)
    gflops = statistics.median(run["flops"] / run["seconds"] / 1e9 for run in runs["ours"])
    return {
        "model": Path(options.model).name,
        "dtype": options.dtype,
        "layers": runs["ours"][0]["layers"],
        "d_model": runs["ours"][0]["d_model"],
        "poolings": list(POOLINGS),
        "texts": int(runs["ours"][0]["texts"]),
        "tokens": runs["ours"][0]["tokens"],
        "tokens_unshared": runs["ours"][0]["tokens_unshared"],
        "repeats": options.repeats,
        "texts_per_second": {name: round(value, 1) for name, value in speed.items()},
        "ratios": {
            name: round(speed["ours"] / value, 2) for name, value in speed.items() if name != "ours"
        },
        "best_sorted": best_sorted,
        "ratio": round(speed["ours"] / speed[best_sorted], 2),
        "gflops": round(gflops),
        "peak_gflops": round(statistics.median(peaks)),
        "peak_gb": {
            name: round(max(r["peak_bytes"] for r in some) / 1e9, 2) for name, some in runs.items()
        },
        "gpu_gb": {
            name: round(max(r["gpu_bytes"] for r in some) / 1e9, 2) for name, some in runs.items()
        },
        "runs": runs,
    }


def scale(options: argparse.Namespace) -> dict[str, Any]:
    """Compare a few prompts with all."""
    few = start(options, "prompts", SMALL)
    all_of_them = start(options, "prompts")
    assert few is not None and all_of_them is not None
    rate = [run["texts"] / run["seconds"] for run in (few, all_of_them)]
    return {
        "model": Path(options.model).name,
        "dtype": options.dtype,
        "templates": list(TEMPLATES),
        "prompts": [few["texts"], all_of_them["texts"]],
        "texts_per_second": [round(value, 1) for value in rate],
        "rate_ratio": round(rate[1] / rate[0], 3),
        "above_gb": [round(run["above_bytes"] / 1e9, 3) for run in (few, all_of_them)],
        "above_ratio": round(all_of_them["above_bytes"] / few["above_bytes"], 3),
        "tokens_share": [round(r["tokens"] / r["tokens_unshared"], 3) for r in (few, all_of_them)],
        "runs": [few, all_of_them],
    }


if __name__ == "__main__":
    main()
