"""A writer of instructions that is trained by what they are worth (VILMO, arXiv 2310.11053).

The instructions c to a prompt x that are worth most, at a price beta on leaving the writer q that
they come from, are distributed as q(c|x) exp(r(x, c) / beta). In each round instructions are
sampled from the writer as it is, tried, and their likelihood is raised, weighed by exp(r / beta)
among all that were sampled for their prompt in all rounds (reward-weighted regression, Peters and
Schaal 2007). A round goes on from the last one, so that beta is the price of one round. What is
trained are LoRA matrices (arXiv 2106.09685); the weights stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.special import softmax

from moralprobe.behavior.elicitation.calibration import Calibrated
from moralprobe.behavior.elicitation.instructions import (
    Options,
    Tried,
    request,
    try_all,
    written,
)
from moralprobe.behavior.text_model import Question, TextModel
from moralprobe.bridges.lora import Adapted
from moralprobe.cache import Cache
from moralprobe.errors import ModelError, UsageError
from moralprobe.models.tokens import Encoded
from moralprobe.steering.generate import end_ids
from moralprobe.steering.text import LocalText

GENERATOR: Final = "generator"
"""The folder of a trained writer's matrices, beside what else was learnt."""
_LEAST: Final = 1e-2  # of a prompt's largest weight: what counts less isn't read at all


@dataclass(frozen=True)
class Training:
    """How a writer is trained.

    Args:
        rounds: of sampling, trying and raising; 0 trains nothing.
        beta: the price on leaving what the writer was, in units of the reward.
        epochs: over all that was tried, in each round.
        lr: AdamW's.
        rank: of the LoRA matrices.
        batch: instructions a step.
    """

    rounds: int = 3
    beta: float = 0.1
    epochs: int = 2
    lr: float = 2e-4
    rank: int = 8
    batch: int = 8

    def __post_init__(self) -> None:
        whole = min(1 + self.rounds, self.epochs, self.rank, self.batch)
        if whole < 1 or not (self.beta > 0 and self.lr > 0):
            raise UsageError("these options train no writer", f"{self}", "give more than 0 of each")


