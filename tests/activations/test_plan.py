"""What is read together: its room, whichever texts come."""

from __future__ import annotations

import pytest
import torch
import transformers

from moralprobe.activations import job
from moralprobe.activations.extract import extract
from moralprobe.activations.plan import share_beginnings
from moralprobe.data.texts import Texts
from moralprobe.models.load import load_model
from moralprobe.models.tiny import tiny_tokenizer
from tests.activations.test_extract import starter
from tests.models.test_prefixes import counting_nodes


@pytest.mark.parametrize("longest", [1, 60, 500, 3000])
def test_one_long_text_takes_no_more_room_than_a_batch_may_or_than_itself(longest: int) -> None:
    texts = sorted([*([i, j] for i in range(1, 80) for j in range(9)), [81] * longest])
    plan = share_beginnings(texts, tree_tokens=64, batch_tokens=1024, bytes_per_text=1)
    assert [i for a, b in plan.batches for i in range(a, b)] == list(range(len(texts)))
    assert sorted(plan.order) == list(range(len(texts)))
    assert list(plan.lengths) == [len(texts[i]) for i in plan.order]
    # Trees of texts that are neighbours, the smallest first: little room stays empty.
    for a, b in plan.blocks:
        assert list(plan.order[a:b]) == list(range(plan.order[a], plan.order[a] + b - a))
    assert list(plan.nodes) == sorted(plan.nodes)
    for batch in plan.batches:
        rows, width = plan.sequences(batch)
        assert rows * width <= max(1024, longest)
        assert rows == 1 or rows * width <= 1024


def test_a_model_without_attention_is_read(tmp_path) -> None:
    config = transformers.MambaConfig(
        vocab_size=260, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    model = load_model(network, tokenizer=tiny_tokenizer(bos=True))
    said: list[str] = []
    store = extract(model, starter(20), tmp_path / "s", poolings=("last",), say=said.append)
    assert store.key["batches"] == "texts of one length"
    row = store.texts.row(0, named=True)
    ids = model.tokenizer(f"{row['text']} is morally", return_tensors="pt")["input_ids"]
    with torch.inference_mode():  # this family's are those after each block, without the input
        alone = network(ids, output_hidden_states=True).hidden_states[0][0, -1]
    torch.testing.assert_close(torch.from_numpy(store.layer("last", 0)[0]), alone)


def test_the_tree_that_is_tried_is_no_smaller_than_the_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window that counts nodes cuts nothing from small trees: a small trial would let it pass."""
    model = counting_nodes()
    actions = [f"most people would say {a} and {b}" for a in "abcdefgh" for b in "stealing"]
    monkeypatch.setattr(job, "width_cost", lambda shape: 0.0)  # the largest trees are the best
    said: list[str] = []
    made = job.make_job(model, Texts(actions), job.Options(), said.append)
    assert not made.plan.blocks and "states move by" in said[0]
    monkeypatch.setattr(job, "why_not", lambda *_, **__: "")
    assert max(job.make_job(model, Texts(actions), job.Options()).plan.nodes) > 100
