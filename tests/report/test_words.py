"""Sentences against the numbers that they are made of."""

from __future__ import annotations

import math
import re

import polars as pl
import pytest

from moralprobe.report.words import (
    CONFOUND,
    best,
    caveats,
    confound_sentence,
    confounded_layers,
    findings,
    headline_pooling,
    modes_of,
    with_interval,
)
from moralprobe.study import Study
from moralprobe.table import COLUMNS, MEASURES

NAN = math.nan
META = {
    "modes": {"audited": ["mean_unit", "mean_no_sink"], "li2026": ["mean", "last"]},
    "vectors": {"source": {"name": "t.csv"}, "agreement": "action-agree"},
    "texts": {"left out": 0, "truncated": 0, "token 0 is content": False},
    "sample": None,
    "store": {"max_tokens": 128},
}


def row(measure: str, layer: int, value: float, **more: object) -> dict:
    category = {"length_share": "all", "length_correlation": "mean_abs"}.get(measure, "mean")
    spread = 0.05 if value == value else NAN
    gain = value - more.get("baseline", 0.3)
    return {
        "model": "m",
        "layer": layer,
        "pooling": "mean_unit",
        "template": "t",
        "mode": "audited",
        "analysis": MEASURES[measure],
        "measure": measure,
        "category": category,
        "value": value,
        "ci_low": value - spread,
        "ci_high": value + spread,
        "null_low": -0.1,
        "null_high": 0.1,
        "p": 0.001,
        "q": 0.001,
        "baseline": 0.3,
        "baseline_name": "bag of words",
        "gain_low": gain - spread,
        "gain_high": gain + spread,
        "ceiling": None,
        "n": 100,
        "unit": "u",
        "status": "ok" if value == value else "not enough data (prototypes: 1, needed 5)",
        **more,
    }


def study(*rows: dict, **meta: object) -> Study:
    return Study(pl.DataFrame(list(rows), schema=COLUMNS, orient="row"), {**META, **meta})


def li(measure: str, layer: int, value: float, pooling: str = "mean", **more: object) -> dict:
    return row(measure, layer, value, mode="li2026", pooling=pooling, **more)


def test_the_confound_is_named_where_its_whole_interval_passes_the_rule() -> None:
    shares = {3: 0.54, 4: 0.56, 5: 0.9, 6: NAN, 8: 0.7}  # intervals reach 0.05 either way
    made = study(
        *(li("length_share", layer, share) for layer, share in shares.items()),
        *(li("length_correlation", layer, 0.9) for layer in shares),
        *(li("opposed_cosine", layer, -0.99, p=0.2 if layer == 8 else 0.01) for layer in shares),
        *(li("length_share", layer, 0.01, pooling="last") for layer in shares),
    )
    assert confounded_layers(made, "mean") == [4, 5, 8]
    sentence = confound_sentence(made, "mean")
    assert sentence is not None
    assert sentence.startswith(
        f"In layers 4 to 5, 8 the li2026 numbers under mean pooling are {CONFOUND}"
    )
    assert "0.56 to 0.90 of the variance" in sentence and "rank correlation of 0.90" in sentence
    assert "(-0.99 on average)" in sentence and "in 1 of these 3 layers shuffled" in sentence
    assert confound_sentence(made, "last") is None
    assert [CONFOUND in s for s in findings(made)].count(True) == 1


def test_the_confound_is_named_in_a_study_without_the_gradient() -> None:
    made = study(li("length_share", 3, 0.9), li("opposed_cosine", 3, -0.99))
    sentence = confound_sentence(made, "mean")
    assert sentence is not None and "rank correlation" not in sentence
    assert "0.90 of the variance of the pooled states. The opposed cosines" in sentence


def test_the_audited_poolings_never_carry_the_li2026_sentence() -> None:
    made = study(row("length_share", 1, 0.9), row("length_correlation", 1, 0.9))
    assert not any(CONFOUND in s for s in findings(made))


def test_separation_counts_layers_above_the_null_and_above_the_words() -> None:
    auroc = lambda layer, value, **more: row(  # noqa: E731
        "auroc", layer, value, null_low=0.45, null_high=0.55, baseline=0.62, **more
    )
    made = study(auroc(0, 0.52, q=0.4), auroc(1, 0.6), auroc(2, 0.8), auroc(3, 0.4))
    sentence = next(s for s in findings(made) if s.startswith("Held out"))
    assert "in 2 of 4 layers" in sentence and "a bag of words does (0.62) in 1" in sentence
    assert "AUROC 0.80 [0.75, 0.85] in layer 2, the highest of 4" in sentence


