"""Tune the moral features of an autoencoder, so that their geometry comes closer to judgements'.

`li2026` is the published loss with its weights, masks and schedule, on the rows of the table;
`geometry` is ours, on its texts. Only the selected features' encoder rows, biases and decoder rows
change. A shuffled twin is tuned in the same way to moral vectors that belong to other texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from moralprobe.activations.text_states import rows_of_split
from moralprobe.errors import DataError, NumericError
from moralprobe.sae.load import is_pooled
from moralprobe.steering.losses import (
    GEOMETRY,
    LI2026,
    Masks,
    Terms,
    geometry_terms,
    published_defects,
    published_terms,
)
from moralprobe.steering.selection import (
    Frozen,
    Material,
    check_mode,
    frozen_of,
    masks_of,
    selected_by,
)
from moralprobe.steering.tunable import Tunable


@dataclass(frozen=True)
class Schedule:
    """How long and how fast features are tuned.

    It ends where the loss on the dev split hasn't fallen by `least` for `patience` epochs; what is
    kept is the best of them.
    """

    epochs: int = 50
    batch: int = 512
    lr: float = 1e-4
    weight_decay: float = 0.01
    warm_up: float = 0.1
    clip: float = 1.0
    patience: int = 10
    least: float = 1e-4


SCHEDULES: Final = {
    "li2026": Schedule(),
    "geometry": Schedule(epochs=40, batch=2048, lr=1e-3, weight_decay=0.0, patience=5),
}
"""The published one (arXiv 2603.15615, released scripts), and ours."""


@dataclass(frozen=True)
class Fitted:
    """Tuned features, and how it went.

    `history` has a row an epoch: every term and the loss on both splits. `about` says how it was
    tuned; in `li2026` mode with `defects`, shares of what `published_defects` counts in the rows
    that it was tuned to, each taken once, as it ended; None of nothing.
    """

    tuned: Tunable
    history: pl.DataFrame
    about: dict[str, Any]


@dataclass(frozen=True)
class _Examples:
    """Rows to learn from: which text each is of, its moral vector, how often it is drawn."""

    text: NDArray[np.int64]
    moral: torch.Tensor
    weight: NDArray[np.float64] | None = None


class _Bag(NamedTuple):
    """Some rows' tokens: which they are, whose, and how much each counts in its row's mean."""

    token: torch.Tensor
    row: torch.Tensor
    share: torch.Tensor
    n: int

    def means(self, values: torch.Tensor) -> torch.Tensor:
        """Return each row's mean of what its tokens have."""
        found = values.new_zeros(self.n, values.shape[1])
        return found.index_add(0, self.row, values * self.share[:, None])


