"""How likely a model finds given answers to a prompt, read as it is or steered.

Nothing is generated: the tokens of an answer are there, and their log-probabilities are read off.
Whoever steers hands over his own `LogitsOf`; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from moralprobe.errors import DataError, ModelError, NumericError
from moralprobe.geometry.arrays import Bools, Floats, Ints, blocks
from moralprobe.geometry.auroc import weighted_auroc
from moralprobe.geometry.draws import Draws, resampled
from moralprobe.geometry.measure import Measure, not_enough, summarise
from moralprobe.geometry.recoverability import gather
from moralprobe.geometry.uncertainty import bootstrap_counts
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.steering.apply import steered_logits

LogitsOf = Callable[[Batch], torch.Tensor]
"""Gives the logits, [texts, tokens, vocabulary], of a batch that is padded on the right."""
Frame = tuple[str, str]
"""What a chat template puts before and after one message of a user."""

MAX_TOKENS: Final = 4096
BATCH_TOKENS: Final = 2048
"""Tokens that are read at once, padding too: their logits take the vocabulary's size each."""
DRAWS: Final = 1000
"""Resamples of an interval."""
_ROWS: Final = 256  # logits that are read in fp32 at once
_RESAMPLES: Final = 200  # that are measured at once
_TAIL: Final = 0.025  # of a 95 % interval


@dataclass(frozen=True)
class Choices:
    """What a model finds of options: their log-probability in nats and how many tokens they have.

    `summed` [items, options] is that of all tokens of an option; `tokens` [items, options].
    """

    summed: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def per_token(self) -> NDArray[np.float64]:
        """The mean log-probability of an option's tokens, [items, options]."""
        return np.asarray(self.summed / self.tokens)

    @property
    def mass(self) -> NDArray[np.float64]:
        """The probability of all options together, [items], where none begins another."""
        return np.asarray(np.exp(np.logaddexp.reduce(self.summed, axis=1)))

    @property
    def log_shares(self) -> NDArray[np.float64]:
        """The log-probability of each option given that it is one of them, [items, options]."""
        return np.asarray(self.summed - np.logaddexp.reduce(self.summed, axis=1, keepdims=True))


def plain_logits(model: CausalModel) -> LogitsOf:
    """Return what gives a model's own logits, unsteered.

    Raises:
        ModelError: when called, of a model without a language-model head.
    """

    return steered_logits(model, None)


def option_logprobs(
    model: CausalModel,
    logits_of: LogitsOf,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    frame: Frame | None = None,
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
) -> Choices:
    """Read how likely a model finds each option after its prompt.

    Args:
        model: whose tokenizer is used.
        logits_of: the model's logits, from `plain_logits` or steered.
        prompts: [items] texts.
        options: [items][options] texts of any length, as many for each item; as running text, so
            that an English word begins with a blank.
        frame: what stands around a prompt that is a user's message, from `model.chat_frame()`; the
            option then begins the model's answer, without its leading blank.
        max_tokens: of a prompt with an option; longer ones are refused.
        batch_tokens: how many are read at once; it doesn't change what comes out.

    A prompt and an option are tokenized as one text, and a token that holds some of both counts
    with the option.

    Raises:
        DataError: no item, items with different numbers of options, an option without a token,
            a text that is too long, or an option with nothing before it.
        ModelError: logits of another shape.
        NumericError: logits that aren't numbers.
    """
    n = len(options[0]) if options else 0
    if not prompts or len(prompts) != len(options) or not n or any(len(o) != n for o in options):
        raise DataError(
            "there are no options to choose among",
            f"{len(prompts)} prompts have {sorted({len(o) for o in options})} options",
            "give as many options for each prompt, one at least",
        )
    pairs = [(p, option) for p, some in zip(prompts, options, strict=True) for option in some]
    encoded = encode_answers(
        model, [p for p, _ in pairs], [o for _, o in pairs], frame=frame, max_tokens=max_tokens
    )
    found = token_logprobs(model, logits_of, encoded, batch_tokens=batch_tokens)
    shape = (len(prompts), n)
    return Choices(
        np.array([values.sum() for values in found]).reshape(shape),
        np.array([len(values) for values in found], np.int64).reshape(shape),
    )


