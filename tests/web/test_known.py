"""What is known of a feature, and what a study found, by the API."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from moralprobe import extract, probe
from moralprobe.errors import UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.moral_vectors import build_vectors
from moralprobe.report.words import findings
from moralprobe.study import Study
from moralprobe.web.loaded import Loaded, read_study
from moralprobe.web.server import serving
from tests.activations.test_extract import tiny
from tests.sae.test_causal import topk_of_tokens
from tests.web.test_api import LAYER, client, loaded, model

__all__ = ["client", "loaded", "model"]  # fixtures


def test_a_features_page_holds_its_numbers_texts_and_tokens(
    client: httpx.Client, model: CausalModel, loaded: Loaded
) -> None:
    page = client.get("/api/features/3").json()
    assert page["said"] == "Chosen on training texts, and it holds on others."
    numbers = {one["name"]: one["value"] for one in page["numbers"]}
    assert numbers["effect, in standard deviations"] == "0.30"
    assert numbers["density, share of texts"] == "10.0%"
    assert page["texts"] == ["Helping a Friend move", "<b>lying</b>"]
    assert loaded.sae is not None
    unembed = model.model.get_output_embeddings().weight.detach()
    logits = unembed @ loaded.sae.sae.W_dec[3].detach()
    for name, sign in (("raised", 1), ("lowered", -1)):
        order = torch.argsort(sign * logits, descending=True)[:10].tolist()
        assert page[name] == [model.tokenizer.decode([i]) for i in order]
    other = client.get("/api/features/95").json()
    assert other["said"].startswith("Not chosen") and other["texts"] == []


@pytest.mark.parametrize("feature", ["96", "-1", "1e3", "x", str(1 << 40), "9" * 5000])
def test_a_feature_that_there_is_not_is_refused(client: httpx.Client, feature: str) -> None:
    answer = client.get(f"/api/features/{feature}")
    assert answer.status_code in (422, 414) and answer.json()["what"]


def test_without_a_table_only_the_direction_is_known(model: CausalModel) -> None:
    with serving(Loaded(model, sae=topk_of_tokens(LAYER))) as url:
        page = httpx.get(f"{url}/api/features/5").json()
        assert page["said"] is None and page["numbers"] == [] and len(page["raised"]) == 10
    with serving(Loaded(model)) as url:
        answer = httpx.get(f"{url}/api/features/5")
        assert answer.status_code == 422 and "--sae" in answer.json()["instead"]


@pytest.fixture(scope="module")
def study(model: CausalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    store = extract(model, build_vectors("starter"), folder / "store")
    probe(store, analyses="separation", draws=20).save(folder / "found")
    return folder / "found"


def test_what_a_study_found_is_told(model: CausalModel, study: Path) -> None:
    found = read_study(study, model)
    assert found.name == "found" and found.findings == findings(Study.load(study)) != []
    with serving(Loaded(model, study=found)) as url:
        about = httpx.get(f"{url}/api/about").json()
    assert about["study"] == found.model_dump()
    assert "what a study found" not in [one["what"] for one in about["absent"]]


def test_layers_that_length_decides_are_named(
    model: CausalModel, study: Path, tmp_path: Path
) -> None:
    """A tiny model of random weights has no sink; one is planted into the study's numbers."""
    import polars as pl

    held = Study.load(study)
    planted = (
        (pl.col("measure") == "length_share")
        & (pl.col("mode") == "li2026")
        & (pl.col("layer") == 1)
    )
    frame = held.frame.with_columns(
        ci_low=pl.when(planted).then(0.9).otherwise(pl.col("ci_low")),
        value=pl.when(planted).then(0.95).otherwise(pl.col("value")),
    )
    dataclasses.replace(held, frame=frame).save(tmp_path / "s")
    assert 1 in read_study(tmp_path / "s", model).confounded
    assert 1 not in read_study(study, model).confounded


def test_a_study_of_another_model_is_refused(study: Path) -> None:
    other: Any = tiny(seed=7)
    with pytest.raises(UsageError, match=r"study of another model"):
        read_study(study, other)
