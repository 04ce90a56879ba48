"""Token states on disk: the model's own, whole after a kill, of what they say they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moralprobe.activations import token_store
from moralprobe.activations.distinct import Tokens
from moralprobe.activations.stream import Shuffled, TokenSource, batches, ordinary
from moralprobe.activations.token_store import StoredTokens
from moralprobe.errors import NumericError, StoreError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import tiny_model, tiny_tokenizer
from tests.activations.test_extract import contents, tiny
from tests.activations.test_stream import alone, tokens_of

SHARD = 150  # tokens: several shards of some texts each


def store(model: CausalModel, tokens: Tokens, folder: Path, **options: Any) -> StoredTokens:
    layers = options.pop("layers", [0, 2])
    return StoredTokens(model, tokens, layers, folder, seed=0, **{"shard_tokens": SHARD, **options})


def rows(states: torch.Tensor) -> torch.Tensor:
    """Sort rows by their first number: an order that doesn't depend on who read them."""
    return states[states[:, 0].argsort()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_holds_the_states_of_each_text_alone(dtype: torch.dtype, tmp_path: Path) -> None:
    model = load_model(tiny_model("llama").to(dtype), tokenizer=tiny_tokenizer(bos=True))
    tokens = tokens_of(model)
    source = store(model, tokens, tmp_path / "states")
    found = source.read(0, 0)
    assert len(list((tmp_path / "states").glob("shard-*"))) > 5
    near = 1e-4 if dtype == torch.float32 else 0.03
    expected = {layer: alone(model, tokens, layer) for layer in (0, 2)}
    kept = ordinary(expected, source.limits)
    both = [torch.cat([states[0], states[2]], 1).float() for states in (found, expected)]
    exact = "donot_use_mm_for_euclid_dist"
    apart, place = torch.cdist(both[0], both[1][kept], compute_mode=exact).min(1)
    assert found[0].dtype == found[2].dtype == dtype
    assert float((apart / both[0].norm(dim=1)).max()) < near
    assert torch.equal(place.sort().values, torch.arange(int(kept.sum())))  # each of them once


def test_the_model_reads_once_for_all_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    tokens = tokens_of(model)
    counted: list[int] = []
    first = store(model, tokens, tmp_path / "states", step=counted.append)
    first.read(0, 0)
    assert sum(counted) == len(tokens)
    before = contents(tmp_path / "states")
    monkeypatch.setattr(token_store, "read_tokens", lambda *_, **__: pytest.fail("read again"))
    counted.clear()
    again = store(model, tokens, tmp_path / "states", step=counted.append)
    for layer, states in first.read(0, 0).items():
        assert torch.equal(again.read(0, 0)[layer], states)
    assert sum(counted) == len(tokens)
    assert contents(tmp_path / "states") == before
    # One of its layers alone, as beside the other.
    one = store(model, tokens, tmp_path / "states", layers=[2])
    assert one.layers == (2,)
    assert torch.equal(one.read(0, 0)[2], first.read(0, 0)[2])


def test_killed_it_goes_on_to_the_bytes_of_an_unbroken_one(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    store(model, tokens, tmp_path / "whole").read(0, 0)

    class KilledError(Exception):
        pass

    def killed_after(n: int) -> Callable[[int], None]:
        seen = 0

        def step(read: int) -> None:
            nonlocal seen
            seen += read
            if seen >= n:
                raise KilledError

        return step

    for share in (0.3, 0.7):
        with pytest.raises(KilledError):
            step = killed_after(round(share * len(tokens)))
            store(model, tokens, tmp_path / "broken", step=step).read(0, 0)
    assert len(contents(tmp_path / "broken")) < len(contents(tmp_path / "whole"))
    store(model, tokens, tmp_path / "broken").read(0, 0)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_what_is_damaged_is_read_anew(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    store(model, tokens, tmp_path / "states").read(0, 0)
    whole = contents(tmp_path / "states")
    shards = sorted((tmp_path / "states").glob("shard-*"))
    data = bytearray(shards[1].read_bytes())
    data[-1] ^= 1
    shards[1].write_bytes(data)
    shards[2].unlink()
    store(model, tokens, tmp_path / "states").read(0, 0)
    assert contents(tmp_path / "states") == whole


def test_pieces_are_shards_and_hold_every_token_once_an_epoch(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    per_token = model.d_model * model.dtype.itemsize
    whole = store(model, tokens, tmp_path / "states", layers=[1]).read(0, 0)[1]
    source = store(model, tokens, tmp_path / "states", layers=[1], held_bytes=500 * per_token)
    epochs = [
        [source.read(epoch, piece)[1] for piece in range(source.pieces(epoch))]
        for epoch in range(2)
    ]
    assert source.pieces(0) > 2
    for pieces in epochs:
        assert max(map(len, pieces)) <= 500
        assert torch.equal(rows(torch.cat(pieces)), rows(whole))
    assert not all(torch.equal(a, b) for a, b in zip(*epochs, strict=False))
    # Shards are samples of all texts, not of neighbours in the alphabet.
    parts = store(model, tokens, tmp_path / "more", shard_tokens=5 * SHARD)._parts
    assert len(parts) > 3
    assert np.mean([np.ptp(part) for part in parts]) > 0.5 * len(tokens.encoded)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(tokens.encoded)))


def test_batches_are_those_of_the_model_but_for_their_order(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    stored = store(model, tokens, tmp_path / "states", layers=[1])
    streamed = TokenSource(model, tokens, [1], seed=0)
    assert stored.limits == streamed.limits
    n = len(streamed.read(0, 0)[1])
    (_, a), (_, b) = (next(batches(s, batch=n, seed=0)) for s in (stored, streamed))
    torch.testing.assert_close(rows(a[1]), rows(b[1]), rtol=2e-4, atol=2e-4)
    shuffled = Shuffled(stored, seed=0).read(0, 0)[1]
    torch.testing.assert_close(shuffled.sort(0).values, a[1].sort(0).values)


def others(model: CausalModel, tokens: Tokens, folder: Path) -> dict[str, Callable[[], Any]]:
    """Ask for what a store of layer 0 doesn't hold, each as like to it as can be."""
    swapped = list(tokens.encoded)
    ids = list(swapped[3].ids)
    ids[-1], ids[-2] = ids[-2], ids[-1]
    swapped[3] = replace(swapped[3], ids=ids)  # as many tokens in each text
    narrow = load_model(tiny_model("llama").to(torch.bfloat16), tokenizer=tiny_tokenizer(bos=True))
    return {
        "layer": lambda: store(model, tokens, folder, layers=[0, 1]),
        "texts": lambda: store(model, tokens_of(model, 50), folder, layers=[0]),
        "tokens": lambda: store(model, Tokens(swapped, tokens.first), folder, layers=[0]),
        "weights": lambda: store(tiny(seed=1), tokens, folder, layers=[0]),
        "dtype": lambda: store(narrow, tokens, folder, layers=[0]),
    }


@pytest.mark.parametrize("other", ["layer", "texts", "tokens", "weights", "dtype"])
def test_a_store_of_something_else_is_refused_at_once(other: str, tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    store(model, tokens, tmp_path / "states", layers=[0]).read(0, 0)
    before = contents(tmp_path / "states")
    with pytest.raises(StoreError, match="belongs to another run"):
        others(model, tokens, tmp_path / "states")[other]()
    assert contents(tmp_path / "states") == before


def test_tokens_stand_in_the_same_order_whichever_layers_are_kept(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    one = store(model, tokens, tmp_path / "one", layers=[2])
    two = store(model, tokens, tmp_path / "two", layers=[0, 2])
    assert one.order == two.order
    torch.testing.assert_close(one.read(0, 0)[2], two.read(0, 0)[2], rtol=1e-5, atol=1e-5)
    assert store(model, tokens, tmp_path / "more", shard_tokens=2 * SHARD).order != one.order


def test_what_is_missing_is_read_as_the_store_was_whichever_layers_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    tokens = tokens_of(model)
    asked: list[int] = []
    monkeypatch.setattr(token_store, "why_not", lambda m, t, layer: asked.append(layer) or "no")
    store(model, tokens, tmp_path / "states").read(0, 0)
    whole = contents(tmp_path / "states")
    for shard in sorted((tmp_path / "states").glob("shard-*"))[1:]:
        shard.unlink()
    store(model, tokens, tmp_path / "states", layers=[0]).read(0, 0)
    assert contents(tmp_path / "states") == whole
    assert asked == [2, 2]


def test_one_that_another_process_fills_meanwhile_is_taken(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    waiting = store(model, tokens, tmp_path / "states", layers=[2])
    first = store(model, tokens, tmp_path / "states", layers=[0, 2])
    first.read(0, 0)
    whole = contents(tmp_path / "states")
    assert torch.equal(waiting.read(0, 0)[2], first.read(0, 0)[2])
    assert contents(tmp_path / "states") == whole


def test_one_that_is_whole_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    tokens = tokens_of(model)
    expected = store(model, tokens, tmp_path / "states").read(0, 0)
    monkeypatch.setattr(token_store.Artifact, "lock", lambda *_: pytest.fail("it may be read-only"))
    assert torch.equal(store(model, tokens, tmp_path / "states").read(0, 0)[2], expected[2])


def test_a_place_that_cant_be_one_is_refused_at_once(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="can't write"):
        store(model, tokens, tmp_path / "file")


def test_no_room_is_known_before_the_model_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    monkeypatch.setattr(token_store, "free_bytes", lambda folder: 10)
    monkeypatch.setattr(token_store, "read_tokens", lambda *_, **__: pytest.fail("it read"))
    tokens = tokens_of(model)
    with pytest.raises(StoreError, match="no room"):
        store(model, tokens, tmp_path / "states").read(0, 0)
    monkeypatch.undo()
    store(model, tokens, tmp_path / "states").read(0, 0)
    sorted((tmp_path / "states").glob("shard-*"))[0].unlink()
    # Room for the shard that is missing is enough.
    monkeypatch.setattr(token_store, "free_bytes", lambda folder: 4 * SHARD * 2 * 32 * 4)
    store(model, tokens, tmp_path / "states").read(0, 0)


def test_what_is_no_number_is_not_written(tmp_path: Path) -> None:
    model = tiny()
    tokens = tokens_of(model)
    with torch.no_grad():
        model.decoder.layers[2].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(NumericError, match=r"resid_post\.2"):
        store(model, tokens, tmp_path / "states").read(0, 0)
    assert not list((tmp_path / "states").glob("shard-*"))
