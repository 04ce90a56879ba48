"""An evaluation's page: every number is a table's, no judge that fails is headlined, nothing runs."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moralprobe.errors import StoreError
from moralprobe.evaluating import Evaluation, evaluate_intervention
from moralprobe.evaluation.judge_backends import ScriptedJudge
from moralprobe.evaluation.settings import Options
from moralprobe.report.evaluation import NOTHING_CLAIMED, write_evaluation
from moralprobe.steering.sampling import Sampling
from tests.report.evaluations import (
    RATES,
    STRENGTH,
    Tables,
    check,
    effect,
    effects,
    estimate,
    evaluation,
    judged,
    page_of,
    texts,
)
from tests.report.test_page import Reader, shown
from tests.steering.test_generate import tiny
from tests.test_evaluating import NONE as NOTHING
from tests.test_evaluating import QUICK, counting, driving, prompts

HOSTILE = '<script src="http://x.test/a.js">alert(1)</script><img src=x onerror=alert(1)>&"\''


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation(evaluation(), tmp_path_factory.mktemp("report"))


def test_the_page_is_whole_and_reaches_nothing_outside_its_folder(page: Path) -> None:
    html = page.read_text("utf-8")
    reader = Reader(html)
    assert page.name == "index.html" and reader.stack == []
    assert "Content-Security-Policy" in html and "default-src 'none'" in html
    for outside in ("http://", "https://", "<script", "@import", "url(", "javascript:"):
        assert outside not in html
    for link in reader.links:
        assert (page.parent / link).is_file(), link
    assert len(reader.images) == 2 and all(image.get("alt") for image in reader.images)
    for drawn in (page.parent / "figures").iterdir():
        if drawn.suffix == ".png":
            assert drawn.read_bytes().startswith(b"\x89PNG")
        else:
            assert ET.parse(drawn).getroot().tag.endswith("svg")


def test_it_goes_from_what_was_asked_to_what_it_was_made_from(page: Path) -> None:
    text = shown(page)
    order = [
        "Steering of small-model, evaluated",
        "The verdict",
        "Steering is better than every control: so.",
        "Can the judges be believed?",
        "The arms",
        "Over strengths",
        "Side effects",
        "What was written",
        "Provenance",
    ]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    for words in (
        "small-model, bfloat16",
        "made by topology, edits layer 4",
        "8 of dilemmas: 4 to choose strength and layer by, 4 to report on",
        "0.5, 1; 0 is unsteered",
        "at most 8 new tokens, temperature 0.9, the likeliest tokens that make up 0.9 (top-p)",
        "audited: all arms are decoded alike",
    ):
        assert words in text
    provenance = text[text.index("Provenance") :]
    assert '"max_new_tokens": 8' in provenance and '"features": 12' in provenance


def test_arms_stand_with_the_tables_numbers(page: Path) -> None:
    tables = Tables(page.read_text("utf-8"))
    for arm in ("steered", "shuffled", "prompt"):
        (line,) = [row for row in tables.starting(arm) if len(row) == 8]
        rate = RATES[arm]
        assert f"{rate:.2f} [{rate - 0.03:.2f}, {rate + 0.03:.2f}]" in line[3]
        assert "17 prompts, 34 pairs, 3 missing" in line[3]
        assert line[4].startswith(f"{rate - 0.1:.2f} [") and line[5] == f"{rate - 0.2:.2f}"
        assert line[7].startswith(f"{rate - 0.31:.2f} [")
    (line,) = [row for row in tables.starting("unsteered") if len(row) == 8]
    assert line[3] == "even by definition" and line[6] == "0.23 [0.20, 0.26] 17 prompts"
    (line,) = [row for row in tables.starting("shuffled") if len(row) == 8]
    assert line[6] == "0.18 [0.15, 0.21] 17 prompts"
    (line,) = [row for row in tables.starting("steered") if len(row) == 8]
    assert line[6] == "" and line[1] == "strength 0.5, layer 4"
    assert "Missing arms: untuned: switched off. means: the intervention has no such control." in (
        tables.seen.replace(" .", ".")
    )


def test_by_how_much_states_are_changed_stands_beside_every_arm(tmp_path: Path) -> None:
    said = "shuffled changes states by 4.7% of their length, so"
    changes = {"steered": "12.3%", "unsteered": "0.0%", "shuffled": "4.7%", "prompt": "0.0%"}
    for checks, n in (((check(),), 8), ((), 4)):
        tables = page_of(evaluation(checks=checks, rows=None, unlike_arms=[said]), tmp_path)
        for arm, change in changes.items():
            (line,) = [row for row in tables.starting(arm) if len(row) == n]
            assert f"{change} n = 8, the prompts reported on" in line
        assert said in tables.seen and "on others they needn't" in tables.seen
    arms = {arm: {**at, "change": None} for arm, at in evaluation().summary["arms"].items()}
    tables = page_of(evaluation(arms=arms), tmp_path)
    (line,) = [row for row in tables.starting("steered") if len(row) == 8]
    assert line[2] == "not known" and "changes states by" not in tables.seen


def test_what_wasnt_measured_for_want_of_a_file_is_said(tmp_path: Path) -> None:
    suites = {"side_effects": True, "pairs": True, "stories": "s.jsonl", "ethics": None}
    said = "Not measured, as no file was given: "
    seen = page_of(evaluation(suites=suites), tmp_path).seen
    assert f"{said}ETHICS (give --ethics), the questionnaire (give --mfq)." in seen
    # What wasn't asked for isn't missed.
    assert said not in page_of(evaluation(suites={**suites, "pairs": False}), tmp_path).seen
    every = {**suites, "ethics": "e", "mfq": "m"}
    assert said not in page_of(evaluation(suites=every), tmp_path).seen


def test_what_isnt_known_of_an_arm_is_said(tmp_path: Path) -> None:
    rows = [
        {**row, "value": None, "low": None, "high": None, "prompts": 0, "pairs": 0, "missing": 34}
        for row in judged()
        if row["arm"] == "shuffled" and (row["measure"], row["half"]) == ("win rate", "report")
    ]
    rows += [row for row in judged() if row["arm"] != "shuffled" or row["half"] == "choose"]
    found = evaluation(rows=rows, differences={"jury": {}})
    (line,) = [row for row in page_of(found, tmp_path).starting("shuffled") if len(row) == 8]
    assert line[3] == "not judged 0 prompts, 0 pairs, 34 missing"
    assert line[4:] == ["not known", "not known", "not known", "not rated"]


def test_judges_stand_with_their_check(page: Path) -> None:
    (row,) = Tables(page.read_text("utf-8")).starting("jury")
    assert row[1:] == [
        "0.92 [0.89, 0.95] n = 60 pairs, 2 missing; in English",
        "0.50 [0.47, 0.53] takes the longer; n = 60 pairs",
        "0.043 [0.033, 0.053] n = 60 pairs, 3 missing",
        "0.85 [0.82, 0.88] n = 60 pairs, 3 missing",
        "4% of the answers to 60 pairs",
        "yes",
    ]


FAILS = ("its accuracy isn't above chance, 0.5",)


NONE = {"kind": "unknown", "said": "No judge can be believed, so no win rate is headlined (so)."}


def test_a_judge_that_fails_headlines_nothing(tmp_path: Path) -> None:
    found = evaluation(checks=(check(fails=FAILS),), verdict=NONE)
    tables = page_of(found, tmp_path)
    assert NONE["said"] in tables.seen and FAILS[0] in tables.seen
    for arm in ("steered", "shuffled", "prompt"):
        assert f"{RATES[arm]:.2f} [" not in tables.seen
        (line,) = [row for row in tables.starting(arm) if len(row) == 8]
        assert f"{RATES[arm]:.2f} [" in line[3]
    assert "Don't quote these numbers" in shown(tmp_path / "index.html")
    assert "can't be believed, for want of others" in tables.seen
    # Side effects don't hang on a judge; its win rates are folded away.
    assert [folded for _, folded in tables.alts] == [False, True, True]
    assert "preferred" not in tables.alts[0][0] and "preferred" in tables.alts[1][0]


def test_a_judge_that_fails_is_folded_beside_one_that_doesnt(tmp_path: Path) -> None:
    rows = judged("good") + [{**row, "value": 0.98765} for row in judged("bad")]
    checks = (check("bad", FAILS), check("good"))
    tables = page_of(
        evaluation(checks=checks, rows=rows, agreement=estimate(0.3331)),
        tmp_path,
    )
    assert "0.73 [0.70, 0.76]" in tables.seen and "0.99 [" not in tables.seen
    assert "bad and good agree on the intervention's pairs at a kappa of 0.33 [0.30, 0.36]" in (
        tables.seen
    )
    assert {("good" in alt, folded) for alt, folded in tables.alts} == {
        (True, False),
        (False, True),
    }


def test_kappa_without_an_interval_or_a_value_is_said(tmp_path: Path) -> None:
    checks = (check("one"), check("two"))
    rows = [row for row in judged("one") + judged("two") if row["half"] == "report"]
    for value, words in ((0.25, "0.25 (no interval), 17 prompts"), (math.nan, "isn't defined")):
        kappa = estimate(value, low=math.nan, high=math.nan)
        found = evaluation(checks=checks, rows=rows, beside=[], agreement=kappa)
        tables = page_of(found, tmp_path)
        assert words in tables.seen


def test_a_judge_without_a_verdict_has_no_numbers(tmp_path: Path) -> None:
    lost = dict.fromkeys(("accuracy", "position_bias", "self_consistency"))
    tables = page_of(
        evaluation(checks=({**check(fails=("no pair has two verdicts",)), **lost},)), tmp_path
    )
    (row,) = tables.starting("jury")
    assert row[1] == "no verdict was read in English" and "two verdicts" in row[6]
    assert row[3] == row[4] == "no verdict was read"


def test_a_judge_of_two_languages_stands_with_both(tmp_path: Path) -> None:
    both = {"en": estimate(0.9511), "zh": estimate(0.6422)}
    tables = page_of(evaluation(checks=({**check(), "by_language": both},)), tmp_path)
    (row,) = tables.starting("jury")
    assert row[1].endswith("; in English 0.95 [0.92, 0.98]; in Chinese 0.64 [0.61, 0.67]")
    lost = {**check(), "by_language": {**both, "zh": None}}
    (row,) = page_of(evaluation(checks=(lost,)), tmp_path / "lost").starting("jury")
    assert row[1].endswith("; in Chinese not known")


def test_thoughts_without_an_end_are_said_arm_by_arm(tmp_path: Path) -> None:
    rows = [
        {**row, "unfinished": 2 if (row["arm"], row["half"]) == ("steered", "report") else 0}
        for row in judged()
    ]
    written = [
        {**row, "text": "", "unfinished": True, "ended": False} if row["arm"] == "steered" else row
        for row in texts(1)
    ]
    shares = {"steered": 0.25, "unsteered": 0.0, "shuffled": 0.031, "prompt": 0.0}
    options = {**evaluation().summary["options"], "thinking": True}
    found = evaluation(rows=rows, written=written, unfinished=shares, options=options)
    tables = page_of(found, tmp_path)
    assert "ended: steered 25%, unsteered 0%, shuffled 3%, prompt 0%." in tables.seen
    (line,) = [row for row in tables.starting("steered") if len(row) == 8]
    assert "34 pairs, 3 missing (2 for an unfinished thought)" in line[3]
    assert tables.starting("thinking")[0][1] == "on"
    assert "wrote no answer 12 tokens, cut at the limit within a thought" in " ".join(
        shown(tmp_path / "index.html").split()
    )


@pytest.mark.parametrize(("told", "words"), [(None, "as the template has it"), (False, "off")])
def test_thinking_is_said(told: bool | None, words: str, tmp_path: Path) -> None:
    options = {**evaluation().summary["options"], "thinking": told}
    tables = page_of(evaluation(options=options), tmp_path)
    assert tables.starting("thinking")[0][1] == words
    assert "thought never ended" not in tables.seen
    assert "counted as published" in " ".join(" ".join(row) for row in tables.rows)


def test_without_a_judge_there_is_no_win_rate(tmp_path: Path) -> None:
    said = {"kind": "unknown", "said": "No judge was asked: there is no win rate."}
    tables = page_of(evaluation(checks=(), rows=[], verdict=said), tmp_path)
    assert said["said"] in tables.seen and "largest strength that was tried" in tables.seen
    (line,) = [row for row in tables.starting("shuffled") if len(row) == 4]
    assert line[1:] == [
        "tuned to moral vectors that belong to other texts",
        "strength 1, layer 4",
        "4.7% n = 8, the prompts reported on",
    ]
    ((alt, folded),) = tables.alts
    assert "KL" in alt and "preferred" not in alt and not folded
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {"side-effects"}


def published(checks: tuple[dict[str, Any], ...]) -> Evaluation:
    said = {"kind": "unknown", "said": "As published: a win rate of 0.625, nothing is claimed."}
    rows = []
    for one in checks:
        for strength, value in ((0.5, 0.625), (1.0, 0.4375)):
            row = {"judge": one["judge"], "arm": "steered", "layers": "4", "strength": strength}
            row |= {"half": "all", "measure": "win rate as published"}
            rows.append({**row, **estimate(value, low=None, high=None, missing=5)})
    arms = {arm: {"strength": STRENGTH[arm], "layers": [4]} for arm in ("steered", "unsteered")}
    written = [{**row, "half": "all"} for row in texts(2) if row["arm"] in arms]
    return evaluation(
        checks=checks,
        rows=rows,
        written=written,
        beside=[row for row in effects() if row["arm"] in arms],
        protocol="li2026",
        arms=arms,
        missing_arms=dict.fromkeys(("shuffled", "means"), "the published protocol has no such arm"),
        differences={},
        verdict=said,
    )


def test_the_published_protocol_has_its_own_table_and_claims_nothing(tmp_path: Path) -> None:
    tables = page_of(published((check(),)), tmp_path)
    assert NOTHING_CLAIMED in tables.seen and "shuffled: the published protocol" in tables.seen
    lines = [row for row in tables.starting("steered") if len(row) == 3]
    assert [line[1:] for line in lines] == [
        ["strength 0.5, layer 4", "0.62 17 prompts, 34 pairs, 5 missing"],
        ["strength 1, layer 4", "0.44 17 prompts, 34 pairs, 5 missing"],
    ]
    assert "unsteered: at most 8 new tokens, temperature 0.7; steered: at most 8" in tables.seen
    assert "penalty 1.1; side effects of both: at most 8 new tokens, temperature 0.9" in tables.seen
    assert "the intervention less" not in tables.seen
    assert "As published: a win rate of 0.625" in tables.seen
    assert len(tables.alts) == 1 and "preferred" not in tables.alts[0][0]


def test_the_published_win_rate_of_a_judge_that_fails_is_folded(tmp_path: Path) -> None:
    tables = page_of(published((check(fails=FAILS),)), tmp_path)
    assert "No judge can be believed." in tables.seen
    assert "0.62" not in tables.seen and "0.62" in shown(tmp_path / "index.html")


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path) -> None:
    rows = texts(1, text=HOSTILE + "\x00\x1b\x85\u202e", prompt=HOSTILE * 3, group=HOSTILE)
    checks = (check(HOSTILE, (HOSTILE,)), check("good"))
    found = evaluation(
        checks=checks,
        rows=judged(HOSTILE) + judged("good"),
        written=rows,
        beside=[*effects(), effect("steered", 0.5, HOSTILE, 0.2, status=HOSTILE)],
        model={"name": HOSTILE, "dtype": HOSTILE},
        prompts={"name": HOSTILE, "sha256": "", "n": 1},
        interventions=[{"layers": [4], "made_by": HOSTILE, "$x^$": "</pre></details>"}],
        missing_arms={"means": HOSTILE},
        agreement=estimate(0.2),
        verdict={"kind": "unknown", "said": HOSTILE},
    )
    path = write_evaluation(found, tmp_path)
    html = path.read_text("utf-8")
    assert "<script" not in html and "<img src=x" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)
    reader = Reader(html)
    assert reader.stack == []
    for image in reader.images:
        assert set(image) == {"src", "alt"} and str(image["src"]).startswith("figures/")
    assert shown(path).count("alert(1)") > 10


def test_what_is_missing_altogether_leaves_no_hole(tmp_path: Path) -> None:
    found = evaluation(checks=(), rows=[], written=[], beside=[], prompts=None, differences={})
    tables = page_of(found, tmp_path)
    assert "none: side effects and suites alone" in tables.seen and tables.alts == []
    for words in ("Over strengths", "Side effects", "What was written", "protocol"):
        assert words not in tables.seen
    found = evaluation(beside=[])
    assert len(page_of(found, tmp_path).alts) == 1


def test_loaded_from_disk_it_is_the_same_page(tmp_path: Path) -> None:
    found = evaluation(agreement=None)
    summary = {**found.summary, "interventions": [{"layers": (4,), "made_by": "topology"}]}
    found = replace(found, summary=summary)
    first = write_evaluation(found, tmp_path / "a")
    second = write_evaluation(Evaluation.load(found.save(tmp_path / "e")), tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    for name in ("judge-1-strengths.svg", "judge-1-costs.svg"):
        one, two = (p.parent / "figures" / name for p in (first, second))
        assert one.read_bytes() == two.read_bytes()


def test_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't write"):
        write_evaluation(evaluation(), tmp_path / "file" / "report")


def test_real_evaluations_make_pages(tmp_path: Path) -> None:
    model = tiny()
    judge = ScriptedJudge("marks", counting)
    kinds: dict[str, dict[str, Any]] = {
        "audited": {"options": replace(QUICK, ratings=True), "suites": NOTHING},
        "published": {
            "options": Options(
                strengths=(0.5, 1.0),
                seeds=(0,),
                sampling=Sampling(max_new_tokens=8),
                protocol="li2026",
            ),
            "suites": NOTHING,
        },
    }
    for name, how in kinds.items():
        out = tmp_path / name
        found = evaluate_intervention(
            driving(model), model, out, prompts=prompts(8), judges=[judge], **how
        )
        tables = page_of(found, out / "report")
        rates = found.judged.filter(pl.col("half") != "choose", arm="steered")
        rates = rates.filter(pl.col("measure").is_in(["win rate", "win rate as published"]))
        for value in rates["value"]:
            cells = [cell for row in tables.starting("steered") for cell in row]
            assert any(cell.startswith(f"{value:.2f}") for cell in cells), value
    quick = replace(QUICK, strengths=(1.0,), off=("random_direction",))
    effects_alone = evaluate_intervention(driving(model), model, tmp_path / "e", options=quick)
    tables = page_of(effects_alone, tmp_path / "e" / "report")
    (row,) = effects_alone.effects.filter(
        arm="steered", measure="perplexity", strength=1.0
    ).iter_rows(named=True)
    assert tables.starting("the same as perplexity")[0][1].startswith(f"{row['value']:.2f} [")
