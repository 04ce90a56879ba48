"""A word's rows against a model whose embedding matrix was changed by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from moralprobe.bridges import word_rows
from moralprobe.bridges.word_rows import (
    Reader,
    Rows,
    changed_rows,
    marked_ids,
    nearest_rows,
    prompt_tokens,
    weights_hash,
)
from moralprobe.errors import DataError, ModelError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tiny import FAMILIES
from tests.steering.test_generate import tiny

TEXTS = [f"{'a long tale of ' * (k % 4)}deed {k}. Judge it: xylQ. How is it?" for k in range(11)]


def word(model: CausalModel) -> tuple[list, list[int]]:  # type: ignore[type-arg]
    spans = [(text.index("xylQ"), text.index("xylQ") + 4) for text in TEXTS]
    encoded = prompt_tokens(model, TEXTS, spans)
    return encoded, marked_ids(encoded)


def some_rows(ids: list[int], size: float = 1.0) -> Rows:
    generator = torch.Generator().manual_seed(0)
    return Rows(torch.tensor(ids), size * torch.randn(len(ids), 32, generator=generator))


def by_hand(model: CausalModel, encoded: list, rows: Rows | None) -> torch.Tensor:  # type: ignore[type-arg]
    """Each text alone through a copy whose matrix itself has the rows added."""
    base = copy.deepcopy(model.decoder.module)
    if rows is not None:
        with torch.no_grad():
            embedding = base.get_input_embeddings()
            # Some embeddings multiply what they read; a row's change is of what they give.
            scale = (embedding(rows.ids) / embedding.weight[rows.ids]).median()
            embedding.weight[rows.ids] += rows.delta / scale
    found = []
    for text in encoded:
        with torch.no_grad():
            out = base(torch.tensor([text.ids]), use_cache=False)
        found.append(out.last_hidden_state[0, -1])
    return torch.stack(found)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_states_are_those_of_a_changed_matrix(family: str) -> None:
    model = tiny(family)
    encoded, ids = word(model)
    before = weights_hash(model.model)
    reader = Reader(model, encoded, ids)
    for rows in (None, some_rows(ids), some_rows(ids[:1], 3.0)):
        found, expected = reader.all_states(rows), by_hand(model, encoded, rows)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert weights_hash(model.model) == before
    assert (reader.all_states(some_rows(ids)) - reader.all_states(None)).abs().max() > 1e-2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_texts_longer_than_a_window_are_read_right(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(family)
    long = [TEXTS[0], TEXTS[1], "and so on and on " * 9 + TEXTS[2]]
    spans = [(text.index("xylQ"), text.index("xylQ") + 4) for text in long]
    encoded = prompt_tokens(model, long, spans)
    rows = some_rows(marked_ids(encoded)[:1])
    expected = by_hand(model, encoded, rows)
    for held in (1 << 30, 0):  # and where nothing may be kept
        monkeypatch.setattr(word_rows, "HELD_BYTES", held)
        monkeypatch.setattr(word_rows, "BATCH", 2)
        found = Reader(model, encoded, rows.ids.tolist()).all_states(rows)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_what_stands_before_the_word_is_read_once() -> None:
    model = tiny("llama")
    # Letters that stand nowhere else: all before them can be kept.
    encoded, _ = word(model)
    (rare,) = {t.ids[t.action.index(True) + 3] for t in encoded}
    reader = Reader(model, encoded, [rare])
    assert all(batch.cut > 10 for batch in reader.batches)
    read: list[int] = []
    model.decoder.layers[0].register_forward_hook(
        lambda _m, args, _o: read.append(args[0].shape[1])
    )
    reader.all_states(some_rows([rare]))
    widths = [batch.ids.shape[1] for batch in reader.batches]
    assert read == [w - b.cut for w, b in zip(widths, reader.batches, strict=True)]
    assert max(read) < 20


def test_gradients_are_those_of_the_matrix_itself() -> None:
    model = tiny("llama")
    encoded, ids = word(model)
    rows = some_rows(ids)
    delta = rows.delta.clone().requires_grad_(True)
    reader = Reader(model, encoded, ids)
    loss = sum(
        reader.states(k, Rows(rows.ids, delta))[1].square().sum()
        for k in range(len(reader.batches))
    )
    torch.autograd.backward(loss)
    other = copy.deepcopy(model.model.base_model)
    weight = other.get_input_embeddings().weight
    with torch.no_grad():
        weight[rows.ids] += rows.delta
    total = sum(
        other(torch.tensor([t.ids]), use_cache=False).last_hidden_state[0, -1].square().sum()
        for t in encoded
    )
    torch.autograd.backward(total)
    torch.testing.assert_close(delta.grad, weight.grad[rows.ids], rtol=1e-3, atol=1e-3)
    assert all(p.grad is None and p.requires_grad for p in model.model.parameters())


def test_parts_are_read_in_batches_of_their_own() -> None:
    model = tiny("llama")
    encoded, ids = word(model)
    parts = {"train": [0, 3, 5, 6, 7, 8, 9, 10, 1], "test": [2, 4]}
    reader = Reader(model, encoded, ids, parts)
    for name, some in parts.items():
        held = [i for k in reader.of[name] for i in reader.batches[k].places]
        assert sorted(held) == sorted(some)
    whole = Reader(model, encoded, ids)
    torch.testing.assert_close(
        reader.all_states(some_rows(ids)), whole.all_states(some_rows(ids)), rtol=1e-4, atol=1e-4
    )


def test_tied_output_rows_stay_as_they_are() -> None:
    model = tiny("llama")
    model.model.config.tie_word_embeddings = True
    model.model.set_output_embeddings(model.model.get_output_embeddings())
    model.model.get_output_embeddings().weight = model.model.get_input_embeddings().weight
    encoded, ids = word(model)
    batch = torch.tensor([encoded[0].ids])
    with torch.no_grad():
        (state,) = by_hand(model, encoded[:1], some_rows(ids))
        with changed_rows(model, some_rows(ids)):
            out = model.model(batch, output_hidden_states=True)
    head = model.model.get_output_embeddings().weight
    torch.testing.assert_close(out.logits[0, -1], out.hidden_states[-1][0, -1] @ head.T)
    torch.testing.assert_close(out.hidden_states[-1][0, -1], state, rtol=1e-3, atol=1e-3)


def test_rows_move_no_farther_than_they_may_and_in_their_direction() -> None:
    model = tiny("llama")
    rows = some_rows([5, 9, 11], 1.0)
    rows = Rows(rows.ids, rows.delta * torch.tensor([[5.0], [0.001], [0.3]]))
    capped = rows.capped(model, 0.3)
    drift = capped.drift(model)
    assert bool((drift <= 0.3 + 1e-5).all())
    naive = [
        1 - torch.cosine_similarity(rows.base(model)[k] + capped.delta[k], rows.base(model)[k], 0)
        for k in range(3)
    ]
    torch.testing.assert_close(drift, torch.stack(naive))
    over = rows.drift(model) > 0.3
    assert bool(over[0]) and not bool(over[1])
    assert torch.equal(capped.delta[1], rows.delta[1])
    assert drift[0] == pytest.approx(0.3, abs=1e-3)
    along = torch.cosine_similarity(capped.delta[0], rows.delta[0], 0)
    assert along == pytest.approx(1, abs=1e-5)


def test_nearest_rows_are_those_of_a_search() -> None:
    model = tiny("llama")
    rows = some_rows([5, 9], 2.0)
    weight = model.decoder.embedding.weight.detach()
    for (before, after), i, delta in zip(
        nearest_rows(model, rows, 3), (5, 9), rows.delta, strict=True
    ):
        for found, own in ((before, weight[i]), (after, weight[i] + delta)):
            cosine = torch.cosine_similarity(own[None], weight, dim=-1)
            cosine[i] = -2
            assert found == cosine.topk(3).indices.tolist()


def test_an_embedding_that_never_runs_is_told() -> None:
    model = tiny("llama")
    with (
        pytest.raises(ModelError, match="hook never ran"),
        changed_rows(model, some_rows([5])),
    ):
        pass


def test_a_word_that_is_spelled_in_several_ways_is_refused() -> None:
    model = tiny("llama")
    texts = ["judge by x", "judge by y"]
    with pytest.raises(DataError, match="isn't the same tokens"):
        marked_ids(prompt_tokens(model, texts, [(9, 10), (9, 10)]))
