"""Time attention over short sequences against a block's linear layers: what trees are weighed by.

    python benchmarks/attention.py

At the widths of SmolLM2-135M, 2,048 tokens at once, cut into sequences of 64 to 512: on this rests
`plan.ATTENTION`. The best of many runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
    os.environ.pop(name, None)

import torch  # noqa: E402
from results_file import write  # noqa: E402
from torch.nn.functional import linear, scaled_dot_product_attention  # noqa: E402

TOKENS, WIDTH, INNER, HEADS, KEYS = 2048, 576, 1536, 9, 192
LENGTHS = (64, 128, 256, 512)
REPEATS = 60


def best(run: Callable[[], object]) -> float:
    """Return the shortest time of many, in milliseconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def block(dtype: torch.dtype) -> float:
    """Time the seven linear layers of a block."""
    x, inner = torch.randn(TOKENS, WIDTH, dtype=dtype), torch.randn(TOKENS, INNER, dtype=dtype)
    shapes = [(WIDTH, WIDTH), (KEYS, WIDTH), (KEYS, WIDTH), (WIDTH, WIDTH)]
    shapes += [(INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER)]
    weights = [torch.randn(*shape, dtype=dtype) for shape in shapes]
    return best(lambda: [linear(x if w.shape[1] == WIDTH else inner, w) for w in weights])


def attention(length: int, dtype: torch.dtype) -> float:
    """Time attention over sequences of one length, under a mask that is added."""
    rows, size = TOKENS // length, WIDTH // HEADS
    q, k, v = (torch.randn(rows, HEADS, length, size, dtype=dtype) for _ in range(3))
    mask = torch.zeros(rows, 1, length, length, dtype=dtype)
    mask[..., length // 2 :] = torch.finfo(dtype).min
    return best(lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask))


def main() -> None:
    """Time both dtypes and write `results/attention.json`."""
    found = {}
    parameters = 2 * WIDTH * WIDTH + 2 * KEYS * WIDTH + 3 * INNER * WIDTH
    with torch.inference_mode():
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            layers = block(dtype)
            rows = []
            for length in LENGTHS:
                took = attention(length, dtype)
                # Time an operation: 4 L a token and width of attention, 2 a token and parameter.
                slower = (took / (4 * length * WIDTH)) / (layers / (2 * parameters))
                rows.append({"length": length, "ms": took, "slower": slower})
            found[name] = {"linear_ms": layers, "rows": rows}
            print(name, found[name])
    print(write("attention", "python benchmarks/attention.py", {"tokens": TOKENS, **found}))


if __name__ == "__main__":
    main()
