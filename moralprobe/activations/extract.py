"""Read a model's hidden states for every distinct text of a vectors table, at all layers at once.

The unit of work is a shard: it depends on the key alone, so that the same command continues after a
kill and the finished store is byte for byte the one that an unbroken run writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moralprobe.activations.job import MAX_TOKENS, Job, Options, Outline, make_job
from moralprobe.activations.plan import shard_name
from moralprobe.activations.pooling import DEFAULT_POOLINGS
from moralprobe.activations.reading import read_shard
from moralprobe.activations.store import KIND, ActivationStore, TextTable, repair_tables
from moralprobe.activations.workers import Begun, origin_on, read_beside
from moralprobe.artifacts import Artifact, Shard
from moralprobe.errors import StoreError
from moralprobe.files import free_bytes
from moralprobe.models.causal import CausalModel

_WRITERS: Final = {"cpu": 1, "cuda": 4}
"""Threads that write: each holds a shard in memory."""


@dataclass(frozen=True)
class Progress:
    """How far an extraction is: texts done of `total`, of which `kept` were there before; bytes."""

    texts: int
    total: int
    kept: int
    bytes: int


def extract(
    model: CausalModel,
    vectors: TextTable,
    out: Path,
    *,
    layers: str = "all",
    poolings: str | Sequence[str] = DEFAULT_POOLINGS,
    template: str = "action-is-morally",
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int | None = None,
    share: bool = True,
    shard_bytes: int | None = None,
    beside: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> ActivationStore:
    """Read every distinct text once and keep its pooled states; the same call continues.

    Beside the layers it keeps the model's inputs, `embed` and `resid_pre.0`, under the same
    poolings; without `last` where every text ends in the same token, as most templates have it:
    the input there says nothing of the action.

    Args:
        model: from `load_model`.
        vectors: the table whose actions (or rated items) are read; a copy goes into the store.
        out: the store's folder: new, empty, or begun by the same command.
        layers: `all`, `12`, `8-20:2`, ...
        poolings: names of `activations.pooling.POOLINGS`.
        template: name of a template in `data.prompts`.
        max_tokens: longer texts are cut at the end and flagged.
        batch_tokens: tokens in a batch; what suits the device, if not given.
        share: read what texts have in common at their beginning once, where the model allows it;
            else what is read together is of equal length, never padded.
        shard_bytes: about what one shard holds, and a kill loses; 96 MiB, if not given. It holds
            one batch at least, which of a large model is more.
        beside: devices of further processes that load the same model and read shards too, of the
            model's own type: `("cuda:1",)`, or `("cpu",)` where cores are many.
        progress: called at the start and after every batch.
        say: called with what a user should know.

    Raises:
        StoreError: the folder belongs to another model, data or choice of options; no space.
        NumericError: NaN or infinity in the states, or a layer that never varies.
        UsageError: a layer, pooling or template that doesn't exist; other processes for a live
            model, or on another type of device.
        ModelError: the template `chat` and a model without a chat template.
    """
    names = tuple(poolings.split(",") if isinstance(poolings, str) else poolings)
    options = Options(layers, names, template, max_tokens, batch_tokens, share, shard_bytes)
    origin = origin_on(model, beside) if beside else None
    job = make_job(model, vectors, options, say)
    with begun(Path(out), job.outline, say) as artifact:
        pending = missing(artifact, job.outline)
        kept = done = sum(shard.n for shard in artifact.shards.values())

        def step(texts: int) -> None:
            nonlocal done
            done += texts
            if progress is not None:
                written = sum(shard.bytes for shard in list(artifact.shards.values()))
                progress(Progress(done, job.outline.n_texts, kept, written))

        step(0)
        if origin is None:
            _read(job, artifact, pending, step)
        else:
            there = Begun(origin, artifact.folder, options, job.outline.key)
            read_beside(job, there, artifact, pending, beside, step, say)
    return ActivationStore.open(out)


@contextmanager
def begun(out: Path, outline: Outline, say: Callable[[str], None]) -> Iterator[Artifact]:
    """Hold a store's folder, with what is complete and right in it.

    Raises:
        StoreError: the folder belongs to another run, can't be written to, or has no room.
    """
    with Artifact.lock(out, say):
        artifact = Artifact.create(out, KIND, outline.key)
        repair_tables(out, outline.tables, artifact.key["tables"])
        artifact.clean()
        for name in artifact.foreign():
            say(f"{out / name} isn't part of this store and is ignored")
        if artifact.shards:
            say(f"checking what is there: shards {len(artifact.shards)} of {len(outline.shards)}")
        for name, what in artifact.problems().items():
            say(f"{name}: {what}; it is computed again")
            artifact.drop_shard(name)
        there = sum(shard.n for shard in artifact.shards.values())
        needed = outline.size * (outline.n_texts - there) // outline.n_texts
        if needed > (free := free_bytes(out)):
            raise StoreError(
                f"{out} has no room for this store",
                f"about {needed:,} bytes are needed, {free:,} are free",
                "read fewer layers or poolings, or give an --out on another disk",
            )
        yield artifact
        artifact.clean()  # a reader that was killed may have left the file that it was writing


def missing(artifact: Artifact, outline: Outline) -> list[int]:
    """Return which shards a store lacks, by their number."""
    return [i for i in range(len(outline.shards)) if shard_name(i) not in artifact.shards]


def _read(job: Job, artifact: Artifact, pending: list[int], step: Callable[[int], None]) -> None:
    # Some shards are written while the next is read: a GPU reads faster than one thread writes.
    most = _WRITERS.get(job.model.device.type, 1)
    with ThreadPoolExecutor(most) as writers:
        writing: deque[Future[Shard]] = deque()
        for i in pending:
            start, stop = job.plan.shards[i]
            tensors = read_shard(job, (start, stop), step)
            if len(writing) == most:
                writing.popleft().result()
            writing.append(
                writers.submit(
                    artifact.add_shard, shard_name(i), tensors, first=start, last=stop - 1
                )
            )
        for one in writing:
            one.result()
