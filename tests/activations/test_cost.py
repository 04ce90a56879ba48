"""What a plan says against what happens: operations counted by torch, bytes of a real store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moralprobe.activations import forecast
from moralprobe.activations.cost import activation_bytes, forward_flops
from moralprobe.activations.extract import extract
from moralprobe.activations.forecast import parse_models, plan_extraction
from moralprobe.activations.plan import (
    TREE_TOKENS,
    Plan,
    best_plan,
    make_plan,
    share_beginnings,
)
from moralprobe.errors import DataError
from moralprobe.models.load import load_model
from moralprobe.models.prefixes import cut_blocks
from moralprobe.models.registry import models
from moralprobe.models.shape import Shape, model_shape
from moralprobe.models.tiny import save_tiny
from moralprobe.moral_vectors import MoralVectors, build_vectors
from moralprobe.sites import Site

TEXT = "to return a lost wallet to a stranger and to say nothing of it"


def shape_of(**sizes: object) -> Shape:
    usual = {"id": "m", "parameters": 1000, "block_parameters": (10, 20, 30), "d_model": 4}
    return Shape(**{**usual, "n_heads": 2, "head_dim": 8, "folder": None, **sizes})


def plan_of(lengths: list[int]) -> Plan:
    return make_plan(lengths, batch_tokens=100, bytes_per_text=1)


def test_operations_by_hand() -> None:
    # Texts of 3 and 5 tokens; blocks 0 and 1 run, since nothing runs after the last one asked for.
    linear = 2 * (10 + 20) * (3 + 5)
    attention = 2 * 4 * 2 * 8 * (3**2 + 5**2)
    plan = plan_of([3, 5])
    assert forward_flops(shape_of(), plan, [1]) == linear + attention
    assert forward_flops(shape_of(), plan, [0, 1]) == linear + attention


def test_operations_of_trees_by_hand() -> None:
    """Of 3 + 2 and of 4 nodes: what fills the second up to five is read too, and isn't a token."""
    texts = [[1, 2, 3], [1, 4, 5], [2, 2, 2, 2]]
    plan = Plan((0, 1, 2), (3, 3, 4), ((0, 3),), ((0, 3),), ((0, 2), (2, 3)), (5, 4))
    assert cut_blocks(texts, 5) == ([(0, 2), (2, 3)], [5, 4])
    assert plan.n_tokens == 9 and plan.sequences((0, 3)) == (2, 5)
    linear = 2 * (10 + 20) * 2 * 5
    assert forward_flops(shape_of(), plan, [1]) == linear + 2 * 4 * 2 * 8 * 2 * 5**2


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe", "gpt_oss", "gpt2"])
def test_operations_are_those_that_torch_counts(family: str, tmp_path: Path) -> None:
    """Counted by torch: matrix products. Not by it: norms and biases, which the formula has at two
    operations a parameter; at this width of 128 they are about one in a hundred."""
    folder = save_tiny(family, tmp_path / "m", d_model=128)
    model = load_model(folder, dtype="fp32")
    # Ways to multiply that torch can see.
    model.model.set_attn_implementation("eager")
    if hasattr(model.model.config, "num_experts_per_tok"):
        model.model.set_experts_implementation("eager")
    encoded = model.encode([TEXT] * 2, [(0, 9)] * 2, max_tokens=128)
    batch = model.collate(encoded)
    for layers in ([0, 1, 2], [1]):
        with FlopCounterMode(display=False) as counter:
            sites = [Site("resid_post", layer) for layer in layers]
            model.run_taps(batch, sites, lambda site, hidden: None)
        plan = plan_of([len(text) for text in encoded])
        planned = forward_flops(model_shape(str(folder)), plan, layers)
        assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    ("layers", "poolings", "dtype"),
    [("all", "mean,mean_unit,mean_no_sink,last", "fp32"), ("1", "mean", "bf16")],
)
def test_disk_and_tokens_are_those_of_the_store(
    tmp_path: Path, layers: str, poolings: str, dtype: str
) -> None:
    folder = save_tiny("llama", tmp_path / "m", d_model=256)
    vectors = build_vectors("starter")
    (cost,) = plan_extraction(
        str(folder), vectors, layers=layers, poolings=poolings, dtype=dtype, max_tokens=40
    )
    model = load_model(folder, dtype=dtype)
    store = extract(model, vectors, tmp_path / "s", layers=layers, poolings=poolings, max_tokens=40)
    written = sum(path.stat().st_size for path in (tmp_path / "s").iterdir())
    assert cost.disk_bytes == pytest.approx(written, rel=0.02)
    (whole,) = plan_extraction(str(folder), vectors, share=False, max_tokens=40)
    assert whole.tokens == store.texts["n_tokens"].sum() and not cost.estimated
    assert cost.tokens <= whole.tokens
    assert (cost.texts, cost.layers) == (store.n_readable, len(store.layers))
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    assert cost.weights_bytes == weights


