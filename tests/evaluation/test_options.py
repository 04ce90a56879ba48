"""Log-probabilities of answers against one forward pass each, and intervals against their formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from moralprobe.errors import DataError, ModelError, NumericError
from moralprobe.evaluation.options import (
    Choices,
    auroc_of,
    batches,
    better_of,
    encode_answers,
    mean_of,
    option_logprobs,
    plain_logits,
    token_logprobs,
)
from moralprobe.geometry.measure import OK, gain
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Batch
from tests.activations.test_extract import tiny

PROMPTS = ["Is it right?", "Honesty matters. So", "Wer hilft", "x"]
OPTIONS = [
    (" yes", " no", " perhaps not"),
    (" he lies.", " he tells the truth", " b"),
    (" 诚实", "!", " niemand sonst"),
    ("ax", "bx", "by"),
]
TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}=>"


def naive(model: CausalModel, prompt: str, option: str, *, special: bool = True) -> list[float]:
    """Every token of the option alone, from a pass over prompt and option in fp32."""
    ids = model.tokenizer(prompt + option, add_special_tokens=special)["input_ids"]
    n = len(option.encode())  # tokens are bytes
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0]
    found = []
    for at in range(len(ids) - n, len(ids)):
        row = logits[at - 1]
        found.append(float(row[ids[at]] - row.exp().sum().log()))
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_options_are_as_likely_as_one_by_one(family: str, batch_tokens: int) -> None:
    model = tiny(family)
    found = option_logprobs(model, plain_logits(model), PROMPTS, OPTIONS, batch_tokens=batch_tokens)
    for i, (prompt, some) in enumerate(zip(PROMPTS, OPTIONS, strict=True)):
        for k, option in enumerate(some):
            expected = naive(model, prompt, option)
            assert found.summed[i, k] == pytest.approx(sum(expected), abs=2e-4)
            assert found.tokens[i, k] == len(expected)
            assert found.per_token[i, k] == pytest.approx(np.mean(expected), abs=1e-4)


def test_a_batch_of_many_is_as_many_batches_of_one() -> None:
    model = tiny()
    plain = plain_logits(model)
    together = option_logprobs(model, plain, PROMPTS, OPTIONS)
    for i, (prompt, some) in enumerate(zip(PROMPTS, OPTIONS, strict=True)):
        alone = option_logprobs(model, plain, [prompt], [some], batch_tokens=1)
        np.testing.assert_allclose(alone.summed[0], together.summed[i], atol=1e-4)


def test_the_order_of_items_and_options_does_not_matter() -> None:
    model = tiny()
    plain = plain_logits(model)
    found = option_logprobs(model, plain, PROMPTS, OPTIONS)
    turned = option_logprobs(model, plain, PROMPTS[::-1], [o[::-1] for o in OPTIONS[::-1]])
    np.testing.assert_allclose(turned.summed[::-1, ::-1], found.summed, atol=1e-4)


def test_what_differs_in_its_last_token_is_read_once() -> None:
    model = tiny()
    seen: list[Batch] = []

    def counted(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return plain_logits(model)(batch)

    option_logprobs(model, counted, ["Which?"], [list("abcde")])
    assert [batch.ids.shape for batch in seen] == [(1, len("Which?") + 1)]
    assert not seen[0].action.any() and not seen[0].padded
    option_logprobs(model, counted, ["Which?"], [[" a", " b", " cd"]])
    assert seen[1].ids.shape[0] == 2 and seen[1].padded
    # What is there of an answer is marked.
    assert sorted(seen[1].action.sum(1).tolist()) == [1, 2]


def test_padding_is_masked_and_positions_are_given() -> None:
    model = tiny("gpt2")
    given: list[dict[str, Any]] = []
    handle = model.model.register_forward_pre_hook(
        lambda _m, _args, kwargs: given.append(kwargs), with_kwargs=True
    )
    option_logprobs(model, plain_logits(model), ["a", "longer"], [["bc"], ["de"]])
    handle.remove()
    (inputs,) = given
    assert inputs["attention_mask"].tolist() == [[1] * 8, [1] * 3 + [0] * 5]
    assert inputs["position_ids"].tolist() == [[*range(8)], [0, 1, 2] + [2] * 5]


def test_steered_logits_are_what_is_read() -> None:
    model = tiny()
    yes = model.tokenizer(" yes", add_special_tokens=False)["input_ids"]

    def steered(batch: Batch) -> torch.Tensor:
        logits = plain_logits(model)(batch).clone()
        logits[..., yes] += 100
        return logits

    found = option_logprobs(model, steered, PROMPTS, [(" yes", " no ")] * 4)
    assert (found.per_token[:, 0] > found.per_token[:, 1]).all()


def test_in_a_chat_the_option_begins_the_answer() -> None:
    model = tiny()
    model.tokenizer.chat_template = TEMPLATE
    plain, frame = plain_logits(model), model.chat_frame()
    found = option_logprobs(model, plain, ["Right?"], [(" yes", " no")], frame=frame)
    for k, word in enumerate(("yes", "no")):
        expected = naive(model, "[Right?]=>", word, special=False)
        assert found.summed[0, k] == pytest.approx(sum(expected), abs=1e-4)
        assert found.tokens[0, k] == len(word)


def merging(model: CausalModel) -> CausalModel:
    """The same model, with tokens of two letters that reach over the seam."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {byte: i for i, byte in enumerate(alphabet)} | {"ab": 256, "?Ġ": 257}
    backend = Tokenizer(models.BPE(vocab=words, merges=[("a", "b"), ("?", "Ġ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return replace(model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend))


def test_a_token_over_the_seam_counts_with_the_option() -> None:
    model = merging(tiny(bos=False))
    (straddling, inside) = encode_answers(model, ["so?", "so"], [" ab", " ab"])
    assert len(straddling.ids) == 4 and straddling.action == [False, False, True, True]
    assert len(inside.ids) == 4 and inside.action == [False, False, True, True]
    assert 257 in straddling.ids and 257 not in inside.ids


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], [], "no options"),
        (["a"], [[]], "no options"),
        (["a"], [["b"], ["c"]], "no options"),
        (["a", "b"], [["b"], ["c", "d"]], r"\[1, 2\] options"),
        (["a"], [["b", ""]], "it has no token"),
        (["a" * 50], [["b"]], "more than 40 tokens"),
    ],
)
def test_items_that_cannot_be_scored_are_refused(
    prompts: list[str], options: list[Sequence[str]], said: str
) -> None:
    model = tiny()
    with pytest.raises(DataError, match=said):
        option_logprobs(model, plain_logits(model), prompts, options, max_tokens=40)


