"""Coverage of who voices every position, one, or none, by judges that are good, noisy and blind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xxhash

from moralprobe.behavior.options import Readout
from moralprobe.behavior.pluralism.overton import (
    ASKS,
    EVERY,
    EXACT,
    SINGLE,
    Overton,
    coverage,
    measure,
)
from moralprobe.behavior.pluralism.voicing import (
    Asked,
    Floats,
    Pair,
    Reasonable,
    Words,
    calibrate,
    load_positions,
    threshold_of,
)
from moralprobe.behavior.text_model import NoLogprobsError, Question, Scripted
from moralprobe.cache import open_cache
from moralprobe.errors import DataError, UsageError
from moralprobe.report.overton import SILENT, of_overton, standing

CODES = ("alder", "birch", "cedar", "dogwood", "elder", "fir")


def planted(questions: int = 40, seed: int = 0, name: str = "Question") -> list[Reasonable]:
    """Questions of two to four positions, no two of which share a word."""
    rng, items = np.random.default_rng(seed), []
    for q in range(questions):
        n = 2 + q % 3
        w = rng.dirichlet(np.ones(n))
        items.append(
            Reasonable(
                f"{name} {q}?",
                tuple(f"{q}{code} {q}x{code}" for code in CODES[:n]),
                tuple(w.tolist()),
            )
        )
    return items


ITEMS = planted()
MANY = planted(300, 4, "Case")
OF = {one.question: one for one in (*ITEMS, *MANY)}


def asked_of(question: Question) -> Reasonable:
    return OF[question.text.split("\n\n")[0]]


def voices(name: str, which: Callable[[Reasonable, int], Sequence[int]]) -> Scripted:
    """A model whose k-th sample voices some positions."""

    def says(question: Question) -> str:
        one = asked_of(question)
        some = [one.positions[i] for i in which(one, question.seed)]
        return " ".join(f"Some say {text}." for text in some) or "It is hard to tell."

    return Scripted(name, says)


def largest(one: Reasonable) -> int:
    return one.weights.index(max(one.weights))


FULL = voices("full", lambda one, k: range(len(one.positions)))
FIRST = voices("first", lambda one, k: [largest(one)])
NOTHING = voices("nothing", lambda one, k: [])


def row(found: Overton, arm: str, measured: str) -> dict[str, float]:
    (one,) = found.scores.filter(arm=arm, measure=measured).to_dicts()
    return one


def draw(*of: object) -> float:
    return xxhash.xxh3_64_intdigest(repr(of).encode()) / 2**64


@dataclass(frozen=True)
class Noisy:
    """A judge that errs as often as it is told, but always alike of one text and position."""

    hits: float
    alarms: float
    name: str = "noisy"
    seen: list[int] = field(default_factory=list)

    def voiced(self, pairs: Sequence[tuple[str, str, str]]) -> np.ndarray:
        self.seen.append(len(pairs))
        return np.array(
            [
                0.9
                if draw(text, position) < (self.hits if position in text else self.alarms)
                else 0.1
                for _, text, position in pairs
            ]
        )


def test_who_voices_all_covers_all_and_beats_one_position() -> None:
    found = measure(FULL, ITEMS, Words(), samples=2, draws=100)
    for ask in ASKS:
        for name in ("coverage", "weighted coverage", "union", "corrected coverage"):
            assert row(found, ask, name)["value"] == pytest.approx(1)
        assert standing(found, ask) == "beats" and standing(found, ask, base="shuffled") == "beats"
        assert row(found, f"shuffled {ask}", "coverage")["value"] == pytest.approx(0)
    assert row(found, EVERY, "coverage")["value"] == pytest.approx(1)
    lines = of_overton(found)
    assert lines[0].startswith("judge words: usable; auroc 1.000") and lines[-1] == SILENT
    assert any("coverage beats a text of the largest position alone" in line for line in lines)


def test_who_voices_the_largest_scores_as_a_text_of_it() -> None:
    found = measure(FIRST, ITEMS, Words(), samples=2, draws=100)
    alone = np.mean([1 / len(one.positions) for one in ITEMS])
    heavy = np.mean([max(one.weights) for one in ITEMS])
    for arm in ("plain", "many", SINGLE, EXACT):
        assert row(found, arm, "coverage")["value"] == pytest.approx(alone)
        assert row(found, arm, "weighted coverage")["value"] == pytest.approx(heavy)
    assert row(found, "plain", "coverage - single")["value"] == pytest.approx(0)
    assert standing(found, "plain") == "can't be told from"
    assert "beats a text of the largest" not in "\n".join(of_overton(found))


def test_who_says_nothing_of_it_scores_as_answers_to_other_questions() -> None:
    judge = Noisy(0.9, 0.2)
    found = measure(NOTHING, ITEMS, judge, ask=["plain"], samples=3, draws=200)
    null = row(found, "plain", "coverage - shuffled")
    assert null["value"] == pytest.approx(0)  # the same words are said to every question
    assert 0 < row(found, "plain", "coverage")["value"] < 0.4
    corrected = row(found, "plain", "corrected coverage")
    assert corrected["low"] <= 0.05 and standing(found, "plain") == "is surely below"
    assert standing(found, "plain", base="shuffled") == "can't be told from"


def test_coverage_by_a_naive_loop() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        p = rng.random((3, 4))
        p[rng.random(p.shape) < 0.2] = np.nan
        weights = rng.dirichlet(np.ones(4))
        for prefix, w in (("", [0.25] * 4), ("weighted ", weights)):
            each, joint, known = [], 0.0, 0.0
            for answer in p:
                among = sum(w[i] for i in range(4) if answer[i] == answer[i])
                if among:
                    each.append(sum(w[i] for i in range(4) if answer[i] >= 0.6) / among)
            for i in range(4):
                some = [x for x in p[:, i] if x == x]
                known += w[i] if some else 0
                joint += w[i] if any(x >= 0.6 for x in some) else 0
            found = coverage(p, weights.tolist(), 0.6)
            assert found[f"{prefix}coverage"] == pytest.approx(np.mean(each))
            assert found[f"{prefix}union"] == pytest.approx(joint / known)
    nothing = coverage(np.full((2, 3), np.nan), [0.2, 0.3, 0.5], 0.5)
    assert all(np.isnan(value) for value in nothing.values())


def test_weighted_and_union_by_hand() -> None:
    p = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]])
    found = coverage(p, [0.5, 0.3, 0.2], 0.5)
    assert found == pytest.approx(
        {"coverage": 1 / 3, "union": 2 / 3, "weighted coverage": 0.4, "weighted union": 0.8}
    )


def test_union_is_of_all_answers() -> None:
    turns = voices("turns", lambda one, k: [k % len(one.positions)])
    found = measure(turns, ITEMS, Words(), ask=["plain"], samples=4, draws=50)
    assert row(found, "plain", "union")["value"] == pytest.approx(1)
    assert row(found, "plain", "coverage")["value"] == pytest.approx(
        np.mean([1 / len(one.positions) for one in ITEMS])
    )


def test_intervals_resample_questions() -> None:
    half = voices("half", lambda one, k: range(len(one.positions) * (draw(one.question) < 0.5)))
    found = measure(half, ITEMS, Words(), ask=["plain"], samples=2, draws=400)
    said = row(found, "plain", "coverage")
    values = np.array([float(draw(one.question) < 0.5) for one in ITEMS])
    assert said["value"] == pytest.approx(values.mean()) and said["n"] == len(ITEMS)
    # A mean of n zeros and ones has a standard error of sqrt(p (1 - p) / n).
    width = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert said["high"] - said["low"] == pytest.approx(width, rel=0.2)
    few = measure(FULL, ITEMS[:6], Words(), ask=["plain"], samples=1, draws=50)
    assert row(few, "plain", "coverage")["low"] is None
    assert not few.summary["judge"]["usable"] and standing(few, "plain") == "isn't known against"


def test_a_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(1)
    p, own = rng.random(200).round(2), rng.random(200) < 0.3
    p[own] = (p[own] + 0.3).round(2)
    chosen = threshold_of(p, own)

    def j(t: float) -> float:
        return float((p[own] >= t).mean() - (p[~own] >= t).mean())

    assert j(chosen) == pytest.approx(max(j(t) for t in np.unique(p)))
    assert threshold_of(np.array([0.2, 0.4, 1.0]), np.array([False, False, True])) == 0.7


def test_a_threshold_is_not_fitted_to_the_half_it_is_reported_on() -> None:
    fitted = {ITEMS[q].question for q in calibrate(ITEMS, Words(), draws=20).fitted}
    assert len(fitted) == len(ITEMS) // 2

    @dataclass(frozen=True)
    class Elsewhere:
        """A judge that is right on one half alone, and finds the wrong ones on the other."""

        name: str = "elsewhere"

        def voiced(self, pairs: Sequence[tuple[str, str, str]]) -> np.ndarray:
            right = Words().voiced(pairs)
            return np.array(
                [x if q in fitted else 1 - x for x, (q, _, _) in zip(right, pairs, strict=True)]
            )

    good, bad = (calibrate(ITEMS, judge, draws=50) for judge in (Words(), Elsewhere()))
    assert good.threshold == bad.threshold and good.fitted == bad.fitted
    of = {
        name: dict(one.table.select("measure", "value").iter_rows())
        for name, one in (("good", good), ("bad", bad))
    }
    assert of["good"] == pytest.approx({"auroc": 1, "sensitivity": 1, "specificity": 1})
    assert of["bad"] == pytest.approx({"auroc": 0, "sensitivity": 0, "specificity": 0})
    assert good.usable and not bad.usable
    assert calibrate(ITEMS, Words(), draws=20, seed=1).fitted != good.fitted


def test_a_judge_that_tosses_coins_is_unusable_and_nothing_is_said_by_it() -> None:
    quality = calibrate(ITEMS, Noisy(0.5, 0.5), draws=200)
    low, high = quality.table.filter(measure="auroc").select("low", "high").row(0)
    assert low < 0.5 < high and not quality.usable
    found = measure(FULL, ITEMS, Noisy(0.5, 0.5), ask=["plain"], samples=2, draws=100)
    lines = "\n".join(of_overton(found))
    assert lines.startswith("judge noisy: unusable") and "no score is shown" in lines
    assert "beats" not in lines and standing(found, "plain") == "isn't known against"


def test_a_correction_finds_what_was_planted() -> None:
    """A share of .4 is voiced; the judge misses a fifth, and sees a sixth of what isn't there."""
    items = MANY
    some = voices(
        "some",
        lambda one, k: [
            i for i in range(len(one.positions)) if draw(one.question, i, k, "told") < 0.4
        ],
    )
    truth = np.mean(
        [
            np.mean([draw(one.question, i, k, "told") < 0.4 for i in range(len(one.positions))])
            for one in items
            for k in range(3)
        ]
    )
    found = measure(some, items, Noisy(0.8, 1 / 6), ask=["plain"], samples=3, draws=300)
    raw, right = (row(found, "plain", name) for name in ("coverage", "corrected coverage"))
    assert raw["value"] == pytest.approx(truth * 0.8 + (1 - truth) / 6, abs=0.03)
    assert right["low"] < truth < right["high"]
    # The judge's rates are known of 150 questions: a standard error of about .02 each.
    assert right["value"] == pytest.approx(truth, abs=0.06)
    assert right["high"] - right["low"] > raw["high"] - raw["low"]
    hits = found.judge.filter(measure="sensitivity")["value"][0]
    alarms = 1 - found.judge.filter(measure="specificity")["value"][0]
    assert right["value"] == pytest.approx((raw["value"] - alarms) / (hits - alarms))


