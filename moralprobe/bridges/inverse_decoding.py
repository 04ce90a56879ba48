"""Beginnings that lead to given texts, decoded from a model on this machine: it needn't follow
instructions.

A beginning x is written with the probability p(x) p(texts | x), Bayes' rule, by sequential Monte
Carlo (Doucet, de Freitas and Gordon 2001; of language models arXiv 2306.03081): several are written
side by side, and after every few tokens those go on from which the texts are probable. The paper's
own constrained decoding (arXiv 2310.11053) isn't described well enough to be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from scipy.special import softmax

from moralprobe.behavior.elicitation.proposers import FEWEST_WORDS, Limits, Wanted
from moralprobe.cache import Cache, ask_once, key_of
from moralprobe.models.causal import CausalModel
from moralprobe.models.read_once import read_alike
from moralprobe.models.tokens import Encoded
from moralprobe.steering.generate import continued, end_ids
from moralprobe.steering.sampling import Sampling, draw

Floats = NDArray[np.float64]
OPENINGS: Final = (
    *("One morning", "After work", "On Saturday", "Before dinner", "At the market", "On the bus"),
    *("In the kitchen", "At school", "That evening", "At the office", "On the way home"),
    *("Last summer", "In the garden", "At the meeting", "During lunch", "At the party"),
)
"""What a beginning begins with: everyday places and times, for a model that is asked nothing."""
SAMPLING: Final = Sampling(temperature=1.0, top_p=0.95)
_TOKENS_A_WORD: Final = 1.4
_AT_ONCE: Final = 4  # beginnings that are asked for and written together
_ROWS: Final = 8  # texts that are read together


@dataclass(frozen=True)
class InverseDecoding:
    """Writes beginnings from which texts are probable; where there are none, the rule's sentence.

    Args:
        model: from `load_model`, with or without a chat template: all is plain text.
        words: of a beginning, about.
        particles: written side by side, of which one is taken.
        stride: tokens that are written before the texts are held against them again.
        limits: a beginning that holds one of their topics doesn't go on.
        cache: where beginnings are kept.
    """

    model: CausalModel
    words: int = 50
    particles: int = 6
    stride: int = 8
    limits: Limits = field(default_factory=Limits)
    cache: Cache | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The model's name, and how."""
        return f"{self.model.name} inverse decoding"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's, and how beginnings are written."""
        return {
            "inverse": self.model.identity,
            "dtype": str(self.model.dtype),
            "device": self.model.device.type,
            "words": self.words,
            "particles": self.particles,
            "stride": self.stride,
            "openings": list(OPENINGS),
            "topics": list(self.limits.topics),
        }

    def propose(
        self, wanted: Sequence[Wanted], step: Callable[[int], None] = lambda n: None
    ) -> list[str]:
        """Return one beginning each, [n], as it was written."""
        of = dict(self.identity)
        keys = [key_of({**of, "texts": list(leads_to(one)), "seed": one.seed}) for one in wanted]

        def ask(left: list[int]) -> Iterator[tuple[int, str]]:
            for at in range(0, len(left), _AT_ONCE):
                places = range(at, min(at + _AT_ONCE, len(left)))
                yield from zip(
                    places, self._written([wanted[left[i]] for i in places]), strict=True
                )

        known = ask_once(keys, ask, self.cache, lambda some: step(len(some)))
        return [known[key] for key in keys]

    def _written(self, wanted: Sequence[Wanted]) -> list[str]:
        paths = [self._begun(one) for one in wanted]
        for at in range(0, round(self.words * _TOKENS_A_WORD), self.stride):
            if at:
                for path in paths:
                    path.resample()
            numbers = [path.rng.random((self.particles, self.stride)) for path in paths]
            longer = self._longer([row for path in paths for row in path.rows], np.vstack(numbers))
            for i, path in enumerate(paths):
                path.rows = longer[i * self.particles : (i + 1) * self.particles]
                told = log_probability(self.model, path.rows, path.texts)
                path.weigh(told, list(map(self._forbidden, path.rows)))
        return [_whole_words(self._decoded(path.taken())) for path in paths]

    def _begun(self, one: Wanted) -> _Particles:
        texts = leads_to(one)
        rng = np.random.default_rng([one.seed, xxhash.xxh64_intdigest("\n".join(texts).encode())])
        opening = OPENINGS[rng.integers(len(OPENINGS))]
        (begun,) = self.model.encode([opening], [(0, len(opening))], max_tokens=1 << 10)
        rows = [list(begun.ids)] * self.particles
        ids = [_ids(self.model, text) for text in texts]
        return _Particles(rng, rows, ids, log_probability(self.model, rows, ids))

    def _longer(self, rows: Sequence[list[int]], numbers: Floats) -> list[list[int]]:
        """Return texts with `stride` tokens more, drawn by the numbers, [texts, stride]."""
        batch = self.model.collate([_plain(row) for row in rows], side="left")
        at = 0

        def drawn(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            nonlocal at
            left = scores.float().masked_fill(self._banned.to(scores.device), -torch.inf)
            number = torch.from_numpy(numbers[:, at]).to(scores.device, torch.float32)
            at += 1
            token = draw(left, number, SAMPLING)[:, None]
            return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)

        cache = read_alike(self.model.model, batch.ids, batch.mask)
        new = continued(self.model, batch, self.stride, drawn, (), cache=cache).tolist()
        return [[*row, *more] for row, more in zip(rows, new, strict=True)]

    @cached_property
    def _banned(self) -> torch.Tensor:
        """Which tokens aren't drawn, [vocabulary]: those that end a text, special ones, new lines,
        and rows of the logits that are no token's.
        """
        tokenizer = self.model.tokenizer
        vocabulary = int(self.model.model.get_output_embeddings().weight.shape[0])
        n = min(len(tokenizer), vocabulary)
        banned = torch.ones(vocabulary, dtype=torch.bool)
        words = tokenizer.batch_decode([[i] for i in range(n)])
        banned[:n] = torch.tensor(["\n" in word or "\r" in word for word in words])
        special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
        banned[[i for i in {*special, *end_ids(self.model)} if i < vocabulary]] = True
        return banned

    def _decoded(self, row: list[int]) -> str:
        text: str = self.model.tokenizer.decode(row, skip_special_tokens=True)
        return text.strip()

    def _forbidden(self, row: list[int]) -> bool:
        return self.limits.forbids(self._decoded(row))


