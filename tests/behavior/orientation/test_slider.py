"""The instrument's facts: what it can reach, what its ideals give, what random answers look like."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest

from moralprobe.behavior.orientation.rationality import TARGETS, chance, largest
from moralprobe.behavior.orientation.slider import (
    _IDEALS,
    ITEM_SETS,
    NOVEL,
    OPTIONS,
    PRIMARY,
    SECONDARY,
    along,
    angle,
    category,
    every_pattern,
    novel,
    payoffs,
    scaled,
    secondary_score,
    transitive,
)
from moralprobe.errors import UsageError
from tests.conftest import shared_file

OWN, OTHER = payoffs(PRIMARY)


def angle_of(options: list[int]) -> float:
    at = range(len(PRIMARY))
    return float(angle(OWN[at, options], OTHER[at, options]))


def best(utility) -> list[int]:  # type: ignore[no-untyped-def]
    return [
        max(range(OPTIONS), key=lambda k: utility(a[k], b[k]))
        for a, b in zip(OWN, OTHER, strict=True)
    ]


def test_the_items_are_the_published_ones() -> None:
    found = json.loads(shared_file("svo_slider", "svo_slider_items.json").read_text("utf-8"))
    for item, published in zip(PRIMARY, found["items"], strict=True):
        assert item.own == tuple(o["self"] for o in published["options"])
        assert item.other == tuple(o["other"] for o in published["options"])


def test_angles_of_ideals_are_what_the_instrument_says() -> None:
    assert angle_of(best(lambda a, b: (b, a))) == pytest.approx(61.39, abs=0.005)
    assert angle_of(best(lambda a, b: -abs(a - b))) == pytest.approx(37.48, abs=0.005)
    assert angle_of(best(lambda a, b: (a - b, a))) == pytest.approx(-16.26, abs=0.005)
    for tie, degrees in ((1, 7.82), (-1, -7.82)):
        assert angle_of(best(lambda a, b, t=tie: (a, t * b))) == pytest.approx(degrees, abs=0.005)
    for tie, degrees in ((1, 48.96), (-1, 41.04)):
        joint = angle_of(best(lambda a, b, t=tie: (a + b, t * b)))
        assert joint == pytest.approx(degrees, abs=0.005)
    for letter, degrees, name in (
        (0, 30.5, "prosocial"),
        (4, 22.9, "prosocial"),
        (8, 14.7, "individualistic"),
    ):
        assert angle_of([letter] * 6) == pytest.approx(degrees, abs=0.05)
        assert category(angle_of([letter] * 6)) == name


def test_an_angle_by_hand_and_its_boundaries() -> None:
    options = [0, 3, 8, 2, 1, 5]
    own = np.mean([PRIMARY[i].own[k] for i, k in enumerate(options)]) - 50
    other = np.mean([PRIMARY[i].other[k] for i, k in enumerate(options)]) - 50
    assert angle_of(options) == pytest.approx(math.degrees(math.atan2(other, own)))
    expected = {57.15: "altruistic", 57.14: "prosocial", 22.45: "prosocial"}
    expected |= {22.44: "individualistic", -12.04: "individualistic", -12.05: "competitive"}
    assert {x: category(x) for x in expected} == expected


def test_random_answers_are_enumerated() -> None:
    every, found = every_pattern(), chance()
    assert len(every) == 9**6
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(every), 20):
        options = [int(at) // 9 ** (5 - i) % 9 for i in range(6)]
        assert every[at] == pytest.approx(angle_of(options))
    assert every.min() == pytest.approx(-16.26, abs=0.005)
    assert every.max() == pytest.approx(61.39, abs=0.005)
    assert (found.mean, found.sd) == pytest.approx((22.70, 12.87), abs=0.005)
    share = [found.share[v] for v in ("prosocial", "individualistic", "altruistic", "competitive")]
    assert share[:2] == pytest.approx([0.507, 0.492], abs=0.0005)
    assert share[2:] == pytest.approx([0.0005, 0.0004], abs=0.00005)
    expected = {"altruistic": 38.69, "competitive": 38.96, "prosocial": 15.59}
    assert found.deviation == pytest.approx({**expected, "individualistic": 15.65}, abs=0.005)
    assert largest("altruistic") == pytest.approx(77.65, abs=0.01)
    assert largest("prosocial") == pytest.approx(53.7, abs=0.05)


@pytest.mark.parametrize(
    ("value", "utility", "share"),
    [
        ("altruistic", lambda a, b: (b, a), 0.73),
        ("competitive", lambda a, b: (a - b, a), 0.73),
        ("individualistic", lambda a, b: (a, 0), 0.95),
        ("prosocial", lambda a, b: (a + b, -abs(a - b)), 0.98),
    ],
)
def test_how_often_one_slip_in_ten_changes_the_category(value, utility, share) -> None:  # type: ignore[no-untyped-def]
    rng, ideal = np.random.default_rng(0), np.array(best(utility))
    slips = rng.random((20_000, 6)) < 0.1
    options = np.where(slips, rng.integers(0, OPTIONS, slips.shape), ideal)
    degrees = angle(OWN[np.arange(6), options], OTHER[np.arange(6), options])
    assert np.mean([category(x) == value for x in degrees]) == pytest.approx(share, abs=0.02)


def test_answers_are_transitive_where_nothing_goes_in_a_circle() -> None:
    for utility in (lambda a, b: b, lambda a, b: a, lambda a, b: a - b, lambda a, b: -abs(a - b)):
        assert transitive(np.array(best(utility)))
    # prosocial over competitive over individualistic over prosocial
    assert not transitive(np.array([0, 0, 4, 4, 4, 0]))
    assert transitive(np.full(6, 4))
    # The share by chance, counted over ends and middles by their weight, is that of all patterns.
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, OPTIONS, (4000, 6))
    assert np.mean([transitive(row) for row in drawn]) == pytest.approx(
        chance().transitive, abs=0.025
    )


def test_transitivity_against_all_orders_of_the_ideals() -> None:
    """Without middles answers are transitive just where some order of the four explains them all."""
    from itertools import permutations

    orders = list(permutations(("altruistic", "prosocial", "individualistic", "competitive")))
    for ends in product((0, 8), repeat=6):
        explained = any(
            all(
                (order.index(item.poles[0]) < order.index(item.poles[1])) == (end == 0)
                for item, end in zip(PRIMARY, ends, strict=True)
            )
            for order in orders
        )
        assert transitive(np.array(ends)) == explained


def test_the_secondary_score_tells_equality_from_joint_gain() -> None:
    own, other = payoffs(SECONDARY)
    equal = np.abs(own - other).argmin(1)
    joint = (own + other).argmax(1)
    assert secondary_score(equal) == pytest.approx(0, abs=0.05)
    assert secondary_score(joint) == 1
    assert secondary_score(own.argmax(1)) is None


def test_scaled_and_novel_items_lie_on_the_same_lines() -> None:
    double = scaled(PRIMARY, 2)
    assert double[0].own[0] == 170 and double[1].other[3] == 56
    with pytest.raises(UsageError, match="fall together"):
        scaled(PRIMARY, 0.05)
    for item, old in zip(
        novel(ITEM_SETS["all"], np.random.default_rng(0)), ITEM_SETS["all"], strict=True
    ):
        assert (item.own[0], item.other[-1]) == (old.own[0], old.other[-1])
        assert len(set(zip(item.own, item.other, strict=True))) == OPTIONS
        along_own = np.array(item.own) - item.own[0]
        along_other = np.array(item.other) - item.other[0]
        across = along_own * (old.other[-1] - old.other[0]) - along_other * (
            old.own[-1] - old.own[0]
        )
        assert np.abs(across).max() <= 50  # whole numbers lie half a unit from the line at most
    assert set(TARGETS) == {"altruistic", "prosocial", "individualistic", "competitive"}
    drawn = novel(PRIMARY, np.random.default_rng(1))
    assert all(item.name.endswith(NOVEL) for item in drawn)
    for item in drawn:
        places = [along(item, k) for k in range(OPTIONS)]
        assert places[0] == 0 and places[-1] == 8 and places == sorted(places)
    assert [along(PRIMARY[1], k) for k in range(OPTIONS)] == list(range(OPTIONS))


def test_the_secondary_ideals_are_what_each_would_choose() -> None:
    own, other = payoffs(SECONDARY)
    wants = {
        "joint gain": own + other,
        "individualistic": own,
        "altruistic": other,
    }
    for name, utility in wants.items():
        for row, at in zip(utility, _IDEALS[name], strict=True):
            if at is None:
                assert np.ptp(row) <= 1.5  # all the same, but for rounding
            else:
                assert row[at] == row.max()
    nearest = np.abs(own - other)
    for row, at in zip(nearest, _IDEALS["equality"], strict=True):
        assert at is not None and row[at] - row.min() <= 8
