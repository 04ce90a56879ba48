"""The reference pages list what the code holds, no more and no less."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

import moralprobe
from moralprobe.cli.main import app
from moralprobe.data.prompts import TEMPLATES
from moralprobe.data.schema import NEEDED, USED, VECTOR_COLUMNS
from moralprobe.foundations import AXIS_TAGS, POLES
from moralprobe.models.registry import models
from moralprobe.models.tiny import FAMILIES
from moralprobe.table import COLUMNS, MEASURES, ONE_ANNOTATOR
from tests import planted

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def first_cells(text: str) -> list[str]:
    """Return what stands in backquotes in the first cell of every table row."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.M)


def measures_tables() -> tuple[list[list[str]], list[list[str]], str]:
    """The rows of the measures page's two tables, cell by cell, and its first lines."""
    text = (REFERENCE / "measures.md").read_text()
    what, _, empty = re.split(r"^## ", text, flags=re.M)
    cells = [
        [re.split(r" \| ", row) for row in re.findall(r"^\| (`.*) \|$", part, re.M)]
        for part in (what, empty)
    ]
    return cells[0], cells[1], what


def test_measures_and_columns() -> None:
    what, empty, text = measures_tables()
    assert {row[0].strip("`"): row[1] for row in what} == MEASURES
    assert [row[0] for row in what] == [f"`{name}`" for name in MEASURES]
    assert [row[0] for row in empty] == [row[0] for row in what]
    columns = text[text.index("Columns:") : text.index("Categories")]
    assert re.findall(r"`([a-z_]+)`", columns.replace("`none`", "")) == list(COLUMNS)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> moralprobe.Study:
    """A study of states that know nothing, with every measure in it."""
    vectors = moralprobe.build_vectors("starter")
    store = planted.store(
        tmp_path_factory.mktemp("reference"),
        vectors,
        {0: planted.grouped(planted.texts_of(vectors)[0], 0)},
        poolings=("mean", "mean_unit"),
    )
    return moralprobe.probe(store, draws=20)


def kind(category: str) -> str:
    return "axis" if category in AXIS_TAGS else "pole" if category in POLES else category


def test_the_measures_page_says_what_a_study_holds(study: moralprobe.Study) -> None:
    for name, _, mode, categories, unit, _ in measures_tables()[0]:
        rows = study.select(measure=name.strip("`"))
        assert set(rows["unit"]) == {unit.split(",")[0]}, name
        modes = ["li2026", "audited"] if mode == "both" else [mode]
        assert set(rows["mode"]) == set(modes), name
        everywhere, only, there = re.fullmatch(
            r"(.*?)(?:(li2026|audited) also(.*))?", categories
        ).groups("")
        common = set(re.findall(r"\w+", everywhere))
        for one in modes:
            extra = set(re.findall(r"\w+", there)) if one == only else set()
            found = set(rows.filter(mode=one)["category"].map_elements(kind, pl.String))
            assert found == common | extra, (name, one)


def test_the_measures_page_says_what_stands_beside_a_number(study: moralprobe.Study) -> None:
    text = (REFERENCE / "measures.md").read_text()
    beside = text[text.index("`baseline` is the measure") : text.index("Files of a study")]
    without_baseline, with_ceiling = (
        set(re.findall(r"`(\w+)`", part)) & MEASURES.keys()
        for part in beside.split("`ceiling` is given")
    )
    for name, null, *_ in measures_tables()[1]:
        measure = name.strip("`")
        rows = study.select(measure=measure)
        assert rows["null_low"].is_nan().all() == null.startswith("no null"), name
        assert rows["baseline"].is_null().all() == (measure in without_baseline), name
        assert (ONE_ANNOTATOR in rows["status"].to_list()) == (measure in with_ceiling), name


