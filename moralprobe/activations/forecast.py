"""What reading a table with each of several models would cost, before anything is started."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
import xxhash

from moralprobe.activations.cost import (
    BYTES,
    PEAK_TFLOPS,
    UTILISATION,
    Cost,
    bytes_per_text,
    cost_of,
    width_cost,
)
from moralprobe.activations.plan import BATCH_TOKENS, best_plan
from moralprobe.activations.store import INPUTS, TextTable
from moralprobe.data.prompts import get_template
from moralprobe.errors import DataError, UsageError, nearest
from moralprobe.models.registry import models as registered
from moralprobe.models.shape import Shape, local_folder, local_tokenizer, model_shape
from moralprobe.sites import parse_layers

STAND_IN: Final = "smollm2-135m"
"""Whose tokenizer counts for a model whose own isn't on this machine."""
CHARACTERS_PER_TOKEN: Final = 4
"""Where not even the stand-in is installed: a rule of thumb for English."""

Texts = list[list[Any]]
"""Each text's tokens."""
Counter = Callable[[Path | None], tuple[Texts, str]]


def plan_extraction(
    models: str | Sequence[str],
    vectors: TextTable,
    *,
    layers: str = "all",
    poolings: str | Sequence[str] = ("mean", "mean_unit", "mean_no_sink", "last"),
    template: str = "action-is-morally",
    dtype: str = "bf16",
    max_tokens: int = 128,
    batch_tokens: int = BATCH_TOKENS["cuda"],
    share: bool = True,
    device_tflops: float = UTILISATION * PEAK_TFLOPS,
) -> list[Cost]:
    """Return what `extract` would cost with each model: tokens, FLOPs, disk, memory, GPU-hours.

    Nothing is fetched and no model is run. Tokens are counted by the model's own tokenizer where it
    is on this machine; elsewhere another one stands in, and the row is marked `estimated`.

    Args:
        models: `paper` for the registry's, or ids, folders and packaged names, joined by commas.
        vectors: the table whose texts would be read.
        layers: `all`, `12`, `8-20:2`, ...
        poolings: names of `activations.pooling.POOLINGS`.
        template: name of a template in `data.prompts`.
        dtype: `bf16` or `fp32`.
        max_tokens: longer texts are cut at the end.
        batch_tokens: at most so many tokens in a batch.
        share: as in `extract`; believed of a model whose config isn't on this machine.
        device_tflops: sustained throughput, in TFLOP/s; 40 % of an H100's dense bf16 peak.

    Returns:
        A `Cost` a model, in the order asked for.

    Raises:
        ModelError: a model that isn't known here.
        UsageError: a layer, pooling, template or dtype that doesn't exist, a throughput or a limit
            that isn't positive.
        DataError: a table without a text that can be read.
    """
    from moralprobe.activations.pooling import parse_poolings
    from moralprobe.models.sharing import folder_says

    if dtype not in BYTES:
        raise UsageError(f"unknown dtype {dtype!r}", nearest(dtype, BYTES), "choose one of these")
    if not (math.isfinite(device_tflops) and min(device_tflops, batch_tokens, max_tokens) > 0):
        raise UsageError(
            "throughput and token limits must be positive",
            f"{device_tflops=}, {batch_tokens=}, {max_tokens=}",
            "leave the options out to take the usual ones",
        )
    names = parse_poolings(poolings if isinstance(poolings, str) else ",".join(poolings))
    prompt = get_template(template)
    # Where a template ends all texts alike, their inputs have no `last` (see `extract`).
    alike = prompt.chat or bool(prompt.after)
    of_inputs = [name for name in names if name != "last" or not alike]
    # All names are looked up before any text is counted: a slip of the pen shouldn't wait.
    shapes = [model_shape(name) for name in parse_models(models)]
    chosen = [_layers_of(shape, layers) for shape in shapes]
    count = _counter(vectors, template, max_tokens)
    table_bytes = _table_bytes(vectors)
    costs = []
    for shape, kept in zip(shapes, chosen, strict=True):
        tokens, stand_in = count(shape.folder)
        n_vectors = len(kept) * len(names) + len(INPUTS) * len(of_inputs)
        plan = best_plan(
            tokens,
            width_cost=width_cost(shape),
            share=share and not folder_says(shape.folder, max(map(len, tokens))),
            batch_tokens=batch_tokens,
            bytes_per_text=bytes_per_text(len(kept), n_vectors, shape.d_model, BYTES[dtype]),
        )
        costs.append(
            cost_of(
                shape,
                plan,
                layers=kept,
                n_vectors=n_vectors,
                dtype=dtype,
                table_bytes=table_bytes,
                device_tflops=device_tflops,
                tokens_by=stand_in or "its own tokenizer",
                estimated=bool(stand_in),
            )
        )
    return costs