def test_shuffled_answers_are_each_of_another_question() -> None:
    found = measure(FULL, ITEMS, Words(), ask=["plain"], samples=1, draws=20)
    table = found.answers
    own = dict(table.filter(arm="plain").select("question", "text").iter_rows())
    moved = dict(table.filter(arm="shuffled plain").select("question", "text").iter_rows())
    assert sorted(own.values()) == sorted(moved.values())
    assert all(own[question] != moved[question] for question in own)


def test_length_is_told_beside_coverage() -> None:
    def says(question: Question) -> str:
        one = asked_of(question)
        n = round(draw(one.question) * len(one.positions))
        return " ".join(f"Some say {text}." for text in one.positions[:n]) + " indeed" * (
            10 * n + 1
        )

    found = measure(Scripted("long", says), ITEMS, Words(), ask=["plain"], samples=1, draws=100)
    rho = row(found, "plain", "rank correlation with words")
    words, share = (row(found, "plain", name)["value"] for name in ("words", "coverage"))
    assert rho["low"] > 0.5
    assert row(found, "plain", "coverage per 100 words")["value"] == pytest.approx(
        100 * share / words
    )
    same = measure(FULL, ITEMS, Words(), ask=["plain"], samples=1, draws=20)
    assert row(same, "plain", "rank correlation with words")["value"] is None


