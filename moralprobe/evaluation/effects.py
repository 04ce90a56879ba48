"""What an arm does beside answering: side effects, and moral suites whose answers are options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from moralprobe.errors import UsageError, nearest
from moralprobe.evaluation.arms import Arm, system_message
from moralprobe.evaluation.changes import OF_STATES, Effect, SteeredLogits, if_steered
from moralprobe.evaluation.moral_suite import (
    english_pairs,
    ethics,
    known_answers,
    load_mfq,
    mfq,
    moral_stories,
)
from moralprobe.evaluation.options import Frame, mean_of, plain_logits
from moralprobe.evaluation.prompts import FLAMES, PARTS, load_ethics, load_moral_stories
from moralprobe.evaluation.side_effects import (
    divergence,
    knowledge,
    neutral,
    perplexity,
    refusals,
    repetition,
)
from moralprobe.evaluation.trial import Trial
from moralprobe.geometry.measure import not_enough
from moralprobe.models.chat import THOUGHT_ENDS, has_chat, opens_thought
from moralprobe.models.tokens import chat_frame
from moralprobe.steering.arms import UNSTEERED

KINDS: Final = ("side-effects", "moral")


@dataclass(frozen=True)
class Suites:
    """What is measured beside the prompts.

    `side_effects` need nothing, nor do `pairs`, the moral suite's known answers; its other parts
    need their files: `stories` a file of Moral Stories, `ethics` a folder of ETHICS, `mfq` the
    statements of a questionnaire. `items` of each are read at most.
    """

    side_effects: bool = True
    pairs: bool = True
    stories: Path | None = None
    ethics: Path | None = None
    mfq: Path | None = None
    items: int = 200

    @property
    def any(self) -> bool:
        """Whether there is anything to measure."""
        return self.side_effects or self.moral

    @property
    def moral(self) -> bool:
        """Whether a part of the moral suite is asked for."""
        return self.pairs or any(path is not None for path in (self.stories, self.ethics, self.mfq))

    def described(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}


def parse_suites(text: str, **paths: Path | None) -> tuple[bool, Suites]:
    """Read a choice of suites: `flames`, `moral`, `side-effects`, several joined by commas, `all`.

    Args:
        text: the choice.
        paths: of the moral suite's files, by the names of `Suites`.

    Returns:
        Whether prompts are answered and judged, and what else is measured.

    Raises:
        UsageError: an unknown suite.
    """
    known, names = (FLAMES, *KINDS, "all"), _names(text)
    for name in names or [""]:
        if name not in known:
            raise UsageError(f"unknown suite {name!r}", nearest(name, known), "choose of them")
    every = "all" in names
    suites = Suites(
        side_effects=every or "side-effects" in names,
        pairs=every or "moral" in names,
        **paths,  # type: ignore[arg-type]
    )
    if not suites.pairs:
        suites = replace(suites, stories=None, ethics=None, mfq=None)
    return every or FLAMES in names, suites


def usual_prompts(text: str) -> str:
    """Return which prompts a choice of suites answers unless told: Flames where it is named."""
    return FLAMES if FLAMES in _names(text) else "english"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _frame(trial: Trial, arm: Arm, thinking: bool | None, prompt: str = "") -> Frame | None:
    """Return what stands around a question in an arm's chat, if the model has one."""
    tokenizer = trial.model.tokenizer
    if not has_chat(tokenizer):
        return None
    system = system_message(prompt, arm.system, trial.system)
    before, after = chat_frame(tokenizer, system=system, thinking=thinking)
    # A template that always opens a thought has it end at once: what is read isn't a thought.
    opened = opens_thought(tokenizer, system=system, thinking=thinking)
    return before, f"{after}\n{THOUGHT_ENDS}\n\n" if opened else after


def _steered(trial: Trial, arm: Arm) -> SteeredLogits:
    return SteeredLogits(trial.model, arm.intervention, trial.positions)


