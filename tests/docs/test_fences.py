"""Every fence of the README and the docs runs, and shows what it says.

The fences of a page share a folder and a state, in order. A `text` fence right after a `python` one
is what that one prints. Printed decimals may differ a little: another processor adds up bf16 in
another order.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<kind>\S*)\n(?P<body>.*?)^```$", re.M | re.S
)
DECIMAL = re.compile(r"[+-]?\d+\.\d+")
TOLERANCE = {"rel": 0.05, "abs": 0.05}
# Pages that load no model; the others are slow.
FAST = {
    "docs/explanation/moral-vectors.md",
    "docs/howto/elicit.md",
    "docs/howto/orient.md",
    "docs/howto/own-data.md",
    "docs/howto/plan.md",
    "docs/howto/communities.md",
    "docs/howto/pluralism.md",
    "docs/questions/recoverability.md",
}
NOT_RUN = {
    "docs/howto/consensus.md: it trains for minutes; tests/bridges runs it on a small model",
    "docs/howto/autoencoders.md: it needs the network",
    "docs/howto/elicit.md: it takes minutes; tests/cli runs it with fewer principles",
    "docs/howto/orient.md: it takes minutes; tests/cli runs it with fewer sessions",
    "docs/howto/communities.md: it takes minutes; tests/cli asks a small model",
    "docs/howto/pluralism.md: it takes minutes; tests/cli asks a small model",
    "docs/howto/evaluate.md: it needs a server with a model",
    "docs/howto/steering-page.md: it serves until it is told to end; tests/web drives it in a browser",
    "docs/howto/recipes.md: it needs a GPU, a judge, and the model and data from the network",
    "README.md: it sets the checkout up",
    "README.md: it needs a model of yours and the dataset",
    "docs/howto/baselines.md: it needs a model from the network",
    "docs/howto/own-data.md: it fetches the archive from the network",
    "docs/howto/many-machines.md: Ray takes long to start; tests/activations/test_cluster.py runs it",
    "docs/howto/many-machines.md: it needs two GPUs",
    "docs/howto/own-model.md: it fetches a model from the network",
    "docs/howto/own-model.md: it needs several GPUs",
    "docs/howto/positive-control.md: it needs a dataset that isn't part of the package",
    "docs/reference/models.md: it fetches the package from the network",
}


@dataclass(frozen=True)
class Fence:
    kind: str
    body: str
    reason: str | None
    printed: str = ""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fences(page: Path) -> list[Fence]:
    text = page.read_text()
    found: list[Fence] = []
    end = 0
    for m in FENCE.finditer(text):
        fence = Fence(m["kind"], m["body"], m["reason"])
        follows = not text[end : m.start()].strip()
        if fence.kind == "text" and found and found[-1].kind == "python" and follows:
            found[-1] = replace(found[-1], printed=fence.body)
        found.append(fence)
        end = m.end()
    assert len(found) * 2 == len(re.findall(r"^```", text, re.M)), f"{page}: a fence isn't read"
    return found


def runnable(page: Path) -> list[Fence]:
    return [f for f in fences(page) if f.kind in ("python", "console") and f.reason is None]


def same(shown: str, got: str) -> bool:
    """Compare as doctest does, with `...` and any blanks, and decimals within `TOLERANCE`."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    texts = [DECIMAL.sub("0.0", text) for text in (shown, got)]
    if not doctest.OutputChecker().check_output(*texts, flags):
        return False
    if "..." in shown:
        return True
    numbers = [[float(number) for number in DECIMAL.findall(text)] for text in (shown, got)]
    return numbers[1] == pytest.approx(numbers[0], **TOLERANCE)


def run_console(body: str, folder: Path) -> None:
    """Run each `$ ` line, and compare what follows it, where anything does."""
    for block in re.split(r"^\$ ", body, flags=re.M)[1:]:
        command, _, shown = block.partition("\n")
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
        }
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        if shown.strip():
            assert same(shown, done.stdout), f"{command}\nshown:\n{shown}\ngot:\n{done.stdout}"


def test_what_is_not_run_says_why() -> None:
    skipped = {
        f"{name_of(page)}: {fence.reason}"
        for page in PAGES
        for fence in fences(page)
        if fence.reason is not None
    }
    assert skipped == NOT_RUN


def test_a_fence_is_of_a_kind_that_is_known() -> None:
    known = {"python", "console", "text", "{toctree}"}
    for page in PAGES:
        assert {fence.kind for fence in fences(page)} <= known, page


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=name_of(page),
            marks=[] if name_of(page) in FAST else [pytest.mark.slow],
        )
        for page in PAGES
        if runnable(page)
    ],
)
def test_every_fence_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for fence in runnable(page):
        if fence.kind == "console":
            run_console(fence.body, tmp_path)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(fence.body, str(page), "exec"), names)
        if fence.printed:
            got = printed.getvalue()
            assert same(fence.printed, got), f"shown:\n{fence.printed}\ngot:\n{got}"


def test_a_fence_that_shows_something_else_fails(tmp_path: Path) -> None:
    run_console("$ echo one two\none ...\n", tmp_path)
    for wrong in ("$ echo one\ntwo\n", "$ false\n"):
        with pytest.raises(AssertionError):
            run_console(wrong, tmp_path)


def test_decimals_are_compared_as_numbers_and_the_rest_as_it_is() -> None:
    assert same("layer 12: 0.48\n", "layer 12:   0.49\n")
    assert not same("layer 12: 0.48\n", "layer 12: 0.84\n")
    assert not same("layer 12: 0.48\n", "layer 13: 0.48\n")
    assert not same("layer 12: 0.48\n", "layer 12: 0.48 0.48\n")


def test_what_is_printed_is_shown_right_after_its_python(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n1\n```\n\nWords.\n\n```text\n2\n```\n")
    assert [fence.printed for fence in fences(page)] == ["1\n", "", ""]
