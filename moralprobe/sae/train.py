"""Train autoencoders with SAELens' trainer, several from one reading of the activations.

The same call continues a run that was interrupted, and ends with the same weights.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from sae_lens import SAETrainer
from sae_lens.saes.sae import TrainStepOutput

from moralprobe.activations.stream import Source, batches
from moralprobe.artifacts import Artifact
from moralprobe.errors import NumericError, StoreError, UsageError
from moralprobe.files import canonical_json, check_writable, hash_file, write_json
from moralprobe.sae.checkpoint import NAME, clear_checkpoints, load_checkpoint, save_checkpoint
from moralprobe.sae.load import CONFIG, TRAINING, WEIGHTS
from moralprobe.sae.recipe import Task
from moralprobe.sae.trainer import ORDER, begin_at_the_mean, save_sae, trainer_of

CHECK: Final = 25
"""Steps between two looks at the loss: a look makes a GPU wait."""
CHECKPOINT: Final = 500
"""Steps between two checkpoints: so much is lost by a kill."""
MOSTLY_DEAD: Final = 0.95


@dataclass(frozen=True)
class State:
    """How far training is: the step of `steps`, and of each autoencoder what the last batch gave.

    `figures` holds, by name of the task, the share of variance left unexplained (`fvu`), the mean
    number of active features (`l0`) and the share of features that are `dead`.
    """

    step: int
    steps: int
    figures: dict[str, dict[str, float]]


def train(
    source: Source,
    tasks: list[Task],
    out: Path,
    *,
    about: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    sink_norms: Callable[[], Mapping[int, float]] = dict,
    device: str = "cpu",
    checkpoint: int = CHECKPOINT,
    progress: Callable[[State], None] = lambda state: None,
) -> list[Path]:
    """Train autoencoders on the same activations, and save each as SAELens does.

    Args:
        source: the activations.
        tasks: what is trained, each of another name; all have the same steps and batches.
        out: the folder; of several autoencoders each has a folder in it.
        about: what the activations are, all that can change them: a run is known again by it.
        metadata: what is written into each config beside the layer's hook, under SAELens' names.
        sink_norms: gives, by layer, the norm above which activations were left out.
        device: where they are trained.
        checkpoint: steps between two checkpoints.
        progress: called every `CHECK` steps.

    Returns:
        The folders, in the order of the tasks.

    Raises:
        UsageError: a recipe that can't be trained.
        StoreError: the folder belongs to another run, or can't be written to.
        NumericError: a loss that is no number, or hardly a feature that is ever active.
        IntegrityError: a checkpoint that isn't what was written.
        DataError: fewer activations than a batch.
    """
    out = Path(out)
    check_together(tasks)
    for task in tasks:
        task.recipe.check(source.width)
    tasks = [replace(task, recipe=task.recipe.settled(device)) for task in tasks]
    recipe = tasks[0].recipe
    key = _key(tasks, about, device, source.width)
    folders = {t.name: out if len(tasks) == 1 else out / t.name for t in tasks}
    check_writable(out)
    with Artifact.lock(out):
        if _finished(out, key, folders):
            return list(folders.values())
        write_json(out / TRAINING, {"key": key, "finished": False})
        trainers = {
            task.name: trainer_of(task, source.width, device, metadata or {}) for task in tasks
        }
        done, position = load_checkpoint(out, trainers)
        history = _Watch(trainers)
        stream = batches(source, batch=recipe.batch, seed=ORDER, start=position)
        if not done:
            begin_at_the_mean(trainers, tasks, source, recipe)
        for step in range(done + 1, recipe.steps + 1):
            position, batch = next(stream)
            states = {layer: x.to(device).float() for layer, x in batch.items()}
            for task in tasks:
                trainer = trainers[task.name]
                trainer.maybe_reset_sparsity()
                history.saw(task.name, step, trainer.step(states[task.layer]))
                trainer.n_training_steps += 1
            if step % CHECK == 0 or step == recipe.steps:
                progress(State(step, recipe.steps, history.look(step, out)))
            if step % checkpoint == 0 and step < recipe.steps:
                history.look(step, out)
                history.refuse_weights(step, out)
                save_checkpoint(out, trainers, step, position)
        history.refuse_weights(recipe.steps, out)
        for task in tasks:
            explained = 1 - history.figures[task.name]["fvu"]
            written = trainers[task.name].sae.cfg.metadata
            written.explained_variance = explained
            written.sink_norm = sink_norms().get(task.layer)
            save_sae(trainers[task.name], folders[task.name])
        hashes = {
            name: {file: hash_file(folder / file) for file in (WEIGHTS, CONFIG)}
            for name, folder in folders.items()
        }
        finished = {"key": key, "finished": True, "files": hashes, "last": history.figures}
        write_json(out / TRAINING, finished)
        clear_checkpoints(out)
    return list(folders.values())


def check_together(tasks: Sequence[Task]) -> None:
    """Refuse tasks that can't be trained from one reading.

    Raises:
        UsageError: none, two of one name, or other numbers of steps or sizes of batches.
    """
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    schedules = {(task.recipe.steps, task.recipe.batch) for task in tasks}
    if len(schedules) != 1 or twice:
        raise UsageError(
            "these autoencoders can't be trained together",
            f"{twice[0]} is asked for twice" if twice else f"steps and batches: {schedules}",
            "name each layer, size and seed once, and train what differs otherwise by itself",
        )


def check_place(out: Path, source: str) -> None:
    """Refuse a folder that holds something else than a run of a source, or what it is made from.

    Raises:
        StoreError: as it says.
    """
    path = out / TRAINING
    if path.exists():
        try:
            theirs = json.loads(path.read_bytes())["key"]["about"].get("source")
        except (ValueError, KeyError, TypeError, AttributeError):
            theirs = None
        if theirs != source:
            raise StoreError(
                f"{out} belongs to another run",
                f"it was trained on {theirs or 'something else'}, not on {source}",
                "give another --out, or repeat the command that made it",
            )
    elif out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir()):
        raise StoreError(
            f"{out} is not empty and holds no training run",
            f"there is no {TRAINING} in it",
            "give a new or empty folder",
        )


def _key(tasks: list[Task], about: Mapping[str, Any], device: str, width: int) -> dict[str, Any]:
    return {
        "about": dict(about),
        "tasks": [{"layer": task.layer, **asdict(task.recipe)} for task in tasks],
        "d_in": width,
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "sae_lens": importlib.metadata.version("sae-lens"),
    }


def _finished(out: Path, key: dict[str, Any], folders: dict[str, Path]) -> bool:
    """Return whether a run of this key has ended here; refuse a run of another.

    A file that is missing or changed is made again, by training anew.
    """
    path = out / TRAINING
    if not path.exists():
        check_place(out, key["about"].get("source", ""))
        return False
    try:
        found = json.loads(path.read_bytes())
        theirs, finished = found["key"], bool(found["finished"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged", "it describes no training run", "give another --out"
        ) from error
    if theirs != json.loads(canonical_json(key)):
        changed = sorted(k for k in key if theirs.get(k) != json.loads(canonical_json(key[k])))
        raise StoreError(
            f"{out} belongs to another run",
            f"it differs in {', '.join(changed) or 'what it holds'}",
            "give another --out, or repeat the command that made it",
        )
    return finished and all(
        (folder / file).is_file() and hash_file(folder / file) == found["files"][name][file]
        for name, folder in folders.items()
        for file in (WEIGHTS, CONFIG)
    )


class _Watch:
    """What training gave since the last look: losses, and figures of the last batch."""

    def __init__(self, trainers: Mapping[str, SAETrainer[Any, Any]]) -> None:
        self._trainers = trainers
        self._losses: dict[str, list[tuple[int, torch.Tensor]]] = {name: [] for name in trainers}
        self._last: dict[str, TrainStepOutput] = {}
        self.figures: dict[str, dict[str, float]] = {}

    def saw(self, name: str, step: int, output: TrainStepOutput) -> None:
        """Keep what a step gave."""
        self._losses[name].append((step, output.loss.detach()))
        self._last[name] = output

    def look(self, step: int, out: Path) -> dict[str, dict[str, float]]:
        """Check the losses since the last look, and return the last batch's figures."""
        for name, losses in self._losses.items():
            for at, loss in losses:
                if not bool(torch.isfinite(loss)):
                    raise _diverged(f"the loss of {name} is {float(loss)} at step {at}", out)
            losses.clear()
            if (output := self._last.pop(name, None)) is not None:
                self.figures[name] = _figures(self._trainers[name], output)
            dead = self.figures[name]["dead"]
            if dead > MOSTLY_DEAD:
                raise NumericError(
                    f"{dead:.0%} of the features of {name} are dead at step {step}",
                    f"they weren't active for {self._trainers[name].cfg.dead_feature_window} steps",
                    f"{_last_good(out)}; train with a smaller --lr or --sparsity, or a larger --k",
                )
        return self.figures

    def refuse_weights(self, step: int, out: Path) -> None:
        """Refuse weights that are no numbers: a loss may be one before the step that ruins them."""
        for name, trainer in self._trainers.items():
            if not all(bool(torch.isfinite(p).all()) for p in trainer.sae.parameters()):
                raise _diverged(f"the weights of {name} hold NaN or infinity at step {step}", out)


def _diverged(what: str, out: Path) -> NumericError:
    return NumericError(
        what, "training has diverged", f"{_last_good(out)}; train with a smaller --lr"
    )


def _last_good(out: Path) -> str:
    path = out / NAME
    if not path.exists():
        return "there was no checkpoint yet"
    return f"the last good checkpoint, {path}, is of step {json.loads(path.read_bytes())['step']}"


@torch.no_grad()
def _figures(trainer: SAETrainer[Any, Any], output: TrainStepOutput) -> dict[str, float]:
    x, out, acts = output.sae_in.float(), output.sae_out.float(), output.feature_acts
    left = (x - out).pow(2).sum()
    varies = (x - x.mean(0)).pow(2).sum()
    active = acts.values() if acts.is_sparse else acts
    return {
        "fvu": float(left / varies),
        "l0": float((active != 0).sum()) / len(x),
        "dead": float(trainer.dead_neurons.float().mean()),
    }
