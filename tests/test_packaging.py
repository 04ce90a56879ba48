"""The wheel: what it holds, what it declares, and that it works away from the checkout."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "huggingface-hub": "huggingface_hub",
    "ml-dtypes": "ml_dtypes",
    "pyyaml": "yaml",
    "sae-lens": "sae_lens",
    "sentence-transformers": "sentence_transformers",
    "transformer-lens": "transformer_lens",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


# Extras for users, whose packages the code asks for before it imports them.
EXTRAS = ("lexicon", "sentence", "ray", "judges", "lora")


def names_of(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[>]", requirement)[0] for requirement in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_every_import_is_declared_and_every_declaration_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = names_of(project["dependencies"])
    extras = {extra: names_of(project["optional-dependencies"][extra]) for extra in EXTRAS}
    assert extras["lexicon"] <= names_of(project["optional-dependencies"]["dev"])
    imported = set()
    for path in (ROOT / "moralprobe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"moralprobe"}
    # transformers imports these two itself, and needs them to place and to dequantise weights.
    assert third_party | {"accelerate", "gguf"} == declared.union(*extras.values())


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_starter_set_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"moralprobe"}
    for name in (
        "_vectors/positions.tsv",
        "_vectors/starter.tsv",
        "_vectors/README.md",
        "_vectors/LICENSE",
        "_recipes/qwen3-8b.yaml",
        "_recipes/smollm2.yaml",
        "report/page.html.j2",
        "report/evaluation.html.j2",
        "report/certificate.html.j2",
        "evaluation/english.jsonl",
        "evaluation/known_pairs.json",
        "evaluation/neutral.json",
    ):
        assert f"moralprobe/{name}" in names
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "moralprobe").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_installed_wheel_builds_the_starter_vectors(wheel: Path, tmp_path: Path) -> None:
    """Away from the checkout; the dependencies are this environment's."""
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    # A path that is named, unlike a site folder, has its .pth files ignored: no way to the checkout.
    paths = f"{target}{os.pathsep}{sysconfig.get_path('purelib')}"
    environment = {**os.environ, "PYTHONPATH": paths}
    bare = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True
    )
    assert bare.returncode == 0
    python = tmp_path / "bare" / "bin" / "python"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(python), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    home = run("-c", "import moralprobe; print(moralprobe.__file__)").strip()
    assert Path(home).is_relative_to(target)
    said = run("-m", "moralprobe", "vectors", "build", "starter", "--out", "v.parquet")
    assert "800" in said and (tmp_path / "v.parquet").stat().st_size > 10_000
