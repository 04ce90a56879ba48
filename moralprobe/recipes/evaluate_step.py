"""How interventions are evaluated: the step `evaluate`, and what it is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moralprobe.errors import UsageError
from moralprobe.evaluation.prompts import FLAMES
from moralprobe.recipes.jobs import Job
from moralprobe.recipes.options import EVALUATE, Evaluate
from moralprobe.recipes.sae_steps import NOTHING
from moralprobe.recipes.steps import Run

if TYPE_CHECKING:
    from moralprobe.evaluation.effects import Suites
    from moralprobe.evaluation.settings import Options


def evaluate(run: Run, job: Job) -> list[Path]:
    """Evaluate a mode's interventions, of all layers; the same call continues."""
    from moralprobe.evaluating import evaluate_intervention
    from moralprobe.evaluation.choosing import few
    from moralprobe.evaluation.judge_backends import judges_of
    from moralprobe.evaluation.judge_check import known_pairs, pairs_of_moral_stories
    from moralprobe.evaluation.prompts import load_prompts
    from moralprobe.report.evaluation import write_evaluation
    from moralprobe.steering.intervention import Intervention

    fitted = [run.out / f"topology-{job.mode}" / need.split()[-1] for need in job.needs]
    device = str(run.model.device)
    made = [
        Intervention.load(folder, device=device)
        for folder in fitted
        if not (folder / NOTHING).is_file()
    ]
    if not made:
        return []
    asked: Evaluate = run.recipe.steps[EVALUATE][job.mode]
    answered, suites, options = settings_of(asked)
    prompts = load_prompts(prompts_at(asked.data, run)) if answered else None
    if prompts is not None:
        prompts = few(prompts, asked.prompts)
    known = known_pairs()
    if asked.moral_stories is not None:
        known += pairs_of_moral_stories(Path(asked.moral_stories))[: len(known)]
    judges = judges_of(_judges(asked.judge), run.recipe.general.device)
    if answered and not judges:
        run.say(f"{job.name}: no judge is given, so there will be no win rate")
    out = (run.out / job.place).parent
    with run.watch("evaluating") as step:
        found = evaluate_intervention(
            made,
            run.model,
            out,
            prompts=prompts,
            judges=judges,
            known=known,
            suites=suites,
            options=options,
            progress=step,
            say=run.say,
        )
    found.save(out)
    write_evaluation(found, out / "report")
    tables = [out / f"{name}.parquet" for name in ("judged", "texts", "effects")]
    return [*tables, run.out / job.place]


def settings_of(asked: Evaluate) -> tuple[bool, Suites, Options]:
    """Return whether prompts are answered, what else is measured, and how.

    Raises:
        UsageError: an unknown suite or protocol, or strengths and seeds that are no numbers.
    """
    from moralprobe.evaluation.effects import parse_suites
    from moralprobe.evaluation.settings import Options, parse_numbers, parse_seeds, sampling_of

    paths = {
        name: None if path is None else Path(path)
        for name, path in (
            ("stories", asked.moral_stories),
            ("ethics", asked.ethics),
            ("mfq", asked.mfq),
        )
    }
    answered, suites = parse_suites(asked.suite, **paths)
    options = Options(
        strengths=parse_numbers(asked.strengths, "evaluate.strengths"),
        seeds=parse_seeds(asked.seeds, "evaluate.seeds"),
        sampling=sampling_of(
            asked.protocol,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
        ),
        positions=asked.positions,
        off=tuple(asked.without.split(",")) if asked.without else (),
        protocol=asked.protocol,
        thinking=asked.thinking,
        ratings=asked.ratings,
        batch=asked.batch,
        seed=asked.seed,
    )
    return answered, replace(suites, items=asked.items), options


def check_evaluation(asked: Evaluate) -> None:
    """Refuse what couldn't be evaluated as it is asked for.

    Raises:
        UsageError: as `settings_of`, a judge that is none, or a file that isn't there.
        DataError: prompts that can't be read.
    """
    from moralprobe.evaluation.judge_backends import parse_judge
    from moralprobe.evaluation.prompts import load_prompts

    answered, _, _ = settings_of(asked)
    for judge in _judges(asked.judge):
        if judge != "none":
            parse_judge(judge)
    for name in (asked.moral_stories, asked.ethics, asked.mfq):
        if name is not None and not Path(name).exists():
            raise UsageError(
                f"there is nothing at {name}", f"{EVALUATE} names it", "check the path"
            )
    if answered and asked.data != FLAMES:
        load_prompts(asked.data)


def files_of(asked: Evaluate) -> list[Path]:
    """Return the files by whose bytes an evaluation is known again."""
    names = (asked.data, asked.moral_stories, asked.mfq)
    found = [Path(name) for name in names if name is not None and Path(name).is_file()]
    return found + ([] if asked.ethics is None else sorted(Path(asked.ethics).rglob("*_test.csv")))


def fetch_prompts(run: Run) -> None:
    """Download the prompts that a recipe asks for, before hours of work are put into it."""
    for asked in run.recipe.of(EVALUATE).values():
        if settings_of(asked)[0] and asked.data == FLAMES:
            prompts_at(FLAMES, run)
            return


def call_judges(run: Run) -> None:
    """Say which servers don't answer now: they are asked after hours of work."""
    from moralprobe.evaluation.judge_backends import ServerJudge, parse_judge
    from moralprobe.evaluation.judges import Comparison, JudgeError

    names = {one for asked in run.recipe.of(EVALUATE).values() for one in _judges(asked.judge)}
    for address, model in sorted(parse_judge(one) for one in names - {"none"} if "://" in one):
        judge = ServerJudge(str(address), model, timeout=10.0, retries=0)
        try:
            next(iter(judge.answers([Comparison("Are you there?", "Yes.", "No.")])))
        except JudgeError as error:
            run.say(f"{error.what}, now: {error.why}. It is asked at the end; see to it by then")


def prompts_at(data: str, run: Run) -> str | Path:
    """Return where prompts are; those that are downloaded are, or are checked where they are."""
    from moralprobe.data.download import download

    if data != FLAMES:
        return data
    with run.watch(f"downloading {data}") as step:
        return download(
            data, progress=lambda done, total: step(done, total, "bytes"), say=run.begins
        )


def _judges(text: str | None) -> list[str]:
    return [one.strip() for one in (text or "").split(",") if one.strip()]