def test_headers_and_manifest_are_counted_by_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many shards of little: what stands beside the states weighs most there."""
    monkeypatch.setattr("moralprobe.activations.plan.SHARD_BYTES", 40_000)
    folder = save_tiny("llama", tmp_path / "m")
    vectors = build_vectors("starter")
    (cost,) = plan_extraction(str(folder), vectors, dtype="fp32")
    extract(load_model(folder, dtype="fp32"), vectors, tmp_path / "s")
    files = list((tmp_path / "s").iterdir())
    assert len(files) > 25
    written = sum(path.stat().st_size for path in files)
    assert cost.disk_bytes == pytest.approx(written, rel=0.03)


def test_empty_texts_and_single_tokens_cost_nothing(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "m")
    vectors = build_vectors("starter")
    frame = vectors.frame.head(4).with_columns(action=pl.Series(["", "a", "a lie", "a lie"]))
    (cost,) = plan_extraction(
        str(folder), MoralVectors(frame, vectors.meta), template="action", layers="0"
    )
    assert (cost.texts, cost.tokens) == (1, len("a lie"))


def test_one_batch_at_its_largest_bounds_the_activations() -> None:
    plan = make_plan([3, 3, 5, 5, 5], batch_tokens=10, bytes_per_text=1)
    # Batches of 2 x 3, 2 x 5 and 1 x 5 tokens; 17 numbers a width, the scores, and fp32 states.
    expected = 10 * (17 * 4 + 2.5 * 5 * 2) * 2 + 4 * 10 * 4
    assert activation_bytes(shape_of(), plan, 2) == expected


def test_gpus_hold_weights_and_activations_and_hours_are_operations_over_throughput() -> None:
    vectors = build_vectors("starter")
    large, small = plan_extraction(
        ["Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-8B"], vectors, device_tflops=100
    )
    assert (large.gpus, small.gpus) == (6, 1)
    assert large.weights_bytes == 470e9
    assert small.gpu_hours == pytest.approx(small.flops / 100e12 / 3600)
    # Twice the width of a number: twice the weights and the states.
    (wide,) = plan_extraction("Qwen/Qwen3-8B", vectors, dtype="fp32")
    assert wide.weights_bytes == 2 * small.weights_bytes
    assert wide.disk_bytes == pytest.approx(2 * small.disk_bytes, rel=0.01)


def test_the_papers_models_are_all_planned_in_their_order() -> None:
    costs = plan_extraction("paper", build_vectors("starter"), layers="0-20:10")
    assert [cost.id for cost in costs] == [model.id for model in models()]
    assert {cost.layers for cost in costs} == {3}


def test_without_any_tokenizer_characters_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = build_vectors("starter")
    (counted,) = plan_extraction("smollm2-135m", vectors, share=False)
    monkeypatch.setattr(forecast, "local_folder", lambda source: None)
    (cost,) = plan_extraction("Qwen/Qwen3-8B", vectors, share=False)
    assert cost.estimated and cost.tokens_by == "~4 characters a token"
    assert cost.tokens == pytest.approx(counted.tokens, rel=0.25)
    blank = MoralVectors(vectors.frame.with_columns(action=pl.lit(" ")), vectors.meta)
    with pytest.raises(DataError, match="no text can be read"):
        plan_extraction("Qwen/Qwen3-8B", blank)


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_models("a/b, c ,a/b") == ["a/b", "c"]
    assert parse_models("paper,smollm2-135m")[-2:] == [models()[-1].id, "smollm2-135m"]
    monkeypatch.chdir(tmp_path)
    Path("my,model").mkdir()
    assert parse_models("my,model") == ["my,model"]


def test_tapping_is_what_is_counted_not_the_head(tmp_path: Path) -> None:
    """The head alone would be as much again in a model this small; it isn't planned or run."""
    folder = save_tiny("llama", tmp_path / "m")
    model = load_model(folder, dtype="fp32")
    model.model.set_attn_implementation("eager")
    ids = torch.tensor([model.encode([TEXT], [(0, 9)], max_tokens=128)[0].ids])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.model(input_ids=ids, use_cache=False)
    head = 2 * ids.numel() * 32 * 260
    planned = forward_flops(model_shape(str(folder)), plan_of([ids.numel()]), [2])
    assert planned == pytest.approx(counter.get_total_flops() - head, rel=0.03)


