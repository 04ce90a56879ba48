"""Which text a model reads under each template, and that its action's tokens are those and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.activations.extract import extract
from moralprobe.artifacts import Artifact
from moralprobe.data.prompts import TEMPLATES, Template
from moralprobe.errors import ModelError, StoreError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import tiny_model, tiny_tokenizer
from moralprobe.moral_vectors import build_vectors
from tests.activations.test_extract import contents, starter, tiny, with_actions

CHATML = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] "
    "{{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
ACTIONS = ["helping a friend.", "lying to your boss.", "eating (raw) meat", "café crème, 100%."]


def chatting() -> CausalModel:
    """A small model whose tokenizer puts a BOS in front and whose chat template does so too."""
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.chat_template = CHATML
    return load_model(tiny_model("llama"), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def real() -> CausalModel:
    return load_model("smollm2-135m")


def in_full(template: Template, model: CausalModel) -> Template:
    return template.inside(*model.chat_frame()) if template.chat else template


def covered(model: CausalModel, template: Template, actions: list[str]) -> list[str]:
    """The action's tokens of each text, decoded."""
    full = in_full(template, model)
    encoded = model.encode(
        [full.render(action) for action in actions],
        [full.span(action) for action in actions],
        max_tokens=256,
        add_special_tokens=not full.chat,
    )
    return [
        model.tokenizer.decode([i for i, inside in zip(e.ids, e.action, strict=True) if inside])
        for e in encoded
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_actions_tokens_spell_the_action_byte_by_byte(name: str) -> None:
    template = TEMPLATES[name]
    expected = [template.shown(action) for action in ACTIONS]
    assert covered(chatting(), template, ACTIONS) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_actions_tokens_spell_the_action_under_a_real_tokenizer(
    real: CausalModel, name: str
) -> None:
    """Word pieces take the blank before them along, and nothing else of the template."""
    template = TEMPLATES[name]
    actions = build_vectors("starter").frame["action"].unique().sort().to_list()
    found = [text.strip(" ") for text in covered(real, template, actions)]
    assert found == [template.shown(action) for action in actions]


@pytest.mark.parametrize("name", TEMPLATES)
def test_mean_action_is_the_mean_of_the_actions_own_bytes(tmp_path: Path, name: str) -> None:
    """On static embeddings, where a token's vector doesn't depend on its place."""
    model = chatting()
    poolings = "mean_action,mean"
    store = extract(
        model, with_actions(ACTIONS), tmp_path / "s", poolings=poolings, template=name, layers="0"
    )
    unit = torch.nn.functional.normalize(model.decoder.embedding.weight, dim=-1).detach().numpy()
    stored = store.site("embed", "mean_action")
    for row, action in zip(stored, store.texts["text"], strict=True):
        shown = TEMPLATES[name].shown(action)
        ids = model.tokenizer(shown, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(row, unit[ids].mean(0), rtol=1e-4, atol=1e-6)
        assert len(ids) == store.texts.filter(text=action)["n_action_tokens"][0]


# -- chat -------------------------------------------------------------------------------------------


def applied(tokenizer: Any, message: str) -> tuple[str, list[int]]:
    """The text and the tokens that transformers makes of one message."""
    chat = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    return text, ids


def test_a_chat_is_what_transformers_makes_of_the_same_message(real: CausalModel) -> None:
    for model in (real, chatting()):
        template = TEMPLATES["chat"]
        full = in_full(template, model)
        for action in ACTIONS:
            text, ids = applied(model.tokenizer, template.render(action))
            assert full.render(action) == text
            [encoded] = model.encode(
                [text], [full.span(action)], max_tokens=256, add_special_tokens=False
            )
            assert encoded.ids == ids
            assert not encoded.token0_is_content
    bos = chatting().tokenizer.bos_token_id
    assert ids.count(bos) == 1, "the template's own, and no other in front of it"


def test_a_chat_ends_where_the_answer_begins(tmp_path: Path) -> None:
    model = chatting()
    store = extract(model, with_actions(ACTIONS), tmp_path / "s", template="chat")
    assert store.template == "chat" and not store.key["token0_is_content"]
    message = TEMPLATES["chat"].before
    assert store.key["prompt"] == {
        "before": f"<bos>[user] {message}",
        "after": "\n[assistant] ",
        "full_stop": True,
        "chat": True,
    }
    assert store.input_poolings == ("mean", "mean_unit", "mean_no_sink")
    _, ids = applied(model.tokenizer, message + store.texts["text"][0])
    assert store.texts["n_tokens"][0] == len(ids)
    with torch.inference_mode():
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(
        store.layer("last", 1)[0], states[2][0, -1].numpy(), rtol=1e-4, atol=1e-5
    )


def test_without_a_chat_template_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no chat template.*another --template"):
        extract(tiny(), starter(20), tmp_path / "s", template="chat")
    assert not (tmp_path / "s").exists()


def test_another_chat_template_is_another_store(tmp_path: Path) -> None:
    model = chatting()
    extract(model, starter(20), tmp_path / "s", template="chat", layers="0")
    model.tokenizer.chat_template = CHATML.replace("[assistant]", "[answer]")
    with pytest.raises(StoreError, match=r"prompt\.after.*answer"):
        extract(model, starter(20), tmp_path / "s", template="chat", layers="0")


# -- stripped ---------------------------------------------------------------------------------------


def test_an_action_of_a_full_stop_alone_is_empty_when_stripped(tmp_path: Path) -> None:
    texts = with_actions([".", "helping a friend.", "stealing ."])
    store = extract(tiny(), texts, tmp_path / "s", template="stripped", layers="0")
    assert dict(store.texts.select("text", "status").iter_rows()) == {
        ".": "empty",
        "helping a friend.": "ok",
        "stealing .": "ok",
    }
    with_bos = {"helping a friend is morally": 1, "stealing is morally": 1}
    lengths = {len(text.encode()) + extra for text, extra in with_bos.items()}
    assert set(store.texts.filter(status="ok")["n_tokens"]) == lengths


def test_a_template_whose_words_change_is_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(tiny(), starter(20), tmp_path / "s", template="people-judge", layers="0")
    assert Artifact.open(tmp_path / "s", "activation store").key["prompt"]["chat"] is False
    other = Template("people-judge", "Most folks judge ", " to be morally")
    monkeypatch.setitem(TEMPLATES, "people-judge", other)
    with pytest.raises(StoreError, match=r"prompt\.before.*Most folks"):
        extract(tiny(), starter(20), tmp_path / "s", template="people-judge", layers="0")


# -- F10: where a tokenizer would pad -----------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_the_side_that_a_tokenizer_pads_on_changes_nothing(tmp_path: Path, share: bool) -> None:
    """Texts of many lengths, and the last token of each is the text's own on either side."""
    found = {}
    for side in ("left", "right"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = side
        model = load_model(tiny_model("llama"), tokenizer=tokenizer)
        out = tmp_path / side
        store = extract(model, starter(40), out, layers="1", template="action", share=share)
        assert store.texts["n_tokens"].n_unique() > 5
        found[side] = contents(out)
        for i in range(0, 40, 7):
            text = store.texts["text"][i]
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.inference_mode():
                states = model.model(ids, output_hidden_states=True).hidden_states[2][0, -1]
            np.testing.assert_allclose(store.layer("last", 1)[i], states, rtol=1e-4, atol=1e-5)
    assert found["left"] == found["right"]


def test_a_tokenizer_that_puts_another_token_in_front_is_another_store(tmp_path: Path) -> None:
    extract(tiny(bos=True), starter(20), tmp_path / "s", layers="1")
    with pytest.raises(StoreError, match=r"model\.tokenizer.*token0_is_content"):
        extract(tiny(bos=False), starter(20), tmp_path / "s", layers="1")
