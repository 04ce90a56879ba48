"""How good an autoencoder of pooled vectors is: of those, and of the single tokens of steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from moralprobe.activations.distinct import Tokens
from moralprobe.activations.job import encode_texts, prompt_of
from moralprobe.activations.stream import read_tokens, sink_limits
from moralprobe.data.texts import Texts
from moralprobe.errors import DataError
from moralprobe.models.causal import CausalModel
from moralprobe.sae.evaluate import Evaluation, loss_recovered, reconstruction, spread
from moralprobe.sae.load import LoadedSAE, check_belongs, check_fits
from moralprobe.sae.pooled import (
    ACTIVATIONS,
    HELD,
    TRAIN,
    UNIT_NORM,
    check_read_alike,
    one_path,
    pooled_states,
    pooled_store,
    rows_of,
)
from moralprobe.sae.tokens import hashes_of, options_of


def held_out_of(
    model: CausalModel, loaded: LoadedSAE, paths: Sequence[str] | None = None
) -> tuple[torch.Tensor, Tokens]:
    """Return the pooled vectors and the tokens that a pooled autoencoder may be judged by.

    Of its own texts those of the splits that it wasn't trained on, of others all.

    Args:
        model: from `load_model`.
        loaded: a pooled autoencoder.
        paths: another store or table than its own.

    Raises:
        ModelError: a store of another model, template or length.
        As `extract`.
    """
    options = options_of(loaded, paths)
    one_path(options)
    metadata = loaded.sae.cfg.metadata
    known = set((metadata.text_hashes or {}).values())
    own = paths is None or bool(known & set(hashes_of(options.paths).values()))
    kept = [folder / ACTIVATIONS for folder in (loaded.folder, loaded.folder.parent)]
    there = next((folder for folder in kept if own and folder.is_dir()), None)
    if there is not None:  # opened as it is: it may hold more layers, or be another device's
        options = replace(options, paths=(str(there),))
    splits = HELD if own else (*TRAIN, *HELD)
    with pooled_store(model, options, [loaded.layer], metadata.pooling) as store:
        check_read_alike(store, options)
        states = pooled_states(
            store, loaded.layer, metadata.pooling, splits, by_row=bool(metadata.by_row)
        )
        frame = store.vectors().frame
    actions = Texts(rows_of(frame, splits, by_row=False)["action"].to_list())
    template = prompt_of(options.template, model.tokenizer)
    encoded = encode_texts(model.tokenizer, actions, template, options.max_tokens)[1]
    return states, Tokens.distinct(encoded)


class _AtTokens:
    """A pooled autoencoder where it would be used: at single tokens, on the scale that it knows.

    What is pooled as `mean_unit` has states of unit norm: there a token's state is divided by its
    norm, and its reconstruction multiplied.
    """

    def __init__(self, sae: Any, *, unit: bool) -> None:
        self.cfg, self.device = sae.cfg, sae.device
        self._sae, self._unit = sae, unit
        self._norm: torch.Tensor | float = 1.0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        if self._unit:
            self._norm = x.norm(dim=-1, keepdim=True)
        acts: torch.Tensor = self._sae.encode(x / self._norm)
        return acts

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._sae.decode(acts) * self._norm
        return out


def evaluate_pooled(
    loaded: LoadedSAE,
    model: CausalModel,
    states: torch.Tensor,
    tokens: Tokens,
    *,
    n_texts: int = 2000,
) -> Evaluation:
    """Judge a pooled autoencoder on pooled vectors, and where it would be used: at every token.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        states: [n, d_model] pooled vectors that it wasn't trained on.
        tokens: of the same texts.
        n_texts: the loss is measured on so many texts at most, evenly spread.

    Raises:
        ModelError: an autoencoder of another width, layer or model, or one that reconstructs these
            vectors worse than the mean.
        DataError: no text.
    """
    if not tokens.encoded:
        raise DataError("there is no text to judge by", "nothing is held out", "give more texts")
    warnings = check_belongs(loaded, model)
    found = reconstruction(loaded.sae, states)
    warnings += check_fits(loaded, found.explained_variance)
    single = read_tokens(model, tokens, [loaded.layer])[loaded.layer]
    limit = sink_limits(model, tokens, [loaded.layer])[loaded.layer]
    kept = single[single.float().norm(dim=-1) <= limit]
    sae = _AtTokens(loaded.sae, unit=loaded.sae.cfg.metadata.pooling in UNIT_NORM)
    some, mean = spread(tokens.encoded, n_texts), kept.float().mean(0)
    loss = loss_recovered(sae, model, some, loaded.layer, mean=mean, limit=limit)
    at_tokens = reconstruction(sae, kept).explained_variance
    sinks = 1 - len(kept) / len(single)
    return Evaluation(found, loss, sinks, tuple(warnings), some, at_tokens)
