"""What a training run is said to cost, against what one takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from moralprobe.errors import ModelError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny
from moralprobe.sae.cost import training_cost
from moralprobe.sae.recipe import Recipe, Task
from moralprobe.sae.tokens import TextOptions, read_texts, train_on_tokens

STARTER = TextOptions(("starter",))


def test_tokens_and_disk_are_those_of_a_run(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model", bos=True)
    recipe = Recipe(expansion=4, k=4, steps=20, batch=256, precision="fp32")
    cost = training_cost(str(folder), STARTER, "1", [recipe])
    model = load_model(folder, dtype="fp32")
    train, _ = read_texts(model, STARTER)
    assert len(train) <= cost.tokens <= 1.2 * len(train)
    assert (cost.d_in, cost.d_sae, cost.autoencoders, cost.readings) == (32, 128, 1, 1)
    assert cost.epochs == pytest.approx(20 * 256 / cost.tokens)
    train_on_tokens(model, STARTER, [Task(1, recipe)], tmp_path / "sae")
    size = (tmp_path / "sae" / "sae_weights.safetensors").stat().st_size
    # A result, and a checkpoint of weights and two moments.
    assert cost.disk_bytes == pytest.approx(4 * size, rel=0.1)
    kept = training_cost(str(folder), STARTER, "1", [recipe], stored=True)
    assert kept.disk_bytes - cost.disk_bytes == 2 * 32 * cost.tokens  # in bf16
    large = training_cost("Qwen/Qwen3-8B", STARTER, "0-35", [Recipe()])
    assert large.readings > 1
    assert training_cost("Qwen/Qwen3-8B", STARTER, "0-35", [Recipe()], stored=True).readings == 1


def test_the_target_size_is_planned_without_its_weights() -> None:
    recipes = [Recipe(arch=arch) for arch in ("topk",)]
    cost = training_cost("Qwen/Qwen3-8B", STARTER, "18", recipes)
    assert (cost.d_in, cost.d_sae) == (4096, 65536)
    weights = 2 * 4096 * 65536 * 4
    assert cost.memory_bytes > 4 * weights
    assert cost.train_flops == 2.0 * 4096 * 65536 * 3000 * 4096
    dense = training_cost("Qwen/Qwen3-8B", STARTER, "18", [Recipe(arch="relu-l1")])
    assert dense.train_flops == 6 * cost.train_flops
    three = training_cost("Qwen/Qwen3-8B", STARTER, "18,20,22", recipes)
    assert three.autoencoders == 3 and three.disk_bytes == 3 * cost.disk_bytes


def test_what_isnt_known_is_refused() -> None:
    with pytest.raises(ModelError):
        training_cost("nobody/nothing", STARTER, "1", [Recipe()])
    with pytest.raises(UsageError, match="out of range"):
        training_cost("Qwen/Qwen3-8B", STARTER, "36", [Recipe()])
    with pytest.raises(UsageError, match="unknown architecture"):
        training_cost("Qwen/Qwen3-8B", STARTER, "1", [Recipe(arch="topkk")])
