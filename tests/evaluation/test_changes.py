"""Changes are of the same items in the same resamples, and nothing unsteered passes as no change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.evaluation.changes import (
    NOT_STEERED,
    OF_STATES,
    Effect,
    SteeredLogits,
    change_from,
    change_of_states,
    if_steered,
    unlike,
)
from moralprobe.evaluation.options import DRAWS, Outcome, mean_of, plain_logits
from moralprobe.geometry.draws import Draws, interval
from moralprobe.geometry.measure import not_enough
from moralprobe.models.tokens import Encoded
from moralprobe.steering.intervention import Edit, Intervention
from moralprobe.steering.rules import Add, Gate
from tests.steering.test_generate import tiny, vector

RNG = np.random.default_rng(5)
PLAIN = RNG.normal(4.0, 2.0, 40)
ARM = PLAIN + RNG.normal(0.05, 0.1, 40)


def naive_change(
    arm: np.ndarray, plain: np.ndarray, weights: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """Items drawn with replacement, both means of the same ones, and their difference."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for _ in range(DRAWS):
        drawn = rng.integers(0, len(arm), len(arm))
        found.append(
            np.nansum(arm[drawn] * weights[drawn]) / weights[drawn][~np.isnan(arm[drawn])].sum()
            - np.nansum(plain[drawn] * weights[drawn])
            / weights[drawn][~np.isnan(plain[drawn])].sum()
        )
    mean = np.nansum(arm * weights) / weights[~np.isnan(arm)].sum()
    mean -= np.nansum(plain * weights) / weights[~np.isnan(plain)].sum()
    return float(mean), *interval(Draws(float(mean), np.array(found), np.empty(0), len(arm)))


def of(values: np.ndarray, weights: np.ndarray | None = None, unit: str = "nats") -> Any:
    return mean_of("loss", "text", values, unit, seed=3, weights=weights)


@pytest.mark.parametrize("missing", [0, 6])
def test_a_change_is_of_the_same_items_in_the_same_resamples(missing: int) -> None:
    arm, plain = ARM.copy(), PLAIN.copy()
    # Not the same ones: what is left out of one isn't left out of the other.
    arm[:missing] = np.nan
    plain[missing : missing + 2 * (missing > 0)] = np.nan
    weights = np.arange(1.0, 41.0)
    one, other = of(arm, weights), of(plain, weights)
    change, low, high = change_from(one, other)
    mean, naive_low, naive_high = naive_change(arm, plain, weights, 3)
    assert change == pytest.approx(mean) and change == pytest.approx(one.value - other.value)
    assert (low, high) == pytest.approx((naive_low, naive_high))
    if not missing:
        # Both intervals meet all along, as both owe the same to the choice of items.
        assert one.ci_low < other.value < one.ci_high and low > 0


def test_a_row_has_its_change_only_where_both_have_values() -> None:
    arm, plain = Effect("s", of(ARM)), Effect("s", of(PLAIN))
    row = arm.row(plain)
    assert (row["change"], row["change_low"], row["change_high"]) == change_from(
        arm.measure, plain.measure
    )
    assert row["low"] == arm.measure.ci_low and row["left_out"] == 0
    few = Effect("s", not_enough("loss", "text", "nats", have=1, needed=2, of="texts"), 39)
    for one, other in ((arm, None), (few, plain), (arm, few)):
        assert one.row(other)["change"] is None and one.row(other)["change_low"] is None
    assert few.row()["left_out"] == 39
    told = Effect.of("s", Outcome(of(ARM), 0.5, of(PLAIN), "the longer")).row()
    assert (told["chance"], told["surface"]) == (0.5, of(PLAIN).value)


def test_shares_that_differ_in_no_item_have_an_exact_interval() -> None:
    some = (np.arange(30) % 3 == 0).astype(float)
    beyond = 1 - 0.025 ** (1 / 30)
    for values in (some, np.zeros(30)):
        share = of(values, unit="share")
        assert change_from(share, share) == pytest.approx((0, -beyond, beyond))
    every, none = of(np.ones(30), unit="share"), of(np.zeros(30), unit="share")
    assert change_from(every, none) == pytest.approx((1, 1 - beyond, 1))
    assert change_from(of(PLAIN), of(PLAIN)) == (0, 0, 0)


