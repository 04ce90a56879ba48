"""Read a model's hidden states for every distinct text of a vectors table, at all layers at once.

The unit of work is a shard: it depends on the key alone, so that the same command continues after a
kill and the finished store is byte for byte the one that an unbroken run writes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import polars as pl
import torch
import xxhash
from numpy.typing import NDArray

from moralprobe.activations.plan import Plan, make_plan
from moralprobe.activations.pooling import DEFAULT_POOLINGS, parse_poolings, pool, sink_report
from moralprobe.activations.store import (
    INPUTS,
    KIND,
    LAYOUT,
    STATS,
    ActivationStore,
    TextTable,
    repair_tables,
    tables_of,
    tensor_name,
)
from moralprobe.artifacts import Artifact
from moralprobe.data.prompts import Template, get_template
from moralprobe.errors import DataError, NumericError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Batch, Encoded, chat_frame, encode
from moralprobe.sites import Site, parse_layers

MAX_TOKENS: Final = 128
"""The paper's limit; longer texts are cut at the end, flagged and counted."""
BATCH_TOKENS: Final = 1024


@dataclass(frozen=True)
class Progress:
    """How far an extraction is: texts done of `total`, of which `kept` were there before; bytes."""

    texts: int
    total: int
    kept: int
    bytes: int


@dataclass(frozen=True)
class _Job:
    """What every shard of a run has in common."""

    model: CausalModel
    encoded: list[Encoded]
    names: list[str]
    plan: Plan
    poolings_of: dict[Site, tuple[str, ...]]


