"""What trained rows do besides: to other questions, to the model itself, to neutral text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.behavior.consensus.agreement import beside
from moralprobe.behavior.consensus.dilemmas import Dilemmas
from moralprobe.behavior.consensus.panel import THEORIES, panel_of
from moralprobe.behavior.consensus.rating import score_panel, score_questions
from moralprobe.behavior.options import Readout
from moralprobe.bridges.alignment_task import Task
from moralprobe.bridges.judgement_head import Head
from moralprobe.bridges.row_training import Options
from moralprobe.bridges.word_rows import (
    Reader,
    Rows,
    changed_rows,
    logits_with,
    marked_ids,
    nearest_rows,
    prompts_of,
)
from moralprobe.evaluation.options import plain_logits
from moralprobe.evaluation.side_effects import encode_texts, neutral, perplexity
from moralprobe.models.causal import CausalModel
from moralprobe.steering.text import LocalText


def elsewhere_of(
    model: CausalModel,
    head: Head,
    rows: Rows,
    task: Task,
    word: str,
    test: NDArray[np.int64],
    groups: NDArray[np.int64],
    options: Options,
) -> pl.DataFrame:
    """Say what the rows do to questions that name a word, against its own theory's consensus."""
    encoded = prompts_of(model, [task.texts[i] for i in test], word)
    shares = bool(set(marked_ids(encoded)) & set(rows.ids.tolist()))
    reader = Reader(model, encoded, rows.ids.tolist())
    before = head.read(reader.all_states(None))
    after = head.read(reader.all_states(rows)) if shares else before
    nobody = np.full_like(task.target, np.nan)
    of = {**dict.fromkeys(THEORIES, nobody), **task.elsewhere, task.theory: task.target}
    # A word that names no other theory is another one for the task's.
    target = (task.target if word == task.word else of.get(word, task.target))[test]
    there = np.isfinite(target)
    found: dict[str, Any] = dict.fromkeys(("value", "gain", "gain_low", "gain_high"))
    if there.sum() > 1:
        arms = {"before": before[there], "rows": after[there]}
        how: dict[str, Any] = {"draws": options.draws, "seed": options.seed}
        table = beside(arms, target[there], "before", groups=groups[there], **how)
        js = {row["arm"]: row for row in table.filter(pl.col("measure") == "js").to_dicts()}
        found = {**{name: js["rows"][name] for name in found}, "value": js["before"]["value"]}
    row = {
        "word": word,
        "shares_token": shares,
        "n": int(there.sum()),
        "moved": float(np.abs(after - before).mean()),
        "js": found.pop("value"),
        **found,
    }
    return pl.DataFrame([row], schema_overrides=dict.fromkeys(("js", *found), pl.Float64))


def asked_again(
    model: CausalModel,
    rows: Rows,
    texts: Sequence[str],
    target: NDArray[np.float64],
    groups: NDArray[np.int64],
    through: str,
    options: Options,
) -> dict[str, Any] | None:
    """Ask the model itself, as `consensus score` does by log-probabilities, with rows and without.

    Returns:
        `n` texts that it answered, the divergence `js` as it is and by how much the rows change it
        (`gain` with its interval), `moved`, the mean change of its scores, and `holds`, the share
        of questions with a trained token; None if it answered too few.
    """
    judged = Dilemmas(tuple(map(str, range(len(texts)))), tuple(texts))
    raters = panel_of([LocalText(model)])

    def scores() -> NDArray[np.float64]:
        found = score_panel(raters, judged, {"asked": through}, [Readout()])
        return found["score"].cast(pl.Float64).fill_null(np.nan).to_numpy()

    before = scores()
    with changed_rows(model, rows):
        after = scores()
    there = np.isfinite(before) & np.isfinite(after)
    if there.sum() < 2:
        return None
    arms = {"as it is": before[there], "with rows": after[there]}
    found = beside(
        arms,
        target[there],
        "as it is",
        draws=options.draws,
        seed=options.seed,
        groups=groups[there],
    )
    js = {row["arm"]: row for row in found.filter(pl.col("measure") == "js").to_dicts()}
    changed = {name: js["with rows"][name] for name in ("gain", "gain_low", "gain_high")}
    asked = score_questions(judged, through)
    holds = sum(
        bool(set(one.ids) & set(rows.ids.tolist())) for one in LocalText(model).encode(asked)
    ) / len(asked)
    moved = float(np.abs(after - before)[there].mean())
    return {
        "n": int(there.sum()),
        "js": js["as it is"]["value"],
        **changed,
        "moved": moved,
        "holds": holds,
    }


def nearest(model: CausalModel, rows: Rows) -> list[dict[str, Any]]:
    """Return the spellings of each row's nearest other rows, before and after it was moved."""
    spell = model.tokenizer.decode
    return [
        {
            "token": spell([int(i)]),
            "before": [spell([j]) for j in a],
            "after": [spell([j]) for j in b],
        }
        for i, (a, b) in zip(rows.ids, nearest_rows(model, rows), strict=True)
    ]


def in_neutral(model: CausalModel, ids: Sequence[int]) -> int:
    """Return how many tokens of the neutral text are trained ones."""
    read = encode_texts(model, neutral().paragraphs)
    return sum(token in set(ids) for text in read for token in text.ids)


def neutral_loss(model: CausalModel, arms: Mapping[str, Rows]) -> dict[str, float]:
    """Return the loss of neutral text in nats a token: of the model, and with each arm's rows."""
    logits = plain_logits(model)
    texts = neutral().paragraphs
    found = {"before": float(perplexity(model, logits, texts)[0].value)}
    for name, rows in arms.items():
        loss, _ = perplexity(model, logits_with(model, logits, rows), texts)
        found[name] = float(loss.value)
    return found
