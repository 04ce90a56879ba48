"""What tuned features are asked for, as functions of tensors: the published loss, and ours.

Activations z are those of the tuned features, a row a text; moral vectors h hold typicality of ten
poles, virtue and vice of each axis beside each other. Both losses come apart in named terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn.functional import softplus

LI2026: Final = {
    "rec": 1.0,
    "sparse": 1e-4,
    "align": 0.5,
    "pol": 0.3,
    "proto": 0.2,
    "mono": 0.1,
}
"""Weights of the published terms (arXiv 2603.15615, released scripts)."""
GEOMETRY: Final = {"rec": 1.0, "align": 0.5, "pol": 0.3, "rank": 0.2, "rdm": 1.0}
"""Weights of ours; each term is about 1 where nothing is learnt, so none drowns the others."""
MARGIN: Final = 0.5
CLEAR: Final = 0.3
"""Typicality above which a row counts for the published contrast of poles."""
FEWEST: Final = 4
"""Rows of both polarities that a batch needs for it."""
PAIRS: Final = 100
PAIR_MARGIN: Final = 0.1
PAIRED: Final = 16
"""Rows of a pole that a batch needs for its pairs."""

Terms = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Masks:
    """Which tuned features stand for which pole.

    `weights` [10, n] are those of y = weights z, rows that sum to 1 (or are 0); `poles` [10, n] the
    uniform weights of each pole's contrast; `strict` [n] says which features are strictly tied to
    one pole, and `pole` [n] which one each is tied to most.
    """

    weights: torch.Tensor
    poles: torch.Tensor
    strict: torch.Tensor
    pole: torch.Tensor


def published_terms(
    z: torch.Tensor, h: torch.Tensor, masks: Masks, generator: torch.Generator
) -> Terms:
    """Return the published loss' terms of moral features, each a scalar.

    align: the mean of (sigmoid(y) - h)^2 over entries with h > 0. pol: of every axis, half the sum
    of relu(mu - V z + C z) over rows with a virtue above 0.3 of any axis, and of the same with V
    and C changed over rows with such a vice; mu is 0.5. proto: over poles with 16 rows or more, the
    mean of relu(0.1 - (h_a - h_b)(y_a - y_b)) on 100 random pairs. mono: the mean of z_f squared
    where f is strict and the row's largest entry is another pole's; the largest of a row of zeros
    is the first, as published.

    Its sigmoid can't go below a half, as z and weights aren't negative; ties have no gradient; the
    axis of a row isn't looked at: these are the published loss' own, and are kept;
    `published_defects` counts them.

    Args:
        z: [rows, n].
        h: [rows, 10].
        masks: of the features.
        generator: of the pairs.

    Source: arXiv 2603.15615, released script `sae-fine-tune.py`.
    """
    y = z @ masks.weights.T
    zero = z.new_zeros(())
    there = h > 0
    align = (torch.sigmoid(y) - h)[there].pow(2).mean() if bool(there.any()) else zero
    virtue, vice = h[:, ::2].amax(1) > CLEAR, h[:, 1::2].amax(1) > CLEAR
    pol = zero
    if min(int(virtue.sum()), int(vice.sum())) >= FEWEST:
        contrast = z @ (masks.poles[::2] - masks.poles[1::2]).T
        for_virtue = (MARGIN - contrast[virtue]).relu().mean(0)
        for_vice = (MARGIN + contrast[vice]).relu().mean(0)
        pol = ((for_virtue + for_vice) / 2).mean()
    proto = [
        (PAIR_MARGIN - (h[a, pole] - h[b, pole]) * (y[a, pole] - y[b, pole])).relu().mean()
        for pole, a, b in _pairs_of_poles(h, PAIRED, generator)
    ]
    wrong = h.argmax(1)[:, None] != masks.pole[None]
    mono = (z * wrong)[:, masks.strict].pow(2).mean() if bool(masks.strict.any()) else zero
    return {
        "align": align,
        "pol": pol,
        "proto": torch.stack(proto).mean() if proto else zero,
        "mono": mono,
    }


def published_defects(
    z: torch.Tensor, h: torch.Tensor, masks: Masks, generator: torch.Generator
) -> dict[str, tuple[int, int]]:
    """Count in some rows what the published loss asks in vain, doesn't ask, or asks wrongly.

    unreachable: entries above 0 that lie below a half, of all above 0; the sigmoid never does.
    unasked: entries of 0, of all; nothing draws y there. tied: pairs drawn as for proto that have
    the same h, of all drawn; they cost 0.1 without a gradient. in_margin: pairs that still cost, of
    those that don't tie. other_axis: rows and axes that count for the contrast of pol where the row
    isn't tagged with the axis, of all that count. zeros: rows of zeros, of all; mono takes them for
    the first pole's.

    Args:
        z: [rows, n].
        h: [rows, 10].
        masks: of the features.
        generator: of the pairs.

    Returns:
        Of each how many, and of how many.
    """
    y = z @ masks.weights.T
    there = h > 0
    drawn = tied = margin = 0
    for pole, a, b in _pairs_of_poles(h, PAIRED, generator):
        gap = h[a, pole] - h[b, pole]
        cost = PAIR_MARGIN - gap * (y[a, pole] - y[b, pole])
        drawn += len(gap)
        tied += int((gap == 0).sum())
        margin += int(((gap != 0) & (cost > 0)).sum())
    virtue, vice = h[:, ::2].amax(1) > CLEAR, h[:, 1::2].amax(1) > CLEAR
    counted = torch.cat([there[virtue, ::2], there[vice, 1::2]])
    return {
        "unreachable": (int((there & (h < 0.5)).sum()), int(there.sum())),
        "unasked": (int((~there).sum()), there.numel()),
        "tied": (tied, drawn),
        "in_margin": (margin, drawn - tied),
        "other_axis": (int((~counted).sum()), counted.numel()),
        "zeros": (int((~there.any(1)).sum()), len(h)),
    }


def geometry_terms(
    z: torch.Tensor,
    h: torch.Tensor,
    states: torch.Tensor,
    masks: Masks,
    generator: torch.Generator,
) -> Terms:
    """Return the terms of the corrected loss, each a scalar.

    align: what the best rising affine read-out a y + b leaves of a pole's h, rows above 0 and rows
    of 0 each counting half: 1 - r |r| with the weighted correlation r of y and h, its mean over
    poles.
    pol: log(1 + exp(-(v - c))) on rows of an axis' own two poles, of the standardised contrast of
    their features. rank: log(1 + exp(-(y_a - y_b))) on pairs of a pole's rows of which a is the
    more typical, y standardised: larger activations alone change nothing, ties are left out. rdm: 1
    - Pearson's r between the categories' dissimilarities in `states` and in h.

    Args:
        z: [rows, n].
        h: [rows, 10].
        states: [rows, d] as they are once the features have been changed.
        masks: of the features.
        generator: of the pairs.
    """
    y = z @ masks.weights.T
    there = h > 0
    contrast = z @ (masks.poles[::2] - masks.poles[1::2]).T
    contrast = contrast / _spread(contrast)
    sign = there[:, ::2].float() - there[:, 1::2].float()
    centred = contrast - contrast.mean(0)
    pol = _mean_where(softplus(-sign * centred), sign != 0)
    ranks = []
    standard = (y - y.mean(0)) / _spread(y)
    for pole, one, two in _pairs_of_poles(h, 2, generator):
        gap = torch.sign(h[one, pole] - h[two, pole])
        differ = gap != 0
        if bool(differ.any()):
            step = gap * (standard[one, pole] - standard[two, pole])
            ranks.append(softplus(-step)[differ].mean())
    zero = z.new_zeros(())
    return {
        "align": align_term(y, h),
        "pol": torch.nan_to_num(pol),
        "rank": torch.stack(ranks).mean() if ranks else zero,
        "rdm": rdm_term(states, h),
    }


def align_term(y: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return what the best rising affine read-outs leave of moral vectors; see `geometry_terms`."""
    there = h > 0
    n = there.sum(0)
    both = (n > 0) & (n < len(h))  # poles with rows above 0 and rows of 0
    y, h, there, n = y[:, both], h[:, both], there[:, both], n[both]
    if not len(n):
        return y.new_zeros(())
    weight = torch.where(there, 0.5 / n, 0.5 / (len(h) - n))
    y, h = (values - (weight * values).sum(0) for values in (y, h))
    spread = ((weight * y * y).sum(0) * (weight * h * h).sum(0)).clamp(min=1e-12).sqrt()
    r = (weight * y * h).sum(0) / spread
    left: torch.Tensor = (1 - r * r.abs()).mean()
    return left


