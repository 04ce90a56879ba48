"""Hold a panel's consensus against people's votes, and train its model towards it.

    python benchmarks/consensus_people.py DILEMMAS JUDGED ACTIONS JUDGED_ACTIONS

    moralprobe consensus score DILEMMAS --items 200 --theories commonsense \\
        --roles plain,nurse,judge --out JUDGED
    moralprobe consensus score ACTIONS --items 160 --theories justice,deontology \\
        --out JUDGED_ACTIONS

DILEMMAS is a table of two actions with votes (Scruples) and JUDGED what `moralprobe consensus
score` made of it; ACTIONS (ETHICS' justice) and JUDGED_ACTIONS the same of single texts. The
model's roles are one family. Beside them stand two judges that are no models: one reads how
pleasant the words are (VADER), one how long the text is. In a second panel three more are drawn:
they know the majority and err as three of the published judges do (arXiv 2506.14625), so that there
is something to agree on; what is trained is trained towards that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

# Mean and width where an item is acceptable, and where it isn't: arXiv 2506.14625.
DRAWN = {
    "drawn as GPT-4o-mini": (0.658, 0.129, 0.418, 0.140),
    "drawn as Claude": (0.571, 0.143, 0.373, 0.127),
    "drawn as GPT-3.5": (0.546, 0.147, 0.274, 0.159),
}


def main() -> None:
    """Fit both panels on both tables, align the model on the second, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("dilemmas", "judged", "actions", "judged_actions"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--align", default="smollm2-135m")
    parser.add_argument("--theory", default="justice")
    options = parser.parse_args()
    from results_file import write

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path, judged in (
            ("two actions", options.dilemmas, options.judged),
            ("one action", options.actions, options.judged_actions),
        ):
            for drawn in (False, True):
                key = f"{name}, {'three drawn judges' if drawn else 'no drawn judge'}"
                found[key] = panel(path, judged, Path(folder) / key, drawn=drawn)
                print(key, json.dumps(found[key], indent=1), flush=True)
        last = Path(folder) / "one action, three drawn judges"
        found["align"] = aligned(options, last)
    command = "python benchmarks/consensus_people.py DILEMMAS JUDGED ACTIONS JUDGED_ACTIONS"
    print(write("consensus-people", command, found))


def panel(path: Path, judged: Path, out: Path, *, drawn: bool) -> dict[str, Any]:
    """Fit a panel and hold it against votes."""
    from moralprobe.behavior.consensus.dilemmas import load_dilemmas
    from moralprobe.behavior.consensus.fitting import fit_consensus
    from moralprobe.behavior.consensus.scores import load_scores
    from moralprobe.behavior.consensus.votes import against_votes, load_votes

    scores = pl.read_parquet(judged / "scores.parquet")
    columns = [
        c for c in ("model", "family", "theory", "item", "text", "score") if c in scores.columns
    ]
    scores = scores.select(columns)
    dilemmas = load_dilemmas(path)
    votes = load_votes(judged / "people.parquet")
    frames = [scores, *rules(scores, dilemmas)]
    if drawn:
        frames += [drawn_as(scores, votes, name, seed) for seed, name in enumerate(DRAWN)]
    out.mkdir(parents=True)
    pl.concat(frames, how="diagonal_relaxed").write_parquet(out / "scores.parquet")
    table = load_scores(out)
    fitted = fit_consensus(table)
    fitted.save(out)
    beside = against_votes(fitted, table, votes, draws=1000)
    return {
        "items": fitted.summary["items"],
        "bic": fitted.summary["bic"],
        "bic_shuffled": fitted.summary["bic_shuffled"],
        "supported": fitted.summary["supported"],
        "why_not": fitted.summary["why_not"],
        "spread": dict(
            scores.group_by("model", maintain_order=True).agg(pl.col("score").std()).iter_rows()
        ),
        "votes": beside.to_dicts(),
    }


def rules(scores: pl.DataFrame, dilemmas: Any) -> list[pl.DataFrame]:
    """Return scores by how pleasant the words are and by length, as one reads them off a text."""
    from moralprobe.data.lexicon import valence

    texts = dict(zip(dilemmas.items, dilemmas.texts, strict=True))
    others = dict(zip(dilemmas.items, dilemmas.others or dilemmas.texts, strict=True))
    asked = scores.select("theory", "item", *(["text"] if "text" in scores.columns else [])).unique(
        maintain_order=True
    )
    first, second = ([some[i] for i in asked["item"]] for some in (texts, others))
    pleasant = [valence(some).astype(float) for some in (first, second)]
    length = [np.log([len(text) for text in some]) for some in (first, second)]
    found = []
    for name, (a, b) in {"VADER": pleasant, "shorter": [-length[0], -length[1]]}.items():
        one = a - b if dilemmas.others is not None else a
        score = (0.5 + one / 4) if name == "VADER" else ranks(one)
        found.append(asked.with_columns(model=pl.lit(name), family=pl.lit(name), score=score))
    return found


def ranks(x: Any) -> Any:
    """Return ranks between 0 and 1."""
    from scipy.stats import rankdata

    return (rankdata(x) - 0.5) / len(x)


def drawn_as(scores: pl.DataFrame, votes: dict[str, float], name: str, seed: int) -> pl.DataFrame:
    """Return scores of a judge who knows the majority and errs as a published one."""
    from scipy.stats import truncnorm

    asked = (
        scores.select("theory", "item", *(["text"] if "text" in scores.columns else []))
        .unique(maintain_order=True)
        .filter(pl.col("item").is_in(list(votes)))
    )
    label = np.array([votes[item] > 0.5 for item in asked["item"]])
    yes, wide, no, narrow = DRAWN[name]
    mean, width = np.where(label, yes, no), np.where(label, wide, narrow)
    rng = np.random.default_rng(seed)
    score = truncnorm.rvs(
        -mean / width, (1 - mean) / width, loc=mean, scale=width, random_state=rng
    )
    return asked.with_columns(model=pl.lit(name), family=pl.lit(name), score=score)


def aligned(options: argparse.Namespace, consensus: Path) -> dict[str, Any]:
    """Train the rows of the theory's word towards the panel with drawn judges, and say all arms."""
    from moralprobe import load_model
    from moralprobe.bridges.align import align
    from moralprobe.bridges.alignment_task import task_of
    from moralprobe.report.consensus import of_alignment

    model = load_model(options.align)
    task = task_of(consensus, model.name, options.theory)
    done = align(model, task, progress=lambda d, n, what: print(d, n, what, flush=True))
    print("\n".join(of_alignment(done.arms, done.elsewhere, done.summary)), flush=True)
    return {
        "helps": done.helps,
        "arms": done.arms.to_dicts(),
        "elsewhere": done.elsewhere.to_dicts(),
        "summary": done.summary,
    }


if __name__ == "__main__":
    main()
