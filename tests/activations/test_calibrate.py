"""What a bench measures is what the plan then says of a real run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moralprobe.activations import calibrate
from moralprobe.activations.calibrate import measure_rate
from moralprobe.activations.cost import forward_flops
from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.forecast import plan_extraction
from moralprobe.activations.job import Options, make_job
from moralprobe.models.load import load_model
from moralprobe.models.shape import model_shape, shape_of
from moralprobe.models.tiny import FAMILIES, save_tiny
from moralprobe.moral_vectors import build_vectors


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_has_the_sizes_of_its_config(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path / "m")
    planned, loaded = model_shape(str(folder)), shape_of(load_model(folder, dtype="fp32"))
    for name in ("parameters", "block_parameters", "d_model", "n_heads", "head_dim"):
        assert getattr(planned, name) == getattr(loaded, name)


def test_a_rate_is_operations_over_time(tmp_path: Path) -> None:
    model = load_model(save_tiny("llama", tmp_path / "m"), dtype="fp32")
    started = time.perf_counter()
    rate = measure_rate(model, seconds=0.5)
    assert 0 < rate.seconds < time.perf_counter() - started
    assert rate.texts_per_second == pytest.approx(rate.texts / rate.seconds)
    # Those of the batches that were timed: all that came in time but the first.
    plan = make_job(model, build_vectors("starter"), Options()).plan
    last = plan.batches[0][1] + rate.texts
    timed = tuple(batch for batch in plan.batches[1:] if batch[1] <= last)
    assert sum(b - a for a, b in timed) == rate.texts
    flops = forward_flops(shape_of(model), replace(plan, batches=timed), range(model.n_layers))
    assert rate.tflops * 1e12 * rate.seconds == pytest.approx(flops)
    assert (rate.model, rate.dtype, rate.device) == ("m", "float32", model.device.type)


@pytest.mark.parametrize(
    ("seconds", "texts", "took"), [(100.0, 700 - 100, 1 + 2 + 4 + 8), (2.5, 400 - 100, 1 + 2)]
)
def test_the_first_batch_warms_up_and_isn_t_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    texts: int,
    took: float,
) -> None:
    """By a clock of its own: after 100 texts 1, 2 and 4 seconds, then 8 to write the last shard."""
    now = 0.0

    def fake(*_args: object, progress: Callable[[Progress], None], **_options: object) -> None:
        nonlocal now
        for step, read in ((0, 0), (50, 100), (1, 200), (2, 400), (4, 700)):
            now += step
            progress(Progress(read, 800, 0, 0))
        now += 8

    monkeypatch.setattr(calibrate, "extract", fake)
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: now)
    model = load_model(save_tiny("llama", tmp_path / "m"), dtype="fp32")
    rate = measure_rate(model, seconds=seconds)
    assert (rate.texts, rate.seconds) == (texts, took)
    assert rate.texts_per_second == texts / took


@pytest.mark.slow
def test_a_plan_by_the_bench_holds_within_a_factor(tmp_path: Path) -> None:
    """Loose, since other work moves it; benchmarks/plan.py says how close on a quiet machine."""
    model = load_model("smollm2-135m")
    vectors = build_vectors("starter")
    rate = measure_rate(model, seconds=4)
    (cost,) = plan_extraction("smollm2-135m", vectors, batch_tokens=2048, device_tflops=rate.tflops)
    started = time.perf_counter()
    extract(model, vectors, tmp_path / "s")
    took = time.perf_counter() - started
    assert 1 / 3 < cost.gpu_hours * 3600 / took < 3
