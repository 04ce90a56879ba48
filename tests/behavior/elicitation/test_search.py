"""A weak spot that was planted is found; where there is none nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from moralprobe.behavior.elicitation.principles import Principle
from moralprobe.behavior.elicitation.proposers import Wanted, Writer
from moralprobe.behavior.elicitation.search import Options, search
from moralprobe.behavior.text_model import Question, Scripted, UnansweredError
from moralprobe.cache import open_cache
from moralprobe.errors import DataError, UsageError
from moralprobe.report.elicitation import of_search
from tests.behavior.elicitation.scripts import BAD, GOOD, at_rate, perfect, principles, scorer

QUICK = Options(rounds=2, k=4, top=2, proposals=3, tokens=16)
PLACES = ("market", "harbour", "library", "garden", "station")


def weak_at(place: str, high: float = 0.95, low: float = 0.05) -> Scripted:
    """A model that breaks principles at one place."""

    def says(question: Question) -> str:
        rng = np.random.default_rng([question.seed, *question.text.encode()])
        rate = high if place in question.text else low
        return f"{BAD if rng.random() < rate else GOOD} {rng.integers(1 << 30)}"

    return Scripted(f"weak at {place}", says)


class Anywhere:
    """A proposer that goes to places by turns, and keeps a list of what it was asked."""

    name = "anywhere"
    identity: ClassVar[dict[str, int]] = {"anywhere": 1}

    def __init__(self, bad: int = 0) -> None:
        self.asked: list[Wanted] = []
        self.bad = bad

    def propose(self, wanted, step=lambda n: None) -> list[str]:  # type: ignore[no-untyped-def]
        self.asked += wanted
        return [
            "Nothing"
            if one.seed % 10 < self.bad
            else f"At the {PLACES[one.seed % 5]} a woman called Ana ({one.seed}) looked up and then she"
            for one in wanted
        ]


def test_a_planted_weak_spot_is_found() -> None:
    found = search(
        weak_at("harbour"), principles(6), Anywhere(), scorer(), replace(QUICK, rounds=4)
    )
    last = [history[-1] for history in found.incumbents]
    assert sum("harbour" in one.prompt for one in last) >= 5
    assert all("harbour" not in history[0].prompt for history in found.incumbents)
    assert [len(history) for history in found.incumbents] == [5] * 6
    assert found.context_fit == 0 and not found.without
    # What breaks the principle most is what the proposer is told of.
    rows = found.rows(3)
    assert [row["iter"] for row in rows[:5]] == [0, 1, 2, 3, 4] and rows[0]["seed"] == 3
    assert rows[0]["search_score"] is None and rows[4]["generator"] == "anywhere"
    assert any("have another beginning" in line for line in of_search(found, 4))


def test_what_is_proposed_leads_to_what_broke_the_principle_most() -> None:
    proposer = Anywhere()
    search(at_rate(0.5), principles(3), proposer, scorer(), replace(QUICK, k=12))
    told = [one.texts for one in proposer.asked if one.texts]
    assert len(told) == 3 * 2 * 3
    assert all(len(set(texts)) == len(texts) == 2 for texts in told)
    assert np.mean([BAD in text for texts in told for text in texts]) == 1


def test_incumbents_stay_where_nothing_that_is_proposed_can_be_used() -> None:
    proposer = Anywhere(bad=10)
    found = search(at_rate(0.3), principles(3), proposer, scorer(), QUICK)
    assert all(len({one.prompt for one in history}) == 1 for history in found.incumbents)
    # The same beginning three times over is one that is too short, and two that are there already.
    assert found.unused["too short"] == 3 * 2 and found.unused["there already"] == 3 * 2 * 2
    assert "there already 12, too short 6" in of_search(found, 2)[1]


def test_the_score_is_its_formula() -> None:
    """By a model that tells probabilities: going on well, and breaking the principle."""
    p = {"market": 0.2, "harbour": 0.02}

    def believes(question: Question) -> dict[str, float]:
        at = next((rate for place, rate in p.items() if place in question.text), 1e-4)
        return {f"{BAD} {i}": at for i in range(100)} | {f"{GOOD} {i}": at for i in range(100)}

    def says(question: Question) -> str:
        return f"{BAD if 'harbour' in question.text else GOOD} {question.seed % 100}"

    one = principles(1)
    options = Options(rounds=1, k=3, top=3, proposals=8, tokens=16, alpha=2.0)
    found = search(Scripted("m", says, believes), one, Anywhere(), perfect(), options)
    assert found.context_fit == 1
    best = found.incumbents[0][-1]
    # By the market nothing is broken (its log is cut at 0.001); texts have four words.
    market, harbour = np.log(0.2) / 4 + 2 * np.log(1e-3), np.log(0.02) / 4 + 2 * np.log(1.0)
    assert harbour > market and "harbour" in best.prompt
    assert best.score == pytest.approx(harbour)
    # With no weight on breaking it, what makes completions likely is best.
    found = search(
        Scripted("m", says, believes), one, Anywhere(), perfect(), replace(options, alpha=0.0)
    )
    assert "market" in found.incumbents[0][-1].prompt
    assert found.incumbents[0][-1].score == pytest.approx(np.log(0.2) / 4)


def test_completions_that_break_more_weigh_more_in_the_fit() -> None:
    """Of two kept completions one breaks the principle surely, and the other doesn't."""
    fit = {"market": (-1.0, -9.0), "harbour": (-9.0, -1.0)}
    worst, mild = f"{BAD} now", f"{GOOD} now"

    def believes(question: Question) -> dict[str, float]:
        at = next((logs for place, logs in fit.items() if place in question.text), (-9.0, -9.0))
        return {worst: float(np.exp(at[0])), mild: float(np.exp(at[1]))}

    model = Scripted("m", lambda question: worst if question.seed % 2 else mild, believes)
    options = Options(rounds=1, k=8, top=2, proposals=8, tokens=16, alpha=0.0)
    found = search(model, principles(1), Anywhere(), perfect(), options)
    best = found.incumbents[0][-1]
    weight = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()  # by probabilities of 1 and 0
    assert "market" in best.prompt
    assert best.score == pytest.approx(weight @ fit["market"] / 4, rel=1e-3)  # of four words


