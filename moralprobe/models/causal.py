"""A causal language model with its tokenizer, and what identifies both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from moralprobe.models.layers import Decoder
from moralprobe.models.taps import OnHidden, run_taps
from moralprobe.models.tokens import (
    Batch,
    Encoded,
    PaddingSide,
    chat_frame,
    collate,
    collate_trees,
    encode,
)
from moralprobe.sites import Site

_NAMES = {"id", "revision"}


def differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return in what two models' identities differ; a folder that was renamed is the same model."""
    return sorted(k for k in {*mine, *theirs} - _NAMES if mine.get(k) != theirs.get(k))


@dataclass(frozen=True)
class CausalModel:
    """A transformers model ready to be read.

    `identity` names what the weights, the config and the tokenizer are (see `models.load`); two
    models with equal identities give equal hidden states in the same dtype. `origin` are the
    arguments of `load_model` by which another process loads it; a live model has none.
    """

    name: str
    model: Any
    tokenizer: Any
    decoder: Decoder
    identity: dict[str, Any] = field(repr=False)
    origin: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def n_layers(self) -> int:
        """How many decoder blocks there are."""
        return len(self.decoder.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.decoder.d_model

    @cached_property
    def device(self) -> torch.device:
        """Where token ids go in."""
        device: torch.device = next(self.decoder.embedding.parameters()).device
        return device

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        dtype: torch.dtype = next(self.decoder.embedding.parameters()).dtype
        return dtype

    @property
    def pad_id(self) -> int:
        """The token id that stands at padding; masked, so any valid id will do."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0

    def encode(
        self,
        texts: Sequence[str],
        spans: Sequence[tuple[int, int]],
        *,
        max_tokens: int,
        add_special_tokens: bool = True,
    ) -> list[Encoded]:
        """Tokenize texts; see `models.tokens.encode`."""
        return encode(
            self.tokenizer,
            texts,
            spans,
            max_tokens=max_tokens,
            add_special_tokens=add_special_tokens,
        )

    def chat_frame(self) -> tuple[str, str]:
        """Return what stands around a user's message; see `models.tokens.chat_frame`."""
        return chat_frame(self.tokenizer)

    def collate(self, encoded: Sequence[Encoded], *, side: PaddingSide = "right") -> Batch:
        """Stack token sequences on the model's device."""
        return collate(encoded, pad_id=self.pad_id, side=side, device=self.device)

    def collate_trees(self, blocks: Sequence[Sequence[Encoded]]) -> Batch:
        """Stack sorted texts as trees on the model's device; see `models.tokens.collate_trees`."""
        return collate_trees(blocks, dtype=self.dtype, device=self.device)

    def run_taps(self, batch: Batch, sites: Sequence[Site], on_hidden: OnHidden) -> None:
        """Hand over the states at each site asked for; see `models.taps.run_taps`."""
        run_taps(self.decoder, batch, sites, on_hidden)
