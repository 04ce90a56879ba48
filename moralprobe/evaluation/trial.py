"""An evaluation's variants: each arm at each layer and strength, its texts and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moralprobe.cache import Cache
from moralprobe.errors import NumericError, UsageError
from moralprobe.evaluation.arms import Arm, arms_of, write_answers
from moralprobe.evaluation.judges import (
    LEGALITY,
    Comparison,
    Judge,
    ask,
    judge_pairs,
    rate_answers,
    verdict_of,
)
from moralprobe.evaluation.pairwise import (
    MISSING,
    TIE,
    Estimate,
    Pairs,
    difference,
    judge_statistics,
    length_controlled,
    li2026_win_rate,
    win_rate,
)
from moralprobe.evaluation.prompts import Prompt
from moralprobe.models.causal import CausalModel
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.sampling import Sampling

RUBRICS: Final = ("safety", "nuance")
_OF_SECOND: Final = {"first": 0.0, "second": 1.0, "tie": TIE, None: MISSING}
Answers = list[list[dict[str, Any]]]
Step = Callable[[int, str], None]


@dataclass(frozen=True)
class Variant:
    """An arm of one intervention (`source`, its number) at one strength."""

    arm: Arm
    source: int
    strength: float

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name


def variants_of(
    interventions: Sequence[Intervention],
    strengths: Sequence[float],
    off: Sequence[str] = (),
    *,
    no_prompt: str = "",
) -> tuple[list[Variant], dict[str, str]]:
    """Return every arm at every strength but 0, and why arms are missing.

    Arms without an intervention, unsteered and prompt, are there once, at strength 0.

    Raises:
        UsageError: no strength but 0, or an arm that can't be switched off.
    """
    wanted = sorted({float(s) for s in strengths} - {0.0})
    if not wanted:
        raise UsageError(
            "there is nothing to steer by",
            f"the strengths are {', '.join(map(str, strengths)) or 'none'}",
            "give one that isn't 0",
        )
    found: list[Variant] = []
    missing: dict[str, str] = {}
    present: set[str] = set()
    for source, intervention in enumerate(interventions):
        arms, why = arms_of(intervention, off, no_prompt=no_prompt)
        missing |= why
        present |= {arm.name for arm in arms}
        for arm in arms:
            if arm.intervention is None:
                if source == 0:
                    found.append(Variant(arm, 0, 0.0))
                continue
            found += [Variant(arm.at(s), source, s) for s in wanted]
    return found, {name: why for name, why in missing.items() if name not in present}


@dataclass(frozen=True)
class Trial:
    """What all variants of an evaluation have in common: model, sampling, seeds, caches."""

    model: CausalModel
    sampling: Sampling
    seeds: tuple[int, ...]
    written: Cache
    judged: Cache
    positions: str = "all"
    system: str | None = None
    thinking: bool | None = None
    batch: int = 16
    step: Step = field(default=lambda n, what: None, repr=False)

    def answers(self, variant: Variant, prompts: Sequence[Prompt]) -> Answers:
        """Return what a variant writes, [prompts][seeds]."""
        return self.texts(
            variant.arm,
            [prompt.text for prompt in prompts],
            step=lambda n: self.step(n, f"writing: {variant.name}"),
        )

    def texts(
        self, arm: Arm, asked: Sequence[str], *, step: Callable[[int], None] = lambda n: None
    ) -> Answers:
        """Return what an arm writes after each of some texts, [texts][seeds]."""
        return write_answers(
            self.model,
            arm,
            asked,
            self.seeds,
            self.sampling,
            cache=self.written,
            positions=self.positions,
            system=self.system,
            thinking=self.thinking,
            batch=self.batch,
            step=step,
        )

    def pairs(
        self, judge: Judge, prompts: Sequence[Prompt], mine: Answers, baseline: Answers
    ) -> Pairs:
        """Return a judge's verdicts on a variant against the model as it is, in both orders.

        The same text twice is a tie by definition: no judge is asked. Nor is one where a thought
        never ended, and there is no verdict.
        """
        first = np.where(finished_of(mine, baseline), TIE, MISSING)
        second = first.copy()
        differ = np.argwhere(asked_of(mine, baseline)).tolist()
        if differ:
            found = judge_pairs(
                judge,
                [prompts[i].text for i, _ in differ],
                [[mine[i][s]["text"]] for i, s in differ],
                [[baseline[i][s]["text"]] for i, s in differ],
                cache=self.judged,
            )
            rows, columns = np.array(differ).T
            first[rows, columns] = found.arm_first[:, 0]
            second[rows, columns] = found.arm_second[:, 0]
        self.step(first.size, f"judging by {judge.name}")
        return Pairs(first, second)

    def published(
        self, judge: Judge, prompts: Sequence[Prompt], mine: Answers, baseline: Answers
    ) -> dict[str, Any]:
        """Return the win rate as published: the baseline first, whatever isn't read a tie."""
        there = finished_of(mine, baseline)
        asked = [
            Comparison(prompts[i].text, baseline[i][s]["text"], mine[i][s]["text"])
            for i, s in np.argwhere(there).tolist()
        ]
        second = np.full(there.shape, MISSING)
        second[there] = [
            _OF_SECOND[verdict_of(answer)] for answer in ask(judge, asked, cache=self.judged)
        ]
        self.step(second.size, f"judging by {judge.name}")
        return _as_published(Pairs(np.full(second.shape, MISSING), second))

    def ratings(
        self, judge: Judge, prompts: Sequence[Prompt], mine: Answers, rubric: str
    ) -> NDArray[np.float64]:
        """Return a judge's ratings from 1 to 3, [prompts, seeds]; NaN where there is none.

        Safety is 1 or 3 alone where a prompt is of legality, as Flames has it.
        """
        there = finished_of(mine, mine)
        found = np.full(there.shape, MISSING)
        if there.any():
            rows = np.argwhere(there).tolist()
            rated = rate_answers(
                judge,
                [prompts[i].text for i, _ in rows],
                [[mine[i][s]["text"]] for i, s in rows],
                [
                    LEGALITY if (prompts[i].group, rubric) == (LEGALITY, "safety") else rubric
                    for i, _ in rows
                ],
                cache=self.judged,
            )
            found[there] = rated[:, 0]
        return found


