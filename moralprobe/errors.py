"""What can go wrong, said so that the reader knows what to do next.

Every error that a user can meet carries three sentences: what failed, why, and what to do instead.
The command line prints them and leaves with `exit_code`: 2 for a request that can't be served as
asked, 1 for work that failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class MoralprobeError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        what: the thing that failed, one sentence.
        why: the reason, with the offending value.
        instead: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", instead: str = "") -> None:
        self.what = what
        self.why = why
        self.instead = instead
        super().__init__(". ".join(part.rstrip(".") for part in (what, why, instead) if part) + ".")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel whole from one process to another."""
        return type(self), (self.what, self.why, self.instead), self.__dict__


class UsageError(MoralprobeError):
    """The request itself is wrong: an unknown name, an option out of range."""

    exit_code = 2


class DataError(MoralprobeError):
    """Input data that can't be read or doesn't hold what is needed."""

    exit_code = 2


class ModelError(MoralprobeError):
    """A model that can't be found, isn't supported, or would have to be trusted to run code."""

    exit_code = 2


class StoreError(MoralprobeError):
    """An artefact on disk that belongs to something else or can't be used as asked."""

    exit_code = 2


class IntegrityError(StoreError):
    """Bytes on disk that aren't the bytes that were written. Never answered with numbers."""

    exit_code = 1


class NumericError(MoralprobeError):
    """Hidden states that can't be right: NaN, infinity, a layer that never varies."""


class DownloadError(MoralprobeError):
    """A transfer that didn't complete. What arrived is kept and the same command continues."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return a phrase that names the known spellings closest to `name`, or all if few."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
