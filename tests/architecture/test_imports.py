"""Which part may import which, read from the syntax trees: data goes one way, never back up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.sources import PACKAGE, SOURCES, imports_of, module_of, tree_of

GROUND = {"errors", "foundations", "sites", "provenance", "files", "artifacts", "cache"}
# What each part imports of the others; itself it may always import. Nobody imports the command
# line, and only the package's front door and the command line name everything.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "foundations": set(),
    "provenance": set(),
    "sites": {"errors"},
    "files": {"errors"},
    "artifacts": {"errors", "files"},
    "cache": {"errors", "files"},
    "data": GROUND,
    "geometry": {"errors", "foundations"},
    "moral_vectors": GROUND | {"data", "geometry"},
    "models": GROUND,
    "activations": GROUND | {"data", "moral_vectors", "models"},
    "sae": GROUND | {"data", "geometry", "moral_vectors", "models", "activations"},
    "autoencoders": {"errors", "foundations", "models", "sites", "sae"},
    "design": {"errors", "foundations", "geometry", "moral_vectors"},
    "analyses": {"errors", "foundations", "geometry", "design"},
    "table": GROUND | {"geometry", "activations", "design"},
    "options": {"errors", "activations", "design"},
    "study": GROUND | {"activations", "table"},
    "baselines": GROUND | {"activations", "models"},
    "probing": {"options"}
    | GROUND
    | {
        "data",
        "moral_vectors",
        "geometry",
        "activations",
        "design",
        "analyses",
        "table",
        "baselines",
        "study",
    },
    "comparison": GROUND | {"data", "geometry", "models", "study", "table"},
    "control": {"options"}
    | GROUND
    | {"data", "geometry", "activations", "design", "analyses", "table", "study"},
    "steering": GROUND
    | {
        "behavior",
        "geometry",
        "moral_vectors",
        "models",
        "activations",
        "sae",
        "design",
        "analyses",
        "probing",
    },
    "interventions": GROUND | {"moral_vectors", "models", "activations", "sae", "steering"},
    "evaluation": GROUND | {"behavior", "data", "geometry", "models", "steering"},
    "evaluating": {"cache", "errors", "files", "models", "steering", "evaluation"},
    "behavior": GROUND | {"data"},
    "bridges": GROUND
    | {
        "activations",
        "behavior",
        "geometry",
        "models",
        "moral_vectors",
        "steering",
        "evaluation",
    },
    "report": GROUND
    | {
        "behavior",
        "bridges",
        "options",
        "study",
        "baselines",
        "table",
        "control",
        "comparison",
        "models",
        "sae",
        "autoencoders",
        "steering",
        "evaluation",
        "evaluating",
    },
    "recipes": GROUND
    | {
        "data",
        "moral_vectors",
        "models",
        "activations",
        "sae",
        "autoencoders",
        "options",
        "study",
        "probing",
        "interventions",
        "steering",
        "evaluation",
        "evaluating",
        "report",
    },
    "web": GROUND
    | {
        "study",
        "data",
        "geometry",
        "moral_vectors",
        "models",
        "activations",
        "sae",
        "steering",
        "interventions",
        "evaluation",
        "report",
        "",
    },
    "doctor": GROUND | {"models"},
    "cli": GROUND
    | {
        "behavior",
        "bridges",
        "web",
        "data",
        "moral_vectors",
        "models",
        "activations",
        "sae",
        "autoencoders",
        "interventions",
        "steering",
        "evaluation",
        "evaluating",
        "options",
        "study",
        "probing",
        "comparison",
        "table",
        "control",
        "report",
        "recipes",
        "doctor",
        "",
    },
    "__main__": {"cli"},
}
FRONT_DOOR = "__init__"
# Who may import a heavy or a wordy neighbour: a part, or one module of it.
ONLY_IN: dict[str, set[str]] = {
    "torch": {
        "models",
        "activations",
        "sae",
        "steering",
        "interventions",
        "evaluation",
        "bridges",
        "doctor",
        "web",
    },
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "pydantic": {"web"},
    "transformers": {
        "models",
        "steering.generate",
        "bridges.word_rows",
        "bridges.scorer",
        "bridges.lora",
    },
    "peft": {"bridges.lora"},
    "yaml": {"recipes", "behavior.pluralism.scope"},
    "openai": {"behavior.server"},
    "transformer_lens": {"models.lens"},
    "sae_lens": {"sae"},
    "tokenizers": {"models"},
    "huggingface_hub": {"models", "sae"},
    "sklearn": {
        "geometry",
        "behavior.elicitation.scorers",
        "behavior.elicitation.calibration",
        "behavior.elicitation.repair",
        "bridges.scorer",
    },
    "nltk": {"behavior.elicitation.measures"},
    "matplotlib": {"report"},
    "jinja2": {"report", "models"},
    "typer": {"cli"},
    "rich": {"cli"},
    "sentence_transformers": {"models"},
    "vaderSentiment": {"data"},
    "wordfreq": {"data"},
    "urllib": {"data", "sae.push", "behavior.server"},
    "http": {"data"},
}
PURE = {"numpy", "scipy", "sklearn", "moralprobe"}
PURE_STANDARD = {
    "__future__",
    "collections",
    "dataclasses",
    "functools",
    "itertools",
    "math",
    "re",
    "typing",
}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def part_imported(module: str) -> str | None:
    """The part of the package that a dotted name leads into; `` for the package itself."""
    names = module.split(".")
    if names[0] != "moralprobe":
        return None
    return names[1] if len(names) > 1 and names[1] in MAY_IMPORT else ""


def at_home(path: Path, module: str) -> bool:
    """Whether a source may import the neighbour that a dotted name leads into."""
    names = {part_of(path), module_of(path).removeprefix("moralprobe.")}
    homes = ONLY_IN.get(module.split(".")[0], names)
    return not homes.isdisjoint(names)


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(path) for path in SOURCES} == {*MAY_IMPORT, FRONT_DOOR}


def test_the_order_has_no_circle() -> None:
    placed: set[str] = set()
    while rest := MAY_IMPORT.keys() - placed:
        free = {part for part in rest if MAY_IMPORT[part] - {""} <= placed}
        assert free, f"in a circle: {sorted(rest)}"
        placed |= free


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_lean_downwards(path: Path) -> None:
    part = part_of(path)
    if part == FRONT_DOOR:
        allowed = MAY_IMPORT.keys() - {"cli", "__main__"}
    else:
        allowed = MAY_IMPORT[part] | {part}
    wrong = [
        f"line {line}: {module}"
        for module, line in imports_of(tree_of(path))
        if part_imported(module) not in {None, *allowed}
    ]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_neighbours_are_imported_where_they_belong(path: Path) -> None:
    wrong = [
        f"line {line}: {module}"
        for module, line in imports_of(tree_of(path))
        if not at_home(path, module)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if part_of(path) == "geometry"], ids=module_of
)
def test_geometry_is_arrays_in_and_numbers_out(path: Path) -> None:
    """No model, no file, no clock, no environment: what it gives depends on its arguments alone."""
    tree = tree_of(path)
    wrong = {
        module.split(".")[0]
        for module, _ in imports_of(tree)
        if module.split(".")[0] not in PURE | PURE_STANDARD | {"warnings"}
    }
    assert wrong == set()
    opened = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "open")
            or (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in {"load", "save", "savez", "memmap", "fromfile", "tofile"}
            )
        )
    ]
    assert opened == []


def test_a_wrong_import_would_be_seen() -> None:
    tree = ast.parse(
        "def f():\n    from moralprobe.cli.console import say\n    import moralprobe.models.load\n"
    )
    parts = [part_imported(module) for module, _ in imports_of(tree)]
    assert parts == ["cli", "models"]
    assert not {"cli", "models"} & MAY_IMPORT["geometry"]


def test_a_neighbour_of_one_module_is_no_neighbour_of_its_part() -> None:
    models = PACKAGE / "models"
    assert at_home(models / "lens.py", "transformer_lens.model_bridge")
    assert not at_home(models / "taps.py", "transformer_lens.model_bridge")
    assert at_home(models / "taps.py", "torch") and not at_home(models / "taps.py", "typer")
