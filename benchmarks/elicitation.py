"""Draw violations out of a model and measure them: the first and the last round side by side.

    python benchmarks/elicitation.py MORAL_STORIES FOLDER [--model smollm2-135m] [--n 55]

A bag of words searches. What reports is linear on the model's hidden states and reads the rule as
well; both learn from Moral Stories, on which both are calibrated. FOLDER keeps what was said, and
the prompts that `elicitation_repair.py` goes on from.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def main() -> None:
    """Calibrate, search, measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stories", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, default=76)
    options = parser.parse_args()
    import polars as pl
    from results_file import write

    from moralprobe import load_model
    from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate
    from moralprobe.behavior.elicitation.measuring import measure
    from moralprobe.behavior.elicitation.principles import evenly, load_cases, load_principles
    from moralprobe.behavior.elicitation.proposers import Writer
    from moralprobe.behavior.elicitation.search import Options, search
    from moralprobe.bridges.fluency import perplexity_of
    from moralprobe.bridges.scorer import scorer_of
    from moralprobe.cache import open_cache
    from moralprobe.report.elicitation import of_calibration, of_measures, of_search
    from moralprobe.steering.text import LocalText

    cases, started = load_cases(options.stories), time.perf_counter()
    scorers: dict[str, Calibrated] = {}
    for name, spec in (("report", f"linear={options.model}"), ("search", "words")):
        scorer = scorer_of(spec, cases)
        scorers[name] = Calibrated(scorer, calibrate(scorer, cases))
        print("\n".join(of_calibration(scorer.name, scorers[name].calibration)), flush=True)
    calibrated = time.perf_counter() - started
    loaded = load_model(options.model)
    model = LocalText(loaded)
    asked = Options(rounds=3, k=4, top=3, proposals=3, tokens=32)
    with open_cache(options.folder / "answers.jsonl") as cache:
        if len(cache):
            parser.error(f"{options.folder} has answers already: what would be timed isn't a run")
        started = time.perf_counter()
        found = search(
            model,
            evenly(load_principles("starter"), options.n),
            Writer(model, words=40, max_tokens=64, cache=cache),
            scorers["search"],
            asked,
            cache=cache,
            progress=lambda done, total, what: print(done, total, what, flush=True),
        )
        searched = time.perf_counter() - started
        print("\n".join(of_search(found, asked.rounds)), flush=True)
        prompts = pl.DataFrame(found.rows(0), infer_schema_length=None)
        prompts.write_parquet(options.folder / "prompts.parquet")
        started = time.perf_counter()
        result = measure(model, prompts, scorers, k=10, tokens=32, cache=cache)
        measured = time.perf_counter() - started
    result.save(options.folder / "measured")
    summary = {**result.summary, "perplexity": perplexity_of(loaded, result.completions)}
    print("\n".join(of_measures(result)), flush=True)
    print(
        write(
            "elicitation",
            "python benchmarks/elicitation.py MORAL_STORIES FOLDER",
            {
                "model": options.model,
                "principles": len(found.principles),
                "unused": found.unused,
                "without": len(found.without),
                "context_fit": found.context_fit,
                "moved": sum(h[-1].prompt != h[0].prompt for h in found.incumbents),
                "seconds": {"calibration": calibrated, "search": searched, "measure": measured},
                "measures": result.measures.to_dicts(),
                "changes": result.changes.to_dicts(),
                "summary": {k: v for k, v in summary.items() if k != "model"},
            },
        )
    )


if __name__ == "__main__":
    main()
