"""Linear layers of few rows: the same products, hooks and all, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moralprobe.models.few_rows import few_rows


@pytest.mark.parametrize(
    "shape", [(1, 6), (2, 6), (2, 1, 6), (4, 1, 6), (2, 2, 6), (5, 6), (3, 7, 6)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = nn.Linear(6, 9, bias=bias), torch.randn(shape)
    expected = layer(x)
    with few_rows(layer), torch.inference_mode():
        found = layer(x)
    assert found.shape == expected.shape and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_it_is_used_for_few_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = []
    real = nn.functional.linear
    monkeypatch.setattr(
        nn.functional, "linear", lambda *given: plain.append(len(given[0])) or real(*given)
    )
    layer = nn.Linear(6, 9)
    with few_rows(layer):
        for rows in range(1, 7):
            layer(torch.randn(rows, 6))
        layer.bfloat16()
        layer(torch.randn(2, 6, dtype=torch.bfloat16))
    assert plain == [1, 3, 4, 5, 6, 2]


def test_nothing_is_left_and_hooks_run() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(6, 6), Other(6, 6), nn.Linear(6, 6).bfloat16(), nn.Linear(6, 6))
    kept = lambda x: x  # noqa: E731
    model[3].forward = kept
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(RuntimeError, match="inside"), few_rows(model):
        assert ["forward" in vars(one) for one in model] == [True, False, False, True]
        model[0](torch.randn(2, 6))
        raise RuntimeError("inside")
    assert seen == [1]
    assert ["forward" in vars(one) for one in model] == [False, False, False, True]
    assert model[3].forward is kept
