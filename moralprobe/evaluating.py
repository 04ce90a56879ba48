"""Evaluate interventions: what judges say, what else changes, and what may be claimed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe.cache import open_cache
from moralprobe.errors import StoreError, UsageError
from moralprobe.evaluation.changes import Effect, change_of_states, unlike
from moralprobe.evaluation.effects import Suites, side_effects_of, suites_of
from moralprobe.evaluation.judge_check import JudgeCheck, KnownPair, known_pairs
from moralprobe.evaluation.judges import Judge
from moralprobe.evaluation.prompts import Prompts
from moralprobe.evaluation.run import Found, Progress, Run
from moralprobe.evaluation.settings import Options
from moralprobe.evaluation.trial import Trial, Variant, chosen
from moralprobe.files import write_json, write_table
from moralprobe.models.causal import CausalModel
from moralprobe.steering.arms import UNSTEERED
from moralprobe.steering.intervention import Intervention, check_intervention

FILE: Final = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """What was found. `summary` is JSON: the verdict, what was asked, judges and their checks.

    `judged` has a row an arm, judge and measure; `texts` one an answer; `effects` one an arm and
    measure of side effects and moral suites, with its change from the unsteered model's.
    """

    summary: dict[str, Any]
    judged: pl.DataFrame
    texts: pl.DataFrame
    effects: pl.DataFrame

    def save(self, folder: Path) -> Path:
        """Write `evaluation.json` and three tables."""
        for name in ("judged", "texts", "effects"):
            write_table(Path(folder) / f"{name}.parquet", getattr(self, name))
        write_json(Path(folder) / FILE, self.summary)
        return Path(folder)

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            StoreError: the folder holds none, or one that an earlier version made.
        """
        try:
            tables = [
                pl.read_parquet(Path(folder) / f"{name}.parquet")
                for name in ("judged", "texts", "effects")
            ]
            found = cls(json.loads((Path(folder) / FILE).read_bytes()), *tables)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise StoreError(
                f"{folder} holds no evaluation",
                str(error).split("\n")[0],
                "run: moralprobe evaluate",
            ) from error
        if "unfinished" not in found.summary or "change" not in found.effects.columns:
            raise StoreError(
                f"the evaluation in {folder} is of an earlier version",
                "it lacks what a report shows now",
                "repeat the command: texts and verdicts that hold still serve",
            )
        return found


def evaluate_intervention(
    interventions: Intervention | Sequence[Intervention],
    model: CausalModel,
    out: Path,
    *,
    prompts: Prompts | None = None,
    judges: Sequence[Judge] = (),
    known: Sequence[KnownPair] | None = None,
    suites: Suites | None = None,
    options: Options | None = None,
    progress: Progress = lambda done, total, detail: None,
    say: Callable[[str], None] = lambda message: None,
) -> Evaluation:
    """Evaluate interventions against every control arm; the same call continues.

    `audited`: all arms write by the same decoding; judges see both orders, and each is checked on
    pairs whose better answer is known; layer and strength of every arm are chosen on half of the
    prompts before judges that can be believed, and reported on the other; ties count half,
    failures are left out and counted.
    `li2026`: the published design, faithfully: decoding that differs, one order, the strength that
    does best on the prompts that are reported, no control.

    Args:
        interventions: one, or one of each layer that is tried.
        model: that they were made for.
        out: the folder: texts and verdicts are kept there as they come.
        prompts: that are answered; none, to measure side effects and suites alone.
        judges: who compare; none, to have texts alone.
        known: pairs that judges are checked on; those of this project, if not given.
        suites: what else is measured; side effects and known pairs, if not given.
        options: strengths, seeds, decoding, protocol.
        progress: called with answers and verdicts that are there, and about how many there will be.
        say: called with what a user should know.

    Raises:
        ModelError: an intervention of another model, layer or width.
        UsageError: no strength, an arm that isn't known, two judges of one name, or nothing to do.
        DataError: too few prompts.
        JudgeError: no judge is reachable; what is there is kept.
    """
    options, out = options or Options(), Path(out)
    made = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    suites = suites if suites is not None else Suites()
    if not made or (prompts is None and not suites.any):
        raise UsageError("there is nothing to evaluate", "no prompts and no suite", "give some")
    for one in made:
        check_intervention(one, model)
    if len({one.layers for one in made}) < len(made):
        raise UsageError(
            "two interventions are of the same layers",
            "; ".join(", ".join(map(str, one.layers)) for one in made),
            "evaluate them one after the other: tables tell them apart by it",
        )
    if len({judge.name for judge in judges}) < len(judges):
        raise UsageError(
            "two judges have the same name",
            ", ".join(judge.name for judge in judges),
            "give each its own: what they say is kept apart by it",
        )
    with ExitStack() as stack:
        written = stack.enter_context(open_cache(out / "written.jsonl", say))
        judged = stack.enter_context(open_cache(out / "judged.jsonl", say))
        trial = Trial(
            model,
            options.sampling,
            options.seeds,
            written,
            judged,
            positions=options.positions,
            thinking=options.thinking,
            batch=options.batch,
        )
        pairs = tuple(known_pairs() if known is None else known)
        run = Run(trial, made, tuple(judges), pairs, options, progress, say)
        if prompts is None:
            variants, missing = run.variants(options.off)
            found = Found(best=chosen(variants, {}), missing=missing)
        elif options.protocol == "li2026":
            found = run.published(prompts)
        else:
            found = run.audited(prompts)
        effects = _effects(run, found.best, suites)
    places = {name: _place(run, variant) for name, variant in found.best.items()}
    changes = {name: change_of_states(at, found.texts, effects) for name, at in places.items()}
    summary = {
        "protocol": options.protocol,
        "model": {"name": model.name, "dtype": str(model.dtype).removeprefix("torch.")},
        "interventions": [{"layers": one.layers, **dict(one.about)} for one in made],
        "prompts": None
        if prompts is None
        else {"name": prompts.name, "sha256": prompts.sha256, "n": len(prompts)},
        "options": asdict(options),
        "suites": suites.described(),
        "arms": {
            name: {
                "strength": v.strength,
                "layers": list(made[v.source].layers),
                "change": changes[name],
            }
            for name, v in found.best.items()
        },
        "unlike_arms": unlike(changes),
        "missing_arms": found.missing,
        "unfinished": found.unfinished,
        "judges": [_of_check(check) for check in found.checks],
        "decoding": found.decoding,
        "agreement": found.agreement,
        "differences": found.differences,
        "verdict": asdict(found.verdict),
    }
    return Evaluation(
        summary,
        pl.DataFrame(found.rows, schema=_JUDGED),
        pl.DataFrame(found.texts, schema=_TEXTS),
        pl.DataFrame(effects, schema=_EFFECTS),
    )


