"""Taps and TransformerLens' bridge, two ways to the same states, agree at every site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers

from moralprobe.errors import ModelError, UsageError
from moralprobe.models import lens
from moralprobe.models.causal import CausalModel
from moralprobe.models.lens import bridge_of, hook_name, run_bridge, site_of
from moralprobe.models.load import load_model
from moralprobe.models.tiny import FAMILIES, tiny_model, tiny_tokenizer
from moralprobe.models.tokens import Batch, PaddingSide
from moralprobe.sites import EMBED, FIRST_INPUT, KINDS, Site

TEXTS = ["helping a neighbor. is morally", "lying. is morally", "x"]
# Relative to the states' own norm: fp32 differs in the seventh digit, and one layer off by a lot.
BOUND = 1e-4
States = dict[Site, torch.Tensor]


@cache
def live(family: str) -> CausalModel:
    return load_model(tiny_model(family), tokenizer=tiny_tokenizer())


@cache
def bridged(family: str) -> Any:
    return bridge_of(live(family))


def sites_of(model: CausalModel) -> list[Site]:
    blocks = range(model.n_layers)
    return [EMBED, FIRST_INPUT, *(Site("resid_post", layer) for layer in blocks)]


def batch_of(model: CausalModel, texts: list[str], side: PaddingSide = "right") -> Batch:
    return model.collate(model.encode(texts, [(0, 1)] * len(texts), max_tokens=128), side=side)


def states_of(run: Callable[..., None], *arguments: Any) -> States:
    """What a run hands over, each site once and copied."""
    read: States = {}

    def keep(site: Site, states: torch.Tensor) -> None:
        assert site not in read
        read[site] = states.clone()

    run(*arguments, keep)
    return read


def both(model: CausalModel, bridge: Any, batch: Batch) -> tuple[States, States]:
    sites = sites_of(model)
    taps = states_of(model.run_taps, batch, sites)
    through = states_of(run_bridge, bridge, batch, sites)
    assert list(taps) == list(through) == sites
    return taps, through


def deviation(a: torch.Tensor, b: torch.Tensor, batch: Batch) -> float:
    """How far apart two states are at real tokens, relative to the first one's norm."""
    difference = (a - b)[batch.mask].norm() / a[batch.mask].norm()
    return float(difference)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bridge_reads_what_the_taps_read(family: str, side: PaddingSide) -> None:
    """TransformerLens 3.9 knows all these families; the texts have three lengths."""
    model = live(family)
    batch = batch_of(model, TEXTS, side)
    assert batch.padded
    taps, through = both(model, bridged(family), batch)
    apart = {str(site): deviation(taps[site], through[site], batch) for site in taps}
    assert max(apart.values()) < BOUND, apart


@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_off_would_be_seen(family: str) -> None:
    model = live(family)
    batch = batch_of(model, TEXTS)
    taps, through = both(model, bridged(family), batch)
    for layer in range(model.n_layers - 1):
        here, next_one = Site("resid_post", layer), Site("resid_post", layer + 1)
        assert deviation(taps[here], through[next_one], batch) > 100 * BOUND
        assert deviation(taps[next_one], through[here], batch) > 100 * BOUND


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_its_own_cache_holds_the_same_states_under_these_names(family: str, text: str) -> None:
    model = live(family)
    batch = batch_of(model, [text])
    taps = states_of(model.run_taps, batch, sites_of(model))
    with torch.inference_mode():
        _, cached = bridged(family).run_with_cache(batch.ids)
    for site, states in taps.items():
        assert deviation(states, cached[hook_name(site)], batch) < BOUND


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_gives_the_logits_through_the_final_norm_and_the_head(family: str) -> None:
    model = live(family)
    batch = batch_of(model, TEXTS[:1])
    norm, head = model.decoder.final_norm, model.model.get_output_embeddings()
    assert norm is not None
    last = Site("resid_post", model.n_layers - 1)
    with torch.inference_mode():
        logits = model.model(input_ids=batch.ids, use_cache=False).logits
        own = bridged(family)(batch.ids)
        for states in (side[last] for side in both(model, bridged(family), batch)):
            made = head(norm(states))
            if cap := getattr(model.model.config, "final_logit_softcapping", None):
                made = cap * torch.tanh(made / cap)
            assert deviation(logits, made, batch) < BOUND
            assert deviation(logits, head(states), batch) > 100 * BOUND, "without the norm"
    assert deviation(logits, own, batch) < BOUND


def test_the_packaged_model_agrees_at_all_layers() -> None:
    model = load_model("smollm2-135m", dtype="fp32")
    batch = batch_of(model, TEXTS[:2], "left")
    taps, through = both(model, bridge_of(model), batch)
    assert len(taps) == 2 + 30
    apart = {str(site): deviation(taps[site], through[site], batch) for site in taps}
    assert max(apart.values()) < BOUND, apart
    for layer in range(29):
        here, next_one = Site("resid_post", layer), Site("resid_post", layer + 1)
        assert deviation(taps[here], through[next_one], batch) > 10 * BOUND


