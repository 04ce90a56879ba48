"""Respondents whose value is known get it; random ones get nothing; sessions go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.options import LETTERS, Readout
from moralprobe.behavior.orientation import asking
from moralprobe.behavior.orientation.asking import GIVEN, Settings, sessions
from moralprobe.behavior.orientation.rationality import (
    chance,
    deviation,
    followed,
    holm,
    measures,
    rank_correlation,
    steerability,
)
from moralprobe.behavior.orientation.run import Orientation, orient
from moralprobe.behavior.orientation.slider import VALUES
from moralprobe.behavior.text_model import Question, Scripted, UnansweredError
from moralprobe.cache import open_cache
from moralprobe.errors import DataError, UsageError
from moralprobe.report.orientation import of_orientation, write_ring

_LINE = re.compile(r"^([A-I])\. you get ([\d.]+), the other person gets ([\d.]+)$", re.M)
WANTS: dict[str, Callable[[float, float], tuple[float, ...]]] = {
    "altruistic": lambda a, b: (b, a),
    "prosocial": lambda a, b: (a + b, -abs(a - b)),
    "individualistic": lambda a, b: (a, -abs(a - b)),
    "competitive": lambda a, b: (a - b, a),
}
SAMPLED = Readout("sampled")


def options_of(text: str) -> list[tuple[str, float, float]]:
    return [(letter, float(a), float(b)) for letter, a, b in _LINE.findall(text)]


def told(question: Question) -> str | None:
    """The value that a question, its system message or its dialogue assigns."""
    every = " ".join(
        [question.system or "", question.text, *(t for turn in question.turns for t in turn)]
    )
    for value in VALUES:
        if GIVEN[value] in every or f"to have {value} values" in every:
            return value
    return "competitive" if "hyper-competitive" in every else None


def follows(default: str = "prosocial") -> Scripted:
    """Somebody who follows whichever value is assigned."""

    def says(question: Question) -> str:
        options = options_of(question.text)
        if not options:
            return "I will aim at what such a person wants."
        want = WANTS[told(question) or default]
        return max(options, key=lambda o: want(o[1], o[2]))[0]

    def believes(question: Question) -> dict[str, float]:
        best = says(question)
        return {letter: 0.9 if letter == best else 0.01 for letter in LETTERS[:9]}

    return Scripted(f"follows or is {default}", says, believes)


def at_random() -> Scripted:
    def says(question: Question) -> str:
        rng = np.random.default_rng([question.seed, *question.text.encode()])
        return LETTERS[rng.integers(9)]

    return Scripted("random", says)


def value_of(found: Orientation, value: str, condition: str, measure: str) -> dict[str, float]:
    (row,) = found.measures.filter(value=value, condition=condition, measure=measure).to_dicts()
    return row


@pytest.mark.parametrize("readout", ["logprob", "sampled"])
@pytest.mark.parametrize("protocol", ["moralprobe", "hvae"])
def test_who_follows_every_value_is_rational(protocol: str, readout: str) -> None:
    found = orient(
        follows(), Settings(sessions=2, protocol=protocol, readout=Readout(readout)), draws=50
    )
    for value in VALUES:
        for condition in ("goal", "no-goal"):
            assert value_of(found, value, condition, "rationality")["measured"] == pytest.approx(
                1, abs=0.01
            )
            assert value_of(found, value, condition, "category hit")["measured"] == 1
            assert value_of(found, value, condition, "transitive")["measured"] == 1
            assert value_of(found, value, condition, "answered")["measured"] == 1
    plain = value_of(found, "prosocial", "unprompted", "rationality")
    assert plain["measured"] == pytest.approx(1, abs=0.01)
    assert value_of(found, "altruistic", "unprompted", "rationality")["measured"] < 0.8
    for measure, most in (("steerability", 1), ("rank correlation", 1)):
        assert value_of(found, "all", "goal", measure)["measured"] == pytest.approx(most, abs=0.05)
    alone = protocol == "hvae" and readout == "logprob"  # nothing differs between its sessions
    assert found.sessions.height == 2 * 4 * 2 + (1 if alone else 2)
    lines = "\n".join(of_orientation(found))
    assert "fewer than 5 sessions say nothing" in lines and "Random answers: angle 22.70" in lines


def test_who_is_always_the_same_is_not_steered() -> None:
    def says(question: Question) -> str:
        options = options_of(question.text)
        return max(options, key=lambda o: o[1] + o[2])[0] if options else "To do well."

    found = orient(Scripted("always", says), Settings(sessions=3, readout=SAMPLED), draws=50)
    assert value_of(found, "prosocial", "goal", "rationality")["measured"] == pytest.approx(
        1, abs=0.01
    )
    assert value_of(found, "all", "goal", "steerability")["measured"] == pytest.approx(0.5, abs=0.3)
    assert value_of(found, "competitive", "goal", "rationality")["high"] < 0
    above = value_of(found, "prosocial", "goal", "above unprompted")
    assert above["measured"] == pytest.approx(0, abs=0.02)
    assert not followed(found.measures)


def test_random_answers_have_a_rationality_of_nought() -> None:
    found = orient(at_random(), Settings(sessions=60, readout=SAMPLED), draws=400)
    for value in VALUES:
        for condition in ("goal", "no-goal", "unprompted"):
            row = value_of(found, value, condition, "rationality")
            assert abs(row["measured"]) < 4 * (row["high"] - row["low"]) / 3.92
    rational = found.measures.filter(measure="rationality")
    covered = ((rational["low"] <= 0) & (rational["high"] >= 0)).mean()
    assert covered >= 0.75
    every = found.sessions["angle"].to_numpy()
    assert every.mean() == pytest.approx(chance().mean, abs=2)
    for condition in ("goal", "no-goal"):
        row = value_of(found, "all", condition, "steerability")
        assert row["low"] - 0.05 < 0.5 < row["high"] + 0.05
    assert found.sessions["transitive"].mean() == pytest.approx(chance().transitive, abs=0.06)
    assert not followed(found.measures) and "tried: none" in "\n".join(of_orientation(found))


def test_options_are_shuffled_in_ours_and_not_in_the_published_one() -> None:
    ours, theirs = (sessions(Settings(sessions=3, protocol=p)) for p in ("moralprobe", "hvae"))
    orders = {order for one in ours for order in one.orders}
    assert len(orders) > 100 and all(sorted(order) == list(range(9)) for order in orders)
    assert {order for one in theirs for order in one.orders} == {tuple(range(9))}
    assert ours[0].orders == sessions(Settings(sessions=5))[0].orders
    assert ours[0].orders != sessions(Settings(sessions=3, seed=1))[0].orders
    # A letter that is always said is no option that is always chosen.
    found = orient(Scripted("A", lambda q: "A"), Settings(sessions=40, readout=SAMPLED), draws=50)
    assert found.sessions["angle"].mean() == pytest.approx(chance().mean, abs=2.5)
    published = orient(
        Scripted("A", lambda q: "A"),
        Settings(sessions=2, protocol="hvae", readout=SAMPLED),
        draws=50,
    )
    assert published.sessions["angle"].unique().to_list() == pytest.approx([30.4655], abs=0.01)


def test_what_is_asked_says_what_it_should() -> None:
    asked: list[Question] = []

    def says(question: Question) -> str:
        asked.append(question)
        return follows().says(question)  # type: ignore[operator]

    orient(Scripted("records", says), Settings(sessions=1, readout=SAMPLED), draws=20)
    items = [q for q in asked if options_of(q.text)]
    with_goal = [q for q in items if "What you aim at" in q.text]
    assert len(items) == 6 * 9 and len(with_goal) == 6 * 4
    assert all(not q.turns and q.system is None for q in items)
    assert sum(told(q) is None for q in items) == 6
    asked.clear()
    orient(
        Scripted("records", says), Settings(sessions=1, place="system", readout=SAMPLED), draws=20
    )
    items = [q for q in asked if options_of(q.text)]
    assert sum(q.system is None for q in items) == 6
    assert all(GIVEN[v] not in q.text for q in items for v in VALUES)
    asked.clear()
    orient(
        Scripted("records", says), Settings(sessions=1, described="self", readout=SAMPLED), draws=20
    )
    assert sum("List some traits of such a person" in q.text for q in asked) == 8
    assert all(GIVEN[v] not in q.text for q in asked for v in VALUES)
    asked.clear()
    orient(
        Scripted("records", says), Settings(sessions=1, protocol="hvae", readout=SAMPLED), draws=20
    )
    last = [q for q in asked if options_of(q.text) and len(q.turns) >= 6]
    goal = [q for q in last if len(q.turns) == 7]
    assert len(goal) == 4  # described, goal and five items
    assert [len(options_of(turn[0])) for turn in goal[0].turns] == [0, 0, 9, 9, 9, 9, 9]
    assert sum(asking.BE in q.text for q in asked if options_of(q.text)) == 4  # without a goal


def test_payoffs_are_scaled_renamed_and_drawn_anew_and_the_angle_stays() -> None:
    for more in ({"scale": 3.0}, {"currency": "dollars"}, {"novel": True}, {"items": "all"}):
        found = orient(follows(), Settings(sessions=1, readout=SAMPLED, **more), draws=20)  # type: ignore[arg-type]
        for value in ("altruistic", "competitive"):
            row = value_of(found, value, "goal", "rationality")
            assert row["measured"] == pytest.approx(1, abs=0.02), more
    assert found.sessions["secondary"].is_not_null().any()
    assert found.choices.height == 9 * 15


def test_what_is_no_answer_is_counted_and_its_session_has_no_angle() -> None:
    def says(question: Question) -> str:
        odd = np.random.default_rng(question.seed).random() < 0.05
        return "I'm sorry, I can't." if odd else "C"

    found = orient(Scripted("m", says), Settings(sessions=20, readout=SAMPLED), draws=50)
    refused = found.choices.filter(pl.col("status") != "ok")
    assert set(refused["status"]) == {"refused", "no goal: refused"}
    assert refused["option"].is_null().all()
    counted = found.summary["statuses"]
    assert counted["refused"] + counted["no goal: refused"] == refused.height > 0
    missing = found.sessions.filter(pl.col("answered") < 6)
    assert missing.height and missing["angle"].is_null().all()
    measured = found.measures.filter(measure="angle", condition="goal").to_dicts()
    assert all(row["n"] < row["sessions"] == 20 for row in measured)
    refused_share = found.measures.filter(measure="refused", condition="goal")["measured"]
    assert refused_share.mean() == pytest.approx(
        found.choices.filter(condition="goal")["status"].str.contains("refused").mean(), abs=1e-9
    )
    answered = found.measures.filter(measure="answered")
    assert 0 < answered["measured"].mean() < 1
    with pytest.raises(DataError, match="never answers all items"):
        orient(Scripted("m", lambda q: "Well..."), Settings(sessions=1, readout=SAMPLED))


def test_sessions_that_were_cut_off_go_on(tmp_path: Path) -> None:
    asked: list[Question] = []

    def says(question: Question) -> str:
        asked.append(question)
        if len(asked) == 30:
            raise UnansweredError("gone", "it is", "come back")
        return follows().says(question)  # type: ignore[operator]

    for protocol in ("moralprobe", "hvae"):
        asked.clear()
        settings = Settings(sessions=1, protocol=protocol, readout=SAMPLED)
        with open_cache(tmp_path / f"{protocol}.jsonl") as cache:
            with pytest.raises(UnansweredError):
                orient(Scripted("m", says), settings, draws=20, cache=cache)
            found = orient(Scripted("m", says), settings, draws=20, cache=cache)
        whole = orient(follows(), settings, draws=20)
        assert found.sessions["angle"].to_list() == whole.sessions["angle"].to_list()
        assert len(asked) == len({(q.text, q.seed, q.turns) for q in asked}) + 1


def test_bad_settings_are_named() -> None:
    for more, words in (
        ({"values": ("kind",)}, "no value 'kind'"),
        ({"conditions": ("goals",)}, "no condition 'goals'.*did you mean|no condition"),
        ({"items": "some"}, "no set of items"),
        ({"protocol": "ours"}, "no protocol"),
        ({"readout": Readout("verbal")}, "no readout of a choice"),
        ({"values": ()}, "nothing to ask"),
        ({"sessions": 0}, "nothing to ask"),
        ({"values": ("altruistic", "altruistic")}, "named twice"),
        ({"currency": " "}, "nothing is divided"),
        ({"scale": float("nan")}, "between 0 and a million"),
        ({"scale": float("inf")}, "between 0 and a million"),
        ({"protocol": "hvae", "place": "system"}, "as they are"),
        ({"protocol": "hvae", "novel": True}, "as they are"),
        ({"scale": 0.01}, "can't be multiplied"),
    ):
        with pytest.raises(UsageError, match=words):
            Settings(**more)  # type: ignore[arg-type]


def test_steerability_and_rank_by_hand() -> None:
    angles = {
        "altruistic": np.array([50.0, 20.0]),
        "individualistic": np.array([20.0, 30.0]),
        "competitive": np.array([0.0]),
    }
    pairs = [(1 + 1 + 0.5 + 0) / 4, 1.0, 1.0]
    assert steerability(angles) == pytest.approx(np.mean(pairs))
    assert steerability({"altruistic": np.array([1.0])}) is None
    from scipy.stats import spearmanr

    by_hand = spearmanr([3, 3, 1, 1, 0], [50, 20, 20, 30, 0]).statistic
    assert rank_correlation(angles) == pytest.approx(by_hand)
    assert rank_correlation({"altruistic": np.array([1.0, 2.0])}) is None
    assert deviation(np.array([0.0, 10.0, -10.0]), "individualistic").tolist() == pytest.approx(
        [0, 2.18, 2.18]
    )


def test_one_session_has_no_interval() -> None:
    found = orient(follows(), Settings(sessions=1, readout=SAMPLED), draws=20)
    assert found.measures.filter(measure="angle")["low"].is_null().all()
    table = measures(found.sessions.with_columns(angle=pl.lit(None, pl.Float64)), draws=20)
    assert table.filter(measure="rationality")["measured"].is_null().all()


def test_the_ring_is_drawn_and_tables_are_written(tmp_path: Path) -> None:
    found = orient(follows(), Settings(sessions=2, readout=SAMPLED), draws=20)
    found.save(tmp_path)
    assert pl.read_parquet(tmp_path / "measures.parquet").equals(found.measures)
    drawn = write_ring(found, tmp_path / "ring.svg").read_text()
    assert "<svg" in drawn and drawn == write_ring(found, tmp_path / "again.svg").read_text()


def test_who_answers_at_random_is_hardly_ever_said_to_follow() -> None:
    """Among all values and conditions, at the sessions that are asked for if nothing is said."""
    claims = 0
    for number in range(12):

        def says(question: Question, number: int = number) -> str:
            rng = np.random.default_rng([number, question.seed, *question.text.encode()])
            return LETTERS[rng.integers(9)]

        found = orient(Scripted(f"random {number}", says), Settings(readout=SAMPLED), draws=20)
        claims += bool(followed(found.measures))
    assert claims <= 3
    sure = orient(follows("individualistic"), Settings(readout=SAMPLED), draws=20)
    assert {value for value, _ in followed(sure.measures)} >= {
        "altruistic",
        "prosocial",
        "competitive",
    }


def test_holm_by_hand() -> None:
    p = {("a", "x"): 0.01, ("b", "x"): 0.02, ("c", "x"): 0.03, ("d", "x"): 0.9}
    assert holm(p) == {("a", "x")}  # 0.02 > 0.05 / 3
    assert holm({**p, ("b", "x"): 0.016}) == {("a", "x"), ("b", "x")}
    assert holm({}) == set()


def test_who_says_no_goal_has_no_session_and_is_counted() -> None:
    def says(question: Question) -> str:
        if not options_of(question.text):
            odd = question.seed % 2
            return "I'm sorry, I can't." if odd else "<think>Hm.</think> I aim at <b>all</b>."
        assert "sorry" not in question.text and "<" not in question.text
        return follows().says(question)  # type: ignore[operator]

    for protocol in ("moralprobe", "hvae"):
        settings = Settings(sessions=8, protocol=protocol, readout=SAMPLED)
        found = orient(Scripted("m", says), settings, draws=20)
        failed = found.choices.filter(pl.col("status").str.starts_with("no "))
        assert failed.height and failed["option"].is_null().all()
        assert set(failed["status"]) <= {"no goal: refused", "no description: refused"}
        with_goal = found.sessions.filter(condition="goal")
        assert 0 < with_goal["angle"].null_count() < with_goal.height


def test_a_letter_that_is_not_told_is_less_likely_than_those_that_are() -> None:
    def some(question: Question) -> dict[str, float]:
        best = follows().says(question)  # type: ignore[operator]
        return {best: 0.7, "Z": 0.1}

    found = orient(Scripted("m", lambda q: "x", some), Settings(sessions=1), draws=20)
    assert found.sessions["angle"].is_not_null().all()
    assert found.sessions["expected_angle"].is_null().all()
    hardly = Scripted("m", lambda q: "x", lambda q: dict.fromkeys(LETTERS[:9], 1e-05))
    with pytest.raises(DataError, match="no option"):
        orient(hardly, Settings(sessions=1), draws=20)


def test_the_expected_angle_is_that_of_mean_payoffs() -> None:
    even = Scripted("m", lambda q: "x", lambda q: dict.fromkeys(LETTERS[:9], 0.1))
    found = orient(even, Settings(sessions=2, conditions=("unprompted",)), draws=20)
    assert found.sessions["expected_angle"].to_list() == pytest.approx([chance().of_means] * 2)
    sure = Scripted(
        "m",
        lambda q: "x",
        lambda q: {k: float(k == follows().says(q)) for k in LETTERS[:9]},  # type: ignore[operator]
    )
    found = orient(sure, Settings(sessions=2), draws=20)
    assert found.sessions["expected_angle"].to_list() == pytest.approx(
        found.sessions["angle"].to_list()
    )
    row = value_of(found, "altruistic", "goal", "expected angle")
    assert row["chance"] == pytest.approx(chance().of_means)


def test_novel_items_have_no_chance_and_no_claim() -> None:
    found = orient(follows(), Settings(sessions=5, novel=True, readout=SAMPLED), draws=20)
    assert found.measures["chance"].is_null().all() and found.measures["p"].is_null().all()
    assert "of no value a claim is made" in "\n".join(of_orientation(found))
    assert found.sessions["transitive"].all()


def test_the_published_protocol_samples_and_asks_nobody_twice_the_same() -> None:
    assert Settings(protocol="hvae").read.kind == "sampled" and Settings().read.kind == "logprob"
    alike = sessions(Settings(protocol="hvae", readout=Readout("logprob")))
    assert sum(one.value is None for one in alike) == 1
    assert sum(one.value is None for one in sessions(Settings(protocol="hvae"))) == 10
    assert sessions(Settings(values=(), conditions=("unprompted",)))[0].value is None
