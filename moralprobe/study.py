"""A study on disk: one long table of measures, and what it was made from."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl
import xxhash

from moralprobe.activations.store import ActivationStore
from moralprobe.errors import DataError, IntegrityError
from moralprobe.files import write_bytes, write_json
from moralprobe.provenance import environment
from moralprobe.table import BASELINE_COLUMNS, COLUMNS, DRAW_COLUMNS

TABLES: Final = ("measures.parquet", "baselines.parquet", "draws.parquet")


@dataclass(frozen=True)
class Study:
    """One long table of measures (`COLUMNS`), and what it was made from.

    `baselines` is a table of the same measures of other readings of the same texts
    (`BASELINE_COLUMNS`): its `source` says which. `draws` are the resamples behind the headline
    numbers (`DRAW_COLUMNS`), with which studies of the same texts are compared.
    """

    frame: pl.DataFrame
    meta: dict[str, Any]
    baselines: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BASELINE_COLUMNS))
    draws: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DRAW_COLUMNS))

    def save(self, folder: Path) -> Path:
        """Write the three tables, the first as JSON too, and `study.json` into a folder."""
        folder = Path(folder)
        hashes = {}
        # While the tables change the folder holds no study, so that a kill leaves none of two.
        (folder / "study.json").unlink(missing_ok=True)
        for name, frame in zip(TABLES, (self.frame, self.baselines, self.draws), strict=True):
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            hashes[name] = xxhash.xxh3_128_hexdigest(buffer.getvalue())
            write_bytes(folder / name, buffer.getvalue())
        rows = [
            {k: None if v != v else v for k, v in row.items()}
            for row in self.frame.iter_rows(named=True)
        ]
        write_bytes(folder / "measures.json", json.dumps(rows, indent=0).encode())
        write_json(folder / "study.json", {**self.meta, "tables": hashes})
        return folder

    @classmethod
    def load(cls, folder: Path) -> Study:
        """Read what `save` wrote.

        Raises:
            DataError: no study, or one of another version.
            IntegrityError: tables that aren't those that were written.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / "study.json").read_bytes())
            hashes = dict(meta.pop("tables"))
            tables = [(folder / name).read_bytes() for name in TABLES]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"can't read {folder} as a study",
                str(error).splitlines()[0],
                "make one with: moralprobe probe STORE --out STUDY",
            ) from error
        for name, data in zip(TABLES, tables, strict=True):
            if xxhash.xxh3_128_hexdigest(data) != hashes.get(name):
                raise IntegrityError(
                    f"{folder / name} is damaged",
                    "checksum doesn't match",
                    "repeat the probe command that made it",
                )
        frames = [pl.read_parquet(data) for data in tables]
        known = [list(COLUMNS), list(BASELINE_COLUMNS), list(DRAW_COLUMNS)]
        if [frame.columns for frame in frames] != known:
            raise DataError(f"{folder} is no study", "its columns differ", "probe the store again")
        return cls(frames[0], meta, *frames[1:])

    def select(self, **where: str | int) -> pl.DataFrame:
        """Return the rows with these column values, by layer."""
        return self.frame.filter(**where).sort("layer", nulls_last=False)


def finished(folder: Path, store: ActivationStore, **options: str | int) -> Study | None:
    """Return the study that a folder holds if it is of this store, with these options; else None.

    Args:
        folder: where a study may have been saved.
        store: the store that would be probed.
        options: of `probe`, all but `progress`.
    """
    if not (Path(folder) / "study.json").is_file():
        return None
    try:
        study = Study.load(folder)
    except (IntegrityError, DataError):
        return None  # damaged, or of another version: it is made again
    same = study.meta["request"] == request_of(store, **options)
    return study if same else None


def request_of(store: ActivationStore, **options: str | int) -> dict[str, Any]:
    """Return all that can change a study's numbers."""
    return {**options, "store": store.digest(), "environment": environment()}