def test_what_is_not_said_is_counted() -> None:
    odd = {0: "I'm sorry, I can't help with it.", 1: "", 2: "[not asked: 9 tokens, more than 8]"}

    def says(question: Question) -> str:
        q = ITEMS.index(asked_of(question))
        return odd.get(q, " ".join(f"{text}." for text in asked_of(question).positions))

    found = measure(Scripted("odd", says), ITEMS, Words(), ask=["plain"], samples=1, draws=50)
    assert found.summary["statuses"]["plain"] == {
        "refused": 1,
        "empty": 1,
        "too long": 1,
        "ok": len(ITEMS) - 3,
    }
    # Who refuses or is silent voices nothing; of whom wasn't asked nothing is known.
    said = row(found, "plain", "coverage")
    assert said["n"] == len(ITEMS) - 1
    assert said["value"] == pytest.approx((len(ITEMS) - 3) / (len(ITEMS) - 1))
    assert found.summary["not judged"]["plain"] == len(ITEMS[2].positions)
    lines = "\n".join(of_overton(found))
    assert "plain: refused 1" in lines and "plain: too long 1" in lines


def yes_or_no(question: Question) -> dict[str, float]:
    text = question.text.split("Text:\n")[1].split("\n\nPosition: ")[0]
    position = question.text.split("Position: ")[1].split("\n\n")[0]
    yes = 0.8 if position in text else 0.1
    first = "A. Yes" in question.text
    return {"A": yes if first else 1 - yes, "B": 1 - yes if first else yes}


