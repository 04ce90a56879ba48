"""What a model is told of a community before a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import xxhash

from moralprobe.behavior.pluralism.surveys import Answers, Survey
from moralprobe.errors import UsageError, nearest

STEERS: Final = ("none", "persona", "examples")
PERSONA: Final = "Answer as people of {community} would."
SHOWN: Final = "This is how people of {community} answered other questions:"
EXAMPLES: Final = 3


def told_before(
    survey: Survey, steer: str, *, known: Survey | None = None, seed: int = 0
) -> list[str | None]:
    """Return what stands before each answer's question.

    Args:
        survey: whose answers are asked for.
        steer: `none`; `persona`, whose answer is asked for; or `examples`, how the same community
            answered three questions of other batteries, drawn for each question.
        known: whose answers may be shown; those of the survey itself, if not given.
        seed: of which ones.

    Raises:
        UsageError: another way.
    """
    if steer not in STEERS:
        raise UsageError(
            f"there is no way {steer!r} to steer",
            nearest(steer, STEERS),
            f"choose among {', '.join(STEERS)}",
        )
    if steer == "none":
        return [None] * len(survey)
    if steer == "persona":
        return [PERSONA.format(community=one.community) for one in survey.answers]
    of: dict[str, list[Answers]] = {}
    for one in (known or survey).answers:
        of.setdefault(one.community, []).append(one)
    return [_examples(one, of.get(one.community, []), seed) for one in survey.answers]


def _examples(one: Answers, same: Sequence[Answers], seed: int) -> str:
    """Return a community's answers to other questions: none of this one's battery is among them."""
    others = [other for other in same if other.item.unit != one.item.unit]
    own = xxhash.xxh64_intdigest(f"{one.community}\n{one.item.question}".encode())
    at = np.random.default_rng([seed, own]).permutation(len(others))[:EXAMPLES]
    lines = [SHOWN.format(community=one.community)]
    for i in sorted(at.tolist()):
        shares = ", ".join(
            f"{option} {share:.0%}"
            for option, share in zip(others[i].item.options, others[i].shares, strict=True)
        )
        lines.append(f"{others[i].item.question} {shares}")
    lines.append(PERSONA.format(community=one.community))
    return "\n".join(lines)
