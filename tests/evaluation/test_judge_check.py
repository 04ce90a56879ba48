"""Judges whose knowledge is planted are known by it; the pairs themselves favour no length."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest

from moralprobe.cache import open_cache
from moralprobe.errors import DataError
from moralprobe.evaluation.judge_backends import ScriptedJudge
from moralprobe.evaluation.judge_check import (
    LEAST_CONSISTENT,
    MOST_UNREAD,
    KnownPair,
    check_judge,
    failures_on_arms,
    known_pairs,
    pairs_of_moral_stories,
)
from moralprobe.evaluation.judges import Asked, Comparison, language_of
from tests.conftest import shared_file

EVERY = known_pairs()
PAIRS = [pair for pair in EVERY if pair.language == "en"]
CHINESE = [pair for pair in EVERY if pair.language == "zh"]
KINDS = {
    "honesty",
    "harm",
    "fairness",
    "loyalty",
    "authority",
    "sanctity",
    "usefulness",
    "refusal-where-needed",
    "needless-refusal",
}


def judge(rule: Callable[[bool, Comparison], str], pairs: list[KnownPair] = EVERY) -> ScriptedJudge:
    """A rule of whether the better answer is shown first, and of what is shown."""
    better = {pair.better for pair in pairs}

    def says(asked: Asked) -> str:
        assert isinstance(asked, Comparison)
        return rule(asked.first in better, asked)

    return ScriptedJudge("planted", says)


def perfect(first: bool, _: Comparison) -> str:
    return "A" if first else "B"


def longer(_: bool, asked: Comparison) -> str:
    return "A" if len(asked.first) > len(asked.second) else "B"


def test_the_known_pairs_are_what_they_are_said_to_be() -> None:
    assert len(PAIRS) == 60
    kinds = Counter(pair.kind for pair in PAIRS)
    assert kinds.keys() == KINDS and min(kinds.values()) >= 6
    assert len({pair.question for pair in PAIRS}) == 60
    assert len({pair.better for pair in PAIRS} | {pair.worse for pair in PAIRS}) == 120
    assert all(len(pair.why.split()) == 3 for pair in PAIRS)
    for pair in PAIRS:
        for text in (pair.question, pair.better, pair.worse):
            assert text == text.strip() and 15 < len(text) < 700
            assert text[-1] in ".?!\"'"


def test_length_says_nothing_of_which_answer_is_better() -> None:
    worse_longer = Counter(pair.kind for pair in PAIRS if len(pair.worse) > len(pair.better))
    assert worse_longer.total() == 30
    assert all(len(pair.worse) != len(pair.better) for pair in PAIRS)
    kinds = Counter(pair.kind for pair in PAIRS)
    assert all(0.4 < worse_longer[kind] / kinds[kind] < 0.6 for kind in kinds)
    lengths = [(len(pair.better), len(pair.worse)) for pair in PAIRS]
    better, worse = (mean(side) for side in zip(*lengths, strict=True))
    assert abs(better / worse - 1) < 0.03
    words = [(len(pair.better.split()), len(pair.worse.split())) for pair in PAIRS]
    better, worse = (mean(side) for side in zip(*words, strict=True))
    assert abs(better / worse - 1) < 0.05


def test_those_in_chinese_are_like_them() -> None:
    assert len(CHINESE) == 24 and len({pair.question for pair in CHINESE}) == 24
    assert len({pair.better for pair in CHINESE} | {pair.worse for pair in CHINESE}) == 48
    kinds = Counter(pair.kind for pair in CHINESE)
    worse_longer = Counter(pair.kind for pair in CHINESE if len(pair.worse) > len(pair.better))
    assert kinds.keys() == KINDS and all(2 * worse_longer[kind] == kinds[kind] for kind in kinds)
    better, worse = (
        mean(len(getattr(pair, side)) for pair in CHINESE) for side in ("better", "worse")
    )
    assert abs(better / worse - 1) < 0.03
    for pair in CHINESE:
        assert len(pair.why.split()) == 3
        for text in (pair.question, pair.better, pair.worse):
            assert language_of(text) == "zh" and text == text.strip() and 10 < len(text) < 150
            assert text[-1] in "。？！"


def test_a_judge_must_know_better_in_every_language_it_is_asked_in() -> None:
    asked: list[str] = []

    def reads_english_alone(first: bool, one: Comparison) -> str:
        asked.append(one.question)
        return perfect(first, one) if language_of(one.question) == "en" else "A"

    english = check_judge(judge(reads_english_alone), EVERY, languages={"en"})
    assert english.fails == () and {language_of(question) for question in asked} == {"en"}
    assert english == check_judge(judge(perfect), PAIRS)
    assert english.by_language == {"en": english.accuracy}
    both = check_judge(judge(reads_english_alone), EVERY, languages={"en", "zh"})
    assert both.fails and all(why.startswith("in Chinese it") for why in both.fails)
    assert both.accuracy is not None and both.accuracy.low > 0.7  # of both together it would pass
    values = {one: its and its.value for one, its in both.by_language.items()}
    assert values == {"en": 1, "zh": 0.5}
    assert check_judge(judge(perfect), EVERY, languages={"en", "zh"}).fails == ()
    assert check_judge(judge(perfect), EVERY, languages={"zh"}).fails == ()

    def mute(first: bool, one: Comparison) -> str:
        return perfect(first, one) if language_of(one.question) == "en" else "嗯"

    lost = check_judge(judge(mute), EVERY)
    assert lost.by_language["zh"] is None
    assert lost.fails == ("in Chinese no pair has two verdicts",)
    with pytest.raises(DataError, match="can't be checked in Chinese"):
        check_judge(judge(perfect), PAIRS, languages={"en", "zh"})


def test_a_judge_can_fail_on_what_is_reported_alone() -> None:
    assert failures_on_arms({"steered": 0.1, "means": 0.0}) == []
    (why,) = failures_on_arms({"steered": 0.0, "means": 0.2})
    assert why == "20% of its verdicts on means are missing, more than 10%"


def test_a_perfect_judge_passes() -> None:
    found = check_judge(judge(perfect), PAIRS)
    assert found.fails == () and found.judge == "planted"
    assert found.accuracy is not None and found.self_consistency is not None
    assert found.accuracy.value == 1 and 0.93 < found.accuracy.low < 0.95
    assert found.self_consistency.value == 1 and found.unread == 0
    assert found.position_bias is not None and found.position_bias.value == 0
    assert found.length_accuracy.value == 0.5


def test_a_judge_who_is_right_four_times_in_five_has_the_statistics_of_that() -> None:
    pairs = [
        KnownPair(str(n), f"better {n}", f"worse {n}" + "!" * (n % 2 * 9), "", "")
        for n in range(1500)
    ]
    rng = np.random.default_rng(0)
    found = check_judge(
        judge(lambda first, _: "AB"[int(first) ^ int(rng.random() < 0.8)], pairs), pairs
    )
    assert found.accuracy is not None and found.self_consistency is not None
    assert found.accuracy.low < 0.8 < found.accuracy.high
    assert found.accuracy.high - found.accuracy.low < 0.05
    assert found.self_consistency.low < 0.8**2 + 0.2**2 < found.self_consistency.high
    assert found.position_bias is not None
    assert found.position_bias.low < 0 < found.position_bias.high
    assert found.fails == ()


def test_a_judge_who_always_names_the_first_fails() -> None:
    found = check_judge(judge(lambda first, _: "A"), PAIRS)
    assert found.accuracy is not None and found.accuracy.value == 0.5
    assert found.accuracy.low < 0.5 < found.accuracy.high
    assert found.position_bias is not None and found.position_bias.value == 0.5
    assert found.self_consistency is not None and found.self_consistency.value == 0
    assert [why.split(",")[0] for why in found.fails[:2]] == ["its accuracy"] * 2
    assert "in 0% of pairs" in found.fails[2] and f"{LEAST_CONSISTENT:.0%}" in found.fails[2]


def test_a_random_judge_fails() -> None:
    failed = 0
    for k in range(20):
        rng = np.random.default_rng([1, k])
        found = check_judge(judge(lambda first, _, rng=rng: "ABC"[rng.integers(3)]), PAIRS)
        assert found.accuracy is not None and found.self_consistency is not None
        assert found.self_consistency.value < LEAST_CONSISTENT
        assert 0.3 < found.accuracy.value < 0.7
        failed += any("chance" in why for why in found.fails)
    assert failed >= 17  # 97.5 % of 20, and two standard errors


def test_a_judge_of_length_alone_is_no_better_than_length() -> None:
    found = check_judge(judge(longer), PAIRS)
    assert found.accuracy is not None and found.accuracy.value == 0.5
    assert found.self_consistency is not None and found.self_consistency.value == 1
    assert any("isn't above chance" in why for why in found.fails)
    # Where length goes with merit it is right by accident, and is told from a judge by that.
    some = [p for p in PAIRS if len(p.better) > len(p.worse)] + PAIRS[:4]
    found = check_judge(judge(longer), some)
    assert found.accuracy is not None and found.accuracy.low > 0.6
    assert found.length_rule == "longer" and found.length_accuracy.value == found.accuracy.value
    assert len(found.fails) == 1 and "taking the longer answer, 0.8" in found.fails[0]
    other = [p for p in PAIRS if len(p.better) < len(p.worse)] + PAIRS[4:7]
    found = check_judge(judge(perfect), other)
    assert found.length_rule == "shorter" and found.length_accuracy.value > 0.9


def test_a_pair_counts_half_where_its_orders_disagree_or_tie() -> None:
    says = {0: "AB", 1: "BA", 2: "AA", 3: "CC", 4: "AC", 5: "CB"}
    pairs = [KnownPair(str(n), f"good {n}", f"bad {n} {n}", "", "") for n in range(6)]
    found = check_judge(
        judge(lambda first, asked: says[int(asked.question)][not first], pairs), pairs
    )
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx((1 + 0 + 4 * 0.5) / 6)
    assert found.self_consistency is not None
    assert found.self_consistency.value == pytest.approx(3 / 6)


def test_what_cannot_be_read_is_left_out_counted_and_held_against_it() -> None:
    questions = {pair.question: n for n, pair in enumerate(PAIRS)}

    def rule(first: bool, asked: Comparison) -> str:
        return perfect(first, asked) if questions[asked.question] % 3 else "Hm."

    found = check_judge(judge(rule), PAIRS)
    assert found.accuracy is not None and found.accuracy.value == 1
    assert (found.accuracy.pairs, found.accuracy.missing) == (40, 20)
    assert found.unread == pytest.approx(1 / 3)
    assert len(found.fails) == 1 and f"more than {MOST_UNREAD:.0%}" in found.fails[0]
    mute = check_judge(judge(lambda first, _: "no"), PAIRS)
    assert mute.accuracy is None and mute.unread == 1
    assert mute.fails == ("no pair has two verdicts",)
    with pytest.raises(DataError, match="nothing to ask"):
        check_judge(judge(perfect), [])


def test_a_check_is_cached_like_any_other_question(tmp_path: Path) -> None:
    with open_cache(tmp_path / "c.jsonl") as cache:
        found = check_judge(judge(perfect), PAIRS, cache=cache)
        assert len(cache) == 120
        assert check_judge(judge(lambda first, _: "C"), PAIRS, cache=cache) == found


def write(path: Path, *stories: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, stories)) + "\n")
    return path


def test_stories_are_paired_by_their_norm(tmp_path: Path) -> None:
    halves = [
        {"ID": "x1", "norm": "Be kind.", "moral_action": "Ann helps.", "label": "1"},
        {"ID": "y0", "norm": "Be true.", "immoral_action": "Bob lies.", "label": "0"},
        {"ID": "x0", "norm": "Be kind.", "immoral_action": "Ann mocks.", "label": "0"},
        {"ID": "y1", "norm": "Be true.", "moral_action": "Bob tells.", "label": "1"},
    ]
    one, two = pairs_of_moral_stories(write(tmp_path / "a.jsonl", *halves))
    assert (one.better, one.worse, two.better, two.worse) == (
        "Ann helps.",
        "Ann mocks.",
        "Bob tells.",
        "Bob lies.",
    )
    assert one.question.startswith("Be kind. What does") and two.question.startswith("Be true.")
    whole = {
        "ID": "z",
        "norm": "Be fair.",
        "moral_action": "Cy shares.",
        "immoral_action": "Cy eats.",
    }
    told = {**whole, "ID": "w", "situation": "There is cake.", "intention": "Cy is hungry."}
    plain, full = pairs_of_moral_stories(write(tmp_path / "b.jsonl", whole, told))
    assert (plain.better, plain.worse) == ("Cy shares.", "Cy eats.") == (full.better, full.worse)
    assert full.question.startswith("There is cake. Cy is hungry. Be fair. What does")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no story"),
        (b"{\n", "line 1 lacks"),
        (b'{"ID": "a", "norm": "n"}\n', "line 1 lacks"),
        (b'\n{"ID": "a", "norm": 3, "moral_action": "m"}\n', "line 2 lacks"),
        (b'{"ID": "a", "norm": "n", "moral_action": " "}\n', "line 1 lacks"),
        (b"[1]\n", "line 1 lacks"),
        (b'{"ID": "a1", "norm": "n", "moral_action": "m"}\n', "has no 'immoral_action'"),
        (b"\xff\n", "isn't UTF-8"),
    ],
)
def test_a_file_of_something_else_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        pairs_of_moral_stories(path)
    with pytest.raises(DataError, match="can't read"):
        pairs_of_moral_stories(tmp_path / "none.jsonl")


def test_the_published_stories_are_a_thousand_pairs() -> None:
    pairs = pairs_of_moral_stories(shared_file("moral_stories", "original_dev.jsonl"))
    assert len(pairs) == 1000
    fire = next(pair for pair in pairs if "Brian drags his hose" in pair.better)
    assert "Brian carefully protects" in fire.worse and "in danger" in fire.question
    found = check_judge(judge(perfect, pairs), pairs)
    assert found.accuracy is not None and found.accuracy.value == 1
    assert 0.5 <= found.length_accuracy.value < 0.7 and not math.isnan(found.length_accuracy.low)
