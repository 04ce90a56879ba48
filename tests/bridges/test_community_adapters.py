"""Adapters learn what a community answers, and nothing from what is shuffled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moralprobe.behavior.options import LETTERS, VARIANTS, lettered
from moralprobe.behavior.pluralism.learning import ALL, EVERYONE, NONE, OWN, SHUFFLED, split
from moralprobe.behavior.pluralism.measuring import predict
from moralprobe.behavior.pluralism.surveys import Answers, Item, Survey
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.bridges.adapters import adapters_in, folder_of, known, unlearnt
from moralprobe.bridges.community_adapters import (
    Training,
    divergence,
    learn,
    parse_arms,
    survey_loss,
    train,
)
from moralprobe.bridges.lora import load_lora, new_lora
from moralprobe.errors import DataError, ModelError, UsageError
from moralprobe.steering.text import LocalText
from tests.bridges.test_instruction_generator import roomy

FAST = Training(epochs=6, lr=1e-2, rank=8)


def survey(questions: int = 44, seed: int = 0) -> Survey:
    """North likes what is good, and south what is bad, whatever it is."""
    rng, answers = np.random.default_rng(seed), []
    for q in range(questions):
        names = ["good", "bad"] if q % 2 else ["bad", "good"]
        item = Item(f"{''.join(rng.choice(list('abcdefgh'), 5))} {q}?", tuple(names))
        for community, liked in (("north", "good"), ("south", "bad")):
            p = np.where(np.array(names) == liked, 0.9, 0.1)
            answers.append(Answers(item, community, p, 100))
    return Survey(tuple(answers))


SURVEY = survey()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_the_loss_is_the_cross_entropy_of_each_question_by_itself(family: str) -> None:
    """Against log-probabilities that are read one question at a time, of unequal lengths."""
    adapted = new_lora(roomy(family), rank=4)
    rng = np.random.default_rng(0)
    items = [
        Item("Short?", ("one", "two")),
        Item("A question that is a good deal longer than that?", ("a", "b", "c", "d")),
        Item("Third, perhaps?", ("yes", "no", "both")),
    ]
    answers = [Answers(item, "x", rng.dirichlet(np.ones(len(item.options)))) for item in items]
    orders = [rng.permutation(len(one.shares)) for one in answers]
    expected = []
    for one, order in zip(answers, orders, strict=True):
        asked = Question(lettered(one.item.question, [one.item.options[i] for i in order]))
        written = [v.format(x) for x in LETTERS[: len(order)] for v in VARIANTS]
        ((_, told),) = adapted.text.score_options([asked], written)
        p = np.nansum(np.exp(np.array(told)).reshape(len(order), len(VARIANTS)), axis=1)
        expected.append(-(one.shares[order] * np.log(p / p.sum())).sum())
    loss = survey_loss(adapted, answers, orders)
    assert float(loss.detach()) == pytest.approx(np.mean(expected), rel=1e-4)
    torch.autograd.backward(loss)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapted.matrices)


def test_a_community_is_learnt_and_its_adapter_taken_out_again(tmp_path: Path) -> None:
    model = LocalText(roomy())
    given = split(SURVEY, 2, 44)
    before = predict(model, [(a.item, None) for a in given.measured.answers[:4]])
    found = learn(
        model,
        given,
        arms=parse_arms("adapter,everyone's adapter,adapter of shuffled options"),
        training=FAST,
        out=tmp_path,
        draws=200,
    )
    after = predict(model, [(a.item, None) for a in given.measured.answers[:4]])
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.shares, b.shares, rtol=1e-4)
    of = {
        (r["arm"], r["than"]): r
        for r in found.arms.filter(community=ALL, measure="skill").to_dicts()
    }
    assert (
        of[OWN, NONE]["low"] > 0 and of[OWN, EVERYONE]["low"] > 0 and of[OWN, SHUFFLED]["low"] > 0
    )
    # What all together answer is even: nobody can learn from it which one it is.
    assert abs(of[EVERYONE, NONE]["value"]) < abs(of[OWN, NONE]["value"]) / 2
    first, last = found.summary["divergence"]["adapter: north"]
    assert last < first - 0.1
    # What was written is what answered.
    about = {one.name: one for one in adapters_in(tmp_path)}
    assert set(about) == {
        *("adapter: north", "adapter: south", EVERYONE),
        *(f"{SHUFFLED}: {c}" for c in ("north", "south")),
    }
    north = about["adapter: north"]
    asked = [a.item for a in given.measured.of(["north"]).answers]
    text = load_lora(north.folder, roomy(), north.identity).text
    again = predict(text, [(item, None) for item in asked])
    said = found.answers.filter(arm=OWN, community="north")["said"].to_list()
    for one, shares in zip(again, said, strict=True):
        np.testing.assert_allclose(one.shares, shares, rtol=1e-3)
    kept = unlearnt(SURVEY, north)
    learnt = {one.item.unit for one in given.learnt.of(["north"]).answers}
    assert kept.answers and not {one.item.unit for one in kept.answers} & learnt
    with pytest.raises(DataError, match="trained on the batteries of all"):
        unlearnt(given.learnt.of(["north"]), north)
    with pytest.raises(DataError, match="holds no adapter of a community"):
        known(tmp_path)
    assert folder_of("A-B") != folder_of("A B")


def test_what_cannot_be_learnt_is_refused() -> None:
    given = split(SURVEY, 2, 44)
    script = Scripted("s", lambda q: "A", lambda q: {"A": 0.6, "B": 0.4})
    with pytest.raises(UsageError, match=r"can't be trained.*--arms none,persona,examples"):
        learn(script, given, draws=20)
    found = learn(script, given, arms=parse_arms("persona, examples"), draws=20)
    assert found.arms["arm"].unique(maintain_order=True).to_list() == [NONE, "persona", "examples"]
    with pytest.raises(UsageError, match=r"no arm 'exampels'.*did you mean examples"):
        parse_arms("exampels")
    with pytest.raises(UsageError, match="train no adapter"):
        Training(epochs=0)
    with pytest.raises(DataError, match="nothing to learn from"):
        train(new_lora(roomy(), rank=2), [], FAST)
    with pytest.raises(ModelError, match="holds no trained matrices"):
        load_lora(Path("nowhere"), roomy())


def test_divergence_is_from_the_shares_in_the_orders_asked() -> None:
    model, answers = roomy(), SURVEY.of(["north"]).answers[:19]
    adapted = new_lora(model, rank=2)
    rng, each = np.random.default_rng(4), []
    for one in answers:
        order = rng.permutation(len(one.shares))
        loss = float(survey_loss(adapted, [one], [order]).detach())
        each.append(loss + sum(p * np.log(p) for p in one.shares if p > 0))
    adapted.away()
    assert divergence(new_lora(model, rank=2), answers, seed=4) == pytest.approx(
        np.mean(each), rel=1e-4
    )
