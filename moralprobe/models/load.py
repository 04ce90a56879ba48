"""The only factory of models: an id on the hub, a local folder, packaged weights, a live model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import torch
import xxhash

from moralprobe.artifacts import canonical_json, hash_file
from moralprobe.errors import ModelError, UsageError, nearest
from moralprobe.models.causal import CausalModel
from moralprobe.models.layers import find_decoder
from moralprobe.models.packaged import PACKAGED, packaged_folder
from moralprobe.models.quiet import quiet_transformers
from moralprobe.models.registry import models as registered

Dtype = Literal["bf16", "fp32"]
DTYPES: Final[dict[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp32": torch.float32}

# Keys by which a config makes transformers run code that came with the files.
_EXECUTABLE: Final = ("auto_map", "_attn_implementation_internal", "_attn_implementation_autoset")
_WANTED: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_UNSAFE: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.npz")
# What a config says of its history rather than of the network.
_VOLATILE: Final = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def load_model(
    source: str | Path | Any,
    *,
    tokenizer: Any = None,
    dtype: str = "bf16",
    device: str = "auto",
    revision: str | None = None,
    layers_path: str | None = None,
) -> CausalModel:
    """Load a causal language model, ready to be read.

    Args:
        source: `smollm2-135m` or another packaged name, a local folder, an id on the hub, or a live
            transformers model (then `tokenizer` is needed and `dtype`, `device` are its own).
        tokenizer: the tokenizer of a live model.
        dtype: `bf16` or `fp32`. fp16 isn't offered: attention sinks overflow it.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1` or `mps`.
        revision: a commit, branch or tag on the hub.
        layers_path: dotted path of the list of decoder blocks, where it isn't found.

    Raises:
        ModelError: not found, not downloadable, in an unsafe format, or in need of foreign code.
        UsageError: an unknown dtype or device.
    """
    if isinstance(source, torch.nn.Module):
        return _live(source, tokenizer, layers_path)
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", nearest(dtype, DTYPES), "choose one of these")
    place = choose_device(device)
    name, folder, commit = _locate(str(source), revision)
    refuse_unsafe(folder)
    model, loaded_tokenizer = _from_folder(folder, DTYPES[dtype])
    model = model.to(place).eval()
    identity = {
        "id": name,
        "revision": commit,
        "weights": _hash_weights(folder),
        **_identity(model, loaded_tokenizer),
    }
    return CausalModel(name, model, loaded_tokenizer, find_decoder(model, layers_path), identity)


def choose_device(name: str = "auto") -> torch.device:
    """Return the torch device of that name; `auto` takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(
            f"unknown device {name!r}",
            "it is none that a model can be read on",
            "write auto, cpu, cuda, cuda:1 or mps",
        )
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise UsageError(
            f"device {name!r} isn't there",
            f"torch sees {there} of type {device.type}",
            "choose another, or auto",
        )
    return device


def _live(model: torch.nn.Module, tokenizer: Any, layers_path: str | None) -> CausalModel:
    if tokenizer is None:
        raise UsageError("a live model needs its tokenizer", "none was given", "pass tokenizer=...")
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    digest = xxhash.xxh3_128()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    identity = {
        "id": Path(name).name,
        "revision": None,
        "weights": {"live": digest.hexdigest()},
        **_identity(model, tokenizer),
    }
    return CausalModel(
        identity["id"], model.eval(), tokenizer, find_decoder(model, layers_path), identity
    )


def _locate(source: str, revision: str | None) -> tuple[str, Path, str | None]:
    """Return the model's name, the folder with its files, and the commit on the hub."""
    if source in PACKAGED:
        return source, packaged_folder(source), None
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name, path, None
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _from_hub(source, revision)
    known = [*PACKAGED, *(model.id for model in registered())]
    raise ModelError(
        f"unknown model {source!r}",
        f"it is no packaged name, no folder, no owner/name on the hub; {nearest(source, known)}",
        "run: moralprobe models",
    )


