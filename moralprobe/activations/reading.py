"""One shard: the model runs over its texts, and what is kept of them is pooled on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ml_dtypes
import torch
from numpy.typing import NDArray

from moralprobe.activations.job import Job
from moralprobe.activations.pooling import sink_report, weigh
from moralprobe.activations.store import INPUTS, STATS, tensor_name
from moralprobe.errors import NumericError
from moralprobe.models.tokens import Batch
from moralprobe.sites import Site


def read_shard(
    job: Job, shard: tuple[int, int], step: Callable[[int], None]
) -> dict[str, NDArray[Any]]:
    """Run the model over a shard's batches and pool every site as it passes.

    What is pooled and what is checked stays on the model's device until the shard is whole: a look
    at it in between would make the device wait, once a layer and batch.

    Args:
        job: what is read.
        shard: one of the plan's, [start, stop) in the readable texts.
        step: called with the number of texts after every batch.

    Returns:
        Tensors by name: of each site and pooling [texts, d] in the model's dtype, of each layer's
        sink report [texts] in fp32.

    Raises:
        NumericError: NaN or infinity in the states, or a site that never varies.
    """
    kept = _Kept(job, shard[1] - shard[0])
    for start, stop in job.plan.batches_of(shard):
        batch = _collate(job, (start, stop))
        take = partial(kept.take, batch, slice(start - shard[0], stop - shard[0]))
        job.model.run_taps(batch, tuple(job.poolings_of), take)
        step(stop - start)
    return kept.tensors(job.names[slice(*shard)])


class _Kept:
    """What is kept of a shard's texts, each site's where it passes."""

    def __init__(self, job: Job, n: int) -> None:
        self._job = job
        self._n = n
        self._pooled: dict[Site, torch.Tensor] = {}
        self._stats: dict[Site, torch.Tensor] = {}
        self._finite: dict[Site, torch.Tensor] = {}
        self._inputs: list[tuple[Site, torch.Tensor, torch.Tensor]] = []

    def take(self, batch: Batch, rows: slice, site: Site, hidden: torch.Tensor) -> None:
        """Pool a batch's states at one site into their rows."""
        dtype, device = self._job.model.dtype, hidden.device
        poolings = self._job.poolings_of[site]
        batch = batch.to(device)  # of a model that is spread, the site may be on another one
        states = hidden.float()
        norms = batch.of_texts(torch.linalg.vector_norm(states, dim=-1))
        vectors = batch.sums(weigh(norms, batch.mask, batch.action, poolings), states)
        if site not in self._pooled:
            width = states.shape[-1]  # an embedding table may have one of its own
            shape = len(poolings), self._n, width
            self._pooled[site] = torch.empty(shape, dtype=dtype, device=device)
            self._stats[site] = torch.empty(len(STATS), self._n, device=device)
            self._finite[site] = torch.empty(self._n, dtype=torch.bool, device=device)
        self._pooled[site][:, rows] = vectors.transpose(0, 1).to(dtype)
        self._finite[site][rows] = torch.isfinite(norms).all(1)
        if site in INPUTS:
            self._inputs.append((site, *_tokens_vary(hidden, batch.ids)))
        else:
            self._stats[site][:, rows] = torch.stack(sink_report(norms, batch.mask))

    def tensors(self, names: list[str]) -> dict[str, NDArray[Any]]:
        """Check what was kept of the texts of these names, and return it."""
        _check_finite(self._finite, names)
        _check_inputs(self._inputs)
        layers = [site for site in self._job.poolings_of if site not in INPUTS]
        for site in layers:
            _check_varies(self._pooled[site], site)
        stats = _on_host({site: self._stats[site] for site in layers})
        found: dict[str, NDArray[Any]] = {}
        for site, pooled in _on_host(self._pooled).items():
            named = dict(zip(self._job.poolings_of[site], pooled, strict=True))
            if site in stats:
                named |= dict(zip(STATS, stats[site], strict=True))
            found |= {tensor_name(site, name): to_numpy(rows) for name, rows in named.items()}
        return found


def _collate(job: Job, texts: tuple[int, int]) -> Batch:
    blocks = job.plan.blocks_of(texts)
    if blocks:
        return job.model.collate_trees([job.encoded[a:b] for a, b in blocks])
    return job.model.collate(job.encoded[slice(*texts)])


def _check_finite(finite: dict[Site, torch.Tensor], names: list[str]) -> None:
    """Refuse states that aren't numbers; name the first site that holds some, as they passed."""
    if bool(torch.stack([rows.all().cpu() for rows in finite.values()]).all()):
        return
    site, rows = next((site, rows) for site, rows in finite.items() if not bool(rows.all()))
    bad = [names[i] for i in torch.nonzero(~rows).flatten().tolist()]
    raise NumericError(
        f"{site} holds NaN or infinity",
        f"in {len(bad)} texts of this shard, the first: {bad[0]!r}",
        "use --dtype bf16 or fp32 on weights made for it, and check the weights",
    )


def _check_varies(pooled: torch.Tensor, site: Site) -> None:
    values = pooled.float()
    constant = values.shape[1] > 1 and bool((values == values[:, :1]).all())
    if constant or not bool(values.any()):
        raise _not_fired(site, "for all texts" if bool(values.any()) else "")


def _tokens_vary(states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whether an input differs between different tokens, and whether it is anything.

    Texts may share all that is pooled, so that what is pooled needn't vary.
    """
    return (states != states[0, 0]).any() | (ids == ids[0, 0]).all(), states.any()


def _check_inputs(inputs: list[tuple[Site, torch.Tensor, torch.Tensor]]) -> None:
    for site, varies, anything in inputs:
        if not bool(varies & anything):
            raise _not_fired(site, "for all tokens" if bool(anything) else "")


def _not_fired(site: Site, equal: str) -> NumericError:
    return NumericError(
        f"the tap of {site} did not fire",
        f"its states are equal {equal}" if equal else "its states are all zero",
        "check the model, or name its list of blocks with --layers-path",
    )


def _on_host(tensors: Mapping[Site, torch.Tensor]) -> dict[Site, torch.Tensor]:
    """Return copies in pinned memory; a device is waited for once, not for each of them."""
    copies = {site: values.to("cpu", non_blocking=True) for site, values in tensors.items()}
    for device in {values.device for values in tensors.values()}:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
    return copies


def to_numpy(values: torch.Tensor) -> NDArray[Any]:
    """Return a tensor's numbers, in bf16 where they are."""
    if values.dtype == torch.bfloat16:
        array: NDArray[Any] = values.contiguous().view(torch.int16).numpy()
        return array.view(ml_dtypes.bfloat16)
    return values.contiguous().numpy()
