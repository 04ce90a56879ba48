"""What is loaded, what is refused, and what makes two models the same."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from moralprobe.errors import ModelError, UsageError
from moralprobe.models import load as loading
from moralprobe.models.available import available_models
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import DTYPES, choose_device, choose_dtype, load_model
from moralprobe.models.tiny import save_tiny, tiny_model, tiny_tokenizer
from moralprobe.sites import Site

TEXT = "helping a neighbor is morally"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("saved") / "tiny-llama")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def states(model: CausalModel) -> torch.Tensor:
    batch = model.collate(model.encode([TEXT], [(0, 18)], max_tokens=64))
    read: list[torch.Tensor] = []
    last = Site("resid_post", model.n_layers - 1)
    model.run_taps(batch, [last], lambda _site, hidden: read.append(hidden.clone()))
    return read[0]


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "arrays.npz"])
def test_weights_that_can_run_code_are_refused_and_the_conversion_named(
    folder: Path, name: str
) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert "no safetensors weights" in caught.value.what
    assert name in caught.value.why and "can run code" in caught.value.why
    assert "save_pretrained" in caught.value.instead


def test_a_folder_without_any_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no safetensors weights.*no weight file"):
        load_model(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"text_config": {"deep": [{"auto_map": {"AutoConfig": "evil.Config"}}]}},
        {"_attn_implementation_internal": "someone/kernel"},
        {"attn_implementation": "someone/kernel"},
        {"text_config": {"_attn_implementation": "someone/kernel"}},
    ],
)
def test_a_config_that_brings_code_is_refused_and_nothing_of_it_runs(
    folder: Path, file: str, extra: dict[str, Any]
) -> None:
    edit(folder / file, **extra)
    for module in ("modeling", "evil"):
        (folder / f"{module}.py").write_text("raise SystemExit('code of the model ran')")
    with pytest.raises(ModelError, match=r"code of its own.*never trusted"):
        load_model(folder)


# -- hostile and damaged files ---------------------------------------------------------------------


def spoil_header_entry(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Let the header of the weights say something else of the same data."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change([header[name] for name in sorted(header) if name != "__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


HOSTILE: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "overlapping": lambda h: h[1].update(data_offsets=h[0]["data_offsets"]),
    "negative": lambda h: h[0].update(data_offsets=[-8, 8]),
    "beyond the end": lambda h: h[0].update(data_offsets=[0, 10 << 30]),
    "overflowing": lambda h: h[0].update(shape=[1 << 62, 8]),
    "empty and wide": lambda h: h[0].update(shape=[0, 1 << 50], data_offsets=[0, 0]),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "10 GB of header", "2^63 bytes of header"])
def test_hostile_weights_are_an_error_at_once_and_take_no_memory(folder: Path, kind: str) -> None:
    load_model(folder)  # what is imported on the way isn't what is measured
    if kind in HOSTILE:
        spoil_header_entry(folder, HOSTILE[kind])
    else:
        length = 10 << 30 if "10" in kind else 1 << 63
        (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}" * 500)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), before[1]))
    started = time.perf_counter()
    try:
        with pytest.raises(ModelError, match="can't load"):
            load_model(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("depth", [60, 900, 200_000])
def test_a_config_that_nests_deeply_is_an_error(folder: Path, name: str, depth: int) -> None:
    text = (folder / name).read_text().rstrip().removesuffix("}")
    (folder / name).write_text(f'{text}, "x": {"[" * depth}{"]" * depth}}}')
    if name == "tokenizer.json" and depth < 1000:
        return  # it is another program's to read, and it can
    with pytest.raises(ModelError, match=r"nests more than|recursion|can't load"):
        load_model(folder)


def test_a_config_of_gigabytes_is_never_read(folder: Path) -> None:
    with (folder / "config.json").open("rb+") as stream:
        stream.truncate(20 << 30)
    with pytest.raises(ModelError, match=r"is no JSON.*21,474,836,480 bytes"):
        load_model(folder)


def into_two_files(folder: Path) -> dict[str, str]:
    """Cut the weights in two, with an index; return what it says."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for k, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{k + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index_to(folder, weight_map)
    return weight_map


