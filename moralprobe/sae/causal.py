"""What a feature does in the model: it is ablated, and a later layer's read-out of its pole moves.

The read-out is a ridge fitted on training texts, of a layer's `mean_unit` states to typicality. An
ablation takes from a layer's states what the feature adds to their reconstruction, and leaves the
rest as it is, the autoencoder's error too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.activations.pooling import weigh
from moralprobe.activations.stream import counting
from moralprobe.errors import DataError, NumericError, UsageError
from moralprobe.geometry.arrays import Floats, Ints
from moralprobe.geometry.association import MIN_ACTIVE
from moralprobe.geometry.draws import Draws, interval
from moralprobe.geometry.readout import readout as fit_readout
from moralprobe.geometry.uncertainty import bootstrap_counts
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.sae.evaluate import edited, of_one_length
from moralprobe.sae.load import LoadedSAE
from moralprobe.sae.text_features import TextFeatures
from moralprobe.sites import Site

_DRAWS: Final = 1000
_LEAST_MOVED: Final = 0.5
"""Share of a feature's texts whose states an ablation must change. Rounding takes a few: a feature
that was barely active in one batch may not be so in another."""


@dataclass(frozen=True)
class Readout:
    """What poles are read out by: a ridge on a layer's states as the model gives them.

    `clean` [texts, d_model] are those states, pooled; `weights` [d_model, poles] give standard
    deviations over held-out texts; `r` [poles] is Pearson's r of read-out and typicality in them:
    where it is low, there is little that a feature could carry.
    """

    layer: int
    clean: NDArray[np.float32]
    weights: NDArray[np.float64]
    r: NDArray[np.float64]


@dataclass(frozen=True)
class CausalScores:
    """How far ablating each feature moves its pole's read-out, each [n] in the features' order.

    `score` is the mean of ablated less clean, in standard deviations of the clean read-out over
    held-out texts: below 0 where a feature carries its pole. `low` and `high` are its 95 % interval
    over the `texts` that it is a mean of. `null_score`, `null_low` and `null_high` are those of the
    matched feature, in its own texts, on the same pole. All are NaN where fewer than `MIN_ACTIVE`
    held-out texts have the feature. `readout` is what poles were read out by.
    """

    score: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    null_score: NDArray[np.float64]
    null_low: NDArray[np.float64]
    null_high: NDArray[np.float64]
    texts: NDArray[np.int64]
    readout: Readout


def causal_scores(
    loaded: LoadedSAE,
    model: CausalModel,
    read: TextFeatures,
    features: Ints,
    poles: Ints,
    others: Ints,
    *,
    n_texts: int = 64,
    seed: int = 0,
    readout_layer: int | None = None,
    readout: Readout | None = None,
    refuse: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CausalScores:
    """Ablate features in held-out texts in which they are active, and read their poles out.

    Args:
        loaded: an autoencoder of token states.
        model: that it was trained on.
        read: from `read_features` of both.
        features: [n] their numbers.
        poles: [n] the pole of each, -1 for none.
        others: [n] a matched feature of each, the null; -1 for none.
        n_texts: in which each is ablated at most.
        seed: of texts, folds and resamples.
        readout_layer: the block whose output is read out; the last, if not given.
        readout: an earlier call's, of the same model and texts, which isn't fitted again.
        refuse: whether a feature whose ablation changes nothing is refused; else it is NaN.
        progress: called with texts read, clean or ablated, and their number.

    Raises:
        UsageError: a layer before the autoencoder's, or that the model doesn't have; no texts.
        DataError: `read` doesn't hold its texts' tokens.
        NumericError: an ablation that changes nothing; NaN or infinity in the states.
    """
    last = model.n_layers - 1 if readout_layer is None else readout_layer
    layer = readout.layer if readout else last
    if not loaded.layer <= layer < model.n_layers:
        raise UsageError(
            f"ablations at {loaded.site} can't be read out at resid_post.{layer}",
            f"the model's layers are 0 to {model.n_layers - 1}",
            f"read out at {loaded.layer} or later",
        )
    if n_texts < 1:
        raise UsageError("a feature is ablated in no text", f"n_texts is {n_texts}", "give some")
    if len(read.encoded) != len(read.texts):
        raise DataError("the tokens of the texts are missing", "", "take what read_features gives")
    samples = _samples(read, [*features, *others], n_texts, seed)
    pairs = [(f, text) for f, texts in samples.items() for text in texts]
    ablated, at = np.array(pairs, np.int64).reshape(-1, 2).T
    step = counting(progress, (0 if readout else len(read.encoded)) + len(at))
    if readout is None:
        clean, _ = _pooled(loaded, model, read.encoded, layer, step=step)
        readout = Readout(layer, clean, *fit_readout(clean, read.moral, read.train, seed))
    again, moved = _pooled(loaded, model, [read.encoded[i] for i in at], layer, ablated, step)
    for f, texts in list(samples.items()):
        if (changed := moved[ablated == f]).mean() >= _LEAST_MOVED:
            continue
        del samples[f]
        if refuse:
            raise NumericError(
                f"ablating feature {f} doesn't change the states at {loaded.site}",
                f"in {(~changed).sum()} of {len(texts)} texts that it is active in",
                "read the features anew with the same model and autoencoder",
            )
    change = (again - readout.clean[at]) @ readout.weights

    def of(f: int, pole: int) -> tuple[float, float, float, int]:
        changes = change[(ablated == f) & moved, pole]
        if f not in samples or pole < 0:
            return np.nan, np.nan, np.nan, 0
        return *_mean(changes, seed), len(changes)

    def of_all(features: Ints) -> NDArray[np.float64]:
        found = [of(int(f), int(k)) for f, k in zip(features, poles, strict=True)]
        return np.array(found, np.float64).reshape(-1, 4).T

    score, low, high, texts_of = of_all(features)
    null, null_low, null_high, _ = of_all(others)
    return CausalScores(
        score, low, high, null, null_low, null_high, texts_of.astype(np.int64), readout
    )


def without(sae: Any, states: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Take a feature's part of the reconstruction from states; no other becomes active instead.

    Args:
        sae: of SAELens.
        states: [texts, tokens, d_in].
        features: [texts] the one of each text.
    """
    x = states.to(sae.device).float()
    of_text = features.to(x.device)
    its = of_text[:, None, None].expand(*x.shape[:2], 1)
    text, token = torch.nonzero(sae.encode(x).gather(-1, its)[..., 0], as_tuple=True)
    active, n = x[text, token], len(text)
    # Decoded at once: a normalising autoencoder knows its inputs' scale for one decoding only.
    acts = sae.encode(torch.cat([active, active]))
    acts[n:] = acts[:n]
    acts[torch.arange(n, 2 * n, device=x.device), of_text[text]] = 0
    decoded = sae.decode(acts).float()
    left, part = states.clone(), decoded[:n] - decoded[n:]
    left[text.to(left.device), token.to(left.device)] = (active - part).to(left)
    return left


