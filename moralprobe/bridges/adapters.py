"""Adapters of communities on disk: matrices, and what they were trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from moralprobe.behavior.pluralism.surveys import Answers, Survey
from moralprobe.bridges.lora import Adapted
from moralprobe.errors import DataError
from moralprobe.files import write_json

ADAPTERS: Final = "adapters"
QUESTIONS: Final = "learnt.json"
"""Beside an adapter's matrices: the questions that it was trained on."""


def folder_of(name: str) -> str:
    """Return where an adapter lies, under the folder of what was learnt; no two share one."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in name)
    return f"{ADAPTERS}/{safe}-{xxhash.xxh3_64_hexdigest(name.encode())[:6]}"


def write_adapter(
    adapted: Adapted, folder: Path, arm: str, community: str, answers: Sequence[Answers]
) -> None:
    """Write matrices, and then what they were trained on, with a hash that binds the two."""
    (folder / QUESTIONS).unlink(missing_ok=True)
    adapted.save(folder)
    about = {
        "arm": arm,
        "community": community,
        "identity": adapted.identity,
        "questions": sorted({one.item.question for one in answers}),
        "batteries": sorted({one.item.unit for one in answers}),
    }
    write_json(folder / QUESTIONS, about)


@dataclass(frozen=True)
class Known:
    """An adapter that `learn` wrote: of which arm and community, and what it was trained on."""

    folder: Path
    arm: str
    community: str
    identity: str
    batteries: frozenset[str]

    @property
    def name(self) -> str:
        """Its arm, and its community where it is of one."""
        return f"{self.arm}: {self.community}" if self.community else self.arm


def known(folder: Path) -> Known:
    """Read what an adapter was trained on.

    Raises:
        DataError: a folder that `learn` didn't write.
    """
    try:
        found = json.loads((folder / QUESTIONS).read_text("utf-8"))
        arm, community, identity = (str(found[x]) for x in ("arm", "community", "identity"))
        return Known(folder, arm, community, identity, frozenset(found["batteries"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no adapter of a community", repr(error), "make one: pluralism fit"
        ) from error


def adapters_in(folder: Path) -> list[Known]:
    """Return the adapters that `learn` wrote into a folder.

    Raises:
        DataError: none.
    """
    found = [known(path.parent) for path in sorted((folder / ADAPTERS).glob(f"*/{QUESTIONS}"))]
    if not found:
        raise DataError(
            f"{folder} holds no adapter", f"none under {folder / ADAPTERS}", "pluralism fit"
        )
    return found


def unlearnt(survey: Survey, adapter: Known) -> Survey:
    """Return the answers to questions of batteries that an adapter wasn't trained on.

    Args:
        survey: what communities answered.
        adapter: from `known`.

    Raises:
        DataError: no question is left.
    """
    kept = Survey(tuple(one for one in survey.answers if one.item.unit not in adapter.batteries))
    if not len(kept):
        raise DataError(
            "the adapter was trained on the batteries of all of these questions",
            f"{len(adapter.batteries)} in {adapter.folder / QUESTIONS}",
            "measure it on others",
        )
    return kept
