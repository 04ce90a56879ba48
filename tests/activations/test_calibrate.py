"""What a bench measures is what the plan then says of a real run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from moralprobe.activations.calibrate import measure_rate
from moralprobe.activations.cost import forward_flops
from moralprobe.activations.extract import extract
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
    job = make_job(model, build_vectors("starter"), Options())
    flops = forward_flops(shape_of(model), job.plan, range(model.n_layers))
    assert rate.tflops * 1e12 * rate.seconds == pytest.approx(flops * rate.texts / len(job.encoded))
    assert (rate.model, rate.dtype, rate.device) == ("m", "float32", model.device.type)


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
