"""Which jobs a recipe is, where their results go, and what of it can change them."""

from __future__ import annotations

from moralprobe.models.load import choose_dtype
from moralprobe.models.registry import models
from moralprobe.recipes.check import settled
from moralprobe.recipes.jobs import from_store, jobs_of, trained
from moralprobe.recipes.parse import parse_recipe
from moralprobe.recipes.run import load_recipe
from moralprobe.recipes.text import parse_tree
from moralprobe.sae.recipe import Task
from tests.recipes.test_options import FIVE


def jobs(text: str, n_layers: int = 12) -> dict:
    recipe = parse_recipe(parse_tree(text.encode(), "r"))
    return {job.name: job for job in jobs_of(recipe, lambda: n_layers)}


def test_the_papers_recipe_in_order() -> None:
    recipe = load_recipe("qwen3-8b", {"sae.train.layer": "11"})
    n = next(m.n_layers for m in models() if m.id == "Qwen/Qwen3-8B")
    found = jobs_of(recipe, lambda: n)
    assert [(job.name, job.place) for job in found] == [
        ("vectors", "vectors.parquet"),
        ("extract", "store"),
        ("probe", "study"),
        ("sae.train audited", "sae/audited"),
        ("sae.train null", "sae/null"),
        ("sae.train li2026", "sae/li2026"),
        ("sae.eval audited", "sae/eval-audited.json"),
        ("sae.eval li2026", "sae/eval-li2026.json"),
        ("sae.features audited layer-11", "features/audited-layer-11"),
        ("sae.features li2026 layer-11", "features/li2026-layer-11"),
        ("topology.fit geometry layer-11", "topology-geometry/layer-11"),
        ("topology.fit li2026 layer-11", "topology-li2026/layer-11"),
        ("topology.survive geometry layer-11", "survival-geometry-layer-11.parquet"),
        ("topology.survive li2026 layer-11", "survival-li2026-layer-11.parquet"),
        ("evaluate geometry", "evaluation/geometry/evaluation.json"),
        ("evaluate li2026", "evaluation/li2026/evaluation.json"),
    ]
    assert {job.name: job.options["protocol"] for job in found[-2:]} == {
        "evaluate geometry": "audited",
        "evaluate li2026": "li2026",
    }
    pages = next(job for job in found if job.name == "sae.features li2026 layer-11")
    assert pages.options["mode"] == "both"
    done: set[str] = set()
    for job in found:
        assert done >= set(job.needs), job.name
        done.add(job.name)


def test_autoencoders_of_several_layers_sizes_and_seeds_are_where_training_puts_them() -> None:
    text = FIVE + (
        "sae:\n  train:\n    layer: 2,4\n    expansion: 4,8\n    seed: 0,1\n"
        "    audited: {shuffled: true}\n"
    )
    recipe = parse_recipe(parse_tree(text.encode(), "r"))
    found = trained(recipe, 12)
    assert [sae.label for sae in found if sae.mode == "li2026"] == [
        "layer-2-x4",
        "layer-2-x8",
        "layer-4-x4",
        "layer-4-x8",
    ]
    first = found[0]
    one = "resid_post.2-topk-x4-k32-seed"
    assert first.folder == f"sae/audited/{one}0" and first.others == (f"sae/audited/{one}1",)
    assert first.null == f"sae/null/{one}0" and found[-1].null is None
    from moralprobe.recipes.jobs import sae_recipes

    made = sae_recipes(recipe.steps["sae.train"]["audited"])
    names = {Task(layer, r).name for layer in (2, 4) for r in made}
    ours = [sae for sae in found if sae.mode == "audited"]
    folders = {path for sae in ours for path in (sae.folder, *sae.others)}
    assert folders == {f"sae/audited/{name}" for name in names}


def test_a_seed_beside_another_has_a_folder_of_its_own_and_its_null_is_alone() -> None:
    text = FIVE + "sae: {train: {layer: 2, seed: [3, 4], audited: {shuffled: true}}}\n"
    ours, _ = trained(parse_recipe(parse_tree(text.encode(), "r")), 12)
    assert ours.folder == "sae/audited/resid_post.2-topk-x16-k32-seed3"
    assert ours.others == ("sae/audited/resid_post.2-topk-x16-k32-seed4",)
    assert ours.null == "sae/null"
    assert jobs(text)["sae.train null"].options["seed"] == "3"


def test_interventions_of_all_layers_are_evaluated_together() -> None:
    text = FIVE + "sae: {train: {layer: 2,4}, features: }\ntopology:\nevaluate:\n"
    needs = jobs(text.replace("2,4", "[2, 4]"))["evaluate geometry"].needs
    assert needs == ("topology.fit geometry layer-2", "topology.fit geometry layer-4")


def test_published_autoencoders_read_the_store_where_it_has_what_they_need() -> None:
    group = "sae: {train: {layer: 3}}\n"
    assert "extract" in jobs(FIVE + group)["sae.train li2026"].needs
    assert "extract" not in jobs(FIVE + group)["sae.train audited"].needs
    for extract in ("{layers: 0-2}", "{pooling: mean_unit}"):
        text = FIVE.replace("extract:", f"extract: {extract}") + group
        recipe = parse_recipe(parse_tree(text.encode(), "r"))
        assert not from_store(recipe, "li2026", 12)


def test_the_middle_layer_is_one_of_the_model() -> None:
    assert jobs(FIVE + "sae:\n", 30)["sae.train audited"].options["layer"] == "15"


def test_what_auto_is_on_a_device_stands_in_the_recipe() -> None:
    """So that run.yaml does the same again on another machine, or is refused."""
    recipe = settled(load_recipe("qwen3-8b", {"device": "cpu", "sae.train.layer": "11"}))
    taken = choose_dtype("auto", "cpu")
    assert recipe.general.dtype == taken
    assert {train.precision for train in recipe.steps["sae.train"].values()} == {taken}
    jobs = {job.name: job for job in jobs_of(recipe, lambda: 36)}
    assert jobs["sae.train null"].options["precision"] == taken


def test_the_device_changes_no_result_and_dtype_does() -> None:
    for key, value, same in (("device", "cpu", True), ("dtype", "fp32", False)):
        changed = jobs(FIVE + f"sae:\n{key}: {value}\n")
        for name in ("extract", "sae.train audited"):
            assert (changed[name].options == jobs(FIVE + "sae:\n")[name].options) is same
