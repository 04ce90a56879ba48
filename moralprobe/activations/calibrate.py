"""What this machine sustains while it extracts: measured with a model, for that model's plans."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from moralprobe.activations.cost import forward_flops
from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.job import Options, make_job
from moralprobe.models.causal import CausalModel
from moralprobe.models.shape import shape_of
from moralprobe.moral_vectors import build_vectors


@dataclass(frozen=True)
class Rate:
    """What an extraction sustained: texts a second, and TFLOP/s as `activations.cost` counts them.

    Checks, poolings and the writing of the store are in the time, loading the model is not.
    """

    model: str
    dtype: str
    device: str
    texts: int
    seconds: float
    texts_per_second: float
    tflops: float


class _EnoughError(Exception):
    pass


def measure_rate(model: CausalModel, *, seconds: float = 20.0) -> Rate:
    """Extract texts of the starter set into a store that is thrown away, and time it.

    Args:
        model: from `load_model`.
        seconds: about how long; at least two batches are read, and the set once at most.
    """
    vectors = build_vectors("starter")
    job = make_job(model, vectors, Options())
    marks: list[tuple[float, int]] = []

    def progress(p: Progress) -> None:
        if model.device.type == "cuda":  # else it would be the time of what was asked for
            torch.cuda.synchronize(model.device)
        marks.append((time.perf_counter(), p.texts))
        # The first batch warms up and isn't counted.
        if len(marks) > 3 and marks[-1][0] - marks[1][0] > seconds:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as folder:
        try:
            extract(model, vectors, Path(folder) / "store", progress=progress)
            marks.append((time.perf_counter(), marks[-1][1]))  # the last shard is written
        except _EnoughError:
            pass
    (begin, before), (end, after) = marks[1], marks[-1]
    timed = tuple(batch for batch in job.plan.batches if before <= batch[0] < after)
    read_plan = replace(job.plan, batches=timed)
    flops = forward_flops(shape_of(model), read_plan, range(model.n_layers))
    read, took = after - before, end - begin
    return Rate(
        model=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        texts=read,
        seconds=took,
        texts_per_second=read / took,
        tflops=flops / took / 1e12,
    )