def test_a_wide_model_reads_common_beginnings_once() -> None:
    """Of one this wide attention is a small part, so that trees pay, even of few texts."""
    vectors = build_vectors("starter")
    (shared,) = plan_extraction("Qwen/Qwen3-8B", vectors)
    (alone,) = plan_extraction("Qwen/Qwen3-8B", vectors, share=False)
    assert 0.6 * alone.tokens < shared.tokens < 0.95 * alone.tokens
    assert shared.flops < alone.flops
    assert shared.disk_bytes == pytest.approx(alone.disk_bytes, rel=1e-3)


def test_the_plan_with_the_least_work_is_taken() -> None:
    """Counted naively: every sequence is as long as the longest of its batch."""
    rng = np.random.default_rng(0)
    texts = [[1, 2, *rng.integers(0, 3, rng.integers(1, 9)).tolist()] for _ in range(300)]
    sizes = {"batch_tokens": 512, "bytes_per_text": 10}
    in_order = sorted(texts)
    found = {}
    for width_cost in (0.0, 0.003, 1.0):
        plan = best_plan(texts, share=True, width_cost=width_cost, **sizes)
        plans = [make_plan(sorted(map(len, texts)), **sizes)] + [
            share_beginnings(in_order, tree_tokens=n, **sizes) for n in TREE_TOKENS
        ]
        naive = []
        for one in plans:
            total = 0.0
            for a, b in one.batches:
                trees = one.blocks_of((a, b))
                # Of trees texts stand in the order of the plan, handed over in lexicographic one.
                mine = [[in_order[i] for i in one.order[c:d]] for c, d in trees]
                nodes = [
                    len({tuple(t[:k]) for t in tree for k in range(1, len(t) + 1)}) for tree in mine
                ]
                rows, width = (len(nodes), max(nodes)) if trees else (b - a, one.lengths[a])
                total += rows * width * (1 + width * width_cost)
            naive.append(total)
            assert one.work(width_cost) == pytest.approx(total)
        best = int(np.argmin(naive))
        assert plan == replace(plans[best], order=plan.order)
        given = sorted(texts, key=len) if best == 0 else in_order
        assert [texts[i] for i in plan.order] == [given[i] for i in plans[best].order]
        found[width_cost] = bool(plan.blocks)
        assert not best_plan(texts, share=False, width_cost=width_cost, **sizes).blocks
    assert found == {0.0: True, 0.003: True, 1.0: False}
