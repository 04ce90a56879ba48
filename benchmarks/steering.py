"""Time what steering adds to writing: each rule against the model as it is, in alternating runs.

    python benchmarks/steering.py [--model smollm2-135m] [--layer 15] [--rounds 7] [--tokens 48]

A batch of prompts is written after, with no end token allowed, so that all runs make as many
tokens. Printed and written are medians over rounds of each arm's time over that of the same round's
plain run, and beside them what part of the model's bytes an autoencoder's weights are: what reads
them all can't cost less. The autoencoder's weights are random, 16 times as wide as the model.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from writing import check_lengths, command_of, endless, options_of

# Set on some machines for the tests; they slow numpy, and say nothing of ours.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
    os.environ.pop(_name, None)


def main() -> None:
    """Alternate all arms, and write `results/steering.json`."""
    options = options_of(__doc__)
    import torch
    from results_file import suffix, write

    from moralprobe import load_model
    from moralprobe.evaluation.prompts import load_prompts
    from moralprobe.steering.intervention import Edit, Intervention
    from moralprobe.steering.rules import (
        Add,
        Cap,
        ProjectOut,
        Reconstruct,
        ScaleFeatures,
        SwapFeatures,
    )

    model = load_model(options.model)
    sae = autoencoder(model.d_model, k=32)
    d, layer = model.d_model, options.layer
    features = torch.arange(0, sae.cfg.d_sae, 12)
    rows = [sae.W_enc[:, features].T * 1.1, sae.b_enc[features], sae.W_dec[features] * 1.1]
    v = torch.ones(d)
    rules = {
        "add": Add(v),
        "project_out": ProjectOut(v[None]),
        "cap": Cap(v, 1.0),
        "reconstruct": Reconstruct(sae),
        "swap_features": SwapFeatures(sae, features, *(row.detach().clone() for row in rows)),
        "scale_features": ScaleFeatures(sae, features[:8], torch.zeros(8), torch.ones(8)),
    }
    arms: dict[str, Intervention | None] = {"plain": None}
    for name, rule in rules.items():
        arms[name] = Intervention((Edit(layer, rule, 0.01),))
    prompts = [prompt.text for prompt in load_prompts("english").prompts]
    shown = {1: prompts[:1], 8: prompts[:8]}
    found: dict[str, Any] = {}
    for n, texts in shown.items():
        times: dict[str, list[float]] = {name: [] for name in arms}
        run = writer(model, texts, options.tokens)
        for round_ in range(options.rounds + 1):
            order = list(arms) if round_ % 2 else list(reversed(arms))
            for name in order:
                start = time.perf_counter()
                run(arms[name])
                if round_:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
            print(n, round_, {k: round(v[-1], 2) for k, v in times.items() if v}, flush=True)
        found[str(n)] = {
            "tokens_per_second": {
                name: round(n * options.tokens / statistics.median(t), 1)
                for name, t in times.items()
            },
            "times_plain": {
                name: round(
                    statistics.median(a / b for a, b in zip(t, times["plain"], strict=True)), 3
                )
                for name, t in times.items()
            },
        }
    of_model = sum(p.numel() * p.element_size() for p in model.model.parameters())
    encoder = sae.W_enc.numel() * sae.W_enc.element_size()
    summary = {
        "model": Path(options.model).name,
        "layer": layer,
        "d_sae": sae.cfg.d_sae,
        "features": len(features),
        "new_tokens": options.tokens,
        "rounds": options.rounds,
        "encoder_of_model": round(encoder / of_model, 3),
        "autoencoder_of_model": round(2 * encoder / of_model, 3),
        "batches": found,
    }
    print(write(f"steering{suffix()}", command_of("steering", options), summary))
    print(json.dumps(summary, indent=1))


def autoencoder(d_in: int, k: int) -> Any:
    """Return a TopK autoencoder of random weights."""
    import sae_lens
    import torch

    torch.manual_seed(0)
    sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=d_in, d_sae=16 * d_in, k=k))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn_like(sae.W_dec), dim=-1))
        sae.W_enc.copy_(sae.W_dec.T)
    return sae.eval()


def writer(model: Any, prompts: list[str], tokens: int) -> Callable[[Any], Any]:
    """Return what writes as many tokens after every prompt, whatever it would end at."""
    from moralprobe.steering.generate import generate
    from moralprobe.steering.sampling import Sampling

    how = Sampling(max_new_tokens=tokens, temperature=0.7)

    def run(intervention: Any) -> Any:
        with endless():
            found = generate(model, prompts, intervention, sampling=how, batch=len(prompts))
        check_lengths([len(one.ids) for one in found], tokens)
        return found

    return run


if __name__ == "__main__":
    main()
