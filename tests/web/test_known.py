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
from moralprobe.report.words import caveats, findings
from moralprobe.study import Study
from moralprobe.web.jobs import pieces
from moralprobe.web.loaded import Loaded, read_study
from moralprobe.web.server import serving
from tests.activations.test_extract import tiny
from tests.sae.test_causal import topk_of_tokens
from tests.web.test_api import LAYER, client, loaded, model

__all__ = ["client", "loaded", "model"]  # fixtures


def page_of(client: httpx.Client, feature: int) -> dict[str, Any]:
    answer = client.post("/api/feature", json={"feature": feature})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_features_page_holds_its_pole_numbers_texts_and_tokens(
    client: httpx.Client, model: CausalModel, loaded: Loaded
) -> None:
    page = page_of(client, 3)
    assert page["pole"] == "care"
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


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (7, "Chosen on training texts; on others it doesn't hold."),
        (93, "Not chosen by the audited rule; nor by the published one."),
        (94, "Never active in the table's texts."),
        (95, "Not chosen by the audited rule; strict by the published one."),
    ],
)
def test_what_a_feature_is_not_is_said_too(client: httpx.Client, feature: int, said: str) -> None:
    page = page_of(client, feature)
    assert page["said"] == said and page["texts"] == []


@pytest.mark.parametrize("feature", [96, -1, 1.5, "x", 1 << 40])
def test_a_feature_that_there_is_not_is_refused(client: httpx.Client, feature: object) -> None:
    answer = client.post("/api/feature", json={"feature": feature})
    assert answer.status_code == 422 and answer.json()["what"]


def test_without_a_table_only_the_direction_is_known(model: CausalModel) -> None:
    with serving(Loaded(model, sae=topk_of_tokens(LAYER))) as url:
        page = httpx.post(f"{url}/api/feature", json={"feature": 5}).json()
        assert page["said"] is page["pole"] is None
        assert page["numbers"] == [] and len(page["raised"]) == 10
    with serving(Loaded(model)) as url:
        answer = httpx.post(f"{url}/api/feature", json={"feature": 5})
        assert answer.status_code == 422 and "--sae" in answer.json()["instead"]


@pytest.mark.parametrize(
    "text",
    ["plain words", "\N{GRINNING FACE} a face", "na\u00efve \u9053\u5fb7", "\N{GRINNING FACE}"],
)
def test_the_text_of_tokens_adds_up_to_the_text(model: CausalModel, text: str) -> None:
    ids = model.tokenizer(text)["input_ids"]
    found = pieces(model.tokenizer, ids)
    assert len(found) == len(ids) and "".join(found) == model.tokenizer.decode(ids)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(found)
    # What is cut off within a character is told as it is.
    assert "".join(pieces(model.tokenizer, ids[:-1])) == model.tokenizer.decode(ids[:-1])


@pytest.fixture(scope="module")
def study(model: CausalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    store = extract(model, build_vectors("starter"), folder / "store")
    probe(store, analyses="separation", draws=20).save(folder / "found")
    return folder / "found"


def test_what_a_study_found_is_told(model: CausalModel, study: Path) -> None:
    found = read_study(study, model)
    assert found.name == "found" and found.findings == findings(Study.load(study)) != []
    assert found.caveats == caveats(Study.load(study)) and "starter set" in found.caveats[0]
    with serving(Loaded(model, study=found)) as url:
        about = httpx.get(f"{url}/api/about").json()
    assert about["study"] == found.model_dump()
    assert "findings of a study" not in [one["what"] for one in about["absent"]]


def test_layers_that_length_decides_are_named(
    model: CausalModel, study: Path, tmp_path: Path
) -> None:
    """A tiny model of random weights has no sink; one is planted into the study's numbers."""
    import polars as pl

    held = Study.load(study)
    assert read_study(study, model).confounded == []
    for i, (pooling, template, named) in enumerate(
        [
            ("mean", "action-is-morally", [1]),
            ("last", "action-is-morally", []),  # what a place shows as li2026 is the mean
            ("mean", "action", []),
        ]
    ):
        planted = (
            (pl.col("measure") == "length_share")
            & (pl.col("mode") == "li2026")
            & (pl.col("pooling") == pooling)
            & (pl.col("layer") == 1)
        )
        frame = held.frame.with_columns(
            ci_low=pl.when(planted).then(0.9).otherwise(pl.col("ci_low")),
            value=pl.when(planted).then(0.95).otherwise(pl.col("value")),
        )
        assert frame.filter(planted).height == 1
        meta = {**held.meta, "store": {**held.meta["store"], "template": template}}
        dataclasses.replace(held, frame=frame, meta=meta).save(tmp_path / str(i))
        assert read_study(tmp_path / str(i), model).confounded == named


def test_a_study_of_another_model_is_refused(study: Path) -> None:
    other: Any = tiny(seed=7)
    with pytest.raises(UsageError, match=r"study of another model"):
        read_study(study, other)
