"""The target model's family, by the command that trains the target size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moralprobe.activations.forecast import plan_extraction
from moralprobe.data.texts import Texts
from moralprobe.models.tiny import save_tiny
from moralprobe.sae.cost import _actions as actions_of
from moralprobe.sae.cost import training_cost
from moralprobe.sae.load import load_sae
from moralprobe.sae.recipe import Recipe
from moralprobe.sae.tokens import TextOptions
from tests.sae.test_features import run


@pytest.mark.parametrize("arch", ["relu-l1", "topk", "batchtopk"])
def test_qwen3_is_trained_and_judged(
    arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("qwen3", tmp_path / "model")
    run(
        *("sae", "train", tmp_path / "model", "starter", "--layer", 1, "--arch", arch),
        *("--expansion", 16, "--k", 8, "--sparsity", 0.1, "--steps", 150, "--batch", 512),
        *("--lr", 2e-3, "--out", tmp_path / "sae", "--quiet"),
    )
    assert load_sae(tmp_path / "sae").sae.cfg.d_sae == 16 * 32
    capsys.readouterr()
    run("sae", "eval", tmp_path / "sae", "--json")
    row = json.loads(capsys.readouterr().out)[0]
    assert row["explained_variance"] > 0.6
    assert row["recovered_from_mean"] > 0.5
    assert 0 < row["l0"] < 512


def test_pooled_vectors_of_the_target_are_planned(tmp_path: Path) -> None:
    run("vectors", "build", "starter", "--out", tmp_path / "starter.parquet")
    options = TextOptions((str(tmp_path / "starter.parquet"),))
    recipe = Recipe("li2026", k=50, steps=0, batch=64)
    cost = training_cost("Qwen/Qwen3-8B", options, "18", [recipe], source="pooled")
    rows = cost.activations
    assert (cost.d_in, cost.d_sae, cost.readings) == (4096, 65536, 1)
    # A hundred epochs of whole batches.
    assert cost.epochs == pytest.approx(100 * (rows // 64) * 64 / rows)
    assert cost.train_flops == 12.0 * 4096 * 65536 * 100 * (rows // 64) * 64
    # Weights and two moments beside the result, and the vectors.
    weights = 2 * 4096 * 65536 * 4
    plan = plan_extraction(
        "Qwen/Qwen3-8B", Texts(actions_of(options)), layers="18", poolings="mean"
    )
    store = cost.disk_bytes - 4 * weights
    assert store == pytest.approx(plan[0].disk_bytes, rel=0.01) and store > 10**6
    once = training_cost(
        "Qwen/Qwen3-8B", options, "18", [Recipe(steps=10, batch=64)], source="pooled"
    )
    assert once.activations < rows
