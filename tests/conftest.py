"""What tests share: no network, the shared data where it lies, small tables and models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def shared_file(*parts: str) -> Path:
    """Return a file of the real data kept outside the project, or skip the test with the reason."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("MORALPROBE_SHARED_DATA", beside))
    path = root.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"needs {'/'.join(parts)} under {root} (set MORALPROBE_SHARED_DATA)")
    return path


# What takes minutes comes first, so that no process waits long for the other's last test.
_LONG = (
    "test_confound",
    "test_notebooks",
    "recipes.md",
    "test_plants",
    "steering.md",
    "test_fences",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if all(item.get_closest_marker("slow") for item in items):
        items.sort(key=lambda item: [name in item.nodeid for name in _LONG], reverse=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random weights that a test or its fixtures don't seed are the same in every run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def starter_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter set's moral vectors as a file."""
    from moralprobe import build_vectors

    path = tmp_path_factory.mktemp("starter") / "starter.parquet"
    build_vectors("starter").save(path)
    return path


@pytest.fixture(scope="session")
def test_split() -> Path:
    return shared_file("social_chem_101", "test_split_8col.csv")


@pytest.fixture(scope="session")
def permissible() -> Path:
    return shared_file("social_chem_101", "full25_permissible.tsv")