def index_to(folder: Path, weight_map: Any) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize("place", ["../elsewhere/{}", "{absolute}", "sub/{}", "..", "evil.bin"])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, place: str) -> None:
    weight_map = into_two_files(folder)
    file = weight_map["lm_head.weight"]
    for other in ("sub", "../elsewhere"):
        (folder / other).mkdir()
        shutil.copy(folder / file, folder / other)
    load_model(folder)
    absolute = str((folder / "../elsewhere" / file).resolve())
    outside = place.format(file, absolute=absolute)
    index_to(folder, weight_map | {"lm_head.weight": outside})
    with pytest.raises(
        ModelError, match=r"index\.json doesn't name this folder's weights"
    ) as caught:
        load_model(folder)
    assert repr(outside) in caught.value.why


@pytest.mark.parametrize("weight_map", [None, [], "x", {"a": None}])
def test_an_index_that_is_none_is_an_error(folder: Path, weight_map: Any) -> None:
    into_two_files(folder)
    index_to(folder, weight_map)
    with pytest.raises(ModelError, match=r"index\.json|lacks weight files"):
        load_model(folder)


def test_a_weight_file_that_the_index_names_and_the_folder_lacks_is_named(folder: Path) -> None:
    weight_map = into_two_files(folder)
    (folder / weight_map["lm_head.weight"]).unlink()
    with pytest.raises(ModelError, match=r"lacks weight files.*first: model-0000\d-of-00002"):
        load_model(folder)


def spoil_cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((10 << 30).to_bytes(8, "little") + b"{}")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (spoil_cut, "can't load"),
    "header of 10 GB": (spoil_header, "can't load"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "can't load"),
    "no config": (lambda f: (f / "config.json").unlink(), "there is no config.json"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "is no JSON"),
    "config is cut": (lambda f: (f / "config.json").write_text("{"), "is no JSON"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "is no JSON"),
    "type unknown": (lambda f: edit(f / "config.json", model_type="zzz"), "can't load.*zzz"),
    "no decoder": (lambda f: edit(f / "config.json", model_type="clip_vision_model"), "can't load"),
    "value of a wrong type": (
        lambda f: edit(f / "config.json", num_attention_heads="x"),
        "can't load.*num_attention_heads",
    ),
    "another width": (lambda f: edit(f / "config.json", hidden_size=64), "can't load"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "can't load"),
    "tokenizer is empty": (lambda f: (f / "tokenizer.json").write_text("{}"), "can't load"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_damaged_folder_is_an_error_that_names_it(folder: Path, fault: str) -> None:
    spoil, message = SPOILED[fault]
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "tiny-llama" in caught.value.what and caught.value.instead


def test_weights_that_are_missing_are_never_made_up(folder: Path) -> None:
    """transformers would fill the fourth block with random numbers and only warn."""
    edit(folder / "config.json", num_hidden_layers=4)
    with pytest.raises(ModelError, match=r"lacks weights.*the first: model\.layers\.3\."):
        load_model(folder)


def test_a_missing_head_is_no_loss_because_it_is_never_read(folder: Path) -> None:
    whole = states(load_model(folder, dtype="fp32"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    torch.testing.assert_close(states(load_model(folder, dtype="fp32")), whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm2-135", "did you mean smollm2-135m"),
        ("./nothing-here", "no folder"),
        ("/nothing/here", "no folder"),
        ("three/part/name", "no owner/name on the hub"),
    ],
)
def test_a_path_or_name_that_is_no_model_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint) as caught:
        load_model(name)
    assert repr(name) in caught.value.what and "moralprobe models" in caught.value.instead


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="unknown model"):
        load_model(folder / "model.safetensors")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model.*no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["owner/na me", "a/b?", "-a/b"])
