"""What is known of a model beside its weights: family, role and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.errors import DataError
from moralprobe.models.packaged import PACKAGED
from moralprobe.models.registry import models as registered

UNKNOWN: Final = "unknown"
ROLES: Final[tuple[str, ...]] = ("untrained", "base", "instruct", "guard", UNKNOWN)
COLUMNS: Final[tuple[str, ...]] = ("id", "family", "role", "parameters_b")


@dataclass(frozen=True)
class About:
    """A model's family, role (of `ROLES`) and size; parameters in billions, None if not known."""

    id: str
    family: str
    role: str
    parameters_b: float | None
    moe: bool | None = None

    @property
    def order(self) -> tuple[str, float, int]:
        """Where the model stands among others: by family, then size, then role."""
        size = float("inf") if self.parameters_b is None else self.parameters_b
        return self.family, size, ROLES.index(self.role)


def about(name: str) -> About:
    """Return what the registry and the packages say of a model; `unknown` where they don't."""
    trained = name.removesuffix(" (untrained)")
    role = "untrained" if trained != name else None
    for model in registered():
        if model.id == trained:
            return About(name, model.family, role or model.role, model.parameters_b, model.moe)
    if trained in PACKAGED:
        packaged = PACKAGED[trained]
        return About(name, packaged.family, role or packaged.role, packaged.parameters_b, False)
    return About(name, UNKNOWN, role or UNKNOWN, None)


def read_about(path: Path) -> list[About]:
    """Read models from a CSV file with the columns `COLUMNS`.

    Raises:
        DataError: a file that can't be read, a column that is missing, a role that isn't one of
            `ROLES`, a size that isn't a positive number.
    """
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"can't read {path}", str(error).splitlines()[0], "give a CSV file"
        ) from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}",
            f"it has {', '.join(table.columns)}",
            f"its first line must be: {','.join(COLUMNS)}",
        )
    return [_row(path, i, row) for i, row in enumerate(table.iter_rows(named=True), start=2)]


def _row(path: Path, line: int, row: dict[str, Any]) -> About:
    role, size = row["role"] or UNKNOWN, row["parameters_b"]
    try:
        parameters = float(size) if size else None
    except ValueError:
        parameters = float("nan")
    if not row["id"] or role not in ROLES or (parameters is not None and not parameters > 0):
        raise DataError(
            f"{path}, line {line} describes no model",
            f"id {row['id']!r}, role {role!r}, parameters_b {size!r}",
            f"roles are {', '.join(ROLES)}; parameters_b is in billions, or empty",
        )
    return About(row["id"], row["family"] or UNKNOWN, role, parameters)
