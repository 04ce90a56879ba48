"""The same store on a GPU, up to rounding, and nothing unpooled crosses to the host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moralprobe.activations.extract import extract
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny
from tests.activations.test_extract import everything, starter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("share", [True, False])
def test_a_gpu_makes_the_store_of_a_cpu(tmp_path: Path, share: bool) -> None:
    folder = save_tiny("qwen3", tmp_path / "model", d_model=256)
    found = {}
    for device in ("cpu", "cuda"):
        model = load_model(folder, dtype="fp32", device=device)
        store = extract(model, starter(200), tmp_path / device, share=share, batch_tokens=512)
        found[device] = everything(store), store.texts["text"].to_list()
    assert found["cpu"][1] == found["cuda"][1]
    for name, values in found["cpu"][0].items():
        np.testing.assert_allclose(found["cuda"][0][name], values, rtol=2e-3, atol=2e-4)


def test_only_what_is_pooled_leaves_the_device(tmp_path: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    model = load_model(save_tiny("qwen3", tmp_path / "model", d_model=256), device="cuda")
    copies, sizes = [], (256, 2048)
    for size in sizes:
        options = {"poolings": "mean", "share": False, "batch_tokens": size}
        with profile(activities=[ProfilerActivity.CUDA], profile_memory=False) as seen:
            store = extract(model, starter(200), tmp_path / str(size), **options)
        copies.append(sum("Memcpy DtoH" in event.name for event in seen.events()))
    # The same shards of the same vectors: smaller batches may cost a look each, not one a layer.
    tokens = int(store.texts["n_tokens"].sum())
    more_batches = tokens // sizes[0] - tokens // sizes[1]
    assert copies[0] - copies[1] < more_batches * len(store.layers)
