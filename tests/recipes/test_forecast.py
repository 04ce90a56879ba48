"""A dry run forecasts by the arithmetic of plan and sae train, and says what it doesn't know."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from moralprobe import build_vectors, plan_extraction
from moralprobe.errors import UsageError
from moralprobe.moral_vectors import EXPECTED_PAIRS, PUBLISHED_TRAIN_COUNTS
from moralprobe.recipes import forecast
from moralprobe.recipes.forecast import plan_recipe
from moralprobe.recipes.run import load_recipe
from moralprobe.sae.cost import training_cost
from moralprobe.sae.recipe import Recipe
from moralprobe.sae.tokens import TextOptions
from tests.recipes.test_run import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def without_network_or_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> NoReturn:
        raise AssertionError("a dry run asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(forecast, "default_folder", lambda: tmp_path / "nothing here")
    monkeypatch.chdir(tmp_path)


def test_the_papers_recipe_is_forecast_without_its_data_and_weights(tmp_path: Path) -> None:
    plan = plan_recipe(load_recipe("qwen3-8b"), tmp_path / "run", device_tflops=100)
    jobs = {job.name: job for job in plan.jobs}
    assert "isn't on this machine" in plan.texts and f"{EXPECTED_PAIRS[1]:,}" in plan.texts
    starter = build_vectors("starter")
    (cost,) = plan_extraction("Qwen/Qwen3-8B", starter, device_tflops=100)
    times = EXPECTED_PAIRS[1] / cost.texts
    extract = jobs["extract"]
    assert extract.hours == pytest.approx(cost.gpu_hours * times)
    assert extract.disk_bytes == pytest.approx(cost.disk_bytes * times)
    assert extract.memory_bytes == cost.weights_bytes + cost.activations_bytes
    assert f"{round(cost.tokens * times):,} tokens" in extract.note
    # 100 epochs of about the rows of the paper's own training split, and nothing read twice.
    rows = sum(map(sum, PUBLISHED_TRAIN_COUNTS.values()))
    steps = 100 * (rows // 4096)
    published = jobs["sae.train li2026"]
    said = int(published.note.rsplit(" ", 2)[1].replace(",", ""))
    assert said == pytest.approx(steps, rel=0.03)
    width = 4096 * 4096 * 16
    assert published.hours == pytest.approx(3 * said * 4096 * 12 * width / 1e14 / 3600)
    # Up to a table's bytes of metadata.
    assert published.disk_bytes == pytest.approx(3 * 2 * width * 4 * 4, rel=1e-6)
    assert not any(tmp_path.iterdir())


def test_what_has_no_forecast_says_so(tmp_path: Path) -> None:
    plan = plan_recipe(load_recipe("qwen3-8b"), tmp_path / "run")
    for job in plan.jobs:
        known = job.name.startswith(("extract", "sae.train", "topology", "evaluate"))
        assert (job.hours is not None and job.disk_bytes is not None) == known, job.name
        assert known or "no forecast" in job.note
    until = plan_recipe(load_recipe("qwen3-8b"), tmp_path / "run", until="extract")
    assert [job.name for job in until.jobs] == ["vectors", "extract"]


def test_autoencoders_of_a_table_that_is_here_are_forecast_as_by_their_own_dry_run(
    tmp_path: Path,
) -> None:
    overrides = {"vectors": "starter", "sae.train.li2026.batch": "64", "extract": "false"}
    recipe = load_recipe("qwen3-8b", {**overrides, "probe": "false", "mode": "both"})
    jobs = {job.name: job for job in plan_recipe(recipe, tmp_path, device_tflops=100).jobs}
    path = build_vectors("starter").save(tmp_path / "starter.parquet")
    for name, made, source in (
        ("audited", Recipe(k=100, steps=10_000), "tokens"),
        ("li2026", Recipe.published(batch=64), "pooled"),
    ):
        cost = training_cost(
            "Qwen/Qwen3-8B", TextOptions((str(path),)), "11,17,23", [made], source=source
        )
        job = jobs[f"sae.train {name}"]
        assert job.hours == pytest.approx((cost.read_flops + cost.train_flops) / 1e14 / 3600)
        assert job.disk_bytes == pytest.approx(cost.disk_bytes, rel=1e-6)
        assert job.memory_bytes == cost.model_bytes + cost.memory_bytes


def test_tuning_measuring_and_answers_are_forecast(tmp_path: Path) -> None:
    """By hand: readings of the table, floats of autoencoders, and answers counted arm by arm."""
    plan = plan_recipe(load_recipe("qwen3-8b"), tmp_path / "run", device_tflops=100)
    jobs = {job.name: job for job in plan.jobs}
    reading = jobs["extract"].hours
    assert reading is not None
    fit, survive = jobs["topology.fit geometry layer-11"], jobs["topology.survive li2026 layer-11"]
    # Six arms have a strength: what is fitted and five controls. A tenth of texts is held out.
    assert fit.hours == pytest.approx(reading * (1 + 0.6) * 12 / 36)
    assert survive.hours == pytest.approx(reading * 0.7)
    width = 4096 * 16
    one = 4 * (2 * 4096 * width + 4096 + width)
    assert fit.disk_bytes == 2 * one
    assert jobs["topology.fit li2026 layer-11"].disk_bytes == 5 * one
    # No judge: eight arms, a thousand prompts, three seeds. Published: three strengths and layers.
    assert "24,000 answers of 256 tokens" in jobs["evaluate geometry"].note
    tried = len({0.1, 0.25, 0.5, 1.0}) * 3
    assert f"{1000 * (1 + tried):,} answers of 1,024 tokens" in jobs["evaluate li2026"].note
    judged = load_recipe("qwen3-8b", {"evaluate.judge": "http://localhost:1/v1=m"})
    found = {job.name: job for job in plan_recipe(judged, tmp_path / "run").jobs}
    # On one half each of six arms is tried at three strengths of three layers, and two arms once.
    half = 500 * (2 + 6 * 9) + 500 * 8 * 3
    assert f"{half:,} answers of 256" in found["evaluate geometry"].note
    assert found["evaluate geometry"].hours > jobs["evaluate geometry"].hours * 100 / 396


def test_a_large_table_is_counted_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("smollm2", {"extract.layers": "all"})
    whole = plan_recipe(recipe, tmp_path, until="extract").jobs[1]
    monkeypatch.setattr(forecast, "COUNTED", 200)
    plan = plan_recipe(recipe, tmp_path, until="extract")
    assert plan.texts == "800 distinct ones, of which 200 were counted"
    assert plan.jobs[1].hours == pytest.approx(whole.hours, rel=0.15)
    assert plan.jobs[1].disk_bytes == pytest.approx(whole.disk_bytes, rel=0.05)


def test_a_model_whose_sizes_are_not_here_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("smollm2", {"model": "nobody/has-fetched-this"})
    with pytest.raises(UsageError, match="isn't known"):
        plan_recipe(recipe, tmp_path)


@pytest.mark.parametrize("recipe", ["qwen3-8b", str(ROOT / "recipes" / "qwen3-8b.yaml")])
def test_a_run_without_a_folder_has_its_own(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moralprobe.recipes import run

    class StoppedError(Exception):
        pass

    def stop(_asked: object, out: Path, **_: object) -> None:
        raise StoppedError(out)

    monkeypatch.setattr(run, "run_recipe", stop)
    with pytest.raises(StoppedError) as stopped:
        CliRunner().invoke(app, ["run", recipe], catch_exceptions=False)
    assert stopped.value.args == (Path("out/qwen3-8b"),)


def test_the_command_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "qwen3-8b", "--out", "run", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Qwen/Qwen3-8B, mode both, bf16" in done.stdout
    assert "probe                                   -" in done.stdout
    assert "395.6 TFLOP/s (40% of an H100's bf16 peak)" in done.stdout
    given = ["run", "smollm2", "--out", "run", "--dry-run", "--device-tflops", "0.2"]
    assert "at 0.2 TFLOP/s (as given)" in CliRunner().invoke(app, given).stdout
    assert not any(tmp_path.iterdir())
