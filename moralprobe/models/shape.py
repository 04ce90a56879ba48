"""What reading a model costs depends on its sizes alone: they are known without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moralprobe.errors import ModelError, nearest
from moralprobe.models.packaged import PACKAGED, packaged_folder
from moralprobe.models.registry import RegisteredModel
from moralprobe.models.registry import models as registered

if TYPE_CHECKING:
    from torch import nn

    from moralprobe.models.causal import CausalModel
    from moralprobe.models.layers import Decoder


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    `parameters` counts all of them; `block_parameters` has a number a decoder block, of those that
    act on a token: all but those of the experts that a token isn't sent to. `n_heads` and
    `head_dim` are those of the attention's queries. `folder` holds config and tokenizer, where they
    are on this machine.
    """

    id: str
    parameters: int
    block_parameters: tuple[int, ...]
    d_model: int
    n_heads: int
    head_dim: int
    folder: Path | None

    @property
    def n_layers(self) -> int:
        """How many decoder blocks there are."""
        return len(self.block_parameters)


def model_shape(source: str) -> Shape:
    """Return the sizes of a model: from the registry, or from a config on this machine.

    Args:
        source: an id of the registry, `smollm2-135m` or another packaged name, a local folder, or
            an id in the hub's cache. Nothing is fetched.

    Raises:
        ModelError: a model that is none of these, whose config transformers doesn't know, or that
            would have to run code of its own.
    """
    folder = local_folder(source)
    known = {model.id: model for model in registered()}
    if source in known:
        return _registered_shape(known[source], folder)
    if folder is None:
        names = [*known, *PACKAGED]
        raise ModelError(
            f"unknown model {source!r}",
            "it is no model of the registry, no packaged name, no folder, and not in the hub's "
            f"cache; {nearest(source, names)}",
            "run: moralprobe models",
        )
    # An id of the hub keeps its name: its folder's is a commit.
    name = source if source in PACKAGED or not Path(source).is_dir() else folder.resolve().name
    return _local_shape(name, folder)


def local_folder(source: str) -> Path | None:
    """Return the folder with a model's config and tokenizer, or None where it isn't here."""
    from importlib.util import find_spec

    if source in PACKAGED:
        return packaged_folder(source) if find_spec(PACKAGED[source].module) else None
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return None
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                source, allow_patterns="*.json", local_files_only=True
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if (folder / "config.json").is_file() else None


def local_tokenizer(folder: Path) -> Any | None:
    """Return the fast tokenizer in a folder, or None where it holds none that can be loaded."""
    import transformers

    from moralprobe.models.quiet import quiet_transformers

    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError):
            return None
    return tokenizer if getattr(tokenizer, "is_fast", False) else None


def _registered_shape(model: RegisteredModel, folder: Path | None) -> Shape:
    return Shape(
        id=model.id,
        parameters=round(model.parameters_b * 1e9),
        block_parameters=(model.block_parameters,) * model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        head_dim=model.head_dim,
        folder=folder,
    )


def _local_shape(name: str, folder: Path) -> Shape:
    """Build the model without its weights, on torch's meta device, and count."""
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    from moralprobe.models.layers import find_decoder
    from moralprobe.models.quiet import quiet_transformers
    from moralprobe.models.safety import refuse_unsafe

    refuse_unsafe(folder, weights=False)
    with quiet_transformers(), torch.device("meta"):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            try:
                model = transformers.AutoModelForCausalLM.from_config(config)
            except ValueError:  # a multimodal model without a text-only class
                model = transformers.AutoModelForImageTextToText.from_config(config)
        except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
            raise ModelError(
                f"transformers can't build {folder}",
                str(error).strip().splitlines()[0],
                "check that the folder holds the config of a causal language model",
            ) from error
    return _shape(name, model, find_decoder(model), folder)


def shape_of(model: CausalModel) -> Shape:
    """Return the sizes of a model that is loaded."""
    return _shape(model.name, model.model, model.decoder, None)


def _shape(name: str, model: Any, decoder: Decoder, folder: Path | None) -> Shape:
    text = model.config.get_text_config()
    n_heads = int(getattr(text, "num_attention_heads", None) or 0)  # some have no attention
    return Shape(
        id=name,
        parameters=sum(p.numel() for p in model.parameters()),
        block_parameters=tuple(active_parameters(block, text) for block in decoder.layers),
        d_model=decoder.d_model,
        n_heads=n_heads,
        head_dim=int(getattr(text, "head_dim", None) or decoder.d_model // max(1, n_heads)),
        folder=folder,
    )


def active_parameters(block: nn.Module, config: Any) -> int:
    """Return how many of a block's parameters act on a token, by structure.

    Experts are a module whose matrices are stacked, one an expert, or a list of as many modules as
    there are experts. A token is sent to `num_experts_per_tok` of them; routers, experts that all
    tokens share and everything else count whole.
    """
    n_experts: int | None = getattr(config, "num_experts", None) or getattr(
        config, "num_local_experts", None
    )
    total = sum(p.numel() for p in block.parameters())
    if n_experts is None:
        return total
    experts = [m for m in block.modules() if _are_experts(m, n_experts)]
    routed = sum(p.numel() for m in experts for p in m.parameters())
    chosen = int(config.num_experts_per_tok)
    return total - routed + routed * chosen // n_experts


def _are_experts(module: nn.Module, n_experts: int) -> bool:
    own = list(module.parameters(recurse=False))
    stacked = any(p.dim() == 3 and p.shape[0] == n_experts for p in own)
    children = list(module.children())
    listed = len(children) == n_experts > 1 and len({type(child) for child in children}) == 1
    return stacked or (listed and type(module).__name__ == "ModuleList")