_JUDGED: Final = {
    "judge": pl.String,
    "arm": pl.String,
    "layers": pl.String,
    "strength": pl.Float64,
    "half": pl.String,
    "measure": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "prompts": pl.Int64,
    "pairs": pl.Int64,
    "missing": pl.Int64,
    "unfinished": pl.Int64,
}
_TEXTS: Final = {
    "arm": pl.String,
    "layers": pl.String,
    "strength": pl.Float64,
    "half": pl.String,
    "id": pl.String,
    "group": pl.String,
    "prompt": pl.String,
    "seed": pl.Int64,
    "text": pl.String,
    "thought": pl.String,
    "unfinished": pl.Boolean,
    "tokens": pl.Int64,
    "ended": pl.Boolean,
    "edits": pl.Int64,
    "change": pl.Float64,
}
_EFFECTS: Final = {
    "arm": pl.String,
    "layers": pl.String,
    "strength": pl.Float64,
    "suite": pl.String,
    "measure": pl.String,
    "category": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "change": pl.Float64,
    "change_low": pl.Float64,
    "change_high": pl.Float64,
    "chance": pl.Float64,
    "surface": pl.Float64,
    "n": pl.Int64,
    "left_out": pl.Int64,
    "unit": pl.String,
    "status": pl.String,
}


def _of_check(check: JudgeCheck) -> dict[str, Any]:
    said = asdict(check)
    return {**said, "fails": list(check.fails)}


def _place(run: Run, variant: Variant) -> dict[str, Any]:
    """Return the columns that say which variant a row is of, whatever the prompts."""
    return {k: v for k, v in run.place(variant, "").items() if k != "half"}


def _effects(run: Run, best: Mapping[str, Variant], suites: Suites) -> list[dict[str, Any]]:
    """Measure what needs no answers for every variant, and all of it for each arm's chosen one."""
    every, _ = run.variants(run.options.off)
    variants = [v for v in every if v.name in best]
    found: list[tuple[dict[str, Any], Effect]] = []
    for done, variant in enumerate(variants):
        run.progress(done, len(variants), f"side effects: {variant.name} at {variant.strength:g}")
        own, place = best[variant.name], _place(run, variant)
        whole = (variant.source, variant.strength) == (own.source, own.strength)
        for measure in (side_effects_of, suites_of):
            found += [
                (place, effect)
                for effect in measure(
                    run.trial, variant.arm, suites, whole=whole, seed=run.options.seed
                )
            ]
    plain = {effect.key: effect for place, effect in found if place["arm"] == UNSTEERED}
    return [
        {**place, **effect.row(None if place["arm"] == UNSTEERED else plain.get(effect.key))}
        for place, effect in found
    ]