def test_an_answer_needs_something_before_it() -> None:
    plain = plain_logits(tiny())
    assert option_logprobs(tiny(bos=True), plain, [""], [["b"]]).tokens.tolist() == [[1]]
    with pytest.raises(DataError, match="nothing stands before it"):
        option_logprobs(tiny(bos=False), plain, [""], [["b"]])


def test_logits_that_cannot_be_right_are_refused() -> None:
    model = tiny()
    plain = plain_logits(model)
    with pytest.raises(ModelError, match="don't belong to the batch"):
        option_logprobs(model, lambda batch: plain(batch)[:, -1], ["a"], [["b"]])
    with pytest.raises(NumericError, match="aren't numbers"):
        option_logprobs(model, lambda batch: plain(batch) * float("nan"), ["a"], [["b"]])
    headless = replace(model, model=model.model.model)
    with pytest.raises(ModelError, match="no language-model head"):
        plain_logits(headless)(model.collate(encode_answers(model, ["a"], ["b"])))


def test_log_probabilities_are_read_in_fp32_whatever_the_logits() -> None:
    model = tiny()
    plain = plain_logits(model)
    encoded = encode_answers(model, ["Is it right?"], [" yes"])
    (found,) = token_logprobs(model, lambda batch: plain(batch).bfloat16(), encoded)
    with torch.no_grad():
        rows = model.model(torch.tensor([encoded[0].ids])).logits[0].bfloat16().float()
    expected = torch.log_softmax(rows[-5:-1], -1)
    targets = encoded[0].ids[-4:]
    assert found == pytest.approx([float(expected[i, t]) for i, t in enumerate(targets)], abs=1e-5)


