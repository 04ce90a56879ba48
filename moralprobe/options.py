"""What a study may be asked for, and how it is spelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from moralprobe.activations.store import ActivationStore
from moralprobe.design import Mode
from moralprobe.errors import UsageError, nearest

POOLINGS_OF: Final[dict[Mode, tuple[str, ...]]] = {
    "li2026": ("mean", "last"),
    "audited": ("mean_unit", "mean_no_sink", "mean_action", "last"),
}
"""Which poolings a mode reads, the headline first."""

ANALYSES: Final = ("separation", "gradient", "structure", "recoverability")
"""The four kinds of indifference that the paper asks for."""


def parse_modes(mode: str) -> tuple[Mode, ...]:
    """Read `li2026`, `audited` or `both`."""
    known: dict[str, tuple[Mode, ...]] = {
        "li2026": ("li2026",),
        "audited": ("audited",),
        "both": ("li2026", "audited"),
    }
    if mode not in known:
        raise UsageError(f"unknown mode {mode!r}", nearest(mode, known), "choose one of these")
    return known[mode]


def parse_analyses(analyses: str | Sequence[str]) -> tuple[str, ...]:
    """Read analyses joined by commas, or `all`; return them in the order of `ANALYSES`."""
    names = analyses.split(",") if isinstance(analyses, str) else list(analyses)
    names = list(ANALYSES) if names == ["all"] else [name.strip() for name in names]
    for name in names:
        if name not in ANALYSES:
            raise UsageError(
                f"unknown analysis {name!r}", nearest(name, ANALYSES), "choose of these, or all"
            )
    return tuple(name for name in ANALYSES if name in names)


def parse_hdbscan(hdbscan: str) -> str:
    """Read under which poolings density clusters are found: `paper`, `all` or `none`."""
    known = ("paper", "all", "none")
    if hdbscan not in known:
        raise UsageError(f"unknown choice {hdbscan!r}", nearest(hdbscan, known), "choose of these")
    return hdbscan


def parse_quota(quota: str) -> str:
    """Read which sample `li2026` is computed on: `li2026` or `none`."""
    known = ("li2026", "none")
    if quota not in known:
        raise UsageError(f"unknown quota {quota!r}", nearest(quota, known), "choose one of these")
    return quota


def poolings_of(store: ActivationStore, modes: Sequence[Mode]) -> dict[Mode, tuple[str, ...]]:
    """Return which of a store's poolings each mode reads; none for a mode is a UsageError."""
    chosen = {m: tuple(p for p in POOLINGS_OF[m] if p in store.poolings) for m in modes}
    for m, poolings in chosen.items():
        if not poolings:
            raise UsageError(
                f"mode {m} has nothing to read",
                f"it reads {', '.join(POOLINGS_OF[m])}; the store holds "
                f"{', '.join(store.poolings)}",
                "extract again with --pooling, or choose the other --mode",
            )
    return chosen
