"""Autoencoders, steering and evaluation on a GPU: what a CPU gives, up to rounding.

`MORALPROBE_TEST_DEVICE=mps` runs them on another device; `cpu` compares the CPU with itself, which
shows only that the tests are sound.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sae_lens.saes.sae import TrainStepInput

from moralprobe.autoencoders import evaluate_sae, find_features, train_sae
from moralprobe.evaluating import evaluate_intervention
from moralprobe.evaluation.effects import Suites
from moralprobe.evaluation.judge_backends import LocalJudge, ScriptedJudge
from moralprobe.interventions import does_it_survive, fit_topology
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny, tiny_tokenizer
from moralprobe.sae.causal import causal_scores
from moralprobe.sae.load import load_sae
from moralprobe.sae.recipe import ARCHITECTURES, Recipe
from moralprobe.steering.apply import steered_logits
from moralprobe.steering.generate import encoded_for, generate, side_by_side
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.sampling import Sampling
from tests.activations.test_extract import starter
from tests.evaluation.test_judge_backends import CHAT
from tests.sae.test_sparse import PAIRS, K, batch, pair
from tests.steering.test_generate import PROMPTS, some_edits
from tests.test_evaluating import QUICK, counting, driving, prompts
from tests.test_interventions import QUICK as FEW_EPOCHS

DEVICE = os.environ.get("MORALPROBE_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"
    ),
]
RECIPE = Recipe(expansion=4, k=4, steps=200, batch=512, lr=2e-3, dead_after=50, precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cuda")
    save_tiny("llama", root / "model", bos=True)
    starter().save(root / "starter.parquet")
    return root


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, CausalModel]:
    """The same weights on the CPU and on the device."""
    return {
        name: load_model(folder / "model", dtype="fp32", device=device)
        for name, device in (("cpu", "cpu"), ("device", DEVICE))
    }


@pytest.fixture(scope="module")
def sae(folder: Path, models: dict[str, CausalModel]) -> Path:
    train_sae(models["cpu"], folder / "starter.parquet", folder / "sae", layers="1", recipe=RECIPE)
    return folder / "sae"


def loaded(sae: Path) -> dict[str, Any]:
    return {name: load_sae(sae, device=d) for name, d in (("cpu", "cpu"), ("device", DEVICE))}


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_texts_are_those_of_a_cpu(models: dict[str, CausalModel], positions: str) -> None:
    sampling = Sampling(max_new_tokens=12, temperature=0.9, seed=3)
    found = {
        name: generate(model, PROMPTS, some_edits(), sampling=sampling, positions=positions)
        for name, model in models.items()
    }
    alone = [
        generate(models["device"], [p], some_edits(), sampling=sampling, positions=positions)[0]
        for p in PROMPTS
    ]
    for one, other, single in zip(*found.values(), alone, strict=True):
        assert one.ids == other.ids == single.ids
        assert one.edits == other.edits == single.edits
        assert other.change == pytest.approx(one.change, rel=1e-3)


def test_texts_side_by_side_stream_and_end(models: dict[str, CausalModel]) -> None:
    for model in models.values():
        pieces: list[tuple[int, str]] = []
        plain, steered = side_by_side(
            model, PROMPTS[0], some_edits(), on_text=lambda i, text, to=pieces: to.append((i, text))
        )
        for i, text in enumerate((plain, steered)):
            assert "".join(piece for n, piece in pieces if n == i) == text.text
        assert plain.edits == 0 and steered.edits > 0


def test_logits_of_steered_texts(models: dict[str, CausalModel]) -> None:
    found = {}
    for name, model in models.items():
        texts = model.collate(encoded_for(model, PROMPTS, chat=False))
        found[name] = steered_logits(model, some_edits())(texts).cpu()
    torch.testing.assert_close(found["device"], found["cpu"], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("arch", PAIRS)
@pytest.mark.parametrize("dead", [0, 5, 200])
def test_the_sparse_step_is_sae_lens_own(arch: str, dead: int) -> None:
    ours, theirs = (sae.to(DEVICE) for sae in pair(arch))
    mask = torch.arange(ours.cfg.d_sae) % 3 == 0
    mask = (mask & (mask.cumsum(0) <= dead)).to(DEVICE)
    for seed in range(3):
        found = []
        for sae in (ours, theirs):
            sae.zero_grad()
            step = TrainStepInput(batch(seed).to(DEVICE), {}, mask, 0, False)
            output = sae.training_forward_pass(step)
            output.loss.backward()
            found.append(output)
        for name, loss in found[1].losses.items():
            torch.testing.assert_close(found[0].losses[name], loss, rtol=1e-4, atol=1e-4)
        acts = found[0].feature_acts.to_dense()
        assert int((acts != 0).sum()) <= K * len(acts)
        torch.testing.assert_close(acts, found[1].feature_acts, rtol=1e-3, atol=1e-4)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_reaches_what_a_cpu_reaches(
    folder: Path, models: dict[str, CausalModel], tmp_path: Path, arch: str, precision: str
) -> None:
    recipe = replace(RECIPE, arch=arch, precision=precision, batch=128, sparsity=0.05)
    explained = {}
    for name, model in models.items():
        train_sae(model, folder / "starter.parquet", tmp_path / name, layers="1", recipe=recipe)
        trained = load_sae(tmp_path / name, device=str(model.device))
        found = evaluate_sae(trained, model, n_texts=50)
        explained[name] = found.reconstruction.explained_variance
    assert explained["device"] == pytest.approx(explained["cpu"], abs=0.05)


def test_a_run_that_is_killed_goes_on(
    folder: Path, models: dict[str, CausalModel], tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(state: Any) -> None:
        if state.step >= 150:
            raise KilledError

    def run(out: Path, **options: Any) -> Any:
        train_sae(
            *(models["device"], folder / "starter.parquet", out),
            layers="1",
            recipe=replace(RECIPE, steps=200),
            **options,
        )
        return load_sae(out).sae.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", progress=kill)
    for name, values in run(tmp_path / "killed").items():
        # Sums over the tokens of a feature are added in no fixed order on a GPU.
        assert float((values - whole[name]).norm() / whole[name].norm()) < 0.02, name


def test_moral_features_and_their_ablations(
    folder: Path, models: dict[str, CausalModel], sae: Path
) -> None:
    both = loaded(sae)
    found = {
        name: find_features(both[name], model, folder / "starter.parquet", causal=0)
        for name, model in models.items()
    }
    one, other = found["cpu"].frame, found["device"].frame
    numbers = [name for name, kind in one.schema.items() if kind.is_float()]
    for name in numbers:
        a, b = one[name].to_numpy(), other[name].to_numpy()
        there = np.isfinite(a) & np.isfinite(b)
        assert (np.isfinite(a) == np.isfinite(b)).mean() > 0.97, name
        if not there.any():
            continue
        assert np.median(np.abs(a - b)[there]) <= 1e-3 * (1 + np.abs(a[there]).max()), name
    assert (one["chosen"] == other["chosen"]).mean() > 0.97
    busy = one.sort("density", descending=True)["feature"].head(4).to_numpy()
    ablated = [
        causal_scores(both[name], model, found[name].read, busy, [0, 1, 2, 3], np.roll(busy, 1))
        for name, model in models.items()
    ]
    assert np.isfinite(ablated[0].score).all()
    np.testing.assert_allclose(ablated[1].score, ablated[0].score, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("mode", ["geometry", "li2026"])
def test_tuning_its_controls_and_what_survives(
    folder: Path, models: dict[str, CausalModel], sae: Path, tmp_path: Path, mode: str
) -> None:
    both, vectors = loaded(sae), folder / "starter.parquet"
    features = find_features(both["cpu"], models["cpu"], vectors, causal=0).frame
    tuned = features.with_columns(
        chosen=pl.col("feature") % 3 == 0,
        li_tuned=pl.col("feature") % 3 == 0,
        pole=pl.lit("care"),
        t=pl.lit(4.0),
    )
    found = {}
    for name, model in models.items():
        fit = fit_topology(
            both[name], model, tuned, vectors, mode=mode, schedule=FEW_EPOCHS, draws=20
        )
        fit.save(tmp_path / name)
        again = Intervention.load(tmp_path / name)
        later = does_it_survive(again, model, vectors, layers="2", draws=20)
        found[name] = (fit, later)
    (one, after), (other, later) = found["cpu"], found["device"]
    for name in ("W_dec", "W_enc", "b_enc"):
        a, b = (getattr(fit.sae, name).detach().cpu() for fit in (one, other))
        assert float((a - b).norm() / a.norm()) < 0.02, name
    for a, b in ((one.geometry, other.geometry), (after, later)):
        assert a.height == b.height
        a, b = (frame.sort("arm", "layer", "name", "category") for frame in (a, b))
        x, y = a["value"].to_numpy(), b["value"].to_numpy()
        there = np.isfinite(x)
        assert np.median(np.abs(x - y)[there]) < 0.02


def test_an_evaluation_with_a_judge_on_the_device(
    models: dict[str, CausalModel], tmp_path: Path
) -> None:
    verdicts, texts = {}, {}
    for name, model in models.items():
        asked = load_model(model.model, tokenizer=tiny_tokenizer(bos=True))
        asked.tokenizer.chat_template = CHAT
        judges = [ScriptedJudge("marks", counting), LocalJudge(asked)]
        found = evaluate_intervention(
            driving(model),
            model,
            tmp_path / name,
            prompts=prompts(8),
            judges=judges,
            suites=Suites(),
            options=replace(QUICK, strengths=(0.0, 1.0), seeds=(0,)),
        )
        verdicts[name] = [judge["accuracy"]["value"] for judge in found.summary["judges"]]
        texts[name] = found.texts.sort("arm", "strength", "prompt")["text"].to_list()
    assert texts["device"] == texts["cpu"]
    assert verdicts["device"] == pytest.approx(verdicts["cpu"], abs=0.05)
