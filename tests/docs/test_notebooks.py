"""Every notebook runs, and was saved with what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_saved_whole_and_names_no_machine(path: Path) -> None:
    saved = json.loads(path.read_text())
    cells = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = json.dumps([cell["outputs"] for cell in cells])
    assert '"output_type": "error"' not in outputs
    assert not any(name in outputs for name in (str(Path.home()), "/tmp/", str(ROOT)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_prints_what_was_saved(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises where a cell fails
    for cell, saved in zip(notebook.cells, nbformat.read(path, as_version=4).cells, strict=True):
        # Training goes another way where a processor rounds otherwise: of what it leads to, only
        # that it runs is asked.
        if cell.cell_type == "code" and "trained" not in cell.metadata.get("tags", []):
            assert printed(cell) == pytest.approx(printed(saved), rel=0.05, abs=0.05)


def printed(cell: nbformat.NotebookNode) -> list[float]:
    """The decimals that a cell prints; what libraries warn of isn't among them."""
    said = [output for output in cell.outputs if output.get("name") != "stderr"]
    text = "".join(output.get("text", "") for output in said)
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", text)]