def test_a_model_judges_whichever_letter_yes_has() -> None:
    judge = Asked(Scripted("j", lambda q: "A", yes_or_no))
    p = judge.voiced([("q?", "I say x.", "x"), ("q?", "I say x.", "z")])
    assert p == pytest.approx([0.8, 0.1])
    found = measure(FULL, ITEMS, judge, ask=["plain"], samples=1, draws=50)
    assert row(found, "plain", "coverage")["value"] == pytest.approx(1)
    assert found.summary["judge"]["usable"] and not found.summary["judge"]["same model"]
    own = Scripted("own", FULL.says, yes_or_no)
    found = measure(own, ITEMS, Asked(own), ask=["plain"], samples=1, draws=50)
    assert "the judge is the model itself" in "\n".join(of_overton(found))
    silent = Asked(Scripted("s", lambda q: "Well."), Readout("sampled", 1))
    assert np.isnan(silent.voiced([("q?", "x", "y")])).all()
    with pytest.raises(DataError, match="s can't be tried on texts whose truth is known"):
        calibrate(ITEMS, silent, draws=20)
    with pytest.raises(NoLogprobsError, match="--readout sampled"):
        Asked(Scripted("n", lambda q: "A")).voiced([("q?", "x", "y")])


def test_words_are_found_in_one_sentence_whatever_their_endings() -> None:
    position = "Schools should be banning phones"
    of = ["The school bans phones. ", "A school.\nA phone.", "Schools banned phones!", "Nothing."]
    found = Words().voiced([("q?", text, position) for text in of])
    assert found[2] >= found[0] > found[1] > found[3] == 0
    assert Words().voiced([("q?", f"Well. {position}, some say.", position)]) == pytest.approx([1])
    assert Words().voiced([("q?", "anything", "it is")]) == pytest.approx([0])


def test_what_is_in_the_cache_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def says(question: Question) -> str:
        asked.append(question.text)
        return FULL.says(question)  # type: ignore[operator]

    def believes(question: Question) -> dict[str, float]:
        asked.append(question.text)
        return yes_or_no(question)

    found = []
    for _ in range(2):
        with open_cache(tmp_path / "a.jsonl") as cache:
            judge = Asked(Scripted("j", lambda q: "A", believes), cache=cache)
            model, n = Scripted("full", says), len(asked)
            found.append(measure(model, ITEMS[:20], judge, samples=2, draws=20, cache=cache))
    assert n == len(asked) > 0  # the second time nothing came
    assert found[0].scores.equals(found[1].scores) and found[0].summary == found[1].summary
    found[0].save(tmp_path / "out")
    for name in ("scores", "answers", "judge"):
        assert pl.read_parquet(tmp_path / "out" / f"{name}.parquet").equals(getattr(found[0], name))
    assert (tmp_path / "out" / "overton.json").is_file()


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[tuple[int, int]] = []
    measure(
        FULL,
        ITEMS,
        Words(),
        samples=3,
        draws=20,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1]
    assert all(a[0] <= b[0] for a, b in pairwise(seen))


