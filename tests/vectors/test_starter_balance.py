"""The starter set holds what its card says, and neither length nor a full stop gives a pole away."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from moralprobe.data.schema import SOURCE_COLUMNS
from moralprobe.data.starter import starter_path
from moralprobe.foundations import AXES, POLES, SCORES
from moralprobe.moral_vectors import build_vectors


@pytest.fixture(scope="module")
def pairs() -> pl.DataFrame:
    from moralprobe.models.load import load_model

    frame = build_vectors("starter").frame
    tokens = load_model("smollm2-135m").tokenizer(frame["action"].to_list())["input_ids"]
    return frame.with_columns(
        n_tokens=pl.Series([len(ids) for ids in tokens]),
        n_characters=pl.col("action").str.len_chars(),
        full_stop=pl.col("action").str.ends_with(".").cast(pl.Int32),
    )


def test_columns_and_size() -> None:
    table = pl.read_csv(starter_path(), separator="\t", infer_schema=False)
    assert tuple(table.columns) == SOURCE_COLUMNS
    assert table.height >= 600 and table["action"].n_unique() == table.height
    assert table["action"].str.to_lowercase().n_unique() == table.height
    assert not any(re.search(r"\s\s|^\s|\s$|\t", action) for action in table["action"])


def test_every_pole_has_every_score_and_every_axis_its_neutral_rows(pairs: pl.DataFrame) -> None:
    for pole in POLES:
        for score in SCORES:
            have = pairs.filter(category=pole, score=score).height
            assert have >= (24 if score == 1 else 9), (pole, score, have)
    for axis in AXES:
        neutral = pairs.filter(axis=axis.tag, polarity="neutral")
        assert (
            neutral.filter(judgment=0).height == 12
            and neutral.filter(pl.col("judgment") != 0)["agreement"].to_list() == [0] * 10
        )


# Two standard errors of an AUROC of 75 against 75 rows are 0.09: tokens were balanced below that,
# characters only as far as tokens bring it.
@pytest.mark.parametrize(
    ("surface", "margin"), [("n_tokens", 0.05), ("full_stop", 0.05), ("n_characters", 0.12)]
)
def test_surface_does_not_predict_the_pole(
    pairs: pl.DataFrame, surface: str, margin: float
) -> None:
    for axis in AXES:
        rows = pairs.filter(pl.col("axis") == axis.tag, pl.col("polarity") != "neutral")
        auroc = roc_auc_score(rows["polarity"] == "virtue", rows[surface])
        assert abs(auroc - 0.5) < margin, (axis.tag, auroc)


@pytest.mark.parametrize("surface", ["n_tokens", "full_stop"])
def test_surface_does_not_predict_the_score(pairs: pl.DataFrame, surface: str) -> None:
    for pole in POLES:
        rows = pairs.filter(category=pole)
        assert abs(stats.spearmanr(rows[surface], rows["score"]).statistic) < 0.06, pole


def test_length_one_over_length_and_full_stop_together_do_not_either(pairs: pl.DataFrame) -> None:
    """Ten poles at once, cross-validated: no better than guessing."""
    rows = pairs.filter(pl.col("polarity") != "neutral")
    length = rows["n_tokens"].to_numpy()
    X = np.column_stack([length, 1 / length, rows["full_stop"]])
    X = (X - X.mean(0)) / X.std(0)
    for label in ("category", "score"):
        y = rows[label].cast(pl.String).to_numpy()
        guess = cross_val_predict(LogisticRegression(max_iter=500), X, y, cv=5)
        common = np.unique(y, return_counts=True)[1].max() / len(y)
        assert np.mean(guess == y) < common + 0.03, label


def test_the_check_would_notice(pairs: pl.DataFrame) -> None:
    """Planted: one token more on every vice row is seen."""
    rows = pairs.filter(pl.col("axis") == "care-harm", pl.col("polarity") != "neutral")
    virtue = rows["polarity"] == "virtue"
    longer = rows["n_tokens"] + (~virtue).cast(pl.Int32)
    assert abs(roc_auc_score(virtue, longer) - 0.5) > 0.12
