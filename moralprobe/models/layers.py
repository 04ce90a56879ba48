"""Find a model's decoder blocks by structure, not by a list of model names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from moralprobe.errors import ModelError, nearest


@dataclass(frozen=True)
class Decoder:
    """A model's text decoder: `module` runs embeddings, blocks and final norm, without the head.

    `layers` are the blocks in order, at the dotted path `layers_path`.
    """

    module: nn.Module
    path: str
    layers: nn.ModuleList
    layers_path: str
    d_model: int
    final_norm: nn.Module | None
    embedding: nn.Module


def find_decoder(model: Any, layers_path: str | None = None) -> Decoder:
    """Return the decoder whose blocks a model runs through.

    The blocks are the one list of as many modules of one class as the text config has layers, in a
    module that owns the input embedding too: a vision tower of the same depth owns none.

    Args:
        model: a transformers model.
        layers_path: dotted path of the list, where structure doesn't settle it.

    Raises:
        ModelError: no such list, several, or a path that leads to none.
    """
    lists = {path: m for path, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    embedding = model.get_input_embeddings()
    if layers_path is None:
        wanted = int(model.config.get_text_config().num_hidden_layers)
        found = [
            path
            for path, blocks in lists.items()
            if len(blocks) == wanted
            and len({type(block) for block in blocks}) == 1
            and any(child is embedding for child in _parent(model, path).children())
        ]
        if len(found) != 1:
            raise ModelError(
                f"can't tell which modules of {type(model).__name__} are its decoder blocks",
                f"candidates: {', '.join(found or lists) or 'none'}",
                "name the list with layers_path (--layers-path)",
            )
        layers_path = found[0]
    elif layers_path not in lists:
        raise ModelError(
            f"{type(model).__name__} has no list of modules at {layers_path!r}",
            nearest(layers_path, lists),
            "give the dotted path of one of these",
        )
    module = _parent(model, layers_path)
    return Decoder(
        module=module,
        path=layers_path.rpartition(".")[0],
        layers=lists[layers_path],
        layers_path=layers_path,
        d_model=int(model.config.get_text_config().hidden_size),
        final_norm=_final_norm(module, lists[layers_path]),
        embedding=embedding,
    )


def _parent(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path.rpartition(".")[0])


def _final_norm(module: nn.Module, blocks: nn.ModuleList) -> nn.Module | None:
    """Return the one norm that stands beside the blocks and after them, if there is one."""

    def norms(children: Iterator[nn.Module]) -> list[nn.Module]:
        return [child for child in children if "norm" in type(child).__name__.lower()]

    children = list(module.children())
    after = norms(iter(children[children.index(blocks) + 1 :]))
    found = after or norms(iter(children))
    return found[-1] if found else None
