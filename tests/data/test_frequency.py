"""Frequencies where the package that knows them is installed; a plain no where it isn't."""

from __future__ import annotations

import importlib.util

import pytest

from moralprobe.data.frequency import frequency_source, zipf_frequencies


def test_common_words_are_commoner_than_rare_and_unknown_ones() -> None:
    pytest.importorskip("wordfreq", reason="needs the extra 'lexicon' (wordfreq)")
    assert (frequency_source() or "").startswith("wordfreq ")
    the, robin, toy_soldier, unknown = zipf_frequencies(["the", "robin", "toy soldier", "qwxzzq"])
    assert the > 7 > robin > 3 and toy_soldier > 2 and unknown == 0


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert frequency_source() is None
