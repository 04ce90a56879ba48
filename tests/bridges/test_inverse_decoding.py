"""Beginnings are drawn with the probability that Bayes' rule says, under hard limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moralprobe.behavior.elicitation.proposers import Limits, Proposer, Wanted, Writer
from moralprobe.behavior.elicitation.search import STORY, Options, search
from moralprobe.behavior.text_model import Scripted, TextModel
from moralprobe.bridges import inverse_decoding
from moralprobe.bridges.inverse_decoding import (
    OPENINGS,
    InverseDecoding,
    _Particles,
    leads_to,
    log_probability,
)
from moralprobe.cache import open_cache
from moralprobe.cli.elicit import _proposer
from moralprobe.errors import UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tiny import save_tiny
from moralprobe.steering.text import LocalText
from tests.behavior.elicitation.scripts import at_rate, principles, scorer
from tests.steering.test_generate import tiny

WANTED = [Wanted("One should not.", ("he left", "she went off"), seed) for seed in range(5)]


def ids(model: CausalModel, text: str, special: bool = True) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=special)["input_ids"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_probability_of_texts_is_that_of_each_alone(family: str) -> None:
    model = tiny(family)
    rows = [ids(model, text) for text in ("One day", "One dog", "At noon", "Whoever")]
    texts = [ids(model, text, False) for text in (" he ran", " a", " she didn't go")]
    found = log_probability(model, rows, texts)
    for row, mean in zip(rows, found, strict=True):
        each = []
        for text in texts:
            with torch.no_grad():
                logits = model.model(torch.tensor([[*row, *text]])).logits[0].log_softmax(-1)
            each.append(sum(float(logits[len(row) - 1 + i, token]) for i, token in enumerate(text)))
        assert mean == pytest.approx(np.mean(each), abs=1e-4)


def test_beginnings_are_drawn_as_probable_as_they_make_the_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a model that finds all tokens alike the posterior is known: each is drawn on its own."""
    model = tiny("llama", bos=False)
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
    worth, (letter,) = 3.5, ids(model, "e")

    def told(model, rows, texts):  # type: ignore[no-untyped-def]
        return np.array([worth * row.count(letter) for row in rows], np.float64)

    wanted = [Wanted("One should.", ("x",), seed) for seed in range(16)]
    proposer = InverseDecoding(model, words=10, particles=120, stride=1)
    opened = np.mean([opening.count("e") for opening in OPENINGS])
    # Of as probable tokens the nucleus leaves the first: printable ones, `e` among them.
    left = int(np.ceil(0.95 * int((~proposer._banned).sum())))
    shares = {}
    for name, of in (("prior", lambda m, rows, t: np.zeros(len(rows))), ("posterior", told)):
        monkeypatch.setattr(inverse_decoding, "log_probability", of)
        texts = proposer.propose(wanted)
        shares[name] = np.mean([text.count("e") for text in texts]) - opened
    drawn = 14 * np.exp(worth) / (np.exp(worth) + left - 1)
    monkeypatch.setattr(_Particles, "resample", lambda self: None)
    shares["weighed once"] = (
        np.mean([text.count("e") for text in proposer.propose(wanted)]) - opened
    )
    assert shares["posterior"] == pytest.approx(drawn, abs=0.75), drawn
    assert shares["prior"] < 0.5 < shares["weighed once"] + 0.3 < shares["posterior"]


def test_a_beginning_is_its_own_whatever_is_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposer = InverseDecoding(tiny("llama"), words=8, particles=3, stride=4)
    together = proposer.propose(WANTED)
    assert together == [proposer.propose([one])[0] for one in WANTED]
    assert len(set(together)) == len(WANTED)
    assert all(text.startswith(tuple(o[:4] for o in OPENINGS)) for text in together)
    with open_cache(tmp_path / "a.jsonl") as cache:
        kept = replace(proposer, cache=cache)
        assert kept.propose(WANTED) == together and len(cache) == len(WANTED)
        monkeypatch.setattr(inverse_decoding, "continued", None)
        assert kept.propose(WANTED) == together
    assert replace(proposer, particles=4).identity != proposer.identity


def test_nothing_ends_a_beginning_and_no_line_does() -> None:
    proposer = InverseDecoding(tiny("llama"), words=30, particles=2)
    banned = set(torch.nonzero(proposer._banned)[:, 0].tolist())
    lines = {i for text in "\n\r" for i in ids(proposer.model, text, False)}
    assert lines | {256, 257, 258} <= banned and ids(proposer.model, "e", False)[0] not in banned
    for text in proposer.propose(WANTED[:3]):
        assert "\n" not in text and "\r" not in text


def test_without_texts_the_rule_is_led_to() -> None:
    assert leads_to(Wanted("One should not lie.")) == ("One should not lie.",)
    assert leads_to(WANTED[0]) == WANTED[0].texts


def test_what_is_forbidden_does_not_go_on() -> None:
    def particles() -> _Particles:
        return _Particles(np.random.default_rng(0), [[1], [2], [3]], [[9]], np.zeros(3))

    some = particles()
    some.weigh(np.array([1.0, 50.0, 1.0]), [False, True, False])
    np.testing.assert_allclose(some.p(), [0.5, 0, 0.5])
    some.weigh(np.array([9.0, 50.0, 1.0]), [False, True, False])
    some.resample()
    assert some.rows == [[1], [1], [1]]
    np.testing.assert_allclose(some.p(), 1 / 3)  # a weight that was used doesn't count again
    every = particles()
    every.weigh(np.array([1.0, 5.0, 1.0]), [True, True, True])
    every.resample()
    assert every.rows == [[1], [2], [3]]
    model = tiny("llama")
    topics = InverseDecoding(model, limits=Limits(topics=("on",)))
    assert topics._forbidden(ids(model, "On the way"))
    assert not topics._forbidden(ids(model, "At noon"))


def test_it_proposes_in_a_search() -> None:
    found = search(
        at_rate(0.5),
        principles(3),
        InverseDecoding(tiny("llama"), words=10, particles=2),
        scorer(),
        Options(rounds=1, k=2, top=2, proposals=2, tokens=8),
    )
    assert len(found.incumbents) == 3 and all(len(history) == 2 for history in found.incumbents)
    written = {one.generator for history in found.incumbents for one in history}
    assert written <= {STORY, "LlamaForCausalLM inverse decoding"}


def test_a_proposer_is_named_on_the_command_line(tmp_path: Path) -> None:
    folder = str(save_tiny("llama", tmp_path / "m"))
    asked = LocalText(tiny("llama"))
    with open_cache(tmp_path / "a.jsonl") as cache:

        def named(spec: str, measured: TextModel = asked) -> Proposer:
            return _proposer(spec, folder, measured, Limits(words=20), "cpu", cache)

        for spec in ("decode", f"decode={folder}"):
            found = named(spec)
            assert isinstance(found, InverseDecoding) and found.model is asked.model
            assert found.words == 20 and found.limits.words == 20
        writer = named(folder)
        assert isinstance(writer, Writer) and writer.model is asked
        with pytest.raises(UsageError, match="can't be decoded from"):
            named("decode=http://localhost:1/v1=m")
        with pytest.raises(UsageError, match="can't be decoded from"):
            named("decode", Scripted("m", []))
