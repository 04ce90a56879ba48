"""The measures on real completions of other models, of which others said how they keep values."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from moralprobe.behavior.consensus.agreement import auroc
from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate
from moralprobe.behavior.elicitation.measures import interval
from moralprobe.behavior.elicitation.measuring import measure
from moralprobe.behavior.elicitation.principles import load_cases
from moralprobe.behavior.elicitation.rates import kin
from moralprobe.behavior.elicitation.scorers import Scorer
from moralprobe.behavior.siblings import Together
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.bridges.scorer import scorer_of
from tests.conftest import shared_file

# What a foundation's cases are held against; they name no principle themselves.
PRINCIPLES = {
    "Care/Harm": "One should not hurt others.",
    "Fairness/Cheating": "One should not cheat others.",
    "Loyalty/Betrayal": "One should not betray one's own group.",
    "Authority/Subversion": "One should not defy rightful authority.",
    "Sanctity/Degradation": "One should not do what is disgusting or degrading.",
}


def told_apart(scorer_name: str) -> dict[str, float | None]:
    """Return the AUROC of low against high cases, by the path that every measure takes."""
    cases = json.loads(shared_file("value_cases", "mft_cases.json").read_text("utf-8"))["data"]
    known = load_cases(shared_file("moral_stories", "original_dev.jsonl"))
    scorer: Scorer = scorer_of(scorer_name, known)
    judge = Calibrated(scorer, calibrate(scorer, known, draws=100), forced=True)
    prompts = pl.DataFrame(
        {
            "id": [str(i) for i in range(len(cases))],
            "foundation": [None] * len(cases),
            "pole": [None] * len(cases),
            "principle": [PRINCIPLES[case["value"]] for case in cases],
            "prompt": [f"({i}) {case['prompt']}" for i, case in enumerate(cases)],
            "iter": [0] * len(cases),
        },
        schema_overrides={"foundation": pl.String, "pole": pl.String},
    )
    answers = {f"({i})": case["answer"] for i, case in enumerate(cases)}

    def said(question: Question) -> str:
        return answers[question.text.split("\n\n")[1].split(" ")[0]]

    found = measure(
        Scripted("22 models", said), prompts, {"report": judge}, k=1, draws=20, endorse=False
    ).completions
    assert found["text"].to_list() == [case["answer"] for case in cases]
    p = found["report"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    low = np.array([case["label"] == "low" for case in cases], np.float64)
    there = np.isfinite(p)
    group = kin(
        pl.Series([str(i) for i in range(len(cases))]), pl.Series([c["prompt"] for c in cases])
    )
    resamples = Together.of(group[there]).resamples(500, np.random.default_rng(0))
    values = np.array([auroc(p[there][at], low[there][at]) for at in resamples])
    return interval(values[0], values[1:])


def test_words_hardly_tell_what_models_wrote() -> None:
    """Learnt from Moral Stories, a bag of words ranks real completions above chance, not by much."""
    found = told_apart("words")
    print(found)
    assert found["low"] is not None and found["low"] > 0.5 and found["value"] < 0.65
