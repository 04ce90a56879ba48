"""Questions put to a model on this machine, against a loop that reads each text alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from moralprobe.behavior.options import Readout, choose
from moralprobe.behavior.server import Server
from moralprobe.behavior.text_model import Question
from moralprobe.errors import DataError, ModelError
from moralprobe.models.tiny import save_tiny
from moralprobe.models.tokens import Encoded
from moralprobe.steering import text
from moralprobe.steering.apply import steered_logits
from moralprobe.steering.intervention import Edit, Intervention
from moralprobe.steering.rules import Add
from moralprobe.steering.text import LocalText, text_model
from tests.evaluation.test_judge_backends import CHAT
from tests.steering.test_generate import tiny, vector

ASKED = [
    Question("Is it fair?"),
    Question("Is it fair?", "Be a nurse."),
    Question("She broke her promise, and so"),
    Question("<eos><bos>A<pad>"),
    Question("no"),
    Question("on"),
    Question("And then?", turns=(("Is it fair?", "No."), ("Why?", "It is late."))),
    Question("And then?", "Be a nurse.", turns=(("Is it fair?", "Yes."),)),
]
OPTIONS = ["A", " B", "not at all", "no"]


def local(*, chat: bool = True, intervention: Intervention | None = None, **more: int) -> LocalText:
    model = tiny()
    if chat:
        model.tokenizer.chat_template = CHAT
    return LocalText(model, intervention, **more)


def steered() -> Intervention:
    return Intervention((Edit(1, Add(vector(1)), 0.7), Edit(2, Add(vector(4)), -0.6)))


def ids_of(where: LocalText, question: Question, chat: bool) -> list[int]:
    """The question as bytes, with what the template puts around it by hand."""
    bos, eos = where.model.tokenizer.bos_token_id, where.model.tokenizer.eos_token_id
    if not chat:
        return [bos, *plain(where, f"{question.text}\n\nAnswer:")]
    ids = [bos, *plain(where, f"system: {question.system}"), eos] if question.system else []
    for asked, answer in question.turns:
        for role, words in (("user", asked), ("assistant", answer)):
            ids += [bos, *plain(where, f"{role}: {words}"), eos]
    return [*ids, bos, *plain(where, f"user: {question.text}"), eos, bos]


def plain(where: LocalText, words: str) -> list[int]:
    """Letter by letter, so that nothing is a special token."""
    tokenizer = where.model.tokenizer
    return [i for one in words for i in tokenizer(one, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("intervention", [None, steered()])
@pytest.mark.parametrize("chat", [True, False])
def test_options_have_the_log_probability_of_all_their_tokens(
    chat: bool, intervention: Intervention | None
) -> None:
    where = local(chat=chat, intervention=intervention)
    asked = [one for one in ASKED if chat or (one == Question(one.text) and "<" not in one.text)]
    assert [one.ids for one in where.encode(asked)] == [ids_of(where, one, chat) for one in asked]
    found = dict(where.score_options(asked, OPTIONS))
    logits_of = steered_logits(where.model, intervention)
    for n, question in enumerate(asked):
        for k, option in enumerate(OPTIONS):
            own = plain(where, option)
            ids = [*ids_of(where, question, chat), *own]
            batch = where.model.collate([Encoded(ids, [False] * len(ids), False, False)])
            logprobs = logits_of(batch)[0].log_softmax(-1)
            at = range(len(ids) - len(own) - 1, len(ids) - 1)
            expected = sum(float(logprobs[i, t]) for i, t in zip(at, own, strict=True))
            assert found[n][k] == pytest.approx(expected, rel=1e-4)


def test_steering_changes_what_is_found() -> None:
    plain, changed = local(), local(intervention=steered())
    a, b = (dict(where.score_options(ASKED, OPTIONS)) for where in (plain, changed))
    assert all(abs(a[n][k] - b[n][k]) > 1e-3 for n in a for k in range(len(OPTIONS)))
    assert plain.identity != changed.identity and changed.name.startswith(f"{plain.name} steered ")
    assert changed.family == plain.family == plain.name
    said = [dict(where.complete(ASKED, max_tokens=8)) for where in (plain, changed)]
    assert said[0] != said[1]


def test_many_are_answered_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    where = local()
    alone = [next(where.score_options([one], OPTIONS))[1] for one in ASKED]
    for tokens in (1 << 14, 1):
        monkeypatch.setattr(text, "_TOKENS", tokens)
        together = dict(where.score_options(ASKED, OPTIONS))
        np.testing.assert_allclose([together[n] for n in range(len(ASKED))], alone, rtol=1e-4)
    for temperature in (0.0, 1.0):
        options = {"max_tokens": 6, "temperature": temperature}
        alone_said = [next(where.complete([one], **options))[1] for one in ASKED]  # type: ignore[arg-type]
        together_said = dict(where.complete(ASKED, **options))  # type: ignore[arg-type]
        assert [together_said[n] for n in range(len(ASKED))] == alone_said


def test_samples_of_one_question_differ_by_their_seed_and_follow_the_probabilities() -> None:
    where = local()
    asked = [Question("Is it fair?", seed=seed) for seed in range(60)]
    said = dict(where.complete(asked, max_tokens=1, temperature=1.0))
    assert len(set(said.values())) > 20
    assert said == dict(where.complete(asked, max_tokens=1, temperature=1.0))
    assert len({s for _, s in where.complete(asked[:5], max_tokens=6)}) == 1


def test_what_is_too_long_is_not_asked_and_the_others_are() -> None:
    (short, long) = (Question("ab"), Question("abc"))
    limit = len(local().encode([short])[0])
    where = local(max_tokens=limit)
    found = dict(where.score_options([short, long], ["A", "B"]))
    assert all(map(math.isfinite, found[0]))
    assert found[1] == f"[not asked: {limit + 1} tokens, {limit} at most]"
    # An option of two tokens needs one more.
    assert str(dict(where.score_options([short], ["A", "AB"]))[0]).startswith("[not asked")
    where = local(max_tokens=limit + 2)
    said = dict(where.complete([short, long], max_tokens=2))
    assert said[1] == f"[not asked: {limit + 1} tokens, {limit} at most]" and said[0][:1] != "["
    (one,) = choose(local(max_tokens=5), [("Well?", ("yes", "no"))])
    assert one.status == "too long" and one.said.startswith("[not asked")
    (one,) = choose(local(max_tokens=5), [("Well?", ("yes", "no"))], readout=Readout("sampled", 1))
    assert one.status == "too long"


def test_the_models_own_context_is_a_limit_too() -> None:
    where = local()
    where.model.model.config.max_position_embeddings = 40
    assert where.limit == 40
    assert "39 at most]" in next(where.complete([Question("x" * 60)], max_tokens=1))[1]
    assert "40 at most]" in next(where.score_options([Question("x" * 60)], ["A"]))[1]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(DataError, match="prompt 1 is empty"):
        list(local().score_options([Question(" ")], ["A"]))
    with pytest.raises(DataError, match="prompt 1 is empty"):
        list(local(chat=False).complete([Question("")], max_tokens=1))
    with pytest.raises(DataError, match="an option is empty"):
        list(local().score_options([Question("q")], [""]))
    with pytest.raises(DataError, match="a system message needs a chat template"):
        list(local(chat=False).score_options([Question("q", "Be kind.")], ["A"]))
    with pytest.raises(ModelError):
        list(
            local(intervention=Intervention((Edit(9, Add(vector(1)), 1.0),))).score_options(
                [Question("q")], ["A"]
            )
        )


def test_an_option_that_cannot_begin_an_answer_has_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    where = local()
    ids = LocalText.option_ids
    monkeypatch.setattr(LocalText, "option_ids", lambda self, o: [] if o == " A" else ids(self, o))
    ((_, row),) = where.score_options([Question("q")], [" A", "A"])
    assert math.isnan(row[0]) and math.isfinite(row[1])
    assert where.can_begin(["A"]) and not where.can_begin(["A", " A"])


def test_a_dialogue_forges_no_role_and_needs_a_template() -> None:
    for turns in ((("a", "b<eos>"),), (("<bos>", "b"),)):
        with pytest.raises(DataError, match="a turn spells one of the model's own control tokens"):
            local().encode([Question("q", turns=turns)])
    with pytest.raises(DataError, match="a dialogue needs a chat template"):
        local(chat=False).encode([Question("q", turns=(("a", "b"),))])
    where = local()
    where.model.tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(ModelError, match="leaves out what was said before"):
        where.encode([Question("q", turns=(("a word", "b word"),))])
    # What was said before changes the draws of what follows.
    assert Question("q").draw("m") != Question("q", turns=(("a", "b"),)).draw("m")


def test_a_name_leads_to_a_server_or_a_model(tmp_path: Path) -> None:
    assert text_model("http://localhost:1/v1=m") == Server("http://localhost:1/v1", "m")
    folder = save_tiny("llama", tmp_path / "model")
    for name in (str(folder), f"local:{folder}"):
        found = text_model(name, device="cpu")
        assert isinstance(found, LocalText) and found.name == "model"
