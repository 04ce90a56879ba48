"""Choices whose truth is planted, under letters that have a pull of their own."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moralprobe.behavior.options import (
    LETTERS,
    Readout,
    choose,
    letter_said,
    lettered,
    orders_of,
    rate,
    rating_said,
    why_not,
)
from moralprobe.behavior.text_model import NoLogprobsError, Question, Scripted, UnansweredError
from moralprobe.cache import open_cache
from moralprobe.errors import UsageError

OPTIONS = ("keep it", "break it", "forget it", "renew it")


def shown(question: Question, n: int) -> list[str]:
    """The options of a question in the order in which it shows them."""
    lines = question.text.splitlines()
    return [line[3:] for line in lines if line[:3] in [f"{letter}. " for letter in LETTERS[:n]]]


def torn(wants: Mapping[str, float], pull: float, n: int) -> Scripted:
    """Who wants options by so much, and is drawn to earlier letters, in log-odds."""

    def believes(question: Question) -> dict[str, float]:
        order = shown(question, n)
        logits = np.array([wants[option] - pull * k for k, option in enumerate(order)])
        p = np.exp(logits - logits.max())
        p *= 0.9 / p.sum()
        found = {LETTERS[k]: 0.75 * p[k] for k in range(n)}
        return found | {f" {LETTERS[k]}": 0.25 * p[k] for k in range(n)}

    def says(question: Question) -> str:
        p = believes(question)
        letters = [p[LETTERS[k]] + p[f" {LETTERS[k]}"] for k in range(n)]
        rng = np.random.default_rng([question.seed, len(question.text)])
        drawn = rng.choice(n + 1, p=[*letters, 1 - sum(letters)])
        return f"{LETTERS[drawn]}." if drawn < n else "Well, who knows"

    return Scripted("torn", says, believes)


@given(wants=st.lists(st.floats(-4, 4), min_size=2, max_size=4), pull=st.floats(-3, 3, width=32))
def test_what_is_wanted_comes_out_whatever_letters_pull(wants: list[float], pull: float) -> None:
    n = len(wants)
    by_option = dict(zip(OPTIONS, wants, strict=False))
    (found,) = choose(torn(by_option, pull, n), [("Well?", OPTIONS[:n])])
    p = np.exp(wants) / np.exp(wants).sum()
    np.testing.assert_allclose(found.shares, p, atol=1e-6)
    assert found.mass == pytest.approx(0.9) and found.status == "ok"
    assert len(found.by_order) == len(orders_of(n))
    if abs(pull) < 1e-9:
        np.testing.assert_allclose(found.by_order, [p] * len(found.by_order), atol=1e-6)


def test_one_order_alone_would_have_told_of_the_letters() -> None:
    (found,) = choose(torn(dict.fromkeys(OPTIONS, 0.0), 2.0, 2), [("Well?", OPTIONS[:2])])
    assert found.shares == pytest.approx((0.5, 0.5))
    assert found.by_order[0][0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert found.by_order[1][0] == pytest.approx(1 / (1 + math.exp(2)))


@pytest.mark.parametrize("n", range(2, 8))
def test_every_option_has_every_letter_as_often(n: int) -> None:
    orders = orders_of(n)
    for option, place in itertools.product(range(n), repeat=2):
        assert sum(order[place] == option for order in orders) == len(orders) // n
    assert len(set(orders)) == len(orders)


def test_samples_give_the_shares_that_probabilities_are_of() -> None:
    wants = dict(zip(OPTIONS, (1.0, 0.0), strict=False))
    model = torn(wants, 0.0, 2)
    asked = [("Well?" + "!" * k, OPTIONS[:2]) for k in range(40)]
    found = choose(model, asked, readout=Readout("sampled", samples=25))
    shares = np.array([one.shares[0] for one in found])
    # 40 questions of 50 samples: five standard errors
    truth = 1 / (1 + math.exp(-1))
    assert abs(shares.mean() - truth) < 5 * math.sqrt(truth * (1 - truth) / (2000 * 0.9))
    assert np.mean([one.mass for one in found]) == pytest.approx(0.9, abs=0.05)
    assert all(one.said for one in found)


def test_a_model_that_says_words_alone_is_refused_for_probabilities() -> None:
    model = Scripted("words", lambda question: "A")
    with pytest.raises(NoLogprobsError, match=r"--readout sampled"):
        choose(model, [("Well?", OPTIONS[:2])])
    (found,) = choose(model, [("Well?", OPTIONS[:2])], readout=Readout("sampled", samples=2))
    assert found.shares == (0.5, 0.5) and found.by_order == ((1.0, 0.0), (0.0, 1.0))


def test_what_is_not_told_is_missing_and_never_a_zero() -> None:
    model = Scripted("half", lambda question: "", lambda question: {"A": 0.4})
    (found,) = choose(model, [("Well?", OPTIONS[:2])])
    assert (found.status, found.shares, found.by_order) == ("not told", (), ())
    silent = Scripted("silent", lambda question: "", lambda question: {})
    assert choose(silent, [("Well?", OPTIONS[:2])])[0].status == "not told"


def test_samples_that_cannot_be_read_are_counted_and_kept() -> None:
    sorry = Scripted("sorry", lambda question: "I'm sorry, I can't help with that.")
    (found,) = choose(sorry, [("Well?", OPTIONS[:2])], readout=Readout("sampled"))
    assert (found.status, found.mass, found.shares) == ("refused", 0.0, ())
    assert found.said.startswith("I'm sorry")
    # One order that nobody answers leaves the letters in charge: no share either.
    first = Scripted("first", lambda q: "A" if shown(q, 2)[0] == OPTIONS[0] else "hm")
    (found,) = choose(first, [("Well?", OPTIONS[:2])], readout=Readout("sampled"))
    assert (found.status, found.mass, found.shares) == ("unparsable", 0.5, ())


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A", 0), (" b", 1), ("B.", 1), ("(A)", 0), ("**B**", 1), ("A\nbecause it is kind", 0),
        ("Answer: B", 1), ("The answer", None), ("answer is A.", 0), ("A. It is acceptable.", 0),
        ("B - not acceptable", 1), ("A good person", None), ("An act", None), ("", None),
        ("C", None), ("Both", None), ("I think B", None), ("A's right", None), ("A-B", None),
        ("A/B", None), ("A, B", None), ("A & B", None), ("(A) or (B)", None), ("İ.", None),
        ("A. It is acceptable.\nB. It is not acceptable.", None), ("A. Not B.", None),
        ("A. It is a kind act.", 0), ("\"A\"", 0), ("[not asked: 9 tokens, 3 at most]", None),
    ],
)  # fmt: skip
def test_letters_are_read_strictly(said: str, letter: int | None) -> None:
    assert letter_said(said, 2) == letter


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("7", 7), (" 7.5 ", 7.5), ("10", 10), ("0", 0), ("8/10", 8), ("8 out of 10", 8),
        ("Rating: 6", 6), ("My score is 3.", 3), ("**9**", 9), ("11", None), ("-3", None),
        ("70%", None), ("1-10", None), ("5, 6", None), ("It is 7", None), ("", None),
        ("10 years in prison", None), ("1. Returning a wallet", None), ("4 out of 5", None),
        ("8 out of 100", None), ("3 / 5", None), ("7 or 8", None), ("1\n2\n3", None),
        ("0 (not at all) to 10 (entirely)", None), ("7!", 7), ("3rd", None), ("7\nbecause", 7), ("2.5.1", None), ("10/100", None),
    ],
)  # fmt: skip
def test_numbers_are_read_strictly(said: str, number: float | None) -> None:
    assert rating_said(said) == number
    model = Scripted("one", lambda question: said)
    ((value, status, kept),) = rate(model, ["How good?"])
    assert kept == said and (status == "ok") == (number is not None)
    assert math.isnan(value) if number is None else value == number / 10


def test_why_an_answer_is_none() -> None:
    assert why_not("I cannot judge that") == why_not("[refused: {}]") == "refused"
    assert why_not("[not asked: 9 tokens, 3 at most]") == "too long"
    assert why_not("It depends") == "unparsable"


def test_nothing_is_asked_twice_and_a_broken_run_goes_on(tmp_path: Path) -> None:
    asked: list[Question] = []
    limit = 5

    def believes(question: Question) -> dict[str, float]:
        if len(asked) == limit:
            raise UnansweredError("gone", "the line is dead", "again")
        asked.append(question)
        return {"A": 0.5, "B": 0.25}

    model = Scripted("m", lambda question: "", believes)
    some = [(f"question {k % 6}", OPTIONS[:2]) for k in range(12)]
    steps: list[int] = []
    with open_cache(tmp_path / "c.jsonl") as cache, pytest.raises(UnansweredError):
        choose(model, some, cache=cache)
    limit = 1000
    with open_cache(tmp_path / "c.jsonl") as cache:
        found = choose(model, some, cache=cache, step=steps.append)
        again = choose(model, some, cache=cache)
    assert len(asked) == 12 and max(Counter(q.text for q in asked).values()) == 1
    assert sum(steps) == 24 and found == again == choose(model, some)


def test_answers_are_kept_by_all_that_can_change_them(tmp_path: Path) -> None:
    model = torn({"keep it": 1.0, "break it": 0.0}, 0.0, 2)
    with open_cache(tmp_path / "c.jsonl") as cache:
        for readout in (
            Readout(),
            Readout("sampled", 2),
            Readout("sampled", 3),
            Readout("sampled", 3, 5),
        ):
            choose(model, [("Well?", OPTIONS[:2])], readout=readout, cache=cache)
        n = len(cache)
        choose(model, [("Well?", OPTIONS[:2])], system=["Be a nurse."], cache=cache)
        choose(Scripted("other", model.says, model.believes), [("Well?", OPTIONS[:2])], cache=cache)
        rate(Scripted("torn", lambda question: "7"), ["Well?"], cache=cache)
    assert n == 2 + 2 * 3 + 2 * 3 and len(cache) == n + 2 + 2 + 1


def test_a_question_is_shown_with_its_letters() -> None:
    assert lettered("Well?", ["one", "two"]) == (
        "Well?\n\nA. one\nB. two\n\nAnswer with one letter and nothing else."
    )


@pytest.mark.parametrize("options", [[], ["one"], [str(k) for k in range(27)]])
def test_options_are_two_and_no_more_than_letters(options: list[str]) -> None:
    with pytest.raises(UsageError, match="there are no options"):
        choose(Scripted("m", lambda question: "A"), [("Well?", options)])
    assert choose(Scripted("m", lambda question: "A"), []) == []
    with pytest.raises(UsageError, match=r"\[2, 3\] options"):
        choose(Scripted("m", lambda q: "A"), [("a", OPTIONS[:2]), ("b", OPTIONS[:3])])


def test_a_readout_is_one_of_three() -> None:
    with pytest.raises(UsageError, match=r"no readout 'logprobs'.*logprob"):
        Readout("logprobs")
    with pytest.raises(UsageError, match="a sample and a token"):
        Readout("sampled", 0)


def test_a_model_that_leaves_questions_out_is_refused() -> None:
    class Lazy(Scripted):
        def complete(self, questions, *, max_tokens, temperature=0.0):  # type: ignore[no-untyped-def]
            yield 0, "7"

    with pytest.raises(UnansweredError, match="left 1 questions out"):
        rate(Lazy("lazy", lambda question: ""), ["a", "b"])


def test_a_list_answers_different_questions_in_their_order(tmp_path: Path) -> None:
    script = Scripted("list", ["1", "2", "3"])
    with open_cache(tmp_path / "c.jsonl") as cache:
        said = [row[2] for row in rate(script, ["a", "a", "b"], cache=cache)]
        assert said == ["1", "1", "2"] and len(cache) == 0
        assert [row[2] for row in rate(script, ["b", "c"], cache=cache)] == ["2", "3"]
    with pytest.raises(UsageError, match="has no more words"):
        rate(script, ["d"])
