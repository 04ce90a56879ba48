"""The token states of a table's texts at one layer: what is measured, tuned and steered by text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy import sparse

from moralprobe.activations.distinct import Tokens, token_paths
from moralprobe.activations.job import MAX_TOKENS, encode_texts, prompt_of
from moralprobe.activations.stream import counting, read_tokens, sink_limits
from moralprobe.data.prompts import Template
from moralprobe.data.texts import Texts
from moralprobe.errors import DataError
from moralprobe.foundations import POLES
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import MoralVectors


@dataclass(frozen=True)
class TableTexts:
    """The distinct texts of a table that can be read, and what was judged of them.

    Texts that differ in case or blanks alone count once: `moral` [texts, 10] are the means of
    their moral vectors. `split` says to which part each belongs, `encoded` are its tokens;
    `group` is what a table's rows know it by.
    """

    texts: list[str]
    group: list[str]
    moral: NDArray[np.float64]
    split: NDArray[np.str_]
    encoded: tuple[Encoded, ...]


def table_texts(
    model: CausalModel,
    vectors: MoralVectors,
    *,
    template: str | Template = "action-is-morally",
    max_tokens: int = MAX_TOKENS,
) -> TableTexts:
    """Return the distinct texts of a table as a model's tokens.

    Args:
        model: from `load_model`.
        vectors: the table.
        template: what stands around each action, or the name of one of `TEMPLATES`.
        max_tokens: longer texts are cut.

    Raises:
        DataError: no text can be read.
    """
    frame = vectors.frame.unique("row", keep="first", maintain_order=True)
    by_text = frame.group_by("group", maintain_order=True).agg(
        pl.col("action").first(), *(pl.col(pole).mean() for pole in POLES), pl.col("split").first()
    )
    actions = Texts(by_text["action"].to_list())
    prompt = prompt_of(template, model.tokenizer) if isinstance(template, str) else template
    table, encoded = encode_texts(model.tokenizer, actions, prompt, max_tokens)
    table = table.filter(pl.col("status") == "ok").with_columns(at=pl.int_range(pl.len()))
    by_text = by_text.join(table, left_on="action", right_on="text", maintain_order="left")
    if not by_text.height:
        raise DataError("no text of the table can be read", "", "give a table of actions")
    return TableTexts(
        by_text["action"].to_list(),
        by_text["group"].cast(pl.String).to_list(),
        by_text.select(POLES).to_numpy().astype(np.float64),
        by_text["split"].to_numpy().astype(np.str_),
        tuple(encoded[i] for i in by_text["at"]),
    )


def rows_of_split(
    texts: TableTexts, vectors: MoralVectors, split: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of a table's split as the paper counts them, one for every axis of an action.

    Args:
        texts: of the table.
        vectors: the table.
        split: train, dev or test.

    Returns:
        Which of the texts each row is of, [rows], and its own moral vector, [rows, 10]; rows of
        texts that can't be read are left out.

    Source: arXiv 2603.15615, released script `extract-activations-all.py`.
    """
    place = {group: i for i, group in enumerate(texts.group)}
    frame = vectors.frame.filter(pl.col("split") == split)
    at = np.array([place.get(str(group), -1) for group in frame["group"]], np.int64)
    moral = frame.select(POLES).to_numpy().astype(np.float64)
    return at[at >= 0], moral[at >= 0]


@dataclass(frozen=True)
class TextStates:
    """What leaves a layer at every token of some texts, each token in its context once.

    `states` [tokens, d_model] are in the model's dtype; `kept` [tokens] says which are no sinks;
    `paths` [texts, tokens] is 1 where a token that is kept stands in a text.
    """

    states: torch.Tensor
    kept: NDArray[np.bool_]
    paths: sparse.csr_array
    sink_norm: float

    @cached_property
    def means(self) -> sparse.csr_array:
        """[texts, tokens]: times what tokens have it is each text's mean, 0 without a token."""
        counts = np.maximum(self.paths.sum(axis=1), 1)
        return sparse.csr_array(sparse.diags_array(1 / counts) @ self.paths)

    def mean_unit(self) -> NDArray[np.float32]:
        """Return each text's mean of states at unit norm, [texts, d_model]."""
        x = self.states.float()
        unit = (x / x.norm(dim=-1, keepdim=True)).cpu().numpy()
        means: NDArray[np.float32] = self.means @ unit
        return means


def text_states(
    model: CausalModel,
    texts: TableTexts,
    layer: int,
    *,
    sink_norm: float | None = None,
    reading: Callable[[int, int], None] = lambda done, total: None,
) -> TextStates:
    """Read the token states of texts at a layer; token 0 is never among them.

    Args:
        model: from `load_model`.
        texts: from `table_texts` of the same model.
        layer: decoder block, counted from 0.
        sink_norm: above which a token is a sink; five times the median of some texts, if not given.
        reading: called while the model reads, with tokens read and their number.

    Raises:
        NumericError: NaN or infinity in the states.
    """
    tokens = Tokens.distinct(texts.encoded)
    step = counting(reading, len(tokens))
    if sink_norm is None:
        sink_norm = sink_limits(model, tokens, [layer])[layer]
    states = read_tokens(model, tokens, [layer], step=step)[layer]
    kept = (states.float().norm(dim=-1) <= sink_norm).cpu().numpy()
    paths = token_paths(texts.encoded, tokens) @ sparse.diags_array(kept.astype(np.float32))
    return TextStates(states, kept, sparse.csr_array(paths), sink_norm)
