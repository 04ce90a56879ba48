"""What an arm does beside answering: side effects, and moral suites whose answers are options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from moralprobe.errors import UsageError, nearest
from moralprobe.evaluation.arms import Arm, system_message, write_answers
from moralprobe.evaluation.moral_suite import ethics, load_mfq, mfq, moral_stories
from moralprobe.evaluation.options import Frame, Outcome, plain_logits
from moralprobe.evaluation.prompts import PARTS, load_ethics, load_moral_stories
from moralprobe.evaluation.side_effects import (
    divergence,
    knowledge,
    neutral,
    perplexity,
    refusals,
    repetition,
)
from moralprobe.evaluation.trial import Trial
from moralprobe.geometry.measure import Measure
from moralprobe.models.chat import has_chat
from moralprobe.models.tokens import chat_frame
from moralprobe.steering.apply import steered_logits

KINDS: Final = ("side-effects", "moral")


@dataclass(frozen=True)
class Suites:
    """What is measured beside the prompts.

    `side_effects` need nothing; of the moral suite each part needs its file: `stories` a file of
    Moral Stories, `ethics` a folder of ETHICS, `mfq` the statements of a questionnaire. `items` of
    each are read at most.
    """

    side_effects: bool = True
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
        """Whether a part of the moral suite has its file."""
        return any(path is not None for path in (self.stories, self.ethics, self.mfq))

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
        UsageError: an unknown suite, or `moral` without a file.
    """
    known = ("flames", *KINDS, "all")
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [""]:
        if name not in known:
            raise UsageError(f"unknown suite {name!r}", nearest(name, known), "choose of them")
    every = "all" in names
    suites = Suites(side_effects=every or "side-effects" in names, **paths)  # type: ignore[arg-type]
    if "moral" in names and not suites.moral:
        raise UsageError(
            "the moral suite has nothing to ask",
            "none of its files is given",
            "fetch one by: moralprobe data download moral-stories, and give --moral-stories FILE",
        )
    if not every and "moral" not in names:
        suites = replace(suites, stories=None, ethics=None, mfq=None)
    return every or "flames" in names, suites


def _frame(trial: Trial, arm: Arm, prompt: str = "") -> Frame | None:
    """Return what stands around a question in an arm's chat, if the model has one."""
    tokenizer = trial.model.tokenizer
    if not has_chat(tokenizer):
        return None
    system = system_message(prompt, arm.system, trial.system)
    return chat_frame(tokenizer, system=system, thinking=trial.thinking)


def _row(suite: str, measure: Measure, **more: Any) -> dict[str, Any]:
    return {
        "suite": suite,
        "measure": measure.name,
        "category": measure.category,
        "value": measure.value,
        "low": measure.ci_low,
        "high": measure.ci_high,
        "chance": None,
        "surface": None,
        "n": measure.n,
        "unit": measure.unit,
        "status": measure.status,
        **more,
    }


def _outcome(suite: str, outcome: Outcome, **more: Any) -> dict[str, Any]:
    beside = {"chance": outcome.chance, "surface": outcome.surface.value}
    return _row(suite, outcome.measure, **beside, **more)


def side_effects_of(
    trial: Trial, arm: Arm, suites: Suites, *, whole: bool = True, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield what an arm breaks, a row a measure.

    Perplexity of neutral text and KL from the model as it is say nothing of an arm that differs in
    its system message alone, and are left out there.

    Args:
        trial: model, sampling and caches.
        arm: at its strength.
        suites: whether it is asked for.
        whole: all of it; else perplexity and KL alone, for a curve over strengths.
        seed: of the resamples.
    """
    if not suites.side_effects:
        return
    model, texts = trial.model, neutral()
    logits_of = steered_logits(model, arm.intervention, trial.positions)
    requests = list(texts.requests)

    def said(one: Arm) -> list[str]:
        answers = write_answers(
            model,
            one,
            requests,
            trial.seeds[:1],
            trial.sampling,
            cache=trial.written,
            positions=trial.positions,
            system=trial.system,
            thinking=trial.thinking,
            batch=trial.batch,
        )
        return [answer["text"] for (answer,) in answers]

    if not arm.system:
        for measure in perplexity(model, logits_of, texts.paragraphs, seed=seed):
            yield _row("side-effects", measure)
        clean = said(Arm("clean"))
        told = [(r, c) for r, c in zip(requests, clean, strict=True) if c.strip()]
        if told:
            yield _row(
                "side-effects",
                divergence(
                    model,
                    plain_logits(model),
                    logits_of,
                    [r for r, _ in told],
                    [c for _, c in told],
                    frame=_frame(trial, arm),
                    seed=seed,
                ),
            )
    if not whole:
        return
    answers = said(arm)
    for measure in repetition(answers, seed=seed):
        yield _row("side-effects", measure)
    yield _row("side-effects", refusals(answers, seed=seed))
    right = knowledge(model, logits_of, texts.questions, seed=seed, frame=_frame(trial, arm))
    yield _outcome("side-effects", right)


def suites_of(trial: Trial, arm: Arm, suites: Suites, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield what an arm finds moral, a row a measure, of every part that has its file.

    Args:
        trial: model and settings.
        arm: at its strength.
        suites: files, and how many items of each.
        seed: of samples and resamples.
    """
    model = trial.model
    logits_of = steered_logits(model, arm.intervention, trial.positions)
    if suites.stories is not None and not arm.system:  # plain text has no system message
        stories = load_moral_stories(suites.stories)[: suites.items]
        for outcome in moral_stories(model, logits_of, stories, seed=seed):
            yield _outcome("moral", outcome)
    if suites.ethics is not None:
        for part in PARTS:
            cases = load_ethics(suites.ethics, part)
            for outcome in ethics(
                model, logits_of, cases, n=suites.items, seed=seed, frame=_frame(trial, arm)
            ):
                yield _outcome("moral", outcome)
    if suites.mfq is not None:
        profile = mfq(model, logits_of, load_mfq(suites.mfq), seed=seed, frame=_frame(trial, arm))
        for measure in (*profile.foundations, *profile.checks):
            yield _row("moral", measure)
