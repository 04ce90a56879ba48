"""Embedding rows of a word, changed by a hook: the weights stay as they are.

What stands before the word's first token doesn't depend on its rows: it is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
import xxhash

from moralprobe.errors import DataError, ModelError
from moralprobe.models.causal import CausalModel
from moralprobe.models.chat import encode_prompts, has_chat
from moralprobe.models.tokens import Encoded

QUESTION: Final = "{text}\n\nJudge this through {word}. How morally acceptable is it?"
BATCH: Final = 8
HELD_BYTES: Final = 2 << 30
"""About what is kept of what stands before the word; what is more is read anew every time."""
_AGREE: Final = 1e-2  # relative; of states read in one part and in two
_STEPS: Final = 30  # of the search for the cap


@dataclass(frozen=True)
class Rows:
    """Rows of the input embeddings and what is added to them: `ids` [n], `delta` [n, d] fp32."""

    ids: torch.Tensor
    delta: torch.Tensor

    def base(self, model: CausalModel) -> torch.Tensor:
        """Return what the model's embedding gives for the ids, [n, d] fp32 on its device."""
        with torch.no_grad():
            given: torch.Tensor = model.decoder.embedding(self.ids.to(model.device))
        return given.float()

    def drift(self, model: CausalModel) -> torch.Tensor:
        """Return each row's cosine distance from where it was, [n], 0 to 2."""
        base = self.base(model)
        return 1 - torch.cosine_similarity(base + self.delta.to(base.device), base, dim=-1)

    def capped(self, model: CausalModel, most: float) -> Rows:
        """Return rows that are moved as far as the cosine distance allows, and no farther."""
        if bool((self.drift(model) <= most).all()):
            return self
        base, delta = self.base(model), self.delta.to(model.device)
        low, high = torch.zeros(len(base), 1, device=base.device), torch.ones_like(base[:, :1])
        for _ in range(_STEPS):
            middle = (low + high) / 2
            far = 1 - torch.cosine_similarity(base + middle * delta, base, dim=-1) > most
            low = torch.where(far[:, None], low, middle)
            high = torch.where(far[:, None], middle, high)
        over = self.drift(model).to(base.device)[:, None] > most
        return Rows(self.ids, torch.where(over, low, torch.ones_like(low)) * delta)


