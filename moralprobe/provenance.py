"""What a result was made from and with: enough to make it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any, Final

PACKAGES: Final[tuple[str, ...]] = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "polars",
    "safetensors",
)
_BLAS: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment() -> dict[str, Any]:
    """Return versions, platform and the settings that change speed or rounding."""
    return {
        "moralprobe": version("moralprobe"),
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "settings": {name: os.environ[name] for name in _BLAS if name in os.environ},
    }


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version(package: str) -> str:
    """Return an installed package's version, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
