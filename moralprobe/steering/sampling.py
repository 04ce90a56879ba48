"""How the next token is drawn: by a prompt's own random numbers, whatever is written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import xxhash

from moralprobe.errors import NumericError, UsageError
from moralprobe.models.tokens import Encoded

MOST_TOKENS: Final = 1 << 16
_COLDEST: Final = 1e-3
_LIKELIEST: Final = 256  # tokens among which `top_p` is looked for before all are sorted


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the same for all that are compared.

    At a `temperature` of 0 it is the likeliest. `top_k` of 0 and `top_p` of 1 leave all tokens in.
    A draw depends on `seed`, the prompt and how many tokens came before, on nothing else.
    """

    max_new_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "max_new_tokens": (1, MOST_TOKENS),
            "temperature": (0, 100),
            "top_p": (1e-6, 1),
            "top_k": (0, 1 << 30),
            "repetition_penalty": (1e-3, 1e3),
            "seed": (0, 2**63),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(
                    f"{name} can't be {getattr(self, name)}",
                    f"it lies between {low:g} and {high:g}",
                    f"give for example {getattr(Sampling, name)}",
                )
        if 0 < self.temperature < _COLDEST:
            raise UsageError(
                f"a temperature of {self.temperature} can't be told from 0",
                f"logits would overflow below {_COLDEST:g}",
                "give 0 to take the likeliest token",
            )


class Draw:
    """Draws every text's next token, and leaves no other one."""

    def __init__(
        self,
        sampling: Sampling,
        prompts: Sequence[str],
        encoded: Sequence[Encoded],
        seeds: Sequence[int] | None = None,
    ) -> None:
        self._sampling = sampling
        self._step = 0
        self._encoded = encoded
        self._seen: torch.Tensor | None = None
        # One number a text and token, known before the model runs.
        self._numbers = np.stack(
            [
                np.random.default_rng([seed, xxhash.xxh64_intdigest(prompt.encode())]).random(
                    sampling.max_new_tokens
                )
                for prompt, seed in zip(
                    prompts, seeds or [sampling.seed] * len(prompts), strict=True
                )
            ]
        )

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores that leave one token of each row, or all where the likeliest is taken."""
        step, how = self._step, self._sampling
        scores = self._penalised(ids, scores)
        self._step += 1
        if not bool(torch.isfinite(scores).any(dim=-1).all()) or bool(torch.isnan(scores).any()):
            raise NumericError(
                "the model gives no next token",
                f"its logits are NaN or infinity after {step} tokens",
                "lower the strength",
            )
        if how.temperature == 0:
            return scores
        numbers = torch.from_numpy(self._numbers[:, step]).to(scores.device, torch.float32)
        drawn = draw(scores.float(), numbers, how)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)

    def _penalised(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores with the repetition penalty on what stands in each text, padding apart.

        Source: Keskar et al. (2019), arXiv 1909.05858, section 4.1, as transformers has it.
        """
        penalty = self._sampling.repetition_penalty
        if penalty == 1:
            return scores
        if self._seen is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, text in enumerate(self._encoded):
                self._seen[row, text.ids] = True
        else:
            self._seen[torch.arange(len(ids), device=ids.device), ids[:, -1]] = True
        less = torch.where(scores < 0, scores * penalty, scores / penalty)
        return torch.where(self._seen, less, scores)


def draw(logits: torch.Tensor, numbers: torch.Tensor, how: Sampling) -> torch.Tensor:
    """Draw a token of each row: the first whose cumulative probability passes its number.

    Args:
        logits: [texts, tokens].
        numbers: [texts], uniform in [0, 1).
        how: temperature, `top_k` and `top_p`: the fewest likeliest tokens that reach it are left.

    Returns:
        [texts] token ids.
    """
    scaled = logits / how.temperature
    if how.top_p == 1 and not how.top_k:
        return _first(scaled.softmax(dim=-1), numbers)
    p = scaled.softmax(dim=-1)
    some = min(how.top_k or _LIKELIEST, p.shape[1])
    likeliest, tokens = _likeliest(p, some)
    if not how.top_k and some < p.shape[1] and bool((likeliest.sum(-1) < how.top_p).any()):
        likeliest, tokens = _likeliest(p, p.shape[1])
    likeliest = likeliest / likeliest.sum(-1, keepdim=True) if how.top_k else likeliest
    left = torch.where(likeliest.cumsum(-1) - likeliest < how.top_p, likeliest, 0.0)
    return tokens.gather(1, _first(left, numbers)[:, None])[:, 0]


def _likeliest(p: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the n largest of each row and where they stand, of equal ones the first one first."""
    tokens = p.topk(n, dim=-1, sorted=False).indices.sort(dim=-1).values
    ordered, at = p.gather(1, tokens).sort(dim=-1, descending=True, stable=True)
    return ordered, tokens.gather(1, at)


def _first(p: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return where each row's running sum first passes its number of the whole."""
    upto = p.cumsum(dim=-1)
    at = (upto <= numbers[:, None] * upto[:, -1:]).sum(dim=-1)
    last = p.shape[1] - 1 - (p > 0).int().flip(-1).argmax(dim=-1)
    return torch.minimum(at, last)
