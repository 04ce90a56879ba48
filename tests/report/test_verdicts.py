"""Verdicts follow from the numbers by the rule that stands beside them."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from moralprobe.report.verdicts import QUESTIONS, RULE, held_against, verdicts
from moralprobe.report.words import findings
from moralprobe.table import BASELINE_COLUMNS
from tests.report.test_words import NAN, li, row, study

ABOVE_WORDS, ABOVE_CHANCE, NEITHER = {"value": 0.8}, {"value": 0.32}, {"value": 0.8, "q": 0.2}


def layers(*kinds: dict) -> list[dict]:
    return [row("auroc", i, **{"value": 0.0, **kind}) for i, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "answer"),
    [
        ([ABOVE_WORDS, ABOVE_WORDS, NEITHER, NEITHER], "yes"),
        ([ABOVE_WORDS, ABOVE_CHANCE, ABOVE_CHANCE], "in some layers"),
        ([ABOVE_CHANCE, NEITHER], "no more than the words say"),
        ([NEITHER, {"value": 0.05}], "no"),
        ([{"value": NAN}], "not enough data"),
        # Above chance and words in every layer, and less than a smallest effect.
        ([{"value": 0.45, "baseline": 0.2}, {"value": 0.46, "baseline": 0.2}], "hardly"),
        ([ABOVE_CHANCE], "hardly"),
        ([{"value": 0.52, "baseline": 0.2}], "yes"),
    ],
)
def test_answers_follow_the_rule(kinds: list[dict], answer: str) -> None:
    (verdict,) = verdicts(study(*layers(*kinds)))
    assert verdict.question == "Are opposed categories separated?" and verdict.answer == answer
    assert answer in RULE or answer == "not enough data"


def test_a_verdict_counts_what_it_says() -> None:
    (verdict,) = verdicts(study(*layers(ABOVE_WORDS, ABOVE_CHANCE, NEITHER, {"value": 0.9})))
    assert "above chance in 3 of 4 layers, above the words (0.30) in 2" in verdict.why
    assert "at best 0.90 [0.85, 0.95] in layer 3" in verdict.why


def test_only_questions_that_were_asked_are_answered() -> None:
    assert verdicts(study(li("opposed_cosine", 0, -0.9))) == []
    rows = [
        row(q.measure, 0, 0.8, category=q.category, analysis=q.analysis)
        for q in QUESTIONS
        if q.analysis != "gradient"
    ]
    asked = [verdict.question for verdict in verdicts(study(*rows))]
    assert asked == [q.text for q in QUESTIONS if q.analysis != "gradient"]


def test_density_clusters_are_said_with_the_rows_that_they_cover() -> None:
    found = findings(
        study(
            li("ari", 1, 0.2, category="Polarity3"),
            li("ari", 2, 0.5, category="Polarity3"),
            li("ari_with_noise", 2, 0.04, category="Polarity3"),
            li("coverage", 2, 0.11, category="all"),
            li("coverage", 1, 0.9, category="all"),
        )
    )
    said = next(s for s in found if "density clusters" in s)
    assert "in layer 2 (ARI 0.50 [0.45, 0.55], li2026)" in said
    assert "cover 11% of the rows" in said and "the index is 0.04" in said


def test_similarity_names_each_geometry_where_it_explains_most() -> None:
    found = findings(
        study(
            row("rsa_unique", 0, 0.02, category="axis"),
            row("rsa_unique", 1, 0.01, category="axis"),
            row("rsa_unique", 1, 0.003, category="polarity"),
            row("rsa", 0, 0.3, category="words"),
            row("rsa", 1, 0.4, category="words"),
        )
    )
    said = next(s for s in found if "similarity structure" in s)
    assert "axis 2.0% (layer 0), polarity 0.3% (layer 1)" in said and "0.30 to 0.40" in said


def test_recoverability_counts_layers() -> None:
    rows = [row("r2", 0, 0.5), row("r2", 1, 0.32), row("r2", 2, 0.6, q=0.3)]
    said = next(s for s in findings(study(*rows)) if "linear read-out" in s)
    assert "in 2 of 3 layers" in said and "bag of words (R2 0.30) in 2" in said
    assert "0.60 [0.55, 0.65] in layer 2" in said


def test_the_model_stands_beside_every_other_reading() -> None:
    made = study(*layers(ABOVE_WORDS, {"value": 0.9}))
    sources = ("bag of words", "random weights", "random weights", "sentence embeddings")
    rows = [
        {"source": source, **row("auroc", layer, value, model=model)}
        for source, layer, value, model in zip(
            sources, (None, 0, 1, None), (0.7, 0.5, 0.55, NAN), ("", "t", "t", "mini"), strict=True
        )
    ]
    baselines = pl.DataFrame(rows, schema=BASELINE_COLUMNS)
    assert held_against(replace(made, baselines=baselines)) == [
        ("the model", ["0.90 [0.85, 0.95] (layer 1)"]),
        ("bag of words", ["0.70 [0.65, 0.75]"]),
        ("random weights", ["0.55 [0.50, 0.60] (layer 1)"]),
        ("sentence embeddings (mini)", ["not measured"]),
    ]
    assert held_against(made) == []
