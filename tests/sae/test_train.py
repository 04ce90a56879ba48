"""Training that is killed and goes on, that diverges, that belongs to another run, that is planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from safetensors.torch import load_file

from moralprobe.activations.token_store import StoredTokens
from moralprobe.errors import IntegrityError, NumericError, StoreError, UsageError
from moralprobe.files import hash_file
from moralprobe.models.load import choose_dtype
from moralprobe.sae.load import load_sae
from moralprobe.sae.recipe import ARCHITECTURES, Recipe, Task
from moralprobe.sae.tokens import TextOptions, train_on_tokens
from moralprobe.sae.train import State, train
from tests.activations.test_extract import tiny

D_IN, N, TRUE = 32, 4096, 64
RECIPE = Recipe(
    expansion=4, k=4, steps=60, batch=256, lr=2e-3, dead_after=20, precision="fp32", sparsity=0.05
)


class Planted:
    """Activations that are sums of few of known directions; layer 1 holds others than layer 0."""

    layers = (0, 1)
    width = D_IN

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.nn.functional.normalize(
            torch.randn(2, TRUE, D_IN, generator=generator), dim=-1
        )
        self.active = torch.rand(2, N, TRUE, generator=generator) < 3 / TRUE
        strength = 1 + torch.rand(2, N, TRUE, generator=generator)
        states = (self.active * strength) @ self.directions
        self.states = dict(enumerate(states))
        self.read_pieces = 0

    def pieces(self, epoch: int) -> int:
        return 1

    def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
        self.read_pieces += 1
        return self.states


def test_the_precision_that_was_taken_is_recorded(tmp_path: Path) -> None:
    """`auto` would be another one on another machine: a run that goes on there is another run."""
    run(tmp_path / "out", tasks(precision="auto", steps=20))
    (task,) = json.loads((tmp_path / "out" / "training.json").read_bytes())["key"]["tasks"]
    assert task["precision"] == choose_dtype("auto", "cpu")


class KilledError(Exception):
    pass


def killed_at(step: int) -> Callable[[State], None]:
    def progress(state: State) -> None:
        if state.step >= step:
            raise KilledError

    return progress


def tasks(**changes: Any) -> list[Task]:
    return [Task(0, replace(RECIPE, **changes))]


def run(out: Path, tasks: list[Task], source: Any = None, **options: Any) -> list[Path]:
    options = {"about": {"data": "planted"}, "checkpoint": 20, **options}
    return train(source or Planted(), tasks, out, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("arch", "precision"), [*((arch, "fp32") for arch in ARCHITECTURES), ("li2026", "bf16")]
)
def test_killed_it_ends_with_the_weights_of_an_unbroken_run(
    arch: str, precision: str, tmp_path: Path
) -> None:
    asked = tasks(arch=arch, precision=precision)
    whole = run(tmp_path / "whole", asked)[0]
    for at in (25, 50):
        with pytest.raises(KilledError):
            run(tmp_path / "broken", asked, progress=killed_at(at))
    assert json.loads((tmp_path / "broken/checkpoint.json").read_bytes())["step"] == 40
    broken = run(tmp_path / "broken", asked)[0]
    for name, value in weights(whole).items():
        assert torch.equal(weights(broken)[name], value), name
    assert hash_file(broken / "cfg.json") == hash_file(whole / "cfg.json")
    assert sorted(p.name for p in broken.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_several_train_from_one_reading_and_as_alone(tmp_path: Path) -> None:
    several = [
        Task(0, RECIPE),
        Task(1, RECIPE),
        Task(0, replace(RECIPE, expansion=2)),
        Task(0, replace(RECIPE, seed=7)),
    ]
    source = Planted()
    folders = run(tmp_path / "several", several, source)
    assert source.read_pieces <= 2 + 60 // (N // 256)
    for task, folder in zip(several, folders, strict=True):
        alone = run(tmp_path / task.name, [task])[0]
        for name, value in weights(alone).items():
            assert torch.equal(weights(folder)[name], value)


@pytest.mark.parametrize("arch", ["topk", "batchtopk"])
def test_planted_directions_are_found(arch: str, tmp_path: Path) -> None:
    source = Planted()
    recipe = replace(RECIPE, arch=arch, k=3, expansion=4, steps=1500, lr=3e-3, batch=512)
    folder = run(tmp_path / "sae", [Task(0, recipe)], source, checkpoint=5000)[0]
    found = torch.nn.functional.normalize(weights(folder)["W_dec"], dim=-1)
    best = (source.directions[0] @ found.T).max(1).values
    assert float((best > 0.9).float().mean()) > 0.8
    # Directions that aren't in the data aren't found.
    other = (source.directions[1] @ found.T).max(1).values
    assert float((other > 0.9).float().mean()) < 0.05


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sae_lens_loads_what_is_written_and_reconstructs_alike(arch: str, tmp_path: Path) -> None:
    source = Planted()
    folder = run(tmp_path / "sae", tasks(arch=arch, steps=200), source)[0]
    stock = sae_lens.SAE.load_from_disk(folder)
    ours = load_sae(folder).sae
    x = source.states[0][:500]
    torch.testing.assert_close(stock(x), ours(x), rtol=1e-4, atol=1e-4)
    left = (x - stock(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    told = stock.cfg.metadata.explained_variance
    # Trained on scaled activations, it reconstructs them as they are.
    assert 1 - float(left.detach()) == pytest.approx(told, abs=0.1)
    assert stock.cfg.normalize_activations == "none"
    assert stock.cfg.metadata.hook_name == "blocks.0.hook_out"


def test_a_finished_run_isnt_trained_again(tmp_path: Path) -> None:
    folder = run(tmp_path / "sae", tasks())[0]
    before = (folder / "sae_weights.safetensors").stat().st_mtime_ns
    source = Planted()
    run(tmp_path / "sae", tasks(), source)
    assert source.read_pieces == 0
    assert (folder / "sae_weights.safetensors").stat().st_mtime_ns == before


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    folder = run(tmp_path / "sae", tasks())[0]
    right = hash_file(folder / "sae_weights.safetensors")
    data = bytearray((folder / "sae_weights.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "sae_weights.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError, match="checksum"):
        load_sae(folder)
    run(tmp_path / "sae", tasks())
    assert hash_file(folder / "sae_weights.safetensors") == right


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "sae", tasks())
    with pytest.raises(StoreError, match="differs in tasks"):
        run(tmp_path / "sae", tasks(k=5))
    with pytest.raises(StoreError, match="differs in about"):
        run(tmp_path / "sae", tasks(), about={"data": "other"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("here")
    with pytest.raises(StoreError, match="no training run"):
        run(tmp_path / "mine", tasks())


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poisoned(Planted):
        def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
            states = super().read(epoch, piece)
            # 16 batches an epoch: it is poisoned from the third epoch on, step 33.
            return states if epoch < 2 else {0: states[0] * float("nan"), 1: states[1]}

    with pytest.raises(NumericError, match=r"is nan at step 33") as caught:
        run(tmp_path / "sae", tasks(), Poisoned())
    assert "is of step 20" in caught.value.instead
    # What was good is used by the same command.
    folder = run(tmp_path / "sae", tasks())[0]
    whole = run(tmp_path / "whole", tasks())[0]
    for name, value in weights(whole).items():
        assert torch.equal(weights(folder)[name], value)


def test_weights_that_are_no_numbers_are_never_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is a number, and the step itself ruins the weights."""
    clip = torch.nn.utils.clip_grad_norm_
    steps = iter(range(1, 1000))

    def ruined(parameters: Any, most: float) -> Any:
        parameters = list(parameters)
        if next(steps) == 40:
            parameters[0].grad.fill_(float("nan"))
        return clip(parameters, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", ruined)
    with pytest.raises(
        NumericError, match=r"weights of .* hold NaN or infinity at step 40"
    ) as caught:
        run(tmp_path / "sae", tasks())
    assert "is of step 20" in caught.value.instead


def test_features_that_are_nearly_all_dead_stop_it(tmp_path: Path) -> None:
    class Alike(Planted):
        def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
            return {0: self.states[0][:1].expand(N, D_IN)}

    # Of 128 features 4 reconstruct the one activation that there is.
    with pytest.raises(NumericError, match=r"9\d% of the features of .* are dead at step 25"):
        run(tmp_path / "sae", tasks(), Alike())


def test_a_damaged_checkpoint_is_never_continued(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path / "sae", tasks(), progress=killed_at(25))
    file = next((tmp_path / "sae").glob("checkpoint-*.safetensors"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="checksum"):
        run(tmp_path / "sae", tasks())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "topkk"}, "did you mean"),
        ({"k": 200}, "more features would be active"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"lr": float("nan")}, "--lr must be above 0"),
        ({"steps": 0}, "--steps must be above 0"),
        ({"precision": "fp16"}, "unknown precision"),
    ],
)
def test_what_cant_be_trained_is_refused_before_anything_is_written(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path / "sae", tasks(**changes))
    assert not (tmp_path / "sae").exists()


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path: Path) -> None:
    one = run(tmp_path / "one", tasks())[0]
    two = run(tmp_path / "two", tasks())[0]
    other = run(tmp_path / "other", tasks(seed=1))[0]
    assert torch.equal(weights(one)["W_enc"], weights(two)["W_enc"])
    assert not torch.allclose(weights(one)["W_enc"], weights(other)["W_enc"], atol=1e-2)


