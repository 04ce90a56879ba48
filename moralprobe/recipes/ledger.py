"""What a run's folder holds: which jobs are done, with which options, from what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import xxhash

from moralprobe.errors import IntegrityError, StoreError
from moralprobe.files import canonical_json, hash_file, write_json
from moralprobe.models.causal import differing
from moralprobe.provenance import environment
from moralprobe.recipes.jobs import Job

FILE: Final = "steps.json"
_FORMAT: Final = 1


class Ledger:
    """The record of a run, written after every job; a job counts as done once it is in it."""

    def __init__(self, out: Path, jobs: dict[str, Any], model: Any) -> None:
        self.out = out
        self.jobs = jobs
        self.model = model

    @classmethod
    def open(cls, out: Path) -> Ledger:
        """Read a folder's record, or begin one.

        Raises:
            IntegrityError: a file that is no record.
        """
        path = Path(out) / FILE
        if not path.exists():
            return cls(Path(out), {}, None)
        try:
            found = json.loads(path.read_bytes())
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']}")
            jobs = {
                str(name): {
                    "options": dict(job["options"]),
                    "from": dict(job["from"]),
                    "files": dict(job["files"]),
                    "finished": bool(job["finished"]),
                    "environment": dict(job["environment"]),
                }
                for name, job in found["jobs"].items()
            }
            return cls(Path(out), jobs, found["model"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"{path} is damaged", f"it records no run: {error}", "give another --out"
            ) from error

    def is_done(self, job: Job, marks: Mapping[str, str]) -> bool:
        """Return whether a job's result is there, made as it is asked for.

        Args:
            job: that is asked for.
            marks: of the jobs that it needs.

        Raises:
            IntegrityError: a file that isn't the one that was written.
        """
        found = self.jobs.get(job.name)
        if found is None or not found["finished"] or _otherwise(found, job, marks):
            return False
        paths = {self.out / name: digest for name, digest in found["files"].items()}
        if not all(path.is_file() for path in paths):
            return False
        for path, digest in paths.items():
            if hash_file(path) != digest:
                raise IntegrityError(
                    f"{path} is damaged",
                    f"it isn't what {job.name} wrote",
                    f"delete {self.out / job.place} and repeat the command",
                )
        return True

    def refuse_others(self, jobs: Sequence[Job], marks: Mapping[str, str]) -> None:
        """Refuse results that are there and were made otherwise, or by something else.

        Args:
            jobs: to be held against the record.
            marks: by the names of the jobs that they need, what these make: see `mark`.

        Raises:
            StoreError: what differs, with both values, and what to delete.
        """
        stale: list[tuple[Job, str]] = []
        for job in jobs:
            if not (self.out / job.place).exists():
                continue
            found = self.jobs.get(job.name)
            if found is None:
                raise StoreError(
                    f"{self.out / job.place} is there already",
                    f"{FILE} doesn't say that {job.name} made it",
                    "give another --out, or delete it",
                )
            if differ := _otherwise(found, job, marks):
                stale.append((job, "; ".join(differ)))
        if not stale:
            return
        first, why = stale[0]
        places = " ".join(str(self.out / job.place) for job, _ in stale)
        raise StoreError(
            f"{first.name} was done otherwise here",
            why,
            f"delete {places} and repeat the command, or give another --out",
        )

    def begin(self, job: Job, marks: Mapping[str, str]) -> None:
        """Record what a job is asked for, before it starts."""
        self.jobs[job.name] = {
            "options": _plain(job.options),
            "from": {name: marks[name] for name in job.needs},
            "files": {},
            "finished": False,
            "environment": environment(),
        }
        self._write()

    def finish(self, job: Job, files: Iterable[Path]) -> None:
        """Record the files by which a job's result is known again."""
        found = {path.relative_to(self.out).as_posix(): hash_file(path) for path in files}
        self.jobs[job.name] |= {"files": found, "finished": True}
        self._write()

    def mark(self, job: Job, marks: Mapping[str, str]) -> str:
        """Return what changes where a job would make something else: of the table its bytes."""
        if not job.needs:
            files: dict[str, str] = self.jobs[job.name]["files"]
            return files[job.place]
        made_from = {name: marks[name] for name in job.needs}
        return xxhash.xxh3_128_hexdigest(canonical_json([_plain(job.options), made_from]))

    def check_model(self, name: str, identity: Mapping[str, Any]) -> None:
        """Refuse a model that isn't the one that other jobs were done with.

        Raises:
            StoreError: with what differs.
        """
        mine = _plain(identity)
        if self.model is None:
            self.model = mine
            self._write()
        if differing(self.model, mine):
            raise StoreError(
                f"{name} is another model than the one that {self.out} was made with",
                "; ".join(_differences(dict(self.model), mine)),
                "give another --out, or the model that it was",
            )

    def _write(self) -> None:
        write_json(self.out / FILE, {"format": _FORMAT, "model": self.model, "jobs": self.jobs})


def _otherwise(found: Mapping[str, Any], job: Job, marks: Mapping[str, str]) -> list[str]:
    """Return how a job was done otherwise than it is asked for: its options, or what it needs."""
    differ = _differences(found["options"], _plain(job.options))
    changed = [name for name in job.needs if found["from"].get(name) != marks[name]]
    return differ or [f"it was made from another result of {name}" for name in changed]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(canonical_json(dict(options)))
    return found


def _differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    return [
        f"{key.replace('_', '-')}: there {there.get(key)}, asked for {asked.get(key)}"
        for key in sorted({*there, *asked})
        if there.get(key) != asked.get(key)
    ]
