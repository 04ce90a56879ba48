"""What is published: against a server on loopback that speaks the Hub's few endpoints."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from moralprobe.errors import IntegrityError, ModelError, NumericError, StoreError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.tiny import tiny_model, tiny_tokenizer
from moralprobe.sae.load import check_belongs, load_release, load_sae, save_release
from moralprobe.sae.push import layout, push
from tests.sae.hub import REPO, Hub, serving

# huggingface_hub's own upload, in the words of an older client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub(), monkeypatch, tmp_path) as server:
        yield server


def save(folder: Path, layer: int = 1, **metadata: Any) -> Path:
    torch.manual_seed(layer)
    sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=32, d_sae=64, k=4))
    sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
    for name, value in metadata.items():
        setattr(sae.cfg.metadata, name, value)
    sae.save_model(folder)
    save_file({"sparsity": torch.arange(64.0)}, folder / "sparsity.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "my sae", explained_variance=0.8125, context_size=None)


def config_of(folder: Path) -> Any:
    return json.loads((folder / "cfg.json").read_text())


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_what_arrives_is_the_layout(folder: Path, hub: Hub, tmp_path: Path) -> None:
    assert layout(folder, tmp_path / "out", repo_id=REPO) == ["resid_post.1"]
    assert push(folder, REPO, endpoint=hub.url) == f"{hub.url}/{REPO}"
    assert hub.files == files_in(tmp_path / "out")
    assert set(hub.files) == {
        "README.md",
        "resid_post.1/cfg.json",
        "resid_post.1/sae_weights.safetensors",
        "resid_post.1/sparsity.safetensors",
    }
    assert hub.tokens == {"Bearer hf_secret"}
    assert hub.branches == ["main"]
    assert not hub.private


def test_several_are_named_by_their_folders_and_go_to_a_branch(hub: Hub, tmp_path: Path) -> None:
    for layer in (1, 2):
        save(tmp_path / "saes" / f"of layer {layer}", layer)
    assert push(tmp_path / "saes", REPO, endpoint=hub.url, private=True, revision="a/b") == (
        f"{hub.url}/{REPO}/tree/a%2Fb"
    )
    assert {name.split("/")[0] for name in hub.files} == {
        "README.md",
        "of layer 1",
        "of layer 2",
    }
    assert hub.branches == ["a%2Fb"]
    assert hub.private


def test_sae_lens_and_we_load_what_was_pushed(folder: Path, hub: Hub, tmp_path: Path) -> None:
    here = load_sae(folder).sae
    push(folder, REPO, endpoint=hub.url)
    x = torch.randn(7, 32)
    theirs, _, sparsity = sae_lens.SAE.from_pretrained_with_cfg_and_sparsity(REPO, "resid_post.1")
    assert torch.equal(theirs(x), here(x))
    assert sparsity is not None
    assert torch.equal(sparsity, torch.arange(64.0))
    ours = load_release(REPO, "resid_post.1")
    save_release(ours, tmp_path / "again")
    again = load_sae(tmp_path / "again")
    assert torch.equal(again.sae(x), here(x))
    assert again.layer == 1
    assert again.sae.cfg.metadata.explained_variance == 0.8125


def test_a_layout_loads_bitwise_and_knows_its_model(tmp_path: Path) -> None:
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    save(tmp_path / "sae", model_name=model.name, model_identity=model.identity)
    (name,) = layout(tmp_path / "sae", tmp_path / "out")
    weights = "sae_weights.safetensors"
    assert (tmp_path / "out" / name / weights).read_bytes() == (
        tmp_path / "sae" / weights
    ).read_bytes()
    loaded = load_sae(tmp_path / "out" / name)
    assert check_belongs(loaded, model) == []
    other = load_model(tiny_model("llama", seed=1), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="of another model"):
        check_belongs(loaded, other)


@pytest.mark.parametrize(
    ("source", "known", "said"),
    [
        ("/home/ann/models/tiny", "tiny", "tiny"),
        ("models/tiny", "tiny", "tiny"),
        ("C:\\Users\\ann\\tiny", "tiny", "tiny"),
        ("owner/tiny", "owner/tiny", "owner/tiny"),
        ("owner/tiny", "owner/tiny (untrained)", "owner/tiny"),
    ],
)
def test_no_path_of_this_machine_leaves_it(
    source: str, known: str, said: str, tmp_path: Path
) -> None:
    identity = {"id": known, "weights": {"model.safetensors": "ab"}}
    save(
        tmp_path / "sae",
        model_origin={"source": source, "dtype": "bf16", "revision": None},
        model_identity=identity,
        texts=["/home/ann/a/x.txt", "ann/b/x.txt", "starter"],
        text_hashes={"/home/ann/a/x.txt": "1", "ann/b/x.txt": "2", "starter": "starter"},
        dataset_path="~/ann/set",
        runs=[{"/home/ann/run": "..\\ann\\log"}],
    )
    (name,) = layout(tmp_path / "sae", tmp_path / "out")
    metadata = config_of(tmp_path / "out" / name)["metadata"]
    assert metadata["model_origin"] == {"source": said, "dtype": "bf16", "revision": None}
    assert metadata["model_identity"] == identity
    assert metadata["texts"] == ["x.txt", "x.txt", "starter"]
    assert sorted(metadata["text_hashes"].values()) == ["1", "2", "starter"]
    assert (metadata["dataset_path"], metadata["runs"]) == ("set", [{"run": "log"}])
    for content in files_in(tmp_path / "out").values():
        assert b"ann" not in content


def test_nothing_else_of_a_config_is_changed(folder: Path, tmp_path: Path) -> None:
    layout(folder, tmp_path / "out")
    assert config_of(tmp_path / "out" / "resid_post.1") == config_of(folder)


def test_the_readme_says_what_it_is_and_how_it_is_loaded(tmp_path: Path) -> None:
    save(
        tmp_path / "sae",
        model_name='evil|"<script>`\n---\n# x',
        explained_variance=0.8125,
        training_tokens=12345,
        left_out="token 0 of every text",
        sink_norm=321.5,
        shuffled=True,
    )
    layout(tmp_path / "sae", tmp_path / "out", repo_id=REPO)
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "saelens",
        "tags": ["saelens", "sparse-autoencoder", "moralprobe"],
    }
    for line in (
        '| model | evil\\|"&lt;script&gt;\\` --- \\# x |',
        "| layer | blocks.1.hook\\_resid\\_post |",
        "| architecture | topk |",
        "| d\\_in | 32 |",
        "| d\\_sae | 64 |",
        "| k | 4 |",
        "| explained variance, end of training | 0.812 |",
        "| tokens trained on | 12,345 |",
        "| a null | every dimension was shuffled by itself |",
        "| left out | token 0 of every text |",
        "| sink\\_norm | 321.500 |",
        f'sae = SAE.from_pretrained("{REPO}", "resid_post.1")',
        f"$ moralprobe sae load {REPO} resid_post.1 --out sae",
    ):
        assert line in text.splitlines()
    assert "No text that it was trained on is in it" in text


def test_what_was_trained_on_pooled_vectors_says_so(tmp_path: Path) -> None:
    layout(save(tmp_path / "sae", training_tokens=5, pooling="mean"), tmp_path / "out")
    assert "| vectors of pooling mean trained on | 5 |" in (tmp_path / "out/README.md").read_text()


def test_a_readme_that_is_there_keeps_all_but_the_sections(folder: Path, hub: Hub) -> None:
    push(folder, REPO, endpoint=hub.url)
    hub.files["README.md"] = (
        b"---\nlicense: mit\n---\nby hand\n" + hub.files["README.md"] + b"end\n"
    )
    before = hub.files["README.md"].decode()
    path = folder / "cfg.json"
    path.write_text(path.read_text().replace("0.8125", "0.25"))
    push(folder, REPO, endpoint=hub.url)
    assert hub.files["README.md"].decode() == before.replace("0.812", "0.250")
    push(save(folder.parent / "other", layer=2), REPO, endpoint=hub.url)
    readme = hub.files["README.md"].decode()
    assert readme.startswith(before.replace("0.812", "0.250"))
    assert readme.count("<!-- moralprobe: resid_post.1 -->") == 1
    assert readme.count("<!-- moralprobe: resid_post.2 -->") == 1


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/api/repos/create", 401, r"doesn't accept the token \(401\).*hf auth login"),
        ("/preupload/", 403, r"may not write there \(403\)"),
        ("/commit/", 404, r"no such repo or branch \(404\)"),
        ("/upload/", 403, r"may not write there \(403\)"),
        ("/commit/", 418, r"answers 418: so it is"),
    ],
)
def test_a_refusal_is_said_in_words(
    part: str, status: int, said: str, folder: Path, hub: Hub
) -> None:
    hub.refuses[part] = status
    with pytest.raises(ModelError, match=said) as caught:
        push(folder, REPO, endpoint=hub.url)
    assert "nothing is published" in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    assert hub.files == {}


def test_a_closed_port_is_said_in_words(folder: Path, hub: Hub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ModelError, match=r"can't push.*refused.*check the network"):
        push(folder, REPO, endpoint=f"http://127.0.0.1:{port}")


def test_a_public_repo_isnt_taken_for_a_private_one(folder: Path, hub: Hub) -> None:
    hub.exists = True
    with pytest.raises(ModelError, match="there and public"):
        push(folder, REPO, endpoint=hub.url, private=True)
    assert hub.files == {}


def test_offline_or_without_a_token_nothing_is_asked(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ModelError, match="no token"):
        patch.delenv("HF_TOKEN")
        push(folder, REPO, endpoint=hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"TRANSFORMERS_OFFLINE is set.*unset it"):
        push(folder, REPO, endpoint=hub.url)
    assert hub.asked == []


@pytest.mark.parametrize("repo", ["name", "a/b/c", "a/", "/b", "a/b--c", "a b/c", "../x", ""])
def test_a_bad_repo_id_is_refused_before_anything(
    repo: str, folder: Path, hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="user/name"):
        push(folder, repo, endpoint=hub.url)
    with pytest.raises(UsageError, match="user/name"):
        layout(folder, tmp_path / "out", repo_id=repo)
    assert hub.asked == []
    assert not (tmp_path / "out").exists()


def test_what_load_sae_refuses_is_never_published(folder: Path, hub: Hub) -> None:
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError):
        push(folder, REPO, endpoint=hub.url)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors["b_enc"][3] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(NumericError):
        push(folder, REPO, endpoint=hub.url)
    assert hub.asked == []


def test_one_of_several_that_is_damaged_stops_all(tmp_path: Path) -> None:
    save(tmp_path / "saes" / "a", 1)
    (save(tmp_path / "saes" / "b", 2) / "sae_weights.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError):
        layout(tmp_path / "saes", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [".git", "a-->b", "a\nb"])
def test_a_folder_that_cant_be_named_there_is_refused(name: str, tmp_path: Path) -> None:
    save(tmp_path / "saes" / name)
    with pytest.raises(UsageError, match="can't be a folder's name"):
        layout(tmp_path / "saes", tmp_path / "out")


def test_a_layout_goes_into_a_new_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        layout(folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_repo_that_holds_no_such_autoencoder_is_said(folder: Path, hub: Hub) -> None:
    push(folder, REPO, endpoint=hub.url)
    with pytest.raises(ModelError, match=r"can't fetch resid_post\.9.*Not Found"):
        load_release(REPO, "resid_post.9")
    hub.files["resid_post.1/sae_weights.safetensors"] = b"damaged"
    with pytest.raises(ModelError, match="can't fetch"):
        load_release(REPO, "resid_post.1")
    hub.files["resid_post.1/cfg.json"] = b"[]"
    with pytest.raises(ModelError, match="can't fetch"):
        load_release(REPO, "resid_post.1")


def test_a_repo_that_has_only_pickles_is_not_unpickled(folder: Path, hub: Hub) -> None:
    push(folder, REPO, endpoint=hub.url)
    hub.files["resid_post.1/sae_weights.pt"] = hub.files.pop("resid_post.1/sae_weights.safetensors")
    with pytest.raises(ModelError, match="can't fetch"):
        load_release(REPO, "resid_post.1")
    assert not any(".pt" in asked for asked in hub.asked)


def test_a_scale_that_isnt_known_is_refused(folder: Path, hub: Hub) -> None:
    push(folder, REPO, endpoint=hub.url)
    config = json.loads(hub.files["resid_post.1/cfg.json"])
    config["normalize_activations"] = "expected_average_only_in"
    hub.files["resid_post.1/cfg.json"] = json.dumps(config).encode()
    with pytest.raises(ModelError, match="scale that isn't known"):
        load_release(REPO, "resid_post.1")