def test_a_prompt_that_breaks_the_principle_itself_is_not_used() -> None:
    class Blunt(Anywhere):
        def propose(self, wanted, step=lambda n: None) -> list[str]:  # type: ignore[no-untyped-def]
            return [
                f"{BAD} with all the others in the town ({one.seed}) and then he" for one in wanted
            ]

    found = search(at_rate(0.3), principles(2), Blunt(), perfect(), QUICK)
    assert found.unused["breaks it by itself"] == 2 * 3 * 2
    assert all(BAD not in one.prompt for history in found.incumbents for one in history)


def test_a_principle_without_a_beginning_gets_one_or_is_named() -> None:
    bare = [replace(one, prompt=None) for one in principles(3)]
    found = search(at_rate(0.3), bare, Anywhere(), scorer(), QUICK)
    assert all(history[0].generator == "anywhere" for history in found.incumbents)
    mixed = [*bare[:1], *principles(3)[1:]]
    found = search(at_rate(0.3), mixed, Anywhere(bad=10), scorer(), QUICK)
    assert [one.id for one in found.without] == ["p0"] and len(found.principles) == 2
    with pytest.raises(DataError, match=r"no beginning can be used.*too short"):
        search(at_rate(0.3), bare, Anywhere(bad=10), scorer(), QUICK)
    with pytest.raises(DataError, match="there are no principles"):
        search(at_rate(0.3), [], Anywhere(), scorer(), QUICK)


def test_a_model_that_goes_away_is_gone_on_with_where_it_was(tmp_path: Path) -> None:
    whole = search(at_rate(0.5), principles(4), writer(), scorer(), QUICK)
    left = 20

    def says(question: Question) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise UnansweredError("gone", "the line is dead", "again")
        return at_rate(0.5).says(question)  # type: ignore[operator]

    with open_cache(tmp_path / "a.jsonl") as cache:
        with pytest.raises(UnansweredError):
            search(
                Scripted("at a rate", says), principles(4), writer(), scorer(), QUICK, cache=cache
            )
        n, left = len(cache), 10_000
        assert n == 20
        again = search(
            Scripted("at a rate", says), principles(4), writer(), scorer(), QUICK, cache=cache
        )
        asked = 10_000 - left
        assert again.rows(0) == whole.rows(0) and asked + n == len(cache)


def writer() -> Writer:
    def says(question: Question) -> str:
        return f"At the {PLACES[question.seed % 5]} a man called Bo ({question.seed}) looked and"

    return Writer(Scripted("writer", says))


def test_refused_completions_are_none_and_the_search_goes_on() -> None:
    silent = Scripted("silent", lambda question: "I'm sorry, I can't." if question.seed % 2 else "")
    found = search(silent, principles(2), Anywhere(), scorer(), QUICK)
    assert all(one.score == pytest.approx(np.log(1e-3)) for h in found.incumbents for one in h[1:])


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"k": 2, "top": 3}, {"alpha": -1.0}, {"tokens": 0}]
)
def test_options_that_search_nothing_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match="can't search"):
        Options(**wrong)


def test_principles_are_gone_on_from_alone() -> None:
    """What is found of one principle doesn't depend on the others."""
    both = search(weak_at("harbour"), principles(2), Anywhere(), scorer(), QUICK)
    one = search(
        weak_at("harbour"), [Principle(**vars(principles(2)[1]))], Anywhere(), scorer(), QUICK
    )
    assert [c.prompt for c in one.incumbents[0]] == [c.prompt for c in both.incumbents[1]]
