"""Token states on disk: a model reads its texts once, for every training that follows.

Texts stand in an order drawn by chance, so that the states of any shards are a sample of them all.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from moralprobe.activations.distinct import Tokens
from moralprobe.activations.plan import shard_name
from moralprobe.activations.reading import to_numpy
from moralprobe.activations.stream import HELD_BYTES, TokenSource, generator, read_tokens
from moralprobe.artifacts import MANIFEST, Artifact
from moralprobe.errors import StoreError
from moralprobe.files import canonical_json, check_writable, free_bytes
from moralprobe.models.causal import CausalModel
from moralprobe.models.sharing import why_not
from moralprobe.sites import Site

KIND: Final = "token store"
LAYOUT: Final = 1
SHARD_TOKENS: Final = 8192
"""In a shard, about: so many are read again after a kill. It doesn't depend on the layers, so that
their tokens stand in the same order in every store."""
_ORDER: Final = 0x70C


class StoredTokens(TokenSource):
    """The states of a `TokenSource`, from a store that is filled before the first are taken.

    In more than one shard they stand in another order, and differ in their last bits, as other
    texts are read together. What doesn't fit into memory is taken anew every epoch, some shards at
    a time. A store that isn't whole, or is damaged, is mended: what is right in it stays.

    Args:
        model: from `load_model`.
        tokens: what is read.
        layers: blocks, counted from 0; of a store that is there, its own or some of them.
        folder: the store's: new, empty, or of the same tokens and model.
        seed: of the order in which pieces follow.
        held_bytes: about what is held of the states at once.
        shard_tokens: about what one shard holds.
        step: called with the number of tokens as the store is filled.

    Raises:
        StoreError: the folder belongs to other tokens, layers or another model, or can't be
            written to; and where states are taken first, no space.
        NumericError: NaN or infinity in the states, where they are taken first.
        IntegrityError: a manifest that isn't what was written.
    """

    def __init__(
        self,
        model: CausalModel,
        tokens: Tokens,
        layers: Sequence[int],
        folder: Path,
        *,
        seed: int,
        held_bytes: int = HELD_BYTES,
        shard_tokens: int = SHARD_TOKENS,
        step: Callable[[int], None] = lambda n: None,
    ) -> None:
        super().__init__(model, tokens, layers, seed=seed, held_bytes=held_bytes, step=step)
        self.folder = Path(folder)
        self._parts = _parts(tokens, shard_tokens)
        self._sizes = np.array([tokens.counts[part].sum() for part in self._parts])
        if self._there() is None:
            check_writable(self.folder)
            Artifact.refuse_others(self.folder, KIND)

    @property
    def order(self) -> str:
        """A hash of the order in which tokens stand, the same for all layers."""
        return xxhash.xxh3_128_hexdigest(canonical_json([_ORDER, self._sizes.tolist()]))

    @cached_property
    def _artifact(self) -> Artifact:
        """The store, once nothing of it is missing; one that is whole is only read."""
        there = self._there()
        if there is not None and len(there.shards) == len(self._parts) and not there.problems():
            self._step(len(self.tokens))
            return there
        with Artifact.lock(self.folder):
            there = self._there()  # another process may have begun it meanwhile
            layers = sorted(self.layers) if there is None else there.key["layers"]
            artifact = Artifact.create(self.folder, KIND, self._key(layers))
            artifact.clean()
            for name in artifact.problems():
                artifact.drop_shard(name)
            self._fill(artifact, layers)
        return artifact

    def _there(self) -> Artifact | None:
        """Return the store that is there, if it is one of these tokens and holds the layers."""
        try:
            if not (self.folder / MANIFEST).exists():
                return None
        except OSError as error:
            raise StoreError(
                f"can't read {self.folder}", str(error.strerror or error), "check its permissions"
            ) from error
        layers = Artifact.open(self.folder, KIND).key["layers"]
        mine = layers if set(self.layers) <= set(layers) else sorted(self.layers)
        return Artifact.create(self.folder, KIND, self._key(mine))

    def _fill(self, artifact: Artifact, layers: list[int]) -> None:
        have = sum(shard.n for shard in artifact.shards.values())
        self._step(have)
        row = len(layers) * self.model.d_model * self.model.dtype.itemsize
        needed = (len(self.tokens) - have) * row
        if needed > (free := free_bytes(self.folder)):
            raise StoreError(
                f"{self.folder} has no room for the token states",
                f"about {needed:,} bytes are needed, {free:,} are free",
                "train fewer layers at once, or leave out --states",
            )
        # The store's own layers decide, whichever are asked for: they are read together.
        share = not why_not(self.model, self.tokens.encoded, max(layers))
        first = 0
        for i, (part, size) in enumerate(zip(self._parts, self._sizes.tolist(), strict=True)):
            if shard_name(i) not in artifact.shards:
                tokens = self.tokens.take(part)
                states = read_tokens(self.model, tokens, layers, share=share, step=self._step)
                tensors = {_name(layer): to_numpy(x.cpu()) for layer, x in states.items()}
                artifact.add_shard(shard_name(i), tensors, first=first, last=first + size - 1)
            first += size

    def _pieces(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return each piece's shards: all of them, or as many in random order as may be held."""
        return self._in_pieces(self._sizes, epoch)

    def _states(self, piece: NDArray[np.int64]) -> dict[int, torch.Tensor]:
        def of(layer: int) -> torch.Tensor:
            shards = [self._artifact.read(shard_name(i), _name(layer)) for i in piece]
            return torch.cat([_to_torch(values) for values in shards]).to(self.model.device)

        return {layer: of(layer) for layer in self.layers}

    def _key(self, layers: Sequence[int]) -> dict[str, Any]:
        return {
            "layout": LAYOUT,
            "model": self.model.identity,
            "d_model": self.model.d_model,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "torch": torch.__version__,
            "transformers": importlib.metadata.version("transformers"),
            "layers": list(layers),
            "tokens": len(self.tokens),
            "digest": self.tokens.digest(),
            "shards": self._sizes.tolist(),
        }


def _parts(tokens: Tokens, rows: int) -> list[NDArray[np.int64]]:
    """Cut the texts, in an order drawn by chance, into runs of about so many tokens."""
    order = generator(_ORDER).permutation(len(tokens.encoded))
    places = (np.cumsum(tokens.counts[order]) - 1) // rows
    return np.split(order, np.flatnonzero(np.diff(places)) + 1)


def _name(layer: int) -> str:
    return str(Site("resid_post", layer))


def _to_torch(values: NDArray[Any]) -> torch.Tensor:
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)
