"""A small model, a small table and a store made of both, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from moralprobe.data.starter import starter_path
from moralprobe.models.tiny import save_tiny
from tests.cli.commands import moralprobe

# Twenty authored items; who rated them is the test.
TOOLS = (
    "hammer saw drill pliers wrench screwdriver file chisel level clamp axe shovel ladder brush "
    "rope bucket ruler glue paperclip pencil"
)
RATINGS = "item,category,rating\n" + "".join(
    f"{item},tool,{1 + 0.25 * i:.2f}\n" for i, item in enumerate(TOOLS.split())
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, `table.tsv`, `vectors.parquet` and `store`; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    save_tiny("llama", folder / "model", n_layers=2)
    # A byte is a token to it: so many as the instruments' questions have.
    path = folder / "model" / "config.json"
    config = {**json.loads(path.read_text()), "max_position_embeddings": 4096}
    path.write_text(json.dumps(config, indent=2))
    header, *rows = starter_path().read_text("utf-8").splitlines()
    (folder / "table.tsv").write_text("\n".join([header, *rows[::5]]) + "\n", "utf-8")
    for command in (
        ("vectors", "build", folder / "table.tsv", "--out", folder / "vectors.parquet"),
        (*extract(folder), "--out", folder / "store"),
    ):
        said = moralprobe(*command)
        assert said.code == 0, said.err
    return folder


def extract(made: Path) -> tuple[object, ...]:
    return ("extract", made / "model", made / "vectors.parquet", "--dtype", "fp32", "--quiet")


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be spoiled."""
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