def train(
    generator: Adapted,
    model: TextModel,
    first: Sequence[Tried],
    scorer: Calibrated,
    options: Options,
    training: Training,
    *,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> tuple[list[Tried], dict[str, int]]:
    """Train a writer in rounds.

    Args:
        generator: whose matrices are trained, in place.
        model: that is instructed.
        first: what was tried of the writer before: round 0.
        scorer: whose probability that a completion keeps the principle is the reward.
        options: how many instructions are tried for a prompt, and by how many completions.
        training: how.
        cache: from `open_cache`.
        progress: called with the steps that are done, their number, and what is done.

    Returns:
        All that was tried, `first` too, each in its round; those of the last round are of the
        writer as it is in the end. And how many instructions weren't used, by why.

    Raises:
        UsageError: nothing was tried that is worth something known.
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    tried, unused = list(first), Counter[str]()
    pairs = list(dict.fromkeys((one.principle, one.prompt) for one in first))
    if not any(one.reward is not None for one in first):
        raise UsageError(
            "a writer can't be trained",
            "no instruction was tried of which anything is known",
            "look at what it writes, or take another one",
        )
    total = 2 * training.rounds
    for number in range(1, training.rounds + 1):
        progress(2 * number - 2, total, "training")
        fit(generator, tried, training, seed=options.seed + number)
        progress(2 * number - 1, total, "what its instructions are worth")
        asked = list(map(request, pairs))
        found = written(generator.text, asked, options, unused, cache, number)
        tried += try_all(model, pairs, found, scorer, options, cache, number)
    progress(total, total, "")
    return tried, dict(unused)


def weights(tried: Sequence[Tried], beta: float) -> list[tuple[Tried, float]]:
    """Return each different instruction of a prompt once, with its weight: exp(reward / beta) as
    often as it was sampled, among all those of its prompt. Its reward is the mean of the rounds in
    which it was tried. What weighs hardly anything is left out.
    """
    of: dict[tuple[str, str], dict[str, list[Tried]]] = {}
    for one in tried:
        if one.reward is not None:
            same = of.setdefault((one.principle, one.prompt), {})
            same.setdefault(one.instruction, []).append(one)
    found = []
    for different in of.values():
        reward = [
            np.mean([one.reward for one in some if one.reward is not None])
            for some in different.values()
        ]
        times = np.log([len(some) for some in different.values()])
        share = softmax(np.array(reward) / beta + times)
        found += [
            (some[0], float(w))
            for some, w in zip(different.values(), share, strict=True)
            if w >= _LEAST * share.max()
        ]
    return found


def fit(
    generator: Adapted, tried: Sequence[Tried], training: Training, *, seed: int = 0
) -> list[float]:
    """Raise the likelihood of instructions by their weights, and return the loss of each step.

    The loss is the mean over prompts of - sum w log q(c|x), in nats.
    """
    every = weights(tried, training.beta)
    asked = encoded(generator, [one for one, _ in every])
    # What the tokenizer puts together with what stands before it can't be an answer's beginning.
    can = [i for i, (_, own) in enumerate(asked) if len(own) > 1]
    if not can:
        raise ModelError(
            f"{generator.model.name} can't be trained",
            "its tokenizer puts instructions together with what stands before them",
            "take another writer",
        )
    weighed, sequences = [every[i] for i in can], [asked[i] for i in can]
    prompts = len({(one.principle, one.prompt) for one, _ in weighed})
    weight = np.array([w for _, w in weighed])
    optimiser = torch.optim.AdamW(generator.matrices, lr=training.lr, weight_decay=0.0)
    rng, losses = np.random.default_rng(seed), []
    for _ in range(training.epochs):
        order = rng.permutation(len(weighed))
        for at in range(0, len(order), training.batch):
            rows = order[at : at + training.batch]
            w = torch.tensor(weight[rows], dtype=torch.float32, device=generator.model.device)
            logq = log_likelihood(generator, [sequences[i] for i in rows])
            loss = -(w * logq).sum() * (len(order) / (prompts * len(rows)))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
    return losses


def encoded(generator: Adapted, tried: Sequence[Tried]) -> list[tuple[list[int], list[int]]]:
    """Return what a writer is asked and the instruction with the token that ends it, as tokens."""
    text = LocalText(generator.model)
    asked = text.encode([Question(request((one.principle, one.prompt))) for one in tried])
    ends = sorted(end_ids(generator.model))
    own = generator.model.tokenizer.eos_token_id
    end = [own] if own in ends else ends[:1]
    return [
        (question.ids, [*text.option_ids(one.instruction), *end])
        for question, one in zip(asked, tried, strict=True)
    ]


def log_likelihood(
    generator: Adapted, sequences: Sequence[tuple[list[int], list[int]]]
) -> torch.Tensor:
    """Return the log-likelihood of instructions after what was asked, [instructions], in nats.

    Args:
        generator: the writer; gradients reach its matrices.
        sequences: what was asked and the instruction, as tokens.
    """
    model, most = generator.model, max(len(own) for _, own in sequences)
    batch = model.collate(
        [Encoded([*a, *b], [False] * len(a + b), False, False) for a, b in sequences], side="left"
    )
    mask = batch.mask.long()
    out = model.model(
        input_ids=batch.ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=most + 1,
    )
    logprobs = out.logits[:, :-1].float().log_softmax(-1)
    said = logprobs.gather(-1, batch.ids[:, -most:, None])[..., 0]
    length = torch.tensor([len(own) for _, own in sequences], device=said.device)
    # All end at the right, where the last instruction's tokens stand.
    own = torch.arange(most, device=said.device) >= most - length[:, None]
    return torch.where(own, said, 0.0).sum(-1)
