"""Train a TopK autoencoder with our sparse step and with SAELens' own, from the same weights.

    python benchmarks/sae.py VECTORS... [--layer 15] [--steps 300] [--seeds 0] [--block 20]
    python benchmarks/sae.py VECTORS... --steps 1500 --dead-after 300 --untimed
    python benchmarks/sae.py VECTORS... --real [--steps 1500] [--keep DIR]

VECTORS are tables made by `moralprobe vectors build`. Both run inside SAELens' `SAETrainer` on the
same batches of token states, with the auxiliary loss for features that weren't active for
`--dead-after` steps. They alternate in blocks of steps; printed are medians over blocks, and after
the last step the variance explained and the loss recovered on texts that were held out. With
`--untimed` rates are left out: something else ran.

`--real` trains one as `moralprobe sae train` does, judges it beside SAELens' own evaluation, trains
another seed and one of shuffled activations, and looks for moral features in the first table, each
step timed. With `--keep DIR` what is trained stays there with its time, or, without `--real`, what
was measured of each seed: the same command then doesn't do it again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Set on some machines for the tests; they slow numpy, and say nothing of ours.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS"):
    os.environ.pop(_name, None)


def main() -> None:
    """Alternate both, evaluate both, and write `results/sae.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("vectors", nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dead-after", type=int)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--untimed", action="store_true", help="leave rates out of what is written")
    parser.add_argument("--arch", default="topk", choices=["topk", "batchtopk"])
    parser.add_argument("--real", action="store_true", help="train, judge and search one")
    parser.add_argument("--keep", help="a folder in which what is trained, or measured, is kept")
    options = parser.parse_args()
    if options.real:
        if options.untimed or options.dead_after is not None:
            parser.error("--real is timed, and revives features as `sae train` does")
        real(options)
        return
    options.dead_after = 100 if options.dead_after is None else options.dead_after
    from results_file import suffix, write

    from moralprobe import load_model
    from moralprobe.activations.stream import TokenSource
    from moralprobe.sae.tokens import TextOptions, read_texts

    model = load_model(options.model)
    train, held = read_texts(model, TextOptions(tuple(options.vectors)))
    source = TokenSource(model, train, [options.layer], seed=0)
    source.read(0, 0)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = [
        kept(options, seed, lambda s=seed: one(options, model, source, held, s)) for seed in seeds
    ]
    rate = {
        name: statistics.median(rate for run in runs for rate in run[name]["rates"])
        for name in ("ours", "stock")
    }
    summary = {
        "model": Path(options.model).name,
        "layer": options.layer,
        "arch": options.arch,
        "tokens": len(train),
        "d_in": model.d_model,
        "d_sae": 16 * model.d_model,
        "k": 32,
        "batch": 4096,
        "steps": options.steps,
        "dead_after": options.dead_after,
        "seeds": seeds,
        "samples_per_second": {name: round(value) for name, value in rate.items()},
        "ratio": round(rate["ours"] / rate["stock"], 2),
        "held_out": {
            name: [{k: round(v, 4) for k, v in run[name]["held_out"].items()} for run in runs]
            for name in ("ours", "stock")
        },
        "runs": runs,
    }
    command = (
        f"python benchmarks/sae.py {' '.join('VECTORS' for _ in options.vectors)} "
        f"--model {Path(options.model).name} --layer {options.layer} --arch {options.arch} "
        f"--steps {options.steps} --seeds {options.seeds} --block {options.block} "
        f"--dead-after {options.dead_after}"
    )
    name = f"sae-{options.arch}"
    if options.untimed:
        for timed in ("samples_per_second", "ratio"):
            del summary[timed]
        for run in runs:
            for of in ("ours", "stock"):
                del run[of]["rates"]
        command, name = f"{command} --untimed", f"{name}-{options.steps}"
    print(write(f"{name}{suffix()}", command, summary))
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))


def real(options: Any) -> None:
    """Train, judge and search one autoencoder, and write `results/sae-real.json`.

    Another seed and an autoencoder of shuffled activations are trained after it, to compare with.
    """
    import resource

    from results_file import write

    from moralprobe import Recipe, evaluate_sae, find_features, load_model, load_sae, train_sae
    from moralprobe.sae.evaluate import spread
    from moralprobe.sae.peer import evaluate_with_sae_lens
    from moralprobe.sae.tokens import TextOptions, read_texts

    model = load_model(options.model)
    recipe = Recipe(arch=options.arch, steps=options.steps)
    seconds: dict[str, float] = {}

    def train(name: str, seed: int, *, shuffled: bool = False) -> tuple[Any, dict[str, Any]]:
        start, path = time.perf_counter(), Path(options.keep or folder) / name
        told = path.with_suffix(".json")
        if path.exists() and not told.exists():
            raise SystemExit(f"{path} was begun and not ended: what is left can't be timed")
        if not told.exists():
            states: list[dict[str, Any]] = []
            train_sae(
                model,
                options.vectors,
                path,
                layers=str(options.layer),
                recipe=replace(recipe, seed=seed),
                shuffled=shuffled,
                progress=lambda state: states.append(copy.deepcopy(vars(state))),
            )
            how = {
                "seconds": time.perf_counter() - start,
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "figures": states[:: max(1, len(states) // 12)],
            }
            told.write_text(json.dumps(how))
        how = json.loads(told.read_text())
        seconds[name] = how["seconds"]
        print(name, round(seconds[name]), "s", flush=True)
        return load_sae(path), how

    with tempfile.TemporaryDirectory() as folder:
        loaded, training = train("sae", 0)
        start = time.perf_counter()
        found = evaluate_sae(loaded, model)
        seconds["evaluate"] = time.perf_counter() - start
        texts, held = read_texts(model, TextOptions(tuple(options.vectors)))
        peer = evaluate_with_sae_lens(loaded, model, spread(held.encoded, 500))
        (other, _), (null, _) = train("other", 1), train("shuffled", 0, shuffled=True)
        start = time.perf_counter()
        features = find_features(loaded, model, options.vectors[0], others=[other], null=null)
        seconds["features"] = time.perf_counter() - start
    reconstruction = {k: v for k, v in vars(found.reconstruction).items() if k != "density"}
    summary = {
        "model": options.model,
        "layer": options.layer,
        "recipe": vars(recipe),
        "tokens": len(texts),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "peak_gib_of_training": round(training["peak_gib"], 1),
        "figures": training["figures"],
        "sinks": found.sinks,
        "reconstruction": reconstruction,
        "loss": vars(found.loss),
        "recovered_from_zero": found.loss.recovered_from_zero,
        "recovered_from_mean": found.loss.recovered_from_mean,
        "sae_lens": vars(peer),
        "features": features.summary,
    }
    command = (
        f"python benchmarks/sae.py {' '.join('VECTORS' for _ in options.vectors)} --real "
        f"--arch {options.arch} --steps {options.steps}"
    )
    print(write("sae-real", command, summary))
    print(json.dumps(summary, indent=1))


def kept(options: Any, seed: int, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured of a seed, or measure it; each takes many minutes."""
    if not options.keep:
        return run()
    path = Path(options.keep) / f"{options.arch}-{options.steps}-steps-seed-{seed}.json"
    asked = {
        "vectors": options.vectors,
        "model": options.model,
        "layer": options.layer,
        "dead_after": options.dead_after,
    }
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"asked": asked, "found": run()}))
    kept_there = json.loads(path.read_text())
    if {"dead_after": 100, **kept_there["asked"]} != asked:
        raise SystemExit(f"{path} is of {kept_there['asked']}: give another --keep")
    return dict(kept_there["found"])


def one(options: Any, model: Any, source: Any, held: Any, seed: int) -> dict[str, Any]:
    """Train both with one seed."""
    import torch

    from moralprobe.activations.stream import batches
    from moralprobe.sae.recipe import Recipe, Task
    from moralprobe.sae.trainer import begin_at_the_mean, trainer_of

    recipe = Recipe(
        arch=options.arch, steps=options.steps, seed=seed, dead_after=options.dead_after
    )
    task = Task(options.layer, recipe)
    ours = trainer_of(task, model.d_model, str(model.device), {})
    begin_at_the_mean({task.name: ours}, [task], source, recipe)
    trainers = {"ours": ours, "stock": stock_of(ours, recipe)}
    streams = {name: batches(source, batch=recipe.batch, seed=seed) for name in trainers}
    found: dict[str, Any] = {name: {"rates": [], "fvu": [], "dead": []} for name in trainers}
    for at in range(0, options.steps, options.block):
        for name in ("ours", "stock") if (at // options.block) % 2 == 0 else ("stock", "ours"):
            trainer, n = trainers[name], min(options.block, options.steps - at)
            start = time.perf_counter()
            for _ in range(n):
                states = next(streams[name])[1][options.layer].to(model.device).float()
                output = trainer.step(states)
                trainer.n_training_steps += 1
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            found[name]["rates"].append(n * recipe.batch / (time.perf_counter() - start))
            with torch.no_grad():
                x = output.sae_in
                left = (x - output.sae_out).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
            found[name]["fvu"].append(float(left))
            found[name]["dead"].append(float(trainer.dead_neurons.float().mean()))
            last = {k: round(v[-1], 4) for k, v in found[name].items()}
            print(seed, at + n, name, last, flush=True)
    for name, trainer in trainers.items():
        # As `train` does: sinks were left out, and are when it is judged.
        trainer.sae.cfg.metadata.sink_norm = source.limits.get(options.layer)
        found[name]["held_out"] = held_out(trainer, model, held, options.layer)
    return found


def stock_of(ours: Any, recipe: Any) -> Any:
    """Return SAELens' trainer of its own class, with the same weights and scale."""
    import sae_lens
    from sae_lens import SAETrainer

    kinds = {
        "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
        "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
    }
    kind, config = kinds[recipe.arch]
    sae = kind(
        config(
            d_in=ours.sae.cfg.d_in,
            d_sae=ours.sae.cfg.d_sae,
            k=recipe.k,
            normalize_activations="expected_average_only_in",
            device=ours.sae.cfg.device,
        )
    )
    sae.load_state_dict(ours.sae.state_dict())
    sae.cfg.metadata.hook_name = ours.sae.cfg.metadata.hook_name
    trainer = SAETrainer(ours.cfg, sae, data_provider=iter(()))
    trainer.activation_scaler.scaling_factor = ours.activation_scaler.scaling_factor
    return trainer


def held_out(trainer: Any, model: Any, held: Any, layer: int) -> dict[str, float]:
    """Save what was trained, load it, and judge it on texts that were held out."""
    from moralprobe.sae.evaluate import evaluate
    from moralprobe.sae.load import load_sae
    from moralprobe.sae.trainer import save_sae

    with tempfile.TemporaryDirectory() as folder:
        save_sae(trainer, Path(folder))
        found = evaluate(
            load_sae(Path(folder), device=str(model.device)), model, held, n_texts=1000
        )
    return {
        "explained_variance": found.reconstruction.explained_variance,
        "l0": found.reconstruction.l0,
        "recovered_from_zero": found.loss.recovered_from_zero,
        "recovered_from_mean": found.loss.recovered_from_mean,
    }


if __name__ == "__main__":
    main()
