"""What an evaluation says of an intervention and its controls, as far as judges are believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from moralprobe.evaluation.pairwise import Estimate
from moralprobe.steering.arms import PROMPT, UNSTEERED

BETTER: Final = "better"
NOT_BETTER: Final = "not better"
UNKNOWN: Final = "unknown"
_WITHOUT_EDITS: Final = {UNSTEERED, PROMPT}
"""Arms that change no state: beating them alone says nothing of what was changed."""
MOST_UNFINISHED: Final = 0.1
"""Share of an arm's answers that may be missing for a thought that never ended."""


@dataclass(frozen=True)
class Verdict:
    """`kind` is of an intervention against every control, `said` is the sentence for it.

    `best` is the control that did best, `gain` the intervention's win rate less that control's,
    `lowest` the lowest end of any control's interval: above 0 the claim holds against all of them.
    """

    kind: str
    said: str
    best: str | None = None
    gain: Estimate | None = None
    lowest: float | None = None


def why_unfinished(shares: Mapping[str, float]) -> str:
    """Say which arm thinks on too often to be judged, and what to do; nothing where none does.

    Args:
        shares: of each arm, the share of its answers whose thought never ended.
    """
    worst = max(shares, key=lambda arm: shares[arm], default="")
    if not worst or shares[worst] <= MOST_UNFINISHED:
        return ""
    return (
        f"Too few answers can be judged: {shares[worst]:.0%} of what {worst} wrote is a thought "
        f"that never ended, more than {MOST_UNFINISHED:.0%}. Let it write more (--max-tokens), or "
        "not think (--no-thinking)."
    )


def verdict(
    judges: Mapping[str, Mapping[str, Estimate]],
    failed: Mapping[str, Sequence[str]],
    missing: Sequence[str] = (),
    unfinished: Mapping[str, float] | None = None,
) -> Verdict:
    """Return what may be claimed.

    An intervention is better if its win rate is surely above that of every control, before every
    judge that can be believed: an intersection-union test, so that nothing is chosen. A judge that
    fails its check says nothing.

    Args:
        judges: of each judge that was asked, the difference from each control by its name.
        failed: of judges that can't be believed, why.
        missing: controls that weren't run, for the sentence.
        unfinished: as for `why_unfinished`: what is left may be the easy prompts.
    """
    if lost := why_unfinished(unfinished or {}):
        return Verdict(UNKNOWN, lost)
    believed = {name: found for name, found in judges.items() if not failed.get(name)}
    if not judges:
        return Verdict(UNKNOWN, "No judge was asked: there is no win rate.")
    if not believed:
        why = "; ".join(f"{name}: {reasons[0]}" for name, reasons in failed.items() if reasons)
        return Verdict(UNKNOWN, f"No judge can be believed, so no win rate is headlined ({why}).")
    every = [
        (found, control, name) for name, of in believed.items() for control, found in of.items()
    ]
    if not {control for _, control, _ in every} - _WITHOUT_EDITS:
        return Verdict(
            UNKNOWN,
            "No control that changes states as much stands beside the intervention: nothing is "
            "claimed.",
        )
    # The control that the intervention is least ahead of.
    gain, best, name = min(every, key=lambda one: one[0].value)
    lowest = min(found.low for found, _, _ in every)
    said = (
        f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] in win rate against the best "
        f"control, {best}, before {name}, on {gain.prompts} prompts"
    )
    without = f" Not run: {', '.join(missing)}." if missing else ""
    if lowest > 0:
        return Verdict(
            BETTER, f"Steering is better than every control: {said}.{without}", best, gain, lowest
        )
    worse = " It does surely worse than that control." if gain.high < 0 else ""
    return Verdict(
        NOT_BETTER,
        f"Steering isn't surely better than its controls: {said}.{worse}{without}",
        best,
        gain,
        lowest,
    )
