"""Stored states against transformers' own, text by text, and what extraction refuses."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.activations import extract as extracting
from moralprobe.activations import plan
from moralprobe.activations.extract import Progress, extract
from moralprobe.activations.plan import make_plan
from moralprobe.activations.store import ActivationStore, verify
from moralprobe.errors import IntegrityError, NumericError, StoreError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny, tiny_model, tiny_tokenizer
from moralprobe.moral_vectors import MoralVectors, build_vectors
from tests import planted
from tests.activations.test_pooling import naive

POOLINGS = ("mean", "mean_unit", "mean_no_sink", "mean_action", "last")


def starter(rows: int | None = None) -> MoralVectors:
    vectors = build_vectors("starter")
    return vectors if rows is None else MoralVectors(vectors.frame.head(rows), vectors.meta)


def tiny(family: str = "llama", *, seed: int = 0, bos: bool = True) -> CausalModel:
    return load_model(tiny_model(family, seed=seed), tokenizer=tiny_tokenizer(bos=bos))


def with_actions(actions: list[str]) -> MoralVectors:
    vectors = starter(len(actions))
    return MoralVectors(vectors.frame.with_columns(action=pl.Series(actions)), vectors.meta)


def reference(
    model: CausalModel, text: str, action: str
) -> tuple[dict[str, np.ndarray], list[bool]]:
    """Every site's states of one text alone, from transformers, and which tokens are the action."""
    fields = model.tokenizer(text, return_offsets_mapping=True)
    inside = [a < b and a < len(action) for a, b in fields["offset_mapping"]]
    last: list[torch.Tensor] = []
    handle = model.decoder.layers[-1].register_forward_hook(
        lambda _m, _i, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    ids = torch.tensor([fields["input_ids"]])
    with torch.inference_mode():
        out = model.model(ids, output_hidden_states=True, use_cache=False)
        embedded = model.model.get_input_embeddings()(ids)
    handle.remove()
    layers = (*out.hidden_states[1:-1], last[0])
    states = {f"resid_post.{layer}": h[0].numpy() for layer, h in enumerate(layers)}
    states |= {"embed": embedded[0].numpy(), "resid_pre.0": out.hidden_states[0][0].numpy()}
    return states, inside


def assert_equals_transformers(model: CausalModel, store: ActivationStore, some: int) -> None:
    texts = store.texts.with_row_index().gather_every(max(1, store.texts.height // some))
    stored = everything(store)
    assert store.inputs == ("embed", "resid_pre.0")
    assert store.input_poolings == tuple(p for p in POOLINGS if p != "last")
    for row in texts.iter_rows(named=True):
        states, inside = reference(model, row["text"] + " is morally", row["text"])
        assert {len(h) for h in states.values()} == {row["n_tokens"]}
        assert {site for site, _ in stored} == states.keys()
        for (site, pooling), values in stored.items():
            expected = naive(states[site].astype(np.float64), inside, pooling)
            close = np.linalg.norm(values[row["index"]] - expected) / np.linalg.norm(expected)
            assert close < 1e-4, (row["text"], pooling, site, close)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("family", "bos"),
    [("llama", True), ("gpt2", False), ("gemma2", True), ("gemma3_text", True), ("opt", True)],
)
def test_stored_states_equal_transformers_one_text_at_a_time(
    tmp_path: Path, family: str, bos: bool, share: bool
) -> None:
    model = tiny(family, bos=bos)
    store = extract(model, starter(80), tmp_path / "s", poolings=POOLINGS, share=share)
    # The windows of these two are shorter than the texts.
    trees = share and family not in ("gemma2", "gemma3_text")
    assert store.key["batches"].startswith("trees" if trees else "texts of one length")
    assert_equals_transformers(model, store, 25)


def test_real_weights_equal_transformers_in_fp32(tmp_path: Path) -> None:
    model = load_model("smollm2-135m", dtype="fp32")
    store = extract(model, starter(40), tmp_path / "s", poolings=POOLINGS)
    assert len(store.layers) == 30
    assert_equals_transformers(model, store, 12)


def test_bf16_states_are_those_of_fp32_up_to_rounding(tmp_path: Path) -> None:
    vectors = starter(20)
    exact = extract(
        load_model("smollm2-135m", dtype="fp32"), vectors, tmp_path / "a", layers="5,20"
    )
    rounded = extract(load_model("smollm2-135m"), vectors, tmp_path / "b", layers="5,20")
    for layer in (5, 20):
        a, b = exact.layer("mean_unit", layer), rounded.layer("mean_unit", layer)
        assert np.all(np.linalg.norm(a - b, axis=1) < 0.05 * np.linalg.norm(a, axis=1))


def test_batches_change_nothing(tmp_path: Path) -> None:
    one = extract(tiny(), starter(60), tmp_path / "one", batch_tokens=1)
    many = extract(tiny(), starter(60), tmp_path / "many", batch_tokens=100_000)
    other = everything(many)
    place = [many.texts["text"].to_list().index(text) for text in one.texts["text"]]
    for name, values in everything(one).items():
        np.testing.assert_allclose(
            values, other[name][place], rtol=1e-4, atol=1e-5, err_msg=str(name)
        )


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees wherever the model allows them: for models this small they wouldn't pay."""
    monkeypatch.setattr(plan.Plan, "work", lambda self, width_cost: 0 if self.blocks else 1)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("share", [True, False])
def test_each_token_is_read_once_and_the_vectors_travel_along(tmp_path: Path, share: bool) -> None:
    vectors = starter()
    vectors = MoralVectors(pl.concat([vectors.frame, vectors.frame.head(9)]), vectors.meta)
    model = tiny()
    read = 0

    def count(_module: object, _args: tuple, kwargs: dict) -> None:
        nonlocal read
        read += kwargs["input_ids"].numel()

    model.decoder.module.register_forward_pre_hook(count, with_kwargs=True)
    # Cut short, texts have more in common.
    store = extract(model, vectors, tmp_path / "s", share=share, max_tokens=8)
    assert store.texts.height == vectors.frame["action"].n_unique()
    texts = [model.tokenizer(text)["input_ids"][:8] for text in store.texts["text"]]
    alone = sum(map(len, texts))
    # Some tokens more are read by the trial, where a tree begins, and to fill smaller trees up.
    distinct = len({tuple(ids[:k]) for ids in texts for k in range(1, len(ids) + 1)})
    assert distinct < read < 0.9 * alone if share else read == alone
    assert store.vectors().frame.equals(vectors.frame)


@pytest.mark.usefixtures("shared")
def test_a_text_has_its_own_vectors_whichever_tree_it_is_read_in(tmp_path: Path) -> None:
    """Trees stand by their size and texts by their length: each must find its states."""
    # Cut short, texts have more in common.
    trees = extract(tiny(), starter(), tmp_path / "trees", max_tokens=12)
    alone = extract(tiny(), starter(), tmp_path / "alone", max_tokens=12, share=False)
    assert trees.key["batches"] != alone.key["batches"]
    names = alone.texts["text"].to_list()
    assert trees.texts["text"].to_list() != names
    place = [trees.texts["text"].to_list().index(text) for text in names]
    other = everything(trees)
    for name, values in everything(alone).items():
        np.testing.assert_allclose(
            other[name][place], values, rtol=1e-3, atol=1e-4, err_msg=str(name)
        )
    assert alone.texts.equals(trees.texts[place])


def test_layers_and_poolings_are_those_asked_for(tmp_path: Path) -> None:
    store = extract(tiny(), starter(20), tmp_path / "s", layers="0-2:2", poolings="last")
    assert store.layers == (0, 2) and store.poolings == ("last",)
    for wrong, match in (
        (("last", 1), r"no resid_post\.1.*layers 0 to 2 \(2\)"),
        (("mean", 0), "no pooling 'mean'"),
    ):
        with pytest.raises(UsageError, match=match):
            store.layer(*wrong)
    with pytest.raises(UsageError, match="out of range"):
        extract(tiny(), starter(20), tmp_path / "t", layers="0-3")
    assert not (tmp_path / "t").exists()


# -- what goes into the first block -----------------------------------------------------------------


def test_the_last_tokens_input_is_kept_where_texts_end_in_different_words(tmp_path: Path) -> None:
    same = extract(tiny(), starter(40), tmp_path / "same", poolings="last,mean", layers="1")
    assert same.poolings == ("last", "mean") and same.input_poolings == ("mean",)
    with pytest.raises(UsageError, match=r"no pooling 'last' of embed.*ends in the same token"):
        same.site("embed", "last")
    with pytest.raises(UsageError, match=r"no resid_pre\.1.*and embed and resid_pre\.0"):
        same.site("resid_pre.1", "mean")
    np.testing.assert_array_equal(same.site("resid_post.1", "last"), same.layer("last", 1))
    words = [f"helping {name}" for name in ("Ann", "Bob", "Max", "Pam", "Eve")]
    other = extract(
        tiny(), with_actions(words), tmp_path / "other", poolings="last", template="action"
    )
    assert other.input_poolings == ("last",)
    model = tiny()
    table = model.decoder.embedding.weight.detach().numpy()
    for row, text in zip(other.site("embed", "last"), other.texts["text"], strict=True):
        np.testing.assert_array_equal(row, table[model.tokenizer(text)["input_ids"][-1]])


def test_a_store_of_the_last_token_alone_may_have_no_inputs(tmp_path: Path) -> None:
    store = extract(tiny("gpt2"), starter(40), tmp_path / "s", poolings="last", layers="1")
    assert store.inputs == store.input_poolings == ()
    with pytest.raises(UsageError, match=r"ends in the same token; it holds none"):
        store.site("embed", "last")


def test_a_cut_text_does_not_bring_the_last_tokens_input_back(tmp_path: Path) -> None:
    store = extract(tiny(), starter(40), tmp_path / "s", poolings="last,mean", max_tokens=55)
    assert 0 < store.texts["truncated"].sum() < store.n_readable and store.input_poolings == (
        "mean",
    )


@pytest.mark.parametrize(("output", "what"), [(0.0, "all zero"), (1.0, "equal for all tokens")])
@pytest.mark.parametrize("poolings", ["last", "mean"])
def test_an_input_that_never_varies_is_a_tap_that_did_not_fire(
    tmp_path: Path, output: float, what: str, poolings: str
) -> None:
    model = tiny()
    model.decoder.embedding.register_forward_hook(lambda _m, _i, out: torch.full_like(out, output))
    with pytest.raises(NumericError, match=rf"tap of embed did not fire.*{what}"):
        extract(
            model, starter(20), tmp_path / "s", poolings=poolings, layers="1", template="action"
        )


def test_texts_of_the_same_letters_in_another_order_are_no_fault(tmp_path: Path) -> None:
    texts = with_actions(["ab", "ba"])
    store = extract(tiny(), texts, tmp_path / "s", poolings="mean", layers="1")
    np.testing.assert_allclose(*store.site("embed", "mean"), rtol=1e-5, atol=1e-6)


def test_a_store_of_the_first_layout_is_read_and_has_no_inputs(tmp_path: Path) -> None:
    vectors = starter(40)
    texts, _ = planted.texts_of(vectors)
    store = planted.store(tmp_path / "s", vectors, {0: planted.noise(texts, 0)})
    key = store._artifact.key
    del key["input_poolings"]
    old = ActivationStore(store._artifact)
    assert old.inputs == () and np.isfinite(old.layer("mean", 0)).all()
    with pytest.raises(UsageError, match=r"no pooling 'mean' of embed.*it holds none"):
        old.site("embed", "mean")


def test_planted_inputs_are_read_back(tmp_path: Path) -> None:
    vectors = starter(40)
    texts, _ = planted.texts_of(vectors)
    states = {"embed": planted.noise(texts, 1), "resid_pre.0": planted.noise(texts, 2)}
    store = planted.store(tmp_path / "s", vectors, {0: planted.noise(texts, 0)}, inputs=states)
    assert store.inputs == tuple(states)
    for site, values in states.items():
        np.testing.assert_array_equal(store.site(site, "mean_unit"), values)


def test_a_plan_covers_every_text_once_and_never_mixes_lengths() -> None:
    lengths = sorted(np.random.default_rng(0).integers(2, 30, 500).tolist())
    made = make_plan(lengths, batch_tokens=100, bytes_per_text=1 << 20)
    assert [i for a, b in made.batches for i in range(a, b)] == list(range(500))
    assert [i for a, b in made.shards for i in range(a, b)] == list(range(500))
    for a, b in made.batches:
        assert len(set(lengths[a:b])) == 1 and (b - a == 1 or (b - a) * lengths[a] <= 100)
    assert len(made.shards) > 3
    assert [batch for shard in made.shards for batch in made.batches_of(shard)] == list(
        made.batches
    )


# -- F9, F10: what belongs to the key ---------------------------------------------------------------


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_tiny("llama", tmp_path / str(seed) / "model", seed=seed)
    extract(load_model(tmp_path / "0" / "model", dtype="fp32"), starter(20), tmp_path / "s")
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    with pytest.raises(StoreError, match=r"belongs to another run.*weights"):
        extract(load_model(tmp_path / "1" / "model", dtype="fp32"), starter(20), tmp_path / "s")
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


def test_an_untrained_twin_has_a_store_of_its_own(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    twin = load_model(folder, untrained=True)
    store = extract(twin, starter(20), tmp_path / "twin", layers="1")
    assert store.model_name == "model (untrained)"
    with pytest.raises(StoreError, match=r"belongs to another run.*model \(untrained\).*weights"):
        extract(load_model(folder), starter(20), tmp_path / "twin", layers="1")
    again = extract(load_model(folder, untrained=True), starter(20), tmp_path / "b", layers="1")
    assert again.digest() == store.digest()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": lambda: tiny(bos=False)}, "tokenizer"),
        ({"template": "action"}, "template"),
        ({"layers": "0-1"}, "layers"),
        ({"poolings": "mean"}, "poolings"),
        ({"max_tokens": 20}, "max_tokens"),
        ({"batch_tokens": 64}, "batch_tokens"),
        ({"vectors": lambda: starter(19)}, "texts"),
    ],
)
def test_whatever_changes_the_bytes_is_in_the_key(tmp_path: Path, change: dict, named: str) -> None:
    options = {"model": tiny(bos=True), "vectors": starter(20), "out": tmp_path / "s"}
    change = {name: value() if callable(value) else value for name, value in change.items()}
    extract(**options)
    with pytest.raises(StoreError, match=named):
        extract(**{**options, **change})


# -- F11, F12: texts that can't be read as they are -------------------------------------------------


def test_empty_blank_and_one_token_texts_stay_masked_and_counted(tmp_path: Path) -> None:
    actions = ["helping a friend", "", "  \t ", "a", "lying to a friend", "sharing"]
    model = tiny(bos=False)
    store = extract(
        model, with_actions(actions), tmp_path / "s", template="action", poolings=POOLINGS
    )
    status = dict(store.texts.select("text", "status").iter_rows())
    assert status == {
        "helping a friend": "ok",
        "": "empty",
        "  \t ": "empty",
        "a": "one token",
        "lying to a friend": "ok",
        "sharing": "ok",
    }
    assert store.texts.height == 6 and store.n_readable == 3
    for pooling in POOLINGS:
        values, valid = store.layer(pooling, 1), store.valid(pooling)
        assert (
            valid.sum() == 3 and np.isnan(values[~valid]).all() and np.isfinite(values[valid]).all()
        )
        assert (np.linalg.norm(values[valid], axis=1) > 0).all()


def test_an_action_of_token_zero_alone_has_no_mean_over_the_action(tmp_path: Path) -> None:
    store = extract(tiny(bos=False), with_actions(["a", "ab"]), tmp_path / "s", poolings=POOLINGS)
    assert store.texts["text"].to_list() == ["a", "ab"]
    assert store.valid("mean_action").tolist() == [False, True] and store.valid("mean").all()
    assert (
        np.isnan(store.layer("mean_action", 0)[0]).all()
        and np.isfinite(store.layer("mean", 0)).all()
    )


def test_longer_texts_are_cut_flagged_and_counted(tmp_path: Path) -> None:
    store = extract(tiny(), starter(30), tmp_path / "s", max_tokens=40)
    cut = store.texts["truncated"]
    assert 0 < cut.sum() < 30 and store.texts["n_tokens"].max() == 40
    assert all(len(text) + len(" is morally") + 1 > 40 for text in store.texts.filter(cut)["text"])


# -- F16, F17: states that can't be right -----------------------------------------------------------


def test_not_a_number_names_the_layer_and_the_text(tmp_path: Path) -> None:
    model = tiny()
    bad = "lying to a friend"
    wrong_token = model.tokenizer("y")["input_ids"][-1]
    with torch.no_grad():
        model.decoder.embedding.weight[wrong_token] = torch.nan
    vectors = with_actions(["helping a friend", bad, "sharing a meal"])
    # The template's own "morally" holds a y, so it is left out here.
    with pytest.raises(NumericError, match=rf"embed holds NaN.*in 1 texts.*{bad}"):
        extract(model, vectors, tmp_path / "s", template="action")
    assert verify(tmp_path / "s") == ({}, [])


@pytest.mark.parametrize(("output", "what"), [(0.0, "all zero"), (1.0, "equal for all texts")])
def test_a_layer_that_never_varies_is_a_tap_that_did_not_fire(
    tmp_path: Path, output: float, what: str
) -> None:
    model = tiny()
    model.decoder.layers[1].register_forward_hook(lambda _m, _i, out: torch.full_like(out, output))
    with pytest.raises(NumericError, match=rf"tap of resid_post\.1 did not fire.*{what}"):
        extract(model, starter(20), tmp_path / "s", poolings="last", layers="1")


# -- F3 to F6: disks --------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan, "SHARD_BYTES", 25_000)
    monkeypatch.setitem(plan.BATCH_TOKENS, "cpu", 256)
    extract(tiny(), starter(80), tmp_path / "s")
    assert len(list((tmp_path / "s").glob("shard-*"))) >= 4
    return tmp_path / "s"


def everything(store: ActivationStore) -> dict[tuple[str, str], np.ndarray]:
    """Every vector of a store, by site and pooling."""
    found = {
        (f"resid_post.{n}", p): store.layer(p, n) for n in store.layers for p in store.poolings
    }
    return found | {(s, p): store.site(s, p) for s in store.inputs for p in store.input_poolings}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("fault", ["cut", "emptied", "flipped", "missing"])
def test_only_what_is_damaged_is_computed_again(several: Path, fault: str) -> None:
    right = contents(several)
    path = several / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[:-1], "emptied": b"", "flipped": data}[fault])
    assert list(verify(several)[0]) == [path.name]
    with pytest.raises(IntegrityError, match=re.escape(path.name)):
        everything(ActivationStore.open(several))
    times = {p.name: p.stat().st_mtime_ns for p in several.glob("shard-*") if p != path}
    said: list[str] = []
    seen: list[Progress] = []
    extract(tiny(), starter(80), several, say=said.append, progress=seen.append)
    assert contents(several) == right
    assert {p.name: p.stat().st_mtime_ns for p in several.glob("shard-*") if p != path} == times
    assert (
        len(said) == 2
        and "checking what is there: shards 9 of 9" in said[0]
        and path.name in said[1]
    )
    assert 0 < seen[0].texts == seen[0].kept < seen[-1].texts == seen[-1].total


