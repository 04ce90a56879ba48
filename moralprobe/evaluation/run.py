"""Run an evaluation by our protocol, or as published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from moralprobe.errors import DataError
from moralprobe.evaluation.arms import as_written, why_no_prompt
from moralprobe.evaluation.choosing import halves
from moralprobe.evaluation.judge_backends import as_published
from moralprobe.evaluation.judge_check import (
    JudgeCheck,
    KnownPair,
    check_judge,
    failures_on_arms,
)
from moralprobe.evaluation.judges import Judge, language_of
from moralprobe.evaluation.pairwise import Estimate, Pairs, agreement, prompt_mean, win_rate
from moralprobe.evaluation.prompts import Prompt, Prompts
from moralprobe.evaluation.settings import PUBLISHED, Options
from moralprobe.evaluation.trial import (
    RUBRICS,
    Answers,
    Trial,
    Variant,
    asked_of,
    chosen,
    differences,
    finished_of,
    judged_rows,
    longer_by,
    unfinished_share,
    unread_share,
    variants_of,
)
from moralprobe.evaluation.verdict import UNKNOWN, Verdict, verdict, why_unfinished
from moralprobe.models.chat import has_chat
from moralprobe.steering.arms import ARMS, STEERED, UNSTEERED
from moralprobe.steering.intervention import Intervention

SYSTEM_OF_LI2026: Final = "你是一个有用的助手。"
ARMS_OFF: Final = tuple(name for name in ARMS if name != UNSTEERED)
"""Arms that the published protocol doesn't have."""
Progress = Callable[[int, int, str], None]


@dataclass
class Found:
    """What a protocol gives; `unfinished` is each arm's share of answers that never came."""

    best: dict[str, Variant] = field(default_factory=dict)
    unfinished: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    checks: list[JudgeCheck] = field(default_factory=list)
    agreement: dict[str, Any] | None = None
    decoding: dict[str, dict[str, Any]] = field(default_factory=dict)
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=lambda: verdict({}, {}))


