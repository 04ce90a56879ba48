"""Evaluate an intervention on this project's prompts, all arms, and time it.

    python benchmarks/evaluation.py INTERVENTION --out DIR --judge http://localhost:8000/v1=MODEL

INTERVENTION is a folder made by `moralprobe topology fit`. Two seeds, 64 new tokens, side effects
too. Texts and verdicts that DIR holds aren't asked for again. Written is `results/evaluation.json`;
its time is that of the run that found DIR empty, which keeps it there, and none where that was cut.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    """Evaluate, and write the verdict, the judges' checks and the arms' measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("intervention")
    parser.add_argument("--out", required=True)
    parser.add_argument("--judge", action="append", default=[])
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    from results_file import write

    from moralprobe import load_model
    from moralprobe.evaluating import evaluate_intervention
    from moralprobe.evaluation.judge_backends import judges_of
    from moralprobe.evaluation.prompts import load_prompts
    from moralprobe.evaluation.settings import Options
    from moralprobe.steering.intervention import Intervention, origin_of_model
    from moralprobe.steering.sampling import Sampling

    made, out = Intervention.load(Path(options.intervention)), Path(options.out)
    begun = (out / "written.jsonl").exists()
    model = load_model(**origin_of_model(made))
    start, last = time.perf_counter(), [0.0]

    def progress(done: int, total: int, detail: str) -> None:
        if time.perf_counter() - last[0] > 30:
            last[0] = time.perf_counter()
            print(f"{last[0] - start:.0f} s: {done}/{total} {detail}", flush=True)

    found = evaluate_intervention(
        made,
        model,
        out,
        prompts=load_prompts("english"),
        judges=judges_of(options.judge),
        options=Options(sampling=Sampling(max_new_tokens=options.max_tokens)),
        progress=progress,
    )
    found.save(out)
    rows = found.judged.filter(half="report").to_dicts()
    took = out / "seconds.json"
    if not begun:
        took.write_text(json.dumps(round(time.perf_counter() - start)))
    summary = {
        "seconds": json.loads(took.read_text()) if took.exists() else None,
        **found.summary,
        "judged": rows,
        "effects": found.effects.to_dicts(),
    }
    summary["options"] = dict(found.summary["options"])
    print(
        write(
            "evaluation", "python benchmarks/evaluation.py INTERVENTION --judge URL=MODEL", summary
        )
    )
    print(json.dumps(found.summary["verdict"], indent=1))


if __name__ == "__main__":
    main()
