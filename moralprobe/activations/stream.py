"""Activations to train on: token states of texts, shuffled repeatably.

Every order is drawn from the seed, the epoch and the piece alone, so that a batch is known without
the ones before it: a run that was killed goes on with the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, pairwise
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.activations.cost import width_cost
from moralprobe.activations.distinct import Tokens
from moralprobe.activations.plan import BATCH_TOKENS, Plan, best_plan
from moralprobe.errors import DataError, NumericError
from moralprobe.models.causal import CausalModel
from moralprobe.models.shape import shape_of
from moralprobe.models.sharing import why_not
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.sites import Site

HELD_BYTES: Final = 2 << 30
"""About what is held of token states at once; what is more is read anew every epoch."""
SINK: Final = 5.0
"""A token whose state has more than so many times the median norm is an attention sink: its state
says that, and nothing of the text."""
_STREAM: Final = 0x5AE
_SAMPLE: Final = 256  # texts whose norms say what is usual
_HASHED: Final = 2**32


class Source(Protocol):
    """Activations in pieces, of which one is held at a time.

    `layers` name what each piece holds, `width` is that of all of them; `pieces(epoch)` says how
    many pieces an epoch has, and `read(epoch, piece)` gives one by layer, each [n, width], row by
    row of the same tokens.
    """

    layers: tuple[int, ...]
    width: int

    def pieces(self, epoch: int) -> int: ...  # noqa: D102

    def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]: ...  # noqa: D102


class Position(NamedTuple):
    """Where a run is in its activations: the batch `at` of a piece comes next."""

    epoch: int = 0
    piece: int = 0
    at: int = 0


BEGIN: Final = Position()


def batches(
    source: Source, *, batch: int, seed: int, start: Position = BEGIN
) -> Iterator[tuple[Position, dict[int, torch.Tensor]]]:
    """Yield shuffled batches for ever; what a piece has over is left out.

    Args:
        source: what is read.
        batch: activations in a batch.
        seed: of the order.
        start: the first batch that is given; pieces before it aren't read.

    Yields:
        Where the batch after it is, and by layer [batch, width] in the source's dtype.

    Raises:
        DataError: no piece of an epoch has as many activations as a batch.
    """
    first = start.piece
    for epoch in count(start.epoch):
        most = 0
        for piece in range(first, source.pieces(epoch)):
            states = source.read(epoch, piece)
            size = len(next(iter(states.values())))
            most = max(most, size)
            order = torch.from_numpy(generator(seed, epoch, piece).permutation(size))
            skip = start.at if (epoch, piece) == start[:2] else 0
            for at in range(skip, size // batch):
                rows = order[at * batch : (at + 1) * batch]
                yield (
                    Position(epoch, piece, at + 1),
                    {layer: values[rows] for layer, values in states.items()},
                )
        if most < batch and first == 0:
            raise DataError(
                "there are too few activations for a batch",
                f"{most:,} at a time, and a batch of {batch:,}",
                "give more texts, or a smaller --batch",
            )
        first = 0


class Shuffled:
    """Activations whose dimensions are shuffled, each by itself, within a piece.

    Every dimension keeps its values and nothing goes with anything: what is learnt from these is of
    single dimensions alone.
    """

    def __init__(self, source: Source, *, seed: int) -> None:
        self.source = source
        self.layers = source.layers
        self.width = source.width
        self._seed = seed
        self._held: dict[int, torch.Tensor] | None = None

    def pieces(self, epoch: int) -> int:
        """Return how many pieces an epoch has."""
        return self.source.pieces(epoch)

    def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
        """Read a piece and shuffle it; the only one is held."""
        if self.source.pieces(epoch) > 1:
            return self._shuffled(epoch, piece)
        if self._held is None:
            self._held = self._shuffled(0, 0)
        return self._held

    def _shuffled(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
        found = {}
        for layer, states in self.source.read(epoch, piece).items():
            rng = generator(self._seed, epoch, piece, layer)
            columns = states.T.contiguous()
            for column in columns:
                column.copy_(column[torch.from_numpy(rng.permutation(len(column)))])
            found[layer] = columns.T.contiguous()
        return found


class TokenSource:
    """States of tokens, read from a model; held from epoch to epoch if they fit.

    `limits` are the norms, by layer, above which a token is a sink and left out of all layers.
    """

    def __init__(
        self,
        model: CausalModel,
        tokens: Tokens,
        layers: Sequence[int],
        *,
        seed: int,
        held_bytes: int = HELD_BYTES,
        step: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.layers = tuple(layers)
        self.width = model.d_model
        self._seed = seed
        self._step = step
        self._most = max(1, held_bytes // (len(layers) * model.d_model * model.dtype.itemsize))
        self._held: dict[int, torch.Tensor] | None = None

    @cached_property
    def limits(self) -> dict[int, float]:
        """Norms above which a token is a sink; see `sink_limits`."""
        return sink_limits(self.model, self.tokens, self.layers)

    @cached_property
    def _share(self) -> bool:
        return not why_not(self.model, self.tokens.encoded, max(self.layers))

    def pieces(self, epoch: int) -> int:
        """Return how many pieces an epoch has."""
        return len(self._pieces(epoch))

    def read(self, epoch: int, piece: int) -> dict[int, torch.Tensor]:
        """Return a piece's states by layer, [tokens, d_model] in the model's dtype."""
        if self._held is not None:
            return self._held
        pieces = self._pieces(epoch)
        states = self._states(pieces[piece])
        kept = ordinary(states, self.limits)
        states = {layer: values[kept.to(values.device)] for layer, values in states.items()}
        if len(pieces) == 1:
            self._held = states
        return states

    def _pieces(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return each piece's texts: all of them, or as many in random order as may be held."""
        return self._in_pieces(self.tokens.counts, epoch)

    def _in_pieces(self, sizes: NDArray[np.int64], epoch: int) -> list[NDArray[np.int64]]:
        """Return which of some parts of these sizes, in tokens, are held together."""
        if sizes.sum() <= self._most:
            return [np.arange(len(sizes))]
        order = generator(self._seed, epoch, _STREAM).permutation(len(sizes))
        ends = np.concatenate([[0], np.cumsum(sizes[order])])
        cuts = [0]
        while cuts[-1] < len(order):
            most = ends[cuts[-1]] + self._most
            cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, most, side="right")) - 1))
        return [order[a:b] for a, b in pairwise(cuts)]

    def _states(self, piece: NDArray[np.int64]) -> dict[int, torch.Tensor]:
        """Return the states of a piece, sinks among them."""
        tokens = self.tokens.take(piece)
        return read_tokens(self.model, tokens, self.layers, share=self._share, step=self._step)


