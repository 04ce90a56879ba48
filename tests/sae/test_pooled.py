"""Autoencoders of pooled vectors: what they are shown, judged by and read on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.activations.extract import extract
from moralprobe.activations.store import ActivationStore
from moralprobe.activations.stream import read_tokens
from moralprobe.cli.main import app
from moralprobe.errors import DataError, ModelError, StoreError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae import evaluate_pooled as evaluating
from moralprobe.sae.evaluate_pooled import evaluate_pooled, held_out_of
from moralprobe.sae.load import load_sae
from moralprobe.sae.pooled import ACTIVATIONS, features_of_table, pooled_states, train_on_pooled
from moralprobe.sae.recipe import Recipe, Task
from moralprobe.sae.tokens import TextOptions


def run(*arguments: object) -> None:
    app([str(a) for a in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, the starter table and its store, and the paper's autoencoder of layer 1."""
    folder = tmp_path_factory.mktemp("pooled")
    save_tiny("qwen3", folder / "model", bos=True)
    run("vectors", "build", "starter", "--out", folder / "starter.parquet")
    model = load_model(folder / "model", dtype="fp32")
    table = MoralVectors.load(folder / "starter.parquet")
    extract(model, table, folder / "store", layers="0-1", poolings="mean,mean_unit")
    run(
        *("sae", "train", folder / "model", folder / "starter.parquet", "--mode", "li2026"),
        *("--layer", 1, "--expansion", 4, "--k", 16, "--steps", 600, "--batch", 128),
        *("--lr", 3e-3, "--dtype", "fp32", "--precision", "fp32"),
        *("--out", folder / "sae", "--quiet"),
    )
    return folder


def test_rows_are_shown_as_often_as_they_are_rated(trained: Path) -> None:
    store = ActivationStore.open(trained / "store")
    frame = store.vectors().frame
    rows = frame.filter(split="train")
    shown = pooled_states(store, 1, "mean", ("train",), by_row=True)
    assert len(shown) == rows.height > rows["action"].n_unique()
    place = {text: i for i, text in enumerate(store.texts["text"])}
    expected = store.layer("mean", 1)[[place[a] for a in rows["action"]]]
    np.testing.assert_array_equal(shown.numpy(), expected)
    once = pooled_states(store, 1, "mean_unit", ("dev", "test"), by_row=False)
    held = frame.filter(pl.col("split") != "train")
    assert len(once) == held["action"].n_unique()
    with pytest.raises(DataError, match="no text of nowhere"):
        pooled_states(store, 1, "mean", ("nowhere",), by_row=True)


def test_a_table_is_extracted_and_a_store_gives_the_same(trained: Path, tmp_path: Path) -> None:
    loaded = load_sae(trained / "sae")
    metadata = loaded.sae.cfg.metadata
    assert (metadata.source, metadata.pooling, metadata.by_row) == ("pooled", "mean", True)
    assert (trained / "sae" / ACTIVATIONS / "manifest.json").exists()
    model = load_model(trained / "model", dtype="fp32")
    recipe = Recipe("li2026", 4, 16, steps=600, batch=128, lr=3e-3, precision="fp32")
    folder = train_on_pooled(
        model, TextOptions((str(trained / "store"),)), [Task(1, recipe)], tmp_path / "sae"
    )[0]
    again = load_sae(folder).sae
    torch.testing.assert_close(again.W_dec, loaded.sae.W_dec, rtol=1e-3, atol=1e-4)