def side_effects_of(
    trial: Trial, arm: Arm, suites: Suites, *, whole: bool = True, seed: int = 0
) -> Iterator[Effect]:
    """Yield what an arm breaks, one after the other.

    Perplexity of neutral text and KL from the model as it is say nothing of an arm that differs in
    its system message alone, and are left out there. What has no token that is steered has no
    value.

    Args:
        trial: model, sampling and caches.
        arm: at its strength.
        suites: whether it is asked for.
        whole: all of it; else perplexity and KL alone, for a curve over strengths.
        seed: of the resamples.
    """
    if not suites.side_effects:
        return
    if not arm.system:
        logits = _steered(trial, arm)
        for measure in perplexity(trial.model, logits, neutral().paragraphs, seed=seed):
            yield logits.said(Effect.of("side-effects", measure))
        yield _divergence(trial, arm, seed)
    if not whole:
        return
    yield from _of_answers(trial, arm, seed)
    logits = _steered(trial, arm)
    # Where a thought would begin, no letter is likely.
    frame = _frame(trial, arm, thinking=False)
    right = knowledge(trial.model, logits, neutral().questions, seed=seed, frame=frame)
    yield logits.said(Effect.of("side-effects", right))


def _answers(trial: Trial, arm: Arm) -> list[dict[str, Any]]:
    """Return what an arm answers to benign requests, with the first seed."""
    first = replace(trial, seeds=trial.seeds[:1])
    return [answer for (answer,) in first.texts(arm, neutral().requests)]


def _divergence(trial: Trial, arm: Arm, seed: int) -> Effect:
    """Measure KL from the model as it is after benign requests, on what it answered itself.

    Answers that it never got to, as after a thought that was cut, are left out.
    """
    requests = neutral().requests
    clean = [answer["text"] for answer in _answers(trial, Arm(UNSTEERED))]
    told = [(r, c) for r, c in zip(requests, clean, strict=True) if c.strip()]
    left_out = len(requests) - len(told)
    if not told:
        of = "answers of the model as it is: none got beyond its thought, or it wrote nothing"
        none = not_enough("KL", "benign requests", "nats per token", have=0, needed=2, of=of)
        return Effect("side-effects", none, left_out)
    logits = _steered(trial, arm)
    measure = divergence(
        trial.model,
        plain_logits(trial.model),
        logits,
        [r for r, _ in told],
        [c for _, c in told],
        frame=_frame(trial, arm, trial.thinking),
        seed=seed,
    )
    return logits.said(Effect("side-effects", measure, left_out, alike=True))


def _of_answers(trial: Trial, arm: Arm, seed: int) -> Iterator[Effect]:
    """Measure what an arm answers to benign requests: repetition, refusals, how it was steered."""
    answers = _answers(trial, arm)
    texts = [None if answer["unfinished"] else answer["text"] for answer in answers]
    edits = sum(answer["edits"] for answer in answers)
    sizes = np.array([answer["change"] for answer in answers])
    unit = "ratio of norms"
    for measure in (
        mean_of(OF_STATES, "benign requests", sizes, unit, seed=seed),
        *repetition(texts, seed=seed),
        refusals(texts, seed=seed),
    ):
        effect = Effect.of("side-effects", measure, len(texts) - measure.n)
        yield if_steered(effect, arm.intervention, trial.positions, edits)


def suites_of(
    trial: Trial, arm: Arm, suites: Suites, *, whole: bool = True, seed: int = 0
) -> Iterator[Effect]:
    """Yield what an arm finds moral: known pairs, and every part that has its file.

    Args:
        trial: model and settings.
        arm: at its strength.
        suites: files, and how many items of each.
        whole: all of it; else the known pairs alone, for a curve over strengths.
        seed: of samples and resamples.
    """
    model, frame = trial.model, _frame(trial, arm, thinking=False)
    if suites.pairs:
        logits = _steered(trial, arm)
        for found in known_answers(model, logits, english_pairs(), seed=seed, frame=frame):
            yield logits.said(Effect.of("moral", found))
    if not whole:
        return
    if suites.stories is not None and not arm.system:  # plain text has no system message
        logits = _steered(trial, arm)
        every = load_moral_stories(suites.stories)
        drawn = np.random.default_rng([seed, 5]).permutation(len(every))[: suites.items]
        stories = [every[i] for i in np.sort(drawn)]
        for outcome in moral_stories(model, logits, stories, seed=seed):
            yield logits.said(Effect.of("moral", outcome))
    if suites.ethics is not None:
        for part in PARTS:
            logits, cases = _steered(trial, arm), load_ethics(suites.ethics, part)
            for outcome in ethics(model, logits, cases, n=suites.items, seed=seed, frame=frame):
                yield logits.said(Effect.of("moral", outcome))
    if suites.mfq is not None:
        logits = _steered(trial, arm)
        profile = mfq(model, logits, load_mfq(suites.mfq), seed=seed, frame=frame)
        for measure in (*profile.foundations, *profile.checks):
            yield logits.said(Effect.of("moral", measure))
