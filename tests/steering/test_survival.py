"""What steering has over its controls: paired on the same resamples, and over the best of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.activations.text_states import TableTexts, table_texts
from moralprobe.geometry.draws import Draws, interval
from moralprobe.geometry.uncertainty import bootstrap_counts
from moralprobe.models.causal import CausalModel
from moralprobe.moral_vectors import MoralVectors
from moralprobe.steering.arms import STEERED, UNSTEERED
from moralprobe.steering.intervention import Edit, Intervention
from moralprobe.steering.rules import Add
from moralprobe.steering.survival import (
    SHOWN,
    design_of,
    held_out,
    measures_of,
    over_best_control,
    steered_states,
    survival,
)
from tests.activations.test_extract import tiny

DRAWS, LAYER = 40, 1
SOME = ("separation", "gradient", "structure", "recoverability")


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return tiny()


@pytest.fixture(scope="module")
def vectors(starter_table: Path) -> MoralVectors:
    return MoralVectors.load(starter_table)


@pytest.fixture(scope="module")
def texts(model: CausalModel, vectors: MoralVectors) -> TableTexts:
    return table_texts(model, vectors)


def pushed(model: CausalModel, seed: int, by: float = 0.3) -> Intervention:
    generator = torch.Generator().manual_seed(seed)
    return Intervention((Edit(LAYER, Add(by * torch.randn(model.d_model, generator=generator))),))


@pytest.fixture(scope="module")
def arms(model: CausalModel) -> dict[str, Intervention | None]:
    return {UNSTEERED: None, STEERED: pushed(model, 0), "random_direction": pushed(model, 1)}


@pytest.fixture(scope="module")
def found(
    model: CausalModel,
    vectors: MoralVectors,
    texts: TableTexts,
    arms: dict[str, Intervention | None],
) -> pl.DataFrame:
    return survival(model, vectors, texts, arms, [LAYER, 2], analyses=SOME, draws=DRAWS)


def match(X: np.ndarray, moral: np.ndarray, weight: np.ndarray) -> float:
    """Pearson's r of the categories' dissimilarities, text by text; NaN if one isn't drawn."""
    if not all(weight @ moral):
        return np.nan
    sides = []
    for V in (X.astype(np.float64), moral):
        mean = sum(w * v for w, v in zip(weight, V, strict=True)) / weight.sum()
        centres = []
        for k in range(10):
            share = weight * moral[:, k]
            centres.append(sum(s * v for s, v in zip(share, V, strict=True)) / share.sum() - mean)
        sides.append(
            [
                1 - a @ b / np.sqrt((a @ a) * (b @ b))
                for i, a in enumerate(centres)
                for b in centres[i + 1 :]
            ]
        )
    return float(np.corrcoef(sides)[0, 1])


def test_the_gain_is_of_differences_on_the_same_resamples(
    model: CausalModel,
    texts: TableTexts,
    arms: dict[str, Intervention | None],
    found: pl.DataFrame,
) -> None:
    """The likeness of categories, resample by resample, of both arms under the same weights."""
    rows = held_out(texts)
    encoded, moral = [texts.encoded[i] for i in rows], texts.moral[rows]
    n = len(rows)
    counts = bootstrap_counts(n, DRAWS, 0).astype(float)
    weights = [np.ones(n), *(0.5 + counts / 2), *counts]
    by_arm = {}
    for name, arm in arms.items():
        states = steered_states(model, encoded, arm, [2])[2][:, 0]
        by_arm[name] = [match(states, moral, weight) for weight in weights]
    for name in (UNSTEERED, "random_direction"):
        less = np.array(by_arm[STEERED]) - np.array(by_arm[name])
        value, half, whole = less[0], less[1 : 1 + DRAWS], less[1 + DRAWS :]
        boot, excess = 2 * half - value, 2 * (whole - 2 * half + value)
        low, high = interval(Draws(value, boot, np.empty(0), n, excess))
        row = found.row(by_predicate=_of(name, 2, "category_rdm"), named=True)
        np.testing.assert_allclose(
            [row["gain"], row["gain_low"], row["gain_high"]], [value, low, high], atol=1e-5
        )


def _of(arm: str, layer: int, measure: str) -> pl.Expr:
    return (pl.col("arm") == arm) & (pl.col("layer") == layer) & (pl.col("name") == measure)