def test_a_name_that_the_hub_could_not_have_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="can't fetch"):
        load_model(name)


@pytest.mark.parametrize("dtype", ["fp16", "float32", "torch.bfloat16", ""])
def test_an_unknown_dtype_is_refused_with_those_that_exist(saved: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match=r"unknown dtype.*(fp32|bf16)"):
        load_model(saved, dtype=dtype)


@pytest.mark.parametrize(
    ("machine", "instructions", "one_dnn", "chosen"),
    [
        ("x86_64", "_is_avx512_bf16_supported", True, "bf16"),
        ("AMD64", "_is_amx_tile_supported", True, "bf16"),
        ("x86_64", None, True, "fp32"),  # AVX-512 alone: oneDNN computes bf16 in fp32
        ("aarch64", None, True, "bf16"),
        ("arm64", None, False, "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    instructions: str | None,
    one_dnn: bool,
    chosen: str,
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda has=name == instructions: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: one_dnn)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert choose_dtype("auto", torch.device("cpu")) == chosen
    assert choose_dtype("auto", torch.device("cuda")) == "bf16"
    assert choose_dtype("bf16", torch.device("cpu")) == "bf16", "asked for is asked for"


def test_a_build_without_one_dnn_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those for macOS: there isn't even the question."""
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert choose_dtype("auto", "cpu") == "fp32"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", "cpu0", ""])
def test_an_unknown_device_is_refused_with_those_that_exist(saved: Path, device: str) -> None:
    with pytest.raises(UsageError, match=r"unknown device.*auto, cpu, cuda"):
        load_model(saved, device=device)


def test_a_device_that_is_not_there_is_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match=rf"isn't there.*sees {torch.cuda.device_count()} "):
        load_model(saved, device=f"cuda:{torch.cuda.device_count()}")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# -- what is loaded -------------------------------------------------------------------------------


def test_a_live_model_and_its_saved_folder_give_the_same_states(saved: Path) -> None:
    live = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert (live.n_layers, live.d_model, live.dtype) == (3, 32, torch.float32)
    from_folder = load_model(str(saved), dtype="fp32", device="cpu")
    assert from_folder.name == "tiny-llama" and from_folder.dtype == torch.float32
    torch.testing.assert_close(states(live), states(from_folder), rtol=0, atol=0)
    fast = choose_dtype("auto", choose_device())
    assert load_model(saved).dtype == DTYPES[fast], "the default"
    assert load_model(saved).origin["dtype"] == fast, "what it was, not that it was chosen"


def test_a_live_model_without_its_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs its tokenizer.*tokenizer="):
        load_model(tiny_model("llama"))


def test_a_model_is_loaded_for_reading(saved: Path) -> None:
    model = tiny_model("llama").train()
    assert not load_model(model, tokenizer=tiny_tokenizer()).model.training
    assert not load_model(saved).model.training


# -- identity -------------------------------------------------------------------------------------


def test_a_copy_elsewhere_is_the_same_model(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "deep" / "tiny-llama"))
    assert load_model(copy).identity == load_model(saved).identity
    renamed = copy.rename(tmp_path / "other-name")
    other, one = load_model(renamed).identity, load_model(saved).identity
    assert {k for k in one if one[k] != other[k]} == {"id"}


def test_one_changed_weight_changes_what_the_weights_are_and_nothing_else(
    saved: Path, folder: Path
) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 2**-10
    save_file(tensors, path, metadata={"format": "pt"})
    one, other = load_model(saved).identity, load_model(folder).identity
    assert {k for k in one if one[k] != other[k]} == {"weights"}


def test_one_changed_weight_of_a_live_model_changes_its_identity() -> None:
    model = tiny_model("llama")
    before = load_model(model, tokenizer=tiny_tokenizer()).identity
    assert load_model(tiny_model("llama"), tokenizer=tiny_tokenizer()).identity == before
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 2**-10
    after = load_model(model, tokenizer=tiny_tokenizer()).identity
    assert {k for k in before if before[k] != after[k]} == {"weights"}


