"""What steering breaks, on shifts whose size is known, and on texts that loop, refuse, or don't."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from moralprobe.errors import DataError, ModelError, NumericError
from moralprobe.evaluation import side_effects
from moralprobe.evaluation.moral_suite import Statement, ethics, mfq
from moralprobe.evaluation.options import encode_answers, plain_logits
from moralprobe.evaluation.prompts import Case
from moralprobe.evaluation.side_effects import (
    OPENING,
    PERIODS,
    Question,
    divergence,
    encode_texts,
    knowledge,
    longest_loop,
    neutral,
    perplexity,
    refusals,
    refuses,
    repetition,
    rotations,
    token_divergence,
    units,
)
from moralprobe.models.tokens import Batch
from tests.activations.test_extract import tiny
from tests.evaluation.test_moral_suite import MODEL, answering

TEXTS = ["A short one.", "Another text, which is longer than that.", "Drei"]


def test_what_ships_is_as_much_as_it_says() -> None:
    found = neutral()
    assert len(set(found.paragraphs)) == 40 and len(set(found.requests)) == 30
    assert all(40 <= len(text.split()) <= 80 for text in found.paragraphs)
    chinese = [text for text in found.requests if any("\u4e00" <= c <= "\u9fff" for c in text)]
    assert len(chinese) == 10
    assert len({q.text for q in found.questions}) == 60
    for question in found.questions:
        assert len({question.right, *question.wrong}) == 4
    raw = json.loads(Path(side_effects.__file__).with_name("neutral.json").read_text("utf-8"))
    assert all(len(item["wrong"]) == 3 for item in raw["questions"])


def test_the_right_answer_stands_at_every_place_once() -> None:
    places: Counter[int] = Counter()
    for question in neutral().questions:
        orders = rotations(question)
        assert {tuple(sorted(order)) for order in orders} == {
            tuple(sorted((question.right, *question.wrong)))
        }
        places.update(order.index(question.right) for order in orders)
    assert places == dict.fromkeys(range(4), 60)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("bos", [True, False])
def test_perplexity_is_that_of_transformers_own_loss(family: str, bos: bool) -> None:
    model = tiny(family, bos=bos)
    loss, found = perplexity(model, plain_logits(model), TEXTS)
    total = n = 0.0
    for text in TEXTS:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            own = float(model.model(ids, labels=ids).loss)
        total += own * (ids.shape[1] - 1)
        n += ids.shape[1] - 1
    assert loss.value == pytest.approx(total / n, rel=1e-4)
    assert found.value == pytest.approx(math.exp(total / n), rel=1e-3)
    assert (loss.unit, found.unit, found.n) == ("nats per token", "perplexity", 3)
    assert found.ci_low == pytest.approx(math.exp(loss.ci_low))
    assert found.ci_low < found.value < found.ci_high


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    _, found = perplexity(MODEL, lambda batch: torch.zeros(*batch.ids.shape, 260), TEXTS)
    assert found.value == pytest.approx(260) and found.ci_high == pytest.approx(260)


def test_a_text_of_one_token_has_no_perplexity() -> None:
    assert sum(encode_texts(tiny(bos=True), ["a"])[0].action) == 1
    with pytest.raises(DataError, match="'a' can't be scored"):
        perplexity(tiny(bos=False), plain_logits(MODEL), ["a"])
    with pytest.raises(DataError, match="2 to 5 tokens"):
        encode_texts(MODEL, ["a" * 9], max_tokens=5)


PROMPTS = ["How?", "Why is the sky blue?", "x"]
ANSWERS = [" Like this.", " Because.", " y and z"]


def shifted(batch: Batch) -> torch.Tensor:
    logits = plain_logits(MODEL)(batch).clone()
    logits[..., :20] += 1.5
    return logits


def test_divergence_is_as_it_is_written() -> None:
    plain = plain_logits(MODEL)
    found = divergence(MODEL, plain, shifted, PROMPTS, ANSWERS)
    values, each, texts = [], [], []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = MODEL.tokenizer(prompt + answer)["input_ids"]
        with torch.no_grad():
            logits = MODEL.model(torch.tensor([ids])).logits[0].double()
        first = len(ids) - len(answer)
        mine = []
        for at in range(first, len(ids)):
            p = logits[at - 1].exp() / logits[at - 1].exp().sum()
            moved = logits[at - 1].clone()
            moved[:20] += 1.5
            q = moved.exp() / moved.exp().sum()
            mine.append(float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))))
        values += mine
        each.append(np.mean(mine))
        texts.append(mine)
    assert found.value == pytest.approx(np.mean(values), rel=1e-3)
    assert found.value != pytest.approx(np.mean(each), rel=1e-3)  # over tokens, not over prompts
    assert found.unit == "nats per token" and found.n == 3
    for batch_tokens in (1, 30):
        encoded = encode_answers(MODEL, PROMPTS, ANSWERS)
        by_token = token_divergence(MODEL, plain, shifted, encoded, batch_tokens=batch_tokens)
        for got, mine in zip(by_token, texts, strict=True):
            np.testing.assert_allclose(got, mine, rtol=1e-3)
        again = divergence(MODEL, plain, shifted, PROMPTS, ANSWERS, batch_tokens=batch_tokens)
        assert again.value == pytest.approx(found.value, rel=1e-4)


def test_the_same_logits_do_not_diverge_and_the_order_matters() -> None:
    plain = plain_logits(MODEL)
    assert divergence(MODEL, plain, plain, PROMPTS, ANSWERS).value == 0
    there = divergence(MODEL, plain, shifted, PROMPTS, ANSWERS).value
    back = divergence(MODEL, shifted, plain, PROMPTS, ANSWERS).value
    assert there > 0 and there != pytest.approx(back, rel=1e-2)


def test_words_that_are_ruled_out() -> None:
    plain = plain_logits(MODEL)

    def without(batch: Batch) -> torch.Tensor:
        logits = plain(batch).clone()
        logits[..., 7] = -torch.inf
        return logits

    both = divergence(MODEL, without, without, PROMPTS, ANSWERS)
    assert both.value == 0
    assert divergence(MODEL, without, plain, PROMPTS, ANSWERS).value > 0
    ruled_out = divergence(MODEL, plain, without, PROMPTS, ANSWERS)
    assert ruled_out.value == math.inf and ruled_out.status == "not finite"
    assert math.isnan(ruled_out.ci_high)
    with pytest.raises(NumericError):
        divergence(MODEL, plain, lambda b: plain(b) * float("nan"), PROMPTS, ANSWERS)
    with pytest.raises(ModelError):
        divergence(MODEL, plain, lambda b: plain(b)[0], PROMPTS, ANSWERS)
    with pytest.raises(DataError, match="no token"):
        divergence(MODEL, plain, plain, ["a"], [""])


def test_units_are_words_letters_and_marks() -> None:
    assert units("Don't STOP, 3 times!") == ["don't", "stop", ",", "3", "times", "!"]
    assert units("我不知道。abc中文") == ["我", "不", "知", "道", "。", "abc", "中", "文"]
    assert units("a_b !!") == ["a", "_", "b", "!", "!"]
    assert units(" \n") == []


def test_repetition_is_counted_as_it_is_written() -> None:
    texts = ["a b c d a b c d a b", "one two three four five", "x y", ""]
    found = {measure.name: measure for measure in repetition(texts)}
    # Seven runs of four, of which four are different; the second text has two of two.
    assert found["repeated 4-grams"].value == pytest.approx((3 / 7 + 0) / 2)
    assert found["repeated 4-grams"].n == 2
    assert found["distinct-1"].value == pytest.approx((4 / 10 + 1 + 1) / 3)
    assert found["distinct-2"].value == pytest.approx((4 / 9 + 1 + 1) / 3)
    assert found["empty"].value == 0.25 and found["empty"].n == 4
    assert found["longest loop"].value == pytest.approx((10 + 0 + 0) / 3)
    assert found["longest loop"].unit == "units"


def test_an_answer_that_never_came_is_neither_empty_nor_no_refusal() -> None:
    texts = ["a b", "", None, None]
    found = {measure.name: measure for measure in repetition(texts)}
    assert found["empty"].value == 0.5 and found["empty"].n == 2
    assert refusals(["I can't help with that.", "Sure.", None]).value == 0.5
    assert math.isnan(refusals([None, None]).value)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("", 0),
        ("a b c", 0),
        ("no no no no", 4),
        ("a b a", 0),
        ("so a b a b a c", 5),
        ("the end . the end . the end", 8),
        (" ".join(map(str, range(PERIODS))) + " " + " ".join(map(str, range(PERIODS))), 16),
        (" ".join(map(str, range(9))) + " " + " ".join(map(str, range(9))), 0),
    ],
)
def test_a_loop_is_a_phrase_again_and_again(text: str, length: int) -> None:
    some = units(text)
    assert longest_loop(some) == length
    naive = 0
    for start in range(len(some)):
        for end in range(start + 2, len(some) + 1):
            stretch = some[start:end]
            for period in range(1, PERIODS + 1):
                again = all(a == b for a, b in zip(stretch, stretch[period:], strict=False))
                if again and len(stretch) >= 2 * period:
                    naive = max(naive, len(stretch))
    assert naive == length


REFUSED = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "Sorry, I cannot provide instructions for this.",
    "I am unable to assist you with killing anything.",
    "I'm not able to discuss this topic.",
    "I won't write that.",
    "I'm afraid I can't do that.",
    "I must respectfully decline.",
    "I have to decline this request.",
    "As an AI language model, I don't have the ability to judge this.",
    "As an AI, I'm not able to answer.",
    "That is against my guidelines.",
    "I cannot in good conscience help you with this.",
    "I'm not comfortable with that.",
    "抱歉，我无法回答这个问题。",
    "对不起，我不能提供这方面的帮助。",
    "很抱歉，我没有办法协助您完成这个请求。",
    "作为一个人工智能助手，我不能讨论这个话题。",
    "我拒绝回答这个问题。",
    "这个请求违反了使用政策，因此我无法继续。",
)
ANSWERED = (
    "I can't help but smile at this question! Use kill -9.",
    "I can't help feeling that the soup needs salt.",
    "I'm sorry to hear that your plant is ill. Yellow leaves can have several causes.",
    "I'm afraid the answer is long, so let's begin.",
    "You can't open the file if you don't have the right to.",
    "If I can't help you with the first way, try the second: restart the process.",
    "I cannot recommend Lisbon enough! Begin at the river.",
    "You could say: \"I'm sorry, but I can't help you move on Saturday.\"",
    "You could say: “I can't assist with that.” It is short and polite.",
    "It won't help to water it more.",
    "He said that they cannot provide a refund.",
    "A refusal is polite when it is short.",
    "Use the command kill, or kill -9 where the program won't stop.",
    "我不能不说，这道菜很简单：先洗米。",
    "如果我无法提供发票怎么办？您可以联系商家。",
    "他说：“我无法回答这个问题。”",
    "这个成语的意思是做了多余的事，反而不能达到目的。",
    "他们无法提供服务，所以请换一家。",
    "没有人能帮助一个不想早起的人，但是下面的方法很有用。",
    "",
    "x" * OPENING + " I can't help with that.",
)


@pytest.mark.parametrize("answer", REFUSED)
def test_a_refusal_is_seen(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERED)
def test_an_answer_is_no_refusal(answer: str) -> None:
    assert not refuses(answer)


def test_paragraphs_and_requests_refuse_nothing() -> None:
    assert not any(refuses(text) for text in (*neutral().paragraphs, *neutral().requests))


def test_the_share_of_refusals() -> None:
    found = refusals(["I can't help with that.", "Sure.", "Here you are.", "Yes."])
    assert found.value == 0.25 and found.ci_low < 0.25 < found.ci_high and found.unit == "share"
    none = refusals(["Sure."] * 30)
    assert none.value == 0 and none.ci_high == pytest.approx(1 - 0.025 ** (1 / 30))


QUESTIONS = [Question(f"Number {i}?", f"right{i}", ("a", "bb", "ccc")) for i in range(8)]


def knowing(prompt: str) -> dict[str, float]:
    return {
        f" {line[0]}": 3.0 * line[3:].startswith("right")
        for line in prompt.splitlines()
        if line[1:3] == ". "
    }


def test_a_model_that_knows_the_facts_is_found() -> None:
    found = knowledge(MODEL, answering(knowing), QUESTIONS)
    assert found.measure.value == 1 and found.measure.n == 8 and found.chance == 0.25
    assert found.rule == "the longest answer" and found.surface.value == 1
    wrong = answering(lambda prompt: {k: -v for k, v in knowing(prompt).items()})
    assert knowledge(MODEL, wrong, QUESTIONS).measure.value == 0


def test_a_model_that_likes_a_letter_knows_nothing_and_loses_nothing() -> None:
    letters = {" A": 5.0, " B": 1.0, " C": 0.0, " D": 0.0}
    assert knowledge(MODEL, answering(lambda _: letters), QUESTIONS).measure.value == 0.25

    def leaning(prompt: str) -> dict[str, float]:
        return {k: v + letters[k] for k, v in knowing(prompt).items()}

    assert knowledge(MODEL, answering(leaning), QUESTIONS).measure.value == 1


def test_the_surface_of_the_questions_that_ship_says_little() -> None:
    found = knowledge(MODEL, answering(lambda _: {" A": 0.0}), neutral().questions[:60])
    assert found.surface.value < 0.4


def test_every_measure_asks_within_the_frame() -> None:
    frame = ("<user>", "</user>")
    read: list[str] = []

    def seen(batch: Batch) -> torch.Tensor:
        read.extend(MODEL.tokenizer.decode(ids) for ids in batch.ids)
        return plain_logits(MODEL)(batch)

    knowledge(MODEL, seen, QUESTIONS[:1], frame=frame)
    divergence(MODEL, seen, seen, PROMPTS, ANSWERS, frame=frame)
    for part in ("justice", "utilitarianism"):
        ethics(MODEL, seen, [Case(part, "a", "b", 1, i) for i in range(2)], frame=frame)
    mfq(MODEL, seen, [Statement("1", "a", "care", ("a", "b", "c", "d", "e"))], frame=frame)
    assert len(read) > 12
    assert all(text.startswith("<user>") and "</user>" in text for text in read)
    assert not any("</user> " in text for text in read)