def test_batches_hold_all_texts_and_few_enough_tokens() -> None:
    model = tiny()
    encoded = encode_answers(model, ["a" * (3 * k % 17 + 1) for k in range(30)], ["b"] * 30)
    rows: list[int] = []
    for some, batch in batches(model, encoded, 40):
        rows += some
        assert batch.ids.numel() <= 40 and len(some) == len(batch.ids)
        for r, i in enumerate(some):
            assert batch.ids[r][batch.mask[r]].tolist() == encoded[i].ids[:-1]
    assert sorted(rows) == list(range(30))
    assert len(next(batches(model, encoded, 1))[0]) == 1


def test_shares_of_options() -> None:
    summed = np.log([[0.2, 0.1, 0.1], [0.001, 0.002, 0.001]])
    choices = Choices(summed, np.ones((2, 3), np.int64))
    np.testing.assert_allclose(choices.mass, [0.4, 0.004])
    np.testing.assert_allclose(np.exp(choices.log_shares), [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    ends = []
    for seed in range(25):
        x = np.random.default_rng(seed).normal(3, 2, 400)
        found = mean_of("m", "c", x, "points", seed=seed)
        assert found.value == pytest.approx(x.mean()) and found.n == 400
        error = x.std(ddof=1) / math.sqrt(len(x))
        ends.append(((found.ci_low - x.mean()) / error, (found.ci_high - x.mean()) / error))
    # One end of 1,000 resamples strays by about 0.15 standard errors, the mean of 25 by 0.03.
    assert np.mean(ends, axis=0) == pytest.approx([-1.96, 1.96], abs=0.1)


def test_groups_are_drawn_whole_and_weights_count() -> None:
    x = np.repeat(np.random.default_rng(0).random(50), 8)
    alone = mean_of("m", "c", x, "share", seed=1)
    grouped = mean_of("m", "c", x, "share", seed=1, groups=np.repeat(np.arange(50), 8))
    assert grouped.n == 50 and grouped.value == pytest.approx(alone.value)
    wider = (grouped.ci_high - grouped.ci_low) / (alone.ci_high - alone.ci_low)
    assert wider == pytest.approx(math.sqrt(8), rel=0.15)
    weighted = mean_of(
        "m", "c", np.array([1.0, 0.0, np.nan]), "nats", seed=1, weights=np.array([3, 1, 9])
    )
    assert weighted.value == 0.75 and weighted.n == 2


@pytest.mark.parametrize(("value", "n"), [(0.0, 30), (1.0, 30), (1.0, 6)])
def test_a_share_of_none_or_all_is_not_certain(value: float, n: int) -> None:
    found = mean_of("m", "c", np.full(n, value), "share", seed=1)
    exact = binomtest(round(value * n), n).proportion_ci(0.95, "exact")
    assert (found.ci_low, found.ci_high) == pytest.approx((exact.low, exact.high))


def test_one_item_has_no_interval() -> None:
    found = mean_of("m", "c", np.array([0.5]), "share", seed=1)
    assert found.status != OK and math.isnan(found.value)


def test_differences_of_two_measures_are_paired() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 300)
    a, b = (mean_of("m", "c", x + shift, "points", seed=1) for shift in (0.1, 0.0))
    low, high = gain(a, b)
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)


def test_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.4
    scores = np.round(rng.normal(labels * 1.0, 1), 1)  # with ties
    found = auroc_of("a", "c", scores, labels, seed=1, groups=np.arange(300))
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    drawn = [rng.integers(0, 300, 300) for _ in range(500)]
    spread = np.std([roc_auc_score(labels[rows], scores[rows]) for rows in drawn])
    assert found.ci_high - found.ci_low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    shuffled = auroc_of("a", "c", rng.permutation(scores), labels, seed=1, groups=np.arange(300))
    assert shuffled.ci_low < 0.5 < shuffled.ci_high
    one = auroc_of("a", "c", scores, np.ones(300, np.bool_), seed=1, groups=np.arange(300))
    assert one.status != OK


def test_the_better_rule_is_named() -> None:
    rules = {
        name: mean_of(name, "c", np.array(values), "share", seed=1)
        for name, values in (("worse", [0.0, 0.0, 1.0]), ("better", [0.0, 1.0, 1.0]))
    }
    measure, rule = better_of(rules)
    assert rule == "better" and measure.value == pytest.approx(2 / 3)
