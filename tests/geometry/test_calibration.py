"""Under no effect a p below 0.05 comes up about one time in twenty; intervals cover what they say.

Held to on simulated states that know nothing of the labels, through the very analyses that a study
runs, with texts that stand in several rows.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from moralprobe.analyses.gradient import gradient
from moralprobe.analyses.separation import separation
from moralprobe.design import TextFacts, make_design
from moralprobe.geometry.draws import Draws
from moralprobe.geometry.measure import Measure, summarise
from moralprobe.moral_vectors import build_vectors

DATASETS = 60


def measures(mode: str, effect: float) -> list[list[Measure]]:
    """Run the analyses on many simulated stores; `effect` moves virtue from vice, by typicality."""
    frame = build_vectors("starter").frame
    groups = frame["group"].unique().sort()
    index = {g: i for i, g in enumerate(groups)}
    text = np.array([index[g] for g in frame["group"]])
    signed = frame["score"].to_numpy() * np.where(frame["polarity"] == "vice", -1, 1)
    found = []
    for seed in range(DATASETS):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(5, 20, len(groups))
        pairs = frame.with_columns(text_index=pl.Series(text), n_tokens=pl.Series(lengths[text]))
        design = make_design(
            pairs, TextFacts(np.zeros(len(groups), int)), mode, draws=199, seed=seed
        )
        X = rng.standard_normal((len(groups), 16))
        np.add.at(X[:, 0], text, effect * signed)
        # A design's rows are in the order of the source.
        X = X[design.text].astype(np.float32)
        X -= X.mean(0)
        found.append([*separation(X, design), *gradient(X, design)])
    return found


@pytest.mark.parametrize("mode", ["li2026", "audited"])
def test_no_effect_is_called_an_effect_one_time_in_twenty(mode: str) -> None:
    by_name: dict[str, list[list[bool]]] = {}
    for dataset in measures(mode, 0.0):
        p: dict[str, list[bool]] = {}
        for m in dataset:
            if m.status == "ok":
                summary = m.category in ("mean", "mean_abs", "overall", "all")
                p.setdefault(f"{m.name} {'of all' if summary else ''}", []).append(m.p <= 0.05)
        for name, calls in p.items():
            by_name.setdefault(name, []).append(calls)
    for name, calls in by_name.items():
        count, total = int(np.sum(calls)), int(np.size(calls))
        assert total >= DATASETS
        assert stats.binomtest(count, total, 0.05).pvalue > 1e-3, (name, count, total)


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_audited_intervals_cover_the_value_expected_over_datasets(effect: float) -> None:
    """The bootstrap repeats training and prototypes, which makes it wide rather than narrow."""
    by_name: dict[tuple[str, str], list[Measure]] = {}
    for dataset in measures("audited", effect):
        for m in dataset:
            if m.status == "ok" and m.category != "mean_abs":
                by_name.setdefault((m.name, m.category), []).append(m)
    hits: dict[str, list[bool]] = {}
    for (name, _), some in by_name.items():
        expected = np.mean([m.value for m in some])
        hits.setdefault(name, []).extend(m.ci_low <= expected <= m.ci_high for m in some)
    # Between centres that lie nowhere in particular a cosine's interval is somewhat narrow.
    least = {"opposed_cosine": 0.87 if effect == 0 else 0.93}
    for name, covered in hits.items():
        assert len(covered) >= 6 * DATASETS and np.mean(covered) >= least.get(name, 0.93), (
            name,
            np.mean(covered),
        )


def test_an_interval_lies_about_its_value_and_within_the_scale() -> None:
    rng = np.random.default_rng(0)
    # Resamples that are drawn toward zero, as cosines between noisy centres are.
    m = summarise("x", "c", Draws(-0.9, rng.normal(-0.7, 0.05, 4000), np.empty(0), 9), "cosine")
    assert m.ci_low == pytest.approx(-0.998, abs=0.01) and m.ci_high == pytest.approx(
        -0.802, abs=0.01
    )
    m = summarise("x", "c", Draws(-0.99, rng.normal(-0.9, 0.05, 4000), np.empty(0), 9), "cosine")
    assert m.ci_low == -1.0 and m.ci_high == pytest.approx(-0.892, abs=0.01)
    assert np.isnan([m.null_low, m.null_high, m.p]).all()
