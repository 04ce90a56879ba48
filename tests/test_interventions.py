"""Tuning in one call, both modes on a tiny model: what it writes, and what stands beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.activations.text_states import table_texts, text_states
from moralprobe.errors import DataError, StoreError, UsageError
from moralprobe.foundations import POLES
from moralprobe.interventions import TUNED, Topology, does_it_survive, fit_topology
from moralprobe.models.causal import CausalModel
from moralprobe.moral_vectors import MoralVectors
from moralprobe.sae.load import LoadedSAE, load_sae
from moralprobe.steering.arms import density_of
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.rules import Reconstruct, SwapFeatures
from moralprobe.steering.topology import Schedule
from tests.activations.test_extract import tiny
from tests.sae.test_causal import topk_of_tokens

LAYER = 1
QUICK = Schedule(epochs=4, batch=128, lr=1e-2, patience=4)
SELECTED = list(range(0, 40, 2))


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return tiny()


@pytest.fixture(scope="module")
def vectors(starter_table: Path) -> Path:
    return starter_table


@pytest.fixture(scope="module")
def loaded() -> LoadedSAE:
    return topk_of_tokens(LAYER)


@pytest.fixture(scope="module")
def table(model: CausalModel, vectors: Path, loaded: LoadedSAE) -> pl.DataFrame:
    """A table in which some features were chosen, each for a pole."""
    texts = table_texts(model, MoralVectors.load(vectors))
    at = np.arange(loaded.sae.cfg.d_sae)
    chosen = np.isin(at, SELECTED)
    return pl.DataFrame(
        {
            "feature": at,
            "density": density_of(loaded.sae, text_states(model, texts, LAYER)),
            "chosen": chosen,
            "li_tuned": chosen,
            "li_strict": chosen & (at < 10),
            "pole": [POLES[i % 10] if c else None for i, c in enumerate(chosen)],
            "t": np.where(chosen, 4.0, 0.0),
        }
    )


@pytest.fixture(scope="module", params=["geometry", "li2026"])
def fitted(
    request: pytest.FixtureRequest,
    model: CausalModel,
    vectors: Path,
    loaded: LoadedSAE,
    table: pl.DataFrame,
) -> tuple[str, Topology]:
    mode: str = request.param
    found = fit_topology(loaded, model, table, vectors, mode=mode, schedule=QUICK, draws=20, seed=1)
    return mode, found


def test_each_mode_steers_by_its_own_rule(fitted: tuple[str, Topology], loaded: LoadedSAE) -> None:
    mode, found = fitted
    (edit,) = found.intervention.edits
    published = mode == "li2026"
    assert isinstance(edit.rule, Reconstruct if published else SwapFeatures)
    # As published every token is edited, attention sinks too.
    assert (edit.sink_norm is None) == published
    assert set(found.intervention.controls) == {
        *("untuned", "shuffled", "random_features", "random_direction", "means")
    }
    for name, control in found.intervention.controls.items():
        assert control.about["scale"] > 0 and control.layers == (LAYER,)
        assert (control.edits[0].sink_norm is None) == published, name
    assert isinstance(found.intervention.controls["untuned"].edits[0].rule, Reconstruct)


def test_the_selected_features_change_and_nothing_else(
    fitted: tuple[str, Topology], loaded: LoadedSAE
) -> None:
    _, found = fitted
    rest = np.setdiff1d(np.arange(loaded.sae.cfg.d_sae), SELECTED)
    for name in ("W_dec", "b_enc"):
        one, two = getattr(found.sae, name), getattr(loaded.sae, name)
        assert torch.equal(one[rest], two[rest]) and not torch.equal(one[SELECTED], two[SELECTED])
    assert torch.equal(found.sae.W_enc[:, rest], loaded.sae.W_enc[:, rest])
    assert torch.equal(found.sae.b_dec, loaded.sae.b_dec)


def test_the_twin_is_tuned_as_long_and_no_better(fitted: tuple[str, Topology]) -> None:
    _, found = fitted
    kept = found.intervention.about["kept_epoch"]
    assert found.history.filter("shuffled")["epoch"].to_list() == [e + 1.0 for e in range(kept)]
    assert found.history.filter(~pl.col("shuffled")).height == found.intervention.about["epochs"]


def test_every_arm_is_measured_on_held_out_texts(
    fitted: tuple[str, Topology], vectors: Path
) -> None:
    _, found = fitted
    assert set(found.geometry["arm"]) == {"unsteered", "steered", *found.intervention.controls}
    n = MoralVectors.load(vectors).frame.filter(pl.col("split") == "test")["group"].n_unique()
    match = found.geometry.filter(name="category_rdm")
    assert match.height == 7 and set(match["n"]) <= {n}


def test_it_is_kept_as_a_folder_and_never_over_another(
    fitted: tuple[str, Topology], model: CausalModel, vectors: Path, tmp_path: Path
) -> None:
    _, found = fitted
    found.save(tmp_path / "i")
    assert Intervention.load(tmp_path / "i").digest() == found.intervention.digest()
    tuned = load_sae(tmp_path / "i" / TUNED)
    assert torch.equal(tuned.sae.W_dec, found.sae.W_dec) and tuned.layer == LAYER
    before = {p: p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match="already"):
        found.save(tmp_path / "i")
    assert {p: p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file()} == before
    other = MoralVectors.load(vectors)
    MoralVectors(other.frame.head(400), other.meta).save(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="isn't the table"):
        does_it_survive(found.intervention, model, tmp_path / "other.parquet", draws=20)


def test_features_of_another_autoencoder_are_refused(
    model: CausalModel, vectors: Path, loaded: LoadedSAE, table: pl.DataFrame
) -> None:
    with pytest.raises(UsageError, match="isn't one of the autoencoder's"):
        fit_topology(loaded, model, table.head(50), vectors)
