"""What a model's folder may hold, looked through before anything reads it as a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from moralprobe.errors import ModelError

WEIGHTS: Final = "*.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_UNSAFE: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.npz")
# Keys by which a config makes transformers run code that came with the files.
_EXECUTABLE: Final = ("auto_map", "_attn_implementation_internal", "_attn_implementation_autoset")
# Keys by which it chooses a kernel, which transformers may fetch.
_KERNELS: Final = ("_attn_implementation", "attn_implementation", "_experts_implementation")
_JSON_BYTES: Final = 64 << 20
_JSON_DEPTH: Final = 50


def refuse_unsafe(folder: Path, *, weights: bool = True) -> None:
    """Refuse a model's folder whose config brings code, or whose weights could run some.

    Args:
        folder: with `config.json`.
        weights: whether safetensors weights must be there.

    Raises:
        ModelError: named by file and key.
    """
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        if not path.is_file():
            if name == "config.json":
                raise ModelError(f"{folder} holds no model", "there is no config.json", "check it")
            continue
        config = _read_object(path)
        brought = [f"{key!r}" for key in _EXECUTABLE for _ in _values_of(config, key)]
        # A kernel on the hub is named by its repository, owner/name.
        brought += [
            f"{k!r}: {v!r}" for k in _KERNELS for v in _values_of(config, k) if "/" in str(v)
        ]
        if brought:
            raise ModelError(
                f"{folder.name} would have to run code of its own",
                f"{name} has {brought[0]}",
                "use a model that transformers knows; foreign code is never trusted here",
            )
    if not weights:
        return
    if not list(folder.glob(WEIGHTS)):
        unsafe = _unsafe(folder)
        raise ModelError(
            f"{folder} holds no safetensors weights",
            f"it holds {', '.join(unsafe)}, and loading these can run code"
            if unsafe
            else "no weight file",
            "convert them once with transformers' save_pretrained, on a machine you trust them on"
            if unsafe
            else "fetch the model again, with its weights",
        )
    if absent := missing_weights(folder):
        raise ModelError(
            f"{folder} lacks weight files",
            f"{len(absent)} that {_INDEX} names aren't there, the first: {absent[0]}",
            "fetch the model again",
        )


def missing_weights(folder: Path) -> list[str]:
    """Return which weight files a model's folder lacks; none, where others stand in their place.

    Raises:
        ModelError: an index that names what nothing here would hash, as files outside the folder.
    """
    path = folder / _INDEX
    if not path.is_file():
        whole = list(folder.glob(WEIGHTS)) or _unsafe(folder)
        return [] if whole else ["model.safetensors"]
    named = _read_object(path).get("weight_map")
    files = set(map(str, named.values())) if isinstance(named, dict) else {""}
    if outside := sorted(
        name for name in files if Path(name).name != name or Path(name).suffix != ".safetensors"
    ):
        raise ModelError(
            f"{path} doesn't name this folder's weights",
            f"it names {outside[0]!r}",
            "put safetensors files beside it, and name them without a folder",
        )
    return sorted(name for name in files if not (folder / name).is_file())


def _unsafe(folder: Path) -> list[str]:
    return sorted(p.name for pattern in _UNSAFE for p in folder.glob(pattern))


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a size and depth that a model's files have."""
    try:
        if (size := path.stat().st_size) > _JSON_BYTES:
            raise ValueError(f"it has {size:,} bytes; {_JSON_BYTES:,} are the most")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        if _deeper(found, _JSON_DEPTH):
            raise ValueError(f"it nests more than {_JSON_DEPTH} levels deep")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON", str(error), "fetch the model again") from error
    return found


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and (
        levels == 0 or any(_deeper(one, levels - 1) for one in inner)
    )


def _values_of(value: Any, key: str) -> Iterator[Any]:
    """Yield what stands under a key, wherever it is."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _values_of(inner, key)