@dataclass
class _Particles:
    """Beginnings that are written side by side for one request.

    `told` [particles] is the log-probability of the texts after each as it was when they were last
    resampled, `now` as it is, in nats; what is forbidden has -inf.
    """

    rng: np.random.Generator
    rows: list[list[int]]
    texts: list[list[int]]
    told: Floats
    now: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.told

    def weigh(self, told: Floats, forbidden: Sequence[bool]) -> None:
        self.now = np.where(forbidden, -np.inf, told)

    def p(self) -> Floats:
        """Return the particles' weights: what became more probable since they were resampled."""
        if not np.isfinite(self.now).any():
            return np.full(len(self.rows), 1 / len(self.rows))  # all are forbidden: none is better
        return np.asarray(softmax(self.now - self.told), np.float64)

    def resample(self) -> None:
        """Let those go on from which the texts are probable, where few are left that count."""
        p = self.p()
        if 1 / (p**2).sum() >= len(p) / 2:
            return
        even = (np.arange(len(p)) + self.rng.random()) / len(p)
        at = np.minimum(np.searchsorted(p.cumsum(), even), len(p) - 1)
        self.rows = [self.rows[i] for i in at]
        self.told = self.now = self.now[at]  # of the forbidden ones none is drawn

    def taken(self) -> list[int]:
        """Return one of them, drawn by its weight."""
        return self.rows[int(self.rng.choice(len(self.rows), p=self.p()))]


def _whole_words(text: str) -> str:
    """Return a beginning without its last word, which may not be whole."""
    return text.rpartition(" ")[0] if len(text.split()) > FEWEST_WORDS else text


def leads_to(one: Wanted) -> tuple[str, ...]:
    """Return the texts that a beginning shall lead to."""
    return one.texts or (one.principle,)


@torch.inference_mode()
def log_probability(
    model: CausalModel, rows: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> Floats:
    """Return how probable texts are after each row of tokens: log-probability in nats, the mean of
    the texts, [rows].

    Args:
        model: from `load_model`.
        rows: equally many tokens each.
        texts: a token each at least.
    """
    start = len(rows[0])
    pairs = [([*row, *text], text) for row in rows for text in texts]
    found: list[float] = []
    for at in range(0, len(pairs), _ROWS):
        some = pairs[at : at + _ROWS]
        batch = model.collate([_plain(ids) for ids, _ in some])  # padded on the right: never read
        out = model.model(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            use_cache=False,
            logits_to_keep=batch.ids.shape[1] - start + 1,
        )
        for logits, (_, text) in zip(out.logits, some, strict=True):
            own = logits[: len(text)].float()
            target = torch.tensor(list(text), device=own.device)[:, None]
            logprobs = own.gather(-1, target)[:, 0] - own.logsumexp(-1)
            found.append(float(logprobs.double().sum()))
    told = np.array(found, np.float64).reshape(len(rows), len(texts))
    return np.asarray(told.mean(1), np.float64)


def _ids(model: CausalModel, text: str) -> list[int]:
    """Return the tokens of a text that goes on from another one, with the blank between them."""
    before, words = "It was so", " ".join(text.split())
    bare, whole = (
        list(model.tokenizer(some, add_special_tokens=False)["input_ids"])
        for some in (before, f"{before} {words}")
    )
    if whole[: len(bare)] == bare:
        return whole[len(bare) :]
    return list(model.tokenizer(f" {words}", add_special_tokens=False)["input_ids"])


def _plain(ids: Sequence[int]) -> Encoded:
    return Encoded(list(ids), [False] * len(ids), False, False)
