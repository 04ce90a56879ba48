"""Run a recipe: each job into its own folder, and the same call again continues."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from moralprobe.artifacts import Artifact
from moralprobe.errors import DataError
from moralprobe.files import check_writable, write_bytes
from moralprobe.recipes.check import check_recipe, settled, with_facts
from moralprobe.recipes.evaluate_step import call_judges, evaluate, fetch_prompts
from moralprobe.recipes.jobs import PAGE, STORE, VECTORS, Job, jobs_of, pooling_of, sae_recipes
from moralprobe.recipes.ledger import Ledger
from moralprobe.recipes.options import EVALUATE, MIDDLE, RunRecipe
from moralprobe.recipes.parse import parse_recipe
from moralprobe.recipes.sae_steps import (
    find_moral_features,
    fit,
    judge_autoencoders,
    survive,
    train_autoencoders,
)
from moralprobe.recipes.steps import (
    Run,
    Step,
    Watch,
    extract_states,
    make_vectors,
    probe_store,
)
from moralprobe.recipes.text import find_recipe, read_tree, to_text, with_overrides

RECIPE: Final = "run.yaml"
HEAD: Final = "Every default written out: moralprobe run run.yaml --out DIR does all of it again."
WORK: Final[dict[str, Callable[[Run, Job], list[Path]]]] = {
    "vectors": make_vectors,
    "extract": extract_states,
    "probe": probe_store,
    "sae.train": train_autoencoders,
    "sae.eval": judge_autoencoders,
    "sae.features": find_moral_features,
    "topology.fit": fit,
    "topology.survive": survive,
    EVALUATE: evaluate,
}


@dataclass(frozen=True)
class Done:
    """What a run has done: the jobs that were made now, those that were there, and the page."""

    made: tuple[str, ...]
    kept: tuple[str, ...]
    page: Path | None


@contextlib.contextmanager
def _unwatched(_what: str) -> Iterator[Step]:
    yield lambda done, total, detail: None


def load_recipe(recipe: str | Path, overrides: Mapping[str, str] | None = None) -> RunRecipe:
    """Read a recipe.

    Args:
        recipe: a `.yaml` file, or the name of one that comes with moralprobe.
        overrides: other values for dotted keys: `{"sae.train.steps": "500"}`.

    Raises:
        UsageError: no such recipe, an unknown key, or a value that isn't one of its option's.
        DataError: a file that is no plain YAML.
    """
    return parse_recipe(with_overrides(read_tree(find_recipe(recipe)), overrides or {}))


def run_recipe(
    recipe: RunRecipe,
    out: Path,
    *,
    until: str | None = None,
    say: Callable[[str], None] = lambda message: None,
    begins: Callable[[str], None] = lambda message: None,
    watch: Watch = _unwatched,
) -> Done:
    """Do what a recipe asks for; the same call continues, and does nothing that is done.

    Args:
        recipe: from `load_recipe`.
        out: the run's folder: new, empty, or begun by the same recipe.
        until: the last step to do; all, if not given.
        say: called with what a user should know.
        begins: called with each thing that is done next.
        watch: called with what is done; gives a context, and in it a function of what is done of
            how many, and a detail.

    Raises:
        UsageError: a recipe that can't be done as it is asked for.
        StoreError: results in the folder that were made otherwise, or by something else.
        IntegrityError: a result that isn't what was written.
        As the steps do.
    """
    out = Path(out)
    shape, recipe = check_recipe(recipe), settled(recipe)
    asked = recipe if until is None else recipe.until(until)
    check_writable(out)
    with Artifact.lock(out, say):
        run = Run(asked, out, Ledger.open(out), say, begins, watch)

        def n_layers() -> int:
            return run.model.n_layers if shape is None else shape.n_layers

        first, *rest = (with_facts(job, asked) for job in jobs_of(asked, n_layers))
        made, kept = _do(run, [first], {})
        if EVALUATE in asked.steps:
            fetch_prompts(run)
            if not all((out / job.place).exists() for job in rest if job.step == EVALUATE):
                call_judges(run)
        marks = {first.name: run.ledger.mark(first, {})}
        _check_batch(asked, out / VECTORS)
        for job in rest:
            marks[job.name] = run.ledger.mark(job, marks)
        run.ledger.refuse_others(rest, marks)
        tree = _numbered(recipe, n_layers).tree()
        write_bytes(out / RECIPE, to_text(tree, HEAD).encode())
        now, before = _do(run, rest, marks)
        page = None
        if "report" in asked.steps:
            from moralprobe.recipes.summary import write_summary

            page = write_summary(asked, [first, *rest], run.ledger, out / PAGE)
        return Done((*made, *now), (*kept, *before), page)


def _do(run: Run, jobs: list[Job], marks: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Do what isn't done; return the names of what was made and of what was there."""
    ledger = run.ledger
    ledger.refuse_others(jobs, marks)
    pending = [job for job in jobs if not ledger.is_done(job, marks)]
    read = {name for job in pending for name in job.needs}
    made, kept = [], []
    for job in jobs:
        # What a store's manifest lists may be missing or changed; whoever reads it would say so,
        # and its own step mends it.
        damaged = job.name in read and job.place == STORE and job not in pending and _damaged(run)
        if job not in pending and not damaged:
            kept.append(job.name)
            run.begins(f"{job.name}: done before")
            continue
        run.begins(f"{job.name}: {run.out / job.place}")
        ledger.begin(job, marks)
        ledger.finish(job, WORK[job.step](run, job))
        made.append(job.name)
    return made, kept


def _damaged(run: Run) -> bool:
    from moralprobe.activations.store import verify

    run.begins(f"checking {run.out / STORE}")
    problems, _ = verify(run.out / STORE)
    for name, what in problems.items():
        run.say(f"{name}: {what}")
    return bool(problems)


def _check_batch(recipe: RunRecipe, vectors: Path) -> None:
    """Refuse batches that pooled vectors can't fill, before anything is read for them."""
    trains = recipe.of("sae.train").values() if "sae.train" in recipe.steps else ()
    pooled = [train for train in trains if pooling_of(train) is not None]
    if not pooled:
        return
    from moralprobe.moral_vectors import MoralVectors
    from moralprobe.sae.pooled import TRAIN, rows_of
    from moralprobe.sae.recipe import PUBLISHED

    frame = MoralVectors.load(vectors).frame
    for train in pooled:
        one = sae_recipes(train)[0]
        n = rows_of(frame, TRAIN, by_row=one.arch == PUBLISHED).height
        if n < one.batch:
            raise DataError(
                f"{n:,} pooled vectors don't fill a batch of {one.batch:,}",
                f"{vectors} has no more to train on",
                f"give more texts, or --set sae.train.batch={max(1, n // 4)}",
            )


def _numbered(recipe: RunRecipe, n_layers: Callable[[], int]) -> RunRecipe:
    """Return a recipe with the layer in the middle by its number."""
    if "sae.train" not in recipe.steps:
        return recipe
    trains: dict[str, Any] = {
        mode: replace(train, layer=str(n_layers() // 2)) if train.layer == MIDDLE else train
        for mode, train in recipe.steps["sae.train"].items()
    }
    return replace(recipe, steps={**recipe.steps, "sae.train": trains})
