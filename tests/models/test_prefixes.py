"""Trees of common beginnings: what stands where, and that a model reads them as it reads texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moralprobe.activations.plan import TREE_TOKENS, share_beginnings
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.prefixes import ancestors, cut_blocks, grow
from moralprobe.models.sharing import TRIED, _tree_to_try, why_not
from moralprobe.models.tiny import FAMILIES, tiny_model, tiny_tokenizer
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.sites import Site

TEXTS = sorted(
    [
        "telling a lie",
        "telling a lie to a friend",
        "telling a story",
        "telling",
        "helping a stranger",
        "helping a stranger up",
        "stealing",
    ]
)
token_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1).map(sorted)


@given(token_lists)
def test_a_tree_holds_every_prefix_once(texts: list[list[int]]) -> None:
    tree = grow(texts)
    prefixes = {tuple(text[:k]) for text in texts for k in range(1, len(text) + 1)}
    assert len(tree.ids) == len(prefixes)
    for text, path in zip(texts, tree.paths, strict=True):
        assert tree.ids[path].tolist() == text
        assert tree.depth[path].tolist() == list(range(len(text)))


@given(token_lists)
def test_a_node_sees_the_tokens_before_it_and_itself(texts: list[list[int]]) -> None:
    tree = grow(texts)
    seen = ancestors(tree)
    for path in tree.paths:
        for k, node in enumerate(path):
            assert np.flatnonzero(seen[node]).tolist() == sorted(path[: k + 1])


@given(token_lists, st.integers(1, 12))
def test_blocks_hold_all_texts_and_as_many_nodes_as_may_be(texts: list[list[int]], n: int) -> None:
    blocks, nodes = cut_blocks(texts, n)
    assert [i for a, b in blocks for i in range(a, b)] == list(range(len(texts)))
    sizes = [len(grow(texts[a:b]).ids) for a, b in blocks]
    assert sizes == nodes
    for (a, b), size in zip(blocks, sizes, strict=True):
        assert size <= n or b - a == 1
        if b < len(texts):
            assert len(grow(texts[a : b + 1]).ids) > n


def tiny(family: str, change: Callable[[object], None] = lambda model: None) -> CausalModel:
    model = tiny_model(family)
    change(model)
    return load_model(model, tokenizer=tiny_tokenizer(bos=True))


def encoded_by(model: CausalModel) -> list[Encoded]:
    texts = model.encode(TEXTS, [(0, len(text)) for text in TEXTS], max_tokens=128)
    return sorted(texts, key=lambda text: text.ids)


def states_of(model: CausalModel, batch: Batch) -> dict[int, torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    model.run_taps(
        batch,
        [Site("resid_post", layer) for layer in range(model.n_layers)],
        lambda site, hidden: found.setdefault(site.layer, batch.of_texts(hidden).clone()),
    )
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_in_trees_have_the_states_of_texts_alone(family: str) -> None:
    model = tiny(family)
    encoded = encoded_by(model)
    assert why_not(model, encoded, model.n_layers - 1) == ""
    batch = model.collate_trees([encoded[:4], encoded[4:]])
    assert batch.ids.numel() < sum(map(len, encoded))
    together = states_of(model, batch)
    for i, text in enumerate(encoded):
        assert batch.of_texts(batch.ids)[i, : len(text)].tolist() == text.ids
        assert batch.action[i].tolist()[: len(text)] == text.action
        assert int(batch.mask[i].sum()) == len(text)
        for layer, alone in states_of(model, model.collate([text])).items():
            torch.testing.assert_close(
                together[layer][i, : len(text)], alone[0], rtol=2e-4, atol=2e-5
            )


@pytest.mark.parametrize(
    ("family", "field", "value", "why"),
    [
        ("mistral", "sliding_window", 8, "sliding_window of 8 is shorter than the longest text"),
        ("llama4_text", "attention_chunk_size", 8, "attention_chunk_size of 8 is shorter"),
        ("llama", "window_size", 8, "window_size of 8 is shorter"),
        ("qwen3", "layer_types", ["linear_attention"], "linear_attention carry a state"),
        ("llama", "_attn_implementation", "flash_attention_2", "takes no mask"),
    ],
)
def test_a_config_that_speaks_against_sharing_is_believed(
    family: str, field: str, value: object, why: str
) -> None:
    model = tiny(family)
    setattr(model.model.config, field, value)
    assert why in why_not(model, encoded_by(model), 0)


def test_a_model_whose_states_move_is_found_out() -> None:
    """One that counts positions for itself, whatever it is told, and one that ignores the mask."""

    def counts(_module: object, _args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs["position_ids"] = torch.arange(kwargs["input_ids"].shape[1])[None]
        return (), kwargs

    def ignores(_module: object, _args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (), {**kwargs, "attention_mask": None}

    for change in (counts, ignores):
        model = tiny("llama")
        model.decoder.module.register_forward_pre_hook(change, with_kwargs=True)
        assert "states move by" in why_not(model, encoded_by(model), model.n_layers - 1)
        # Texts so long that a small tree holds one of them only.
        words = ["a" * 70, "b" * 90, "c" * 80]
        texts = model.encode(words, [(0, len(word)) for word in words], max_tokens=128)
        assert "states move by" in why_not(model, texts, model.n_layers - 1)


def other(kind: str, **sizes: object) -> CausalModel:
    """A random model of a family that isn't among the tiny ones."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, vocab_size=260, **sizes)
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return load_model(network, tokenizer=tiny_tokenizer(bos=True))