def test_another_tokenizer_changes_the_identity(saved: Path, folder: Path) -> None:
    tiny_tokenizer(bos=True).save_pretrained(folder)
    one, other = load_model(saved).identity, load_model(folder).identity
    assert {k for k in one if one[k] != other[k]} == {"tokenizer"}


def test_reading_texts_does_not_change_the_identity(saved: Path) -> None:
    model = load_model(saved)
    states(model)
    again = load_model(model.model, tokenizer=model.tokenizer).identity
    for part in ("architecture", "attention", "config", "tokenizer"):
        assert again[part] == model.identity[part]


def test_another_config_changes_the_identity_and_its_history_does_not(
    saved: Path, folder: Path
) -> None:
    edit(folder / "config.json", transformers_version="4.0.0", _name_or_path="/elsewhere")
    assert load_model(folder).identity == load_model(saved).identity
    edit(folder / "config.json", rms_norm_eps=1e-3)
    one, other = load_model(saved).identity, load_model(folder).identity
    assert {k for k in one if one[k] != other[k]} == {"config"}


# -- the untrained twin ---------------------------------------------------------------------------


def test_an_untrained_twin_differs_in_its_weights_and_its_name_alone(saved: Path) -> None:
    one, twin = load_model(saved, dtype="fp32"), load_model(saved, dtype="fp32", untrained=True)
    assert twin.name == twin.identity["id"] == "tiny-llama (untrained)"
    assert {k for k in one.identity if one.identity[k] != twin.identity[k]} == {"id", "weights"}
    assert not twin.model.training
    shapes = [{n: p.shape for n, p in m.model.named_parameters()} for m in (one, twin)]
    assert shapes[0] == shapes[1]
    assert not torch.allclose(states(one), states(twin), rtol=0.5)


def test_its_weights_are_those_of_the_configs_own_initialiser(folder: Path) -> None:
    edit(folder / "config.json", initializer_range=0.07, hidden_size=256, intermediate_size=512)
    twin = load_model(folder, dtype="fp32", untrained=True)
    parameters = dict(twin.model.named_parameters())
    for name in ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
        assert parameters[name].std().item() == pytest.approx(0.07, rel=0.02)
    assert (parameters["model.norm.weight"] == 1).all()


def test_it_is_the_same_at_every_load_and_leaves_the_generator_alone(saved: Path) -> None:
    torch.manual_seed(1)
    first = load_model(saved, untrained=True)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    again = load_model(saved, untrained=True)
    assert again.identity == first.identity and again.dtype == first.dtype
    torch.testing.assert_close(states(first), states(again), rtol=0, atol=0)


def test_its_weight_files_are_never_read(folder: Path) -> None:
    whole = load_model(folder, untrained=True).identity
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert load_model(folder, untrained=True).identity == whole
    (folder / "model.safetensors").unlink()
    assert load_model(folder, untrained=True).identity == whole
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(ModelError, match="code of its own"):
        load_model(folder, untrained=True)


def test_a_twin_of_another_config_is_another_model(saved: Path, folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=2)
    one = load_model(saved, untrained=True).identity
    other = load_model(folder, untrained=True).identity
    assert {k for k in one if one[k] != other[k]} == {"weights", "config"}


def test_a_live_model_has_no_twin() -> None:
    with pytest.raises(UsageError, match=r"no untrained twin.*model\.config"):
        load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(), untrained=True)


