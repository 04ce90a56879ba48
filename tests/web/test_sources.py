"""What steers, by the API: a direction that is capped, and words of the prompt alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from moralprobe.interventions import direction_intervention
from moralprobe.models.causal import CausalModel
from moralprobe.steering.generate import encoded_for, generate
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.rules import Cap
from moralprobe.steering.sampling import Sampling
from moralprobe.web.loaded import Loaded
from moralprobe.web.server import serving
from tests.activations.test_extract import tiny
from tests.evaluation.test_judge_backends import CHAT
from tests.steering.test_generate import some_edits
from tests.web.test_api import ASKED, FITTED, client, loaded, model, written

__all__ = ["client", "loaded", "model"]  # fixtures

HOW = {"sampling": Sampling(12, 0.9, 0.9, seed=3), "chat": False}
CAPPED = {"kind": "direction", "target": "care-harm", "layer": 1, "method": "cap", "strength": 1}


@pytest.mark.parametrize("bound", [0.0, -0.3, 0.05])
def test_a_cap_is_the_rule_with_a_bound_in_lengths_of_the_direction(
    client: httpx.Client, model: CausalModel, loaded: Loaded, bound: float
) -> None:
    assert loaded.vectors is not None
    made = direction_intervention(model, loaded.vectors, 1, target="care-harm")
    (edit,) = made.edits
    direction = edit.rule.direction  # type: ignore[union-attr]
    rule = Cap(direction, bound * float(direction.norm()))
    (alone,) = generate(model, ["Is it fair"], Intervention((replace(edit, rule=rule),)), **HOW)
    _, done = written(client, sources=[{**CAPPED, "bound": bound}])
    assert done["steered"]["text"] == alone.text
    assert done["steered"]["edits"] == alone.edits
    assert done["steered"]["change"] == pytest.approx(alone.change)


def test_a_bound_that_nothing_reaches_changes_nothing(client: httpx.Client) -> None:
    _, done = written(client, sources=[{**CAPPED, "bound": 10}])
    assert done["same"] and done["steered"]["edits"] == 0
    _, low = written(client, sources=[{**CAPPED, "bound": -10}])
    assert low["steered"]["edits"] > 0


@pytest.mark.parametrize("prompt", ["Is it fair", "\N{GRINNING FACE} is it fair \N{GRINNING FACE}"])
def test_words_of_the_prompt_alone_are_edited(
    client: httpx.Client, model: CausalModel, prompt: str
) -> None:
    """Texts as those of `generate`; the divergence token by token, from hooks of the test's own."""
    first = prompt.index("it")
    span = (first, first + 2)
    (alone,) = generate(model, [prompt], some_edits() * 0.5, positions="spans", spans=[span], **HOW)
    asked = {"prompt": prompt, "positions": "spans", "span": span}
    _, done = written(client, sources=[FITTED], **asked)
    (encoded,) = encoded_for(model, [prompt], chat=False, spans=[span])
    edited = [i for i, inside in enumerate(encoded.action) if inside]
    assert 0 < len(edited) < len(encoded.ids) - 1
    assert done["steered"]["text"] == alone.text
    assert 0 < done["steered"]["edits"] == alone.edits <= len(edited) * len(some_edits().edits)
    assert done["kl"] == pytest.approx(divergence(model, encoded.ids, edited, alone.ids), abs=1e-4)
    assert max(done["kl"]) > 1e-4


def divergence(
    model: CausalModel, prompt: list[int], edited: list[int], written: tuple[int, ...]
) -> list[float]:
    """KL of each written token's distribution, with edits added at some tokens by plain hooks."""
    ids, n = torch.tensor([[*prompt, *written]]), len(prompt)

    def adding(edit: Any) -> Any:
        def hook(_module: Any, _inputs: Any, out: Any) -> Any:
            states = (out[0] if isinstance(out, tuple) else out).clone()
            some = [i for i in edited if edit.sink_norm is None or i > 0]
            states[0, some] += edit.strength * 0.5 * edit.rule(states[0, some])
            return (states, *out[1:]) if isinstance(out, tuple) else states

        return hook

    with torch.no_grad():
        plain = model.model(ids).logits[0].double().log_softmax(-1)
        layers = model.decoder.layers
        hooks = [layers[e.layer].register_forward_hook(adding(e)) for e in some_edits().edits]
        try:
            moved = model.model(ids).logits[0].double().log_softmax(-1)
        finally:
            for hook in hooks:
                hook.remove()
    each = (plain.exp() * (plain - moved)).sum(-1)
    return [float(each[n - 1 + i]) for i in range(len(written))]


def test_blanks_around_words_are_not_of_the_span(client: httpx.Client) -> None:
    """A token often holds the blank in front of its word: a blank would edit the next word."""
    exact = {"positions": "spans", "span": [3, 5]}
    wide = {"positions": "spans", "span": [2, 6]}
    found = [written(client, sources=[FITTED], **asked)[1] for asked in (exact, wide)]
    assert found[0] == found[1] and found[0]["edited"] == "it"


def test_a_span_of_the_first_token_alone_edits_nothing_and_says_so(starter_table: Path) -> None:
    """Without a token in front of it, the first word is token 0, which directions leave alone."""
    direction = {"kind": "direction", "target": "care-harm", "layer": 1, "strength": 0.3}
    with (
        serving(Loaded(tiny(bos=False), vectors=starter_table)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for span, edits in (([0, 1], False), ([3, 5], True)):
            _, done = written(client, sources=[direction], positions="spans", span=span)
            said = any("Nothing was edited" in one for one in done["warnings"])
            assert (done["steered"]["edits"] > 0, said) == (edits, not edits)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"positions": "spans"}, "a span stands with"),
        ({"span": [0, 2]}, "a span stands with"),
        ({"positions": "spans", "span": [2, 2]}, "not blanks alone"),
        ({"positions": "spans", "span": [2, 3]}, "not blanks alone"),
        ({"positions": "spans", "span": [0, 11]}, "of the prompt"),
        ({"positions": "spans", "span": [-1, 2]}, "greater than or equal"),
        ({"positions": "spans", "span": [0]}, "span"),
    ],
)
def test_a_span_that_is_none_is_refused(
    client: httpx.Client, asked: dict[str, Any], said: str
) -> None:
    answer = client.post("/api/steer", json={**ASKED, **asked})
    assert answer.status_code == 422
    assert said in " ".join(answer.json().values())


def test_a_chat_prompt_is_edited_at_its_own_words() -> None:
    """The template's words aren't of the span, though the same word stands in front."""
    chatty = tiny()
    chatty.tokenizer.chat_template = CHAT
    made = {"fitted": Intervention(some_edits().edits)}
    with (
        serving(Loaded(chatty, interventions=made)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        asked = {"positions": "spans", "span": [6, 10], "chat": True}
        _, done = written(client, sources=[FITTED], **asked)
    how = {**HOW, "chat": True}
    (alone,) = generate(
        chatty,
        ["Is it fair"],
        some_edits() * 0.5,
        positions="spans",
        spans=[(6, 10)],
        **how,  # type: ignore[arg-type]
    )
    assert done["steered"]["text"] == alone.text and done["steered"]["edits"] == alone.edits > 0


@pytest.fixture(autouse=True, scope="module")
def _unchanged(model: CausalModel) -> Iterator[None]:
    """No hook is left behind."""
    yield
    assert not any(layer._forward_hooks for layer in model.decoder.layers)
