"""How active features are in every text of a table, and what else is known of the texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from moralprobe.activations.text_states import rows_of_split, table_texts, text_states
from moralprobe.data import lexicon
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae.load import LoadedSAE, check_belongs, check_fits, check_same_states
from moralprobe.sae.published import CHOSEN_ON

_ROWS: Final = 4096


@dataclass(frozen=True)
class TextFeatures:
    """A table's distinct texts, and how active each feature is in each.

    `activations` [texts, features] are means over tokens, of a pooled autoencoder those of the
    pooled vectors; `random` and `untaught` those of a random dictionary and of an autoencoder of
    shuffled activations, if one is given; `moral` [texts, 10] are mean moral vectors; `covariates`
    [texts, any] and their `names` are what else is known of a text; `train` says which texts
    features are chosen by; `dev_text` [rows] and `dev_moral` [rows, 10] are the rows that they are
    chosen by as published, of which text each is and its own moral vector; `encoded` are the texts'
    tokens, and `random_sae` is the random dictionary.
    """

    texts: list[str]
    activations: sparse.csr_array
    random: sparse.csr_array
    moral: NDArray[np.float64]
    covariates: NDArray[np.float64]
    names: tuple[str, ...]
    train: NDArray[np.bool_]
    dev_text: NDArray[np.int64]
    dev_moral: NDArray[np.float64]
    explained_variance: float
    warnings: tuple[str, ...]
    untaught: sparse.csr_array | None = None
    encoded: tuple[Encoded, ...] = ()
    random_sae: Any = None


def read_features(
    loaded: LoadedSAE,
    model: CausalModel,
    vectors: MoralVectors,
    *,
    pooled: Callable[[list[str]], torch.Tensor] | None = None,
    null: LoadedSAE | None = None,
    seed: int = 0,
    reading: Callable[[int, int], None] = lambda done, total: None,
) -> TextFeatures:
    """Read the features of every distinct text of a table, and of a random dictionary beside them.

    The random dictionary has as many unit directions, drawn anew, and as many active at once.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        vectors: the table; texts that differ in case or blanks alone count once.
        pooled: gives the pooled vectors of texts; of a pooled autoencoder alone.
        null: an autoencoder of shuffled activations of the same layer.
        seed: of the random dictionary.
        reading: called while the model reads, with tokens read and their number.

    Raises:
        ModelError: an autoencoder of another width, layer or model, or one that doesn't fit.
        DataError: no text can be read.
    """
    warnings = check_belongs(loaded, model)
    if null is not None:
        check_same_states(loaded, null, shuffled=True)
    metadata = loaded.sae.cfg.metadata
    table = table_texts(model, vectors, template=metadata.template or "action-is-morally")
    texts = table.texts
    if pooled is None:
        read = text_states(model, table, loaded.layer, sink_norm=loaded.sink_norm, reading=reading)
        states, kept, means = read.states, read.kept, read.means
    else:
        states = pooled(texts)
        kept = np.ones(len(texts), np.bool_)
        means = sparse.eye_array(len(texts), format="csr", dtype=np.float32)
    activations, explained = _encode(loaded.sae, states, kept)
    warnings += check_fits(loaded, explained)
    active = round(activations.nnz / max(1, int(kept.sum())))
    random_sae = _random_twin(loaded.sae, active, seed)
    random, _ = _encode(random_sae, states, kept)
    untaught = None
    if null is not None:
        untaught = sparse.csr_array(means @ _encode(null.sae, states, kept)[0])
    dev_text, dev_moral = rows_of_split(table, vectors, CHOSEN_ON)
    covariates, names = _covariates(texts, np.array([len(text) for text in table.encoded]))
    return TextFeatures(
        texts=texts,
        activations=sparse.csr_array(means @ activations),
        random=sparse.csr_array(means @ random),
        moral=table.moral,
        covariates=covariates,
        names=names,
        train=table.split == "train",
        dev_text=dev_text,
        dev_moral=dev_moral,
        explained_variance=explained,
        warnings=tuple(warnings),
        untaught=untaught,
        encoded=table.encoded,
        random_sae=random_sae,
    )


def _encode(
    sae: Any, states: torch.Tensor, kept: NDArray[np.bool_]
) -> tuple[sparse.csr_array, float]:
    """Return every token's features, none at sinks, and the variance explained at the others."""
    parts: list[sparse.csr_array] = []
    left, total, squares, n = 0.0, torch.zeros(states.shape[1]).double(), 0.0, 0
    with torch.no_grad():
        for at in range(0, len(states), _ROWS):
            x = states[at : at + _ROWS].to(sae.device).float()
            mask = torch.from_numpy(kept[at : at + _ROWS]).to(x.device)
            acts = sae.encode(x) * mask[:, None]
            missing = (x - sae.decode(acts))[mask].double()
            x = x[mask].double().cpu()
            left += float(missing.pow(2).sum())
            total, squares, n = total + x.sum(0), squares + float(x.pow(2).sum()), n + len(x)
            parts.append(sparse.csr_array(acts.float().cpu().numpy()))
    variance = squares - float(total.pow(2).sum()) / n
    return sparse.csr_array(sparse.vstack(parts)), 1 - left / variance


def _random_twin(sae: Any, k: int, seed: int) -> Any:
    from sae_lens import TopKSAE, TopKSAEConfig

    cfg = sae.cfg
    twin = TopKSAE(TopKSAEConfig(d_in=cfg.d_in, d_sae=cfg.d_sae, k=max(1, k)))
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        twin.W_dec.copy_(directions)
        twin.W_enc.copy_(directions.T)
        twin.b_dec.copy_(sae.b_dec.detach().cpu())
    twin.cfg.metadata.sink_norm = sae.cfg.metadata.sink_norm
    return twin.to(device=str(sae.device))


def _covariates(
    texts: list[str], n_tokens: NDArray[np.integer]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    columns = {"length": n_tokens.astype(np.float64), "inverse length": 1 / n_tokens}
    if not lexicon.missing():
        columns["valence"] = lexicon.valence(texts).astype(np.float64)
        frequency = lexicon.log_frequency(texts).astype(np.float64)
        columns["word frequency"] = np.where(np.isnan(frequency), np.nanmean(frequency), frequency)
    return np.column_stack(list(columns.values())), tuple(columns)
