"""The slider measure of social value orientation: its items, its angle, and what the angle means.

Murphy, Ackermann and Handgraaf (2011), doi 10.1017/S1930297500004204. Who answers divides money
between oneself and another person six times; where the mean of the six lies, seen from 50 and 50,
is an angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OPTIONS: Final = 9
CENTER: Final = 50
NOVEL: Final = "*"
"""Ends the name of an item with other numbers."""
VALUES: Final = ("altruistic", "prosocial", "individualistic", "competitive")
"""From the largest angle to the smallest."""
BOUNDARIES: Final = (57.15, 22.45, -12.04)
"""Degrees: the least angle of each but the last."""


@dataclass(frozen=True)
class Item:
    """A division of money in nine ways: what oneself gets, and what the other one gets.

    `poles` are the ideals that its first and its last option stand for, of a primary item.
    """

    name: str
    own: tuple[float, ...]
    other: tuple[float, ...]
    poles: tuple[str, str] | None = None


def _item(name: str, own: str, other: str, poles: tuple[str, str] | None = None) -> Item:
    numbers = [tuple(map(float, text.split())) for text in (own, other)]
    return Item(name, numbers[0], numbers[1], poles)


_PRO, _COM, _IND, _ALT = "prosocial", "competitive", "individualistic", "altruistic"
PRIMARY: Final = (
    _item("P1", "85 85 85 85 85 85 85 85 85", "85 76 68 59 50 41 33 24 15", (_PRO, _COM)),
    _item("P2", "85 87 89 91 93 94 96 98 100", "15 19 24 28 33 37 41 46 50", (_COM, _IND)),
    _item("P3", "50 54 59 63 68 72 76 81 85", "100 98 96 94 93 91 89 87 85", (_ALT, _PRO)),
    _item("P4", "50 54 59 63 68 72 76 81 85", "100 89 79 68 58 47 36 26 15", (_ALT, _COM)),
    _item("P5", "100 94 88 81 75 69 63 56 50", "50 56 63 69 75 81 88 94 100", (_IND, _ALT)),
    _item("P6", "100 98 96 94 93 91 89 87 85", "50 54 59 63 68 72 76 81 85", (_IND, _PRO)),
)
SECONDARY: Final = (
    _item("S1", "100 96 93 89 85 81 78 74 70", "50 56 63 69 75 81 88 94 100"),
    _item("S2", "90 91 93 94 95 96 98 99 100", "100 99 98 96 95 94 93 91 90"),
    _item("S3", "100 94 88 81 75 69 63 56 50", "70 74 78 81 85 89 93 96 100"),
    _item("S4", "100 99 98 96 95 94 93 91 90", "70 74 78 81 85 89 93 96 100"),
    _item("S5", "70 74 78 81 85 89 93 96 100", "100 96 93 89 85 81 78 74 70"),
    _item("S6", "50 56 63 69 75 81 88 94 100", "100 99 98 96 95 94 93 91 90"),
    _item("S7", "50 56 63 69 75 81 88 94 100", "100 94 88 81 75 69 63 56 50"),
    _item("S8", "100 96 93 89 85 81 78 74 70", "90 91 93 94 95 96 98 99 100"),
    _item("S9", "90 91 93 94 95 96 98 99 100", "100 94 88 81 75 69 63 56 50"),
)
ITEM_SETS: Final[dict[str, tuple[Item, ...]]] = {"primary": PRIMARY, "all": PRIMARY + SECONDARY}
# Of each secondary item the option, from 0, that an ideal takes; None where all are the same to it.
_IDEALS: Final[dict[str, tuple[int | None, ...]]] = {
    "equality": (5, 4, 3, 6, 4, 7, 4, 2, 1),
    "joint gain": (8, None, 0, 8, None, 8, None, 0, 0),
    _IND: (0, 8, 0, 0, 8, 8, 8, 0, 8),
    _ALT: (8, 0, 8, 8, 0, 0, 0, 8, 0),
}


def angle(own: Floats, other: Floats) -> Floats:
    """Return the angle of answers to the primary items, [...] degrees in (-180, 180].

    Args:
        own: [..., 6] what oneself gets, on the scale of the original items.
        other: [..., 6] what the other one gets.
    """
    dx, dy = own.mean(-1) - CENTER, other.mean(-1) - CENTER
    return np.asarray(np.degrees(np.arctan2(dy, dx)), np.float64)


def category(degrees: float) -> str:
    """Return the value that an angle is called by, within the official boundaries."""
    for value, least in zip(VALUES, BOUNDARIES, strict=False):
        if degrees >= least:
            return value
    return VALUES[-1]


def payoffs(items: Sequence[Item]) -> tuple[Floats, Floats]:
    """Return what each option gives oneself and the other one, [items, 9] each."""
    return np.array([i.own for i in items]), np.array([i.other for i in items])


def every_pattern() -> Floats:
    """Return the angle of each of the 9 ** 6 ways to answer the primary items, degrees.

    The first item's option changes slowest.
    """
    own, other = payoffs(PRIMARY)
    sums = [np.zeros(1), np.zeros(1)]
    for a, b in zip(own, other, strict=True):
        sums = [np.add.outer(s, x).ravel() for s, x in zip(sums, (a, b), strict=True)]
    dx, dy = (s / len(PRIMARY) - CENTER for s in sums)
    return np.asarray(np.degrees(np.arctan2(dy, dx)), np.float64)


def along(item: Item, option: int) -> float:
    """Return where an option stands between an item's ends, 0 to 8: of novel items their numbers
    say it, and of the others the option's own number.
    """
    if not item.name.endswith(NOVEL):
        return float(option)
    ends = [(x[0], x[-1], x[option]) for x in (item.own, item.other)]
    first, last, here = max(ends, key=lambda of: abs(of[1] - of[0]))
    return (here - first) / (last - first) * (OPTIONS - 1)


def transitive(choices: Ints | Floats) -> bool:
    """Return whether answers to the primary items prefer ideals in an order, without a circle.

    Each item compares two of four ideals: of the one whose end lies nearer it is said that it is
    preferred; in the middle neither is.

    Args:
        choices: [6] options from 0, or places between the ends (`along`).
    """
    better: dict[str, set[str]] = {value: set() for value in VALUES}
    for item, choice in zip(PRIMARY, choices.tolist(), strict=True):
        if item.poles is not None and choice != OPTIONS // 2:
            first, last = item.poles
            won, lost = (first, last) if choice < OPTIONS // 2 else (last, first)
            better[won].add(lost)
    left = set(VALUES)
    while best := {value for value in left if not any(value in better[o] for o in left)}:
        left -= best
    return not left


def secondary_score(choices: Ints | Floats) -> float | None:
    """Return where a prosocial person stands between equality, 0, and joint gain, 1.

    None where these aren't the two ideals that the answers lie nearest to.

    Args:
        choices: [9] options from 0 of the secondary items.
    """
    distance = {
        name: float(
            np.mean(
                [
                    abs(choice - at) / (OPTIONS - 1)
                    for choice, at in zip(choices.tolist(), ideal, strict=True)
                    if at is not None
                ]
            )
        )
        for name, ideal in _IDEALS.items()
    }
    equality, joint = distance["equality"], distance["joint gain"]
    if max(equality, joint) > min(distance[_IND], distance[_ALT]) or equality + joint == 0:
        return None
    return equality / (equality + joint)


def scaled(items: Sequence[Item], factor: float) -> tuple[Item, ...]:
    """Return items whose payoffs are multiplied, and rounded to whole numbers.

    Raises:
        UsageError: a factor after which options can't be told apart.
    """
    if not 0 < factor < 1e6:
        raise UsageError(
            f"payoffs can't be multiplied by {factor:g}",
            "it lies between 0 and a million",
            "give for example 2",
        )
    found = tuple(
        replace(
            item,
            own=tuple(float(round(factor * x)) for x in item.own),
            other=tuple(float(round(factor * x)) for x in item.other),
        )
        for item in items
    )
    for item in found:
        if len(set(zip(item.own, item.other, strict=True))) < OPTIONS or min(*item.own) <= 0:
            raise UsageError(
                f"payoffs can't be multiplied by {factor:g}",
                f"the options of {item.name} fall together",
                "give 0.5 or more",
            )
    return found


def novel(items: Sequence[Item], rng: np.random.Generator) -> tuple[Item, ...]:
    """Return items on the same lines with other numbers: nobody can have learnt them.

    Each line's two ends stay, so that the angle means the same; the seven options between them are
    drawn evenly from the line, in their order.
    """
    found = []
    for item in items:
        drawn: set[tuple[float, float]] = set()
        while len(drawn) < OPTIONS:  # rounded, two may fall together
            along = np.array([0.0, *np.sort(rng.uniform(0, 1, OPTIONS - 2)), 1.0])
            own, other = (
                tuple(np.round(ends[0] + along * (ends[-1] - ends[0])).tolist())
                for ends in (item.own, item.other)
            )
            drawn = set(zip(own, other, strict=True))
        found.append(replace(item, name=f"{item.name}{NOVEL}", own=own, other=other))
    return tuple(found)