@dataclass
class Run:
    """An evaluation on its way: what it is of, and how much of it is done."""

    trial: Trial
    made: list[Intervention]
    judges: tuple[Judge, ...]
    known: tuple[KnownPair, ...]
    options: Options
    progress: Progress
    say: Callable[[str], None] = lambda message: None
    warned: bool = False
    done: int = 0
    total: int = 1

    def layers(self, variant: Variant) -> str:
        """Return the layers that a variant edits, as text."""
        return ",".join(map(str, self.made[variant.source].layers))

    def place(self, variant: Variant, half: str) -> dict[str, Any]:
        """Return the columns that say which variant a row is of, on which prompts."""
        return {
            "arm": variant.name,
            "layers": self.layers(variant),
            "strength": variant.strength,
            "half": half,
        }

    def variants(self, off: Sequence[str]) -> tuple[list[Variant], dict[str, str]]:
        """Return every arm at every strength, and why arms are missing."""
        why = why_no_prompt(self.trial.model, self.trial.thinking)
        return variants_of(self.made, self.options.strengths, off, no_prompt=why)

    def counting(self, total: int) -> Trial:
        """Return the trial with steps that are counted."""
        self.total = max(1, total)

        def step(n: int, what: str) -> None:
            self.done = min(self.done + n, self.total)
            self.progress(self.done, self.total, what)

        return replace(self.trial, step=step)

    def keep_texts(
        self, found: Found, variant: Variant, half: str, prompts: Sequence[Prompt], said: Answers
    ) -> None:
        """Keep what a variant wrote, a row a text; say once if too much of it is thought alone.

        As published thoughts are judged too, so there it isn't too little.
        """
        too_few = why_unfinished({variant.name: unfinished_share(said)})
        if too_few and self.options.protocol == "audited" and not self.warned:
            self.warned = True
            self.say(too_few)
        for prompt, answers in zip(prompts, said, strict=True):
            for seed, one in zip(self.trial.seeds, answers, strict=False):
                found.texts.append(
                    {
                        **self.place(variant, half),
                        "id": prompt.id,
                        "group": prompt.group,
                        "prompt": prompt.text,
                        "seed": seed,
                        **one,
                    }
                )

    def checked(self, judges: Sequence[Judge], prompts: Prompts) -> list[JudgeCheck]:
        """Check judges in the languages of the prompts, before hours of writing."""
        return [
            check_judge(
                judge,
                self.known,
                languages={language_of(prompt.text) for prompt in prompts.prompts},
                cache=self.trial.judged,
                seed=self.options.seed,
                progress=lambda done, total, judge=judge: self.progress(  # type: ignore[misc]
                    done, total, f"checking {judge.name}"
                ),
            )
            for judge in judges
        ]

    def audited(self, prompts: Prompts) -> Found:
        """Choose on one half, report on the other, beside every control.

        Chosen is by the first seed's texts before judges that can be believed. Where there is none
        nothing can be chosen: every arm is at its largest strength, and all prompts are reported.
        """
        variants, missing = self.variants(self.options.off)
        found = Found(missing=missing, decoding={"all": asdict(self.trial.sampling)})
        found.checks = self.checked(self.judges, prompts)
        believed = [
            judge for judge, check in zip(self.judges, found.checks, strict=True) if not check.fails
        ]
        choose: Sequence[Prompt] = ()
        report: Sequence[Prompt] = prompts.prompts
        if believed:
            choose, report = halves(prompts.prompts, self.options.seed)
        n_arms, n_seeds = len({v.name for v in variants}), len(self.trial.seeds)
        to_choose = len(choose) * len(variants) * (1 + len(believed))
        trial = self.counting(to_choose + len(report) * n_arms * n_seeds * (1 + len(self.judges)))
        scores: dict[int, float | None] = {}
        if believed:
            first = replace(trial, seeds=trial.seeds[:1])
            base = next(v for v in variants if v.name == UNSTEERED)
            plain = first.answers(base, choose)
            for number, variant in enumerate(variants):
                said = first.answers(variant, choose)
                self.keep_texts(found, variant, "choose", choose, said)
                if variant is base:
                    continue
                rates = []
                for judge in believed:
                    pairs = first.pairs(judge, choose, said, plain)
                    found.rows += self._rows(judge, variant, "choose", pairs, said, plain)
                    rates.append(_rate(pairs, self.options.seed))
                known = [rate for rate in rates if rate is not None]
                # What mostly thinks on wins by what is left: it isn't chosen while others answer.
                ends = not why_unfinished({variant.name: unfinished_share(said)})
                scores[number] = float(np.mean(known)) if known and ends else None
        found.best = chosen(variants, scores)
        self._report(found, trial, report)
        return found

    def _report(self, found: Found, trial: Trial, report: Sequence[Prompt]) -> None:
        """Judge each arm's chosen variant on prompts that weren't chosen on."""
        plain = trial.answers(found.best[UNSTEERED], report)
        said = {
            name: plain if name == UNSTEERED else trial.answers(variant, report)
            for name, variant in found.best.items()
        }
        for name, variant in found.best.items():
            self.keep_texts(found, variant, "report", report, said[name])
            found.unfinished[name] = unfinished_share(said[name])
        of_steered: list[Pairs] = []
        every: dict[str, dict[str, Estimate]] = {}
        for number, (judge, check) in enumerate(zip(self.judges, tuple(found.checks), strict=True)):
            pairs, unread = {}, {}
            for name, variant in found.best.items():
                pairs[name] = trial.pairs(judge, report, said[name], plain)
                unread[name] = unread_share(pairs[name], asked_of(said[name], plain))
                found.rows += self._rows(judge, variant, "report", pairs[name], said[name], plain)
                if self.options.ratings:
                    found.rows += self._rated(judge, trial, variant, report, said[name])
            fails = (*check.fails, *failures_on_arms(unread))
            found.checks[number] = replace(check, fails=fails)
            steered = pairs.pop(STEERED)
            of_steered.append(steered)
            gaps = differences(steered, pairs, seed=self.options.seed)
            found.differences[judge.name] = {name: vars(gap) for name, gap in gaps.items()}
            every[judge.name] = gaps
        if len(of_steered) > 1:
            try:
                found.agreement = vars(agreement(*of_steered[:2], seed=self.options.seed))
            except DataError:  # no pair that both have judged
                found.agreement = None
        failed = {check.judge: check.fails for check in found.checks}
        found.verdict = verdict(every, failed, sorted(found.missing), found.unfinished)

    def _rows(
        self,
        judge: Judge,
        variant: Variant,
        half: str,
        pairs: Pairs,
        said: Answers,
        plain: Answers,
    ) -> list[dict[str, Any]]:
        unfinished = int((~finished_of(said, plain)).sum())
        place = {"judge": judge.name, **self.place(variant, half), "unfinished": unfinished}
        try:
            rows = judged_rows(
                pairs, longer_by(said, plain), asked_of(said, plain), seed=self.options.seed
            )
        except DataError:  # no pair has two verdicts
            empty = {"value": None, "low": None, "high": None, "prompts": 0, "pairs": 0}
            rows = [{"measure": "win rate", **empty, "missing": pairs.arm_first.size}]
        return [{**place, **row} for row in rows]

    def _rated(
        self,
        judge: Judge,
        trial: Trial,
        variant: Variant,
        prompts: Sequence[Prompt],
        said: Answers,
        half: str = "report",
    ) -> list[dict[str, Any]]:
        """Return the share of answers rated 3, and how many that are (PSC).

        As published it is of all answers: one without a rating that is read isn't rated 3.
        """
        rows = []
        place = {"judge": judge.name, **self.place(variant, half)}
        place["unfinished"] = int((~finished_of(said, said)).sum())
        for name, rubric in zip(("PSC1", "PSC2"), RUBRICS, strict=True):
            ratings = trial.ratings(judge, prompts, said, rubric)
            full, unread = (ratings == 3).astype(float), np.isnan(ratings)
            if self.options.protocol == "audited":
                full[unread] = np.nan
            try:
                share = vars(prompt_mean(full, seed=self.options.seed))
            except DataError:
                continue
            measure = f"{name}: share of {rubric} rated 3"
            rows.append({**place, "measure": measure, **share, "missing": int(unread.sum())})
        return rows

    def published(self, prompts: Prompts) -> Found:
        """Do as published: decoding that differs, one order, the best of all strengths.

        The baseline is always shown first, a judge that fails is a tie, all prompts choose and
        report, and no control is there. Judged is what was written, thoughts and all: nothing says
        that theirs were taken away, and within the published limits few would end.

        Source: arXiv 2603.15615, released scripts; section and page as in the docs.
        """
        every, _ = self.variants(ARMS_OFF)
        variants = [v for v in every if v.name == STEERED]
        base = next(v for v in every if v.name == UNSTEERED)
        found = Found(missing=dict.fromkeys(ARMS_OFF, "the published protocol has no such arm"))
        judges = [as_published(judge) for judge in self.judges]
        found.checks = self.checked(judges, prompts)
        per = len(prompts) * (1 + len(self.judges))
        counted = self.counting(per * (len(variants) + 1))
        trials = {
            name: replace(
                counted,
                seeds=counted.seeds[:1],
                system=SYSTEM_OF_LI2026 if has_chat(counted.model.tokenizer) else None,
                sampling=replace(
                    how,
                    max_new_tokens=min(how.max_new_tokens, counted.sampling.max_new_tokens),
                ),
            )
            for name, how in PUBLISHED.items()
        }
        found.decoding = {name: asdict(trial.sampling) for name, trial in trials.items()}
        chosen_from, told = prompts.prompts, trials[STEERED]
        written = trials[UNSTEERED].answers(base, chosen_from)
        self.keep_texts(found, base, "all", chosen_from, written)
        found.unfinished[UNSTEERED] = unfinished_share(written)
        plain = as_written(written)
        scores: dict[int, float | None] = {}
        unfinished: list[float] = []
        for judge in judges:
            found.rows += self._rated(judge, told, base, chosen_from, plain, "all")
        for number, variant in enumerate(variants):
            written = told.answers(variant, chosen_from)
            self.keep_texts(found, variant, "all", chosen_from, written)
            unfinished.append(unfinished_share(written))
            said = as_written(written)
            for judge in judges:
                rate = told.published(judge, chosen_from, said, plain)
                place = {"judge": judge.name, **self.place(variant, "all"), "unfinished": 0}
                found.rows.append({**place, **rate})
                found.rows += self._rated(judge, told, variant, chosen_from, said, "all")
                scores.setdefault(number, rate["value"])
        found.best = {**chosen(variants, scores), UNSTEERED: base}
        best = found.best[STEERED]
        which = variants.index(best)
        found.unfinished[STEERED] = unfinished[which]
        won = scores.get(which)
        win = "no judge was asked" if won is None else f"a win rate of {won:.3f}"
        if found.checks and found.checks[0].fails:
            win = f"a judge that can't be believed gives {win}"
        found.verdict = Verdict(
            UNKNOWN,
            f"As published: {win} at strength {best.strength:g}, layers {self.layers(best)}, the "
            "best of those tried on the same prompts. No control stands beside it and the arms are "
            "decoded differently: nothing is claimed.",
        )
        return found


def _rate(pairs: Pairs, seed: int) -> float | None:
    try:
        return win_rate(pairs, seed=seed).value
    except DataError:
        return None
