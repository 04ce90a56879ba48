"""Light adapters of communities: LoRA matrices that are trained on how a community answers.

The loss of a question is the cross-entropy of the community's shares with the probabilities of the
options' letters, in nats, under an order of the options that is drawn anew each time: what a
letter adds is no one's answer. What arXiv 2603.02420 parodies as fine-tuning to a community is
measured here as what it is, on questions that nothing was learnt from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy

from moralprobe.behavior.options import LETTERS, VARIANTS, Readout, lettered
from moralprobe.behavior.pluralism.agreement import Key, Predicted, key_of
from moralprobe.behavior.pluralism.learning import (
    ALL,
    ARMS,
    EVERYONE,
    NONE,
    OWN,
    SHUFFLED,
    Learnt,
    Split,
    compared,
    shuffled,
)
from moralprobe.behavior.pluralism.measuring import predict
from moralprobe.behavior.pluralism.steering import told_before
from moralprobe.behavior.pluralism.surveys import Answers, Survey
from moralprobe.behavior.text_model import Question, TextModel
from moralprobe.bridges.adapters import folder_of, write_adapter
from moralprobe.bridges.lora import Adapted, new_lora
from moralprobe.cache import Cache
from moralprobe.errors import DataError, ModelError, UsageError, nearest
from moralprobe.models.tokens import Encoded
from moralprobe.steering.text import LocalText

Floats = NDArray[np.float64]
_BATCH = 16
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Training:
    """How an adapter is trained.

    Args:
        epochs: over the questions, each under one drawn order of its options.
        lr: AdamW's.
        rank: of the LoRA matrices.
        batch: questions a step.
    """

    epochs: int = 6
    lr: float = 1e-3
    rank: int = 8
    batch: int = 8

    def __post_init__(self) -> None:
        if min(self.epochs, self.rank, self.batch) < 1 or not self.lr > 0:
            raise UsageError(
                "these options train no adapter", f"{self}", "give more than 0 of each"
            )


def train(
    adapted: Adapted,
    answers: Sequence[Answers],
    training: Training,
    *,
    seed: int = 0,
    step: Callable[[int], None] = lambda n: None,
) -> list[float]:
    """Train matrices to answer as a community does, in place, and return the loss of each step.

    Args:
        adapted: from `new_lora`.
        answers: of one community.
        training: how.
        seed: of the orders of questions and of options.
        step: called with the number of questions after every step.

    Raises:
        DataError: nothing to learn from.
        ModelError: a tokenizer that puts a letter together with what stands before it.
    """
    if not answers:
        raise DataError("an adapter has nothing to learn from", "no answer was given", "give some")
    letters = _letter_ids(adapted.text, max(len(one.shares) for one in answers))
    optimiser = torch.optim.AdamW(adapted.matrices, lr=training.lr, weight_decay=0.0)
    rng, losses = np.random.default_rng(seed), []
    for _ in range(training.epochs):
        order = rng.permutation(len(answers))
        for at in range(0, len(order), training.batch):
            rows = [answers[i] for i in order[at : at + training.batch]]
            loss = survey_loss(
                adapted, rows, [rng.permutation(len(one.shares)) for one in rows], letters
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
            step(len(rows))
    return losses


def survey_loss(
    adapted: Adapted,
    answers: Sequence[Answers],
    orders: Sequence[NDArray[np.int64]],
    letters: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """Return the mean cross-entropy of shares with the letters' probabilities, in nats.

    Args:
        adapted: whose matrices gradients reach.
        answers: [n] of any number of options.
        orders: [n] which option stands at each place.
        letters: the tokens by which each letter may begin an answer.
    """
    text, model = adapted.text, adapted.model
    most = max(len(one.shares) for one in answers)
    letters = letters or _letter_ids(text, most)
    encoded = text.encode(
        [
            Question(lettered(one.item.question, [one.item.options[i] for i in order]))
            for one, order in zip(answers, orders, strict=True)
        ]
    )
    batch = model.collate(
        [Encoded(one.ids, [False] * len(one.ids), False, False) for one in encoded], side="left"
    )
    mask = batch.mask.long()
    out = model.model(
        input_ids=batch.ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=1,
    )
    logits = out.logits[:, -1].float()
    # An answer begins with a letter in one of several ways: their probabilities are summed.
    told = torch.stack([logits[:, list(ids)].logsumexp(-1) for ids in letters[:most]], dim=1)
    target = torch.zeros_like(told)
    there = torch.zeros_like(told, dtype=torch.bool)
    for row, (one, order) in enumerate(zip(answers, orders, strict=True)):
        target[row, : len(order)] = torch.tensor(one.shares[order], dtype=told.dtype)
        there[row, : len(order)] = True
    logp = told.masked_fill(~there, -torch.inf).log_softmax(-1)
    # What isn't there has no share: 0 times infinity is left out, not multiplied.
    return -torch.where(there, target * logp, 0.0).sum(-1).mean()


@torch.inference_mode()
def divergence(adapted: Adapted, answers: Sequence[Answers], *, seed: int = 0) -> float:
    """Return the mean Kullback-Leibler divergence of letters' probabilities from shares, in nats.

    Each question is asked under one order of its options, the same ones for the same seed.
    """
    rng, total = np.random.default_rng(seed), 0.0
    orders = [rng.permutation(len(one.shares)) for one in answers]
    for at in range(0, len(answers), _BATCH):
        some = answers[at : at + _BATCH]
        total += len(some) * float(survey_loss(adapted, some, orders[at : at + _BATCH]))
    entropy = [-float(np.sum(xlogy(one.shares, one.shares))) for one in answers]
    return total / len(answers) - float(np.mean(entropy))


def _letter_ids(text: LocalText, n: int) -> list[list[int]]:
    """Return the tokens by which each of n letters may begin an answer."""
    found = []
    for letter in LETTERS[:n]:
        ids = [text.option_ids(variant.format(letter)) for variant in VARIANTS]
        single = sorted({one[0] for one in ids if len(one) == 1})
        if not single:
            raise ModelError(
                f"{text.name} can't be trained to choose letters",
                f"no single token begins an answer with {letter}",
                "take another model, or --arms none,persona,examples",
            )
        found.append(single)
    return found


def parse_arms(text: str) -> tuple[str, ...]:
    """Read names of arms, joined by commas; `none` is always among them.

    Raises:
        UsageError: an unknown one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ARMS:
            raise UsageError(
                f"there is no arm {name!r}", nearest(name, ARMS), f"choose among {', '.join(ARMS)}"
            )
    return tuple(arm for arm in ARMS if arm in {NONE, *names})


