"""Where a sentence lies among the ten categories: at every layer, in both modes, steered or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.activations.job import MAX_TOKENS, encode_texts, prompt_of
from moralprobe.activations.pooling import SINK_FACTOR, sink_report
from moralprobe.activations.text_states import table_texts
from moralprobe.data.texts import Texts
from moralprobe.foundations import POLES
from moralprobe.geometry.categories import centres, likeness, plane
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sites import Site
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.survival import steered_states
from moralprobe.web import schemas

TEMPLATE: Final = "action-is-morally"
POOLINGS: Final[Mapping[str, str]] = {"li2026": "mean", "audited": "mean_unit"}
MOST: Final = 1000
"""Texts that the centres are of at most: all layers' states of them are held at once."""


@dataclass(frozen=True)
class Landmarks:
    """The categories' centres of a table's texts: a mode's [layers, 10, d], and means [layers, d].

    `tokens` are the lengths between which nine tenths of the `n` texts lie.
    """

    centres: Mapping[str, NDArray[np.float64]]
    means: Mapping[str, NDArray[np.float64]]
    tokens: tuple[float, float]
    n: int


def landmarks_of(
    model: CausalModel, vectors: MoralVectors, step: Callable[[int], None] = lambda n: None
) -> Landmarks:
    """Read a table's texts at every layer, and return where their categories lie.

    Args:
        model: from `load_model`.
        vectors: a table; of more than `MOST` texts so many are drawn.
        step: called with the number of texts after every batch.

    Raises:
        DataError: no text can be read.
    """
    texts = table_texts(model, vectors, template=TEMPLATE)
    n = len(texts.encoded)
    rows = np.sort(np.random.default_rng(0).permutation(n)[:MOST])
    encoded, moral = [texts.encoded[i] for i in rows], texts.moral[rows]
    layers = range(model.n_layers)
    states = steered_states(model, encoded, None, layers, tuple(POOLINGS.values()), step=step)
    places: dict[str, list[NDArray[np.float64]]] = {mode: [] for mode in POOLINGS}
    means: dict[str, list[NDArray[np.float64]]] = {mode: [] for mode in POOLINGS}
    for layer in layers:
        for i, mode in enumerate(POOLINGS):
            X = states[layer][:, i].astype(np.float64)
            places[mode].append(centres(X, moral))
            means[mode].append(X.mean(axis=0))
    low, high = np.quantile([len(text) for text in encoded], [0.05, 0.95])
    return Landmarks(
        {mode: np.stack(found) for mode, found in places.items()},
        {mode: np.stack(found) for mode, found in means.items()},
        (float(low), float(high)),
        len(encoded),
    )


def place(
    model: CausalModel, marks: Landmarks, sentence: str, intervention: Intervention | None
) -> schemas.Place:
    """Return a sentence's likeness to the categories, and a map of them, before and after.

    Args:
        model: from `load_model`.
        marks: from `landmarks_of` of it.
        sentence: put into the template that the table's texts are read in.
        intervention: what steers every token of it; none gives no `after`.

    Raises:
        DataError: a sentence that can't be read.
    """
    _, (text,) = encode_texts(
        model.tokenizer, Texts([sentence]), prompt_of(TEMPLATE, model.tokenizer), MAX_TOKENS
    )
    layers = range(model.n_layers)
    poolings = tuple(POOLINGS.values())
    found = {"before": steered_states(model, [text], None, layers, poolings)}
    if intervention is not None and intervention.active:
        found["after"] = steered_states(model, [text], intervention, layers, poolings)
    like = {
        when: {
            mode: [
                _numbers(
                    likeness(
                        states[layer][:, i], marks.means[mode][layer], marks.centres[mode][layer]
                    )[0]
                )
                for layer in layers
            ]
            for i, mode in enumerate(POOLINGS)
        }
        for when, states in found.items()
    }
    ratios = _sink_ratios(model, text)
    sinks = [layer for layer, ratio in enumerate(ratios) if ratio > SINK_FACTOR]
    return schemas.Place(
        poles=list(POLES),
        texts=marks.n,
        before=like["before"],
        after=like.get("after"),
        maps=[
            _map(marks, layer, {k: v[layer][0, 1] for k, v in found.items()}) for layer in layers
        ],
        sink_ratio=[round(ratio, 3) for ratio in ratios],
        sinks=sinks,
        warnings=_warnings(text, marks, sinks),
    )


def _map(marks: Landmarks, layer: int, texts: Mapping[str, NDArray[np.float32]]) -> schemas.Map:
    C, mean = marks.centres["audited"][layer], marks.means["audited"][layer]
    axes, share = plane(C)

    def on(X: Any) -> list[list[float] | None]:
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = X / np.linalg.norm(X, axis=-1, keepdims=True)
        rows = unit @ axes.T
        return [
            [round(float(v), 4) for v in row] if np.isfinite(row).all() else None for row in rows
        ]

    (before,) = on((texts["before"] - mean)[None])
    after = on((texts["after"] - mean)[None])[0] if "after" in texts else None
    return schemas.Map(poles=on(C), before=before, after=after, share=round(share, 4))


def _sink_ratios(model: CausalModel, text: Encoded) -> list[float]:
    """Return by layer how many times the others' norm token 0's is."""
    found: list[float] = []

    def keep(_site: Site, hidden: torch.Tensor) -> None:
        norms = hidden.float().norm(dim=-1).cpu()
        first, others, _ = sink_report(norms, torch.ones_like(norms, dtype=torch.bool))
        found.append(float(first / others))

    sites = [Site("resid_post", layer) for layer in range(model.n_layers)]
    model.run_taps(model.collate([text]), sites, keep)
    return found


def _warnings(text: Encoded, marks: Landmarks, sinks: list[int]) -> list[str]:
    found = []
    low, high = marks.tokens
    if not low <= len(text) <= high:
        found.append(
            f"It has {len(text)} tokens with its template; nine tenths of the table's texts have "
            f"{low:.0f} to {high:.0f}. Likeness may follow length."
        )
    if sinks:
        found.append(
            f"In {len(sinks)} layers, {sinks[0]} to {sinks[-1]}, token 0 is an attention sink: "
            "there li2026, which averages it in, reads mostly how long the text is."
        )
    return found


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 4) if np.isfinite(v) else None for v in values]
