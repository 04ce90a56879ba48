"""How good an autoencoder is: what it leaves unexplained, what is active, what the model loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch.nn.functional import cross_entropy

from moralprobe.activations.distinct import Tokens
from moralprobe.activations.stream import read_tokens
from moralprobe.errors import DataError
from moralprobe.models.causal import CausalModel
from moralprobe.models.edits import edited_blocks
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.sae.load import LoadedSAE, check_belongs, check_fits

DENSE: Final = 0.1
"""A feature is dense that is active at more than this share of tokens."""
_ROWS: Final = 4096
_AT_ONCE: Final = 64  # texts of one length that are read together


@dataclass(frozen=True)
class Reconstruction:
    """How an autoencoder reconstructs some activations.

    `explained_variance` is 1 - sum |x - x'|^2 / sum |x - mean x|^2; `l0` the mean number of active
    features; `dead` and `dense` are shares of features that were active never and at more than
    `DENSE` of the activations; `cosine` is the mean cosine of x and x', `norm_ratio` the mean of
    |x'| / |x|. `density` [d_sae] is the share of activations at which each feature is active.
    """

    n: int
    explained_variance: float
    l0: float
    dead: float
    dense: float
    cosine: float
    norm_ratio: float
    density: torch.Tensor


@torch.no_grad()
def reconstruction(sae: Any, states: torch.Tensor) -> Reconstruction:
    """Measure an autoencoder on activations, [n, d_in]."""
    mean = states.double().mean(0)
    left = varies = cosine = ratio = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device=sae.device)
    for at in range(0, len(states), _ROWS):
        x = states[at : at + _ROWS].to(sae.device).float()
        acts = sae.encode(x)
        out = sae.decode(acts).float()
        left += float((x - out).double().pow(2).sum())
        varies += float((x.double() - mean.to(x.device)).pow(2).sum())
        cosine += float(torch.cosine_similarity(x, out, dim=-1).double().sum())
        ratio += float((out.norm(dim=-1) / x.norm(dim=-1)).double().sum())
        fired += (acts != 0).sum(0)
    n = len(states)
    density = (fired / n).float().cpu()
    return Reconstruction(
        n=n,
        explained_variance=1 - left / varies,
        l0=float(density.double().sum()),
        dead=float((density == 0).double().mean()),
        dense=float((density > DENSE).double().mean()),
        cosine=cosine / n,
        norm_ratio=ratio / n,
        density=density,
    )


@dataclass(frozen=True)
class Loss:
    """Mean cross-entropy of next tokens, in nats, with the residual stream as it is or replaced.

    Replaced are the states of all tokens but sinks, which no autoencoder of ours has seen: by their
    reconstruction (`spliced`), by zeros, by their mean. A loss recovered is 1 where the
    reconstruction costs nothing, and 0 where it is no better than the ablation.
    """

    tokens: int
    clean: float
    spliced: float
    zero: float
    mean: float

    @property
    def recovered_from_zero(self) -> float:
        """(zero - spliced) / (zero - clean)."""
        return (self.zero - self.spliced) / (self.zero - self.clean)

    @property
    def recovered_from_mean(self) -> float:
        """(mean - spliced) / (mean - clean)."""
        return (self.mean - self.spliced) / (self.mean - self.clean)


@dataclass(frozen=True)
class Evaluation:
    """An autoencoder on tokens: how it reconstructs them, and what the model loses by that.

    `sinks` is the share of tokens that were left out beside every text's token 0, as their norm is
    a sink's; `warnings` say where it differs from what it was trained for; the loss is of `texts`.
    Of a pooled autoencoder `reconstruction` is of pooled vectors, and `at_tokens` is the variance
    that it explains of single tokens.
    """

    reconstruction: Reconstruction
    loss: Loss
    sinks: float
    warnings: tuple[str, ...]
    texts: list[Encoded]
    at_tokens: float | None = None


def evaluate(
    loaded: LoadedSAE, model: CausalModel, tokens: Tokens, *, n_texts: int = 2000
) -> Evaluation:
    """Judge an autoencoder on tokens that it wasn't trained on.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        tokens: the held-out part of what `sae.tokens.read_texts` gives.
        n_texts: the loss is measured on so many of their texts at most, evenly spread.

    Raises:
        ModelError: an autoencoder of another width, layer or model, or one that reconstructs worse
            than the mean.
        DataError: no text.
    """
    if not tokens.encoded:
        raise DataError("there is no text to judge by", "nothing is held out", "give more texts")
    warnings = check_belongs(loaded, model)
    states = read_tokens(model, tokens, [loaded.layer])[loaded.layer]
    limit = loaded.sink_norm
    kept = states[states.float().norm(dim=-1) <= limit]
    found = reconstruction(loaded.sae, kept)
    warnings += check_fits(loaded, found.explained_variance)
    some, mean = spread(tokens.encoded, n_texts), kept.float().mean(0)
    loss = loss_recovered(loaded.sae, model, some, loaded.layer, mean=mean, limit=limit)
    return Evaluation(found, loss, 1 - len(kept) / len(states), tuple(warnings), some)


def spread(encoded: Sequence[Encoded], n: int) -> list[Encoded]:
    """Return at most n texts, evenly spread."""
    n = min(n, len(encoded))
    return [encoded[i * len(encoded) // n] for i in range(n)]


Edit = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def loss_recovered(
    sae: Any,
    model: CausalModel,
    encoded: Sequence[Encoded],
    layer: int,
    *,
    mean: torch.Tensor,
    limit: float = math.inf,
) -> Loss:
    """Measure what the model loses where a layer's output is replaced.

    Args:
        sae: of that layer.
        model: with its language-model head.
        encoded: texts as tokens; two at least.
        layer: the decoder block whose output is replaced, counted from 0.
        mean: of the layer's states, [d_model].
        limit: the norm above which a token is a sink, and stays as it is.
    """

    def splice(states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = sae.decode(sae.encode(states.to(sae.device).float()))
        return out.to(states)

    edits: dict[str, Edit | None] = {
        "clean": None,
        "spliced": splice,
        "zero": torch.zeros_like,
        "mean": lambda states: mean.to(states).expand_as(states),
    }
    sums = dict.fromkeys(edits, 0.0)
    n = 0
    for batch in of_one_length(model, encoded):
        targets = batch.ids[:, 1:].flatten()
        n += len(targets)
        for name, edit in edits.items():
            with edited(model, layer, edit, limit):
                logits = model.model(input_ids=batch.ids, use_cache=False).logits
            predicted = logits[:, :-1].float().flatten(0, 1)
            sums[name] += float(cross_entropy(predicted, targets, reduction="sum").double())
    return Loss(tokens=n, **{name: value / n for name, value in sums.items()})


@contextmanager
def edited(
    model: CausalModel, layer: int, edit: Edit | None, limit: float = math.inf
) -> Iterator[None]:
    """Replace a decoder block's output within the `with`, at every token but sinks."""
    if edit is None:
        yield
        return

    def splice(states: torch.Tensor) -> torch.Tensor:
        sink = states.float().norm(dim=-1, keepdim=True) > limit
        sink[:, 0] = True
        return torch.where(sink, states, edit(states))

    with edited_blocks(model.decoder, {layer: splice}):
        yield


def of_one_length(model: CausalModel, encoded: Sequence[Encoded]) -> Iterator[Batch]:
    """Yield batches of texts of one length: nothing is padded."""
    for _, group in groupby(sorted(encoded, key=len), key=len):
        texts = list(group)
        for at in range(0, len(texts), _AT_ONCE):
            yield model.collate(texts[at : at + _AT_ONCE])
