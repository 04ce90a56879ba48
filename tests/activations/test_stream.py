"""What autoencoders are trained on: each token in its context once, in an order known beforehand."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from moralprobe.activations import stream
from moralprobe.activations.distinct import Tokens, windows
from moralprobe.activations.job import encode_texts
from moralprobe.activations.stream import (
    Position,
    Shuffled,
    TokenSource,
    batches,
    ordinary,
    read_tokens,
)
from moralprobe.data.prompts import get_template
from moralprobe.errors import DataError, NumericError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.sites import Site
from tests.activations.test_extract import starter, tiny
from tests.models.test_prefixes import counting_nodes


def tokens_of(model: CausalModel, rows: int = 60) -> Tokens:
    template = get_template("action-is-morally")
    return Tokens.distinct(encode_texts(model.tokenizer, starter(rows), template, 128)[1])


def text(*ids: int) -> Encoded:
    return Encoded(list(ids), [False] * len(ids), False, True)


def alone(model: CausalModel, tokens: Tokens, layer: int) -> torch.Tensor:
    """Every text read by itself, and its own tokens' states."""
    found: list[torch.Tensor] = []
    for encoded, first in zip(tokens.encoded, tokens.first.tolist(), strict=True):
        model.run_taps(
            model.collate([encoded]),
            [Site("resid_post", layer)],
            lambda _, hidden, first=first: found.append(hidden[0, first:].clone()),
        )
    return torch.cat(found)


def test_each_beginning_counts_once_and_token_0_never() -> None:
    tokens = Tokens.distinct([text(1, 2, 3), text(1, 2, 4, 5), text(1, 2, 3), text(1), text(7, 2)])
    kept = [e.ids[first:] for e, first in zip(tokens.encoded, tokens.first.tolist(), strict=True)]
    assert kept == [[2, 3], [4, 5], [2]]
    assert len(tokens) == 5


def test_the_distinct_tokens_are_the_distinct_beginnings() -> None:
    model = tiny()
    tokens = tokens_of(model)
    template = get_template("action-is-morally")
    texts = encode_texts(model.tokenizer, starter(60), template, 128)[1]
    beginnings = {tuple(e.ids[:n]) for e in texts for n in range(2, len(e) + 1)}
    own = [
        tuple(e.ids[: n + 1])
        for e, first in zip(tokens.encoded, tokens.first.tolist(), strict=True)
        for n in range(first, len(e))
    ]
    assert len(own) == len(set(own)) == len(tokens)
    assert set(own) == beginnings


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("share", [True, False])
def test_states_are_those_of_each_text_alone(family: str, share: bool) -> None:
    model = tiny(family)
    tokens = tokens_of(model, 30)
    states = read_tokens(model, tokens, [0, 2], share=share)
    for layer in (0, 2):
        expected = alone(model, tokens, layer)
        torch.testing.assert_close(states[layer], expected, rtol=2e-4, atol=2e-4)


def test_a_model_that_allows_no_sharing_is_read_text_by_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = counting_nodes()
    actions = [f"most people would say {a} and {b}" for a in "abcdefgh" for b in "stealing"]
    tokens = Tokens.distinct(model.encode(actions, [(0, 1)] * len(actions), max_tokens=128))
    states = read_tokens(model, tokens, [1])[1]
    expected = alone(model, tokens, 1)
    torch.testing.assert_close(states, expected, rtol=2e-4, atol=2e-4)
    # If it weren't asked, the states of a tree would be others.
    monkeypatch.setattr(stream, "why_not", lambda *_: "")
    shared = read_tokens(model, tokens, [1])[1]
    assert not torch.allclose(shared, expected, rtol=1e-2, atol=1e-2)


def test_parts_share_no_token_with_its_context() -> None:
    tokens = tokens_of(tiny())
    train, held = tokens.split(0.2)
    assert len(train) + len(held) == len(tokens)
    assert 0 < len(held) < 0.5 * len(tokens)
    again, _ = Tokens.distinct([*tokens.encoded[::-1]]).split(0.2)
    assert again.digest() == train.digest()
    # A text's side doesn't depend on the others.
    fewer = Tokens.distinct(tokens.encoded[::2])
    sides = {tuple(e.ids) for e in held.encoded}
    assert {tuple(e.ids) for e in fewer.split(0.2)[1].encoded} <= sides


def test_an_epoch_has_every_token_once_and_epochs_differ() -> None:
    model = tiny()
    tokens = tokens_of(model)
    source = TokenSource(model, tokens, [1], seed=0)
    everything = read_tokens(model, tokens, [1])[1]
    n = len(tokens) // 32
    drawn = batches(source, batch=32, seed=0)
    epochs = [torch.cat([next(drawn)[1][1] for _ in range(n)]) for _ in range(2)]
    rows = {tuple(row) for row in everything.tolist()}
    for epoch in epochs:
        found = [tuple(row) for row in epoch.tolist()]
        assert len(set(found)) == len(found) == n * 32
        assert set(found) <= rows
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("held", [1 << 30, 40_000])
def test_a_batch_is_known_without_those_before_it(held: int) -> None:
    model = tiny()

    def some(start: Position, n: int) -> list[tuple[Position, torch.Tensor]]:
        source = TokenSource(model, tokens_of(model), [0, 1], seed=3, held_bytes=held)
        assert (source.pieces(0) > 1) == (held == 40_000)
        found = batches(source, batch=16, seed=3, start=start)
        return [(at, torch.cat([part[0], part[1]], 1)) for at, part in islice(found, n)]

    whole = some(Position(), 300)
    assert whole[-1][0] > Position(0, 1)
    for n in (1, 177, 299):
        for (at, a), (there, b) in zip(whole[n:], some(whole[n - 1][0], 300 - n), strict=True):
            assert at == there
            assert torch.equal(a, b)