def extract(
    model: CausalModel,
    vectors: TextTable,
    out: Path,
    *,
    layers: str = "all",
    poolings: str | Sequence[str] = DEFAULT_POOLINGS,
    template: str = "action-is-morally",
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
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
        batch_tokens: tokens in a batch; what is read together is of equal length, never padded.
        progress: called at the start and after every batch.
        say: called with what a user should know.

    Raises:
        StoreError: the folder belongs to another model, data or choice of options; no space.
        NumericError: NaN or infinity in the states, or a layer that never varies.
        UsageError: a layer, pooling or template that doesn't exist.
        ModelError: the template `chat` and a model without a chat template.
    """
    chosen = parse_layers(layers, model.n_layers)
    names = parse_poolings(poolings if isinstance(poolings, str) else ",".join(poolings))
    if batch_tokens < 1 or max_tokens < 1:
        raise UsageError(
            "token limits must be positive",
            f"{batch_tokens=}, {max_tokens=}",
            "leave out --batch-tokens and --max-tokens to take the usual ones",
        )
    prompt = prompt_of(template, model.tokenizer)
    texts, encoded = encode_texts(model.tokenizer, vectors, prompt, max_tokens)
    plan, key = _plan_and_key(
        model, chosen, names, texts, encoded, prompt, max_tokens, batch_tokens
    )
    out = Path(out)
    tables = tables_of(texts, vectors)
    key["tables"] = {name: xxhash.xxh3_128_hexdigest(data) for name, data in tables.items()}
    with Artifact.lock(out):
        artifact = Artifact.create(out, KIND, key)
        repair_tables(out, tables, key["tables"])
        artifact.clean()
        for name in artifact.foreign():
            say(f"{out / name} isn't part of this store and is ignored")
        for name, what in artifact.problems().items():
            say(f"{name}: {what}; it is computed again")
            artifact.drop_shard(name)
        readable = texts.filter(pl.col("status") == "ok")["text"].to_list()
        poolings_of = {Site("resid_post", layer): names for layer in chosen}
        if inputs := tuple(key["input_poolings"]):
            poolings_of |= dict.fromkeys(INPUTS, inputs)
        _run(_Job(model, encoded, readable, plan, poolings_of), artifact, progress)
    return ActivationStore.open(out)


def _plan_and_key(
    model: CausalModel,
    layers: tuple[int, ...],
    poolings: tuple[str, ...],
    texts: pl.DataFrame,
    encoded: list[Encoded],
    template: Template,
    max_tokens: int,
    batch_tokens: int,
) -> tuple[Plan, dict[str, Any]]:
    """Return the plan, and all that can change a store's bytes."""
    ends = {text.ids[-1] for text in encoded if not text.truncated}
    input_poolings = [name for name in poolings if name != "last" or len(ends) != 1]
    vectors = len(poolings) * len(layers) + len(input_poolings) * len(INPUTS)
    plan = make_plan(
        [len(text) for text in encoded],
        batch_tokens=batch_tokens,
        bytes_per_text=model.dtype.itemsize * model.d_model * vectors
        + 4 * len(STATS) * len(layers),
    )
    return plan, {
        "layout": LAYOUT,
        "model": model.identity,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "template": template.name,
        "prompt": {k: v for k, v in asdict(template).items() if k != "name"},
        "max_tokens": max_tokens,
        "special_tokens": "the chat template's"
        if template.chat
        else "the tokenizer's own, in front",
        "padding": "none: batches of one length",
        "token0_is_content": all(text.token0_is_content for text in encoded),
        "layers": list(layers),
        "poolings": list(poolings),
        "input_poolings": input_poolings,
        "batch_tokens": batch_tokens,
        "texts": texts.height,
        "plan": plan.digest(),
    }


def prompt_of(template: str, tokenizer: Any) -> Template:
    """Return a template by its name; of `chat`, inside what the tokenizer puts around a message.

    Raises:
        UsageError: an unknown template.
        ModelError: the template `chat`, and a tokenizer without a chat template.
    """
    prompt = get_template(template)
    return prompt.inside(*chat_frame(tokenizer)) if prompt.chat else prompt


def encode_texts(
    tokenizer: Any, vectors: TextTable, template: Template, max_tokens: int
) -> tuple[pl.DataFrame, list[Encoded]]:
    """Return the table of distinct texts in reading order, and the tokens of the readable ones."""
    actions = vectors.frame["action"].unique().sort().to_list()
    if not actions:
        raise DataError("the vectors table is empty", "there is no text to read", "build it again")
    encoded = encode(
        tokenizer,
        [template.render(action) for action in actions],
        [template.span(action) for action in actions],
        max_tokens=max_tokens,
        add_special_tokens=not template.chat,
    )
    table = pl.DataFrame(
        {
            "text": actions,
            "status": [
                _status(template.shown(a), e) for a, e in zip(actions, encoded, strict=True)
            ],
            "n_tokens": [len(e) for e in encoded],
            "n_action_tokens": [sum(e.action[1:]) for e in encoded],
            "truncated": [e.truncated for e in encoded],
            "token0_is_content": [e.token0_is_content for e in encoded],
            "_position": range(len(actions)),
        },
        schema_overrides={"n_tokens": pl.Int32, "n_action_tokens": pl.Int32},
    ).sort(pl.col("status") != "ok", "n_tokens", "text")
    if table["status"][0] != "ok":
        raise DataError(
            "no text can be read", f"all {len(actions)} are empty or one token", "check the actions"
        )
    readable = table.filter(pl.col("status") == "ok")["_position"].to_list()
    return table.drop("_position"), [encoded[i] for i in readable]


def _status(action: str, encoded: Encoded) -> str:
    if not action.strip():
        return "empty"
    return "ok" if len(encoded) >= 2 else "one token"


def _run(job: _Job, artifact: Artifact, progress: Callable[[Progress], None] | None) -> None:
    kept = done = sum(row.n for row in artifact.shards.values())

    def step(texts: int) -> None:
        nonlocal done
        done += texts
        if progress is not None:
            written = sum(row.bytes for row in artifact.shards.values())
            progress(Progress(done, len(job.encoded), kept, written))

    step(0)
    for i, shard in enumerate(job.plan.shards):
        name = f"shard-{i:05d}.safetensors"
        if name not in artifact.shards:
            tensors = _read_shard(job, shard, step)
            artifact.add_shard(name, tensors, first=shard[0], last=shard[1] - 1)


def _read_shard(
    job: _Job, shard: tuple[int, int], step: Callable[[int], None]
) -> dict[str, NDArray[Any]]:
    """Run the model over a shard's batches and pool every site as it passes."""
    n = shard[1] - shard[0]
    pooled: dict[Site, torch.Tensor] = {}
    stats = {site: torch.empty(len(STATS), n) for site in job.poolings_of if site not in INPUTS}
    for start, stop in job.plan.batches_of(shard):
        batch = job.model.collate(job.encoded[start:stop])
        rows = slice(start - shard[0], stop - shard[0])
        names = job.names[start:stop]

        def on_hidden(site: Site, hidden: torch.Tensor) -> None:
            states = hidden.float()
            norms = torch.linalg.vector_norm(states, dim=-1)
            _check_finite(norms, site, names)  # noqa: B023
            poolings = job.poolings_of[site]
            vectors = pool(states, norms, batch.mask, batch.action, poolings)  # noqa: B023
            if site not in pooled:
                width = states.shape[-1]  # an embedding table may have one of its own
                pooled[site] = torch.empty(len(poolings), n, width, dtype=job.model.dtype)
            pooled[site][:, rows] = vectors.transpose(0, 1).to("cpu", job.model.dtype)  # noqa: B023
            if site in stats:
                stats[site][:, rows] = torch.stack(sink_report(norms, batch.mask)).cpu()  # noqa: B023
            else:
                _check_tokens_vary(states, batch, site)  # noqa: B023

        job.model.run_taps(batch, tuple(job.poolings_of), on_hidden)
        step(stop - start)
    tensors: dict[str, NDArray[Any]] = {}
    for site, poolings in job.poolings_of.items():
        for k, name in enumerate(poolings):
            tensors[tensor_name(site, name)] = _to_numpy(pooled[site][k])
    for site, values in stats.items():
        _check_varies(pooled[site], site)
        for k, name in enumerate(STATS):
            tensors[tensor_name(site, name)] = values[k].numpy()
    return tensors


def _check_finite(norms: torch.Tensor, site: Site, names: list[str]) -> None:
    if bool(torch.isfinite(norms).all()):
        return
    bad = [names[i] for i in torch.nonzero(~torch.isfinite(norms).all(1)).flatten().tolist()]
    raise NumericError(
        f"{site} holds NaN or infinity",
        f"in {len(bad)} texts of this batch, the first: {bad[0]!r}",
        "use --dtype bf16 or fp32 on weights made for it, and check the weights",
    )


def _check_varies(pooled: torch.Tensor, site: Site) -> None:
    values = pooled.float()
    constant = values.shape[1] > 1 and bool((values == values[:, :1]).all())
    if constant or not bool(values.any()):
        raise _not_fired(site, "for all texts" if bool(values.any()) else "")


def _check_tokens_vary(states: torch.Tensor, batch: Batch, site: Site) -> None:
    """Refuse an input that is the same for different tokens; texts may share all that is pooled."""
    constant = bool((batch.ids != batch.ids[0, 0]).any()) and not bool(
        (states != states[0, 0]).any()
    )
    if constant or not bool(states.any()):
        raise _not_fired(site, "for all tokens" if bool(states.any()) else "")


def _not_fired(site: Site, equal: str) -> NumericError:
    return NumericError(
        f"the tap of {site} did not fire",
        f"its states are equal {equal}" if equal else "its states are all zero",
        "check the model, or name its list of blocks with --layers-path",
    )


def _to_numpy(values: torch.Tensor) -> NDArray[Any]:
    if values.dtype == torch.bfloat16:
        array: NDArray[Any] = values.contiguous().view(torch.int16).numpy()
        return array.view(ml_dtypes.bfloat16)
    return values.contiguous().numpy()
