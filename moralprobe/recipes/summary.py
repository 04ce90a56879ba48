"""All results of a run on one page, from the files that the steps wrote; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from moralprobe.files import write_bytes
from moralprobe.recipes.jobs import Job
from moralprobe.recipes.ledger import FILE, Ledger
from moralprobe.recipes.options import EVALUATE, STEPS, RunRecipe
from moralprobe.recipes.sae_steps import NOTHING


def write_summary(recipe: RunRecipe, jobs: Sequence[Job], ledger: Ledger, path: Path) -> Path:
    """Write a page of what a run found, with links to everything.

    Args:
        recipe: as far as it was done.
        jobs: of it.
        ledger: of the run.
        path: of the page.
    """
    out, general = ledger.out, recipe.general
    done = {job.step: [one for one in jobs if one.step == job.step] for job in jobs}
    lines = [
        f"# {Path(general.model).name if Path(general.model).is_dir() else general.model}",
        "",
        f"Vectors from {recipe.steps['vectors'].source}, template `{general.template}`, "
        f"mode {general.mode}. All that was asked for is in [run.yaml](run.yaml), what it was made "
        f"with in [{FILE}]({FILE}).",
    ]
    if "probe" in done:
        lines += _study(out, done["probe"][0])
    if "sae.eval" in done:
        lines += _autoencoders(out, done["sae.eval"])
    if "sae.features" in done:
        lines += _features(out, done["sae.features"])
    if "topology.fit" in done:
        lines += _topology(out, done["topology.fit"])
    if "topology.survive" in done:
        lines += _survival(out, done["topology.survive"])
    if EVALUATE in done:
        lines += _evaluations(out, done[EVALUATE])
    if left := [step for step in STEPS if step not in recipe.steps]:
        lines += ["", "## Not done", "", f"{', '.join(left)}."]
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    return path


def _study(out: Path, job: Job) -> Iterator[str]:
    from moralprobe.report.verdicts import RULE, verdicts
    from moralprobe.report.words import findings
    from moralprobe.study import Study

    study = Study.load(out / job.place)
    yield from ("", "## The four questions", "")
    for sentence in findings(study):
        yield from (sentence, "")
    if answers := verdicts(study):
        yield from _table(
            ("question", "answer", "why"),
            ((one.question, f"**{one.answer}**", one.why) for one in answers),
        )
        yield from ("", RULE, "")
    where = f"{job.place}/report/index.html"
    yield f"The report with every layer, interval and null: [{where}]({where})."


def _autoencoders(out: Path, jobs: Iterable[Job]) -> Iterator[str]:
    rows = [row for job in jobs for row in json.loads((out / job.place).read_bytes())]
    yield from ("", "## Autoencoders", "", "On texts that were held out:", "")
    yield from _table(
        ("", "n", "explained variance", "L0", "dead", "loss recovered: of zeros, of the mean"),
        (
            (
                f"`{row['sae']}`",
                f"{row['n']:,}",
                _number(row["explained_variance"]),
                _number(row["l0"], ".1f"),
                _number(row["dead"], ".1%"),
                f"{_number(row['recovered_from_zero'])}, {_number(row['recovered_from_mean'])}",
            )
            for row in rows
        ),
    )


def _features(out: Path, jobs: Iterable[Job]) -> Iterator[str]:
    def row(job: Job) -> tuple[str, ...]:
        said = json.loads((out / job.place / "features.json").read_bytes())
        shuffled = ", ".join(map(str, said["null_shuffled_chosen"]))
        random, published = said["null_random_dictionary"], said["li2026"]
        texts = max(twin["mono"] for twin in published["null_shuffled_texts"])
        dictionary = published["null_random_dictionary"]["mono"]
        return (
            f"[{job.place}]({job.place}/index.html)",
            f"{said['tested']:,}",
            f"{said['chosen']:,}",
            f"{said['replicated']:,}, {said['specific']:,}",
            shuffled,
            f"{random['replicated']:,}, {random['specific']:,}",
            f"{published['mono']:,}, {published['strict']:,}",
            f"{texts:,}, {dictionary:,}",
        )

    yield from ("", "## Moral features", "")
    yield from _table(
        (
            "",
            "tested",
            "chosen",
            "hold on other texts, and are specific",
            "null: chosen with poles shuffled",
            "null: the same of a random dictionary",
            "li2026: mono-semantic, strict",
            "null: mono-semantic with texts shuffled, of a random dictionary",
        ),
        (row(job) for job in jobs),
    )


def _topology(out: Path, jobs: Iterable[Job]) -> Iterator[str]:
    yield from ("", "## The topology rebuilt", "", "Held-out texts at the edited layer.")
    for job in jobs:
        yield from ("", f"### {job.place}", "")
        if (nothing := out / job.place / NOTHING).is_file():
            said = json.loads(nothing.read_bytes())
            yield f"Nothing was tuned: {said['what']}, {said['why']}."
            continue
        yield from _measures(pl.read_parquet(out / job.place / "geometry.parquet"))


def _survival(out: Path, jobs: Iterable[Job]) -> Iterator[str]:
    yield from ("", "## What survives", "", "The same texts at the last layer that was measured.")
    for job in jobs:
        yield from ("", f"### {job.place}", "")
        if not (out / job.place).is_file():
            yield "Nothing was tuned, so there is nothing to measure."
            continue
        table = pl.read_parquet(out / job.place)
        last = max(table["layer"].to_list())
        yield from (f"Layer {last}.", "")
        yield from _measures(table.filter(layer=last))


def _evaluations(out: Path, jobs: Iterable[Job]) -> Iterator[str]:
    yield from ("", "## What the steered model says")
    for job in jobs:
        yield from ("", f"### evaluation/{job.mode}", "")
        if not (out / job.place).is_file():
            yield "Nothing was tuned, so there is nothing to evaluate."
            continue
        said = json.loads((out / job.place).read_bytes())
        where = f"evaluation/{job.mode}/report/index.html"
        yield f"{said['verdict']['said']} Protocol {said['protocol']}: [{where}]({where})."


def _measures(table: pl.DataFrame) -> Iterator[str]:
    """Yield a row an arm, a column a headline measure, and what steering has over the controls."""
    from moralprobe.steering.survival import LOWER_IS_BETTER, SHOWN, over_best_control

    best = over_best_control(table)
    shown = [key for key in SHOWN if table.filter(name=key[0], category=key[1]).height]
    arms = table["arm"].unique(maintain_order=True).to_list()

    def cell(arm: str, name: str, category: str) -> str:
        row = table.filter(arm=arm, name=name, category=category).row(0, named=True)
        return _said(row)

    def over(name: str, category: str) -> str:
        rows = best.filter(name=name, category=category)
        if not rows.height:
            return "no control"
        row = rows.row(0, named=True)
        said = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
        return f"{said} ({row['control']}; {'surely' if row['surely'] else 'not surely'} over all)"

    def head(name: str, category: str) -> str:
        return f"{name} ({category}{', lower is better' if name in LOWER_IS_BETTER else ''})"

    yield from _table(
        ("arm", *(head(*key) for key in shown)),
        [
            *((arm, *(cell(arm, *key) for key in shown)) for arm in arms),
            ("steered less the best control", *(over(*key) for key in shown)),
        ],
    )


def _said(row: Mapping[str, Any]) -> str:
    if row["value"] is None or row["value"] != row["value"]:
        return str(row["status"])
    interval = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return f"{interval}, null {row['null_low']:.3f} to {row['null_high']:.3f}, n {row['n']:,}"


def _number(value: float | None, form: str = ".3f") -> str:
    return "not measured" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
