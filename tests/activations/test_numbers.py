"""States that overflow, where they do: named by site and text, and never stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moralprobe.activations.extract import extract
from moralprobe.activations.store import verify
from moralprobe.errors import NumericError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import tiny_model, tiny_tokenizer
from tests.activations.test_extract import tiny, with_actions

BAD = "lying to a friend"
TEXTS = ["helping a friend", BAD, "sharing a meal"]


def multiplied(model: CausalModel, by: float) -> None:
    """Let one block multiply the states of the letter y, which one text alone has."""
    letter = model.tokenizer("y")["input_ids"][-1]
    seen: list[torch.Tensor] = []
    model.decoder.embedding.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))

    def multiply(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
        return torch.where((seen[-1] == letter)[..., None], out * by, out)

    model.decoder.layers[1].register_forward_hook(multiply)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("by", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_names_the_first_layer_and_the_texts(
    tmp_path: Path, by: float, share: bool
) -> None:
    model = tiny()
    multiplied(model, by)
    with pytest.raises(NumericError, match=rf"resid_post\.1 holds NaN or inf.*in 1 texts.*{BAD}"):
        extract(model, with_actions(TEXTS), tmp_path / "s", template="action", share=share)
    assert verify(tmp_path / "s") == ({}, []) and not list((tmp_path / "s").glob("shard-*"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_live_model_in_fp16_overflows_where_bf16_does_not(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """fp16 isn't offered; a model that was made elsewhere may still be in it."""
    model = load_model(tiny_model("llama").to(dtype), tokenizer=tiny_tokenizer())
    multiplied(model, 1e7)
    out = tmp_path / "s"
    if dtype == torch.bfloat16:
        assert extract(model, with_actions(TEXTS), out, template="action").n_readable == 3
        return
    with pytest.raises(NumericError, match=rf"resid_post\.1 holds.*{BAD}.*bf16"):
        extract(model, with_actions(TEXTS), out, template="action")


def test_unusual_texts_are_read_as_they_are(tmp_path: Path) -> None:
    texts = ["a\0b", "\u202eabc\u2066", "\U0001f600\u0301", "=1+1", "word " * 200_000, "plain"]
    store = extract(tiny(), with_actions(texts), tmp_path / "s", template="action", layers="1")
    assert set(store.texts["text"]) == set(texts) and store.n_readable == len(texts)
    assert store.texts.filter("truncated")["text"].to_list() == [texts[4]]
