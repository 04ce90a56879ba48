"""The starter set: actions authored for demonstration and tests, carried inside the package.

It holds no human annotation; its card (`vectors/README.md`) says so.
"""

from __future__ import annotations

from pathlib import Path

from moralprobe.errors import DataError

NAME = "starter"


def starter_path() -> Path:
    """Return the path of the starter TSV, in an installed package or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_vectors", package.parent / "vectors"):
        if (folder / "starter.tsv").is_file():
            return folder / "starter.tsv"
    raise DataError(
        "the starter set is missing",
        f"no starter.tsv beside {package}",
        "reinstall moralprobe, or build from your own file",
    )
