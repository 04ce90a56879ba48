"""The columns that other people's scripts read: none changes its name or place unnoticed."""

from __future__ import annotations

import polars as pl

from moralprobe.data.schema import NEEDED, VECTOR_COLUMNS
from moralprobe.foundations import POLES
from moralprobe.moral_vectors import build_vectors
from moralprobe.table import BASELINE_COLUMNS, COLUMNS, MEASURES


def test_columns_of_the_study_table() -> None:
    assert list(COLUMNS.items()) == [
        ("model", pl.String),
        ("layer", pl.Int32),
        ("pooling", pl.String),
        ("template", pl.String),
        ("mode", pl.String),
        ("analysis", pl.String),
        ("measure", pl.String),
        ("category", pl.String),
        ("value", pl.Float64),
        ("ci_low", pl.Float64),
        ("ci_high", pl.Float64),
        ("null_low", pl.Float64),
        ("null_high", pl.Float64),
        ("p", pl.Float64),
        ("q", pl.Float64),
        ("baseline", pl.Float64),
        ("baseline_name", pl.String),
        ("gain_low", pl.Float64),
        ("gain_high", pl.Float64),
        ("ceiling", pl.Float64),
        ("n", pl.Int64),
        ("unit", pl.String),
        ("status", pl.String),
    ]
    assert {"source": pl.String, **COLUMNS} == BASELINE_COLUMNS
    assert next(iter(BASELINE_COLUMNS)) == "source"


def test_measures_and_their_analyses() -> None:
    assert MEASURES == {
        "opposed_cosine": "separation",
        "centre_cosine_mean": "separation",
        "centre_cosine_sd": "separation",
        "centre_cosine_min": "separation",
        "centre_cosine_max": "separation",
        "auroc": "separation",
        "crossnobis": "separation",
        "sink_ratio": "separation",
        "left_out_share": "separation",
        "length_share": "separation",
        "length_offset": "separation",
        "spearman": "gradient",
        "pearson": "gradient",
        "spearman_given_length": "gradient",
        "spearman_given_surface": "gradient",
        "length_correlation": "gradient",
        "coverage": "structure",
        "clusters": "structure",
        "ari": "structure",
        "nmi": "structure",
        "homogeneity": "structure",
        "completeness": "structure",
        "v_measure": "structure",
        "ari_with_noise": "structure",
        "kmeans_ari": "structure",
        "kmeans_nmi": "structure",
        "rsa": "structure",
        "rsa_unique": "structure",
        "participation_ratio": "structure",
        "r2": "recoverability",
        "r2_adjusted": "recoverability",
        "r2_over_ceiling": "recoverability",
        "r2_low_rank": "recoverability",
        "selectivity": "recoverability",
        "tag_auroc": "recoverability",
    }


def test_columns_of_a_vectors_table() -> None:
    assert VECTOR_COLUMNS == (
        "row",
        "action",
        "group",
        "axis",
        "axes",
        "judgment",
        "agreement",
        "pressure",
        "rot_agree",
        "split",
        "paper",
        "polarity",
        "category",
        "score",
        "care",
        "harm",
        "fairness",
        "cheating",
        "loyalty",
        "betrayal",
        "authority",
        "subversion",
        "sanctity",
        "degradation",
        "stance",
        "merged_n",
        "merged_judgment",
        "merged_judgment_sd",
        "merged_agreement",
        "merged_agreement_sd",
        "frequency_care-harm",
        "frequency_fairness-cheating",
        "frequency_loyalty-betrayal",
        "frequency_authority-subversion",
        "frequency_sanctity-degradation",
    )


def test_a_vectors_table_has_these_columns_of_these_types() -> None:
    schema = build_vectors("starter").frame.schema
    assert tuple(schema) == VECTOR_COLUMNS
    texts = {"action", "group", "axis", "axes", "split", "polarity", "category", "stance"}
    assert {name for name, dtype in schema.items() if dtype == pl.String} == texts
    floats = {name for name, dtype in schema.items() if dtype == pl.Float32}
    assert {*POLES, "score", "merged_judgment"} <= floats
    assert schema["paper"] == pl.Boolean and schema["judgment"].is_integer()


def test_columns_that_a_users_own_table_needs() -> None:
    assert NEEDED == ("action", "rot-moral-foundations", "action-moral-judgment")