@contextmanager
def changed_rows(model: CausalModel, rows: Rows) -> Iterator[None]:
    """Add to the embeddings of some token ids while the block runs, wherever they stand.

    Input and output embeddings may be one matrix; only what is read at the input changes.

    Raises:
        ModelError: an embedding that never ran within the block.
    """
    ran = False
    ids = rows.ids.to(model.device)

    def hook(_module: object, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        nonlocal ran
        ran = True
        here = (args[0][..., None] == ids).to(rows.delta.dtype)  # [batch, tokens, n]
        added: torch.Tensor = here @ rows.delta.to(here.device)
        return output + added.to(output.dtype)

    handle = model.decoder.embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not ran:
        raise ModelError(
            "the embedding's hook never ran",
            "the model reads its tokens elsewhere",
            "use a model whose get_input_embeddings() reads token ids",
        )


def prompt_tokens(
    model: CausalModel, texts: Sequence[str], spans: Sequence[tuple[int, int]]
) -> list[Encoded]:
    """Return prompts as tokens, those of each span marked as its action.

    Raises:
        DataError: an empty prompt.
    """
    chat = has_chat(model.tokenizer)
    return encode_prompts(
        model.tokenizer,
        list(texts),
        chat=chat,
        thinking=False if chat else None,
        spans=spans,
    )


def prompts_of(model: CausalModel, texts: Sequence[str], word: str) -> list[Encoded]:
    """Return the questions that name a word, as tokens, those of the word marked."""
    asked = [QUESTION.format(text=text, word=word) for text in texts]
    tail = len(QUESTION.format(text="", word=word)) - len("\n\nJudge this through ")
    spans = [(len(one) - tail, len(one) - tail + len(word)) for one in asked]
    return prompt_tokens(model, asked, spans)


def marked_ids(encoded: Sequence[Encoded]) -> list[int]:
    """Return the ids of the marked tokens, which are the same in all prompts.

    Raises:
        DataError: they differ, or there are none.
    """
    found = {tuple(i for i, own in zip(t.ids, t.action, strict=True) if own) for t in encoded}
    n = len(found)
    if n != 1 or not (ids := found.pop()):
        raise DataError(
            "the word isn't the same tokens everywhere",
            f"it is spelled in {n} ways in these prompts" if n > 1 else "no prompt holds it",
            "choose another word",
        )
    return sorted(set(ids))


@dataclass(frozen=True)
class _Batch:
    """Prompts padded on the left: where they stand among all, and what is read of them."""

    places: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    cut: int
    past: list[tuple[torch.Tensor, torch.Tensor]]


class Reader:
    """Reads the last token's final state of prompts whose embedding rows change.

    Args:
        model: from `load_model`.
        encoded: the prompts; each ends where the model would answer.
        ids: token ids whose rows change. What stands before the first of them in a batch is read
            once and kept, where the model gives the same states so.
        parts: prompts by the name of their part, read in batches of their own; all of them in one,
            if not given. `of` says which batches each part has.
    """

    def __init__(
        self,
        model: CausalModel,
        encoded: Sequence[Encoded],
        ids: Sequence[int],
        parts: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.model = model
        self.n = len(encoded)
        self.of: dict[str, list[int]] = {}
        batches: list[list[int]] = []
        for name, some in (parts or {"all": range(self.n)}).items():
            order = sorted(map(int, some), key=lambda i: (len(encoded[i]), i))
            cuts = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
            self.of[name] = list(range(len(batches), len(batches) + len(cuts)))
            batches += cuts
        self._ids = torch.tensor(sorted(ids), device=model.device)
        self._split, self._held = True, 0
        # The longest are tried: a window may be shorter than they are, and longer than the others.
        longest = max(batches, key=lambda some: len(encoded[some[-1]]), default=[])
        self._split = bool(longest) and self._agrees([encoded[i] for i in longest])
        self._held = 0
        self.batches = [self._batch(some, [encoded[i] for i in some]) for some in batches]

    def states(self, batch: int, rows: Rows | None) -> tuple[list[int], torch.Tensor]:
        """Return which prompts a batch holds, and their states [prompts, d] fp32.

        Gradients go to the rows; the model's own weights have none.
        """
        held = self.batches[batch]
        return held.places, self._read(held, rows)

    @torch.no_grad()
    def all_states(self, rows: Rows | None) -> torch.Tensor:
        """Return every prompt's state, [prompts, d] fp32."""
        found = torch.empty(self.n, self.model.d_model, device=self.model.device)
        for k in range(len(self.batches)):
            places, states = self.states(k, rows)
            found[places] = states
        return found

    def _batch(self, places: list[int], encoded: Sequence[Encoded]) -> _Batch:
        batch = self.model.collate(encoded, side="left")
        mask = batch.mask.long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cut = self._cut(batch.ids, batch.mask)
        past = self._past(batch.ids, mask, positions, cut) if cut else []
        self._held += sum(k.nbytes + v.nbytes for k, v in past)
        if self._held > HELD_BYTES:  # the others are read whole every time
            self._split = False
        return _Batch(places, batch.ids, mask, positions, cut, past)

    def _cut(self, ids: torch.Tensor, mask: torch.Tensor) -> int:
        """Return up to where no prompt of a batch holds a changed row; the last token stays."""
        if not self._split:
            return 0
        here = (torch.isin(ids, self._ids) & mask).any(0)
        first = int(here.int().argmax()) if bool(here.any()) else ids.shape[1]
        return max(0, min(first, ids.shape[1] - 1))

    @torch.no_grad()
    def _past(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cut: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        out = self.model.decoder.module(
            input_ids=ids[:, :cut],
            attention_mask=mask[:, :cut],
            position_ids=positions[:, :cut],
            use_cache=True,
        )
        layers = out.past_key_values.layers
        return [(layer.keys.detach(), layer.values.detach()) for layer in layers]

    def _read(self, held: _Batch, rows: Rows | None) -> torch.Tensor:
        from transformers import DynamicCache

        inputs: dict[str, Any] = {
            "input_ids": held.ids[:, held.cut :],
            "attention_mask": held.mask,
            "position_ids": held.positions[:, held.cut :],
            "use_cache": bool(held.past),
        }
        if held.past:
            inputs["past_key_values"] = DynamicCache(held.past)
        with _frozen(self.model), changed_rows(self.model, rows) if rows else nullcontext():
            out = self.model.decoder.module(**inputs)
        last: torch.Tensor = out.last_hidden_state[:, -1].float()
        return last

    @torch.no_grad()
    def _agrees(self, encoded: Sequence[Encoded]) -> bool:
        """Try whether a model gives the same states in two parts as in one."""
        places = list(range(len(encoded)))
        try:
            parts = self._read(self._batch(places, encoded), None)
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError):
            return False  # its memory of what was read is of another kind
        self._split = False
        whole = self._read(self._batch(places, encoded), None)
        return float((parts - whole).norm() / whole.norm()) < _AGREE


@contextmanager
def _frozen(model: CausalModel) -> Iterator[None]:
    """Take no gradients of weights while the block runs."""
    own = [p for p in model.model.parameters() if p.requires_grad]
    for p in own:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in own:
            p.requires_grad_(True)


def nearest_rows(model: CausalModel, rows: Rows, n: int = 5) -> list[tuple[list[int], list[int]]]:
    """Return each row's nearest other rows by cosine, before and after it was moved."""
    (weight,) = (p.detach().float() for p in model.decoder.embedding.parameters())
    unit = weight / weight.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    base = rows.base(model)

    def near(states: torch.Tensor) -> list[list[int]]:
        cosine = (states / states.norm(dim=-1, keepdim=True)) @ unit.T
        cosine[torch.arange(len(rows.ids)), rows.ids.to(cosine.device)] = -2
        found: list[list[int]] = cosine.topk(min(n, len(unit) - 1), dim=-1).indices.tolist()
        return found

    return list(zip(near(base), near(base + rows.delta.to(base.device)), strict=True))


def weights_hash(module: torch.nn.Module) -> str:
    """Return a hash of every weight's bytes: what was changed for good would show."""
    found = xxhash.xxh3_128()
    for name, p in sorted(module.named_parameters()):
        found.update(name.encode())
        found.update(p.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return found.hexdigest()


LogitsOf = Callable[[Any], torch.Tensor]


def logits_with(model: CausalModel, logits_of: LogitsOf, rows: Rows) -> LogitsOf:
    """Return what gives a model's logits with changed rows; unchanged where no row stands."""

    def changed(batch: Any) -> torch.Tensor:
        with changed_rows(model, rows):
            return logits_of(batch)

    return changed
