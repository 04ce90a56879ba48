"""Time the consensus fit: judges drawn from the published parameters, and random ones beside them.

    python benchmarks/consensus.py [--items 10000] [--models 8] [--theories 5] [--repeats 5]

Written are medians of fits by each variant, and the time of the whole of `consensus fit` with its
shuffles and resamples, once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from scipy.stats import truncnorm

# Mean and width where an item is acceptable, and where it isn't: arXiv 2506.14625.
PUBLISHED = (
    (0.658, 0.129, 0.418, 0.140),
    (0.571, 0.143, 0.373, 0.127),
    (0.546, 0.147, 0.274, 0.159),
    (0.529, 0.158, 0.401, 0.135),
)


def main() -> None:
    """Draw, fit, and write `results/consensus.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--theories", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    from results_file import write

    from moralprobe.behavior.consensus.fitting import fit_consensus
    from moralprobe.behavior.consensus.latent import VARIANTS, fit
    from moralprobe.behavior.consensus.scores import Scores

    rng = np.random.default_rng(0)
    shape = options.theories, options.items
    labels = rng.random(shape) < 0.45
    values = np.stack([drawn(rng, labels, i) for i in range(options.models)])
    seconds: dict[str, float] = {}
    for variant in VARIANTS:
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            found = fit(values, variant=variant)
            times.append(time.perf_counter() - start)
        seconds[variant] = round(statistics.median(times), 3)
        print(variant, seconds[variant], found.iterations, flush=True)
    names = tuple(f"model {i}" for i in range(options.models))
    theories = tuple(f"theory {j}" for j in range(options.theories))
    items = tuple(f"item {i}" for i in range(options.items))
    start = time.perf_counter()
    whole = fit_consensus(Scores(values, names, theories, items, names))
    summary = {
        **vars(options),
        "seconds": seconds,
        "whole_seconds": round(time.perf_counter() - start, 1),
        "draws": whole.summary["draws"],
        "shuffles": whole.summary["shuffles"],
    }
    said = " ".join(f"--{name} {value}" for name, value in vars(options).items())
    print(write("consensus", f"python benchmarks/consensus.py {said}", summary))
    print(json.dumps(summary, indent=1))


def drawn(rng: np.random.Generator, labels: np.ndarray, i: int) -> np.ndarray:
    """Return a judge's scores."""
    one = PUBLISHED[i % len(PUBLISHED)]
    mean, width = (np.where(labels, one[k], one[k + 2]) for k in (0, 1))
    how = {"loc": mean, "scale": width, "size": labels.shape, "random_state": rng}
    return np.asarray(truncnorm.rvs(-mean / width, (1 - mean) / width, **how))


if __name__ == "__main__":
    main()
