"""Time the steering page's server: to the first token, and what two texts cost beside one.

    python benchmarks/page.py [--model smollm2-135m] [--layer 15] [--rounds 7] [--tokens 48]

Two ways write after the same prompt in alternating runs: one text by `generate`, and the page's
request with a direction as the source, over a real connection. Written are medians over rounds of
the time to the first piece of the text and of the whole, against those of the same round's one
text. What the page computes of both texts afterwards is timed apart.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMPT = "My neighbour lost her job last week. What could I do for her?"


def main() -> None:
    """Alternate, and write `results/page.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    from results_file import suffix, write

    from moralprobe import build_vectors, load_model
    from moralprobe.web.loaded import Loaded

    times: dict[str, list[float]] = {"first": [], "whole": [], "page_first": [], "page_whole": []}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "starter.parquet"
        build_vectors("starter").save(table)
        loaded = Loaded(load_model(options.model), vectors=table)
        with serving(loaded) as url:
            for round_ in range(options.rounds + 1):
                found: dict[str, float] = {}
                ways = [lambda: alone(loaded.model, options), lambda: asked(url, options)]
                for way in ways if round_ % 2 else reversed(ways):
                    found |= way()
                if round_:  # the first round warms up, and reads the direction's texts
                    for name in times:
                        times[name].append(found[name])
                    print(round_, {k: round(v, 2) for k, v in found.items()}, flush=True)
    summary = {
        "model": options.model,
        "layer": options.layer,
        "rounds": options.rounds,
        "new_tokens": options.tokens,
        "first_ratio": ratio(times["page_first"], times["first"]),
        "pair_ratio": ratio(times["page_whole"], times["whole"]),
        "seconds": {name: round(statistics.median(some), 3) for name, some in times.items()},
        "runs": times,
    }
    command = f"python benchmarks/page.py --rounds {options.rounds} --tokens {options.tokens}"
    print(write(f"page{suffix()}", command, summary))
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))


def ratio(some: list[float], plain: list[float]) -> float:
    """Return the median over rounds of one time over another."""
    return round(statistics.median(a / b for a, b in zip(some, plain, strict=True)), 3)


def alone(model: Any, options: Any) -> dict[str, float]:
    """Write one text as it is."""
    from moralprobe import Sampling, generate

    start, first = time.perf_counter(), []
    generate(
        model,
        [PROMPT],
        sampling=Sampling(max_new_tokens=options.tokens),
        on_text=lambda i, text: first.append(time.perf_counter() - start),
    )
    return {"first": first[0], "whole": time.perf_counter() - start}


def asked(url: str, options: Any) -> dict[str, float]:
    """Ask the page's server; the whole is what came before its last look at both texts."""
    import httpx

    source = {"kind": "direction", "target": "moral", "layer": options.layer, "strength": 0.05}
    request = {"prompt": PROMPT, "max_tokens": options.tokens, "sources": [source]}
    start, pieces = time.perf_counter(), []
    with httpx.stream("POST", f"{url}/api/steer", json=request, timeout=None) as answer:
        for line in answer.iter_lines():
            if line == "event: piece":
                pieces.append(time.perf_counter() - start)
    return {"page_first": pieces[0], "page_whole": pieces[-1]}


@contextmanager
def serving(loaded: Any) -> Iterator[str]:
    """Serve on loopback while the block runs."""
    from moralprobe.web.app import create_app
    from moralprobe.web.server import server_of

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_of(create_app(loaded, hosts=[f"127.0.0.1:{port}"]), "127.0.0.1", port)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
