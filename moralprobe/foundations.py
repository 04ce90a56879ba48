"""The five moral axes, their ten poles, their colours: the only place where they are written.

Order and labels follow Social-Chemistry-101 and the slot order of the moral vector
(arXiv 2603.15615): virtue in the even slots, vice in the odd ones.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Polarity = Literal["virtue", "vice"]


class Axis(NamedTuple):
    """One axis: `tag` is its spelling in Social-Chemistry-101, `virtue` and `vice` its poles."""

    tag: str
    virtue: str
    vice: str
    color: str


# Okabe-Ito colours: distinguishable under the common forms of colour blindness.
AXES: Final[tuple[Axis, ...]] = (
    Axis("care-harm", "care", "harm", "#D55E00"),
    Axis("fairness-cheating", "fairness", "cheating", "#0072B2"),
    Axis("loyalty-betrayal", "loyalty", "betrayal", "#009E73"),
    Axis("authority-subversion", "authority", "subversion", "#CC79A7"),
    Axis("sanctity-degradation", "sanctity", "degradation", "#56B4E9"),
)
"""The five axes, in the order of the moral vector's slots."""
AXIS_TAGS: Final[tuple[str, ...]] = tuple(axis.tag for axis in AXES)
POLES: Final[tuple[str, ...]] = tuple(p for axis in AXES for p in (axis.virtue, axis.vice))
"""The ten poles, the slots of the moral vector: virtue before vice, axis by axis."""
AXIS_BY_TAG: Final[dict[str, Axis]] = {axis.tag: axis for axis in AXES}
AXIS_OF_POLE: Final[dict[str, Axis]] = {p: a for a in AXES for p in (a.virtue, a.vice)}

JUDGMENTS: Final[tuple[int, ...]] = (-2, -1, 0, 1, 2)
AGREEMENTS: Final[tuple[int, ...]] = (0, 1, 2, 3, 4)
SCORES: Final[tuple[float, ...]] = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
PROTOTYPE_SCORE: Final = 1.0
