"""A table and a store as large as the official ones, within two gigabytes of memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.activations.extract import extract
from moralprobe.activations.plan import SHARD_BYTES, make_plan
from moralprobe.activations.store import ActivationStore, verify
from moralprobe.data.schema import SOURCE_COLUMNS
from moralprobe.errors import IntegrityError, UsageError
from moralprobe.foundations import AXIS_TAGS
from moralprobe.moral_vectors import OFFICIAL_ROWS
from tests import planted
from tests.activations.test_extract import starter, tiny, with_actions
from tests.sources import ROOT

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


# -- a store that doesn't fit -----------------------------------------------------------------------

N_TEXTS, N_LAYERS, WIDTH = 251_000, 33, 4096

STORE = """
import json, re, sys
from pathlib import Path
import ml_dtypes, numpy as np, polars as pl, xxhash
from moralprobe.activations.plan import make_plan, shard_name
from moralprobe.activations.store import KIND, ActivationStore, tables_of, verify
from moralprobe.artifacts import Artifact, write_bytes
from moralprobe.moral_vectors import build_vectors

folder, n, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
table = pl.DataFrame({"text": [f"text {i}" for i in range(n)]}).with_columns(
    status=pl.lit("ok"), n_action_tokens=pl.lit(1)
)
tables = tables_of(table, build_vectors("starter"))
key = {
    "model": {"id": "planted"}, "d_model": width, "n_layers": 1, "layers": [0],
    "poolings": ["mean"], "template": "action",
    "tables": {name: xxhash.xxh3_128_hexdigest(data) for name, data in tables.items()},
}
artifact = Artifact.create(folder, KIND, key)
for name, data in tables.items():
    write_bytes(folder / name, data)
shards = make_plan([9] * n, batch_tokens=2048, bytes_per_text=2 * width).shards
for i, (start, stop) in enumerate(shards):
    states = np.ones((stop - start, width), ml_dtypes.bfloat16)
    states[:, 0] = np.arange(start, stop) % 251  # whole numbers that bf16 holds
    artifact.add_shard(shard_name(i), {"resid_post.0/mean": states}, first=start, last=stop - 1)
assert verify(folder) == ({}, [])
store, seen = ActivationStore.open(folder), 0
for rows, block in store.blocks("mean", 0):
    assert rows.start == seen and block.dtype == np.float32 and block.shape[1] == width
    assert (block[:, 0] == np.arange(rows.start, rows.stop) % 251).all() and (block[:, 1:] == 1).all()
    seen = rows.stop
status = Path("/proc/self/status").read_text()
print(json.dumps({
    "rows": seen,
    "shards": len(shards),
    "disk": sum(path.stat().st_size for path in folder.iterdir()),
    "bytes": int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024,
}))
"""


@pytest.mark.slow
def test_a_layer_of_two_gigabytes_is_written_verified_and_read_within_two(tmp_path: Path) -> None:
    """Read whole it would take four: a block at a time it takes a shard's worth."""
    command = [sys.executable, "-c", STORE, str(tmp_path / "s"), str(N_TEXTS), str(WIDTH)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    shutil.rmtree(tmp_path / "s")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == N_TEXTS and report["shards"] > 15
    assert report["disk"] > 2 * N_TEXTS * WIDTH and report["bytes"] < 2e9, report


def test_all_layers_of_the_official_size_come_in_shards_that_fit() -> None:
    per_text = 2 * WIDTH * N_LAYERS
    assert N_TEXTS * per_text > 67e9
    plan = make_plan([9] * N_TEXTS, batch_tokens=2048, bytes_per_text=per_text)
    largest = max(stop - start for start, stop in plan.shards) * per_text
    assert largest <= SHARD_BYTES and plan.shards[-1][1] == N_TEXTS


def test_blocks_together_are_the_layer(tmp_path: Path) -> None:
    options = {"batch_tokens": 64, "shard_bytes": 6_000, "poolings": ("mean", "mean_action")}
    store = extract(tiny(), starter(40), tmp_path / "s", layers="0,2", **options)
    for pooling in store.poolings:
        whole, blocks = store.layer(pooling, 2), list(store.blocks(pooling, 2))
        assert len(blocks) == len(list((tmp_path / "s").glob("shard-*"))) > 3
        assert [i for rows, _ in blocks for i in range(rows.start, rows.stop)] == [
            *range(store.n_readable)
        ]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), whole)
    with pytest.raises(UsageError, match=r"no resid_post\.1"):
        next(store.blocks("mean", 1))
    with pytest.raises(UsageError, match="no pooling 'last'"):
        next(store.blocks("last", 2))


def test_blocks_hold_no_numbers_where_a_text_has_none(tmp_path: Path) -> None:
    texts = with_actions(["", "a", "ab", "abc"])
    options = {"template": "action", "poolings": ("mean_action",)}
    store = extract(tiny(bos=False), texts, tmp_path / "s", layers="1", **options)
    assert store.n_readable == 2 and store.texts.height == 4
    ((rows, block),) = store.blocks("mean_action", 1)
    assert rows == slice(0, 2)
    np.testing.assert_array_equal(block, store.layer("mean_action", 1)[rows])
    # Nor where the shard has some that mean nothing.
    actions, lengths = planted.texts_of(starter(20))
    lengths[3] = 3  # of which none is the action's
    states = {0: planted.noise(actions, 0)}
    odd = planted.store(tmp_path / "odd", starter(20), states, lengths, ("mean_action",))
    ((_, block),) = odd.blocks("mean_action", 0)
    assert np.isnan(block[3]).all() and np.isfinite(block[4:]).all()
    path = next((tmp_path / "s").glob("shard-*"))
    path.write_bytes(path.read_bytes()[:-1])
    assert list(verify(tmp_path / "s")[0]) == [path.name]
    with pytest.raises(IntegrityError, match="is damaged"):
        list(ActivationStore.open(tmp_path / "s").blocks("mean_action", 1))
