"""Texts to token ids, and batches of them: which token is first, last, or part of the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch

from moralprobe.errors import DataError, ModelError
from moralprobe.models.prefixes import ancestors, grow

PaddingSide = Literal["left", "right"]

_HOLE: Final = "moralprobe-message"
_AT_ONCE: Final = 2048  # texts that are tokenized together
# Some chat templates print today's date: a store must not depend on the day that it was made.
_FIXED_DATE: Final = (
    "{% macro strftime_now(format) %}"
    "{{ format.replace('%Y', '2024').replace('%y', '24').replace('%B', 'July')"
    ".replace('%b', 'Jul').replace('%m', '07').replace('%d', '26') }}"
    "{% endmacro %}\n"  # the sandbox drops one line end after a block
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as tokens.

    `ids` holds the tokenizer's leading special tokens (BOS where it adds one) and no trailing ones:
    the last token is always the text's own. `action` marks the tokens that overlap the action.
    """

    ids: list[int]
    action: list[bool]
    truncated: bool
    token0_is_content: bool

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tree:
    """Where a batch's tokens stand when its texts share their beginnings (`models.prefixes`).

    `positions` [blocks, nodes] of each token in its texts; `attention` [blocks, 1, nodes, nodes] is
    added to attention scores. `nodes` [texts, tokens] are each text's nodes in its own block, any
    where its `mask` is false; `block` [texts] is that block and `row` [texts] its place there.
    """

    positions: torch.Tensor
    attention: torch.Tensor
    nodes: torch.Tensor
    block: torch.Tensor
    row: torch.Tensor
    rows: int