def chosen(variants: Sequence[Variant], scores: Mapping[int, float | None]) -> dict[str, Variant]:
    """Return each arm's variant with the highest score; without scores its strongest.

    Args:
        variants: all of them.
        scores: by the number of the variant.
    """
    best: dict[str, tuple[tuple[bool, float, float], Variant]] = {}
    for number, variant in enumerate(variants):
        score = scores.get(number)
        size = abs(variant.strength)
        # Of equal ones the weaker: it changes less.
        rank = (False, 0.0, size) if score is None else (True, score, -size)
        if variant.name not in best or rank > best[variant.name][0]:
            best[variant.name] = (rank, variant)
    return {name: variant for name, (_, variant) in best.items()}


def longer_by(mine: Answers, baseline: Answers) -> NDArray[np.float64]:
    """Return how many letters longer answers are than the baseline's, [prompts, seeds]."""
    return np.array(
        [
            [len(x["text"]) - len(y["text"]) for x, y in zip(a, b, strict=True)]
            for a, b in zip(mine, baseline, strict=True)
        ],
        np.float64,
    )


def judged_rows(
    pairs: Pairs,
    longer: NDArray[np.float64],
    asked: NDArray[np.bool_],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the measures of a variant before a judge, a row each.

    Args:
        pairs: its verdicts.
        longer: [prompts, seeds] by how much its answers are longer.
        asked: [prompts, seeds] of which pairs the judge was asked: of these alone is what is said
            of the judge.
        seed: of the resamples.
    """
    found = {"win rate": win_rate(pairs, seed=seed)}
    of_judge = Pairs(*(np.where(asked, x, MISSING) for x in (pairs.arm_first, pairs.arm_second)))
    if np.isfinite(of_judge.scores).any():
        statistics = judge_statistics(of_judge, seed=seed)
        found["position bias"] = statistics.position_bias
        found["self-consistency"] = statistics.self_consistency
    try:
        controlled = length_controlled(pairs.scores, longer, seed=seed)
        found["win rate at equal length"] = controlled.win_rate
        found["log-odds of length"] = controlled.gain
    except NumericError:
        pass  # every answer is longer by the same: nothing tells length and arm apart
    return [*({"measure": name, **vars(one)} for name, one in found.items()), _as_published(pairs)]


def _as_published(pairs: Pairs) -> dict[str, Any]:
    """Return the published win rate, which has no interval."""
    found = li2026_win_rate(pairs)
    return {
        "measure": "win rate as published",
        "value": found.value,
        "low": None,
        "high": None,
        "prompts": len(pairs.arm_second),
        "pairs": pairs.arm_second.size,
        "missing": found.failures,
    }


def asked_of(mine: Answers, baseline: Answers) -> NDArray[np.bool_]:
    """Return which pairs a judge is asked of, [prompts, seeds]: two answers, and they differ."""
    differ = [
        [x["text"] != y["text"] for x, y in zip(a, b, strict=True)]
        for a, b in zip(mine, baseline, strict=True)
    ]
    return np.array(differ) & finished_of(mine, baseline)


def finished_of(mine: Answers, baseline: Answers) -> NDArray[np.bool_]:
    """Return which pairs have two answers, [prompts, seeds]: no thought that never ended."""
    return np.array(
        [
            [not x["unfinished"] and not y["unfinished"] for x, y in zip(a, b, strict=True)]
            for a, b in zip(mine, baseline, strict=True)
        ]
    )


def unfinished_share(said: Answers) -> float:
    """Return the share of answers whose thought never ended."""
    return float(1 - finished_of(said, said).mean())


def differences(steered: Pairs, controls: Mapping[str, Pairs], *, seed: int) -> dict[str, Estimate]:
    """Return how far the intervention's win rate is above each control's, by its name.

    A control without a pair that both have is left out: `missing_share` says so before.
    """
    found = {}
    for name, pairs in controls.items():
        if np.isfinite(steered.scores - pairs.scores).any():
            found[name] = difference(steered.scores, pairs.scores, seed=seed)
    return found


def unread_share(pairs: Pairs, asked: NDArray[np.bool_]) -> float:
    """Return the share of pairs that a judge was asked of which lack a verdict."""
    return float(np.isnan(pairs.scores[asked]).mean()) if asked.any() else 0.0
