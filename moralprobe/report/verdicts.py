"""A verdict a question, made from a study's numbers by a stated rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from moralprobe.baselines import SENTENCE
from moralprobe.report.words import headline_pooling, with_interval
from moralprobe.study import Study

RULE: Final = (
    "A layer counts as above chance where the value lies above what shuffled labels give and q is "
    "below 0.05 over layers; as above the words where the whole 95 % interval of its difference "
    "from the bag of words, on the same resamples, also lies above zero. The answer is yes where "
    "at least half of the layers are above the words; in some layers where at least one is; no "
    "more than the words say where layers are above chance only; no where none is. Whatever is "
    "above chance, it is hardly where even in the best layer the whole interval lies below a "
    "smallest effect: AUROC 0.55, a rank correlation of 0.1, 1 % of variance."
)


@dataclass(frozen=True)
class Question:
    """One of the paper's questions, the audited measure that answers it, its least of interest."""

    analysis: str
    text: str
    measure: str
    category: str
    says: str
    least: float


QUESTIONS: Final = (
    Question(
        "separation",
        "Are opposed categories separated?",
        "auroc",
        "mean",
        "held-out AUROC of virtue against vice, mean of axes",
        0.55,
    ),
    Question(
        "gradient",
        "Is intensity kept inside categories?",
        "spearman_given_length",
        "mean",
        "rank correlation of typicality with likeness to prototypes, given text length",
        0.1,
    ),
    Question(
        "structure",
        "Do texts lie near each other by their moral foundation?",
        "rsa_unique",
        "axis",
        "variance of the similarity structure that only the foundation axes explain",
        0.01,
    ),
    Question(
        "structure",
        "Do texts lie near each other by virtue and vice?",
        "rsa_unique",
        "polarity",
        "variance of the similarity structure that only polarity explains",
        0.01,
    ),
    Question(
        "recoverability",
        "Are the human dimensions recoverable?",
        "r2",
        "mean",
        "held-out R2, mean of the ten poles",
        0.01,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """A question's answer and the numbers that it follows from."""

    question: str
    answer: str
    why: str


def verdicts(study: Study) -> list[Verdict]:
    """Return a verdict for each question that the study's audited part can answer."""
    pooling = headline_pooling(study, "audited")
    if pooling is None:
        return []
    return [_verdict(study, question, pooling) for question in questions_of(study)]


def _verdict(study: Study, question: Question, pooling: str) -> Verdict:
    where = {"measure": question.measure, "category": question.category}
    rows = study.select(**where, mode="audited", pooling=pooling)
    rows = rows.filter(pl.col("value").is_finite())
    if rows.is_empty():
        return Verdict(question.text, "not enough data", question.says)
    chance = rows.filter((pl.col("q") < 0.05) & (pl.col("value") > pl.col("null_high")))
    words = chance.filter(pl.col("gain_low") > 0).height
    n = rows.height
    top = rows.sort("value", descending=True).row(0, named=True)
    return Verdict(
        question.text,
        _answer(chance.height, words, n, small=top["ci_high"] < question.least),
        f"{question.says}: above chance in {chance.height} of {n} layers, above the words "
        f"({rows['baseline'][0]:.2f}) in {words}; at best {with_interval(top)} in layer "
        f"{top['layer']}.",
    )


def _answer(chance: int, words: int, layers: int, *, small: bool) -> str:
    if chance and small:
        return "hardly"
    if 2 * words >= layers:
        return "yes"
    if words:
        return "in some layers"
    return "no more than the words say" if chance else "no"


def held_against(study: Study) -> list[tuple[str, list[str]]]:
    """Return a row a reading of the texts: its name, and its best number for each question.

    The first row is the model, under its headline pooling; then come `study.baselines`, by the
    order in which they were measured. A question that the study doesn't answer has no column.
    """
    pooling = headline_pooling(study, "audited")
    if pooling is None or study.baselines.is_empty():
        return []
    asked = questions_of(study)
    names = study.baselines["source"].unique(maintain_order=True).to_list()
    found = [
        ("the model", [_best(study.frame.filter(pooling=pooling), question) for question in asked])
    ]
    for name in names:
        mine = study.baselines.filter(source=name)
        found.append((_named(mine, name), [_best(mine, question) for question in asked]))
    return found


def questions_of(study: Study) -> list[Question]:
    """Return the questions that a study's audited part was asked."""
    asked = set(study.frame.filter(mode="audited")["analysis"])
    return [question for question in QUESTIONS if question.analysis in asked]


def _named(rows: pl.DataFrame, source: str) -> str:
    encoder = rows["model"][0]
    return f"{source} ({encoder})" if source == SENTENCE else source


def _best(rows: pl.DataFrame, question: Question) -> str:
    mine = rows.filter(measure=question.measure, category=question.category, mode="audited")
    mine = mine.filter(pl.col("value").is_finite()).sort("value", descending=True)
    if mine.is_empty():
        return "not measured"
    top = mine.row(0, named=True)
    return with_interval(top) + (f" (layer {top['layer']})" if top["layer"] is not None else "")
