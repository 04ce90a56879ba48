"""Interventions in one call: tuned features, directions, single features; with their controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch

from moralprobe.activations.text_states import (
    TableTexts,
    TextStates,
    table_texts,
    text_states,
)
from moralprobe.errors import DataError, UsageError
from moralprobe.files import hash_file, write_table
from moralprobe.models.causal import CausalModel
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae.load import LoadedSAE, check_belongs, is_pooled
from moralprobe.sae.pooled import states_of_table
from moralprobe.sae.tokens import options_of
from moralprobe.sites import parse_layers
from moralprobe.steering.arms import (
    STEERED,
    UNSTEERED,
    controls_of,
    density_of,
    others_as_dense,
    random_twin,
)
from moralprobe.steering.directions import MORAL, check_target, of_states, read_vector
from moralprobe.steering.intervention import (
    Edit,
    Intervention,
    check_empty,
    check_intervention,
    check_layer,
    model_of,
)
from moralprobe.steering.rules import Add, Reconstruct, ScaleFeatures, SwapFeatures
from moralprobe.steering.selection import Material
from moralprobe.steering.survival import ANALYSES, survival
from moralprobe.steering.topology import Fitted, Schedule, tune
from moralprobe.steering.tunable import Tunable

TUNED: Final = "tuned"
Progress = Callable[[int, int, str], None]


def _nothing(done: int, total: int, detail: str) -> None:
    pass


def _tokens(progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(done, total, "tokens")


@dataclass(frozen=True)
class Topology:
    """A fitted intervention with its controls, how the tuning went, and what it does.

    `history` has a row an epoch of the tuning and of its shuffled twin (`shuffled`). `geometry` is
    what `survival` gives at the edited layer: `unsteered` is before, `steered` after. `sae` is the
    whole autoencoder with the tuned features in it.
    """

    intervention: Intervention
    sae: Any
    history: pl.DataFrame
    geometry: pl.DataFrame

    def save(self, folder: Path) -> Path:
        """Write the intervention, and beside it `history.parquet`, `geometry.parquet`, `tuned/`.

        Raises:
            StoreError: the folder holds an intervention, or can't be written.
        """
        folder = Path(folder)
        check_empty(folder)
        for name, frame in (("history", self.history), ("geometry", self.geometry)):
            write_table(folder / f"{name}.parquet", frame)
        self.sae.save_model(folder / TUNED)
        return self.intervention.save(folder)


def fit_topology(
    loaded: LoadedSAE,
    model: CausalModel,
    features: pl.DataFrame,
    vectors: str | Path,
    *,
    mode: str = "geometry",
    schedule: Schedule | None = None,
    draws: int = 200,
    seed: int = 0,
    progress: Progress = _nothing,
) -> Topology:
    """Tune the moral features of an autoencoder, and measure what that does to held-out texts.

    `li2026` tunes by the published loss, and steers by the published rule: all of the tuned
    autoencoder's reconstruction, at every token. `geometry` tunes by ours, and only the change of
    the tuned features enters, sinks left alone.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        features: its table, from `find_features` or FEATURES.parquet.
        vectors: a table of moral vectors, or the store of one.
        mode: `geometry` or `li2026`.
        schedule: how long and how fast; the mode's own, if not given.
        draws: resamples and permutations of what is measured.
        seed: of everything that is drawn.
        progress: called with steps done, steps in all, and what is done.

    Raises:
        UsageError: an unknown mode, or features that can't be tuned.
        ModelError: an autoencoder of another width, layer or model.
        DataError: no feature is selected, or too few texts.
        NumericError: a loss that is no number.
    """
    vectors = Path(vectors)
    table, texts, read = states_of_table(loaded, model, vectors, reading=_tokens(progress))
    material = Material(loaded, table, texts, read)
    fits: dict[str, Fitted] = {}
    for name in (TUNED, "shuffled"):
        # The twin is tuned as long: it has nothing that its dev split could tell it.
        fits[name] = tune(
            material,
            features,
            mode=mode,
            shuffled=name == "shuffled",
            schedule=schedule,
            epochs=fits[TUNED].about["kept_epoch"] if fits else None,
            seed=seed,
            progress=lambda done, total, detail, name=name: progress(  # type: ignore[misc]
                done, total, f"{name}: {detail}"
            ),
        )
    own = fits[TUNED]
    twin = random_twin(loaded.sae, own.tuned, features, seed)
    published = mode == "li2026"
    rows = {TUNED: own.tuned, "shuffled": fits["shuffled"].tuned, "random_features": twin}
    edits = {
        name: Edit(
            loaded.layer,
            Reconstruct(tuned.written()) if published else swap(tuned),
            1.0,
            None if published else loaded.sink_norm,
        )
        for name, tuned in rows.items()
    }
    edit = edits.pop(TUNED)
    untuned = Edit(loaded.layer, Reconstruct(loaded.sae), 1.0, edit.sink_norm)
    tokens = text_states(model, texts, loaded.layer) if is_pooled(loaded) else read
    controls = controls_of(edit, {**edits, "untuned": untuned}, model, texts, tokens, seed=seed)
    about = {
        "made_by": "topology",
        **own.about,
        "layer": loaded.layer,
        "template": options_of(loaded, [str(vectors)]).template,
        "sae": loaded.folder.name,
        "vectors": str(vectors),
        "vectors_hash": hash_file(vectors) if vectors.is_file() else None,
    }
    intervention = Intervention((edit,), model_of(model), about, controls)
    arms = {UNSTEERED: None, STEERED: intervention, **controls}
    geometry = survival(
        model, table, texts, arms, [loaded.layer], draws=draws, seed=seed, progress=progress
    )
    history = pl.concat(
        [fit.history.with_columns(shuffled=pl.lit(name != TUNED)) for name, fit in fits.items()]
    )
    return Topology(intervention, own.tuned.written(), history, geometry)


def does_it_survive(
    intervention: Intervention,
    model: CausalModel,
    vectors: str | Path,
    *,
    layers: str = "later",
    analyses: Sequence[str] = ANALYSES,
    draws: int = 200,
    seed: int = 0,
    progress: Progress = _nothing,
) -> pl.DataFrame:
    """Measure held-out texts, unsteered, steered and under every control, at later layers too.

    Args:
        intervention: with its controls.
        model: that it was made for.
        vectors: a table of moral vectors; texts of its test split are read.
        layers: where; `later` is the first edited layer and all after it.
        analyses: of the four.
        draws: resamples and permutations.
        seed: of them.
        progress: called with steps done, steps in all, and what is done.

    Returns:
        A row an arm, layer and measure; see `survival`.

    Raises:
        ModelError: an intervention of another model, layer or width.
        UsageError: layers that the model doesn't have, or before the first edit.
        DataError: no text is held out.
    """
    check_intervention(intervention, model)
    first = min(intervention.layers)
    if layers == "later":
        chosen: Sequence[int] = range(first, model.n_layers)
    else:
        chosen = parse_layers(layers, model.n_layers)
    if min(chosen) < first:
        raise UsageError(
            f"nothing changes at layer {min(chosen)}",
            f"the first edit is at layer {first}",
            f"measure at layers {first} to {model.n_layers - 1}",
        )
    made_of = intervention.about.get("vectors_hash")
    if made_of is not None and made_of != hash_file(Path(vectors)):
        raise DataError(
            f"{vectors} isn't the table that the intervention was made of",
            "what is held out there may have been learnt from here",
            f"give {intervention.about.get('vectors')}",
        )
    table = MoralVectors.load(Path(vectors))
    template = intervention.about.get("template") or "action-is-morally"
    texts = table_texts(model, table, template=template)
    arms = {UNSTEERED: None, STEERED: intervention, **intervention.controls}
    return survival(
        model,
        table,
        texts,
        arms,
        chosen,
        analyses=analyses,
        draws=draws,
        seed=seed,
        progress=progress,
    )


def direction_intervention(
    model: CausalModel,
    vectors: str | Path,
    layer: int,
    *,
    target: str = MORAL,
    kind: str = "means",
    seed: int = 0,
    progress: Progress = _nothing,
) -> Intervention:
    """Return an intervention that adds a direction, as long as a layer's usual state.

    A strength of 1 adds as much as is there: useful ones lie far below. How well it tells held-out
    texts apart is in `about`. Its controls are a direction made of shuffled labels, a random one,
    and the difference of means.

    Args:
        model: from `load_model`.
        vectors: a table of moral vectors.
        layer: decoder block, counted from 0.
        target: `moral`, every virtue from every vice; an axis' tag; or a pole.
        kind: `means`, a difference of means; `ridge`, the weights of a linear read-out.
        seed: of the controls and the ridge's folds.
        progress: called with tokens read and their number.

    Raises:
        UsageError: an unknown target, kind or layer.
        DataError: too few texts.
    """
    check_layer(model, layer)
    check_target(target, kind)
    vectors = Path(vectors)
    texts, read = _read(model, vectors, layer, progress)
    own, twin = (
        of_states(model, texts, read, layer, target, kind, shuffled=shuffled, seed=seed)
        for shuffled in (False, True)
    )
    beside = controls_of(own.edits[0], {"shuffled": twin.edits[0]}, model, texts, read, seed=seed)
    if (kind, target) == ("means", MORAL):
        del beside["means"]  # it is the intervention itself
    about = {**own.about, "vectors": str(vectors), "vectors_hash": hash_file(vectors)}
    return Intervention(own.edits, own.model, about, beside)


def vector_intervention(
    path: str | Path,
    model: CausalModel,
    layer: int,
    *,
    vectors: str | Path | None = None,
    seed: int = 0,
    progress: Progress = _nothing,
) -> Intervention:
    """Return an intervention that adds a vector from a file, at its own length.

    Args:
        path: a safetensors file with one tensor, [d_model] or [1, d_model].
        model: that it is for.
        layer: decoder block, counted from 0.
        vectors: a table of moral vectors, by whose texts controls are made, and sinks told from
            other tokens; without one there are no controls, and token 0 alone is left as it is.
        seed: of the controls.
        progress: called with tokens read and their number.

    Raises:
        DataError: a file that can't be read, or holds anything else.
        UsageError: a layer that the model doesn't have.
        NumericError: a vector that is zero, NaN or infinite.
    """
    check_layer(model, layer)
    vector = read_vector(Path(path), model.d_model)
    about = {
        "made_by": "file",
        "layer": layer,
        "file": Path(path).name,
        "file_hash": hash_file(Path(path)),
    }
    if vectors is None:
        return Intervention((Edit(layer, Add(vector)),), model_of(model), about)
    texts, read = _read(model, Path(vectors), layer, progress)
    own = Edit(layer, Add(vector), 1.0, read.sink_norm)
    beside = controls_of(own, {}, model, texts, read, seed=seed)
    return Intervention((own,), model_of(model), about, beside)


def _read(
    model: CausalModel, vectors: Path, layer: int, progress: Progress
) -> tuple[TableTexts, TextStates]:
    texts = table_texts(model, MoralVectors.load(vectors))
    return texts, text_states(model, texts, layer, reading=_tokens(progress))


def feature_intervention(
    loaded: LoadedSAE,
    model: CausalModel,
    changes: Mapping[int, tuple[float, float]],
    *,
    vectors: str | Path | None = None,
    seed: int = 0,
    progress: Progress = _nothing,
) -> Intervention:
    """Return an intervention on single features, of which only the change enters.

    Args:
        loaded: from `load_sae`.
        model: that it was trained on.
        changes: of each feature a scale and an offset: z becomes scale z + offset.
        vectors: a table of moral vectors, by whose texts controls are made: other features changed
            in the same way, a random direction, the difference of means. None without one.
        seed: of the controls.
        progress: called with tokens read and their number.

    Raises:
        ModelError: an autoencoder of another width, layer or model.
        UsageError: features that aren't there.
        NumericError: a change that changes no state.
    """
    check_belongs(loaded, model)
    values = torch.tensor(list(changes.values()), dtype=torch.float32).reshape(-1, 2)
    scale, offset = values[:, 0].clone(), values[:, 1].clone()

    def edit_of(features: Sequence[int]) -> Edit:
        numbers = torch.tensor(features, dtype=torch.long)
        rule = ScaleFeatures(loaded.sae, numbers, scale, offset)
        return Edit(loaded.layer, rule, 1.0, loaded.sink_norm)

    own = edit_of(list(changes))
    about = {
        "made_by": "features",
        "layer": loaded.layer,
        "sae": loaded.folder.name,
        "features": {str(f): list(change) for f, change in changes.items()},
    }
    if vectors is None:
        return Intervention((own,), model_of(model), about)
    _, texts, tokens = states_of_table(loaded, model, Path(vectors), reading=_tokens(progress))
    if is_pooled(loaded):
        tokens = text_states(model, texts, loaded.layer)
    density = density_of(loaded.sae, tokens)
    drawn = others_as_dense(list(changes), density, np.random.default_rng([seed, 15]))
    candidates = {}
    if len(drawn) == len(changes):
        candidates["random_features"] = edit_of(drawn)
    beside = controls_of(own, candidates, model, texts, tokens, seed=seed)
    return Intervention((own,), model_of(model), about, beside)


def swap(tuned: Tunable) -> SwapFeatures:
    """Return the rule that puts tuned features in the place of the autoencoder's own."""
    encoder, bias, decoder = (
        parameter.detach().clone() for parameter in (tuned.W_enc, tuned.b_enc, tuned.W_dec)
    )
    return SwapFeatures(tuned.sae[0], tuned.features, encoder, bias, decoder)
