"""No text ever stands on both sides of a split."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moralprobe.data.splits import SPLITS, group_of, normalise, split_groups, text_groups
from moralprobe.errors import DataError
from moralprobe.geometry.uncertainty import group_folds

WORDS = ["Café", "café", "CAFÉ ", "straße", "STRASSE", "a  b", "a b", "A\tB", "", " ", "z"]
SOURCE = ["train", "analysis", "none", "dev", "dev-extra", "test", "test-extra"]
ROWS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from([*SOURCE, None])), min_size=1, max_size=60
)


@given(text=st.text(max_size=30))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_case_and_blanks_make_no_new_text_and_words_do() -> None:
    assert group_of("Helping  a\tneighbour ") == group_of("helping a neighbour")
    assert group_of("STRASSE") == group_of("straße")
    assert group_of("helping a neighbour") != group_of("helping a neighbor")


@given(texts=st.lists(st.sampled_from(WORDS), max_size=30))
def test_groups_of_a_column_are_the_groups_of_its_texts_in_order(texts: list[str]) -> None:
    found = text_groups(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == [group_of(text) for text in texts]


@given(rows=ROWS)
def test_a_text_that_the_source_spreads_over_splits_ends_in_one(
    rows: list[tuple[str, str | None]],
) -> None:
    texts, source = zip(*rows, strict=True)
    groups = text_groups(pl.Series(texts))
    split = split_groups(groups, pl.Series(source, dtype=pl.String)).to_list()
    ends, touched = defaultdict(set), defaultdict(set)
    for text, before, after in zip(texts, source, split, strict=True):
        ends[normalise(text)].add(after)
        touched[normalise(text)].add(before)
    for text, after in ends.items():
        (one,) = after
        assert one in touched[text] or None in touched[text]
        # What training showed is never held out.
        if touched[text] & {"train", None}:
            assert one == "train"


@given(texts=st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_without_a_source_split_the_text_alone_decides(texts: list[str], seed: int) -> None:
    split = split_groups(text_groups(pl.Series(texts)), None).to_list()
    of_text = dict(zip(texts, split, strict=True))
    shuffled = random.Random(seed).sample(texts, len(texts))
    again = split_groups(text_groups(pl.Series(shuffled)), None).to_list()
    assert again == [of_text[text] for text in shuffled]


def test_without_a_source_split_eight_in_ten_train() -> None:
    groups = text_groups(pl.Series([f"action number {i}" for i in range(20_000)]))
    share = split_groups(groups, None).value_counts(normalize=True)
    found = dict(share.iter_rows())
    assert set(found) == set(SPLITS)
    # Binomial with n = 20,000: three standard errors are below 0.01.
    for name, expected in (("train", 0.8), ("dev", 0.1), ("test", 0.1)):
        assert abs(found[name] - expected) < 0.01


def test_another_process_puts_a_text_into_the_same_split() -> None:
    """Python's own string hash differs between processes; this one must not."""
    code = (
        "import polars as pl; from moralprobe.data.splits import *;"
        "print(*split_groups(text_groups(pl.Series([f'action {i}' for i in range(40)])), None))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = split_groups(text_groups(pl.Series([f"action {i}" for i in range(40)])), None)
    assert said == {" ".join(here.to_list()) + "\n"}


def test_folds_keep_groups_whole_and_follow_the_seed() -> None:
    groups = np.random.default_rng(0).integers(0, 80, 500)
    one, same, other = (group_folds(groups, 5, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert sorted(set(one.tolist())) == [0, 1, 2, 3, 4]
    for group in np.unique(groups):
        assert len(set(one[groups == group].tolist())) == 1


def test_a_split_that_the_dataset_lacks_is_refused_and_none_counts_as_train() -> None:
    groups = pl.Series(["a", "b"])
    with pytest.raises(DataError, match=r"unknown split 'validation'.*train, analysis"):
        split_groups(groups, pl.Series(["train", "validation"]))
    assert split_groups(groups, pl.Series([None, "test"])).to_list() == ["train", "test"]
