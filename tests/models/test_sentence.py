"""Sentence embeddings: what a folder may hold, and that they are what its model gives."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moralprobe.errors import ModelError, UsageError
from moralprobe.models import sentence
from moralprobe.models.sentence import sentence_embeddings
from moralprobe.models.tiny import save_tiny, tiny_model, tiny_tokenizer

TEXTS = ["helping a friend", "lying", "sharing a meal with a neighbour"]
installed = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="needs pip install 'moralprobe[sentence]'",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as sentence-transformers writes it: a small model, and the mean over its tokens."""
    folder = save_tiny("llama", tmp_path / "encoder")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "p", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "p").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "p" / "config.json").write_text(json.dumps(pooling))
    return folder


@installed
def test_embeddings_are_the_models_own_in_the_order_of_the_texts(folder: Path) -> None:
    found = sentence_embeddings(TEXTS, folder, device="cpu")
    assert found.shape == (3, 32) and found.dtype == np.float32
    tokenizer, model = tiny_tokenizer(), tiny_model("llama").model
    for row, text in zip(found, TEXTS, strict=True):
        with torch.inference_mode():
            states = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        np.testing.assert_allclose(row, states.mean(0).numpy(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before sentence-transformers is imported."""
    monkeypatch.setattr(sentence, "find_spec", lambda name: True)


def modules(folder: Path, name: str, place: str = "q") -> None:
    path = folder / "modules.json"
    row = {"idx": 2, "name": "2", "path": place, "type": name}
    path.write_text(json.dumps([*json.loads(path.read_text()), row]))


def as_pickle(folder: Path) -> None:
    assert load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_code(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "a.B"}}))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a class elsewhere": (lambda f: modules(f, "os.system"), r"isn't trusted.*os\.system"),
    "a dense layer": (lambda f: modules(f, "sentence_transformers.models.Dense"), "isn't trusted"),
    "a path outside": (
        lambda f: modules(f, "sentence_transformers.models.Pooling", "../p"),
        "leads out of itself",
    ),
    "pickled weights": (as_pickle, "no safetensors weights"),
    "code": (with_code, "code of its own"),
    "no modules": (lambda f: (f / "modules.json").unlink(), "hf download"),
    "modules of junk": (lambda f: (f / "modules.json").write_text('{"a": 1}'), "hf download"),
    "no folder": (lambda f: shutil.rmtree(f), "hf download"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_folder_that_cannot_be_trusted_or_read_is_refused(
    present: None, folder: Path, fault: str
) -> None:
    spoil, message = SPOILED[fault]
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        sentence_embeddings(TEXTS, folder, device="cpu")


def test_an_id_on_the_hub_is_never_fetched(present: None) -> None:
    with pytest.raises(ModelError, match=r"is no folder.*hf download"):
        sentence_embeddings(TEXTS, "sentence-transformers/all-MiniLM-L6-v2", device="cpu")


def test_the_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sentence, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"isn't installed.*moralprobe\[sentence\]"):
        sentence_embeddings(TEXTS, tmp_path)
