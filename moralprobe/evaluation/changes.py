"""What an arm changes: a measure from the unsteered model's on the same items, and states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from moralprobe.evaluation.options import Outcome, exactly_none
from moralprobe.geometry.measure import OK, Measure, gain
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Batch
from moralprobe.steering.apply import Steered, steered_logits
from moralprobe.steering.arms import PROMPT, STEERED, UNSTEERED
from moralprobe.steering.intervention import Intervention

NOT_STEERED: Final = "not steered at these positions"
"""Status of a measure whose texts have no token that is steered: it would be the model's as it is.
"""
OF_STATES: Final = "change of states"
LIKE: Final = 1.5
"""Times by which a control may change states more or less than the intervention, and be like it."""


@dataclass(frozen=True)
class Effect:
    """A measure of an arm. `left_out` counts items without a value, `alike` says in every arm the
    same ones.

    `chance` is what guessing has, `surface` what the best rule has that reads no content.
    """

    suite: str
    measure: Measure
    left_out: int = 0
    chance: float | None = None
    surface: float | None = None
    alike: bool = False

    @classmethod
    def of(cls, suite: str, found: Measure | Outcome, left_out: int = 0) -> Effect:
        """Return it of a measure, or of one with what it must beat."""
        if isinstance(found, Measure):
            return cls(suite, found, left_out)
        return cls(suite, found.measure, left_out, found.chance, found.surface.value)

    @property
    def key(self) -> tuple[str, str, str]:
        """What is measured: suite, name and category."""
        return self.suite, self.measure.name, self.measure.category

    def row(self, plain: Effect | None = None) -> dict[str, Any]:
        """Return it as a row of a table, with its change from `plain`, the unsteered model's."""
        measure = self.measure
        change = low = high = None
        # Else it would be of other items, such as the requests whose thought came to an end.
        same = self.alike or not (self.left_out or (plain is not None and plain.left_out))
        if plain is not None and same and measure.status == plain.measure.status == OK:
            change, low, high = change_from(measure, plain.measure)
        return {
            "suite": self.suite,
            "measure": measure.name,
            "category": measure.category,
            "value": measure.value,
            "low": measure.ci_low,
            "high": measure.ci_high,
            "change": change,
            "change_low": low,
            "change_high": high,
            "chance": self.chance,
            "surface": self.surface,
            "n": measure.n,
            "left_out": self.left_out,
            "unit": measure.unit,
            "status": measure.status,
        }


def change_from(measure: Measure, plain: Measure) -> tuple[float, float, float]:
    """Return a measure less the unsteered model's of the same items, with its 95 % interval.

    The interval is of the differences of both in the same resamples of the items, so that what all
    arms owe to the choice of items isn't in it. Shares that differ in no item, or in each by all,
    have an exact binomial interval, as in `options.mean_of`.
    """
    with np.errstate(invalid="ignore"):  # perplexities may be infinite in both
        change = measure.value - plain.value
        low, high = gain(measure, plain)
    if measure.unit == "share" and low == high:
        beyond = exactly_none(measure.n)
        low, high = max(low - beyond, -1.0), min(high + beyond, 1.0)
    return change, low, high


class SteeredLogits:
    """Gives a model's logits of texts while it is steered, and counts the edits that it takes.

    Args:
        model: with its language-model head.
        intervention: none leaves the model as it is.
        positions: which tokens are edited; what is marked in a batch counts as written.
    """

    def __init__(
        self, model: CausalModel, intervention: Intervention | None, positions: str
    ) -> None:
        self._intervention, self._positions = intervention, positions
        self._logits_of = steered_logits(model, intervention, positions, done=self._count)
        self.edits = 0

    def _count(self, steered: Steered) -> None:
        self.edits += sum(steered.edits()[0])

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return logits, [texts, tokens, vocabulary]; errors are those of `steered_logits`."""
        return self._logits_of(batch)

    def said(self, effect: Effect) -> Effect:
        """Return an effect that was read from these logits; without a value if none was steered."""
        return if_steered(effect, self._intervention, self._positions, self.edits)


def if_steered(
    effect: Effect, intervention: Intervention | None, positions: str, edits: int
) -> Effect:
    """Return an effect, without a value where only some tokens are steered and its texts have none.

    Where all are, no edit means that the intervention itself left the texts alone.
    """
    active = intervention is not None and bool(intervention.active)
    if not active or positions == "all" or edits:
        return effect
    nan = float("nan")
    none = replace(
        effect.measure,
        value=nan,
        ci_low=nan,
        ci_high=nan,
        status=NOT_STEERED,
        boot=np.empty(0),
        excess=np.empty(0),
    )
    return replace(effect, measure=none)


def change_of_states(
    place: Mapping[str, Any],
    texts: Iterable[Mapping[str, Any]],
    effects: Iterable[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Return by how much of their length an arm's states were changed while it wrote.

    Args:
        place: `arm`, `layers` and `strength` of its chosen variant.
        texts: rows of all texts; those that strength and layer were chosen on are left out.
        effects: rows of all effects: where no prompts were answered, benign requests may be.

    Returns:
        The mean over texts (`value`), how many (`n`), and `of` which; none where none is there.
    """

    def here(row: Mapping[str, Any]) -> bool:
        return all(row[name] == value for name, value in place.items())

    sizes = [row["change"] for row in texts if row["half"] != "choose" and here(row)]
    if sizes:
        return {"value": float(np.mean(sizes)), "n": len(sizes), "of": "the prompts reported on"}
    for row in effects:
        if row["measure"] == OF_STATES and row["status"] == OK and here(row):
            return {"value": row["value"], "n": row["n"], "of": row["category"]}
    return None


def unlike(changes: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Say which controls change states by more or less than the intervention, beyond `LIKE` times.

    Args:
        changes: from `change_of_states`, by arm.
    """
    own = changes.get(STEERED)
    if own is None:
        return []
    said: Sequence[tuple[str, Mapping[str, Any]]] = [
        (arm, its)
        for arm, its in changes.items()
        if arm not in (STEERED, UNSTEERED, PROMPT) and its is not None
    ]
    return [
        f"{arm.replace('_', ' ')} changes states by {its['value']:.1%} of their length on average "
        f"on {its['of']}, the intervention by {own['value']:.1%}: what they differ in may be the "
        "size of the change alone"
        for arm, its in said
        if not own["value"] / LIKE <= its["value"] <= own["value"] * LIKE
    ]
