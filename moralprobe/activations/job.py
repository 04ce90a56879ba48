"""What a run reads and in which order: everything that is decided before the model runs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl
import torch
import xxhash

from moralprobe.activations.cost import bytes_per_text, store_bytes, width_cost
from moralprobe.activations.plan import BATCH_TOKENS, Plan, best_plan
from moralprobe.activations.pooling import DEFAULT_POOLINGS, parse_poolings
from moralprobe.activations.store import INPUTS, LAYOUT, TextTable, tables_of
from moralprobe.data.prompts import Template, get_template
from moralprobe.errors import DataError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.shape import shape_of
from moralprobe.models.sharing import why_not
from moralprobe.models.tokens import Encoded, chat_frame, encode
from moralprobe.sites import Site, parse_layers

MAX_TOKENS: Final = 128
"""The paper's limit; longer texts are cut at the end, flagged and counted."""


@dataclass(frozen=True)
class Options:
    """What a run may be asked for; see `extract`."""

    layers: str = "all"
    poolings: tuple[str, ...] = DEFAULT_POOLINGS
    template: str = "action-is-morally"
    max_tokens: int = MAX_TOKENS
    batch_tokens: int | None = None
    share: bool = True
    shard_bytes: int | None = None


@dataclass(frozen=True)
class Outline:
    """What a store will be, before any state is in it.

    `key` holds all that can change its bytes, `tables` the bytes of its two tables by file name,
    `shards` the plan's, and `size` is about what all of it takes on disk.
    """

    key: dict[str, Any]
    tables: dict[str, bytes]
    shards: tuple[tuple[int, int], ...]
    size: int

    @property
    def n_texts(self) -> int:
        """How many texts are read."""
        return self.shards[-1][1]


@dataclass(frozen=True)
class Job:
    """What every shard of a run has in common.

    `encoded` and `names` are the readable texts in the plan's order, as tokens and as they are;
    `poolings_of` says what is kept of which site.
    """

    model: CausalModel
    encoded: list[Encoded]
    names: list[str]
    plan: Plan
    poolings_of: dict[Site, tuple[str, ...]]
    outline: Outline


def make_job(
    model: CausalModel,
    vectors: TextTable,
    options: Options,
    say: Callable[[str], None] = lambda message: None,
) -> Job:
    """Decide what a run reads: the same arguments give the same job, in any process.

    Raises:
        UsageError: a layer, pooling or template that doesn't exist, or a limit below 1.
        DataError: no text can be read.
        ModelError: the template `chat` and a model without a chat template.
    """
    layers = parse_layers(options.layers, model.n_layers)
    poolings = parse_poolings(",".join(options.poolings))
    max_tokens, batch_tokens = options.max_tokens, options.batch_tokens
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
    if batch_tokens < 1 or max_tokens < 1:
        raise UsageError(
            "token limits must be positive",
            f"{batch_tokens=}, {max_tokens=}",
            "leave out --batch-tokens and --max-tokens to take the usual ones",
        )
    template = prompt_of(options.template, model.tokenizer)
    texts, encoded = encode_texts(model.tokenizer, vectors, template, max_tokens)
    ends = {text.ids[-1] for text in encoded if not text.truncated}
    input_poolings = tuple(name for name in poolings if name != "last" or len(ends) != 1)
    n_vectors = len(poolings) * len(layers) + len(input_poolings) * len(INPUTS)
    of_store = len(layers), n_vectors, model.d_model, model.dtype.itemsize
    sizes: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "bytes_per_text": bytes_per_text(*of_store),
        "shard_bytes": options.shard_bytes,
        "width_cost": width_cost(shape_of(model)),
    }
    ids = [text.ids for text in encoded]
    plan = best_plan(ids, share=options.share, **sizes)
    if plan.blocks:
        in_order = sorted(encoded, key=lambda text: text.ids)
        if why := why_not(model, in_order, max(layers), tree_tokens=max(plan.nodes)):
            say(f"common beginnings are read again for every text: {why}")
            plan = best_plan(ids, share=False, **sizes)
    texts = texts[
        [*plan.order, *range(len(encoded), texts.height)]
    ]  # what can't be read comes last
    encoded = [encoded[i] for i in plan.order]
    poolings_of = {Site("resid_post", layer): poolings for layer in layers}
    if input_poolings:
        poolings_of |= dict.fromkeys(INPUTS, input_poolings)
    tables = tables_of(texts, vectors)
    key = {
        "layout": LAYOUT,
        "model": model.identity,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "torch": torch.__version__,
        "polars": importlib.metadata.version("polars"),  # writes its name into the tables
        "transformers": importlib.metadata.version("transformers"),
        "template": template.name,
        "prompt": {k: v for k, v in asdict(template).items() if k != "name"},
        "max_tokens": max_tokens,
        "special_tokens": "the chat template's"
        if template.chat
        else "the tokenizer's own, in front",
        "batches": "trees of common beginnings" if plan.blocks else "texts of one length",
        "token0_is_content": all(text.token0_is_content for text in encoded),
        "layers": list(layers),
        "poolings": list(poolings),
        "input_poolings": list(input_poolings),
        "batch_tokens": batch_tokens,
        "texts": texts.height,
        "plan": plan.digest(),
        "tables": {name: xxhash.xxh3_128_hexdigest(data) for name, data in tables.items()},
    }
    names = texts.filter(pl.col("status") == "ok")["text"].to_list()
    size = store_bytes(plan, *of_store) + sum(map(len, tables.values()))
    outline = Outline(key, tables, plan.shards, size)
    return Job(model, encoded, names, plan, poolings_of, outline)


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
