"""How fluent texts are: a local model's perplexity of them."""

from __future__ import annotations

from typing import Any, Final

import polars as pl

from moralprobe.errors import DataError
from moralprobe.evaluation.options import plain_logits
from moralprobe.evaluation.side_effects import perplexity
from moralprobe.models.causal import CausalModel

_FEWEST_WORDS: Final = 2
_MOST: Final = 400
"""Different texts of a round and kind that are read at most, the first ones."""


def perplexity_of(
    model: CausalModel, completions: pl.DataFrame, *, seed: int = 0
) -> dict[str, Any]:
    """Return a model's perplexity of prompts and completions by round, with intervals.

    Args:
        model: that reads them, from `load_model`.
        completions: of `Measured`.
        seed: of the resamples of texts.
    """
    logits = plain_logits(model)
    found = {}
    for number in completions["iter"].unique().sort():
        some = completions.filter(iter=number)
        for what, column in (("prompts", "prompt"), ("completions", "text")):
            texts = [
                text
                for text in some[column].unique(maintain_order=True)
                if len(text.split()) >= _FEWEST_WORDS
            ][:_MOST]
            try:
                _, measure = perplexity(model, logits, texts, seed=seed)
            except DataError:
                continue  # no text that can be read
            found[f"{what} of round {number}"] = {
                "value": measure.value,
                "low": measure.ci_low,
                "high": measure.ci_high,
                "n": len(texts),
            }
    return {"model": model.name, "of": found}
