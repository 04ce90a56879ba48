"""To ask for help is instant: nothing heavy is loaded before there is work for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "numpy",
    "polars",
    "transformer_lens",
    "transformers",
    "matplotlib",
    "scipy",
    "sklearn",
    "safetensors",
    "huggingface_hub",
    "jinja2",
    "filelock",
}
IMPORT = "import moralprobe"
RUN = """
import sys
sys.argv = ["moralprobe", *{arguments!r}]
from moralprobe.cli.main import run
try:
    run()
except SystemExit as left:
    assert left.code == {code}, left.code
"""
LOADED = "\nimport json, sys; sys.stderr.write('LOADED' + json.dumps(sorted(sys.modules)))"


def loaded_by(code: str, folder: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + LOADED], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stderr.rpartition("LOADED")[2])}


@pytest.mark.parametrize(
    "code",
    [
        IMPORT,
        "import moralprobe; dir(moralprobe); moralprobe.__version__",
        "from moralprobe import UsageError, AXES, Site",
    ],
)
def test_the_import_loads_nothing_heavy(code: str, tmp_path: Path) -> None:
    loaded = loaded_by(code, tmp_path)
    assert "moralprobe" in loaded and loaded & {*HEAVY, "typer", "rich"} == set()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["extract", "--help"], 0),
        (["plan", "--help"], 0),
        (["probe", "--help"], 0),
        (["control", "--help"], 0),
        (["vectors", "build", "--help"], 0),
        (["data", "download", "--help"], 0),
        (["exttract"], 2),
        (["extract", "--layers"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_help_and_a_mistyped_command_load_nothing_heavy(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    loaded = loaded_by(RUN.format(arguments=arguments, code=code), tmp_path)
    assert "typer" in loaded and loaded & HEAVY == set()


def test_the_arithmetic_of_costs_needs_no_torch(tmp_path: Path) -> None:
    loaded = loaded_by("import moralprobe.activations.cost, moralprobe.models.shape", tmp_path)
    assert loaded & {"torch", "transformers", "huggingface_hub"} == set()


def test_what_is_looked_for_would_be_found(tmp_path: Path) -> None:
    assert {"numpy", "torch"} <= loaded_by("import moralprobe; moralprobe.load_model", tmp_path)
