"""Use the steering page's server for half an hour, and see whether its memory grows.

    python benchmarks/page_soak.py [--minutes 30] [--model smollm2-135m] [--sae DIR --features DIR]

A server is started by `moralprobe serve`, and asked in turn, one after the other and by chance:
texts that are read to their end, texts that are left in the middle, where a sentence lies, what
fires and what is known of a feature (with an autoencoder), and what must be refused. Its resident
memory is read after every answer. Written are its medians in the second fifth of the time, once all
has been loaded, and in the last; what was answered; and what its log holds. It fails where memory
grew by more than 5 %, an answer was none that is looked for, or the log holds an error.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPECTED = (": done", ": 200", ": 400", ": 413", ": 422")
PROMPTS = (
    "My neighbour lost her job last week. What could I do for her?",
    "Is it fair to keep a wallet that I found?",
    "Write a short note of thanks to a friend.",
    "\N{GRINNING FACE} tell me about loyalty",
)
UNKNOWN = {"kind": "direction", "target": "magic", "layer": 1}
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("no JSON", {"content": b"{", "headers": {"content-type": "application/json"}}),
    ("a number that is none", {"content": b'{"prompt": "x", "top_p": NaN}'}),
    ("an unknown field", {"json": {"prompt": "x", "magic": 1}}),
    ("an unknown target", {"json": {"prompt": "x", "sources": [UNKNOWN]}}),
    ("a text too long", {"json": {"prompt": "x" * 8_001}}),
    ("a foreign host", {"json": {"prompt": "x"}, "headers": {"host": "example.org"}}),
    ("too large a body", {"content": b" " * 300_000}),
)


def main() -> None:
    """Serve, ask, and write `results/page-soak.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sae")
    parser.add_argument("--features")
    parser.add_argument("--port", type=int, default=7869)
    options = parser.parse_args()
    import httpx
    from results_file import write

    from moralprobe import build_vectors

    given = [f"--{k}={v}" for k in ("sae", "features") if (v := getattr(options, k)) is not None]
    with tempfile.TemporaryDirectory() as folder:
        table, log = Path(folder) / "starter.parquet", Path(folder) / "log"
        build_vectors("starter").save(table)
        command = [sys.executable, "-m", "moralprobe", "serve", f"--model={options.model}", *given]
        command += [f"--vectors={table}", f"--port={options.port}"]
        with log.open("wb") as stream:
            server = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{options.port}", timeout=300) as client:
                about = begun(client, server)
                memory, answers = use(client, about, server.pid, 60 * options.minutes)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
        said = log.read_text().splitlines()
    cut = 60 * options.minutes / 5
    early = [mb for at, mb in memory if cut <= at < 2 * cut]
    late = [mb for at, mb in memory if at >= 4 * cut]
    summary = {
        "model": about["model"],
        "minutes": options.minutes,
        "autoencoder": about["sae"] is not None,
        "answers": dict(sorted(answers.items())),
        "mb_early": round(statistics.median(early)),
        "mb_late": round(statistics.median(late)),
        "growth": round(statistics.median(late) / statistics.median(early) - 1, 4),
        "log": [line for line in said if not line.startswith("http://") and line != "ended"],
        "mb_by_minute": by_minute(memory),
    }
    asked = [f"--minutes {options.minutes:g}", f"--model {options.model}"]
    asked += ["--sae SAE --features FEATURES"] if given else []
    print(write("page-soak", " ".join(["python benchmarks/page_soak.py", *asked]), summary))
    print({k: v for k, v in summary.items() if k != "mb_by_minute"})
    unlooked = [name for name in answers if not name.endswith((*EXPECTED, "left in the middle"))]
    if summary["growth"] > 0.05 or unlooked or summary["log"]:
        raise SystemExit(f"not as it should be: {unlooked}, {summary['log'][:5]}")


def begun(client: Any, server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the server, and return what it holds."""
    import httpx

    for _ in range(300):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            found: dict[str, Any] = client.get("/api/about").json()
        except httpx.ConnectError:
            time.sleep(0.5)
        else:
            return found
    raise SystemExit("the server didn't begin")


def use(
    client: Any, about: dict[str, Any], pid: int, seconds: float
) -> tuple[list[tuple[float, float]], Counter[str]]:
    """Ask until the time is over; return the time and megabytes after each answer, and counts."""
    rng = random.Random(0)
    answers: Counter[str] = Counter()
    memory: list[tuple[float, float]] = []
    ways: list[Callable[[], str]] = [
        lambda: whole(client, rng, about),
        lambda: left(client, rng, about),
        lambda: located(client, rng, about),
        lambda: refused(client, rng),
    ]
    if about["sae"] is not None:
        ways += [lambda: fired(client, rng), lambda: known(client, rng, about)]
    start = time.perf_counter()
    while (at := time.perf_counter() - start) < seconds:
        answers[rng.choice(ways)()] += 1
        memory.append((at, resident(pid)))
    return memory, answers


def asked(rng: random.Random, about: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return a request by chance."""
    sources: list[dict[str, Any]] = [
        {
            "kind": "direction",
            "target": rng.choice(about["targets"]),
            "layer": rng.choice((8, 15, 22)) % about["layers"],
            "method": rng.choice(("add", "project-out", "cap")),
            "strength": round(rng.uniform(-0.2, 0.2), 2),
        }
    ]
    if about["sae"] is not None and rng.random() < 0.5:
        change = {"feature": rng.randrange(about["features"]), "offset": 4.0}
        sources.append({"kind": "features", "changes": [change]})
    return {
        "prompt": rng.choice(PROMPTS),
        "sources": sources,
        "max_tokens": tokens,
        "seed": rng.randrange(1000),
    }


def whole(client: Any, rng: random.Random, about: dict[str, Any]) -> str:
    """Read both texts to their end."""
    with client.stream("POST", "/api/steer", json=asked(rng, about, 24)) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("event: ")]
    return f"texts: {lines[-1].removeprefix('event: ')}"


def left(client: Any, rng: random.Random, about: dict[str, Any]) -> str:
    """Leave after the first piece."""
    with client.stream("POST", "/api/steer", json=asked(rng, about, 400)) as answer:
        next(answer.iter_lines())
    return "texts left in the middle"


def located(client: Any, rng: random.Random, about: dict[str, Any]) -> str:
    """Ask where a sentence lies."""
    request = {"sentence": rng.choice(PROMPTS), "sources": asked(rng, about, 1)["sources"]}
    return f"place: {client.post('/api/place', json=request).status_code}"


def fired(client: Any, rng: random.Random) -> str:
    """Ask what fires."""
    return f"fires: {client.post('/api/fires', json={'text': rng.choice(PROMPTS)}).status_code}"


def known(client: Any, rng: random.Random, about: dict[str, Any]) -> str:
    """Ask what is known of a feature."""
    feature = rng.randrange(about["features"])
    return f"feature: {client.post('/api/feature', json={'feature': feature}).status_code}"


def refused(client: Any, rng: random.Random) -> str:
    """Send what must be refused."""
    name, request = rng.choice(REFUSED)
    headers = {"content-type": "application/json", **request.get("headers", {})}
    answer = client.post("/api/steer", **{**request, "headers": headers})
    return f"{name}: {answer.status_code}"


def resident(pid: int) -> float:
    """Return a process' resident memory in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if "VmRSS" in line)


def by_minute(memory: list[tuple[float, float]]) -> list[int]:
    """Return the median megabytes of each minute."""
    minutes: dict[int, list[float]] = {}
    for at, mb in memory:
        minutes.setdefault(int(at // 60), []).append(mb)
    return [round(statistics.median(some)) for _, some in sorted(minutes.items())]


if __name__ == "__main__":
    main()