def test_swapped_shards_give_an_error_and_never_numbers(several: Path) -> None:
    a, b = several / "shard-00001.safetensors", several / "shard-00002.safetensors"
    c = several / "c"
    a.rename(c), b.rename(a), c.rename(b)
    assert set(verify(several)[0]) == {a.name, b.name}
    with pytest.raises(IntegrityError):
        ActivationStore.open(several).layer("mean", 0)


@pytest.mark.parametrize("name", ["texts.parquet", "vectors.parquet"])
def test_a_damaged_table_is_an_error_and_is_written_again(several: Path, name: str) -> None:
    right = contents(several)
    data = bytearray(right[name])
    data[100] ^= 4
    (several / name).write_bytes(data)
    assert list(verify(several)[0]) == [name]
    with pytest.raises(IntegrityError, match=name):
        ActivationStore.open(several).vectors()
    extract(tiny(), starter(80), several)
    assert contents(several) == right


def test_a_foreign_file_is_named_and_ignored(several: Path) -> None:
    (several / "shard-99999.safetensors").write_bytes(b"not ours")
    said: list[str] = []
    before = ActivationStore.open(several).layer("mean", 0)
    extract(tiny(), starter(80), several, say=said.append)
    assert any("shard-99999" in s and "ignored" in s for s in said)
    np.testing.assert_array_equal(ActivationStore.open(several).layer("mean", 0), before)
    assert verify(several) == ({}, ["shard-99999.safetensors"])


