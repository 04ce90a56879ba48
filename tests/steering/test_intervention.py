"""Interventions as values and as folders: sums, multiples, what is refused, what a fault does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from moralprobe.errors import IntegrityError, ModelError, StoreError, UsageError
from moralprobe.files import canonical_json
from moralprobe.steering.generate import generate
from moralprobe.steering.intervention import (
    FILE,
    TENSORS,
    Edit,
    Intervention,
    check_intervention,
    model_of,
    origin_of_model,
)
from moralprobe.steering.rules import (
    Add,
    Cap,
    Gate,
    ProjectOut,
    Reconstruct,
    Rule,
    ScaleFeatures,
    SwapFeatures,
)
from moralprobe.steering.sampling import Sampling
from tests.steering.test_generate import PROMPTS, tiny, vector
from tests.steering.test_rules import autoencoder, direction, rows_of, states


def every_rule() -> list[Rule]:
    sae = autoencoder("standard")
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    features = torch.tensor([4, 2])
    return [
        Add(direction(1)),
        ProjectOut(torch.stack([direction(1), direction(2)])),
        Cap(direction(3), -0.25),
        Reconstruct(sae),
        SwapFeatures(sae, features, *rows_of(autoencoder("standard", 5), features)),
        ScaleFeatures(sae, features, torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.5])),
    ]


def whole() -> Intervention:
    edits = tuple(
        Edit(i, rule, 0.5 + i, None if i % 2 else 7.5, Gate(direction(9), 0.25) if i == 2 else None)
        for i, rule in enumerate(every_rule())
    )
    beside = {"random_direction": Intervention((Edit(0, Add(direction(8)), 0.1),), {}, {"a": 1})}
    return Intervention(
        edits, {"name": "x", "identity": {"weights": "1"}}, {"made_by": "me"}, beside
    )


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    made = whole()
    made.save(tmp_path / "i")
    again = Intervention.load(tmp_path / "i")
    x = states()
    with torch.no_grad():
        for one, two in zip(
            (*made.edits, *made.controls["random_direction"].edits),
            (*again.edits, *again.controls["random_direction"].edits),
            strict=True,
        ):
            assert (one.layer, one.strength, one.sink_norm) == (
                two.layer,
                two.strength,
                two.sink_norm,
            )
            assert type(one.rule) is type(two.rule)
            assert torch.equal(one.rule(x), two.rule(x))
            assert (one.gate is None) == (two.gate is None)
    assert again.edits[2].gate is not None
    assert torch.equal(again.edits[2].gate(x), made.edits[2].gate(x))  # type: ignore[misc]
    assert (again.model, again.about) == (made.model, made.about)
    assert again.controls["random_direction"].about == {"a": 1}
    # The three rules of one autoencoder share one copy of it.
    assert sorted(p.name for p in (tmp_path / "i").iterdir() if p.is_dir()) == ["sae-0"]
    with pytest.raises(StoreError, match="already"):
        made.save(tmp_path / "i")


def test_an_infinite_norm_survives(tmp_path: Path) -> None:
    Intervention((Edit(0, Add(direction())),)).save(tmp_path / "i")
    assert Intervention.load(tmp_path / "i").edits[0].sink_norm == math.inf


def test_sums_and_multiples() -> None:
    a = Intervention((Edit(0, Add(direction(1)), 2.0),), {"name": "x", "identity": {"w": 1}})
    b = Intervention((Edit(1, Add(direction(2)), 1.0),))
    both = 0.5 * (a + b)
    assert [(e.layer, e.strength) for e in both.edits] == [(0, 1.0), (1, 0.5)]
    assert both.layers == (0, 1) and both.model == a.model
    assert not (both * 0).active
    strengthened = whole() * 2
    assert strengthened.controls["random_direction"].edits[0].strength == pytest.approx(0.2)
    other = Intervention((Edit(1, Add(direction(2))),), {"name": "y", "identity": {"w": 2}})
    with pytest.raises(ModelError, match="x and y"):
        a + other


def test_the_order_of_a_sum_doesnt_matter_to_the_text() -> None:
    model = tiny()
    a = Intervention((Edit(1, Add(vector(1)), 0.7), Edit(1, Cap(vector(3), 0.1))))
    b = Intervention((Edit(1, ProjectOut(vector(2)[None]), 0.5),))
    how = Sampling(max_new_tokens=5, temperature=0.9)
    one, two = (
        [g.ids for g in generate(model, PROMPTS, i, sampling=how, chat=False)]
        for i in (a + b, b + a)
    )
    assert one == two


def test_it_says_which_model_it_belongs_to() -> None:
    model = tiny()
    made = Intervention((Edit(1, Add(vector(1))),), model_of(model))
    check_intervention(made, model)
    named = Intervention(
        made.edits, {"name": "there", "origin": {"source": "here", "dtype": "bf16"}}
    )
    assert origin_of_model(named) == {"source": "here", "dtype": "bf16"}
    assert origin_of_model(named, "mine")["source"] == "mine"
    with pytest.raises(UsageError, match="--model"):
        origin_of_model(Intervention(made.edits))


@pytest.mark.parametrize("file", [TENSORS, "sae-0/sae_weights.safetensors", "sae-0/cfg.json"])
def test_a_flipped_bit_is_seen(tmp_path: Path, file: str) -> None:
    whole().save(tmp_path / "i")
    path = tmp_path / "i" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="isn't what was written"):
        Intervention.load(tmp_path / "i")


def broken(said: dict[str, Any], how: str) -> None:
    if how == "a name outside":
        said["files"] = {"../x": "0"}
    elif how == "an unknown rule":
        said["edits"][0]["rule"] = "ad"
    elif how == "another format":
        said["format"] = 9
    elif how == "a missing tensor":
        said["edits"][0]["values"]["direction"] = {"tensor": "none"}
    else:
        del said["edits"]


def with_checksum(said: dict[str, Any]) -> dict[str, Any]:
    said = {k: v for k, v in said.items() if k != "checksum"}
    return {**said, "checksum": xxhash.xxh3_128_hexdigest(canonical_json(said))}


@pytest.mark.parametrize(
    "how",
    ["a name outside", "an unknown rule", "another format", "a missing tensor", "no edits"],
)
def test_a_damaged_description_is_refused(tmp_path: Path, how: str) -> None:
    whole().save(tmp_path / "i")
    said = json.loads((tmp_path / "i" / FILE).read_text())
    broken(said, how)
    (tmp_path / "i" / FILE).write_text(json.dumps(with_checksum(said)))
    with pytest.raises(IntegrityError, match="describes no intervention"):
        Intervention.load(tmp_path / "i")


def test_a_number_that_was_changed_in_the_file_is_seen(tmp_path: Path) -> None:
    whole().save(tmp_path / "i")
    said = json.loads((tmp_path / "i" / FILE).read_text())
    said["edits"][0]["strength"] = 1e308
    (tmp_path / "i" / FILE).write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match="checksum"):
        Intervention.load(tmp_path / "i")


def test_no_folder_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no intervention"):
        Intervention.load(tmp_path)


def test_the_digest_is_of_everything_that_changes_a_state() -> None:
    made = whole()
    assert made.digest() == whole().digest()
    assert (made * 2).digest() != made.digest()
    for change in ("k", "weight", "gate"):
        sae = autoencoder("topk")
        one = Intervention((Edit(0, Reconstruct(sae), gate=Gate(direction(1))),))
        before = one.digest()
        if change == "k":
            sae.cfg.k = 7
        elif change == "weight":
            with torch.no_grad():
                sae.b_dec[0] += 1
        else:
            one = Intervention((Edit(0, Reconstruct(sae), gate=Gate(direction(2))),))
        assert one.digest() != before