@pytest.mark.parametrize("family", FAMILIES)
def test_names_map_both_ways(family: str) -> None:
    hooks = bridged(family).hook_dict
    sites = [EMBED, *(Site(kind, layer) for kind in KINDS for layer in range(3))]
    names = [hook_name(site) for site in sites]
    assert len(set(names)) == len(sites) and set(names) <= set(hooks)
    assert [site_of(name) for name in names] == sites


def test_older_names_are_read_and_lead_to_the_same_hooks() -> None:
    hooks = bridged("llama").hook_dict
    older = {
        "hook_embed": EMBED,
        "blocks.0.hook_resid_pre": FIRST_INPUT,
        "blocks.2.hook_resid_post": Site("resid_post", 2),
    }
    for name, site in older.items():
        assert site_of(name) == site
        assert hooks[name] is hooks[hook_name(site)]
    assert site_of("blocks.12.hook_out") == Site("resid_post", 12)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.12.hook_resid_pots", "blocks.12.hook_resid_post"),
        ("blocks.3.hook_resid_mid", "blocks.3.hook_resid_p"),
        ("blocks.01.hook_out", "blocks.0.hook_out"),
        ("hook_embeds", "hook_embed"),
        ("", "known"),
    ],
)
def test_a_hook_that_is_no_site_is_refused_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        site_of(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_bridging_leaves_the_model_as_it_is_and_shares_its_weights(family: str) -> None:
    model = load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    batch = batch_of(model, TEXTS)
    modules = {path: (id(m), type(m)) for path, m in model.model.named_modules()}
    attention = model.model.config._attn_implementation
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    before = states_of(model.run_taps, batch, sites_of(model))
    bridge = bridge_of(model)
    states_of(run_bridge, bridge, batch, sites_of(model))
    after = states_of(model.run_taps, batch, sites_of(model))
    assert modules == {path: (id(m), type(m)) for path, m in model.model.named_modules()}
    assert model.model.config._attn_implementation == attention
    assert all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
    assert all(torch.equal(before[site], after[site]) for site in before)
    assert bridge.W_E.data_ptr() == model.decoder.embedding.weight.data_ptr()


def test_nothing_runs_after_the_last_site_and_hooks_are_removed() -> None:
    model, bridge = live("llama"), bridged("llama")
    batch = batch_of(model, TEXTS)
    late: list[str] = []
    with bridge.hooks(
        fwd_hooks=[(f"blocks.{i}.hook_in", lambda x, hook: late.append(hook.name)) for i in (1, 2)]
    ):
        states_of(run_bridge, bridge, batch, [EMBED, Site("resid_post", 1)])
    assert late == ["blocks.1.hook_in"]

    def fails(_site: Site, _states: torch.Tensor) -> None:
        raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space"):
        run_bridge(bridge, batch, [EMBED], fails)
    assert not any(hook.fwd_hooks for hook in bridge.hook_dict.values())


@pytest.mark.parametrize("bos", [False, True])
def test_the_bridge_tokenizes_as_the_model_does(bos: bool) -> None:
    tokenizer = tiny_tokenizer(bos=bos)
    tokenizer.pad_token = None
    bridge = bridge_of(load_model(tiny_model("qwen3"), tokenizer=tokenizer))
    for text in TEXTS:
        assert bridge.to_tokens(text).tolist() == [tokenizer(text)["input_ids"]]
    assert tokenizer.pad_token is None


def test_texts_that_share_their_beginnings_are_refused() -> None:
    model = live("llama")
    trees = model.collate_trees([model.encode(sorted(TEXTS), [(0, 1)] * 3, max_tokens=128)])
    with pytest.raises(UsageError, match="share their beginnings"):
        run_bridge(bridged("llama"), trees, [EMBED], lambda site, states: None)


def test_a_layer_that_the_bridge_does_not_have_is_an_error() -> None:
    batch = batch_of(live("llama"), TEXTS)
    with pytest.raises(ModelError, match=r"resid_post\.3"):
        run_bridge(bridged("llama"), batch, [Site("resid_post", 3)], lambda site, states: None)


def test_an_architecture_that_transformer_lens_does_not_know_is_refused() -> None:
    config = transformers.AutoConfig.for_model(
        "persimmon",
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    unknown = transformers.AutoModelForCausalLM.from_config(config)
    model = load_model(unknown, tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="can't bridge PersimmonForCausalLM"):
        bridge_of(model)
    assert states_of(model.run_taps, batch_of(model, TEXTS), sites_of(model))


def test_a_model_spread_over_devices_is_refused() -> None:
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    model.decoder.layers[1].to("meta")
    with pytest.raises(ModelError, match="cpu, meta"):
        bridge_of(model)


def test_a_model_whose_weights_are_moved_in_when_needed_is_refused() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    add_hook_to_module(model.decoder.layers[1], ModelHook())
    with pytest.raises(ModelError, match="run_taps"):
        bridge_of(model)


def test_other_blocks_than_the_model_s_are_refused() -> None:
    whole = live("llama")
    fewer = replace(whole.decoder, layers=torch.nn.ModuleList(whole.decoder.layers[:2]))
    with pytest.raises(ModelError, match="other blocks"):
        bridge_of(replace(whole, decoder=fewer))


def test_a_missing_install_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        bridge_of(live("llama"))
