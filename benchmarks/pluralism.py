"""Hold a real model against communities: as it is, told of them, adapted to them.

    python benchmarks/pluralism.py DISTRIBUTIONS --part measure|steer|fit [--model smollm2-135m]
    python benchmarks/pluralism.py EFFECTS --part dilemmas [--model smollm2-135m]
    python benchmarks/pluralism.py starter --part overton [--model smollm2-135m]

DISTRIBUTIONS is GlobalOpinionQA's JSON: `measure` takes the 32 countries with most answers, `steer`
the first four of them, `fit` the first two. EFFECTS is the Moral Machine's table of countries.
Answers are kept in --folder, so that `steer` needn't ask again what `measure` has asked.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

PARTS = {
    "measure": "DISTRIBUTIONS",
    "steer": "DISTRIBUTIONS",
    "fit": "DISTRIBUTIONS",
    "dilemmas": "EFFECTS",
    "overton": "starter",
}


def main() -> None:
    """Run one part, and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", type=Path)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--folder", type=Path, default=Path("out/pluralism"))
    options = parser.parse_args()
    from results_file import write

    runs = dict(zip(PARTS, (measured, steered, fitted, chosen, voiced), strict=True))
    started = time.perf_counter()
    found = runs[options.part](options)
    found["seconds"] = time.perf_counter() - started
    command = f"python benchmarks/pluralism.py {PARTS[options.part]} --part {options.part}"
    print(write(f"pluralism-{options.part}", command, found), flush=True)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Have the model answer the questions of 32 countries."""
    from moralprobe.behavior.pluralism.measuring import measure
    from moralprobe.behavior.pluralism.predictors import reference
    from moralprobe.behavior.pluralism.surveys import load_survey
    from moralprobe.cache import open_cache
    from moralprobe.models.load import load_model
    from moralprobe.report.pluralism import of_agreement
    from moralprobe.steering.text import LocalText

    survey = load_survey(options.table).best_covered(32)
    model = LocalText(load_model(options.model))
    with open_cache(options.folder / "answers.jsonl") as cache:
        found = measure(model, survey, cache=cache, progress=told)
    found.save(options.folder / "none")
    print("\n".join(of_agreement(found)), flush=True)
    return {
        "summary": dict(found.summary),
        "measures": found.measures.to_dicts(),
        "reference": {name: dict(row) for name, row in reference(survey, draws=20).items()},
    }


def steered(options: argparse.Namespace) -> dict[str, Any]:
    """Tell the model of four countries, in a sentence."""
    from moralprobe.behavior.pluralism.measuring import measure
    from moralprobe.behavior.pluralism.steerable import steerable
    from moralprobe.behavior.pluralism.surveys import load_survey
    from moralprobe.cache import open_cache
    from moralprobe.models.load import load_model
    from moralprobe.report.pluralism import of_agreement, of_steered
    from moralprobe.steering.text import LocalText

    survey = load_survey(options.table).best_covered(4)
    model = LocalText(load_model(options.model))
    with open_cache(options.folder / "answers.jsonl") as cache:
        untold = measure(model, survey, cache=cache, progress=told)
        found = measure(model, survey, steer="persona", cache=cache, progress=told)
    apart = steerable(untold, found)
    print("\n".join([*of_agreement(found), "", *of_steered(apart)]), flush=True)
    return {
        "untold": untold.measures.to_dicts(),
        "persona": {
            "agreement": found.measures.to_dicts(),
            "steerable": apart.measures.to_dicts(),
            "summary": dict(apart.summary),
        },
    }


def fitted(options: argparse.Namespace) -> dict[str, Any]:
    """Train adapters of two countries, and measure them on other questions and in hidden states."""
    from moralprobe.behavior.pluralism.learning import ARMS, split
    from moralprobe.behavior.pluralism.surveys import load_survey
    from moralprobe.bridges.adapters import adapters_in
    from moralprobe.bridges.communities import move
    from moralprobe.bridges.community_adapters import learn
    from moralprobe.bridges.lora import own_copy
    from moralprobe.cache import open_cache
    from moralprobe.moral_vectors import build_vectors
    from moralprobe.report.pluralism import SHOWN_GEOMETRY, of_learnt, of_moved

    given = split(load_survey(options.table).best_covered(32), 2, 200)
    model = own_copy(options.model)
    folder = options.folder / "fit"
    with open_cache(folder / "asked.jsonl") as cache:
        found = learn(
            model,
            given,
            arms=ARMS,
            out=folder,
            cache=cache,
            progress=told,
        )
    found.save(folder)
    print("\n".join(of_learnt(found)), flush=True)
    moved = move(
        model.model,
        build_vectors("starter"),
        list(given.measured.communities),
        [10, 20],
        adapters=adapters_in(folder),
        progress=told,
    )
    print("\n".join(of_moved(moved)), flush=True)
    shown = {("moved", "all"), *SHOWN_GEOMETRY}
    rows = [row for row in moved.geometry.to_dicts() if (row["name"], row["category"]) in shown]
    return {
        "summary": dict(found.summary),
        "arms": found.arms.to_dicts(),
        "geometry": {**moved.summary, "rows": rows},
    }


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Have the model choose in dilemmas."""
    from moralprobe.behavior.pluralism.moral_machine import load_effects, measure
    from moralprobe.cache import open_cache
    from moralprobe.models.load import load_model
    from moralprobe.report.moral_machine import of_dilemmas
    from moralprobe.steering.text import LocalText

    countries = load_effects(options.table)
    with open_cache(options.folder / "dilemmas.jsonl") as cache:
        model = LocalText(load_model(options.model))
        found = measure(model, countries, cache=cache, progress=told)
    print("\n".join(of_dilemmas(found)), flush=True)
    return {"summary": dict(found.summary), "effects": found.effects.to_dicts()}


def voiced(options: argparse.Namespace) -> dict[str, Any]:
    """Count the positions that the model voices, by words that are looked for and by itself."""
    from moralprobe.behavior.pluralism.overton import measure
    from moralprobe.behavior.pluralism.voicing import Asked, Words, load_positions
    from moralprobe.cache import open_cache
    from moralprobe.models.load import load_model
    from moralprobe.report.overton import of_overton
    from moralprobe.steering.text import LocalText

    items = load_positions(options.table)
    found = {}
    with open_cache(options.folder / "voiced.jsonl") as cache:
        model = LocalText(load_model(options.model))
        for judge in (Words(), Asked(model, cache=cache)):
            one = measure(model, items, judge, samples=2, tokens=128, cache=cache, progress=told)
            print("\n".join(of_overton(one)), flush=True)
            found["words" if isinstance(judge, Words) else "itself"] = {
                "summary": dict(one.summary),
                "judge": one.judge.to_dicts(),
                "scores": one.scores.to_dicts(),
            }
    return found


def told(done: int, total: int, what: str) -> None:
    """Say how far it is."""
    print(done, total, what, flush=True)


if __name__ == "__main__":
    main()
