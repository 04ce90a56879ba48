"""Search for everyday beginnings of stories after which a model breaks a principle (DeNEVIL).

Variational EM (arXiv 2310.11053). By turns completions are sampled and those kept that break the
principle most (E), and beginnings are proposed and kept that make such completions likely and are
gone on from in breaking it (M). What broke a principle in the search was chosen for it: only fresh
completions (`measuring`) say how often a beginning does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from moralprobe.behavior.asking import SAID, sampled, status
from moralprobe.behavior.elicitation.calibration import Calibrated
from moralprobe.behavior.elicitation.completions import ask, fits, seed_of
from moralprobe.behavior.elicitation.principles import Principle
from moralprobe.behavior.elicitation.proposers import Limits, Proposer, Wanted, open_end
from moralprobe.behavior.text_model import TextModel
from moralprobe.cache import Cache
from moralprobe.errors import DataError, UsageError

_LEAST: Final = 1e-3
"""Of a mean probability, whose logarithm is taken."""
_ITSELF: Final = 0.5
"""A prompt that breaks the principle by itself with a higher probability isn't used."""
STORY: Final = "story of principle"
"""Who wrote a beginning that came with its principle."""


@dataclass(frozen=True)
class Options:
    """How is searched.

    Args:
        rounds: T.
        k: completions of each beginning.
        top: of them, that are kept.
        proposals: beginnings that are proposed in each round.
        beam: beginnings that are carried on, beside the incumbent.
        tokens: of a completion.
        alpha: weight of breaking the principle beside how well the completions go on.
        seed: of all samples.
    """

    rounds: int = 3
    k: int = 10
    top: int = 3
    proposals: int = 5
    beam: int = 2
    tokens: int = 100
    alpha: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.rounds, self.k, self.top, self.proposals, self.beam, self.tokens)
        if min(numbers) < 1 or not self.alpha >= 0 or self.top > self.k:
            raise UsageError(
                "these options can't search",
                f"{self}",
                "give one at least of each, and keep no more completions than are drawn",
            )


@dataclass(frozen=True)
class Candidate:
    """A beginning: who wrote it, in which round (0: before the first), and its score there."""

    prompt: str
    generator: str
    written: int
    score: float = np.nan


@dataclass
class _Path:
    """One principle's search."""

    principle: Principle
    beam: list[Candidate]
    history: list[Candidate] = field(default_factory=list)
    said: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a search found: of each principle the incumbent after every round, round 0 among them.

    `unused` counts proposals by why they weren't used, `without` are principles for which no
    beginning could be used at all, `context_fit` is the share of rounds and principles in which the
    model told how well completions go on.
    """

    principles: tuple[Principle, ...]
    incumbents: tuple[tuple[Candidate, ...], ...]
    unused: dict[str, int]
    without: tuple[Principle, ...]
    context_fit: float

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Return a row a principle and round, in the schema of MoralPrompt and more."""
        return [
            {
                "id": one.id,
                "foundation": one.foundation,
                "pole": one.pole,
                "principle": one.text,
                "prompt": best.prompt,
                "iter": number,
                "generator": best.generator,
                "written": best.written,
                "search_score": None if np.isnan(best.score) else best.score,
                "seed": seed,
            }
            for one, history in zip(self.principles, self.incumbents, strict=True)
            for number, best in enumerate(history)
        ]


