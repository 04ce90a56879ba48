from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moralprobe.data.sampling import stratified_sample
from moralprobe.errors import UsageError
from moralprobe.foundations import AXES, SCORES
from moralprobe.moral_vectors import build_vectors


@pytest.fixture(scope="module")
def many() -> pl.DataFrame:
    """Two axes with more rows than any quota, the others with none."""
    strata = [(p, s) for a in AXES[:2] for p in (a.virtue, a.vice) for s in SCORES]
    parts = []
    for pole, score in strata:
        axis = next(a for a in AXES if pole in (a.virtue, a.vice))
        parts.append(
            {
                "axis": axis.tag,
                "category": pole,
                "polarity": "virtue" if pole == axis.virtue else "vice",
                "score": score,
            }
        )
    parts += [
        {"axis": a.tag, "category": None, "polarity": "neutral", "score": 0.0} for a in AXES[:2]
    ]
    frame = pl.concat(
        [
            pl.DataFrame(
                [p] * 400,
                infer_schema_length=None,
                schema={
                    "axis": pl.String,
                    "category": pl.String,
                    "polarity": pl.String,
                    "score": pl.Float64,
                },
            )
            for p in parts
        ]
    )
    return frame.with_columns(row=pl.Series(range(frame.height)), paper=pl.lit(True))


def test_quotas_of_the_paper(many: pl.DataFrame) -> None:
    drawn, unfilled = stratified_sample(many)
    counts = {
        (r["axis"], r["category"], r["score"]): r["len"]
        for r in drawn.group_by("axis", "category", "score").len().iter_rows(named=True)
    }
    for axis in AXES[:2]:
        assert counts[axis.tag, None, 0.0] == 300
        for pole in (axis.virtue, axis.vice):
            assert counts[axis.tag, pole, 1.0] == 150
            assert [counts[axis.tag, pole, s] for s in SCORES[:-1]] == [300] * 5
    assert drawn["row"].n_unique() == drawn.height
    # 13 strata of each of the three axes without rows
    assert len(unfilled) == 39 and all(u.have == 0 for u in unfilled)


def test_seed_repeats_and_order_does_not_matter(many: pl.DataFrame) -> None:
    first, _ = stratified_sample(many, seed=42)
    assert first.equals(stratified_sample(many, seed=42)[0])
    assert not first.equals(stratified_sample(many, seed=43)[0])
    shuffled = many[np.random.default_rng(0).permutation(many.height)]
    assert set(stratified_sample(shuffled, seed=42)[0]["row"]) == set(first["row"])


def test_rows_that_the_paper_drops_are_never_drawn(many: pl.DataFrame) -> None:
    marked = many.with_columns(paper=pl.col("row") % 2 == 0)
    drawn, _ = stratified_sample(marked)
    assert drawn["paper"].all()


def test_sample_says_what_is_unfilled_and_unknown_quota() -> None:
    sample = build_vectors("starter").sample()
    named = {u["stratum"]: u for u in sample.meta["sample"]["unfilled"]}
    assert named["care-harm care 1"]["quota"] == 150
    with pytest.raises(UsageError, match="li2026"):
        build_vectors("starter").sample(quota="li")