@dataclass(frozen=True)
class Batch:
    """Texts as tensors: `mask` and `action` are [texts, tokens], and so is `ids` without a `tree`.

    With one, `ids` are [blocks, nodes]. `padded` says whether any sequence in `ids` is shorter than
    the tensor, and needs a mask.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    action: torch.Tensor
    padded: bool
    tree: Tree | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; itself, where it is there."""
        if self.ids.device == device:
            return self
        moved: Batch = _moved(self, device)
        return moved

    def of_texts(self, values: torch.Tensor) -> torch.Tensor:
        """Return what belongs to each text's tokens, [texts, tokens, ...], of what `ids` have."""
        return values if self.tree is None else values[self.tree.block[:, None], self.tree.nodes]

    def sums(self, weights: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Add up each text's states by several sets of weights, each in one matrix product a row.

        Args:
            weights: [texts, sets, tokens], zero where `mask` is false.
            states: what `ids` have, [rows of ids, tokens or nodes, d], of the weights' dtype and
                finite everywhere.

        Returns:
            [texts, sets, d].
        """
        tree = self.tree
        if tree is None:
            return torch.bmm(weights, states)
        sets = weights.shape[1]
        blocks, nodes = self.ids.shape
        # A state that several texts share is multiplied where it stands, never copied.
        of_nodes = weights.new_zeros(blocks, tree.rows, sets, nodes)
        at = (tree.block * tree.rows + tree.row)[:, None] * sets + torch.arange(
            sets, device=weights.device
        )
        flat = at[:, :, None] * nodes + tree.nodes[:, None]
        of_nodes.view(-1).scatter_add_(0, flat.flatten(), weights.flatten())
        added = torch.bmm(of_nodes.view(blocks, tree.rows * sets, nodes), states)
        return added.view(blocks, tree.rows, sets, -1)[tree.block, tree.row]


def _moved(value: Any, device: torch.device) -> Any:
    """Return a dataclass of tensors on another device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    moved = {f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
    return replace(value, **moved)


def chat_frame(
    tokenizer: Any,
    *,
    system: str | None = None,
    turns: Sequence[tuple[str, str]] = (),
    thinking: bool | None = None,
) -> tuple[str, str]:
    """Return what the tokenizer's chat template puts before and after one message of a user.

    The text ends where the model's answer would begin. A date in it is always 26 July 2024.

    Args:
        tokenizer: of transformers.
        system: a system message before the user's.
        turns: what was said before, a user's message and the answer each.
        thinking: what the template is told of `enable_thinking`; nothing, if not given.

    Raises:
        ModelError: no chat template, or one that doesn't hold the message once and unchanged, or
            that leaves the system message or a turn out.
        DataError: a system message or a turn that spells a token of the template's own: it would
            be read as one, and forge a role.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "this model has no chat template",
            "its tokenizer names none",
            "choose another --template, or a model that was tuned to chat",
        )
    # Some tokenizers add tokens of blanks or of markup, which say nothing of roles.
    control = [
        str(token)
        for token in tokenizer.added_tokens_decoder.values()
        if str(token).strip() and (token.special or str(token) in tokenizer.get_chat_template())
    ]
    before_it = [*([system] if system is not None else []), *(t for turn in turns for t in turn)]
    if forged := [token for token in control for text in before_it if token in text]:
        raise DataError(
            f"{'a turn' if turns else 'the system message'} spells one of the model's own control "
            "tokens",
            f"it holds {forged[0]!r}",
            "write it otherwise",
        )
    asked = [{"role": "system", "content": system}] if system is not None else []
    for said, answer in turns:
        asked += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    told = {} if thinking is None else {"enable_thinking": thinking}
    try:
        rendered: str = tokenizer.apply_chat_template(
            [*asked, {"role": "user", "content": _HOLE}],
            chat_template=_FIXED_DATE + tokenizer.get_chat_template(),
            add_generation_prompt=True,
            tokenize=False,
            **told,
        )
    except (TemplateError, ValueError) as error:
        raise ModelError(
            "this model's chat template can't be used",
            f"on one message of a user it fails: {error}",
            "choose another --template",
        ) from error
    before, *rest = rendered.split(_HOLE)
    if len(rest) != 1:
        raise ModelError(
            "this model's chat template can't be used",
            f"it gives one message of a user {len(rest)} times",
            "choose another --template",
        )
    if system is not None and system.strip() not in before:
        raise ModelError(
            "this model's chat template has no place for a system message",
            "what it gives doesn't hold it",
            "leave the system message out",
        )
    if left_out := [text for turn in turns for text in turn if text.strip() not in before]:
        raise ModelError(
            "this model's chat template leaves out what was said before",
            f"what it gives doesn't hold {left_out[0][:40]!r}",
            "ask without a dialogue",
        )
    return before, rest[0]


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    spans: Sequence[tuple[int, int]],
    *,
    max_tokens: int,
    add_special_tokens: bool = True,
) -> list[Encoded]:
    """Tokenize texts with the tokenizer's own special tokens in front.

    Args:
        tokenizer: a fast transformers tokenizer (offsets are needed to find the action).
        texts: what the model reads.
        spans: where the action stands in each text, as character offsets.
        max_tokens: longer texts are cut at the end and marked `truncated`.
        add_special_tokens: false for texts that spell theirs out, as those of a chat template do.

    Raises:
        ModelError: a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "this tokenizer can't say where tokens stand in the text",
            f"{type(tokenizer).__name__} is not a fast tokenizer",
            "load the model with its tokenizer.json",
        )
    spelled_out = frozenset(tokenizer.all_special_ids)
    columns = ("input_ids", "offset_mapping", "special_tokens_mask")
    same: dict[int, int] = {}
    encoded: list[Encoded] = []
    # Some at a time: what the tokenizer says of a token takes many times the room of its id.
    for at in range(0, len(texts), _AT_ONCE):
        found = tokenizer(
            list(texts[at : at + _AT_ONCE]),
            add_special_tokens=add_special_tokens,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        rows = zip(*(found[c] for c in columns), spans[at : at + _AT_ONCE], strict=True)
        for ids, offsets, special, span in rows:
            shared_ids = [same.setdefault(i, i) for i in ids]
            encoded.append(_one(shared_ids, offsets, special, span, max_tokens, spelled_out))
    return encoded


def _one(
    ids: list[int],
    offsets: list[tuple[int, int]],
    special: list[int],
    span: tuple[int, int],
    max_tokens: int,
    spelled_out: frozenset[int],
) -> Encoded:
    end = len(ids)
    while end > 0 and special[end - 1]:
        end -= 1
    truncated = end > max_tokens
    end = min(end, max_tokens)
    low, high = span
    action = [
        not s and a < high and b > low
        for (a, b), s in zip(offsets[:end], special[:end], strict=True)
    ]
    token0_is_content = end > 0 and not special[0] and ids[0] not in spelled_out
    return Encoded(ids[:end], action, truncated, token0_is_content)


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, side: PaddingSide, device: torch.device
) -> Batch:
    """Stack token sequences, padding the shorter ones on one side."""
    longest = max(len(text) for text in encoded)

    def stack(rows: Sequence[Sequence[Any]], filler: Any) -> torch.Tensor:
        padding = [[filler] * (longest - len(row)) for row in rows]
        both = zip(padding, rows, strict=True)
        return torch.tensor(
            [[*gap, *row] if side == "left" else [*row, *gap] for gap, row in both], device=device
        )

    return Batch(
        ids=stack([text.ids for text in encoded], pad_id),
        mask=stack([[True] * len(text) for text in encoded], False),
        action=stack([text.action for text in encoded], False),
        padded=any(len(text) != longest for text in encoded),
    )


def collate_trees(
    blocks: Sequence[Sequence[Encoded]], *, dtype: torch.dtype, device: torch.device
) -> Batch:
    """Stack runs of sorted texts as trees.

    What fills up the smaller ones is their first token again, which sees itself only: a padding id
    may be none that the model has.

    Args:
        blocks: the texts of each run, in lexicographic order of their ids.
        dtype: of the mask that is added to attention scores.
        device: where the model reads.
    """
    trees = [grow([text.ids for text in block]) for block in blocks]
    texts = [text for block in blocks for text in block]
    nodes = max(len(tree.ids) for tree in trees)
    longest = max(len(text) for text in texts)
    ids = np.zeros((len(trees), nodes), np.int64)
    positions = np.zeros((len(trees), nodes), np.int64)
    sees = np.zeros((len(trees), nodes, nodes), np.bool_)
    sees[:, np.arange(nodes), np.arange(nodes)] = True
    at = np.zeros((len(texts), longest), np.int64)
    mask = np.zeros((len(texts), longest), np.bool_)
    action = np.zeros((len(texts), longest), np.bool_)
    for b, tree in enumerate(trees):
        n = len(tree.ids)
        ids[b, :n], ids[b, n:], positions[b, :n] = tree.ids, tree.ids[0], tree.depth
        sees[b, :n, :n] = ancestors(tree)
    for t, (text, path) in enumerate(
        zip(texts, (path for tree in trees for path in tree.paths), strict=True)
    ):
        at[t, : len(path)] = path
        mask[t, : len(path)] = True
        action[t, : len(path)] = text.action
    sizes = [len(block) for block in blocks]
    allowed = torch.from_numpy(sees).to(device)
    attention = torch.zeros(allowed.shape, dtype=dtype, device=device)
    attention.masked_fill_(~allowed, torch.finfo(dtype).min)
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        mask=torch.from_numpy(mask).to(device),
        action=torch.from_numpy(action).to(device),
        padded=False,
        tree=Tree(
            positions=torch.from_numpy(positions).to(device),
            attention=attention[:, None],
            nodes=torch.from_numpy(at).to(device),
            block=torch.tensor([b for b, n in enumerate(sizes) for _ in range(n)], device=device),
            row=torch.tensor([r for n in sizes for r in range(n)], device=device),
            rows=max(sizes),
        ),
    )
