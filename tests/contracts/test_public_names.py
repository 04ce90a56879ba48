"""The public surface: a name is added or taken away here first."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools

import pytest

import moralprobe
from tests.sources import PACKAGE, tree_of

PUBLIC = [
    "AXES",
    "ActivationStore",
    "CausalModel",
    "Comparison",
    "DataError",
    "DownloadError",
    "IntegrityError",
    "Intervention",
    "MEASURES",
    "ModelError",
    "MoralVectors",
    "MoralprobeError",
    "NumericError",
    "POLES",
    "POOLINGS",
    "Ratings",
    "Recipe",
    "Sampling",
    "Site",
    "StoreError",
    "Study",
    "TEMPLATES",
    "UsageError",
    "available_models",
    "build_vectors",
    "compare",
    "direction_intervention",
    "download",
    "evaluate_intervention",
    "evaluate_sae",
    "extract",
    "find_features",
    "fit_topology",
    "generate",
    "load_model",
    "load_ratings",
    "load_sae",
    "plan_extraction",
    "probe",
    "probe_control",
    "train_sae",
    "verify",
    "write_report",
]


def test_the_public_names_are_these() -> None:
    assert moralprobe.__all__ == PUBLIC
    assert dir(moralprobe) == sorted(["__version__", *PUBLIC])


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING are a second list: it must not fall behind."""
    guarded = [
        node
        for node in tree_of(PACKAGE / "__init__.py").body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname: f"{statement.module}.{alias.name}"
        for statement in guarded[0].body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == {name: f"moralprobe.{moralprobe._HOMES[name]}.{name}" for name in PUBLIC}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_its_home_holds(name: str) -> None:
    home = importlib.import_module(f"moralprobe.{moralprobe._HOMES[name]}")
    assert getattr(moralprobe, name) is getattr(home, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_what_it_is(name: str) -> None:
    value = getattr(moralprobe, name)
    if not isinstance(value, type) and not inspect.isroutine(value):
        return said_below(name)  # data: its documentation stands below the assignment
    # Its own words: not those of a base class, nor a dataclass' list of fields.
    words = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    assert words and not words.startswith(f"{name}(")
    if not isinstance(value, type):
        return None
    silent = [
        member
        for member, held in vars(value).items()
        if not member.startswith("_")
        and (
            inspect.isroutine(held)
            or isinstance(held, property | classmethod | staticmethod)
            or type(held).__name__ == "cached_property"
        )
        and not inspect.getdoc(held)
    ]
    assert silent == []


def said_below(name: str) -> None:
    path = PACKAGE.joinpath(*moralprobe._HOMES[name].split(".")).with_suffix(".py")
    body = tree_of(path).body
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert isinstance(following.value.value, str) and following.value.value.strip()
            return
    raise AssertionError(f"{path} assigns no {name}")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'extractt'"):
        moralprobe.extractt  # noqa: B018