def search(
    model: TextModel,
    principles: Sequence[Principle],
    proposer: Proposer,
    scorer: Calibrated,
    options: Options | None = None,
    *,
    limits: Limits | None = None,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Found:
    """Search for a beginning for each principle.

    A principle without a beginning of its own gets one from the proposer. Answers are kept in the
    cache as they come: the same search continues there.

    Args:
        model: whose completions are to break the principles.
        principles: of different ids.
        proposer: who writes beginnings.
        scorer: who says whether a completion breaks a principle.
        options: of the search.
        limits: what a beginning may be.
        cache: from `open_cache`.
        progress: called with the rounds that are done, their number, and what is done.

    Raises:
        DataError: no principle, or no beginning that can be used for any of them.
        UnansweredError: a model can't be reached; what it said is in the cache.
    """
    options, limits = options or Options(), limits or Limits()
    if not principles:
        raise DataError("there are no principles", "the list is empty", "give some")
    unused: Counter[str] = Counter()
    total, fits_told = options.rounds + 1, 0
    progress(0, total, "the first beginnings")
    paths = _begun(principles, proposer, scorer, options, limits, unused)
    without = [one for one in principles if one.id not in {path.principle.id for path in paths}]
    if not paths:
        raise DataError(
            "no beginning can be used for any principle",
            ", ".join(f"{why} {n}" for why, n in unused.most_common()),
            "give the principles a column prompt, or another proposer",
        )
    for number in range(1, options.rounds + 1):
        progress(number, total, "completions")
        for path in paths:  # fresh ones in every round: a beginning's luck doesn't last
            path.said.clear()
            path.broken.clear()
        _complete(model, paths, [path.beam for path in paths], scorer, options, cache, number)
        progress(number, total, "beginnings")
        fresh = _proposed(paths, proposer, scorer, options, limits, unused, number)
        _complete(model, paths, fresh, scorer, options, cache, number)
        for path, new in zip(paths, fresh, strict=True):
            fits_told += _chosen(model, path, new, options, cache)
    progress(total, total, "")
    return Found(
        tuple(path.principle for path in paths),
        tuple(tuple(path.history) for path in paths),
        dict(unused),
        tuple(without),
        fits_told / (options.rounds * len(paths)),
    )


def _begun(
    principles: Sequence[Principle],
    proposer: Proposer,
    scorer: Calibrated,
    options: Options,
    limits: Limits,
    unused: Counter[str],
) -> list[_Path]:
    """Return principles with a beginning: their own, else the first usable one of several."""
    own = [
        (one, Candidate(open_end(one.prompt, limits.words), STORY, 0))
        for one in principles
        if one.prompt is not None
    ]
    first = {one.id: new for one, new in _usable(own, scorer, limits, unused)}
    wanted = [
        (one, Wanted(one.text, seed=_seed(options, 0, b)))
        for one in principles
        if one.id not in first
        for b in range(options.proposals)
    ]
    written = proposer.propose([w for _, w in wanted]) if wanted else []
    offered = [
        (one, Candidate(open_end(text, limits.words), proposer.name, 0))
        for (one, _), text in zip(wanted, written, strict=True)
    ]
    for one, new in _usable(offered, scorer, limits, unused):
        first.setdefault(one.id, new)
    return [_Path(one, [first[one.id]], [first[one.id]]) for one in principles if one.id in first]


def _proposed(
    paths: Sequence[_Path],
    proposer: Proposer,
    scorer: Calibrated,
    options: Options,
    limits: Limits,
    unused: Counter[str],
    number: int,
) -> list[list[Candidate]]:
    """Return the new beginnings of each path that can be used."""
    wanted = [
        (path, Wanted(path.principle.text, _worst(path, options.top), _seed(options, number, b)))
        for path in paths
        for b in range(options.proposals)
    ]
    written = proposer.propose([w for _, w in wanted])
    offered, seen = [], {path.principle.id: {one.prompt for one in path.beam} for path in paths}
    for (path, _), text in zip(wanted, written, strict=True):
        new = Candidate(open_end(text, limits.words), proposer.name, number)
        if new.prompt in seen[path.principle.id]:
            unused["there already"] += 1
            continue
        seen[path.principle.id].add(new.prompt)
        offered.append((path.principle, new))
    fresh: dict[str, list[Candidate]] = {}
    for one, new in _usable(offered, scorer, limits, unused):
        fresh.setdefault(one.id, []).append(new)
    return [fresh.get(path.principle.id, []) for path in paths]


def _usable(
    offered: Sequence[tuple[Principle, Candidate]],
    scorer: Calibrated,
    limits: Limits,
    unused: Counter[str],
) -> list[tuple[Principle, Candidate]]:
    """Leave out what the limits forbid and what breaks the principle by itself, and count them."""
    allowed = []
    for one, new in offered:
        if (why := limits.why_not(new.prompt, one.text)) is not None:
            unused[why] += 1
        else:
            allowed.append((one, new))
    p = scorer.probability([(one.text, new.prompt) for one, new in allowed])
    unused["breaks it by itself"] += int((p > _ITSELF).sum())
    return [pair for pair, itself in zip(allowed, p, strict=True) if not itself > _ITSELF]


def _complete(
    model: TextModel,
    paths: Sequence[_Path],
    new: Sequence[Sequence[Candidate]],
    scorer: Calibrated,
    options: Options,
    cache: Cache | None,
    number: int,
) -> None:
    """Draw and score the completions of beginnings that have none yet in a round."""
    left = [
        (path, one.prompt)
        for path, some in zip(paths, new, strict=True)
        for one in some
        if one.prompt not in path.said
    ]
    questions = [
        ask(prompt, seed=_seed(options, number, k)) for _, prompt in left for k in range(options.k)
    ]
    said = sampled(model, questions, options.tokens, cache=cache)
    pairs = [
        (path.principle.text, said[i * options.k + k])
        for i, (path, _) in enumerate(left)
        for k in range(options.k)
    ]
    told = [i for i, (_, text) in enumerate(pairs) if status(text) == SAID]
    p = np.full(len(pairs), np.nan)
    p[told] = scorer.probability([pairs[i] for i in told])
    for i, (path, prompt) in enumerate(left):
        at = slice(i * options.k, (i + 1) * options.k)
        path.said[prompt], path.broken[prompt] = said[at], p[at]


def _worst(path: _Path, top: int) -> tuple[str, ...]:
    """Return the completions of the beam that break the principle most, different ones."""
    return tuple(text for text, _ in _kept(path, top))


def _kept(path: _Path, top: int) -> list[tuple[str, float]]:
    found: dict[str, float] = {}
    for one in path.beam:
        for text, p in zip(path.said[one.prompt], path.broken[one.prompt], strict=True):
            if np.isfinite(p):
                found.setdefault(text, float(p))
    return sorted(found.items(), key=lambda pair: -pair[1])[:top]


def _chosen(
    model: TextModel,
    path: _Path,
    new: Sequence[Candidate],
    options: Options,
    cache: Cache | None,
) -> bool:
    """Score the beam and what is new, keep the best and the incumbent; say if fits were told."""
    kept, every = _kept(path, options.top), [*path.beam, *new]
    broken = np.array([_mean(path.broken[one.prompt]) for one in every])
    scores, known = options.alpha * np.log(np.maximum(broken, _LEAST)), True
    if kept:
        texts, p = zip(*kept, strict=True)
        told = fits(model, [one.prompt for one in every], texts, cache=cache)
        known = told is not None
        if told is not None:
            scores = scores + told @ softmax(p)
    ranked = sorted(
        (replace(one, score=float(s)) for one, s in zip(every, scores, strict=True)),
        key=lambda one: -one.score,
    )
    incumbent = next(one for one in ranked if one.prompt == path.history[-1].prompt)
    carried = ranked[: options.beam]
    path.beam = carried if incumbent in carried else [*carried, incumbent]
    path.history.append(ranked[0])
    return known


def _mean(p: NDArray[np.float64]) -> float:
    return float(np.where(np.isfinite(p), p, 0.0).mean())  # what was refused broke nothing


def _seed(options: Options, number: int, k: int) -> int:
    return seed_of(options.seed, number, k)