def test_pieces_hold_what_they_may_and_all_texts() -> None:
    model = tiny()
    tokens = tokens_of(model)
    per_token = model.d_model * model.dtype.itemsize
    source = TokenSource(model, tokens, [1], seed=0, held_bytes=500 * per_token)
    epochs = [
        [source.read(epoch, piece)[1] for piece in range(source.pieces(epoch))]
        for epoch in range(2)
    ]
    for pieces in epochs:
        assert sum(map(len, pieces)) == len(tokens)
        assert max(map(len, pieces)) <= 500
    assert [len(piece) for piece in epochs[0]] != [len(piece) for piece in epochs[1]]


def test_sinks_are_left_out_of_all_layers() -> None:
    model = tiny()
    tokens = tokens_of(model)
    sink = tokens.encoded[7].ids[int(tokens.first[7])]

    def blow_up(_module: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output * torch.where(inputs[0] == sink, 400.0, 1.0)[..., None]

    is_sink = torch.cat(
        [
            torch.tensor([i == sink for i in e.ids[first:]])
            for e, first in zip(tokens.encoded, tokens.first.tolist(), strict=True)
        ]
    )
    assert 0 < float(is_sink.float().mean()) < 0.2
    handle = model.decoder.embedding.register_forward_hook(blow_up)
    try:
        source = TokenSource(model, tokens, [0, 1], seed=0)
        states = read_tokens(model, tokens, [0, 1])
        kept = source.read(0, 0)
    finally:
        handle.remove()
    assert torch.equal(ordinary(states, source.limits), ~is_sink)
    for layer, values in kept.items():
        torch.testing.assert_close(values, states[layer][~is_sink], rtol=1e-3, atol=1e-3)


def test_layers_give_the_same_tokens_in_one_batch() -> None:
    model = tiny()
    tokens = tokens_of(model)
    both = TokenSource(model, tokens, [0, 2], seed=1)
    one = TokenSource(model, tokens, [2], seed=1)
    _, a = next(batches(both, batch=64, seed=1))
    _, b = next(batches(one, batch=64, seed=1))
    torch.testing.assert_close(a[2], b[2])


def test_running_text_is_cut_into_windows_behind_the_first_token() -> None:
    model = tiny(bos=True)
    found = windows(model, ["abcdefg", "x", ""], 4)
    bos = model.tokenizer.bos_token_id
    ids = [model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("abc", "def", "g")]
    assert [e.ids for e in found] == [
        *([bos, *part] for part in ids),
        [bos, *model.tokenizer("x", add_special_tokens=False)["input_ids"]],
    ]
    plain = tiny(bos=False)
    assert [len(e) for e in windows(plain, ["abcdefghi"], 4)] == [4, 4]


def test_too_few_tokens_for_a_batch_are_refused() -> None:
    model = tiny()
    tokens = tokens_of(model, 2)
    with pytest.raises(DataError, match="too few activations"):
        next(batches(TokenSource(model, tokens, [0], seed=0), batch=10_000, seed=0))


def test_states_that_are_no_numbers_are_refused() -> None:
    model = tiny()
    with torch.no_grad():
        model.decoder.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(NumericError, match=r"resid_post\.1"):
        read_tokens(model, tokens_of(model, 4), [1])


def test_counts_are_tokens_of_their_own() -> None:
    tokens = Tokens.distinct([text(1, 2, 3), text(1, 2, 4, 5)])
    assert np.array_equal(tokens.counts, [2, 2])


def test_shuffled_activations_keep_each_dimension_and_nothing_else() -> None:
    class Rank1:
        layers = (0, 1)
        width = 8

        def pieces(self, epoch: int) -> int:
            return 2

        def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
            generator = torch.Generator().manual_seed(piece)
            states = torch.randn(500, 1, generator=generator) * torch.arange(1.0, 9.0)
            return {0: states, 1: states.bfloat16()}

    source = Shuffled(Rank1(), seed=0)
    found = source.read(0, 1)
    before = Rank1().read(0, 1)
    for layer in (0, 1):
        assert found[layer].dtype == before[layer].dtype
        torch.testing.assert_close(found[layer].sort(0).values, before[layer].sort(0).values)
    correlation = torch.corrcoef(found[0].T) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.2
    torch.testing.assert_close(source.read(0, 1)[0], found[0])
    assert not torch.equal(found[0], found[1].float())
    assert not torch.equal(source.read(1, 1)[0], found[0])  # as pieces are other tokens then


def test_a_single_piece_is_shuffled_once_for_all_epochs() -> None:
    class Whole:
        layers = (3,)
        width = 4
        read_pieces = 0

        def pieces(self, epoch: int) -> int:
            return 1

        def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
            self.read_pieces += 1
            return {3: torch.arange(400.0).reshape(100, 4)}

    whole = Whole()
    source = Shuffled(whole, seed=0)
    first, second = source.read(0, 0)[3], source.read(5, 0)[3]
    assert first is second and whole.read_pieces == 1
    assert not torch.equal(first, Whole().read(0, 0)[3])
    torch.testing.assert_close(first.sort(0).values, Whole().read(0, 0)[3])
    assert torch.equal(Shuffled(Whole(), seed=0).read(0, 0)[3], first)
    assert not torch.equal(Shuffled(Whole(), seed=1).read(0, 0)[3], first)