def test_gradient_counts_the_same_way() -> None:
    made = study(
        row("spearman_given_length", 0, 0.05, q=0.5),
        row("spearman_given_length", 1, 0.2),
        row("spearman_given_length", 2, 0.5),
    )
    sentence = next(s for s in findings(made) if s.startswith("Inside categories"))
    assert "in 2 of 3 layers" in sentence and "bag of words (0.30) in 1" in sentence
    assert "0.50 [0.45, 0.55] in layer 2" in sentence


def test_too_few_data_are_said_to_be_too_few() -> None:
    made = study(row("auroc", 0, NAN), row("spearman_given_length", 0, NAN))
    said = " ".join(findings(made))
    assert "too few texts of opposed poles" in said and "too few prototypes" in said
    assert "Not enough data for some measures of: mean." in caveats(made)


def test_poolings_that_disagree_beyond_their_intervals_are_named() -> None:
    agree = [
        row("auroc", layer, 0.7, pooling=p)
        for layer in (0, 1)
        for p in ("mean_unit", "mean_no_sink")
    ]
    assert "agree within their intervals" in findings(study(*agree))[-1]
    apart = [*agree[:-1], row("auroc", 1, 0.9, pooling="mean_no_sink")]
    last = findings(study(*apart))[-1]
    assert (
        last.startswith("mean_unit and mean_no_sink disagree")
        and "auroc (mean) in layer 1:" in last
    )


def test_modes_stand_published_first_and_the_best_layer_is_of_the_headline_pooling() -> None:
    made = study(
        row("auroc", 0, 0.6),
        row("auroc", 1, 0.7),
        row("auroc", 2, NAN),
        row("auroc", 1, 0.99, pooling="mean_no_sink"),
    )
    assert modes_of(made) == ["li2026", "audited"]
    assert headline_pooling(made, "audited") == "mean_unit"
    assert headline_pooling(study(modes={"audited": ["last"]}), "li2026") is None
    found = best(made, "audited", "auroc", "mean", lowest=False)
    assert found is not None and found.row["layer"] == 1 and found.row["value"] == 0.7
    lowest = best(made, "audited", "auroc", "mean", lowest=True)
    assert lowest is not None and lowest.row["layer"] == 0
    assert best(made, "li2026", "auroc", "mean", lowest=False) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vectors": {"source": {"name": "starter"}, "agreement": "action-agree"}}, "authored"),
        ({"vectors": {"source": {"name": "x"}, "agreement": "rot-agree"}}, "rot-agree"),
        ({"texts": {**META["texts"], "left out": 3}}, "3 texts are empty or of one token"),
        ({"texts": {**META["texts"], "truncated": 7}}, "7 texts were cut at 128 tokens"),
        ({"texts": {**META["texts"], "token 0 is content": True}}, "no BOS in front"),
        (
            {"sample": {"unfilled": [{"stratum": "care 1", "have": 3, "quota": 150}] * 8}},
            "8 of its strata fall short of their quota: care 1 .3 of 150., .* and 2 more",
        ),
    ],
)
def test_what_a_reader_must_know_of_the_data_is_said(change: dict, said: str) -> None:
    assert caveats(study(row("auroc", 0, 0.7))) == []
    (sentence,) = caveats(study(row("auroc", 0, 0.7), **change))
    assert re.search(said, sentence)


def test_one_annotator_is_said() -> None:
    assert "no noise ceiling" in caveats(study(row("auroc", 0, 0.7, status="one annotator")))[0]


def test_layers_whose_likeness_follows_length_are_named_beside_the_confounded() -> None:
    made = study(
        *(li("length_share", layer, value) for layer, value in ((1, 0.9), (2, 0.4), (3, 0.4))),
        *(
            li("length_correlation", layer, value, category="mean_abs")
            for layer, value in ((1, 0.95), (2, 0.8), (3, 0.72))
        ),
    )
    (sentence,) = [s for s in findings(made) if "read the li2026 numbers there with care" in s]
    # 0.72 - 0.05 squared is less than a half; layer 1 has been named already.
    assert sentence.startswith("In layer 2, too,") and "correlation 0.80" in sentence
    assert CONFOUND not in sentence


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.123, -0.05, 0.3), "0.12 [-0.05, 0.30]"),
        ((0.0021, -0.0001, 0.0043), "0.002 [0.000, 0.004]"),
        ((-0.001, -0.2, 0.1), "0.00 [-0.20, 0.10]"),
    ],
)
def test_small_numbers_have_a_digit_more_and_no_negative_zero(numbers: tuple, said: str) -> None:
    assert with_interval(dict(zip(("value", "ci_low", "ci_high"), numbers, strict=True))) == said
