"""A table as large as the official one: built within a minute and two gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.data.schema import SOURCE_COLUMNS
from moralprobe.foundations import AXIS_TAGS
from moralprobe.moral_vectors import OFFICIAL_ROWS

BUILD = """
import json, re, sys, time
from pathlib import Path
start = time.perf_counter()
from moralprobe.moral_vectors import build_vectors
vectors = build_vectors(sys.argv[1])
vectors.save(Path(sys.argv[2]))
print(json.dumps({
    "seconds": time.perf_counter() - start,
    # Not ru_maxrss, which a child inherits from the process that started it.
    "bytes": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024,
    "pairs": len(vectors),
}))
"""


@pytest.fixture(scope="module")
def official_size(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Write as many rows and columns as the official file has; return how many pairs they hold."""
    rng = np.random.default_rng(0)
    n = OFFICIAL_ROWS
    words = np.array([f"word{i}" for i in range(5000)])
    tags = [""] + [
        "|".join(AXIS_TAGS[k] for k in range(5) if mask >> k & 1) for mask in range(1, 32)
    ]
    mask = rng.choice(32, n, p=[0.25, *[0.75 / 31] * 31])
    columns = {name: pl.Series(name, ["filler text of a column"] * n) for name in SOURCE_COLUMNS}
    sentence = words[rng.integers(0, 5000, (n, 7))]
    columns["action"] = pl.Series("action", [" ".join(row) for row in sentence])
    columns["rot-moral-foundations"] = pl.Series("t", np.array(tags)[mask])
    columns["action-moral-judgment"] = pl.Series("j", rng.integers(-2, 3, n))
    columns["action-agree"] = pl.Series("a", rng.integers(0, 5, n))
    columns["rot-agree"] = pl.Series("a", rng.integers(0, 5, n))
    columns["rot-bad"] = pl.Series("b", rng.integers(0, 2, n))
    columns["m"] = pl.Series("m", rng.choice([1, 3, 5, 50], n))
    columns["action-pressure"] = pl.Series("p", rng.integers(-2, 3, n))
    columns["split"] = pl.Series("s", np.array(["train", "dev", "test"])[rng.integers(0, 3, n)])
    columns["rot-id"] = pl.Series("i", [f"rot/{i}" for i in range(n)])
    columns["breakdown-worker-id"] = pl.Series("w", rng.integers(0, 130, n))
    path = tmp_path_factory.mktemp("official") / "table.tsv"
    pl.DataFrame(columns).write_csv(path, separator="\t")
    tagged = np.array([bin(m).count("1") for m in mask])
    kept = (columns["rot-bad"].to_numpy() == 0) & (columns["m"].to_numpy() == 1)
    return path, int(tagged[kept].sum())


@pytest.mark.slow
def test_the_official_size_builds_within_a_minute_and_two_gigabytes(
    official_size: tuple[Path, int], tmp_path: Path
) -> None:
    path, pairs = official_size
    assert len(SOURCE_COLUMNS) == 25 and OFFICIAL_ROWS == 355_922
    command = [sys.executable, "-c", BUILD, str(path), str(tmp_path / "v.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["pairs"] == pairs
    assert report["seconds"] < 60 and report["bytes"] < 2e9, report
