"""Sentence embeddings as a baseline: what a general-purpose encoder of meaning would score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.errors import ModelError, UsageError
from moralprobe.models.load import choose_device
from moralprobe.models.quiet import quiet_transformers
from moralprobe.models.safety import refuse_unsafe

# Of sentence-transformers' modules, those that name no class in their files.
_MODULES: Final = ("Transformer", "Pooling", "Normalize")


def sentence_embeddings(
    texts: Sequence[str], model_path: str | Path, *, device: str = "auto"
) -> NDArray[np.float32]:
    """Return a sentence-transformers model's embedding of each text, [n, d] fp32.

    Args:
        texts: the actions.
        model_path: a local folder with safetensors weights; nothing is ever downloaded.
        device: as for `load_model`.

    Raises:
        UsageError: sentence-transformers isn't installed.
        ModelError: no such folder, or one that needs code or unsafe files.
    """
    if find_spec("sentence_transformers") is None:
        raise UsageError(
            "sentence embeddings need sentence-transformers",
            "it isn't installed",
            "pip install 'moralprobe[sentence]'",
        )
    folder = Path(model_path).expanduser()
    _refuse_unsafe_modules(folder)
    place = choose_device(device)
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        try:
            model = SentenceTransformer(
                str(folder),
                device=str(place),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"sentence-transformers can't load {folder}",
                str(error).strip().splitlines()[0],
                "check that the folder holds a whole model",
            ) from error
    embedded = model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
    return np.asarray(embedded, np.float32)


def _refuse_unsafe_modules(folder: Path) -> None:
    """Refuse what isn't a folder of the plain modules with safetensors weights."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        named = [(str(module["type"]), str(module["path"])) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} is no folder of a sentence-transformers model",
            "it has no modules.json that can be read",
            "fetch one: hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir FOLDER",
        ) from error
    for name, place in named:
        package, _, module = name.partition(".")
        if package != "sentence_transformers" or module.rpartition(".")[2] not in _MODULES:
            raise ModelError(
                f"{folder} has a module that isn't trusted here",
                f"{name}: known are {', '.join(_MODULES)} of sentence_transformers",
                "choose another model",
            )
        if not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{folder} leads out of itself", f"to {place!r}", "choose another")
        if module.endswith(".Transformer"):
            refuse_unsafe(folder / place)