def parse_models(models: str | Sequence[str]) -> list[str]:
    """Read `paper`, one model, or several joined by commas; each is named once.

    Raises:
        UsageError: no model is named.
    """
    if isinstance(models, str):
        # A folder may have a comma in its name.
        models = [models] if Path(models).is_dir() else models.split(",")
    names: dict[str, None] = {}
    for name in (part.strip() for part in models):
        names |= dict.fromkeys([m.id for m in registered()] if name == "paper" else [name])
    names.pop("", None)
    if not names:
        raise UsageError("no model is named", f"{models!r} holds none", "write paper, or an id")
    return list(names)


def _layers_of(shape: Shape, layers: str) -> tuple[int, ...]:
    try:
        return parse_layers(layers, shape.n_layers)
    except UsageError as error:
        raise UsageError(f"{shape.id}: {error.what}", error.why, error.instead) from error


def _counter(vectors: TextTable, template: str, max_tokens: int) -> Counter:
    """Return a function of a model's folder: its texts' tokens, and who stood in, if anyone."""
    counted: dict[str, Texts] = {}

    def by_tokenizer(tokenizer: Any) -> Texts:
        from moralprobe.activations.job import encode_texts, prompt_of

        # Models of one family share a tokenizer: the texts are counted once.
        key = xxhash.xxh3_128_hexdigest(tokenizer.backend_tokenizer.to_str().encode())
        if key not in counted:
            prompt = prompt_of(template, tokenizer)
            _, encoded = encode_texts(tokenizer, vectors, prompt, max_tokens)
            counted[key] = [text.ids for text in encoded]
        return counted[key]

    def by_stand_in() -> tuple[Texts, str]:
        folder = local_folder(STAND_IN)
        if folder is not None and (tokenizer := local_tokenizer(folder)) is not None:
            return by_tokenizer(tokenizer), f"~{STAND_IN}"
        tokens = _by_characters(vectors, template, max_tokens)
        return tokens, f"~{CHARACTERS_PER_TOKEN} characters a token"

    stood_in: list[tuple[Texts, str]] = []

    def count(folder: Path | None) -> tuple[Texts, str]:
        if folder is not None and (tokenizer := local_tokenizer(folder)) is not None:
            return by_tokenizer(tokenizer), ""
        if not stood_in:
            stood_in.append(by_stand_in())
        return stood_in[0]

    return count


def _by_characters(vectors: TextTable, template_name: str, max_tokens: int) -> Texts:
    template = get_template(template_name)
    texts = [text for text in vectors.frame["action"].unique().to_list() if text.strip()]
    if not texts:
        raise DataError(
            "no text can be read", "the table is empty, or its texts are", "check the actions"
        )
    n = CHARACTERS_PER_TOKEN
    rendered = [template.render(text) for text in texts]
    return [[text[i : i + n] for i in range(0, len(text), n)][:max_tokens] for text in rendered]


def _table_bytes(vectors: TextTable) -> int:
    """Return about what a store's two tables take: of the texts' table, the texts."""
    buffer = io.BytesIO()
    pl.DataFrame({"text": vectors.frame["action"].unique().sort()}).write_parquet(buffer)
    return len(vectors.to_bytes()) + buffer.tell()
