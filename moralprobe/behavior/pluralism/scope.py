"""What a certificate is about: the decision, who is affected by it, rules, and where answers came
from. None of it can be computed from answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from moralprobe.errors import DataError, nearest

PROVENANCE: Final = ("population", "collected_by", "collected_when", "consent")
"""Fields without which nothing is certified: who was asked, by whom, when, and on what basis."""
_MOST: Final = 1 << 20  # characters
_NOTHING: Final = ("", "-", "no", "none", "unknown", "n/a", "na", "?", "false", "null", "tbd")
_FIELDS: Final = ("decision", *PROVENANCE, "affected", "not_surveyed", "floors")


@dataclass(frozen=True)
class Floor:
    """A rule that no agreement outweighs: where a question matches, no option that matches may be
    chosen. Both are regular expressions.
    """

    question: str
    option: str
    why: str


@dataclass(frozen=True)
class Scope:
    """What was said of a decision.

    `affected` are the shares of those affected by it who belong to a surveyed community, and
    `not_surveyed` the share of those who belong to none; None where nobody said. `provenance` are
    the fields that were given.
    """

    decision: str
    provenance: Mapping[str, str] = field(default_factory=dict)
    affected: Mapping[str, float] | None = None
    not_surveyed: float = 0.0
    floors: tuple[Floor, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields of provenance that nobody filled in."""
        return tuple(name for name in PROVENANCE if not self.provenance.get(name))


def load_scope(path: str | Path) -> Scope:
    """Read a scope.

    Args:
        path: YAML: `decision`; `population`, `collected_by`, `collected_when` and `consent`;
            `affected`, shares by community, and `not_surveyed`, the share of the affected who
            belong to none; `floors`, a list of `question`, `option` and `why`.

    Raises:
        DataError: what can't be read, an unknown field, no decision, shares that don't sum to one,
            a rule that is no regular expression.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
        # A few lines that name each other may spell out more than a machine can hold.
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        if len(text) > _MOST or any(isinstance(one, yaml.AliasEvent) for one in events):
            raise DataError(
                f"{path} is no scope", "it is too long, or names itself (&, *)", "write it out"
            )
        found = yaml.safe_load(text)
    except OSError as error:
        raise DataError(
            f"can't read {path}", str(error.strerror or error), "check the path"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(
            f"{path} isn't YAML", str(error).splitlines()[0], "write names and values"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no scope", "it holds no names", "give a decision at least")
    for name in found:
        if name not in _FIELDS:
            raise DataError(
                f"{path} has an unknown field {name!r}",
                nearest(str(name), _FIELDS),
                f"use {', '.join(_FIELDS)}",
            )
    if not str(found.get("decision") or "").strip():
        raise DataError(
            f"{path} names no decision",
            "a certificate without one could be shown for any",
            "say in `decision` what would be decided",
        )
    affected, left = _shares(found, path)
    return Scope(
        " ".join(str(found["decision"]).split()),
        {name: said for name in PROVENANCE if (said := _said(found.get(name)))},
        affected,
        left,
        _floors(found.get("floors"), path),
    )


def _said(value: Any) -> str:
    """Return what a field says: words, a number or a date; nothing where it says "none"."""
    if isinstance(value, bool | list | dict) or value is None:
        return ""
    said = " ".join(str(value).split())
    return "" if said.casefold() in _NOTHING or said == "0" else said


def _shares(found: Mapping[str, Any], path: Path) -> tuple[dict[str, float] | None, float]:
    if found.get("affected") is None:
        if found.get("not_surveyed") is not None:
            raise DataError(
                f"{path} says how many of the affected weren't surveyed, and not who was",
                f"not_surveyed {found['not_surveyed']}",
                "give `affected` too, {} where nobody was",
            )
        return None, 0.0
    try:
        shares = {str(name): float(share) for name, share in found["affected"].items()}
        left = float(found.get("not_surveyed") or 0)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} doesn't say who is affected", str(error), "give a share for each community"
        ) from error
    total = sum(shares.values()) + left
    if min([*shares.values(), left]) < 0 or not abs(total - 1) < 0.01:
        raise DataError(
            f"{path} has shares of the affected that aren't shares",
            f"with not_surveyed they sum to {total:g}",
            "give shares from 0 to 1 that sum to 1",
        )
    return shares, left


def _floors(rows: Any, path: Path) -> tuple[Floor, ...]:
    if not isinstance(rows, list | None):
        raise DataError(f"{path} has no list of rules", repr(rows)[:80], "begin each rule with -")
    return tuple(_floor(row, path) for row in rows or ())


def _floor(row: Any, path: Path) -> Floor:
    try:
        rule = Floor(str(row["question"]), str(row["option"]), str(row["why"]))
        re.compile(rule.question)
        re.compile(rule.option)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} has a rule without {error}", f"{row!r}", "give question, option and why"
        ) from error
    except re.error as error:
        raise DataError(
            f"{path} has a rule that is no regular expression", f"{error}: {row!r}", "correct it"
        ) from error
    return rule
