"""A judge of positions that is an MNLI model: what a sentence of a text entails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moralprobe.behavior.pluralism.voicing import Floats, Pair, sentences
from moralprobe.bridges.scorer import Entailment


@dataclass(frozen=True)
class Entails:
    """How surely some sentence of a text entails a position: the highest probability of them.

    Modular Pluralism (EMNLP 2024) takes the position's explanation as the premise, and the sentence
    as the hypothesis: a sentence that says little is then entailed by much. Here it must say it.
    """

    model: Entailment

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def voiced(self, pairs: Sequence[Pair]) -> Floats:
        """Return the probability for each pair, [n]."""
        said = [
            (i, sentence, position)
            for i, (_, text, position) in enumerate(pairs)
            for sentence in sentences(text)
        ]
        found = np.zeros(len(pairs))
        p = self.model.entailed([(sentence, position) for _, sentence, position in said])
        np.maximum.at(found, [i for i, _, _ in said], p)
        return found
