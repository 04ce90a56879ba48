"""Several samples of each prompt, read once, beside transformers' own; options of a question; and
questions in several orders of their options.

    python benchmarks/samples.py [--model smollm2-135m]

Medians of alternating runs. Both sample at a temperature of 1 and write as many tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable


def main() -> None:
    """Time both, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    import torch
    from results_file import suffix, write
    from transformers import GenerationConfig

    from moralprobe import load_model
    from moralprobe.behavior.elicitation.completions import ask
    from moralprobe.behavior.elicitation.principles import load_principles
    from moralprobe.behavior.options import lettered
    from moralprobe.behavior.text_model import Question
    from moralprobe.steering.text import LocalText

    loaded, k, tokens = load_model(options.model), 10, 32
    text = LocalText(loaded)
    prompts = [one.prompt for one in load_principles("starter") if one.prompt][:6]
    questions = [ask(prompt, seed=seed) for prompt in prompts for seed in range(k)]
    batch = loaded.collate(text.encode([ask(prompt) for prompt in prompts]), side="left")
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        num_return_sequences=k,
        pad_token_id=loaded.pad_id,
        eos_token_id=loaded.tokenizer.eos_token_id,
    )

    def theirs() -> None:
        with torch.inference_mode():
            loaded.model.generate(
                input_ids=batch.ids, attention_mask=batch.mask.long(), generation_config=config
            )

    def ours() -> None:
        list(text.complete(questions, max_tokens=tokens, temperature=1.0))

    asked = [Question(one.text) for one in questions[:: k * 2]]
    said = [one for _, one in text.complete(questions[:6], max_tokens=tokens, temperature=1.0)][:3]

    def once() -> None:
        list(text.score_options(asked, said))

    def each() -> None:
        for option in said:
            list(text.score_options(asked, [option]))

    things = ("rain", "snow", "fog", "hail", "wind")
    orders = [
        Question(lettered(f"What is {number} most like?", [things[(i + k) % 5] for i in range(5)]))
        for number in range(8)
        for k in range(5)
    ]
    letters = [variant.format(x) for x in "ABCDE" for variant in ("{}", " {}")]
    rows = [one.ids for one in text.encode(orders)]
    of_length = [[row for row in rows if len(row) == n] for n in sorted(set(map(len, rows)))]

    def beginnings() -> None:
        list(text.score_options(orders, letters))

    def whole() -> None:
        with torch.inference_mode():
            for some in of_length:
                ids = torch.tensor(some, device=loaded.device)
                loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1)

    timed = {
        "orders": _alternating({"ours": beginnings, "theirs": whole}, options.runs),
        "samples": _alternating({"ours": ours, "theirs": theirs}, options.runs),
        "options": _alternating({"ours": once, "theirs": each}, options.runs),
    }
    results = {
        "model": options.model,
        "prompts": len(prompts),
        "k": k,
        "tokens": tokens,
        "prompt_tokens": int(batch.mask.sum()) / len(prompts),
        "seconds": timed,
    }
    print(results)
    print(write(f"samples{suffix()}", "python benchmarks/samples.py", results))


def _alternating(what: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in what}
    for run in range(runs + 1):
        for name, do in what.items():
            started = time.perf_counter()
            do()
            if run:  # the first one warms up
                found[name].append(time.perf_counter() - started)
    for name, seconds in found.items():
        print(name, f"{statistics.median(seconds):.2f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
