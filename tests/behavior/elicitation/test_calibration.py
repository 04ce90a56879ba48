"""A scorer is worth what it says of texts whose truth is known, and no more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate, parts_of
from moralprobe.behavior.elicitation.scorers import ANSWERS, Judge, Rule
from moralprobe.behavior.options import Readout
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.errors import DataError, UsageError
from moralprobe.report.elicitation import of_calibration
from tests.behavior.elicitation.scripts import BAD, cases, reads_it

NOISY = cases(200, wrong=0.2)


def test_a_scorer_that_reads_is_calibrated_and_measured_on_other_principles() -> None:
    found = calibrate(Rule("reads it", reads_it), NOISY, draws=200)
    assert found.usable and found.overall["n"] == 100
    # Of five texts one says the opposite of what is true.
    for name, truth in (("hits", 0.8), ("false_alarms", 0.2), ("f1", 0.8)):
        assert found.overall[f"{name}_low"] < truth < found.overall[f"{name}_high"]
    parts = parts_of(NOISY, 0)
    said = np.array([reads_it(*pair) for pair in NOISY.pairs()])
    fit, test = parts["calibrate"], parts["test"]
    assert found.overall["auroc"] == pytest.approx(roc_auc_score(NOISY.breaks[test], said[test]))
    line = LogisticRegression(C=np.inf).fit(said[fit, None], NOISY.breaks[fit])
    p = line.predict_proba(said[test, None])[:, 1]
    np.testing.assert_allclose(found.probability(said[test]), p, rtol=1e-6)
    assert found.overall["brier"] == pytest.approx(np.mean((p - NOISY.breaks[test]) ** 2))
    assert sum(one["n"] for one in found.curve) == 100
    assert found.rates.shape == (201, 2) and found.rates[0, 0] == found.overall["hits"]
    assert set(found.foundations) == {"care-harm", "fairness-cheating", "loyalty-betrayal"}
    # The words tell as much: what is said is in them.
    words = found.baselines["bag of words"]
    assert words["scorer_above_low"] <= 0.05 and words["auroc"] > 0.7
    # A text that breaks it is a letter longer here.
    assert found.baselines["length"]["auroc"] < found.overall["auroc"] + 0.05
    json.dumps(found.as_json())
    lines = of_calibration("it", found)
    assert "bag of words" in lines[1] and len(lines) == 7


def test_no_principle_is_in_two_parts() -> None:
    parts = parts_of(NOISY, 3)
    assert sum(some.astype(int) for some in parts.values()).tolist() == [1] * len(NOISY)  # type: ignore[attr-defined]
    groups = [set(NOISY.groups()[some].tolist()) for some in parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert [len(some) for some in groups] == [100, 50, 50]
    with pytest.raises(DataError, match="too few principles"):
        parts_of(cases(10), 0)


@pytest.mark.parametrize("seed", range(3))
def test_one_that_says_nothing_is_refused_unless_it_is_forced(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nothing = Rule("nothing", lambda principle, text: float(rng.normal()))
    found = calibrate(nothing, NOISY, draws=200)
    assert not found.usable
    with pytest.raises(UsageError, match="nothing can't tell breaking a principle"):
        Calibrated(nothing, found)
    assert Calibrated(nothing, found, forced=True).forced
    assert "its numbers say nothing" in of_calibration("it", found)[-1]
    turned = Rule("turned", lambda principle, text: -reads_it(principle, text))
    assert not calibrate(turned, NOISY, draws=200).usable


def test_what_is_not_said_is_counted_and_too_little_is_refused() -> None:
    def silent(principle: str, text: str) -> float:
        return np.nan if text.endswith(("3", "7")) else reads_it(principle, text)

    found = calibrate(Rule("silent", silent), NOISY, draws=50)
    assert found.overall["unsaid"] > 10
    assert found.overall["n"] + found.overall["unsaid"] >= 100
    assert np.isnan(found.probability(np.array([np.nan]))[0])
    with pytest.raises(DataError, match="says nothing of the texts"):
        calibrate(Rule("mute", lambda p, t: np.nan), NOISY)


def test_a_judge_is_asked_under_both_orders() -> None:
    def believes(question: Question) -> dict[str, float]:
        broken = BAD in question.text
        first = f"A. {ANSWERS[0]}" in question.text
        p = 1 / (1 + np.exp(-(2.0 * (1 if broken else -1) * (1 if first else -1) + 1.5)))
        return {"A": p, "B": 1 - p}

    judge = Judge(Scripted("j", lambda q: "A", believes))
    odds = judge.log_odds([("One should not.", BAD), ("One should not.", "He kept it")])
    np.testing.assert_allclose(odds, [2.0, -2.0], rtol=1e-6)  # the letter's own pull is gone
    sampled = Judge(Scripted("j", lambda q: "A"), Readout("sampled", 4))
    assert sampled.log_odds([("r", "t")])[0] == pytest.approx(0)
    sure = Scripted("k", lambda q: "A" if f"A. {ANSWERS[0]}" in q.text else "B")
    assert Judge(sure, Readout("sampled", 4)).log_odds([("r", "t")])[0] == pytest.approx(np.log(15))
    refuses = Judge(Scripted("j", lambda q: "I'm sorry"), Readout("sampled", 2))
    assert np.isnan(refuses.log_odds([("r", "t")])[0])
    assert judge.identity != sampled.identity


def test_no_text_is_in_two_parts_whatever_its_principle_is_called() -> None:
    from moralprobe.behavior.elicitation.principles import Cases, Principle

    rules = [Principle(f"{i}", f"{w} not lie {i // 2}") for i, w in enumerate(["Do", "do,"] * 60)]
    texts = [f"{'broke' if b else 'kept'} {i // 2}" for i in range(120) for b in (0, 1)]
    known = Cases(
        tuple(one for one in rules for _ in range(2)), tuple(texts), np.tile([False, True], 120)
    )
    parts = parts_of(known, 0)
    said = [{texts[i] for i in np.flatnonzero(some)} for some in parts.values()]
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    one_class = Cases(known.principles[::2], tuple(texts[::2]), np.arange(120) < 3)
    with pytest.raises(DataError, match="can't be parted"):
        for seed in range(8):
            parts_of(one_class, seed)


def test_the_baseline_learns_from_the_training_part_alone() -> None:
    from dataclasses import replace

    first = calibrate(Rule("reads it", reads_it), NOISY, draws=20).baselines["bag of words"]
    train = parts_of(NOISY, 0)["train"]
    turned = replace(NOISY, breaks=np.where(train, ~NOISY.breaks, NOISY.breaks))
    other = calibrate(Rule("reads it", reads_it), turned, draws=20).baselines["bag of words"]
    assert first["auroc"] > 0.6 and other["auroc"] == pytest.approx(1 - first["auroc"], abs=0.02)


def test_texts_of_a_principle_are_drawn_together() -> None:
    """Ten texts of a principle on which a scorer errs alike tell no more than one."""
    from dataclasses import replace

    one = cases(80)
    ten = replace(
        one,
        principles=tuple(p for p in one.principles for _ in range(10)),
        texts=tuple(f"{text} {i}" for text in one.texts for i in range(10)),
        breaks=np.repeat(one.breaks, 10),
    )

    def errs(principle: str, text: str) -> float:
        wrong = np.random.default_rng(list(principle.encode())).random() < 0.25
        return (-1 if wrong else 1) * (2.0 if BAD in text else -2.0)

    few, many = (calibrate(Rule("errs", errs), some, draws=300).overall for some in (one, ten))
    assert many["hits"] == pytest.approx(few["hits"])
    widths = [found["hits_high"] - found["hits_low"] for found in (few, many)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
