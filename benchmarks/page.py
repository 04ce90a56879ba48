"""Time the steering page's server: to the first token, and what two texts cost beside one.

    python benchmarks/page.py [--model smollm2-135m] [--layer 15] [--rounds 7] [--tokens 48]

Two ways write after the same prompt in alternating runs: one text by `generate`, and the page's
request with a direction as the source, over a real connection to a server in a process of its own,
as `moralprobe serve` is. No end token is allowed, so that all texts are as long. Written are
medians over rounds of the time to the first piece of the text and to the last, against those of the
same round's one text; and the time to `done`, with what the page looks at afterwards.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from writing import check_lengths, command_of, endless, options_of

PROMPT = "My neighbour lost her job last week. What could I do for her?"


def main() -> None:
    """Alternate, and write `results/page.json`."""
    options = options_of(__doc__)
    from results_file import suffix, write

    from moralprobe import build_vectors, load_model

    names = ("first", "whole", "page_first", "page_whole", "page_done")
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "starter.parquet"
        build_vectors("starter").save(table)
        model = load_model(options.model)
        # A browser has its connection open.
        with endless(), served(options.model, table) as url, httpx.Client(timeout=None) as client:
            for round_ in range(options.rounds + 1):
                found: dict[str, float] = {}
                ways = [lambda: alone(model, options), lambda: asked(client, url, options)]
                for way in ways if round_ % 2 else reversed(ways):
                    found |= way()
                if round_:  # the first round warms up, and reads the direction's texts
                    for name in times:
                        times[name].append(found[name])
                    print(round_, {k: round(v, 2) for k, v in found.items()}, flush=True)
    summary = {
        "model": Path(options.model).name,
        "dtype": str(model.dtype),
        "layer": options.layer,
        "rounds": options.rounds,
        "new_tokens": options.tokens,
        "first_ratio": ratio(times["page_first"], times["first"]),
        "pair_ratio": ratio(times["page_whole"], times["whole"]),
        "seconds": {name: round(statistics.median(some), 3) for name, some in times.items()},
        "runs": times,
    }
    print(write(f"page{suffix()}", command_of("page", options), summary))
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))


SERVER = """
import sys, time
from pathlib import Path
from writing import endless
from moralprobe import load_model
from moralprobe.web.loaded import Loaded
from moralprobe.web.server import serving
loaded = Loaded(load_model(sys.argv[1]), vectors=Path(sys.argv[2]))
with endless(), serving(loaded) as url:
    print(url, flush=True)
    time.sleep(86_400)
"""


@contextmanager
def served(model: str, table: Path) -> Iterator[str]:
    """Serve in another process, and yield the address."""
    command = [sys.executable, "-c", SERVER, model, str(table)]
    folder = Path(__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        try:
            yield str(server.stdout.readline()).strip() if server.stdout else ""
        finally:
            server.kill()


def ratio(some: list[float], plain: list[float]) -> float:
    """Return the median over rounds of one time over another."""
    return round(statistics.median(a / b for a, b in zip(some, plain, strict=True)), 3)


def alone(model: Any, options: Any) -> dict[str, float]:
    """Write one text as it is."""
    from moralprobe import Sampling, generate

    start, pieces = time.perf_counter(), []
    (found,) = generate(
        model,
        [PROMPT],
        sampling=Sampling(max_new_tokens=options.tokens),
        on_text=lambda i, text: pieces.append(time.perf_counter() - start),
    )
    check_lengths([len(found.ids)], options.tokens)
    return {"first": pieces[0], "whole": pieces[-1]}


def asked(client: httpx.Client, url: str, options: Any) -> dict[str, float]:
    """Ask the page's server; the whole is what came before its last look at both texts."""
    source = {"kind": "direction", "target": "moral", "layer": options.layer, "strength": 0.05}
    request = {"prompt": PROMPT, "max_tokens": options.tokens, "sources": [source]}
    start, pieces, last = time.perf_counter(), [], ""
    with client.stream("POST", f"{url}/api/steer", json=request) as answer:
        for line in answer.iter_lines():
            if line == "event: piece":
                pieces.append(time.perf_counter() - start)
            last = line or last
    done = json.loads(last.removeprefix("data: "))
    check_lengths([done[side]["tokens"] for side in ("default", "steered")], options.tokens)
    ended = time.perf_counter() - start
    return {"page_first": pieces[0], "page_whole": pieces[-1], "page_done": ended}


if __name__ == "__main__":
    main()