def test_a_full_disk_keeps_what_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SHARD_BYTES", 25_000)
    monkeypatch.setitem(plan.BATCH_TOKENS, "cpu", 256)
    extract(tiny(), starter(80), tmp_path / "whole")
    real = io.FileIO.write

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            """Take half, as a disk that gets full does; then there is no more."""
            if len(data) < 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, data[: len(data) // 2])

    opened = Path.open

    def full(self: Path, *args: Any, **options: Any) -> Any:
        fills = "shard-00002" in self.name and args == ("wb",)
        return Full(self, "wb") if fills else opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        StoreError, match=r"no space left for .*shard-00002.*[\d,]+ bytes are needed"
    ) as caught:
        extract(tiny(), starter(80), tmp_path / "s")
    assert caught.value.exit_code == 1
    assert sorted(p.name for p in (tmp_path / "s").glob("*.safetensors")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    assert verify(tmp_path / "s") == ({}, []) and not list((tmp_path / "s").glob(".*.partial"))
    with pytest.raises(StoreError, match=r"not finished.*continues"):
        ActivationStore.open(tmp_path / "s")
    monkeypatch.setattr(Path, "open", opened)
    extract(tiny(), starter(80), tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_no_room_is_known_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted for what is missing: a store that is whole needs none."""
    out = tmp_path / "s"
    extract(tiny(), starter(80), tmp_path / "whole")
    size = sum(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    monkeypatch.setattr(extracting, "free_bytes", lambda folder: int(0.9 * size))
    with pytest.raises(StoreError, match=r"no room.*about [\d,]+ bytes are needed") as caught:
        extract(tiny(), starter(80), out)
    assert caught.value.exit_code == 2 and not list(out.glob("shard-*"))
    monkeypatch.setattr(extracting, "free_bytes", lambda folder: int(1.1 * size))
    extract(tiny(), starter(80), out)
    monkeypatch.setattr(extracting, "free_bytes", lambda folder: 0)
    extract(tiny(), starter(80), out)


@pytest.mark.parametrize("writers", [2, 4])
def test_several_threads_write_the_store_of_one(
    writers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, vectors = tiny(), starter(120)
    extract(model, vectors, tmp_path / "one", shard_bytes=1)
    monkeypatch.setitem(extracting._WRITERS, "cpu", writers)
    extract(model, vectors, tmp_path / "many", shard_bytes=1)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) > writers + 3
    assert files == sorted(path.name for path in (tmp_path / "many").iterdir())
    for name in files:
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("writers", [1, 4])
def test_a_last_shard_that_cannot_be_written_is_said(
    writers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, vectors = tiny(), starter(120)
    extract(model, vectors, tmp_path / "whole", shard_bytes=1)
    last = sorted(path.name for path in (tmp_path / "whole").glob("shard-*"))[-1]
    add = extracting.Artifact.add_shard

    def fails(self: Any, name: str, *args: Any, **options: Any) -> Any:
        if name == last:
            raise StoreError("no room", "the disk is full", "make room")
        return add(self, name, *args, **options)

    monkeypatch.setitem(extracting._WRITERS, "cpu", writers)
    with monkeypatch.context() as broken:
        broken.setattr(extracting.Artifact, "add_shard", fails)
        with pytest.raises(StoreError, match="no room"):
            extract(model, vectors, tmp_path / "cut", shard_bytes=1)
    extract(model, vectors, tmp_path / "cut", shard_bytes=1)
    assert (tmp_path / "cut" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