def test_public_names_and_what_they_take() -> None:
    text = (REFERENCE / "python.md").read_text()
    listed = {cell.partition("(")[0]: cell for cell in first_cells(text)}
    assert sorted(listed) == sorted(moralprobe.__all__)
    for name, cell in listed.items():
        if "(" not in cell:
            continue
        shown = ast.parse(f"def {cell}: ...").body[0].args
        taken = inspect.signature(getattr(moralprobe, name)).parameters
        assert [a.arg for a in (*shown.args, *shown.kwonlyargs)] == list(taken), name
        keyword = [p.name for p in taken.values() if p.kind is p.KEYWORD_ONLY]
        assert [a.arg for a in shown.kwonlyargs] == keyword, name
        defaults = dict(zip(keyword, shown.kw_defaults, strict=True))
        positional = [a.arg for a in shown.args]
        if shown.defaults:
            defaults |= zip(positional[-len(shown.defaults) :], shown.defaults, strict=True)
        for parameter in taken.values():
            default = defaults.get(parameter.name)
            assert (default is None) == (parameter.default is parameter.empty), name
            if default is not None and ast.literal_eval(default) is not ...:
                assert ast.literal_eval(default) == parameter.default, (name, parameter.name)


def test_members_of_what_they_hand_over() -> None:
    text = (REFERENCE / "python.md").read_text()
    for name, words in re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", text, re.M):
        held = getattr(moralprobe, name)
        if not inspect.isclass(held) or issubclass(held, Exception):
            continue
        known = set(dir(held)) | set(re.findall(r"(?:self\.|^    )(\w+)\b:", source_of(held), re.M))
        for member in re.findall(r"`([a-z_]+)(?:\([a-z_, ]*\))?`", words):
            assert member in known, f"{name}.{member}"


def source_of(held: type) -> str:
    return inspect.getsource(held).replace(" = ", ": = ")


def test_columns() -> None:
    text = (REFERENCE / "data.md").read_text()
    source, table, store = text.split("\n## ")[1:]
    assert first_cells(source) == list(USED)
    assert first_cells(table) == list(VECTOR_COLUMNS)
    needed = re.findall(r"^\| `([^`]+)` \| yes", source, re.M)
    assert needed == list(NEEDED)
    assert {"manifest.json", "texts.parquet", "vectors.parquet"} <= set(first_cells(store))


def test_models() -> None:
    text = (REFERENCE / "models.md").read_text()
    assert re.findall(r"^\| (`.*/.*) \|$", text, re.M) == [
        f"`{m.id}` | {m.family} | {m.role} | {m.size} | {m.n_layers} | {m.d_model} | {m.memory_gb:.1f}"
        for m in models()
    ]
    families = text[text.index("## Families") : text.index("For others")]
    assert re.findall(r"`(\w+)`", families) == list(FAMILIES)


def test_templates() -> None:
    text = (REFERENCE / "templates.md").read_text()
    shown = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.M))
    assert shown == {name: t.render("helping a friend.") for name, t in TEMPLATES.items()}
    assert list(shown) == list(TEMPLATES)


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every command by what is typed, in order."""
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    found: dict[str, Any] = {}
    for name, sub in command.commands.items():
        found |= commands(sub, (*path, name))
    return found


def parameters(command: Any) -> list[list[str]]:
    """Return name, help and default of a command's arguments and options, as the page has them."""
    found = []
    for p in command.params:
        if p.name == "help":
            continue
        name = p.metavar if p.param_type_name == "argument" else p.opts[0]
        plain = p.default is None or p.default is False
        default = "needed" if p.required else "" if plain else f"`{p.default}`"
        found.append([f"`{name}`", p.help, default])
    return found


def test_commands_with_their_help_and_options_with_their_defaults() -> None:
    sections = re.split(r"^## moralprobe ", (REFERENCE / "cli.md").read_text(), flags=re.M)[1:]
    known = commands(typer.main.get_command(app))
    assert [section.split("\n", 1)[0] for section in sections] == list(known)
    for section, (name, command) in zip(sections, known.items(), strict=True):
        rows = re.findall(r"^\| (`.*?`) \| (.*?) \| (.*?) ?\|$", section, re.M)
        assert [list(row) for row in rows] == parameters(command), name
        said = command.help.partition("Example:")[0].split()
        assert section.split("\n", 1)[1].split("| |")[0].split() == said, name


def test_the_version_is_printed_as_the_page_says() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.output.strip() == moralprobe.__version__
    assert "`moralprobe --version` prints the version." in (REFERENCE / "cli.md").read_text()


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 140


def test_numbers_are_those_of_the_results_files() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "fill_numbers.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<!-- numbers: confound -->" in (ROOT / "README.md").read_text()
