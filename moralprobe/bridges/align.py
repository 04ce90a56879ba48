"""Bring a stray model back to a consensus by the embedding rows of one word, beside its controls.

What is trained is what arXiv 2506.14625 trains: rows of the input embedding for the word's tokens,
by Jensen-Shannon divergence to the consensus and a price on cosine drift. Unlike there, a head that
reads the model's judgement is fitted to the model's own scores first and stays as it is: else who
learns the consensus may be the head. The arms beside it say what the rows themselves do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.consensus.agreement import beside
from moralprobe.behavior.consensus.panel import THEORIES
from moralprobe.behavior.siblings import siblings
from moralprobe.bridges.alignment_task import Task, split
from moralprobe.bridges.judgement_head import Head, fit_head, shifted
from moralprobe.bridges.row_effects import (
    asked_again,
    elsewhere_of,
    in_neutral,
    nearest,
    neutral_loss,
)
from moralprobe.bridges.row_training import Options, Trained, train_rows
from moralprobe.bridges.with_rows import ABOUT, ROWS
from moralprobe.bridges.word_rows import (
    QUESTION,
    Reader,
    Rows,
    marked_ids,
    prompts_of,
    weights_hash,
)
from moralprobe.errors import DataError, ModelError
from moralprobe.files import write_bytes, write_json, write_table
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.provenance import environment
from moralprobe.steering.generate import context_of

SYNONYMS: Final[dict[str, str]] = {
    "justice": "fairness",
    "virtue": "good character",
    "deontology": "duty-based ethics",
    "utilitarianism": "maximising welfare",
    "commonsense": "ordinary decency",
}
"""Other words for the same theory: does what was learnt go with the meaning, or the spelling?"""
ARMS: Final = ("own scores", "before", "rows", "random rows", "rows and head", "head", "shift")


@dataclass(frozen=True)
class Aligned:
    """What came of it.

    `arms` has a row an arm and measure on the items that nothing was trained or chosen on: value,
    95 % interval, and the difference from `before` with its own. `predictions` has a row a text:
    its part, the consensus, and what each arm says of it. `elsewhere` has a row a word that
    the question may name: whether it shares a token with the rows, the mean change of what the
    head reads, and the divergence from the consensus of its theory, if there is one: before, and
    what the rows change. `rows` are what was learnt, `head` reads the judgement, `summary` says
    how.
    """

    arms: pl.DataFrame
    predictions: pl.DataFrame
    elsewhere: pl.DataFrame
    rows: Rows
    head: Head
    summary: dict[str, Any] = field(repr=False)

    @property
    def helps(self) -> bool:
        """Whether the divergence from the consensus falls on held-out items, surely."""
        row = self.arms.row(by_predicate=(pl.col("arm") == "rows") & (pl.col("measure") == "js"))
        high = row[self.arms.columns.index("gain_high")]
        return high is not None and high < 0

    def save(self, folder: Path) -> None:
        """Write `arms`, `predictions` and `elsewhere` as Parquet, `rows` and `head` as safetensors,
        and `align.json`.
        """
        from safetensors.torch import save

        rows = {"ids": self.rows.ids.cpu(), "delta": self.rows.delta.detach().cpu()}
        write_bytes(folder / ROWS, save(rows))
        head = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        write_bytes(folder / "head.safetensors", save(head))
        for name in ("arms", "predictions", "elsewhere"):
            write_table(folder / f"{name}.parquet", getattr(self, name))
        write_json(folder / ABOUT, self.summary)


def align(
    model: CausalModel,
    task: Task,
    options: Options | None = None,
    *,
    others: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Aligned:
    """Train the rows of the task's word, and measure all arms on items that were held out.

    Args:
        model: from `load_model`; its weights stay as they are.
        task: from `task_of`; a text that the model can't read whole is left out.
        options: of the training.
        others: further words, theories or synonyms of the task's, whose questions the rows may
            change too; the theories that are known, and a synonym, if not given.
        progress: called with the epochs that are done, their number, and what is trained.

    Raises:
        DataError: a word that isn't the same tokens in every prompt.
        ModelError: weights that changed.
    """
    options = options or Options()
    others = _others(task) if others is None else others
    unchanged = weights_hash(model.model)
    n_texts, task = len(task.texts), _readable(model, task, others)
    encoded = prompts_of(model, task.texts, task.word)
    ids, rng = marked_ids(encoded), np.random.default_rng(options.seed)
    groups = siblings(task.texts)
    parts = split(groups, rng)
    lists = {name: some.tolist() for name, some in parts.items()}
    random_ids = _random_ids(encoded, ids, rng)
    reader, random_reader = (Reader(model, encoded, some, lists) for some in (ids, random_ids))
    plain = reader.all_states(None)
    train, validation, test = parts["train"], parts["validation"], parts["test"]
    head = fit_head(plain, task.own, train, validation, seed=options.seed)
    onto = fit_head(plain, task.target, train, validation, seed=options.seed)
    runs, done = 2 * len(options.lambdas) + 1, 0

    def trained(what: str, reader: Reader, ids: list[int], price: float, **more: bool) -> Trained:
        def step() -> None:
            nonlocal done
            done += 1
            progress(done, options.epochs * runs, f"{what}, lambda {price:g}")

        return train_rows(reader, ids, head, task.target, price, options, step, **more)

    # Others have as many tries as the word's rows.
    swept, others_swept = (
        [trained(what, *of, price) for price in options.lambdas]
        for what, of in (("rows", (reader, ids)), ("random rows", (random_reader, random_ids)))
    )
    best, elsewhere = (min(some, key=lambda one: one.loss) for some in (swept, others_swept))
    both = trained("rows and head", reader, ids, best.price, head_too=True)
    rows = best.rows
    before = head.read(plain)
    found = {
        "own scores": task.own,
        "before": before,
        "rows": head.read(reader.all_states(rows)),
        "random rows": head.read(random_reader.all_states(elsewhere.rows)),
        "rows and head": both.head.read(reader.all_states(both.rows)),
        "head": onto.read(plain),
        "shift": shifted(before, task.target, train),
    }
    if weights_hash(model.model) != unchanged:
        raise ModelError(
            f"the weights of {model.name} changed", "training must leave them", "report this"
        )
    arms = _measured(
        {arm: p[test] for arm, p in found.items()}, task.target[test], groups[test], options
    )
    spell = model.tokenizer.decode
    texts = [task.texts[i] for i in test]
    return Aligned(
        arms=arms,
        predictions=_predictions(task, parts, found),
        elsewhere=pl.concat(
            elsewhere_of(model, head, rows, task, word, test, groups[test], options)
            for word in (task.word, *others)
        ),
        rows=rows,
        head=head,
        summary={
            "model": dict(model.identity),
            "theory": task.theory,
            "word": task.word,
            "question": QUESTION,
            "tokens": [spell([i]) for i in ids],
            "random_tokens": [spell([i]) for i in random_ids],
            "items": {name: len(some) for name, some in parts.items()},
            "too_long": n_texts - len(task.texts),
            "stems": {name: len(set(groups[some].tolist())) for name, some in parts.items()},
            "lambdas": {f"{one.price:g}": one.loss for one in swept},
            "lambda": best.price,
            "drift": rows.drift(model).tolist(),
            "nearest": nearest(model, rows),
            "head": head.fidelity(plain, task.own, test),
            "neutral_loss": neutral_loss(model, {"rows": rows, "random rows": elsewhere.rows}),
            "neutral_tokens_trained": in_neutral(model, ids),
            "consensus": task.consensus,
            "environment": environment(),
            "asked": asked_again(
                model,
                rows,
                texts,
                task.target[test],
                groups[test],
                task.through or THEORIES.get(task.theory, f"through {task.word}"),
                options,
            ),
            "weights": unchanged,
            "options": asdict(options),
        },
    )


def _measured(
    arms: Mapping[str, NDArray[np.float64]],
    target: NDArray[np.float64],
    groups: NDArray[np.int64],
    options: Options,
) -> pl.DataFrame:
    """Hold the arms against the consensus, against `before` and against `rows`."""
    how: dict[str, Any] = {"draws": options.draws, "seed": options.seed, "groups": groups}
    found, against = (beside(arms, target, base, **how) for base in ("before", "rows"))
    names = {f"gain{end}": f"above_rows{end}" for end in ("", "_low", "_high")}
    return found.hstack(against.select(*names).rename(names))


def _random_ids(
    encoded: Sequence[Encoded], ids: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """Return as many other token ids that stand in every prompt, drawn at random.

    Raises:
        DataError: the prompts have too few in common.
    """
    common = sorted(set.intersection(*(set(text.ids) for text in encoded)) - set(ids))
    if len(common) < len(ids):
        raise DataError(
            "there are no tokens for the control of random rows",
            f"the prompts have {len(common)} others in common, and the word has {len(ids)}",
            "choose a shorter word",
        )
    return sorted(rng.choice(common, size=len(ids), replace=False).tolist())


def _predictions(
    task: Task,
    parts: Mapping[str, NDArray[np.int64]],
    arms: Mapping[str, NDArray[np.float64]],
) -> pl.DataFrame:
    part = np.empty(len(task.texts), object)
    for name, some in parts.items():
        part[some] = name
    return pl.DataFrame(
        {"text": task.texts, "part": pl.Series(part.tolist()), "consensus": task.target, **arms}
    )


def _others(task: Task) -> list[str]:
    """Return other theories' names, and a synonym of the task's."""
    names = dict.fromkeys([*THEORIES, *task.elsewhere])
    synonym = SYNONYMS.get(task.theory)
    return [name for name in (*names, synonym) if name not in (None, task.theory, task.word)]


def _readable(model: CausalModel, task: Task, others: Sequence[str]) -> Task:
    """Leave out what the model can't read whole, whichever word the question names."""
    context = context_of(model)
    words = [prompts_of(model, task.texts, word) for word in (task.word, *others)]
    longest = [max(map(len, some)) for some in zip(*words, strict=True)]
    kept = [i for i, n in enumerate(longest) if context is None or n <= context]
    if not kept:
        raise DataError(
            "no text can be read whole",
            f"the shortest question has {min(longest)} tokens, {model.name} reads {context}",
            "score shorter texts",
        )
    return replace(
        task,
        texts=tuple(task.texts[i] for i in kept),
        own=task.own[kept],
        target=task.target[kept],
        elsewhere={name: some[kept] for name, some in task.elsewhere.items()},
    )