def sink_limits(model: CausalModel, tokens: Tokens, layers: Sequence[int]) -> dict[int, float]:
    """Return the norm above which a token's state is a sink's: `SINK` times the median, by layer.

    Token 0 isn't the only one: a few texts may have a second, and one weighs as much as thousands
    of other tokens in the variance that is to be explained. The median is that of some texts
    evenly spread, the same for the same tokens.
    """
    n = min(_SAMPLE, len(tokens.encoded))
    some = tokens.take(np.arange(n) * len(tokens.encoded) // n)
    states = read_tokens(model, some, layers, share=False)
    return {
        layer: SINK * float(values.float().norm(dim=-1).median())
        for layer, values in states.items()
    }


def ordinary(states: Mapping[int, torch.Tensor], limits: Mapping[int, float]) -> torch.Tensor:
    """Return which tokens are no sink in any layer, [tokens] on the states' device."""
    below = [values.float().norm(dim=-1) <= limits[layer] for layer, values in states.items()]
    return torch.stack([rows.to(below[0].device) for rows in below]).all(0)


def read_tokens(
    model: CausalModel,
    tokens: Tokens,
    layers: Sequence[int],
    *,
    share: bool | None = None,
    step: Callable[[int], None] = lambda n: None,
) -> dict[int, torch.Tensor]:
    """Read the states of tokens after some decoder blocks.

    Args:
        model: from `load_model`.
        tokens: what is read.
        layers: blocks, counted from 0.
        share: read beginnings once where that is less work; if not given, where the model allows
            it too (`models.sharing.why_not`).
        step: called with the number of tokens after every batch.

    Returns:
        By layer, [tokens, d_model] in the model's dtype on its device: text after text, and each
        text's own tokens in their order.

    Raises:
        NumericError: NaN or infinity in the states.
    """
    encoded = tokens.encoded
    if share is None:
        share = not why_not(model, encoded, max(layers))
    plan = _plan_of(model, encoded, share)
    order = np.array(plan.order)
    counts, first = tokens.counts, torch.from_numpy(tokens.first)
    layer_of = {Site("resid_post", layer): layer for layer in layers}
    starts = np.concatenate([[0], np.cumsum(counts)])
    found: dict[int, torch.Tensor] = {}
    for start, stop in plan.batches:
        texts = order[start:stop]
        rows = torch.from_numpy(
            np.concatenate([np.arange(starts[i], starts[i + 1]) for i in texts])
        )
        batch = _collate(model, encoded, plan, (start, stop))
        own = batch.mask & (
            torch.arange(batch.mask.shape[1], device=batch.mask.device)
            >= first[torch.from_numpy(texts)].to(batch.mask.device)[:, None]
        )

        def keep(
            site: Site,
            hidden: torch.Tensor,
            batch: Batch = batch,
            own: torch.Tensor = own,
            rows: torch.Tensor = rows,
        ) -> None:
            layer, device = layer_of[site], hidden.device
            if layer not in found:
                shape = len(tokens), hidden.shape[-1]
                found[layer] = torch.empty(shape, dtype=hidden.dtype, device=device)
            values = batch.to(device).of_texts(hidden)[own.to(device)]
            found[layer][rows.to(device)] = values

        model.run_taps(batch, tuple(layer_of), keep)
        step(len(rows))
    for layer, states in found.items():
        if not bool(torch.isfinite(states).all()):
            raise NumericError(
                f"resid_post.{layer} holds NaN or infinity",
                f"in the states of {len(tokens):,} tokens",
                "use --dtype bf16 or fp32 on weights made for it, and check the weights",
            )
    return found


def _plan_of(model: CausalModel, encoded: Sequence[Encoded], share: bool) -> Plan:
    return best_plan(
        [text.ids for text in encoded],
        share=share,
        width_cost=width_cost(shape_of(model)),
        batch_tokens=BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"]),
        bytes_per_text=1,
    )


def _collate(
    model: CausalModel, encoded: Sequence[Encoded], plan: Plan, batch: tuple[int, int]
) -> Batch:
    def of(start: int, stop: int) -> list[Encoded]:
        return [encoded[i] for i in plan.order[start:stop]]

    if plan.blocks:
        return model.collate_trees([of(*block) for block in plan.blocks_of(batch)])
    return model.collate(of(*batch))


def generator(*seeds: int) -> np.random.Generator:
    """Return a generator of numbers that the seeds alone decide."""
    return np.random.default_rng([abs(seed) for seed in seeds])


def counting(reading: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Return a `step` that tells how many of all tokens have been read."""
    read = 0

    def step(n: int) -> None:
        nonlocal read
        read += n
        reading(read, total)

    return step