def test_what_cant_be_trained_together_is_refused(tmp_path: Path) -> None:
    for others in (
        [Task(0, RECIPE)],
        [Task(1, replace(RECIPE, steps=61))],
        [Task(0, replace(RECIPE, lr=1.0))],
    ):
        with pytest.raises(UsageError, match="can't be trained together"):
            run(tmp_path / "sae", [Task(0, RECIPE), *others])
    names = {Task(0, replace(RECIPE, arch="relu-l1", sparsity=s)).name for s in (0.5, 1, 2)}
    assert len(names) == 3


def test_trainings_from_one_store_of_states_read_the_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    texts = TextOptions(("starter",))
    recipe = replace(RECIPE, steps=25)
    read: list[int] = []
    tap = type(model).run_taps
    monkeypatch.setattr(
        type(model), "run_taps", lambda self, *a: (read.append(1), tap(self, *a))[1]
    )

    def trained(name: str, layer: int, **options: Any) -> dict[str, torch.Tensor]:
        read.clear()
        (folder,) = train_on_tokens(model, texts, [Task(layer, recipe)], tmp_path / name, **options)
        return weights(folder)

    streamed = trained("streamed", 1)
    whole = len(read)
    both = tmp_path / "states"
    train_on_tokens(model, texts, [Task(1, recipe), Task(2, recipe)], tmp_path / "two", states=both)
    stored = trained("stored", 1, states=both)
    few = len(read)
    assert 0 < few < whole, "norms of a few texts alone"
    assert trained("shuffled", 2, states=both, shuffled=True) and len(read) == few
    # As from a store of its layer alone, and another one than from the model only by its order.
    for name, value in trained("alone", 1, states=tmp_path / "one").items():
        torch.testing.assert_close(stored[name], value, rtol=1e-3, atol=1e-3)
    assert any(not torch.equal(streamed[name], value) for name, value in stored.items())
    figures = [
        json.loads((tmp_path / name / "training.json").read_bytes())
        for name in ("streamed", "stored", "alone")
    ]
    fvu = [next(iter(f["last"].values()))["fvu"] for f in figures]
    assert fvu[0] == pytest.approx(fvu[1], abs=0.05) and fvu[1] == pytest.approx(fvu[2], abs=1e-3)
    kept = [f["key"]["about"].get("stored") for f in figures]
    assert kept[0] is None and kept[1] == kept[2]
    # What was trained without the store isn't continued with it, or from one in another order.
    with pytest.raises(StoreError, match="belongs to another run"):
        trained("streamed", 1, states=both)
    with monkeypatch.context() as other, pytest.raises(StoreError, match="belongs to another run"):
        other.setattr(StoredTokens, "order", "another")
        trained("stored", 1, states=both)
    for name in ("same", "same/one"):
        with pytest.raises(UsageError, match="a folder of their own"):
            trained(name, 1, states=tmp_path / "same")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        trained("late", 1, states=tmp_path / "mine")
    assert not (tmp_path / "late").exists()