def texts(model: Any, marked: int) -> Any:
    """Two texts of six tokens, of which the last ones are written."""
    action = [i >= 6 - marked for i in range(6)]
    return model.collate(
        [Encoded(list(range(k, k + 6)), list(action), False, False) for k in (65, 80)]
    )


def test_edits_are_counted_and_without_one_there_is_no_value() -> None:
    model = tiny()
    made = Intervention((Edit(1, Add(vector(1))),))
    effect = Effect("s", of(ARM))
    expected = {  # token 0 is never edited
        ("all", 2): 10,
        ("generated", 2): 4,
        ("generated", 0): 0,
        ("prompt", 2): 6,
        ("prompt", 5): 0,
    }
    for (positions, marked), n in expected.items():
        logits = SteeredLogits(model, made, positions)
        batch = texts(model, marked)
        moved = not torch.equal(logits(batch), plain_logits(model)(batch))
        assert logits.edits == n and moved == (n > 0)
        said = logits.said(effect)
        assert (said.measure.status == NOT_STEERED) == (n == 0)
        if n == 0:
            row = said.row(effect)
            assert math.isnan(row["value"]) and math.isnan(row["high"]) and row["change"] is None
            assert len(said.measure.boot) == 0 and row["n"] == 40
    # The model as it is, and a strength of 0, aren't steered anywhere, as asked.
    for none in (None, made * 0.0):
        assert if_steered(effect, none, "generated", 0) is effect


def test_an_edit_that_leaves_texts_alone_by_itself_is_a_finding() -> None:
    model = tiny()
    gated = Intervention((Edit(1, Add(vector(1)), gate=Gate(vector(2), -1e9)),))
    logits = SteeredLogits(model, gated, "all")
    logits(texts(model, 2))
    assert logits.edits == 0 and logits.said(Effect("s", of(ARM))).measure.status == "ok"


PLACE = {"arm": "steered", "layers": "4", "strength": 0.5}


def test_changes_of_states_are_of_the_texts_that_are_reported() -> None:
    rows = [
        {**PLACE, "half": "report", "change": 0.1},
        {**PLACE, "half": "report", "change": 0.3},
        {**PLACE, "half": "choose", "change": 9.0},
        {**PLACE, "half": "report", "strength": 1.0, "change": 9.0},
        {**PLACE, "half": "report", "arm": "shuffled", "change": 9.0},
    ]
    row = {**PLACE, "measure": OF_STATES, "category": "benign requests", "status": "ok"}
    effects = [{**row, "value": 0.4, "n": 30}, {**row, "arm": "means", "value": 9.0, "n": 30}]
    found = change_of_states(PLACE, rows, effects)
    assert found == {"value": pytest.approx(0.2), "n": 2, "of": "the prompts reported on"}
    assert change_of_states(PLACE, rows[2:], effects) == {
        "value": 0.4,
        "n": 30,
        "of": "benign requests",
    }
    assert change_of_states(PLACE, [], [{**effects[0], "status": NOT_STEERED}]) is None


def test_controls_that_change_more_or_less_are_said() -> None:
    def sizes(**of: float | None) -> dict[str, dict[str, Any] | None]:
        said = {"n": 8, "of": "the prompts reported on"}
        return {arm: None if v is None else {"value": v, **said} for arm, v in of.items()}

    alike = sizes(
        steered=0.1, unsteered=0.0, prompt=0.0, shuffled=0.149, means=0.0667, untuned=None
    )
    assert unlike(alike) == []
    more, less = unlike(sizes(steered=0.1, unsteered=0.0, untuned=0.151, random_features=0.066))
    assert more.startswith("untuned changes states by 15.1% of their length on average on the prom")
    assert "the intervention by 10.0%" in more
    assert less.startswith("random features changes states by 6.6%")
    assert len(unlike(sizes(steered=0.0, shuffled=0.1))) == 1
    assert unlike(sizes(steered=None, shuffled=0.1)) == unlike({}) == []
