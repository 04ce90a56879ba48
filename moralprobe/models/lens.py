"""The same sites through TransformerLens: names both ways, and a bridge around a loaded model.

`resid_post.12` is `blocks.12.hook_out` there, which TransformerLens also calls by its older name,
`blocks.12.hook_resid_post`. Beside the taps this is a second way to the same numbers.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch

from moralprobe.errors import ModelError, UsageError, nearest
from moralprobe.models.causal import CausalModel
from moralprobe.models.taps import OnHidden, handing_over
from moralprobe.models.tokens import Batch
from moralprobe.sites import EMBED, FIRST_INPUT, Site

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_EMBED: Final = ("embed.hook_out", "hook_embed")
# Of each kind of site, the hook of a block: its name, then the older one.
_HOOKS: Final[dict[str, tuple[str, str]]] = {
    "resid_pre": ("hook_in", "hook_resid_pre"),
    "resid_post": ("hook_out", "hook_resid_post"),
}
_KIND_OF: Final = {hook: kind for kind, hooks in _HOOKS.items() for hook in hooks}
_IN_BLOCK: Final = re.compile(r"blocks\.(0|[1-9][0-9]{0,5})\.(\w+)")


def hook_name(site: Site) -> str:
    """Return what TransformerLens calls a site, for example `blocks.12.hook_out`.

    Args:
        site: any that a model has.

    Returns:
        The name, which `run_with_cache` and `run_with_hooks` of a bridge take.
    """
    if site.layer is None:
        return _EMBED[0]
    return f"blocks.{site.layer}.{_HOOKS[site.kind][0]}"


def site_of(hook_name: str) -> Site:
    """Return the site that TransformerLens calls by this name, the present or the older one.

    Args:
        hook_name: `blocks.12.hook_out`, `blocks.12.hook_resid_post`, `hook_embed` and the like.

    Returns:
        The site; `hook_name` of it is the present name.

    Raises:
        UsageError: a hook that is no site, with the nearest that is.
    """
    if hook_name in _EMBED:
        return EMBED
    match = _IN_BLOCK.fullmatch(hook_name)
    if match is not None and match[2] in _KIND_OF:
        return Site(_KIND_OF[match[2]], int(match[1]))
    layer = match[1] if match is not None else "0"
    known = [*_EMBED, *(f"blocks.{layer}.{hook}" for hook in _KIND_OF)]
    raise UsageError(
        f"{hook_name!r} is no site",
        "sites are the embeddings and what enters and leaves a block",
        nearest(hook_name, known),
    )


def bridge_of(model: CausalModel) -> TransformerBridge:
    """Return TransformerLens' bridge around a model that is loaded already.

    Nothing is downloaded, folded or centred: the bridge gives the numbers of transformers. It puts
    modules of its own into the network that it wraps, and may choose another way to compute
    attention, so it gets a copy of the network's structure and config over the same weights. The
    model stays as it is; of the weights only queries, keys and values that lie in one matrix (as in
    GPT-2) are split into copies. The bridge tokenizes as the model's tokenizer does: it puts no
    token in front that the tokenizer doesn't put there.

    Args:
        model: on one device.

    Returns:
        A `TransformerBridge` without compatibility mode.

    Raises:
        UsageError: TransformerLens isn't installed.
        ModelError: an architecture that it doesn't know, or a model spread over devices.
    """
    if find_spec("transformer_lens") is None:
        raise UsageError(
            "the bridge needs TransformerLens",
            "it isn't installed",
            "pip install 'transformer-lens>=3.9,<4'",
        )
    architecture = type(model.model).__name__
    devices = {str(parameter.device) for parameter in model.model.parameters()}
    if len(devices) != 1 or any(hasattr(m, "_hf_hook") for m in model.model.modules()):
        raise ModelError(
            f"{model.name} can't be bridged where it lies",
            f"its weights are moved between or spread over {', '.join(sorted(devices))}",
            "load it on one device, or read it with run_taps",
        )
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    network = _over_the_same_weights(model.model)
    # Not by TransformerBridge.boot_transformers: it fetches the tokenizer again by its name, with
    # another token in front, and installs packages for models that also see.
    try:
        bridge = build_bridge_from_module(
            network, architecture, hf_config=network.config, model_name=model.name
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"TransformerLens can't bridge {architecture}",
            str(error).strip().split("\n")[0] or type(error).__name__,
            "read it with run_taps, which needs no list of architectures",
        ) from error
    _refuse_other_blocks(bridge, model)
    _tokenize_alike(bridge, model.tokenizer)
    return bridge


def run_bridge(
    bridge: TransformerBridge, batch: Batch, sites: Sequence[Site], on_hidden: OnHidden
) -> None:
    """Run a bridge on a batch and hand over the states at each site asked for, as they pass.

    As `models.taps.run_taps`, which see: nothing runs after the last site asked for.

    Args:
        bridge: from `bridge_of`.
        batch: token ids [batch, tokens]; padding may stand on either side.
        sites: each once; layers are counted from 0.
        on_hidden: called with the site and its states [batch, tokens, d_model]: read, don't write.

    Raises:
        UsageError: a batch whose texts share their beginnings.
        ModelError: a hook that didn't fire exactly once, or didn't give [batch, tokens, d_model].
    """
    if batch.tree is not None:
        raise UsageError(
            "a bridge can't read texts that share their beginnings",
            "it derives positions from a mask of two dimensions",
            "collate the texts instead of their trees",
        )
    # The bridge derives positions from the mask by itself.
    mask = {"attention_mask": batch.mask.long()} if batch.padded else {}
    names = {hook_name(site) for site in sites}
    with handing_over(int(bridge.cfg.d_model), batch, sites, on_hidden) as read:

        def hook(states: object, hook: Any) -> None:
            read(site_of(hook.name), states)

        # One function for all: the bridge looks its hooks up anew for every entry.
        with torch.inference_mode(), bridge.hooks(fwd_hooks=[(names.__contains__, hook)]):
            bridge.forward(batch.ids, return_type=None, use_cache=False, **mask)


def _over_the_same_weights(network: torch.nn.Module) -> Any:
    """Return a copy of the modules and the config that shares every tensor."""
    tensors = chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _refuse_other_blocks(bridge: TransformerBridge, model: CausalModel) -> None:
    wanted = [EMBED, FIRST_INPUT, *(Site("resid_post", layer) for layer in range(model.n_layers))]
    hooks = bridge.hook_dict
    beyond = Site("resid_post", model.n_layers)
    if hook_name(beyond) in hooks or any(hook_name(site) not in hooks for site in wanted):
        raise ModelError(
            f"TransformerLens reads other blocks of {model.name}",
            f"this model's {model.n_layers} are at {model.decoder.layers_path}",
            "read it with run_taps",
        )


def _tokenize_alike(bridge: TransformerBridge, tokenizer: Any) -> None:
    """Give a bridge the model's tokenizer, in a copy that it may set up."""
    from transformer_lens.model_bridge.sources import detect_tokenizer_bos_eos

    own = copy.deepcopy(tokenizer)
    if own.pad_token is None:
        own.pad_token = own.eos_token
    bridge.tokenizer = own
    config = bridge.cfg
    config.tokenizer_prepends_bos, config.tokenizer_appends_eos = detect_tokenizer_bos_eos(own)
    config.default_prepend_bos = config.tokenizer_prepends_bos