def test_every_measure_is_paired_with_its_own(
    model: CausalModel,
    vectors: MoralVectors,
    texts: TableTexts,
    arms: dict[str, Intervention | None],
    found: pl.DataFrame,
) -> None:
    rows = held_out(texts)
    design = design_of(vectors, texts, rows, draws=DRAWS, analyses=SOME)
    encoded = [texts.encoded[i] for i in rows]
    both = [
        {
            (m.name, m.category): m
            for m in measures_of(
                steered_states(model, encoded, arms[name], [LAYER])[LAYER][:, 0],
                texts.moral[rows],
                design,
                analyses=SOME,
                draws=DRAWS,
            )
        }
        for name in (STEERED, "random_direction")
    ]
    mine = found.filter(arm="random_direction", layer=LAYER)
    assert mine.height == len(both[0]) > 50
    for row in mine.filter(status="ok").iter_rows(named=True):
        one, two = (measures[row["name"], row["category"]] for measures in both)
        assert row["gain"] == one.value - two.value
        drawn = Draws(
            one.value - two.value, one.boot - two.boot, np.empty(0), 1, one.excess - two.excess
        )
        np.testing.assert_allclose([row["gain_low"], row["gain_high"]], interval(drawn), rtol=1e-9)


def test_arms_that_do_the_same_gain_exactly_nothing(
    model: CausalModel, vectors: MoralVectors, texts: TableTexts
) -> None:
    """Whatever the measure: all draws are shared, or this would have a width."""
    same = {UNSTEERED: None, STEERED: None, "means": None}
    found = survival(model, vectors, texts, same, [LAYER], analyses=SOME, draws=DRAWS)
    others = found.filter(pl.col("arm") != STEERED, status="ok")
    assert others.height > 50
    for column in ("gain", "gain_low", "gain_high"):
        assert (others[column] == 0).all()
    assert found.filter(arm=STEERED)["gain"].null_count() == found.filter(arm=STEERED).height


def test_the_paired_interval_is_narrower_where_texts_matter(found: pl.DataFrame) -> None:
    for layer in (LAYER, 2):
        steered, other = (
            found.row(by_predicate=_of(arm, layer, "category_rdm"), named=True)
            for arm in (STEERED, "random_direction")
        )
        apart = np.hypot(*(row["ci_high"] - row["ci_low"] for row in (steered, other)))
        assert other["gain_high"] - other["gain_low"] < 0.6 * apart
        assert other["gain_low"] <= other["gain"] <= other["gain_high"]


def gains(rows: list[tuple[str, str, float]], layer: int = 3) -> pl.DataFrame:
    category = dict(SHOWN)
    return pl.DataFrame(
        [
            {
                "arm": arm,
                "layer": layer,
                "name": name,
                "category": category.get(name, "all"),
                "gain": gain,
                "gain_low": gain - 0.1,
                "gain_high": gain + 0.1,
            }
            for arm, name, gain in rows
        ]
    )


def test_the_best_control_is_the_one_that_least_is_gained_over() -> None:
    table = gains(
        [
            (UNSTEERED, "auroc", -0.5),
            ("untuned", "auroc", 0.3),
            ("shuffled", "auroc", 0.2),
            ("means", "auroc", float("nan")),
            # Opposed centres should lie apart: the best control has the lowest.
            (UNSTEERED, "opposed_cosine", 0.5),
            ("untuned", "opposed_cosine", -0.3),
            ("shuffled", "opposed_cosine", -0.1),
            ("means", "opposed_cosine", -0.2),
            ("untuned", "length_share", 0.1),  # isn't printed
            ("untuned", "r2", float("nan")),  # can't be measured
        ]
    )
    later = gains([("untuned", "auroc", 0.1), ("shuffled", "auroc", 0.4)], layer=4)
    found = over_best_control(pl.concat([table, later]))
    assert found.columns == [
        *("layer", "name", "category", "control", "gain", "gain_low", "gain_high", "surely")
    ]
    rows = {(r["layer"], r["name"]): r for r in found.iter_rows(named=True)}
    assert len(rows) == found.height == 3
    assert {key: (r["control"], r["gain"]) for key, r in rows.items()} == {
        (3, "auroc"): ("shuffled", 0.2),
        (3, "opposed_cosine"): ("shuffled", -0.1),
        (4, "auroc"): ("untuned", 0.1),
    }
    assert rows[3, "auroc"]["gain_low"] == pytest.approx(0.1)
    assert rows[3, "auroc"]["surely"] and not rows[4, "auroc"]["surely"]
    # Where another control's interval holds 0, more is gained over it, and not surely over all.
    wide = table.with_columns(
        gain_low=pl.when(pl.col("arm") == "untuned").then(-0.1).otherwise("gain_low")
    )
    found = over_best_control(wide).filter(name="auroc").row(0, named=True)
    assert found["control"] == "shuffled" and found["gain_low"] > 0 and not found["surely"]
    assert over_best_control(table.drop("gain")).is_empty(), "made by an earlier version"