def rdm_term(states: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return 1 - Pearson's r of the categories' dissimilarities in states and in moral vectors.

    Categories with fewer than two rows are left out; 0 where fewer than three are left.
    """
    counted = (h > 0).sum(0) >= 2
    if int(counted.sum()) < 3:
        return states.new_zeros(())
    shares = h[:, counted] / h[:, counted].sum(0)
    found = []
    for values in (states, h):
        centred = shares.T @ (values - values.mean(0))
        unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
        upper = torch.triu_indices(len(unit), len(unit), 1)
        found.append(1 - (unit @ unit.T)[upper[0], upper[1]])
    one, two = (d - d.mean() for d in found)
    r: torch.Tensor = (one * two).sum() / (one.norm() * two.norm()).clamp(min=1e-12)
    return 1 - r


def _pairs_of_poles(
    h: torch.Tensor, fewest: int, generator: torch.Generator
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield each pole that enough rows belong to, with random pairs of these."""
    for pole in range(h.shape[1]):
        rows = torch.nonzero(h[:, pole] > 0)[:, 0]
        if len(rows) >= fewest:
            yield pole, *_pairs(rows, generator)


def _pairs(rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random pairs of different rows; of few rows a pair may come twice."""
    n = len(rows)
    one = torch.randint(n, (PAIRS,), generator=generator)
    other = (one + 1 + torch.randint(n - 1, (PAIRS,), generator=generator)) % n
    return rows[one.to(rows.device)], rows[other.to(rows.device)]


def _spread(values: torch.Tensor) -> torch.Tensor:
    return values.std(0).clamp(min=1e-6)


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return values[where].mean() if bool(where.any()) else values.new_tensor(torch.nan)
