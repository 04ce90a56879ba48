"""Assign values to a real model, beside chance; and read them in its hidden states.

python benchmarks/orientation.py [--model smollm2-135m] [--ring]
"""

from __future__ import annotations

import argparse
import time


def main() -> None:
    """Run both, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ring", action="store_true", help="its hidden states as well")
    options = parser.parse_args()
    from results_file import write

    from moralprobe import load_model
    from moralprobe.behavior.orientation.rationality import followed
    from moralprobe.behavior.orientation.run import orient
    from moralprobe.bridges.ring import ring
    from moralprobe.report.orientation import of_orientation, of_ring
    from moralprobe.steering.text import LocalText

    loaded, seconds = load_model(options.model), {}
    started = time.perf_counter()
    found = orient(LocalText(loaded))
    seconds["run"] = time.perf_counter() - started
    print("\n".join(of_orientation(found)), flush=True)
    table = None
    if options.ring:
        started = time.perf_counter()
        table = ring(loaded)
        seconds["ring"] = time.perf_counter() - started
        print("\n".join(of_ring(table)), flush=True)
    letters = found.choices["letter"].value_counts(sort=True).to_dicts()
    print(
        write(
            "orientation",
            "python benchmarks/orientation.py",
            {
                "model": options.model,
                "seconds": seconds,
                "sessions": found.summary["sessions"],
                "answers": found.choices.height,
                "statuses": found.summary["statuses"],
                "letters": letters,
                "mass": found.summary["mass"],
                "followed": sorted(map(list, followed(found.measures))),
                "measures": found.measures.to_dicts(),
                "ring": None if table is None else table.to_dicts(),
            },
        )
    )


if __name__ == "__main__":
    main()
