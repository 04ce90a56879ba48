"""What never stands in the package, and what never stands in the project."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import ROOT, SOURCES, imports_of, module_of, tree_of

LINES = 400
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# Spelled in parts, so that this file is not a finding of its own.
PLACES = (
    re.compile(r"(?<![\w.-])/" + r"work(?![\w-])"),
    re.compile(re.escape("../" + "shared")),
    re.compile(r"\bfarm" + "-"),
)


def forbidden(tree: ast.Module) -> Iterator[str]:
    for module, line in imports_of(tree):
        # The error alone runs nothing; a file that isn't what it says raises it.
        if module.split(".")[0] in UNPICKLERS and module != "pickle.UnpicklingError":
            yield f"line {line}: import {module}"
        if module == "torch.load":
            yield f"line {line}: torch.load"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"torch.load", "print", "eval", "exec", "breakpoint"}:
                yield f"line {node.lineno}: {called}()"
            for option in node.keywords:
                value = getattr(option.value, "value", "not written out")
                if option.arg == "trust_remote_code" and value is not False:
                    yield f"line {node.lineno}: trust_remote_code"
                if option.arg == "allow_pickle" and value is not False:
                    yield f"line {node.lineno}: allow_pickle"
        elif isinstance(node, ast.Dict):
            for key, held in zip(node.keys, node.values, strict=True):
                if (
                    getattr(key, "value", None) == "trust_remote_code"
                    and getattr(held, "value", None) is not False
                ):
                    yield f"line {node.lineno}: trust_remote_code"
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}:
                yield f"line {node.lineno}: an error of any kind is caught"
        elif isinstance(node, ast.Assert):
            yield f"line {node.lineno}: assert, which python -O leaves out"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_runs_code_from_files_prints_or_swallows_errors(path: Path) -> None:
    assert list(forbidden(tree_of(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import Unpickler",
        "from joblib import load",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "print('x')",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=asked)",
        "f(**{'trust_remote_code': True})",
        "np.load('x', allow_pickle=True)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "assert x",
    ],
)
def test_what_is_forbidden_would_be_seen(code: str) -> None:
    assert list(forbidden(ast.parse(code)))
    assert not list(forbidden(ast.parse("f(trust_remote_code=False)\nmodel.eval()\nsay('x')")))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_file_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LINES


def test_no_file_of_the_project_names_a_place_outside_it() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout: which files belong to the project isn't known")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = [name for name in listed.split("\0") if name]
    assert len(names) > 50
    found = [
        f"{name}:{number}"
        for name in names
        if (ROOT / name).is_file()
        for number, line in enumerate(
            (ROOT / name).read_text("utf-8", errors="ignore").splitlines(), 1
        )
        if any(place.search(line) for place in PLACES)
    ]
    assert found == []


def test_a_place_outside_would_be_seen() -> None:
    for text in ("cd /" + "work/main", "see ../" + "shared/x", "the farm" + "-7 machine"):
        assert any(place.search(text) for place in PLACES)
    for text in (".github/workflows", "https://example.org/work", "home/works", "network"):
        assert not any(place.search(text) for place in PLACES)
