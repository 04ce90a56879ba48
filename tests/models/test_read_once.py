"""Texts that are the same are read once, and what comes of it is what each alone gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.behavior.text_model import Question
from moralprobe.models import read_once
from moralprobe.models.causal import CausalModel
from moralprobe.models.read_once import (
    best_cut,
    can_go_on,
    handed,
    read_alike,
    read_beginnings_once,
)
from moralprobe.models.tiny import FAMILIES
from moralprobe.steering.generate import generate, side_by_side
from moralprobe.steering.sampling import Sampling
from moralprobe.steering.text import LocalText
from tests.steering.test_generate import some_edits, tiny

HOT = Sampling(12, temperature=1.0, top_p=1.0)
# The longest is longer than a family's window, and padding stands before the others.
PROMPTS = [
    "He " + "went on and on " * 6,
    "One day",
    "One day",
    "She " + "ran and ran " * 6,
    "One day",
]
SEEDS = [1, 2, 3, 1, 2]


def rows_read(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many tokens each call of the model reads."""
    read: list[int] = []
    forward = type(model.model).forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["input_ids"].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", counted)
    return read


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_a_prompt_are_those_that_each_alone_gives(family: str) -> None:
    model = tiny(family)
    together = generate(model, PROMPTS, sampling=HOT, seeds=SEEDS)
    alone = [
        generate(model, [prompt], sampling=HOT, seeds=[seed])[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert together[1].ids == together[4].ids != together[2].ids


def test_a_prompt_is_read_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    read = rows_read(model, monkeypatch)
    generate(model, ["One day"] * 6, sampling=HOT, seeds=list(range(6)))
    length = len(model.tokenizer("One day")["input_ids"])
    assert read[0] == length - 1 and read[1] == 6
    read.clear()
    generate(model, ["One day", "One dog"], sampling=HOT)
    assert read[0] == 2 * length


def test_a_prompt_that_isnt_edited_is_read_once_for_both_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("llama")
    read = rows_read(model, monkeypatch)
    side_by_side(model, "One day", some_edits(), sampling=HOT, positions="generated")
    # Both go on from the same states, to the bit.
    assert read[:2] == [len(model.tokenizer("One day")["input_ids"]) - 1, 2]


def test_what_is_padded_otherwise_is_another_text() -> None:
    model = tiny("llama")
    ids = torch.tensor([[256, 5, 6], [256, 5, 6], [9, 5, 6]])
    mask = torch.tensor([[False, True, True], [True, True, True], [True, True, True]])
    assert read_alike(model.model, ids, mask) is None
    assert read_alike(model.model, ids[:, :1], mask[:, :1]) is None
    with torch.no_grad():
        cache = read_alike(model.model, ids[[0, 2, 0]], mask[[0, 2, 0]])
    assert cache.layers[0].keys.shape[0] == 3
    torch.testing.assert_close(cache.layers[0].keys[0], cache.layers[0].keys[2])
    assert can_go_on(cache) and not can_go_on(None)
    assert handed(cache, [1, 1]).layers[0].keys.shape[0] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_options_after_a_question_read_once_are_those_read_after_each(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = LocalText(tiny(family))
    questions = [Question(one) for one in ("Is it so?", "Was it so", "Is it no?")]
    options = ["A", "yes it is", "no", "it was not so " * 8]
    read: list[bool] = []
    real = LocalText._read_once
    monkeypatch.setattr(
        LocalText, "_read_once", lambda *a: (found := real(*a), read.append(found is not None))[0]
    )
    once = dict(text.score_options(questions, options))
    assert read and all(read)
    monkeypatch.setattr(LocalText, "_read_once", lambda *_: None)
    each = dict(text.score_options(questions, options))
    for n in each:
        np.testing.assert_allclose(once[n], each[n], rtol=1e-4, atol=1e-4)
    assert np.isfinite(np.array(list(once.values()), np.float64)).all()


def test_a_model_that_keeps_no_keys_reads_every_text_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("llama")
    expected = generate(model, ["One day"] * 3, sampling=HOT, seeds=[1, 2, 3])
    forward = type(model.model).forward

    def without(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        if kwargs.get("logits_to_keep") == 1 and kwargs.get("past_key_values") is None:
            return type("Out", (), {"logits": out.logits})()
        return out

    ids = torch.tensor([[5, 6, 7]] * 2)
    monkeypatch.setattr(type(model.model), "forward", without)
    assert read_alike(model.model, ids, ids > 0) is None
    assert LocalText(model)._read_once([[5, 6], [7, 8]], [[5], [6, 7]]) is None
    monkeypatch.undo()
    assert generate(model, ["One day"] * 3, sampling=HOT, seeds=[1, 2, 3]) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_beginnings_read_once_change_nothing(family: str) -> None:
    """Questions in several orders of their options, against each read by itself."""
    text = LocalText(tiny(family))
    asked = [
        Question(f"{start} {number}?\n\nA. {first}\nB. {second}")
        for start in ("Is it so in case", "Was it ever")
        for number in (1, 2)
        for first, second in (("yes", "nay"), ("nay", "yes"))
    ]
    written = ["A", "B", " A", " B"]
    together = dict(text.score_options(asked, written))
    for n, question in enumerate(asked):
        ((_, alone),) = text.score_options([question], written)
        np.testing.assert_allclose(together[n], alone, rtol=1e-4, atol=1e-4)


def test_what_begins_alike_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    ids = torch.tensor(
        [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5], [1, 2, 7, 7, 5, 6], [1, 2, 7, 7, 6, 5]]
    )
    assert best_cut(ids, 1) == 4 and best_cut(ids[:1], 1) == 0 and best_cut(ids, 6) == 0
    assert best_cut(torch.arange(12).reshape(2, 6), 1) == 0
    assert best_cut(ids, 3) == 2 and best_cut(ids[[0, 0]], 1) == 5
    whole = model.model(input_ids=ids, logits_to_keep=2).logits
    read = rows_read(model, monkeypatch)
    with torch.no_grad():
        once = read_beginnings_once(model.model, ids, 2, use_cache=False).logits
    torch.testing.assert_close(once, whole, rtol=1e-4, atol=1e-4)
    assert sum(read) == 1 + 2 + 2 * 2 + 4 * 2  # one to see that it can, 1 2, 3 4 and 7 7, the rest
    order = torch.tensor([2, 0, 3, 1, 0])
    with torch.no_grad():
        other = read_beginnings_once(model.model, ids[order], 2).logits
    torch.testing.assert_close(other, whole[order], rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_go_on_reads_every_text_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]])
    monkeypatch.setattr(read_once, "can_go_on", lambda cache: False)
    read = rows_read(model, monkeypatch)
    with torch.no_grad():
        read_beginnings_once(model.model, ids, 1)
    assert read == [1, 8]  # one token to see that it can't


def test_a_cache_of_a_kind_of_its_own_may_hold_more_than_its_layers() -> None:
    from transformers import DynamicCache

    class Holds(DynamicCache):
        pass

    assert not can_go_on(Holds()) and not can_go_on(DynamicCache())
    model = tiny()
    out = model.model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True)
    cache = out.past_key_values
    assert can_go_on(cache)
    cache.__class__ = Holds
    assert not can_go_on(cache)
