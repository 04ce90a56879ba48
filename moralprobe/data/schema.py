"""The columns of Social-Chemistry-101 and of a moral vectors table, and what each may hold.

Column meanings follow the dataset's own README (Forbes et al., EMNLP 2020, arXiv 2011.00620).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from moralprobe.errors import UsageError, nearest
from moralprobe.foundations import AXIS_TAGS, POLES

Schema = Literal["li2026", "factored"]
Agreement = Literal["action-agree", "rot-agree"]

SOURCE_COLUMNS: Final[tuple[str, ...]] = (
    "area",
    "m",
    "split",
    "rot-agree",
    "rot-categorization",
    "rot-moral-foundations",
    "rot-char-targeting",
    "rot-bad",
    "rot-judgment",
    "action",
    "action-agency",
    "action-moral-judgment",
    "action-agree",
    "action-legal",
    "action-pressure",
    "action-char-involved",
    "action-hypothetical",
    "situation",
    "situation-short-id",
    "rot",
    "rot-id",
    "rot-worker-id",
    "breakdown-worker-id",
    "n-characters",
    "characters",
)
NEEDED: Final[tuple[str, ...]] = ("action", "rot-moral-foundations", "action-moral-judgment")
USED: Final[tuple[str, ...]] = (
    *NEEDED,
    "action-agree",
    "rot-agree",
    "action-pressure",
    "rot-bad",
    "m",
    "split",
    "rot-id",
    "breakdown-worker-id",
)


@dataclass(frozen=True)
class Scale:
    """An ordinal column: its smallest and largest whole value."""

    low: int
    high: int


SCALES: Final[dict[str, Scale]] = {
    "action-moral-judgment": Scale(-2, 2),
    "action-agree": Scale(0, 4),
    "rot-agree": Scale(0, 4),
    "action-pressure": Scale(-2, 2),
    "rot-bad": Scale(0, 1),
    "m": Scale(1, 1000),
}

FREQUENCY_COLUMNS: Final[tuple[str, ...]] = tuple(f"frequency_{tag}" for tag in AXIS_TAGS)
"""Share of a text group's rows that carry each tag: the tag part of schema `factored`."""

VECTOR_COLUMNS: Final[tuple[str, ...]] = (
    # what was annotated
    "row",
    "action",
    "group",
    "axis",
    "axes",
    "judgment",
    "agreement",
    "pressure",
    "rot_agree",
    "split",
    "paper",
    # schema li2026
    "polarity",
    "category",
    "score",
    *POLES,
    # schema factored
    "stance",
    "merged_n",
    "merged_judgment",
    "merged_judgment_sd",
    "merged_agreement",
    "merged_agreement_sd",
    *FREQUENCY_COLUMNS,
)


def check_schema(name: str) -> Schema:
    """Return `name` as a schema, or raise UsageError."""
    known: dict[str, Schema] = {"li2026": "li2026", "factored": "factored"}
    if name not in known:
        raise UsageError(f"unknown schema {name!r}", nearest(name, known), "choose one of these")
    return known[name]


def check_agreement(name: str) -> Agreement:
    """Return `name` as an agreement column, or raise UsageError."""
    known: dict[str, Agreement] = {"action-agree": "action-agree", "rot-agree": "rot-agree"}
    if name not in known:
        raise UsageError(
            f"unknown agreement column {name!r}", nearest(name, known), "choose one of these"
        )
    return known[name]
