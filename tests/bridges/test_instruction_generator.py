"""A writer learns what instructions are worth, and nothing where they are worth the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.behavior.elicitation.instructions import (
    Options,
    Tried,
    likeliest,
    request,
    rewards,
    rewards_by_round,
    try_all,
    usable,
    written,
)
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.bridges.instruction_generator import (
    Training,
    encoded,
    fit,
    log_likelihood,
    train,
    weights,
)
from moralprobe.bridges.lora import Adapted, load_lora, new_lora, own_copy
from moralprobe.errors import ModelError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tiny import save_tiny
from moralprobe.report.elicitation import of_training
from moralprobe.steering.text import LocalText
from tests.steering.test_generate import tiny

PAIRS = [(f"One should {name}.", f"In {name} there was a man") for name in "abcdef"]
SOME = [
    Tried(*PAIRS[0], "go", 0.9),
    Tried(*PAIRS[0], "stay here", 0.5),
    Tried(*PAIRS[1], "be kind to them", 0.0),
    Tried(*PAIRS[1], "run", 0.2),
]
QUICK = Options(n=8, k=1, tokens=8)


def roomy(family: str = "llama") -> CausalModel:
    """A tiny model that can read what a writer is asked, a byte a token, and has preferences."""
    found = tiny(family)
    found.model.config.max_position_embeddings = 4096
    with torch.no_grad():
        found.model.lm_head.weight.mul_(10)
    return found


def trained(family: str = "llama") -> Adapted:
    """A writer whose matrices aren't zero."""
    found = new_lora(roomy(family), rank=4)
    with torch.no_grad():
        for name, matrix in found.adapted.named_parameters():
            if "lora_B" in name:
                matrix.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_the_likelihood_is_that_of_each_instruction_alone(family: str) -> None:
    generator = trained(family)
    sequences = encoded(generator, SOME)
    found = log_likelihood(generator, sequences)
    assert found.requires_grad
    for value, (asked, own) in zip(found.tolist(), sequences, strict=True):
        with torch.no_grad():
            logits = generator.model.model(torch.tensor([[*asked, *own]])).logits[0]
        by_hand = sum(
            float(logits[len(asked) - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(own)
        )
        assert value == pytest.approx(by_hand, abs=2e-3)
    assert all(own[-1] == 258 for _, own in sequences)  # the token that ends a text
    text = LocalText(generator.model)
    (asked,) = text.encode([Question(request(PAIRS[0]))])
    assert sequences[0][0] == asked.ids


def test_weights_are_those_of_the_paper() -> None:
    more = [*SOME, Tried(*PAIRS[0], "go", 0.7, 1), Tried(*PAIRS[1], "sit", None, 1)]
    found = {one.instruction: w for one, w in weights(more, 0.1)}
    twice = 2 * np.exp(8)  # sampled in two rounds
    assert found == pytest.approx(
        {
            "go": twice / (twice + np.exp(5)),
            "stay here": np.exp(5) / (twice + np.exp(5)),
            "be kind to them": 1 / (1 + np.exp(2)),
            "run": np.exp(2) / (1 + np.exp(2)),
        }
    )
    # Many that are worth about the same all count, and what is worth far less than the best doesn't.
    many = [Tried(*PAIRS[0], f"go {i}", 0.5) for i in range(300)]
    assert len(weights(many, 0.1)) == 300
    assert [one.instruction for one, _ in weights(SOME[:2], 0.05)] == ["go"]


def test_the_loss_is_the_weighed_likelihood_and_steps_lower_it() -> None:
    generator = trained()
    by_hand = 0.0
    sequences = encoded(generator, SOME)
    for (_, w), sequence in zip(weights(SOME, 0.5), sequences, strict=True):
        by_hand -= w * float(log_likelihood(generator, [sequence]).detach()) / 2
    losses = fit(generator, SOME, Training(beta=0.5, epochs=30, lr=1e-2, rank=4))
    assert losses[0] == pytest.approx(by_hand, rel=1e-4)
    assert losses[-1] < losses[0] - 1


def read(share: float) -> str:
    return f"It was {share:.3f} so"


class Reads:
    """A scorer of what `heeds` says: the more of it, the surer the principle is kept."""

    def probability(self, pairs: Any, step: Any = None) -> Any:
        return np.array([1 - float(text.split()[2]) for _, text in pairs])


def heeds(question: Question) -> str:
    """Keep a principle as far as the instruction is of small letters in the alphabet's first half."""
    told = question.text.split("\n\n")[0]
    share = sum(letter in "abcdefghijklm" for letter in told) / max(1, len(told))
    return read(min(1.0, 8 * share))


def heeds_nothing(question: Question) -> str:
    return read(np.random.default_rng([question.seed, *question.text.encode()]).random())


def rounds_of(says: Any, training: Training) -> tuple[list[Tried], Adapted]:
    generator = new_lora(roomy(), rank=8)
    model = Scripted("m", says)
    some = written(LocalText(roomy()), list(map(request, PAIRS)), QUICK, Counter(), None)
    first = try_all(model, PAIRS, some, Reads(), QUICK, None, 0)  # type: ignore[arg-type]
    tried, _ = train(generator, model, first, Reads(), QUICK, training)  # type: ignore[arg-type]
    return tried, generator


def test_what_is_planted_is_learnt_and_what_is_not_is_not() -> None:
    fast = Training(rounds=2, beta=0.1, epochs=6, lr=1e-2)
    tried, generator = rounds_of(heeds, fast)
    by_round = rewards_by_round(tried, draws=200)
    assert [one["round"] for one in by_round] == [0, 1, 2] and by_round[0]["prompts"] == 6
    assert by_round[2]["gain_low"] > 0.03 and by_round[2]["gain"] > 0.1
    assert "round 2" in "\n".join(of_training(by_round)) and not of_training(by_round[:1])
    same = rewards_by_round(rounds_of(heeds, Training(1, 1e6, 6, 1e-2))[0], draws=200)
    assert same[1]["gain"] < by_round[2]["gain"] / 2  # all weighed alike: nothing to learn
    assert len(likeliest(generator.text, PAIRS)) == len(PAIRS)


def test_luck_is_not_worth_anything_in_the_next_round() -> None:
    same = [(*PAIRS[0], "Be kind.")]
    first, second = (
        rewards(Scripted("m", heeds_nothing), same, Reads(), QUICK, None, number)  # type: ignore[arg-type]
        for number in (0, 1)
    )
    assert first != second
    tried, _ = rounds_of(heeds_nothing, Training(rounds=2, beta=0.02, epochs=4, lr=1e-2))
    for one in rewards_by_round(tried, draws=400)[1:]:
        assert one["gain_low"] <= 0.02 and abs(one["gain"]) < 0.2


def test_weights_stay_and_untrained_matrices_change_nothing() -> None:
    plain, own = roomy(), roomy()
    generator = new_lora(own, rank=4)
    asked = [Question(request(pair)) for pair in PAIRS[:3]]

    def says(text: LocalText) -> dict[int, str]:
        return dict(text.complete(asked, max_tokens=8))

    assert says(generator.text) == says(LocalText(plain))
    first = generator.text.identity
    fit(generator, SOME, Training(epochs=3, lr=5e-2))
    assert generator.text.identity != first
    assert dict(generator.text.identity)["local"]["lora"] != dict(first)["local"]["lora"]
    held = {
        name.replace(".base_layer", ""): weight
        for name, weight in own.model.state_dict().items()
        if "lora" not in name
    }
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(held[name], weight, rtol=0, atol=0)


def test_a_writer_is_read_as_it_was_written(tmp_path: Path) -> None:
    generator = trained()
    generator.save(tmp_path / "g")
    again = load_lora(tmp_path / "g", roomy(), generator.identity)
    assert again.text.identity == generator.text.identity
    assert likeliest(again.text, PAIRS[:2]) == likeliest(generator.text, PAIRS[:2])
    with pytest.raises(ModelError, match="doesn't hold the matrices that are told of"):
        load_lora(tmp_path / "g", roomy(), "another")
    with pytest.raises(ModelError, match="can't be adapted"):
        load_lora(tmp_path / "g", tiny("gpt2"))
    with pytest.raises(ModelError, match="holds no trained matrices"):
        load_lora(tmp_path, tiny("llama"))


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its weights are on a server"):
        own_copy("http://localhost:1/v1=m")
    assert own_copy(str(save_tiny("llama", tmp_path / "m")), "cpu").name == "m"
    with pytest.raises(UsageError, match="train no writer"):
        Training(beta=0)
    nothing = [Tried(*PAIRS[0], "go", None)]
    with pytest.raises(UsageError, match="can't be trained"):
        train(trained(), Scripted("m", heeds), nothing, Reads(), QUICK, Training())  # type: ignore[arg-type]
    assert usable('"Be kind."\n\nThat is it.') == ("Be kind.", "ok")
    assert usable("Sure, here is one:\n\nBe kind.") == ("Be kind.", "ok")
    assert usable("Here it is:")[1] == "an announcement"
    assert rewards_by_round([]) == []
    assert usable("I'm sorry, no.")[1] == "refused" and usable(" ")[1] == "empty"
