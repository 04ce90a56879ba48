from __future__ import annotations

import numpy as np
import pytest
import torch

from moralprobe.activations.pooling import POOLINGS, parse_poolings, sink_report, weigh
from moralprobe.errors import UsageError
from moralprobe.models.tokens import Encoded, collate

D = 5


def naive(states: np.ndarray, action: list[bool], name: str) -> np.ndarray:
    """Each pooling on one unpadded text, spelled out."""
    norms = np.linalg.norm(states, axis=1)
    if name == "mean":
        return states.mean(0)
    if name == "last":
        return states[-1]
    if name == "mean_unit":
        return (states[1:] / norms[1:, None]).mean(0)
    if name == "mean_action":
        keep = [t for t in range(1, len(states)) if action[t]]
        return (states[keep] / norms[keep, None]).mean(0)
    lower_median = np.sort(norms)[(len(norms) - 1) // 2]
    keep = [t for t in range(1, len(states)) if norms[t] <= 5 * lower_median]
    return states[keep].mean(0)


def batch_of(lengths: list[int], side: str):
    rng = np.random.default_rng(0)
    texts = [rng.normal(size=(n, D)).astype(np.float32) for n in lengths]
    for states in texts:
        states[0] *= 50  # the sink
        states[-2] *= 20  # and a second one, as a full stop can be
    encoded = [
        Encoded(list(range(n)), [False, *[True] * (n - 3), False, False], False, True)
        for n in lengths
    ]
    batch = collate(encoded, pad_id=0, side=side, device=torch.device("cpu"))
    hidden = torch.zeros(*batch.ids.shape, D)
    for i, states in enumerate(texts):
        hidden[i][batch.mask[i]] = torch.from_numpy(states)
    return texts, encoded, batch, hidden


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_pooling_equals_its_definition_under_either_padding(side: str) -> None:
    texts, encoded, batch, hidden = batch_of([6, 9, 4, 9], side)
    norms = torch.linalg.vector_norm(hidden, dim=-1)
    names = tuple(POOLINGS)
    got = batch.sums(weigh(norms, batch.mask, batch.action, names), hidden)
    for i, states in enumerate(texts):
        for k, name in enumerate(names):
            expected = naive(states, encoded[i].action, name)
            np.testing.assert_allclose(got[i, k], expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("side", ["left", "right"])
def test_sink_report_reads_the_first_real_token(side: str) -> None:
    texts, _, batch, hidden = batch_of([6, 9], side)
    token0, others, left_out = sink_report(torch.linalg.vector_norm(hidden, dim=-1), batch.mask)
    for i, states in enumerate(texts):
        norms = np.linalg.norm(states, axis=1)
        assert token0[i] == pytest.approx(norms[0], rel=1e-5)
        assert others[i] == pytest.approx(norms[1:].mean(), rel=1e-5)
        kept = sum(
            norms[t] <= 5 * np.sort(norms)[(len(norms) - 1) // 2] for t in range(1, len(norms))
        )
        assert left_out[i] == pytest.approx(1 - kept / len(norms), abs=1e-6)


def test_names() -> None:
    assert parse_poolings("mean, last,mean") == ("mean", "last")
    with pytest.raises(UsageError, match="did you mean mean_unit"):
        parse_poolings("mean_units")
    with pytest.raises(UsageError, match="no pooling"):
        parse_poolings(" , ")
