"""Public dictionaries through SAELens, in the files of each release, from a server on loopback."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from moralprobe.cli.main import app
from moralprobe.errors import ModelError
from moralprobe.sae.load import check_belongs, load_sae
from tests.activations.test_extract import tiny
from tests.sae.hub import Hub, serving

GEMMA = ("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")
LLAMA = ("llama_scope_lxr_8x", "l15r_8x")
QWEN = ("qwen-scope-3-1.7b-base-w32k-l50", "layer14")


@pytest.mark.parametrize(
    "named", [GEMMA, LLAMA, QWEN, ("qwen-scope-3-8b-base-w64k-l50", "layer18")]
)
def test_what_the_docs_name_is_listed(named: tuple[str, str]) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    assert named[1] in get_pretrained_saes_directory()[named[0]].saes_map


def fetched(release: str, sae_id: str, out: Path) -> Path:
    app(["sae", "load", release, sae_id, "--out", str(out)], standalone_mode=False)
    return out


def test_llama_scope_reads_states_on_their_own_scale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trained on states of norm sqrt(d): SAELens lists the mean norm, and folds it in."""
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    d, width, threshold = 32, 128, 0.4
    factor = get_norm_scaling_factor(*LLAMA)
    generator = torch.Generator().manual_seed(0)
    weights = {
        "encoder.weight": torch.randn(width, d, generator=generator).bfloat16(),
        "decoder.weight": torch.randn(d, width, generator=generator).bfloat16(),
        "encoder.bias": torch.randn(width, generator=generator).bfloat16(),
        "decoder.bias": torch.randn(d, generator=generator).bfloat16(),
    }
    about = {
        "d_model": d,
        "d_sae": width,
        "jump_relu_threshold": threshold,
        "hook_point_in": "blocks.15.hook_resid_post",
        "dataset_average_activation_norm": {"in": d**0.5 / factor},
    }
    hub = Hub("fnlp/Llama3_1-8B-Base-LXR-8x")
    name = "Llama3_1-8B-Base-L15R-8x"
    hub.files[f"{name}/hyperparams.json"] = json.dumps(about).encode()
    hub.files[f"{name}/checkpoints/final.safetensors"] = save(weights)
    with serving(hub, monkeypatch, tmp_path):
        loaded = load_sae(fetched(*LLAMA, tmp_path / "scope"))
    assert (loaded.layer, loaded.sae.cfg.d_in, loaded.sae.cfg.d_sae) == (15, d, width)
    x = torch.randn(5, d, generator=generator).bfloat16().float() / factor
    W_enc, W_dec, b_enc, b_dec = (w.float() for w in weights.values())
    before = factor * x @ W_enc.T + b_enc
    active = torch.where(before > factor * threshold, before, 0)
    expected = (active @ W_dec.T + b_dec) / factor
    with torch.no_grad():
        found = loaded.sae(x.to(loaded.sae.dtype)).float()
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.slow
def test_gemma_scope_at_its_own_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    d, width = 2304, 16384
    rng = np.random.default_rng(0)
    row, column = rng.normal(size=(1, width)), rng.normal(size=(d, 1))
    weights = {
        "w_enc": np.broadcast_to(column, (d, width)).astype(np.float32),
        "w_dec": np.broadcast_to(row.T, (width, d)).astype(np.float32),
        "b_enc": rng.normal(size=width).astype(np.float32),
        "b_dec": rng.normal(size=d).astype(np.float32),
        "threshold": np.full(width, 0.5, np.float32),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **weights)
    hub = Hub("google/gemma-scope-2b-pt-res")
    hub.files["layer_12/width_16k/average_l0_82/params.npz"] = file.getvalue()
    with serving(hub, monkeypatch, tmp_path):
        loaded = load_sae(fetched(*GEMMA, tmp_path / "scope"))
    assert (loaded.layer, loaded.sae.cfg.architecture()) == (12, "jumprelu")
    np.testing.assert_array_equal(loaded.sae.W_enc[:, 7].detach(), weights["w_enc"][:, 7])
    np.testing.assert_array_equal(loaded.sae.W_dec[:, 3].detach(), weights["w_dec"][:, 3])
    assert loaded.sae.cfg.metadata.model_name == "gemma-2-2b"
    with pytest.raises(ModelError, match=r"another width.*2304 dimensions.*gemma-2-2b"):
        check_belongs(loaded, tiny())


@pytest.mark.slow
def test_qwen_scope_at_its_own_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of Qwen3-1.7B: the 8B's differs in its numbers alone, and takes four times the memory."""
    d, width = 2048, 32768
    generator = torch.Generator().manual_seed(0)
    encode, decode = (torch.randn(n, generator=generator) for n in (d, width))
    weights = {
        # As views of one row they take no room in the file.
        "W_enc": encode.expand(width, d),
        "W_dec": decode.expand(d, width),
        "b_enc": torch.randn(width, generator=generator),
        "b_dec": torch.randn(d, generator=generator),
    }
    file = io.BytesIO()
    torch.save(weights, file)
    hub = Hub("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50")
    hub.files["layer14.sae.pt"] = file.getvalue()
    with serving(hub, monkeypatch, tmp_path):
        loaded = load_sae(fetched(*QWEN, tmp_path / "scope"))
    cfg = loaded.sae.cfg
    assert (loaded.layer, cfg.architecture(), cfg.k) == (14, "topk", 50)
    assert torch.equal(loaded.sae.W_enc[:, 5], encode)
    assert torch.equal(loaded.sae.W_dec[:, 9], decode)
    with torch.no_grad():
        assert (loaded.sae.encode(torch.randn(3, d)) != 0).sum(-1).max() <= 50
    assert cfg.metadata.model_name == "Qwen/Qwen3-1.7B-Base"


def test_a_release_whose_file_would_run_code_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Runs:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    file = io.BytesIO()
    torch.save({"W_enc": Runs()}, file)
    hub = Hub("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50")
    hub.files["layer14.sae.pt"] = file.getvalue()
    with (
        serving(hub, monkeypatch, tmp_path),
        pytest.raises(ModelError, match="can't fetch layer14"),
    ):
        fetched(*QWEN, tmp_path / "scope")
    assert not (tmp_path / "ran").exists()
