"""Repair in context on a real model: every arm beside none, on principles that nothing learnt from.

    python benchmarks/elicitation_repair.py MORAL_STORIES FOLDER [--model smollm2-135m]

FOLDER is that of `elicitation.py`, whose last prompts are used. Instructions are chosen, and the
writer trained, by a bag of words; a linear scorer of hidden states reports.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def main() -> None:
    """Learn on half of the principles, measure on the others, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stories", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    from results_file import write

    from moralprobe import load_model
    from moralprobe.behavior.elicitation.arms import measure_arms
    from moralprobe.behavior.elicitation.calibration import Calibrated, calibrate
    from moralprobe.behavior.elicitation.instructions import Options, likeliest, rewards_by_round
    from moralprobe.behavior.elicitation.measuring import load_prompts
    from moralprobe.behavior.elicitation.principles import load_cases
    from moralprobe.behavior.elicitation.repair import halves, instructions, learn
    from moralprobe.bridges.instruction_generator import Training, train
    from moralprobe.bridges.lora import new_lora, own_copy
    from moralprobe.bridges.scorer import scorer_of
    from moralprobe.cache import open_cache
    from moralprobe.report.elicitation import of_arms, of_repair, of_training
    from moralprobe.steering.text import LocalText

    def told(done: int, total: int, what: str) -> None:
        print(f"{time.perf_counter() - started:.0f} s", done, total, what, flush=True)

    started = time.perf_counter()
    # How long it takes is known of a run that began without kept answers alone.
    fresh = not (options.folder / "repair.jsonl").exists()
    cases = load_cases(options.stories)
    reward, report = (
        Calibrated(scorer, calibrate(scorer, cases))
        for scorer in (scorer_of("words", cases), scorer_of(f"linear={options.model}", cases))
    )
    model = LocalText(load_model(options.model))
    first, others = halves(load_prompts(options.folder / "prompts.parquet"), 0)
    asked = Options(n=5, k=3, tokens=32)
    with open_cache(options.folder / "repair.jsonl") as cache:
        found, tried = learn(model, first, model, reward, asked, cache=cache, progress=told)
        print("\n".join(of_repair(found)), flush=True)
        generator = new_lora(own_copy(options.model).model)
        training = Training(rounds=2, epochs=1)
        tried, unused = train(
            generator, model, tried, reward, asked, training, cache=cache, progress=told
        )
        by_round = rewards_by_round(tried, draws=options.draws)
        print("\n".join(of_training(by_round)), flush=True)
        pairs = list(others.select("principle", "prompt").iter_rows())
        arms = measure_arms(
            model,
            others,
            instructions(
                found,
                others,
                written=likeliest(model, pairs, cache=cache),
                trained=likeliest(generator.text, pairs, cache=cache),
            ),
            report,
            k=10,
            tokens=32,
            draws=options.draws,
            cache=cache,
            progress=told,
        )
    trained = arms.trained
    print("\n".join(of_arms(arms.rates, report.scorer.name, trained)), flush=True)
    print(
        write(
            "elicitation-repair",
            "python benchmarks/elicitation_repair.py MORAL_STORIES FOLDER",
            {
                "model": options.model,
                "seconds": time.perf_counter() - started if fresh else None,
                "learnt_from": len(found.seen),
                "measured_on": others.height,
                "for_all": found.for_all,
                "unused": {"learning": dict(found.unused), "training": unused},
                "training": training.__dict__,
                "rewards": by_round,
                "arms": arms.rates.to_dicts(),
                "trained_less_written": [] if trained is None else trained.to_dicts(),
            },
        )
    )


if __name__ == "__main__":
    main()