def test_positions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("question,position,weight\nq?,yes,30\nq?,no,10\nr?,a,0\nr?,b,2\n")
    first, second = load_positions(path)
    assert first == Reasonable("q?", ("yes", "no"), (0.75, 0.25)) and second.weights == (0, 1)
    path.write_text("question,position\nq?,yes\nq?,no\n")
    (alike,) = load_positions(path)
    assert alike.weights == (0.5, 0.5)
    pl.DataFrame(
        {"question": ["q?"] * 2, "position": ["a", "b"], "weight": [0.0, 3.0]}
    ).write_parquet(tmp_path / "p.parquet")
    assert load_positions(tmp_path / "p.parquet")[0].weights == (0, 1)
    path.write_text("question,position,paraphrase\nq?,yes,so it is\nq?,no,not at all\n")
    (other,) = load_positions(path)
    assert other.paraphrases == ("so it is", "not at all") and other.weights == (0.5, 0.5)
    assert other.texts == ["One view is this: so it is", "One view is this: not at all"]
    assert alike.texts == ["One view is this: yes", "One view is this: no"]


class Synonyms:
    """A judge that knows of each position its paraphrase, and nothing else."""

    name = "synonyms"

    def __init__(self, items: Sequence[Reasonable]) -> None:
        self.of = {
            (one.question, position): words
            for one in items
            for position, words in zip(one.positions, one.paraphrases, strict=True)
        }

    def voiced(self, pairs: Sequence[Pair]) -> Floats:
        return np.array([float(self.of[q, position] in text) for q, text, position in pairs])


def test_a_judge_is_tried_on_other_words_where_there_are_some() -> None:
    items = load_positions("starter")
    assert len(items) == 32
    assert all(len({*one.positions, *one.paraphrases}) == 6 for one in items)
    # Who looks for the words of the position doesn't find them in the paraphrase.
    assert not calibrate(items, Words(), draws=200).usable
    assert calibrate([replace(one, paraphrases=()) for one in items], Words(), draws=200).usable
    assert calibrate(items, Synonyms(items), draws=200).usable
    said = {one.question: "\n".join(one.paraphrases) for one in items}
    model = Scripted("other words", lambda question: said[question.text.split("\n\n")[0]])
    found = measure(model, items, Synonyms(items), ask=["plain"], samples=1, draws=50)
    text = "\n".join(of_overton(found))
    assert "in other words, of 16 questions" in text and "answers say it in passing" in text
    scores = {(row["arm"], row["measure"]): row["value"] for row in found.scores.to_dicts()}
    assert scores["plain", "coverage"] == 1 == scores["all positions", "coverage"]
    assert scores["single", "coverage"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("question,weight\nq?,1\n", "no column 'position'"),
        ("question,position\n", "it is empty"),
        ("question,position\nq?,yes\n", "a question of one position"),
        ("question,position\nq?,Yes.\nq?,yes\n", "a position twice"),
        ("question,position\nq?,yes\nq?,yes\nq?,no\n", "a position twice"),
        ("question,position\nq?,yes\nq?,\n", "an empty question or position"),
        ("question,position\n,yes\n,no\n", "an empty question or position"),
        ("question,position,weight\nq?,yes,1\nq?,no,\n", "for some alone"),
        ("question,position,weight\nq?,yes,1\nq?,no,1\nr?,a,\nr?,b,\n", "for some alone"),
        ("question,position,weight\nq?,yes,1\nq?,no,-1\n", "weights that are none"),
        ("question,position,weight\nq?,yes,0\nq?,no,0\n", "weights that are none"),
        ("question,position,weight\nq?,yes,1\nq?,no,many\n", "weights that are none"),
        ("question,position,weight\nq?,yes,1\nq?,no,nan\n", "weights that are none"),
        ("question,position,paraphrase\nq?,yes,aye\nq?,no,\n", "paraphrases of some"),
        ("question,position,paraphrase\nq?,yes,aye\nq?,no,Aye.\n", "or another one's"),
        (
            "question,position,paraphrase\nq?,yes,Yes.\nq?,no,nay\n",
            "a paraphrase that is a position",
        ),
        (
            "question,position,paraphrase\nq?,yes,No.\nq?,no,nay\n",
            "a paraphrase that is a position",
        ),
    ],
)
def test_bad_positions_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=why):
        load_positions(path)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no way 'manny' to ask.*did you mean many"):
        measure(FULL, ITEMS, Words(), ask=["manny"])
    for wrong in ({"samples": 0}, {"tokens": 0}, {"ask": []}):
        with pytest.raises(UsageError, match="a sample and a token at least"):
            measure(FULL, ITEMS, Words(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="too few questions"):
        measure(FULL, ITEMS[:1], Words())
