"""The models that the paper studies, as data."""

from __future__ import annotations

from collections import Counter
from typing import get_args, get_type_hints

import pytest
from huggingface_hub.utils import validate_repo_id

from moralprobe.models.available import available_models
from moralprobe.models.registry import RegisteredModel, models

MODELS = pytest.mark.parametrize("model", models(), ids=lambda model: model.id)


def test_the_papers_23_models_are_there_each_once() -> None:
    assert len(models()) == len({model.id for model in models()}) == 23
    # arXiv 2603.15615, the table of models: base, instruct and guard of each family.
    assert Counter((m.family, m.role) for m in models()) == {
        ("Qwen3", "base"): 5,
        ("Qwen3", "instruct"): 6,
        ("Qwen3", "guard"): 3,
        ("Llama 3.1", "base"): 1,
        ("Llama 3.1", "instruct"): 1,
        ("Llama 3.1", "guard"): 1,
        ("Llama 4", "base"): 1,
        ("Llama 4", "instruct"): 1,
        ("gpt-oss", "instruct"): 2,
        ("gpt-oss", "guard"): 2,
    }


@MODELS
def test_an_id_is_one_that_the_hub_can_have(model: RegisteredModel) -> None:
    validate_repo_id(model.id)
    assert model.id.count("/") == 1


@MODELS
def test_fields_hold_what_they_may(model: RegisteredModel) -> None:
    assert model.role in get_args(get_type_hints(RegisteredModel)["role"])
    assert 0 < model.active_parameters_b <= model.parameters_b < 1000
    assert model.moe == (model.active_parameters_b < model.parameters_b)
    assert 10 <= model.n_layers <= 200
    assert model.d_model % 64 == 0 and 512 <= model.d_model <= 20_000
    assert model.revision is None or len(model.revision) == 40
    assert isinstance(model.note, str)


@MODELS
def test_the_size_in_the_name_is_the_size_in_the_row(model: RegisteredModel) -> None:
    """`Qwen3-4B`, `gpt-oss-20b`: but Llama 4 names the active part, with its experts."""
    name = model.id.lower().replace("-a22b", "")
    (spelled,) = {
        part[:-1]
        for part in name.split("-")
        if part.endswith("b") and part[:-1].replace(".", "").isdigit()
    }
    meant = model.active_parameters_b if model.family == "Llama 4" else model.parameters_b
    assert meant == pytest.approx(float(spelled), rel=0.06)


def test_relatives_have_one_shape() -> None:
    """A guard or chat model is its base trained on: equal size, equal layers and width."""
    shapes: dict[tuple[str, float], set[tuple[int, int]]] = {}
    for model in models():
        key = (model.family, model.parameters_b)
        shapes.setdefault(key, set()).add((model.n_layers, model.d_model))
    assert all(len(found) == 1 for found in shapes.values())


def test_memory_is_two_bytes_a_parameter() -> None:
    by_id = {model.id: model for model in models()}
    assert by_id["Qwen/Qwen3-0.6B"].memory_gb == pytest.approx(1.2)
    # All experts have to be there, not only those that act on a token.
    assert by_id["Qwen/Qwen3-235B-A22B"].memory_gb == 470


def test_the_list_of_models_names_each_with_family_role_and_size() -> None:
    roles = Counter(row["role"] for row in available_models()["registry"])
    assert roles == {"base": 7, "instruct": 10, "guard": 6}
    rows = {row["id"]: row["about"] for row in available_models()["registry"]}
    assert list(rows) == [model.id for model in models()]
    assert rows["Qwen/Qwen3Guard-Gen-0.6B"] == "Qwen3, guard, 0.6B"
    assert rows["Qwen/Qwen3-235B-A22B"] == "Qwen3, base, 235B (22B)"