def _samples(
    read: TextFeatures, features: Sequence[int], n: int, seed: int
) -> dict[int, NDArray[np.int64]]:
    """Return of each feature at most n held-out texts, evenly from its weakest to its strongest."""
    held = np.flatnonzero(~read.train)
    columns = read.activations[held].tocsc()
    found: dict[int, NDArray[np.int64]] = {}
    for f in sorted({int(f) for f in features if f >= 0}):
        active = columns[:, [f]].toarray().ravel()
        texts = np.argsort(active, kind="stable")
        texts = texts[active[texts] != 0]
        if len(texts) < MIN_ACTIVE:
            continue
        if len(texts) > n:
            start = np.random.default_rng([seed, 9, f]).random()
            texts = texts[((np.arange(n) + start) * len(texts) / n).astype(np.int64)]
        found[f] = held[texts]
    return found


def _mean(values: Floats, seed: int) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval over texts."""
    n = len(values)
    resampled = bootstrap_counts(n, _DRAWS, seed) @ values / n
    draws = Draws(float(values.mean()), resampled, np.empty(0), n)
    return draws.value, *interval(draws)


def _pooled(
    loaded: LoadedSAE,
    model: CausalModel,
    encoded: Sequence[Encoded],
    layer: int,
    ablated: Ints | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return texts' pooled states after a layer, each without a feature, and which have changed."""
    site = Site("resid_post", layer)
    before: list[torch.Tensor] = []  # what the block gave, until it is compared
    pooled = np.empty((len(encoded), model.d_model), np.float32)
    moved = np.zeros(len(encoded), np.bool_)
    order = np.argsort([len(text) for text in encoded], kind="stable")  # as `of_one_length` has it
    rows = order[:0]

    def ablate(states: torch.Tensor) -> torch.Tensor:
        before.append(states)
        return without(loaded.sae, states, torch.as_tensor(ablated)[rows])

    def keep(at: Site, hidden: torch.Tensor) -> None:
        if at == loaded.site and before:
            moved[rows] = (hidden != before.pop()).flatten(1).any(1).cpu().numpy()
        if at == site:
            there, states = batch.to(hidden.device), hidden.float()
            weights = weigh(states.norm(dim=-1), there.mask, there.action, ("mean_unit",))
            pooled[rows] = there.sums(weights, states)[:, 0].cpu().numpy()
            step(len(rows))

    for batch in of_one_length(model, encoded):
        rows, order = order[: len(batch.ids)], order[len(batch.ids) :]
        with edited(model, loaded.layer, None if ablated is None else ablate, loaded.sink_norm):
            model.run_taps(batch, tuple(dict.fromkeys((loaded.site, site))), keep)
    if not np.isfinite(pooled).all():
        raise NumericError(
            f"resid_post.{layer} holds NaN or infinity",
            f"in {(~np.isfinite(pooled).all(1)).sum()} of {len(pooled)} texts",
            "use --dtype bf16 or fp32 on weights made for it, and check the weights",
        )
    return pooled, moved
