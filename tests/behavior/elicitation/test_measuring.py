"""A rate that was planted is measured; what a scorer errs in is taken out; the nulls are null."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.asking import status
from moralprobe.behavior.elicitation.measures import apv, evr, mvp
from moralprobe.behavior.elicitation.measuring import load_prompts, measure
from moralprobe.behavior.elicitation.proposers import Writer
from moralprobe.behavior.elicitation.search import Options, search
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.errors import DataError, UsageError
from moralprobe.report.elicitation import of_measures
from tests.behavior.elicitation.scripts import (
    BAD,
    GOOD,
    at_rate,
    cases,
    perfect,
    principles,
    reads_it,
    scorer,
)


def prompts(n: int = 60, rounds: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "id": one.id,
                "foundation": one.foundation,
                "pole": one.pole,
                "principle": one.text,
                "prompt": f"{one.prompt} {'x' * r}",
                "iter": r,
            }
            for one in principles(n)
            for r in range(rounds)
        ]
    )


def row(table: pl.DataFrame, measure: str, **of: object) -> dict:  # type: ignore[type-arg]
    of = {"foundation": "all", "pole": "all", **of}
    return table.filter(measure=measure, **of).row(0, named=True)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.85])
def test_a_known_rate_is_within_its_interval(rate: float) -> None:
    found = measure(at_rate(rate), prompts(), {"report": perfect()}, k=8, draws=300, endorse=False)
    said = row(found.measures, "apv")
    assert said["low"] < rate < said["high"] and said["high"] - said["low"] < 0.15
    assert said["k"] == 8 and said["n"] == 60
    worst = row(found.measures, "evr")
    assert worst["low"] - 0.02 < 1 - (1 - rate) ** 8 < worst["high"] + 0.02
    p = found.completions["report"].to_numpy().reshape(60, 8)
    for name, function in (("evr", evr), ("mvp", mvp), ("apv", apv)):
        assert row(found.measures, name)["value"] == pytest.approx(function(p).mean())
    some = found.completions.filter(foundation="care-harm", pole="vice")
    one = row(found.measures, "apv", foundation="care-harm", pole="vice")
    assert one["value"] == pytest.approx((some["report"].to_numpy() > 0.5).mean())


def test_what_a_scorer_errs_in_is_taken_out() -> None:
    """A scorer that hears wrong in one of four texts reports a rate nearer to one half."""
    from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate
    from moralprobe.behavior.elicitation.scorers import Rule

    def deaf(principle: str, text: str) -> float:
        wrong = np.random.default_rng(list(text.encode())).random() < 0.25
        return -reads_it(principle, text) if wrong else reads_it(principle, text)

    rule = Rule("deaf", deaf)
    judge = Calibrated(rule, calibrate(rule, cases(400), draws=200))
    found = measure(at_rate(0.1), prompts(100), {"report": judge}, k=8, draws=300, endorse=False)
    raw, left = row(found.measures, "apv"), row(found.measures, "apv corrected")
    assert raw["value"] > 0.25 and raw["low"] > 0.1
    assert (
        left["low"] < 0.1 < left["high"] and left["high"] - left["low"] > raw["high"] - raw["low"]
    )


def test_a_change_over_the_rounds_is_paired() -> None:
    def says(question: Question) -> str:
        rng = np.random.default_rng([question.seed, *question.text.encode()])
        rate = 0.8 if question.text.endswith("xx") else 0.3
        return f"{BAD if rng.random() < rate else GOOD} {rng.integers(1 << 30)}"

    found = measure(
        Scripted("m", says),
        prompts(40, rounds=3),
        {"report": perfect(), "search": scorer()},
        k=6,
        draws=300,
        endorse=False,
    )
    assert found.summary["rounds"] == [0, 2] and found.summary["prompts"] == 80
    change = row(found.changes, "apv", scorer="report")
    first, last = (row(found.measures, "apv", scorer="report", iter=i)["value"] for i in (0, 2))
    assert change["value"] == pytest.approx(last - first) and change["low"] < 0.5 < change["high"]
    assert change["low"] > 0.3
    same = measure(
        at_rate(0.3), prompts(40, rounds=2), {"report": perfect()}, k=6, draws=300, endorse=False
    )
    change = row(same.changes, "apv")
    assert change["low"] < 0 < change["high"]
    lines = "\n".join(of_measures(found))
    assert "search: reads it" in lines and "less the first: APV" in lines


def test_the_null_is_another_principle() -> None:
    """A scorer that looks at the principle finds nothing where another one is put in its place."""
    from moralprobe.behavior.elicitation.calibration import Calibrated
    from moralprobe.behavior.elicitation.scorers import Rule

    mine = {one.prompt: one.text for one in principles(60)}

    def says(question: Question) -> str:
        place = next(text for prompt, text in mine.items() if f"{prompt} " in f"{question.text} ")
        return f"{BAD} {place}"

    knows = Rule("knows", lambda principle, text: 5.0 if principle in text else -5.0)
    judge = Calibrated(knows, perfect().calibration)
    found = measure(Scripted("m", says), prompts(), {"report": judge}, k=2, draws=50, endorse=False)
    assert row(found.measures, "apv")["value"] == 1
    assert row(found.measures, "apv of another principle")["value"] == 0
    tone = measure(
        Scripted("m", says), prompts(), {"report": perfect()}, k=2, draws=50, endorse=False
    )
    assert row(tone.measures, "apv of another principle")["value"] == 1


def test_no_completion_is_one_that_the_search_drew() -> None:
    heard: dict[str, set[int]] = {"search": set(), "measure": set()}

    def model(where: str) -> Scripted:
        def says(question: Question) -> str:
            heard[where].add(question.seed)
            return at_rate(0.5).says(question)  # type: ignore[operator]

        return Scripted(where, says)

    writer = Writer(Scripted("w", lambda q: f"In a town a woman called Eva ({q.seed}) stood and"))
    options = Options(rounds=3, k=6, top=2, proposals=3)
    found = search(model("search"), principles(4), writer, perfect(), options)
    table = pl.DataFrame(found.rows(0), infer_schema_length=None)
    measure(model("measure"), table, {"report": perfect()}, k=6, draws=20, endorse=False)
    # K draws in each round of the search, fresh ones, and K in the end.
    assert len(heard["search"]) == 3 * 6 and len(heard["measure"]) == 6
    assert not heard["search"] & heard["measure"]


def test_the_model_is_asked_about_its_own_completions() -> None:
    def believes(question: Question) -> dict[str, float]:
        first = "A. The rule is broken" in question.text
        p = 0.9 if first == (BAD in question.text) else 0.1
        return {"A": p, "B": 1 - p}

    knows = Scripted("knows", at_rate(0.5).says, believes)
    found = measure(knows, prompts(20), {"report": perfect()}, k=4, draws=100)
    assert found.summary["endorsed"]["of broken"]["value"] == 1
    assert found.summary["endorsed"]["of kept"]["value"] == 0
    assert set(found.completions["own_judgement"].round(3).unique()) == {0.1, 0.9}
    silent = measure(at_rate(0.5), prompts(20), {"report": perfect()}, k=4, draws=100)
    assert silent.summary["endorsed"] is None
    assert "calls broken 1.000" in "\n".join(of_measures(found))


def test_refusals_are_counted_and_no_completion(tmp_path: Path) -> None:
    def says(question: Question) -> str:
        if "town 3 " in question.text:
            return "I'm sorry, but I can't."
        # Each prompt has the same seeds: of its own are these.
        nothing = np.random.default_rng([question.seed, *question.text.encode()]).random() < 0.3
        return "" if nothing else f"{BAD} {question.seed}"

    found = measure(
        Scripted("m", says), prompts(30), {"report": perfect()}, k=4, draws=50, endorse=False
    )
    assert found.summary["statuses"]["refused"] == 4 and found.summary["statuses"]["empty"] > 10
    of = found.completions.filter(status="refused")
    assert (of["report"] == 0).all() and of["text"].str.starts_with("I'm sorry").all()
    told = (found.completions["status"] == "ok").mean()
    assert row(found.measures, "apv")["value"] == pytest.approx(told), "who refuses breaks nothing"
    found.save(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "measure.json").read_text())
    assert (
        about["k"] == 4
        and "does not thereby approve" in (tmp_path / "out" / "READ-FIRST.md").read_text()
    )
    for name in ("measures", "changes", "completions"):
        assert (tmp_path / "out" / f"{name}.parquet").is_file()
    assert "refused 4" in of_measures(found)[0]


def test_one_scorer_for_both_is_said() -> None:
    found = measure(
        at_rate(0.5),
        prompts(20),
        {"report": scorer(), "search": scorer()},
        k=2,
        draws=50,
        endorse=False,
    )
    assert "One scorer searched and reports" in "\n".join(of_measures(found))


def test_instructions_stand_before_the_story() -> None:
    heard = []

    def says(question: Question) -> str:
        heard.append(question.text)
        return GOOD

    measure(
        Scripted("m", says),
        prompts(6),
        {"report": perfect()},
        k=1,
        draws=50,
        endorse=False,
        instructions=[f"Mind {i}." for i in range(6)],
    )
    assert [text.split("\n\n")[0] for text in heard] == [f"Mind {i}." for i in range(6)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("principle\na\n", "no column 'prompt'"),
        ("prompt\na\n", "no column 'principle'"),
        ("principle,prompt\na,\n", "without a prompt or a principle.*1 of 1"),
        ("principle,prompt\n", "without a prompt"),
    ],
)
def test_what_is_no_table_of_prompts_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_prompts(tmp_path / "p.csv")
    with pytest.raises(UsageError, match="nothing can be measured"):
        measure(at_rate(0.5), prompts(6), {})


def test_a_table_without_rounds_is_round_0(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("principle,prompt\nDo a.,Tom\nDo a.,Ana\nDo b.,Bo\n")
    found = load_prompts(tmp_path / "p.csv")
    assert found["iter"].to_list() == [0, 0, 0] and found["id"].to_list() == [
        "Do a.",
        "Do a.",
        "Do b.",
    ]


def test_one_prompt_of_many_principles_tells_no_more_than_once() -> None:
    """Its completions are the same ones: the interval is that of one prompt."""
    table = prompts(40).with_columns(prompt=pl.lit("In the town a man stood at the door and"))
    found = measure(at_rate(0.5), table, {"report": perfect()}, k=4, draws=100, endorse=False)
    own = found.completions["report"].to_numpy().reshape(40, 4)
    assert (own == own[0]).all()
    said = row(found.measures, "apv")
    assert said["value"] == pytest.approx((own[0] > 0.5).mean()) and said["low"] is None
    halves = prompts(40).with_columns(
        prompt=pl.Series([f"In the town a man ({i // 2}) stood at the door and" for i in range(40)])
    )
    single = measure(
        at_rate(0.5), prompts(40), {"report": perfect()}, k=4, draws=400, endorse=False
    )
    paired = measure(at_rate(0.5), halves, {"report": perfect()}, k=4, draws=400, endorse=False)
    wide, narrow = (
        (x["high"] - x["low"]) for x in (row(one.measures, "apv") for one in (paired, single))
    )
    assert wide > 1.15 * narrow


def test_a_few_principles_have_numbers_and_no_interval() -> None:
    found = measure(
        at_rate(0.5), prompts(3, rounds=2), {"report": perfect()}, k=4, draws=50, endorse=False
    )
    said = row(found.measures, "apv", iter=0)
    assert said["value"] is not None and said["low"] is None and found.changes.height == 5
    assert set(found.measures["foundation"]) == {"all"}
    assert "(no interval)" in "\n".join(of_measures(found))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"I won\'t pay you back," Tom said, and kept the money.', "ok"),
        ("She told him, I'm sorry, but it is your fault, and hit him.", "ok"),
        ("I'm sorry, but I can't go on with that.", "refused"),
        ("I cannot help with this.", "refused"),
        ("[refused: no]", "refused"),
        ("[not asked: 9 tokens, 3 at most]", "too long"),
        (" ", "empty"),
    ],
)
def test_what_somebody_says_in_a_story_is_no_refusal(text: str, said: str) -> None:
    assert status(text) == said


def test_rounds_are_whole_numbers_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("principle,prompt,iter\na,Tom,0.0\na,Ana,3.0\nb,Bo,\n")
    assert load_prompts(tmp_path / "p.csv")["iter"].to_list() == [0, 3, 0]
    (tmp_path / "p.csv").write_text("principle,prompt,iter\na,Tom,last\n")
    with pytest.raises(DataError, match=r"rounds that are no numbers.*'last'"):
        load_prompts(tmp_path / "p.csv")


def test_more_draws_than_the_calibration_has_change_no_interval_much() -> None:
    few, many = (
        measure(at_rate(0.4), prompts(60), {"report": scorer()}, k=4, draws=n, endorse=False)
        for n in (400, 4000)
    )
    a, b = (row(one.measures, "apv corrected") for one in (few, many))
    assert a["low"] == pytest.approx(b["low"], abs=0.04)
    assert a["high"] == pytest.approx(b["high"], abs=0.04)


def test_a_change_is_of_the_principles_that_both_rounds_have() -> None:
    table = prompts(30, rounds=2)
    uneven = table.filter((pl.col("iter") == 0) | pl.col("id").is_in([f"p{i}" for i in range(20)]))

    def says(question: Question) -> str:
        breaks = any(f"In town {i} " in question.text for i in range(20, 30))
        return f"{BAD if breaks else GOOD} {question.seed}"

    found = measure(
        Scripted("m", says), uneven, {"report": perfect()}, k=2, draws=50, endorse=False
    )
    first, last = (row(found.measures, "apv", iter=i)["value"] for i in (0, 1))
    assert first == pytest.approx(1 / 3) and last == 0
    change = row(found.changes, "apv")
    assert change["value"] == change["low"] == change["high"] == 0


def test_repeats_are_repeats_and_one_principle_has_no_null() -> None:
    parrot = Scripted("parrot", lambda question: "He ran home and ate his bread at once")
    found = measure(parrot, prompts(10), {"report": perfect()}, k=4, draws=20, endorse=False)
    assert found.summary["self_bleu"]["completions"]["0"] == pytest.approx(100)
    alone = measure(at_rate(0.5), prompts(1), {"report": perfect()}, k=4, draws=20, endorse=False)
    assert row(alone.measures, "apv of another principle")["value"] is None


def test_a_forced_scorer_is_marked() -> None:
    from dataclasses import replace

    sure = perfect()
    blind = replace(sure.calibration, overall={**sure.calibration.overall, "auroc_low": 0.4})
    forced = replace(sure, calibration=blind, forced=True)
    found = measure(at_rate(0.5), prompts(6), {"report": forced}, k=2, draws=20, endorse=False)
    assert found.summary["scorers"]["report"]["forced"]
    assert "FORCED" in "\n".join(of_measures(found))


def test_that_a_scorers_rates_are_known_from_few_texts_widens_what_is_left() -> None:
    """The same completions and the same rates, known surely or from few texts."""
    from dataclasses import replace

    sure = perfect()
    rng = np.random.default_rng(0)
    hits, alarms = (np.clip(rng.normal(at, 0.08, 401), 0, 1) for at in (0.8, 0.2))
    hits[0], alarms[0] = 0.8, 0.2
    vague = replace(sure.calibration, rates=np.stack([hits, alarms], axis=1))
    known = replace(sure.calibration, rates=np.tile([0.8, 0.2], (401, 1)))
    found = [
        row(
            measure(
                at_rate(0.5),
                prompts(60),
                {"report": replace(sure, calibration=one)},
                k=8,
                draws=400,
                endorse=False,
            ).measures,
            "apv corrected",
        )
        for one in (known, vague)
    ]
    assert found[0]["value"] == found[1]["value"]
    narrow, wide = (one["high"] - one["low"] for one in found)
    assert wide > 1.5 * narrow


def test_a_models_own_judgement_is_drawn_by_principles() -> None:
    """It judges all completions of a principle alike: K of them tell no more than one."""

    def believes(question: Question) -> dict[str, float]:
        yes = any(f"thing {i}." in question.text for i in range(0, 40, 2))
        first = "A. The rule is broken" in question.text
        p = 0.9 if first == yes else 0.1
        return {"A": p, "B": 1 - p}

    model = Scripted("m", at_rate(1.0).says, believes)
    few, many = (
        measure(model, prompts(40), {"report": perfect()}, k=k, draws=400).summary["endorsed"]
        for k in (1, 16)
    )
    widths = [one["of broken"]["high"] - one["of broken"]["low"] for one in (few, many)]
    assert few["of broken"]["value"] == many["of broken"]["value"] == 0.5
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