def encode_answers(
    model: CausalModel,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    frame: Frame | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[Encoded]:
    """Tokenize prompts with their answers, whose tokens are marked as the action.

    Args:
        model: whose tokenizer is used.
        prompts: [n] texts.
        answers: [n] texts that follow them.
        frame: as in `option_logprobs`.
        max_tokens: of both.

    Raises:
        DataError: an answer without a token, with nothing before it, or cut off.
    """
    before, after = frame or ("", "")
    heads = [before + prompt + after for prompt in prompts]
    tails = [answer.lstrip() if frame else answer for answer in answers]
    texts = [head + tail for head, tail in zip(heads, tails, strict=True)]
    spans = [(len(head), len(text)) for head, text in zip(heads, texts, strict=True)]
    encoded = model.encode(texts, spans, max_tokens=max_tokens, add_special_tokens=frame is None)
    for text, tail, head in zip(encoded, tails, heads, strict=True):
        why = ""
        if text.truncated:
            why = f"it has more than {max_tokens:,} tokens with its prompt"
        elif not any(text.action):
            why = "it has no token"
        elif text.action[0]:
            why = "nothing stands before it, so that its first token has no probability"
        if why:
            raise DataError(
                f"the answer {tail[:60]!r} can't be scored",
                f"after {head[-60:]!r}, {why}",
                "leave the item out, or shorten it",
            )
    return encoded


def token_logprobs(
    model: CausalModel,
    logits_of: LogitsOf,
    encoded: Sequence[Encoded],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> list[NDArray[np.float64]]:
    """Return the log-probability of each marked token of each text, in nats, read in fp32.

    A text's last token is only predicted and never read, so that texts which differ in it alone,
    as a prompt with options of one token, are read once.

    Args:
        model: that puts texts into batches.
        logits_of: the model's logits.
        encoded: texts with marked tokens, of which the first is none.
        batch_tokens: how many are read at once.

    Raises:
        ModelError: logits of another shape.
        NumericError: logits that aren't numbers.
    """
    contexts: dict[tuple[tuple[int, ...], tuple[bool, ...]], list[int]] = {}
    for i, text in enumerate(encoded):
        contexts.setdefault((tuple(text.ids[:-1]), tuple(text.action[:-1])), []).append(i)
    owners = list(contexts.values())
    found: list[NDArray[np.float64]] = [np.empty(0)] * len(encoded)
    for rows, batch in batches(model, [encoded[some[0]] for some in owners], batch_tokens):
        logits = checked_logits(logits_of, batch)
        asked = [(r, i) for r, k in enumerate(rows) for i in owners[k]]
        places = [
            (r, at, encoded[i].ids[at + 1]) for r, i in asked for at in predicting(encoded[i])
        ]
        row, at, target = torch.tensor(places, device=logits.device).T
        parts = []
        for some in blocks(len(places), _ROWS):
            chosen = logits[row[some], at[some]].float()
            its = chosen.gather(-1, target[some, None])[:, 0]
            parts.append(its - chosen.logsumexp(-1))
        values = torch.cat(parts).double().cpu().numpy()
        if np.isnan(values).any():
            raise not_numbers(model)
        start = 0
        for _, i in asked:
            n = sum(encoded[i].action)
            found[i] = values[start : start + n]
            start += n
    return found


def predicting(text: Encoded) -> list[int]:
    """Return where each marked token of a text is predicted: at the token before it."""
    return [at - 1 for at, marked in enumerate(text.action) if marked]


def batches(
    model: CausalModel, encoded: Sequence[Encoded], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[int], Batch]]:
    """Yield texts without their last token in batches of like length, the longest first.

    Args:
        model: that puts texts into batches.
        encoded: texts of two tokens at least.
        batch_tokens: of a batch, with its padding; a longer text is read alone.

    Yields:
        Which texts, and their batch, padded on the right.
    """
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    start = 0
    while start < len(order):
        n = max(1, batch_tokens // (len(encoded[order[start]]) - 1))
        rows = order[start : start + n]
        start += n
        some = [encoded[i] for i in rows]
        yield rows, model.collate([replace(t, ids=t.ids[:-1], action=t.action[:-1]) for t in some])


@torch.inference_mode()
def checked_logits(logits_of: LogitsOf, batch: Batch) -> torch.Tensor:
    """Return a batch's logits.

    Raises:
        ModelError: they have another shape than [texts, tokens, vocabulary].
    """
    logits = logits_of(batch)
    if logits.dim() != 3 or logits.shape[:2] != batch.ids.shape:
        raise ModelError(
            "logits don't belong to the batch",
            f"expected {(*batch.ids.shape, 'vocabulary')}, got {tuple(logits.shape)}",
            "give one logit for each text, token and word of the vocabulary",
        )
    return logits


def not_numbers(model: CausalModel) -> NumericError:
    """Return the error for logits that aren't numbers."""
    return NumericError(
        f"the logits of {model.name} aren't numbers",
        "some are NaN",
        "steer less, or load the model in a wider dtype",
    )


@dataclass(frozen=True)
class Outcome:
    """A measure with what it must beat.

    `chance` is what guessing has, and `surface` what the best of some rules has that read no more
    than how long the options are, or always give the same answer; `rule` names it.
    """

    measure: Measure
    chance: float
    surface: Measure
    rule: str


def mean_of(
    name: str,
    category: str,
    values: Floats,
    unit: str,
    *,
    seed: int,
    groups: Ints | None = None,
    weights: Floats | None = None,
) -> Measure:
    """Return a mean with its 95 % bootstrap interval over groups of items.

    Shares that are all 0, or all 1, don't vary in any resample: their interval is then the exact
    binomial one of so many groups (Clopper and Pearson 1934).

    Args:
        name: of the measure.
        category: of what.
        values: [n] one an item; nan is left out, and an infinite one has no interval. What is left
            out is drawn all the same, so that resamples of the same items pair.
        unit: of the values; `share` where they are from 0 to 1.
        seed: of the resamples; the same seed and groups give the same, and paired differences.
        groups: [n] which items are drawn together; each on its own if not given.
        weights: [n] what an item counts, as its number of tokens; 1 if not given.
    """
    there = ~np.isnan(values)
    x = np.where(there, np.asarray(values, np.float64), 0.0)
    w = np.where(there, 1.0 if weights is None else np.asarray(weights, np.float64), 0.0)
    _, group = np.unique(np.arange(len(x)) if groups is None else groups, return_inverse=True)
    n = int((np.bincount(group, weights=there) > 0).sum())
    if n < 2:
        return not_enough(name, category, unit, have=n, needed=2, of="groups of items")
    if np.isinf(x).any():  # as a divergence from a model that rules a word out
        empty = not_enough(name, category, unit, have=n, needed=2, of="")
        return replace(empty, value=float(np.average(x, weights=w)), status="not finite")
    sums, sizes = np.bincount(group, weights=w * x), np.bincount(group, weights=w)
    counts = bootstrap_counts(len(sizes), DRAWS, seed)
    with np.errstate(invalid="ignore"):  # no item with a value may be drawn
        boot = (counts @ sums) / (counts @ sizes)
    value = float(sums.sum() / sizes.sum())
    measure = summarise(name, category, Draws(value, boot, np.empty(0), n), unit)
    first = x[there][0]
    if unit == "share" and (x[there] == first).all() and first in (0, 1):
        beyond = exactly_none(n)
        low, high = (0.0, beyond) if first == 0 else (1 - beyond, 1.0)
        return replace(measure, ci_low=low, ci_high=high)
    return measure


def exactly_none(n: int) -> float:
    """Return the upper end of the exact 95 % interval of a share that is 0 in all of n items."""
    return float(1 - _TAIL ** (1 / n))


def auroc_of(
    name: str, category: str, scores: Floats, labels: Bools, *, seed: int, groups: Ints
) -> Measure:
    """Return the area under the ROC curve of scores, with its 95 % interval over groups of items.

    Args:
        name: of the measure.
        category: of what.
        scores: [n] the higher, the likelier true.
        labels: [n] which are true.
        seed: of the resamples.
        groups: [n] which items are drawn together.
    """
    fewest = int(min(labels.sum(), (~labels).sum()))
    if fewest < 2:
        of = "items of the rarer label"
        return not_enough(name, category, "AUROC", have=fewest, needed=2, of=of)
    _, group = np.unique(groups, return_inverse=True)
    n = int(group.max()) + 1
    counts = bootstrap_counts(n, DRAWS, seed)
    # As `draws.resampled` has it: the data, resamples at half strength, and whole ones.
    weights = np.concatenate([np.ones((1, n), np.uint8), 1 + counts, counts])
    whole = gather(np.empty((len(scores), 0)), np.zeros(len(scores), np.int64))
    values = np.concatenate(
        [
            weighted_auroc(whole, np.asarray(scores, np.float64), labels, weights[some][:, group])
            for some in blocks(len(weights), _RESAMPLES)
        ]
    )
    return summarise(name, category, resampled(values, DRAWS, np.empty(0), n), "AUROC")


def better_of(rules: dict[str, Measure]) -> tuple[Measure, str]:
    """Return the measure that is largest, and its rule."""
    rule = max(rules, key=lambda name: rules[name].value)
    return rules[rule], rule