def test_it_is_judged_on_held_out_vectors_and_on_tokens(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, model = load_sae(trained / "sae"), load_model(trained / "model", dtype="fp32")
    states, tokens = held_out_of(model, loaded)
    store = ActivationStore.open(trained / "store")
    held = store.vectors().frame.filter(pl.col("split") != "train")
    assert len(states) == held.height
    found = evaluate_pooled(loaded, model, states, tokens, n_texts=20)
    with torch.no_grad():
        left = (states - loaded.sae(states)).pow(2).sum() / (states - states.mean(0)).pow(2).sum()
    assert found.reconstruction.explained_variance == pytest.approx(1 - float(left), abs=1e-4)
    assert found.reconstruction.explained_variance > 0.5
    # Single tokens vary otherwise than means over a text, and it has never seen one.
    assert found.at_tokens is not None
    assert found.at_tokens < found.reconstruction.explained_variance
    run("sae", "eval", trained / "sae")
    said = capsys.readouterr().out
    assert f"judged by {held.height:,} pooled vectors" in said and "of single tokens" in said
    run("sae", "eval", trained / "sae", "--texts", trained / "store", "--json")
    row = json.loads(capsys.readouterr().out)[0]
    assert row["explained_variance"] == pytest.approx(found.reconstruction.explained_variance)


def test_its_features_are_those_of_the_pooled_vectors(trained: Path) -> None:
    loaded, model = load_sae(trained / "sae"), load_model(trained / "model", dtype="fp32")
    read = features_of_table(loaded, model, trained / "store")
    store = ActivationStore.open(trained / "store")
    place = {text: i for i, text in enumerate(store.texts["text"])}
    states = torch.from_numpy(store.layer("mean", 1)[[place[text] for text in read.texts]])
    with torch.no_grad():
        expected = loaded.sae.encode(states).numpy()
    np.testing.assert_allclose(read.activations.toarray(), expected, rtol=1e-3, atol=1e-4)
    from_table = features_of_table(loaded, model, trained / "starter.parquet")
    assert from_table.texts == read.texts
    np.testing.assert_allclose(from_table.activations.toarray(), expected, rtol=1e-3, atol=1e-4)


def test_topk_trains_on_each_text_once(trained: Path, tmp_path: Path) -> None:
    run(
        *("sae", "train", trained / "model", trained / "store", "--source", "pooled"),
        *("--layer", "0,1", "--expansion", 4, "--k", 4, "--steps", 50, "--batch", 64),
        *("--dtype", "fp32", "--out", tmp_path / "sae", "--quiet"),
    )
    for folder in sorted(p for p in (tmp_path / "sae").iterdir() if p.is_dir()):
        metadata = load_sae(folder).sae.cfg.metadata
        assert (metadata.pooling, metadata.by_row) == ("mean_unit", False)
        store = ActivationStore.open(trained / "store")
        train = store.vectors().frame.filter(split="train")
        assert metadata.training_tokens == train["action"].n_unique()


def test_several_of_a_table_are_judged_from_what_was_extracted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        *("sae", "train", trained / "model", trained / "starter.parquet", "--source", "pooled"),
        *("--layer", "0,1", "--expansion", 4, "--k", 4, "--steps", 100, "--batch", 64),
        *("--lr", 3e-3, "--dtype", "fp32", "--out", tmp_path / "sae", "--quiet"),
    )
    capsys.readouterr()
    run("sae", "eval", tmp_path / "sae", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 and all(row["explained_variance"] > 0 for row in rows)
    with pytest.raises(UsageError, match="of tokens"):
        run("sae", "eval", tmp_path / "sae", "--sae-lens")


def test_at_tokens_it_works_on_the_scale_that_it_knows(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of unit-norm states: each token's is divided by its norm, and its reconstruction multiplied."""
    model = load_model(trained / "model", dtype="fp32")
    recipe = Recipe(expansion=4, k=8, steps=200, batch=64, lr=3e-3, precision="fp32")
    folder = train_on_pooled(
        model, TextOptions((str(trained / "store"),)), [Task(1, recipe)], tmp_path / "sae"
    )[0]
    loaded = load_sae(folder)
    states, tokens = held_out_of(model, loaded)
    single = read_tokens(model, tokens, [1])[1].float()
    limit = float(single.norm(dim=-1).quantile(0.8))  # a tiny model has no sink of its own
    monkeypatch.setattr(evaluating, "sink_limits", lambda model, tokens, layers: {1: limit})
    found = evaluate_pooled(loaded, model, states, tokens, n_texts=20)
    x = single[single.norm(dim=-1) <= limit]
    norm = x.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        left = (x - norm * loaded.sae(x / norm)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        raw = (x - loaded.sae(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert found.at_tokens == pytest.approx(1 - float(left), abs=1e-4)
    assert found.at_tokens != pytest.approx(1 - float(raw), abs=1e-2)
    assert found.sinks == pytest.approx(1 - len(x) / len(single)) == pytest.approx(0.2, abs=0.01)


def test_other_texts_are_all_judged_and_have_to_be_read_alike(
    trained: Path, tmp_path: Path
) -> None:
    loaded, model = load_sae(trained / "sae"), load_model(trained / "model", dtype="fp32")
    table = MoralVectors.load(trained / "starter.parquet")
    few = MoralVectors(table.frame.head(200), table.meta)
    few.save(tmp_path / "few.parquet")
    states, tokens = held_out_of(model, loaded, [str(tmp_path / "few.parquet")])
    assert len(states) == few.frame.height and len(tokens.encoded) > 1
    extract(
        *(model, few, tmp_path / "bare"),
        **{"layers": "1", "poolings": "mean", "template": "action"},
    )
    for attempt in (
        lambda: held_out_of(model, loaded, [str(tmp_path / "bare")]),
        lambda: features_of_table(loaded, model, tmp_path / "bare"),
    ):
        with pytest.raises(ModelError, match="read otherwise"):
            attempt()
    with pytest.raises(UsageError, match="one table or store"):
        held_out_of(model, loaded, [str(trained / "store"), str(trained / "starter.parquet")])


def test_what_cant_be_trained_is_refused_before_anything_is_extracted(
    trained: Path, tmp_path: Path
) -> None:
    train = ("sae", "train", trained / "model", trained / "starter.parquet", "--layer", 1)
    out = ("--out", tmp_path / "sae", "--quiet", "--dtype", "fp32")
    for arguments, error, said in (
        (("--source", "pooled", "--arch", "topkk"), UsageError, "did you mean"),
        (("--source", "pooled", "--batch", 0), UsageError, "--batch must be above 0"),
        (("--mode", "li2026", "--expansion", "4,4"), UsageError, "asked for twice"),
        (("--arch", "li2026"), UsageError, "isn't an architecture alone"),
    ):
        with pytest.raises(error, match=said):
            run(*train, *arguments, *out)
        assert not (tmp_path / "sae").exists()
    with pytest.raises(StoreError, match="no training run"):
        run(*train, "--mode", "li2026", "--quiet", "--out", trained)
    with pytest.raises(DataError, match="too few activations for a batch"):
        run(*train, "--mode", "li2026", *out)


def test_what_doesnt_go_together_is_refused(trained: Path, tmp_path: Path) -> None:
    save_tiny("qwen3", tmp_path / "other", bos=True, seed=4)
    train = ("sae", "train", trained / "model", trained / "store", "--layer", 1)
    out = ("--out", tmp_path / "sae", "--quiet", "--dtype", "fp32")
    with pytest.raises(ModelError, match="a store of another model"):
        run(
            *("sae", "train", tmp_path / "other", trained / "store", "--layer", 1),
            *("--mode", "li2026", "--batch", 64, *out),
        )
    for arguments, said in (
        (("--mode", "li2026", "--source", "tokens"), "trains a ReLU autoencoder"),
        (("--mode", "li2026", "--arch", "topk"), "trains a ReLU autoencoder"),
        (("--mode", "li2027"), "unknown mode"),
        (("--source", "poled"), "did you mean"),
        (("--source", "pooled", "--shuffled"), "what is shuffled for a null"),
        (("--source", "pooled", "--pooling", "last"), "holds no pooling"),
    ):
        with pytest.raises(UsageError, match=said):
            run(*train, *arguments, *out)
    loaded = load_sae(trained / "sae")
    model = load_model(trained / "model", dtype="fp32")
    with pytest.raises(UsageError, match="says nothing of a pooled"):
        features_of_table(loaded, model, trained / "store", null=loaded)