def _from_hub(source: str, revision: str | None) -> tuple[str, Path, str | None]:
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        # The configs first: code that would have to be trusted is refused before weights travel.
        small = Path(
            huggingface_hub.snapshot_download(source, revision=revision, allow_patterns="*.json")
        )
        refuse_unsafe(small, weights=False)
        folder = Path(
            huggingface_hub.snapshot_download(
                source, revision=revision, allow_patterns=list(_WANTED)
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"can't fetch {source!r} from the hub",
            str(error).strip().splitlines()[0],
            f"check the name and the network, or fetch it elsewhere with: hf download {source}",
        ) from error
    return source, folder, folder.name


def refuse_unsafe(folder: Path, *, weights: bool = True) -> None:
    """Refuse a folder whose configs would run code, or (`weights`) that has no safetensors."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        if not path.is_file():
            if name == "config.json":
                raise ModelError(f"{folder} holds no model", "there is no config.json", "check it")
            continue
        try:
            config = json.loads(path.read_bytes())
            if not isinstance(config, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise ModelError(f"{path} is no JSON", str(error), "fetch the model again") from error
        for key in _EXECUTABLE:
            if _contains_key(config, key):
                raise ModelError(
                    f"{folder.name} would have to run code of its own",
                    f"{name} has {key!r}",
                    "use a model that transformers knows; foreign code is never trusted here",
                )
    if weights and not list(folder.glob("*.safetensors")):
        unsafe = sorted(p.name for pattern in _UNSAFE for p in folder.glob(pattern))
        raise ModelError(
            f"{folder} holds no safetensors weights",
            f"it holds {', '.join(unsafe)}, and loading these can run code"
            if unsafe
            else "no weight file",
            "convert them once with transformers' save_pretrained, on a machine you trust them on",
        )


def _contains_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_contains_key(v, key) for v in value.values())
    return isinstance(value, list) and any(_contains_key(v, key) for v in value)


def _from_folder(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    weights = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, **options}
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            try:
                model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, **weights)
            except ValueError:  # a multimodal model without a text-only class
                model, info = transformers.AutoModelForImageTextToText.from_pretrained(
                    folder, **weights
                )
        except (
            OSError,
            ValueError,
            KeyError,
            RuntimeError,
            SafetensorError,
            StrictDataclassError,
        ) as error:
            raise ModelError(
                f"transformers can't load {folder}",
                str(error).strip().splitlines()[0],
                "check that the folder holds a causal language model and its tokenizer",
            ) from error
    _refuse_missing(folder, model, info["missing_keys"])
    return model, tokenizer


def _refuse_missing(folder: Path, model: Any, missing: Iterable[str]) -> None:
    """Refuse weights that transformers would fill with random numbers; the head is never read."""
    output = model.get_output_embeddings()
    head = [f"{name}." for name, module in model.named_modules() if module is output]
    absent = sorted(key for key in missing if not key.startswith(tuple(head)))
    if absent:
        raise ModelError(
            f"{folder} lacks weights that its config asks for",
            f"{len(absent)} tensors aren't there, the first: {absent[0]}",
            "fetch the model again: they would be random numbers",
        )


def _hash_weights(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.glob("*.safetensors")):
        # On the hub's cache a weight file is a link to a blob that is named by its SHA-256.
        target = path.resolve().name
        is_blob = path.is_symlink() and len(target) == 64
        hashes[path.name] = target if is_blob else hash_file(path)
    return hashes


def _identity(model: Any, tokenizer: Any) -> dict[str, Any]:
    config = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    spelled = json.loads(json.dumps(config, default=str))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    return {
        "architecture": type(model).__name__,
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "config": xxhash.xxh3_128_hexdigest(canonical_json(spelled)),
        "tokenizer": xxhash.xxh3_128_hexdigest(vocabulary.encode()),
    }