# -- the hub's cache ------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache as a download leaves it: blobs, links to them by commit, a branch."""
    cache = tmp_path / "hub"
    repo = cache / "models--owner--tiny"
    snapshot = repo / "snapshots" / COMMIT
    for part in (repo / "blobs", repo / "refs", snapshot):
        part.mkdir(parents=True)
    for path in saved.iterdir():
        data = path.read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        # Only what is stored as a large file is named by its SHA-256.
        blob = repo / "blobs" / (sha if path.suffix == ".safetensors" else sha[:40])
        blob.write_bytes(data)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_model_in_the_hubs_cache_is_read_without_the_network(hub: Path, saved: Path) -> None:
    model = load_model("owner/tiny", dtype="fp32")
    assert model.origin is not None and model.origin["revision"] == COMMIT
    torch.testing.assert_close(
        states(model), states(load_model(saved, dtype="fp32")), rtol=0, atol=0
    )
    sha = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert model.identity["id"] == "owner/tiny"
    assert model.identity["revision"] == COMMIT, "the branch became the commit"
    assert model.identity["weights"] == {"model.safetensors": sha}
    assert load_model("owner/tiny", dtype="fp32", revision=COMMIT).identity == model.identity
    assert [row["id"] for row in available_models()["cached"]] == ["owner/tiny"]


def test_an_untrained_twin_from_the_hub_needs_no_weights(
    hub: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in hub.rglob("*.safetensors"):
        path.resolve().unlink()
        path.unlink()
    asked: list[str] = []
    fetch = huggingface_hub.snapshot_download

    def watched(*args: Any, **options: Any) -> str:
        asked.extend(options["allow_patterns"])
        return str(fetch(*args, **options))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    twin = load_model("owner/tiny", untrained=True)
    assert not any("safetensors" in pattern for pattern in asked)
    assert twin.name == "owner/tiny (untrained)" and twin.identity["revision"] == COMMIT
    assert twin.identity["weights"] == load_model(saved, untrained=True).identity["weights"]


def test_what_the_cache_lacks_is_refused_offline_with_the_way_to_fetch_it(hub: Path) -> None:
    with pytest.raises(ModelError, match="can't fetch 'owner/other'") as caught:
        load_model("owner/other")
    assert caught.value.why
    assert "network" in caught.value.instead
    assert "hf download owner/other" in caught.value.instead
    with pytest.raises(ModelError, match="can't fetch 'owner/tiny'"):
        load_model("owner/tiny", revision="v2")


def test_weights_that_the_cache_lacks_are_named_with_the_way_to_fetch_them(hub: Path) -> None:
    """As a transfer leaves it that broke off: the small files are there."""
    (hub / "models--owner--tiny" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"'owner/tiny'.*not whole.*model\.safetensors isn't in"
    ) as e:
        load_model("owner/tiny")
    assert "hf download owner/tiny" in e.value.instead
    snapshot = hub / "models--owner--tiny" / "snapshots" / COMMIT
    index_to(snapshot, {"lm_head.weight": "model-00001-of-00002.safetensors"})
    with pytest.raises(ModelError, match=r"not whole.*model-00001-of-00002\.safetensors isn't in"):
        load_model("owner/tiny")


def test_foreign_code_on_the_hub_is_refused_before_weights_travel(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = hub / "models--owner--tiny" / "snapshots" / COMMIT / "config.json"
    edit(config, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    asked: list[object] = []
    fetch = huggingface_hub.snapshot_download

    def watched(*args: Any, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        return str(fetch(*args, **options))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    with pytest.raises(ModelError, match="code of its own"):
        load_model("owner/tiny")
    assert asked == ["*.json"]


def test_a_spread_model_gives_the_states_of_one_device(saved: Path) -> None:
    """On a machine without GPUs all layers come to lie on the CPU; the way there is the same."""
    spread = load_model(saved, dtype="fp32", device="spread")
    one = load_model(saved, dtype="fp32", device="auto")
    torch.testing.assert_close(states(spread), states(one), rtol=0, atol=0)


def test_a_model_that_the_devices_do_not_hold_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="twin is drawn on one device"):
        load_model(saved, device="spread", untrained=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelError, match=r"doesn't fit.*on cpu and disk"):
        loading._refuse_offloaded(saved, {"model.layers.0": 0, "a": "cpu", "b": "disk"})
    loading._refuse_offloaded(saved, {"model.layers.0": 0, "model.layers.1": 1})
