"""What `moralprobe topology` prints of what was measured."""

from __future__ import annotations

import polars as pl
import pytest

from moralprobe.cli.topology import _defects, _print
from moralprobe.steering.arms import UNSTEERED


def row(arm: str, name: str, value: float, gain: float | None) -> dict[str, object]:
    around = {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1}
    null = {"null_low": -0.2, "null_high": 0.2, "status": "ok" if value == value else "too few"}
    gains = {
        end: None if gain is None else gain + by
        for end, by in (("gain", 0), ("gain_low", -0.05), ("gain_high", 0.05))
    }
    return {"arm": arm, "layer": 3, "name": name, "category": "mean", **around, **null, **gains}


def test_what_steering_has_over_the_best_control_stands_below_the_arms(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nan = float("nan")
    _print(
        pl.DataFrame(
            [
                row(UNSTEERED, "opposed_cosine", 0.1, -0.3),
                row("steered", "opposed_cosine", -0.2, None),
                row("shuffled", "opposed_cosine", -0.1, -0.1),
                row("means", "opposed_cosine", 0.0, -0.2),
                row(UNSTEERED, "auroc", 0.6, 0.2),
                row("steered", "auroc", 0.8, None),
                row("shuffled", "auroc", 0.7, 0.1),
                row("means", "auroc", 0.75, 0.05),
                row(UNSTEERED, "r2", nan, nan),
                row("steered", "r2", nan, None),
                row("means", "r2", nan, nan),
            ]
        )
    )
    assert capsys.readouterr().out.splitlines() == [
        "  opposed_cosine (mean), lower is better",
        "    unsteered         +0.100 [+0.000, +0.200], null -0.200 to +0.200",
        "    steered           -0.200 [-0.300, -0.100], null -0.200 to +0.200",
        "    shuffled          -0.100 [-0.200, +0.000], null -0.200 to +0.200",
        "    means             +0.000 [-0.100, +0.100], null -0.200 to +0.200",
        "    steered less unsteered: -0.300 [-0.350, -0.250]",
        "    steered less the best control, shuffled: -0.100 [-0.150, -0.050], "
        "surely over every control",
        "  auroc (mean)",
        "    unsteered         +0.600 [+0.500, +0.700], null -0.200 to +0.200",
        "    steered           +0.800 [+0.700, +0.900], null -0.200 to +0.200",
        "    shuffled          +0.700 [+0.600, +0.800], null -0.200 to +0.200",
        "    means             +0.750 [+0.650, +0.850], null -0.200 to +0.200",
        "    steered less unsteered: +0.200 [+0.150, +0.250]",
        "    steered less the best control, means: +0.050 [+0.000, +0.100], "
        "not surely over every control",
        "  r2 (mean)",
        "    unsteered         too few",
        "    steered           too few",
        "    means             too few",
    ]


def test_what_the_published_loss_asks_in_vain_is_said_in_shares() -> None:
    shares = {"unreachable": 0.606, "tied": 0.33, "in_margin": None}
    assert _defects(shares) == (
        "the published loss: 61% of its targets are out of reach, 33% of its pairs tie and have no "
        "gradient; of the others none are still inside the margin"
    )
