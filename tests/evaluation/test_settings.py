"""Each protocol's decoding, unless told; and what is told by text."""

from __future__ import annotations

from typing import Any

import pytest

from moralprobe.errors import UsageError
from moralprobe.evaluation.settings import PUBLISHED, parse_numbers, parse_seeds, sampling_of
from moralprobe.recipes.evaluate_step import settings_of
from moralprobe.recipes.options import EVALUATE, Evaluate, PublishedEvaluate
from moralprobe.recipes.run import load_recipe


def test_the_published_limits_are_cut_by_nothing_but_the_user() -> None:
    limits = [how.max_new_tokens for how in PUBLISHED.values()]
    assert sampling_of("li2026").max_new_tokens == max(limits) == 1024
    assert sampling_of("li2026", max_tokens=64).max_new_tokens == 64
    assert sampling_of("audited").max_new_tokens == 256
    told = sampling_of("audited", max_tokens=9, temperature=0.0, top_p=0.5)
    assert (told.max_new_tokens, told.temperature, told.top_p) == (9, 0.0, 0.5)


@pytest.mark.parametrize("told", [{"temperature": 0.7}, {"top_p": 1.0}])
def test_another_decoding_isnt_the_published_one(told: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="in its own way"):
        sampling_of("li2026", **told)


def test_a_recipe_decodes_as_the_command_does() -> None:
    assert settings_of(PublishedEvaluate())[2].sampling == sampling_of("li2026")
    assert settings_of(Evaluate())[2].sampling == sampling_of("audited")


def test_the_paper_s_model_doesnt_think_within_the_audited_limit() -> None:
    """It thinks on beyond 256 tokens, and nothing would be left to judge."""
    steps = load_recipe("qwen3-8b").steps[EVALUATE]
    assert steps["geometry"].thinking is False and steps["li2026"].thinking is None


def test_numbers_by_text() -> None:
    assert parse_numbers("0,0.5,-1", "x") == (0.0, 0.5, -1.0)
    assert parse_seeds("0,1", "x") == (0, 1)
    with pytest.raises(UsageError, match="--strengths isn't numbers"):
        parse_numbers("0;1", "--strengths")
    with pytest.raises(UsageError, match="whole numbers"):
        parse_seeds("0,1.5", "--seeds")
