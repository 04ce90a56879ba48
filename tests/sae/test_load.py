"""Autoencoders that belong to something else, or can't be what they say, are refused with both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from safetensors.torch import load_file, save_file

from moralprobe.errors import IntegrityError, ModelError, NumericError, StoreError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.tiny import tiny_model, tiny_tokenizer
from moralprobe.sae.load import (
    check_belongs,
    check_fits,
    load_release,
    load_sae,
    sae_folders,
    save_release,
)


def stock(hook: str | None = "blocks.1.hook_resid_post", **metadata: Any) -> Any:
    sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=32, d_sae=64, k=4))
    for name, value in {"hook_name": hook, **metadata}.items():
        setattr(sae.cfg.metadata, name, value)
    return sae


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stock().save_model(tmp_path / "sae")
    return tmp_path / "sae"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tiny(**sizes: int) -> Any:
    return load_model(tiny_model("llama", **sizes), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.1.hook_resid_post", 1),
        ("blocks.1.hook_out", 1),
        ("blocks.2.hook_resid_pre", 1),
    ],
)
def test_what_sae_lens_saves_is_loaded_with_its_layer(
    hook: str, layer: int, tmp_path: Path
) -> None:
    sae = stock(hook)
    save_release(sae, tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert loaded.layer == layer
    x = torch.randn(5, 32)
    torch.testing.assert_close(loaded.sae(x), sae(x))
    assert check_belongs(loaded, tiny()) == []
    with pytest.raises(StoreError, match="already"):
        save_release(sae, tmp_path / "sae")


@pytest.mark.parametrize(
    "hook", ["blocks.1.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.0.hook_resid_pre", None]
)
def test_a_place_that_is_no_layers_output_is_refused(hook: str | None, tmp_path: Path) -> None:
    stock(hook).save_model(tmp_path / "sae")
    with pytest.raises(ModelError, match=r"residual stream|no layer's output"):
        load_sae(tmp_path / "sae")


def test_another_layer_is_refused_with_both(folder: Path) -> None:
    loaded = load_sae(folder)
    with pytest.raises(ModelError, match=r"another layer.*resid_post\.1.*resid_post\.2"):
        check_belongs(loaded, tiny(), layer=2)
    with pytest.raises(ModelError, match=r"another layer.*resid_post\.1.*one of 1 layers"):
        check_belongs(loaded, tiny(n_layers=1))


def test_another_models_name_is_a_warning(tmp_path: Path) -> None:
    stock(model_name="gpt2").save_model(tmp_path / "sae")
    assert "trained on gpt2" in check_belongs(load_sae(tmp_path / "sae"), tiny())[0]


def test_a_config_of_another_shape_is_refused_with_both(folder: Path) -> None:
    edit(folder, d_sae=128)
    with pytest.raises(IntegrityError, match=r"32 x 128 there, 32 x 64 here"):
        load_sae(folder)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    edit(folder, architecture="topkk")
    with pytest.raises(IntegrityError, match="topkk"):
        load_sae(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"architecture": "topk"}', "[" * 100_000])
def test_a_config_that_describes_nothing_is_damaged(text: str, folder: Path) -> None:
    (folder / "cfg.json").write_text(text)
    with pytest.raises(IntegrityError, match="describes no autoencoder"):
        load_sae(folder)


def test_weights_that_are_cut_missing_or_no_numbers_are_refused(folder: Path) -> None:
    weights = folder / "sae_weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    with pytest.raises(IntegrityError):
        load_sae(folder)
    weights.unlink()
    with pytest.raises(IntegrityError):
        load_sae(folder)
    weights.write_bytes(data)
    tensors = load_file(weights)
    tensors["b_enc"][3] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(NumericError, match="NaN"):
        load_sae(folder)


def test_files_that_would_have_to_be_unpickled_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sae_finetuned.pt").write_bytes(b"pickle")
    with pytest.raises(StoreError, match=r"sae_finetuned\.pt would have to be unpickled"):
        load_sae(tmp_path)


def test_a_folder_of_several_lists_them(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    assert sae_folders(tmp_path) == [tmp_path / "other", tmp_path / "sae"]
    with pytest.raises(UsageError, match="holds 2 autoencoders"):
        load_sae(tmp_path)
    with pytest.raises(StoreError, match=r"no cfg\.json"):
        sae_folders(tmp_path / "nowhere")


def test_what_it_explains_is_held_against_what_it_should(tmp_path: Path) -> None:
    stock(explained_variance=0.9).save_model(tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert check_fits(loaded, 0.8) == []
    assert "only 0.30 of the variance here, where it was trained 0.90" in check_fits(loaded, 0.3)[0]
    with pytest.raises(ModelError, match=r"explains -0\.20.*where it was trained 0\.90"):
        check_fits(loaded, -0.2)


def test_an_unknown_release_or_id_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*gemma-scope-2b-pt-res-canonical"):
        load_release("gemma-scope-2b-pt-res-canonic", "layer_12/width_16k/canonical")
    with pytest.raises(UsageError, match=r"did you mean .*layer_12/width_16k/canonical"):
        load_release("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonicl")
    with pytest.raises(UsageError, match=r"unknown release 'a/b/c'.*user/name"):
        load_release("a/b/c", "sae")


@pytest.mark.parametrize("release", ["gpt2-small-res-jb", "someone/moral-saes"])
def test_a_release_without_a_network_says_what_to_do(release: str) -> None:
    with pytest.raises(ModelError, match="can't fetch"):
        load_release(release, "blocks.8.hook_resid_pre")