def counting_nodes() -> CausalModel:
    """GPT-Neo's local attention: longer than any text, shorter than the trees that are read."""
    return other(
        "gpt_neo",
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=100,
        max_position_embeddings=512,
    )


def many_that_begin_alike(model: CausalModel) -> list[Encoded]:
    words = sorted(f"it is often said that {a} and {b}" for a in "abcdefgh" for b in "stealing")
    return sorted(
        model.encode(words, [(0, len(word)) for word in words], max_tokens=128),
        key=lambda text: text.ids,
    )


def test_a_window_that_counts_nodes_instead_of_positions_is_found_out() -> None:
    model = counting_nodes()
    texts = many_that_begin_alike(model)
    assert max(map(len, texts)) < 100 < len(grow([text.ids for text in texts]).ids)
    assert "states move by" in why_not(model, texts, model.n_layers - 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", TREE_TOKENS)
def test_no_tree_is_larger_than_the_one_that_is_tried(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, [9, 30, 200][seed % 3], 300)
    texts = sorted([1, *rng.integers(0, 4, n).tolist()] for n in lengths)
    plan = share_beginnings(texts, tree_tokens=size, batch_tokens=2048, bytes_per_text=1)
    start, stop = _tree_to_try(texts, max(*plan.nodes, *map(len, texts)))
    assert len(grow(texts[start:stop]).ids) >= max(plan.nodes)
    assert stop - start > 1
    assert max(TREE_TOKENS) <= TRIED


def test_a_window_between_two_trees_is_found_out_by_the_larger() -> None:
    """One of 100 nodes cuts nothing from trees of 64, and something from those of 256."""
    model = counting_nodes()
    texts = many_that_begin_alike(model)
    last = model.n_layers - 1
    assert why_not(model, texts, last, tree_tokens=48) == ""
    assert "states move by" in why_not(model, texts, last, tree_tokens=256)


def test_a_model_that_fails_on_a_tree_reads_texts_alone() -> None:
    """Falcon with ALiBi takes positions, and then a mask of two dimensions only."""
    model = other("falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True)
    assert "can't read a tree" in why_not(model, encoded_by(model), 1)


def test_what_fills_a_tree_up_are_tokens_that_the_texts_have() -> None:
    """A padding id may lie outside of the embeddings, where a tokenizer was given a new token."""
    model = tiny("llama")
    model.tokenizer.pad_token = "<eos>"
    encoded = encoded_by(model)
    batch = model.collate_trees([encoded[:6], encoded[6:]])
    assert set(batch.ids.flatten().tolist()) <= {i for text in encoded for i in text.ids}
    # Behind the shorter tree stands its first token again.
    assert batch.ids[1, -1] == encoded[6].ids[0]
    assert int(batch.tree.attention[1, 0, -1].eq(0).sum()) == 1


def test_rounding_is_no_reason_and_a_wrong_token_is() -> None:
    """Real weights in both dtypes: the bound stands between what the two make."""
    for dtype in ("bf16", "fp32"):
        model = load_model("smollm2-135m", dtype=dtype, device="cpu")
        encoded = encoded_by(model)
        assert why_not(model, encoded, model.n_layers - 1) == ""
        handle = model.decoder.module.register_forward_pre_hook(
            lambda _module, _args, kwargs: ((), {**kwargs, "attention_mask": None}),
            with_kwargs=True,
        )
        assert "states move by" in why_not(model, encoded, model.n_layers - 1)
        handle.remove()


def test_a_model_that_takes_no_positions_is_left_alone() -> None:
    model = tiny("llama")
    forward = model.decoder.module.forward
    model.decoder.module.forward = lambda input_ids, attention_mask=None, use_cache=None: forward(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
    )
    assert why_not(model, encoded_by(model), 0) == "it takes no position_ids"
