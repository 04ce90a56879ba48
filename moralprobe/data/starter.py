"""The starter set: actions, principles and positions for demonstration and tests, in the package.

It holds no human annotation; its card (`vectors/README.md`) says so.
"""

from __future__ import annotations

from pathlib import Path

from moralprobe.errors import DataError

NAME = "starter"


def starter_path() -> Path:
    """Return the path of the starter set's actions, in an installed package or in a checkout."""
    return _path("starter.tsv")


def principles_path() -> Path:
    """Return the path of the starter set's principles, wherever they are."""
    return _path("principles.tsv")


def positions_path() -> Path:
    """Return the path of the starter set's questions and positions on them."""
    return _path("positions.tsv")


def _path(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_vectors", package.parent / "vectors"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        "the starter set is missing",
        f"no {name} beside {package}",
        "reinstall moralprobe, or build from your own file",
    )