def learn(
    model: TextModel,
    given: Split,
    *,
    arms: Sequence[str] = ARMS,
    training: Training | None = None,
    readout: Readout | None = None,
    out: Path | None = None,
    draws: int = 1000,
    seed: int = 0,
    cache: Cache | None = None,
    progress: Progress = lambda done, total, detail: None,
) -> Learnt:
    """Answer the questions that nothing is learnt from in every way, and compare.

    Args:
        model: from `own_copy` where an adapter is trained: it is changed and changed back.
        given: from `split`.
        arms: of `learning.ARMS`; `none` is one of them.
        training: how adapters are trained.
        readout: `logprob` or `sampled`.
        out: where adapters are written, each with what it was trained on.
        draws: resamples of batteries.
        seed: of them, of the training and of which answers are shown.
        cache: from `open_cache`.
        progress: called with the steps that are done, their number, and what is done.

    Raises:
        UsageError: adapters of a model that isn't on this machine.
        As `predict`, `train` and `compared`.
    """
    training = training or Training()
    trains = [arm for arm in arms if arm in (OWN, EVERYONE, SHUFFLED)]
    communities = given.measured.communities
    total = (len(arms) - len(trains)) + 2 * sum(
        1 if arm == EVERYONE else len(communities) for arm in trains
    )
    done = 0

    def told(what: str) -> None:
        nonlocal done
        progress(done, total, what)
        done += 1

    said: dict[str, dict[Key, Predicted]] = {}
    for arm in (arm for arm in arms if arm not in trains):
        told(arm)
        said[arm] = _answers(model, given, given.measured, arm, readout, cache, seed)
    learning: dict[str, list[float]] = {}

    def adapter(
        arm: str, community: str, answers: list[Answers], asked: Survey
    ) -> dict[Key, Predicted]:
        if not isinstance(model, LocalText):
            raise UsageError(
                f"{model.name} can't be trained",
                "its weights aren't on this machine",
                f"leave out {', '.join(trains)}: --arms none,persona,examples",
            )
        name = f"{arm}: {community}" if community else arm
        told(f"training {name}")
        adapted = new_lora(model.model, rank=training.rank, seed=seed)
        try:
            before = divergence(adapted, answers, seed=seed)
            train(adapted, answers, training, seed=seed)
            learning[name] = [before, divergence(adapted, answers, seed=seed)]
            told(f"asking {name}")
            if out is not None:
                write_adapter(adapted, out / folder_of(name), arm, community, answers)
            return _answers(adapted.text, given, asked, NONE, readout, cache, seed)
        finally:
            adapted.away()

    for arm, change in ((OWN, list[Answers]), (SHUFFLED, partial(shuffled, seed=seed))):
        if arm in trains:
            said[arm] = {}
            for name in communities:
                own = change(given.learnt.of([name]).answers)
                said[arm] |= adapter(arm, name, own, given.measured.of([name]))
    if EVERYONE in trains:
        said[EVERYONE] = adapter(EVERYONE, "", list(given.everyone), given.measured)
    progress(total, total, "")
    table, answers = compared(given, said, draws=draws, seed=seed)
    summary: dict[str, Any] = {
        "name": model.name,
        "model": dict(model.identity),
        "communities": list(communities),
        "learnt": len({key_of(one)[:2] for one in given.learnt.answers}),
        "measured": len({key_of(one)[:2] for one in given.measured.answers}),
        "training": asdict(training),
        "statuses": {
            arm: dict(Counter(one.status for one in rows.values())) for arm, rows in said.items()
        },
        "compared": int(table.filter(community=ALL)["n"].max() or 0),  # type: ignore[arg-type]
        "answers": len(given.measured),
        "divergence": learning,
        "draws": draws,
        "seed": seed,
    }
    return Learnt(table, answers, summary)


def _answers(
    model: TextModel,
    given: Split,
    asked: Survey,
    steer: str,
    readout: Readout | None,
    cache: Cache | None,
    seed: int,
) -> dict[Key, Predicted]:
    """Return what a model says to a survey; what it is shown was answered to learnt questions."""
    told = told_before(asked, steer, known=given.learnt, seed=seed)
    put = list(zip((one.item for one in asked.answers), told, strict=True))
    once = list(dict.fromkeys(put))
    said = dict(zip(once, predict(model, once, readout=readout, cache=cache), strict=True))
    return {key_of(one): said[pair] for one, pair in zip(asked.answers, put, strict=True)}
