"""The only factory of models: an id on the hub, a local folder, packaged weights, a live model."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import torch
import xxhash

from moralprobe.errors import ModelError, UsageError, nearest
from moralprobe.files import canonical_json, hash_file
from moralprobe.models.causal import CausalModel
from moralprobe.models.layers import find_decoder
from moralprobe.models.packaged import PACKAGED, packaged_folder
from moralprobe.models.quiet import quiet_transformers
from moralprobe.models.registry import models as registered
from moralprobe.models.safety import WEIGHTS, missing_weights, refuse_unsafe

Dtype = Literal["auto", "bf16", "fp32"]
AUTO: Final = "auto"
DTYPES: Final[dict[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp32": torch.float32}

_WANTED: Final = ("*.json", "*.jinja", "*.model", "*.txt")
SPREAD: Final = "spread"
UNTRAINED_SEED: Final = 0
"""Of the weights that an untrained twin is drawn with."""
# What a config says of its history rather than of the network.
_VOLATILE: Final = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def load_model(
    source: str | Path | Any,
    *,
    tokenizer: Any = None,
    dtype: str = AUTO,
    device: str = "auto",
    revision: str | None = None,
    layers_path: str | None = None,
    untrained: bool = False,
) -> CausalModel:
    """Load a causal language model, ready to be read.

    Its untrained twin has the same architecture, config and tokenizer, and weights drawn anew by
    the config's own initialiser with a fixed seed: what the architecture gives without training.

    Args:
        source: `smollm2-135m` or another packaged name, a local folder, an id on the hub, or a live
            transformers model (then `tokenizer` is needed and `dtype`, `device` are its own).
        tokenizer: the tokenizer of a live model.
        dtype: `bf16` or `fp32`; `auto` is what `choose_dtype` takes. fp16 isn't offered: attention
            sinks overflow it.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1` or `mps`; `spread` puts
            the layers on all GPUs of this machine, one after another, for a model that no single
            one holds.
        revision: a commit, branch or tag on the hub.
        layers_path: dotted path of the list of decoder blocks, where it isn't found.
        untrained: load the twin instead, named "<id> (untrained)"; the weights aren't read, and on
            the hub not fetched. Not for a live model.

    Raises:
        ModelError: not found, not downloadable, in an unsafe format, or in need of foreign code.
        UsageError: an unknown dtype or device, or the twin of a live model.
    """
    if isinstance(source, torch.nn.Module):
        if untrained:
            raise UsageError(
                "a live model has no untrained twin",
                "it is read as it is",
                "give its folder or id, or draw it yourself: type(model)(model.config)",
            )
        return _live(source, tokenizer, layers_path)
    place = None if device == SPREAD else choose_device(device)
    dtype = choose_dtype(dtype, place or choose_device())
    if place is None and untrained:
        raise UsageError(
            "an untrained twin is drawn on one device",
            f"asked for is {device!r}",
            "name the device",
        )
    name, folder, commit = _locate(str(source), revision, weights=not untrained)
    refuse_unsafe(folder, weights=not untrained)
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if place is None:
        options["device_map"] = "auto"
    model, loaded_tokenizer = _from_folder(folder, options, untrained)
    if untrained:
        name = f"{name} (untrained)"
        weights = {f"drawn with seed {UNTRAINED_SEED}": _hash_state(model)}
    else:
        weights = _hash_weights(folder)
    model = (model if place is None else model.to(place)).eval()
    identity = {
        "id": name,
        "revision": commit,
        "weights": weights,
        **_identity(model, loaded_tokenizer),
    }
    origin = {
        "source": str(source),
        "dtype": dtype,
        "revision": commit or revision,
        "layers_path": layers_path,
        "untrained": untrained,
    }
    decoder = find_decoder(model, layers_path)
    return CausalModel(name, model, loaded_tokenizer, decoder, identity, origin)


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
            "write auto, cpu, cuda, cuda:1, mps or spread",
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


def choose_dtype(name: str, device: torch.device | str) -> str:
    """Return the name of the dtype that a model is read in; `auto` takes bf16 where it is faster.

    A processor without instructions for bf16 multiplies it slower than fp32, by far (`moralprobe
    doctor` measures both), so `auto` is fp32 there.

    Args:
        name: `auto`, `bf16` or `fp32`.
        device: where the model is read.

    Raises:
        UsageError: another name.
    """
    if name == AUTO:
        on_cpu = torch.device(device).type == "cpu"
        return "fp32" if on_cpu and not _cpu_has_bf16() else "bf16"
    if name not in DTYPES:
        known = (AUTO, *DTYPES)
        raise UsageError(f"unknown dtype {name!r}", nearest(name, known), "choose one of these")
    return name


def _cpu_has_bf16() -> bool:
    """Say if the processor has instructions that multiply bf16.

    oneDNN says yes for every AVX-512, where it only spares memory; on Arm its word is good.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    # A build without oneDNN, as those for macOS, hasn't even the question.
    return bool(torch.backends.mkldnn.is_available()) and bool(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _live(model: torch.nn.Module, tokenizer: Any, layers_path: str | None) -> CausalModel:
    if tokenizer is None:
        raise UsageError("a live model needs its tokenizer", "none was given", "pass tokenizer=...")
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    identity = {
        "id": Path(name).name,
        "revision": None,
        "weights": {"live": _hash_state(model)},
        **_identity(model, tokenizer),
    }
    return CausalModel(
        identity["id"], model.eval(), tokenizer, find_decoder(model, layers_path), identity
    )


def _locate(source: str, revision: str | None, *, weights: bool) -> tuple[str, Path, str | None]:
    """Return the model's name, the folder with its files, and the commit on the hub."""
    if source in PACKAGED:
        return source, packaged_folder(source), None
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name, path, None
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _from_hub(source, revision, weights=weights)
    known = [*PACKAGED, *(model.id for model in registered())]
    raise ModelError(
        f"unknown model {source!r}",
        f"it is no packaged name, no folder, no owner/name on the hub; {nearest(source, known)}",
        "run: moralprobe models",
    )


def _from_hub(source: str, revision: str | None, *, weights: bool) -> tuple[str, Path, str | None]:
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
        wanted = [*_WANTED, WEIGHTS] if weights else list(_WANTED)
        folder = Path(
            huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=wanted)
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"can't fetch {source!r} from the hub",
            str(error).strip().splitlines()[0],
            f"check the name and the network, or fetch it elsewhere with: hf download {source}",
        ) from error
    if weights and (absent := missing_weights(folder)):
        raise ModelError(
            f"the copy of {source!r} in the hub's cache is not whole",
            f"{absent[0]} isn't in it",
            f"fetch it where there is a network: hf download {source}",
        )
    return source, folder, folder.name


def _from_folder(folder: Path, chosen: dict[str, Any], untrained: bool) -> tuple[Any, Any]:
    """Return model and tokenizer, with the weights that lie there or with fresh ones."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    make = _fresh if untrained else _pretrained
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            try:
                model = make(transformers.AutoModelForCausalLM, folder, chosen, options)
            except ValueError:  # a multimodal model without a text-only class
                model = make(transformers.AutoModelForImageTextToText, folder, chosen, options)
        except (
            ImportError,  # a config that needs a library for its attention or its quantisation
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
    return model, tokenizer


def _pretrained(kind: Any, folder: Path, chosen: dict[str, Any], options: dict[str, Any]) -> Any:
    model, info = kind.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, **chosen, **options
    )
    if "device_map" in chosen:
        _refuse_offloaded(folder, getattr(model, "hf_device_map", {}))
    _refuse_missing(folder, model, info["missing_keys"])
    return model


def _refuse_offloaded(folder: Path, places: dict[str, Any]) -> None:
    """Refuse a model whose weights would travel from disk or host for every batch."""
    where = {str(place) for place in places.values()}
    away = where & ({"disk", "cpu"} if torch.cuda.is_available() else {"disk"})
    if away:
        raise ModelError(
            f"{folder.name} doesn't fit into the memory of this machine's devices",
            f"some of its layers would lie on {' and '.join(sorted(away))}",
            "use more or larger GPUs; moralprobe plan says how many",
        )


def _fresh(kind: Any, folder: Path, chosen: dict[str, Any], options: dict[str, Any]) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, **options)
    # In the dtype asked for, as a checkpoint is read: buffers keep the precision that they need.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return kind.from_config(config, trust_remote_code=False, **chosen)


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


def _hash_state(model: torch.nn.Module) -> str:
    digest = xxhash.xxh3_128()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_weights(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.glob(WEIGHTS)):
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
