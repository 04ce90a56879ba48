"""Which prompts are answered: nothing but their texts and groups decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from moralprobe.errors import DataError
from moralprobe.evaluation.choosing import few, halves
from moralprobe.evaluation.prompts import Prompt, Prompts, load_prompts
from tests.conftest import shared_file


def some(n: int, group: str) -> list[Prompt]:
    return [Prompt(f"{group}{i}", f"{group} text {i}", group, "") for i in range(n)]


def test_a_few_are_of_every_group_though_the_file_is_sorted() -> None:
    found = few(load_prompts("english"), 20)
    assert set(Counter(p.group for p in found.prompts).values()) == {4}
    assert found.sha256 == load_prompts("english").sha256


def test_a_few_of_flames_are_of_all_its_dimensions() -> None:
    every = load_prompts(shared_file("flames", "Flames_1k_Chinese.jsonl"))
    sizes = Counter(p.group for p in every.prompts)
    groups = Counter(p.group for p in few(every, 20).prompts)
    assert groups.total() == 20
    for group, n in sizes.items():
        assert abs(groups[group] - 20 * n / len(every)) < 1


def test_a_few_are_none_of_more_and_in_order() -> None:
    every = Prompts((*some(7, "a"), *some(5, "b")), (), "p", "")
    for n in range(1, 12):
        chosen = few(every, n).prompts
        assert len(chosen) == n and [p for p in every.prompts if p in chosen] == list(chosen)
    assert few(every, 0) is every and few(every, 12) is every and few(every, 99) is every
    assert few(every, 5).prompts != few(every, 5, seed=1).prompts


def test_halves_are_even_in_every_group_and_disjoint() -> None:
    prompts = [p for k in range(9) for p in some(2 * k + 1, f"g{k}")]
    choose, report = halves(prompts, 1)
    assert sorted(p.id for p in (*choose, *report)) == sorted(p.id for p in prompts)
    assert len(choose) == len(prompts) // 2
    for k in range(9):
        sizes = [sum(p.group == f"g{k}" for p in half) for half in (choose, report)]
        assert abs(sizes[0] - sizes[1]) <= 1
    assert [p for p in prompts if p in choose] == list(choose)


def test_halves_depend_on_the_texts_and_the_seed_only() -> None:
    prompts = [*some(40, "a"), *some(41, "b")]
    first = {p.id for p in halves(prompts, 1)[0]}
    shuffled = [prompts[i] for i in np.random.default_rng(0).permutation(len(prompts))]
    assert {p.id for p in halves(shuffled, 1)[0]} == first
    renamed = [Prompt(f"n{i}", p.text.upper(), p.group, "") for i, p in enumerate(prompts)]
    assert {p.text for p in halves(renamed, 1)[0]} == {
        p.text.upper() for p in prompts if p.id in first
    }
    other = {p.id for p in halves(prompts, 2)[0]}
    assert 10 < len(first & other) < 30  # half of them, by chance
    with pytest.raises(DataError, match="there are 1"):
        halves(prompts[:1], 1)