def tune(
    material: Material,
    table: pl.DataFrame,
    *,
    mode: str = "geometry",
    shuffled: bool = False,
    schedule: Schedule | None = None,
    epochs: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Fitted:
    """Tune the selected features of an autoencoder.

    Args:
        material: what they are tuned on.
        table: of features, as `find_features` gives it: tuned are those with `li_tuned` in
            `li2026` mode, those `chosen` in `geometry` mode.
        mode: of `MODES`.
        shuffled: give every text another one's moral vector.
        schedule: of `SCHEDULES`, if not given.
        epochs: exactly so many of the schedule's, the last of which is kept; without it the best
            by the dev split's loss, which a shuffled twin has none to learn from.
        seed: of batches, pairs and the shuffle.
        progress: called after every epoch.

    Raises:
        UsageError: an unknown mode, a table of another autoencoder, or features that can't be
            tuned.
        DataError: no feature is selected, or a split without a text.
        NumericError: a loss that is no number.
    """
    check_mode(mode)
    schedule = schedule or SCHEDULES[mode]
    loaded, read = material.loaded, material.read
    selected = selected_by(table, mode, int(loaded.sae.cfg.d_sae))
    device = loaded.sae.device
    tunable = Tunable(loaded.sae, torch.from_numpy(selected)).to(device)
    frozen = frozen_of(tunable, read, device)
    masks = masks_of(tunable, material, table, selected, mode, frozen, device)
    parts = {
        split: _examples(
            material, split, by_row=mode == "li2026", shuffled=shuffled, seed=seed, device=device
        )
        for split in ("train", "dev")
    }
    run = _Run(material, tunable, frozen, masks, mode, device)
    history, kept = _optimise(run, parts, schedule, epochs, seed, progress)
    about = {
        "mode": mode,
        "shuffled": shuffled,
        "seed": seed,
        "features": len(selected),
        "of": int(loaded.sae.cfg.d_sae),
        "rows": {split: len(part.text) for split, part in parts.items()},
        "schedule": vars(schedule),
        "weights": LI2026 if mode == "li2026" else GEOMETRY,
        "epochs": history.height,
        "kept_epoch": kept,
    }
    if mode == "li2026":
        about["defects"] = _defects(run, parts["train"], schedule.batch, seed)
    return Fitted(tunable, history, about)


def _examples(
    material: Material,
    split: str,
    *,
    by_row: bool,
    shuffled: bool,
    seed: int,
    device: torch.device,
) -> _Examples:
    """Return a split's texts, or the table's rows with their own vectors, weighted as published.

    Shuffled, each text takes the place of another one of its split: its rows' vectors go with it.
    """
    texts = material.texts
    at = np.flatnonzero(texts.split == split)
    if len(at) < 2:
        raise DataError(
            f"there is nothing to tune on in the {split} split",
            f"{len(at)} texts",
            "give a larger table",
        )
    place = np.arange(len(texts.texts))
    if shuffled:
        place[at] = np.random.default_rng([seed, 13, len(at)]).permutation(at)
    h = texts.moral[at]
    if by_row:
        at, h = rows_of_split(texts, material.vectors, split)
    weight = _published_weights(h) if by_row and split == "train" else None
    return _Examples(place[at], torch.from_numpy(h).float().to(device), weight)


def _published_weights(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how often rows are drawn: by score, and up to 3 times for the rarer polarity."""
    score = h.max(1)
    weight = np.select([score > 0.5, score >= 0.25, score == 0], [2.0, 1.5, 0.3], 1.0)
    virtue, vice = h[:, ::2].max(1) > 0, h[:, 1::2].max(1) > 0
    rarer, other = sorted((virtue, vice), key=lambda rows: int(rows.sum()))
    weight[rarer] *= min(3.0, other.sum() / max(1, rarer.sum()))
    return weight


@dataclass(frozen=True)
class _Run:
    """One tuning: what a batch of rows costs."""

    material: Material
    tunable: Tunable
    frozen: Frozen
    masks: Masks
    mode: str
    device: torch.device

    def bag(self, texts: NDArray[np.int64]) -> _Bag:
        """Return the tokens of some texts, as often as they stand there."""
        paths = self.material.read.paths
        begin, end = paths.indptr[texts], paths.indptr[texts + 1]
        counts = end - begin
        row = np.repeat(np.arange(len(texts)), counts)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        entry = np.repeat(begin, counts) + inside
        present = paths.data[entry] > 0
        entry, row = entry[present], row[present]
        share = 1 / np.bincount(row, minlength=len(texts)).clip(1)[row]
        to = self.device
        return _Bag(
            torch.from_numpy(paths.indices[entry].astype(np.int64)).to(to),
            torch.from_numpy(row).to(to),
            torch.from_numpy(share).float().to(to),
            len(texts),
        )

    def acts(self, bag: _Bag) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states of some tokens and how active the features are there."""
        states = self.material.read.states
        x = states[bag.token.to(states.device)].to(self.device).float()
        return x, self.tunable.acts(x, self.frozen.others[bag.token])

    def terms(self, texts: NDArray[np.int64], h: torch.Tensor, generator: torch.Generator) -> Terms:
        """Return every term of the loss on some rows."""
        bag = self.bag(texts)
        x, z = self.acts(bag)
        with torch.no_grad():
            before = _base(self.tunable, x, self.frozen.others[bag.token])
        change = z @ self.tunable.rows - before
        error = change - self.frozen.error[bag.token].float()
        z_text = bag.means(z)
        if self.mode == "li2026":
            sparse = z.sum(1).mean() / self.tunable.sae[0].cfg.d_sae
            return {
                "rec": error.pow(2).mean(),
                "sparse": sparse,
                **published_terms(z_text, h, self.masks, generator),
            }
        new = x + change
        if not is_pooled(self.material.loaded):
            new = new / new.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        states = bag.means(new)
        rec = error.pow(2).sum(1).mean() / self.frozen.variance
        return {
            "rec": rec,
            **geometry_terms(z_text, h, states, self.masks, generator),
        }

    def total(self, terms: Terms) -> torch.Tensor:
        """Return the weighted sum."""
        weights = LI2026 if self.mode == "li2026" else GEOMETRY
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


@torch.no_grad()
def _base(tunable: Tunable, x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return what the features added before they were tuned."""
    original = tunable.original()
    return original.acts(x, others) @ original.rows


def _optimise(
    run: _Run,
    parts: dict[str, _Examples],
    schedule: Schedule,
    epochs: int | None,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> tuple[pl.DataFrame, int]:
    """Tune, and return the history and which epoch is kept."""
    tunable = run.tunable
    parameters = list(tunable.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay)
    steps = max(1, len(parts["train"].text) // schedule.batch)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=schedule.lr,
        total_steps=steps * schedule.epochs,
        pct_start=schedule.warm_up,
    )
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng([seed, 12])
    history: list[dict[str, float]] = []
    best, since, kept, at = np.inf, 0, None, 0
    for epoch in range(schedule.epochs if epochs is None else min(epochs, schedule.epochs)):
        sums: dict[str, float] = {}
        for rows in _batches(parts["train"], schedule.batch, steps, rng):
            part = parts["train"]
            terms = run.terms(part.text[rows], part.moral[rows], generator)
            loss = run.total(terms)
            if not bool(torch.isfinite(loss)):
                raise NumericError(
                    f"the loss is no number in epoch {epoch + 1}",
                    ", ".join(
                        f"{name} {float(value.detach()):.3g}" for name, value in terms.items()
                    ),
                    "lower the learning rate, or look at the states for outliers",
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimiser.step()
            rates.step()
            tunable.renormalise()
            for name, value in {**terms, "loss": loss}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps
        held = _held(run, parts["dev"], schedule.batch, seed)
        history.append(
            {"epoch": epoch + 1.0, **sums, **{f"dev_{name}": v for name, v in held.items()}}
        )
        progress(epoch + 1, schedule.epochs, f"loss {sums['loss']:.4f}, dev {held['loss']:.4f}")
        if epochs is not None:
            at = epoch + 1
        elif held["loss"] < best - schedule.least:
            best, since, at = held["loss"], 0, epoch + 1
            kept = {name: value.clone() for name, value in tunable.state_dict().items()}
        elif (since := since + 1) >= schedule.patience:
            break
    if kept is not None:
        tunable.load_state_dict(kept)
    return pl.DataFrame(history), at


def _batches(
    part: _Examples, batch: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield an epoch's batches: drawn by weight with replacement, or each row once."""
    n = len(part.text)
    if part.weight is not None:
        order = rng.choice(n, size=steps * batch, p=part.weight / part.weight.sum())
    else:
        order = rng.permutation(n)
    for step in range(steps):
        yield order[step * batch : (step + 1) * batch]


def _pieces(n: int, batch: int) -> list[NDArray[np.int64]]:
    return np.array_split(np.arange(n), max(1, round(n / batch)))


@torch.no_grad()
def _held(run: _Run, part: _Examples, batch: int, seed: int) -> dict[str, float]:
    """Return the mean of every term on the dev split, always with the same pairs."""
    generator = torch.Generator().manual_seed(seed + 1)
    n = len(part.text)
    sums: dict[str, float] = {}
    for rows in _pieces(n, batch):
        terms = run.terms(part.text[rows], part.moral[rows], generator)
        for name, value in {**terms, "loss": run.total(terms)}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(rows) / n
    return sums


@torch.no_grad()
def _defects(run: _Run, part: _Examples, batch: int, seed: int) -> dict[str, float | None]:
    """Return as shares what `published_defects` counts, batch by batch."""
    generator = torch.Generator().manual_seed(seed + 2)
    counts: dict[str, NDArray[np.int64]] = {}
    for rows in _pieces(len(part.text), batch):
        bag = run.bag(part.text[rows])
        z = bag.means(run.acts(bag)[1])
        found = published_defects(z, part.moral[rows], run.masks, generator)
        for name, pair in found.items():
            counts[name] = counts.get(name, 0) + np.array(pair)
    return {name: float(n / of) if of else None for name, (n, of) in counts.items()}
