"""Time how long a user waits for `import moralprobe` and `moralprobe --help`.

    python benchmarks/startup.py

Ten warm starts of each, alternating with a bare `python -c pass`; the figures are medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results_file import write

STARTS = 10


def main() -> None:
    """Write `results/startup.json`."""
    python = sys.executable
    commands = {
        "python": [python, "-c", "pass"],
        "import moralprobe": [python, "-c", "import moralprobe"],
        "moralprobe --help": [str(Path(python).parent / "moralprobe"), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(STARTS + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if i:  # the first start warms the caches
                seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(some), 3) for name, some in seconds.items()}
    print(write("startup", "python benchmarks/startup.py", {"median_seconds": medians}))
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
