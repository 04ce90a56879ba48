"""The whole of a fit: what is published, what is held against what, and beside whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score

from moralprobe.behavior.consensus import fitting
from moralprobe.behavior.consensus.agreement import (
    auroc,
    brier,
    divergence,
    f1,
    f1_matched,
)
from moralprobe.behavior.consensus.fitting import Consensus, _shuffled, fit_consensus, left_out
from moralprobe.behavior.consensus.latent import fit
from moralprobe.behavior.consensus.scores import Scores
from moralprobe.behavior.consensus.votes import against_votes
from moralprobe.behavior.siblings import Together, siblings
from moralprobe.errors import DataError, UsageError
from moralprobe.report.consensus import beside_votes, sentences
from tests.behavior.consensus.panel import PUBLISHED, draw

N = 300
FEW = {"draws": 20, "shuffles": 19}


def scores_of(
    values: np.ndarray, families: tuple[str, ...] | None = None, models: str = "abcdefgh"
) -> Scores:
    names = tuple(models[: len(values)])
    return Scores(
        values,
        names,
        tuple(f"theory {j}" for j in range(values.shape[1])),
        tuple(f"item {i}" for i in range(values.shape[2])),
        families or names,
    )


HUMPS = np.array([[0.75, 0.08, 0.25, 0.08]])
"""A judge whose scores alone have two humps."""


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).random((2, N)) < 0.45


@pytest.fixture(scope="module")
def scores(truth: np.ndarray) -> Scores:
    """Five judges, of whom the last is astray under the second theory, though it knows the first."""
    rng = np.random.default_rng(1)
    values = draw(rng, PUBLISHED[[0, 1, 2, 0, 0]], truth)
    values[4, 1] = draw(rng, PUBLISHED[[0]], rng.random(N) < 0.45)[0]
    values[0, 0, 5] = np.nan
    return scores_of(values)


@pytest.fixture(scope="module")
def found(scores: Scores) -> Consensus:
    return fit_consensus(scores, **FEW)


def test_measures_are_scikit_learns_and_the_formulas() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.random(200), rng.random(200)
    assert auroc(p, q) == pytest.approx(roc_auc_score(q >= 0.5, p))
    assert auroc(np.round(p, 1), q) == pytest.approx(roc_auc_score(q >= 0.5, np.round(p, 1)))
    assert f1(p, q) == pytest.approx(f1_score(q >= 0.5, p >= 0.5))
    label = (q >= 0.5).astype(float)
    assert brier(p, label) == pytest.approx(brier_score_loss(label, p))

    def h(x: float) -> float:
        return -x * np.log(x) - (1 - x) * np.log(1 - x)

    each = [h((a + b) / 2) - (h(a) + h(b)) / 2 for a, b in zip(p, q, strict=True)]
    assert divergence(p, q) == pytest.approx(np.mean(each))
    assert divergence(np.array([1.0]), np.array([0.0])) == pytest.approx(np.log(2))
    assert divergence(p, p) == pytest.approx(0, abs=1e-12)
    # An offset moves F1 at one half, and not where as many are called as there are.
    assert f1_matched(p * 0.3, q) == pytest.approx(f1_matched(p, q))
    assert f1(p * 0.3, q) == 0.0 and f1_matched(q, q) == 1.0
    one_class = [measure(p, np.full(200, c)) for measure in (auroc, f1, f1_matched) for c in (0, 1)]
    assert np.isnan(one_class).all()
    # Ties are right as often as by chance, in whatever order they stand.
    flat, label = np.full(200, 0.7), np.sort(q)
    assert (
        f1_matched(flat, label) == f1_matched(flat, label[::-1]) == pytest.approx(np.mean(q >= 0.5))
    )
    coarse = np.round(p, 1)
    order = rng.permutation(200)
    assert f1_matched(coarse, q) == pytest.approx(f1_matched(coarse[order], q[order]))
    assert f1_matched(p, q) == pytest.approx(f1_score(q >= 0.5, p >= np.sort(p)[-(q >= 0.5).sum()]))


def test_the_consensus_is_published_and_everyone_is_held_against_the_others(
    found: Consensus, scores: Scores, truth: np.ndarray
) -> None:
    assert found.summary["supported"] and found.summary["bic"] < 0
    assert found.summary["missing_scores"] == 1 and found.summary["p"] == pytest.approx(0.05)
    assert found.items.height == 2 * N
    first = found.items.filter(theory="theory 0")
    assert first["item"].to_list() == list(scores.items)
    assert ((first["consensus"].to_numpy() > 0.5) == truth[0]).mean() > 0.9
    assert first["models"].to_list()[5] == 4 and first["models"].sum() == 5 * N - 1
    without = fit(scores.values[:4]).consensus
    rows = found.left_out.filter(model="e")
    # It begins with the whole's parameters, and ends as near as the tolerance lets it.
    np.testing.assert_allclose(rows["consensus"].to_numpy(), without.ravel(), atol=0.01)
    without = rows["consensus"].to_numpy().reshape(2, N)
    cell = found.cells.row(
        by_predicate=(pl.col("model") == "e") & (pl.col("theory") == "theory 1"), named=True
    )
    assert cell["auroc"] == pytest.approx(auroc(scores.values[4, 1], without[1]))
    assert cell["without"] == "e" and cell["n"] == N
    assert cell["auroc_low"] < cell["auroc"] < cell["auroc_high"]


def test_who_is_astray_under_a_theory_is_found_there(found: Consensus) -> None:
    assert found.models.row(by_predicate=pl.col("model") == "e", named=True)["d"] > 0.3
    away = found.cells.filter("deviates").select("model", "theory").rows()
    assert ("e", "theory 1") in away
    assert not {("a", "theory 0"), ("a", "theory 1"), ("b", "theory 0")} & set(away)
    assert any("e" in line and "theory 1" in line for line in sentences(found))


def test_no_cell_of_like_judges_is_named() -> None:
    rng = np.random.default_rng(12)
    values = draw(rng, PUBLISHED[[0, 0, 0, 0]], rng.random((3, N)) < 0.45)
    cells = fit_consensus(scores_of(values), **FEW).cells
    assert cells["js"].is_not_null().all() and cells["deviates"].sum() <= 1


def test_leave_one_out_keeps_the_labels_of_the_whole(truth: np.ndarray) -> None:
    """Without the best, a good and a reversed judge are left, who could call either label 1."""
    rng = np.random.default_rng(13)
    values = draw(rng, PUBLISHED[[0, 1, 0]], truth)
    values[2] = 1 - values[2]
    cells = fit_consensus(scores_of(values), **FEW).cells
    assert min(cells.filter(model="a")["auroc"]) > 0.7


def test_nothing_is_published_where_nothing_is_shared() -> None:
    rng = np.random.default_rng(2)
    values = rng.beta(2, 2, size=(4, 1, N))
    found = fit_consensus(scores_of(values), **FEW)
    assert not found.summary["supported"]
    assert found.items["consensus"].is_null().all() and found.left_out["consensus"].is_null().all()
    assert not found.cells["deviates"].any() and found.cells["f1"].is_null().all()
    assert any("No consensus" in line for line in sentences(found))


def test_two_classes_of_each_model_alone_are_no_consensus() -> None:
    """Each model's own scores have two humps: the likelihood likes two classes; shuffles tell."""
    rng = np.random.default_rng(3)
    values = np.array([draw(rng, HUMPS, rng.random((1, N)) < 0.5)[0] for _ in range(3)])
    found = fit_consensus(scores_of(values), **FEW)
    assert found.summary["p"] > 0.05 and not found.summary["supported"]


def test_scores_that_share_no_item_are_no_consensus() -> None:
    """Their places are theirs in the shuffles too, or the places alone would look like agreement."""
    rng = np.random.default_rng(14)
    values = np.full((3, 1, 3 * N), np.nan)
    for m in range(3):
        values[m, 0, m * N : (m + 1) * N] = draw(rng, HUMPS, rng.random(N) < 0.5)[0]
    summary = fit_consensus(scores_of(values), **FEW).summary
    assert summary["bic"] < 0 and not summary["supported"]
    assert summary["bic_shuffled"] == pytest.approx([summary["bic"]] * 2, rel=1e-3)


def test_a_family_that_agrees_with_itself_is_no_consensus() -> None:
    rng = np.random.default_rng(15)
    values = draw(rng, PUBLISHED[[0, 0, 0]], rng.random((1, N)) < 0.5)
    summary = fit_consensus(scores_of(values, ("k", "k", "k")), **FEW).summary
    assert "all models are of one family" in summary["why_not"] and summary["prior"] is None
    with_another = np.concatenate([values, rng.random((1, 1, N))])
    summary = fit_consensus(scores_of(with_another, ("k", "k", "k", "n")), **FEW).summary
    assert not summary["supported"], summary


def test_a_model_of_few_scores_does_not_end_the_resamples(scores: Scores) -> None:
    values = scores.values.copy()
    values[3] = np.nan
    values[3, 0, :2] = scores.values[3, 0, :2]
    models = fit_consensus(scores_of(values), **FEW).models
    row = models.row(by_predicate=pl.col("model") == "d", named=True)
    assert row["n"] == 2 and row["d"] is not None and row["d_low"] is None
    assert models.filter(model="a")["d_low"][0] is not None


def test_a_consensus_that_follows_one_model_alone_is_not_supported() -> None:
    """Two heaps of many scores: a curve of the least width, beside which nobody counts."""
    rng = np.random.default_rng(16)
    labels = rng.random((1, N)) < 0.5
    values = draw(rng, PUBLISHED[[1, 2, 3]], labels)
    own = np.where(rng.random((1, N)) < 0.75, labels, ~labels)
    heap = np.clip(own * 0.9 + rng.uniform(0, 0.1, (1, N)), 0, 1)
    summary = fit_consensus(scores_of(np.concatenate([values, heap[None]])), **FEW).summary
    assert not summary["supported"] and "follows d alone" in summary["why_not"]


def test_kin_are_left_out_together_where_two_families_are_left() -> None:
    rng = np.random.default_rng(4)
    values = draw(rng, PUBLISHED, rng.random((1, 50)) < 0.5)
    panel = scores_of(values, ("k", "k", "m", "n"))
    assert left_out(panel, 0) == [0, 1] and left_out(panel, 2) == [2]
    assert left_out(scores_of(values, ("k", "k", "k", "n")), 0) == [0]
    assert left_out(scores_of(values, ("k", "k", "m", "m")), 0) == [0]
    assert left_out(scores_of(values, ("k", "k", "k", "k")), 0) == []
    assert left_out(scores_of(values[:2]), 0) == []


def test_two_models_have_no_others_to_be_held_against() -> None:
    rng = np.random.default_rng(5)
    values = draw(rng, PUBLISHED[[0, 1]], rng.random((1, N)) < 0.5)
    found = fit_consensus(scores_of(values), **FEW)
    assert found.summary["supported"] and found.cells["f1"].is_null().all()


@pytest.mark.parametrize("seed", range(2))
def test_odd_judges_are_named(scores: Scores, seed: int) -> None:
    rng = np.random.default_rng([6, seed])
    more = [np.full((1, 2, N), 0.7), 1 - scores.values[[0]], rng.random((1, 2, N))]
    found = fit_consensus(scores_of(np.concatenate([scores.values[:3], *more])), **FEW)
    said = dict(found.models.select("model", "status").iter_rows())
    assert said["a"] == said["b"] == "ok"
    assert said["d"] == "says one score alone"
    assert said["e"].startswith("reversed") and said["f"] == "says little"
    assert any("reversed" in line for line in sentences(found))
    away = found.cells.filter("deviates")["model"].to_list()
    assert "d" not in away and "f" not in away and "e" in away


def test_people_stand_beside_it(found: Consensus, scores: Scores, truth: np.ndarray) -> None:
    rng = np.random.default_rng(7)
    share = np.where(truth[0], rng.beta(5, 3, N), rng.beta(3, 5, N))
    votes = {f"item {i}": float(share[i]) for i in range(0, N, 2)} | {"another": 0.5}
    table = against_votes(found, scores, votes, draws=50)
    row = table.row(
        by_predicate=(pl.col("source") == "c") & (pl.col("theory") == "theory 0"), named=True
    )
    at = np.arange(0, N, 2)
    assert row["auroc"] == pytest.approx(roc_auc_score(share[at] >= 0.5, scores.values[2, 0, at]))
    # On the same items: one model scored half of them.
    values = scores.values.copy()
    values[1, 0, : N // 2] = np.nan
    half = against_votes(found, scores_of(values), votes | {"item 200": 0.5}, draws=20)
    some = at[(at >= N // 2) & (at != 200)]
    consensus = found.items.filter(theory="theory 0")["consensus"].to_numpy()
    gain = half.row(
        by_predicate=(pl.col("source") == "b") & (pl.col("theory") == "theory 0"), named=True
    )["auroc_gain"]
    both = [roc_auc_score(share[some] >= 0.5, x[some]) for x in (consensus, scores.values[1, 0])]
    assert gain == pytest.approx(both[0] - both[1])
    assert row["n"] == len(at) and row["auroc_low"] < row["auroc"] < row["auroc_high"]
    ours = table.filter(source="consensus", theory="theory 0")["auroc"][0]
    assert row["auroc_gain"] == pytest.approx(ours - row["auroc"])
    assert table.filter(source="consensus")["auroc_gain"].to_list() == [0.0, 0.0]
    assert len(beside_votes(table)) == 2 + table.height
    with pytest.raises(DataError, match="no item has both"):
        against_votes(found, scores, {"nobody": 0.5})


def test_it_is_saved_and_made_the_same_again(
    found: Consensus, scores: Scores, tmp_path: Path
) -> None:
    found.save(tmp_path)
    assert json.loads((tmp_path / "consensus.json").read_text()) == found.summary
    for name in ("items", "models", "cells", "left_out"):
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(getattr(found, name))
    again = fit_consensus(scores, **FEW)
    assert again.summary == found.summary and again.models.equals(found.models)
    with pytest.raises(UsageError, match="too few draws"):
        fit_consensus(scores, draws=5)


def test_siblings_are_drawn_and_shuffled_together() -> None:
    """Items that are said nine times over tell no more than once, and agree by chance as often."""
    rng = np.random.default_rng(0)
    few = rng.random((1, 40)) < 0.5
    values = np.repeat(draw(rng, PUBLISHED[[0, 1, 2]], few), 9, axis=2)
    texts = tuple(f"it is the deed {i // 9} here, and {i}" for i in range(360))
    alone = fit_consensus(scores_of(values), **FEW)
    told = fit_consensus(replace(scores_of(values), texts=texts), **FEW)
    assert (alone.summary["stems"], told.summary["stems"]) == (360, 40)
    assert "of 40 beginnings" in sentences(told)[0] and "beginnings" not in sentences(alone)[0]
    wide, narrow = (
        float((one.models["d_high"] - one.models["d_low"]).mean()) for one in (told, alone)
    )
    assert wide > 1.7 * narrow
    # Where nothing is shared, chance alone goes farther among siblings.
    noise = np.repeat(rng.random((3, 1, 40)), 9, axis=2)
    one, many = (
        fit_consensus(replace(scores_of(noise), texts=some), **FEW).summary
        for some in (None, texts)
    )
    assert min(many["bic_shuffled"]) < min(one["bic_shuffled"]) - 50
    assert many["p"] > 0.05
    votes = {f"item {i}": float(few[0, i // 9]) for i in range(360)}
    scored = scores_of(values), replace(scores_of(values), texts=texts)
    widths = []
    for scores in scored:
        row = against_votes(alone, scores, votes, draws=200).row(0, named=True)
        widths.append(row["brier_high"] - row["brier_low"])
    assert widths[1] > 1.7 * widths[0]


def test_a_shuffle_keeps_siblings_and_kin_and_who_is_missing(scores: Scores) -> None:
    values = scores.values[:3].copy()
    values[:2, 0, :50] = np.nan
    some = scores_of(values, families=("kin", "kin", "c"))
    texts = tuple(f"a{i % 100} b c d e f {i}" for i in range(N))
    rng, stems = np.random.default_rng(0), replace(some, texts=texts).siblings()
    together = Together.of(stems)
    assert together.sizes.tolist() == [3] * 100
    found = _shuffled(some, stems, rng)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    where = {pair: i % 100 for i, pair in enumerate(map(tuple, values[:2, 1].T))}
    came = np.array(
        [[where[tuple(found[:2, 1, i])] for i in one] for one in together.places.reshape(100, 3)]
    )
    assert (came == came[:, :1]).all(), "siblings came from siblings, and kin together"
    assert sorted(came[:, 0]) == list(range(100)) and (came[:, 0] != np.arange(100)).mean() > 0.9
    for m in range(3):
        np.testing.assert_array_equal(np.sort(found[m, 1]), np.sort(values[m, 1]))


def test_siblings_of_any_number_agree_no_more_by_chance_than_they_may() -> None:
    """Models that know nothing, each with an opinion of its own on each text and its variants."""
    wrong = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 14, size=30)
        stem = np.repeat(np.arange(30), sizes)
        texts = tuple(f"it is deed {g} here now {i}" for i, g in enumerate(stem))
        own = rng.normal(0.5, 0.2, (3, 30))[:, stem] + rng.normal(0, 0.05, (3, len(stem)))
        values = np.clip(own, 0, 1)[:, None]
        found = fit_consensus(replace(scores_of(values), texts=texts), **FEW)
        wrong += found.summary["supported"]
    assert wrong <= 4  # at 0.05 more are seen in one run of 400


def test_a_template_is_no_kin_and_few_texts_are_too_few() -> None:
    alike = [f"Consider this hard case with care: deed {i} of him" for i in range(60)]
    assert len(set(siblings(alike).tolist())) == 60
    mixed = [*alike, *(f"The man at the door said hello {i}" for i in range(3)), None, None]
    assert len(set(siblings(mixed).tolist())) == 63
    twice = [
        f"Consider this hard case with care: deed {i // 2} of one man in town {i}"
        for i in range(60)
    ]
    assert len(set(siblings(twice).tolist())) == 30
    assert len(set(siblings(["the same words"] * 60).tolist())) == 1
    rng = np.random.default_rng(0)
    label = rng.random((1, 90)) < 0.5
    few = tuple(f"deed {i % 9} a b c d {i}" for i in range(90))
    found = fit_consensus(replace(scores_of(draw(rng, PUBLISHED[:3], label)), texts=few), **FEW)
    assert "variants of 9 texts" in found.summary["why_not"]


def test_a_model_whose_interval_holds_0_is_not_called_ok(scores: Scores) -> None:
    values = np.concatenate([scores.values, np.full_like(scores.values[:1], np.nan)])
    values[5, 0, :15] = np.random.default_rng(1).random(15)
    row = fit_consensus(scores_of(values), draws=40, shuffles=19).models.row(5, named=True)
    assert row["d_low"] is None or row["d_low"] < 0 < row["d_high"]
    assert abs(row["d"]) <= 0.3 or row["status"].startswith("can't be told")


def test_a_result_knows_its_scores_and_leaves_no_other_votes(
    scores: Scores, tmp_path: Path
) -> None:
    (tmp_path / "votes.parquet").write_bytes(b"old")
    found = fit_consensus(scores, **FEW)
    found.save(tmp_path)
    assert not (tmp_path / "votes.parquet").exists()
    about = json.loads((tmp_path / "consensus.json").read_text())
    assert about["scores"] == scores.digest() and about["environment"]["moralprobe"]
    values = scores.values.copy()
    values[0, 0, 0] += 1e-6
    assert replace(scores, values=values).digest() != scores.digest()


def test_fits_that_have_not_converged_are_counted(
    scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit_consensus(scores, **FEW).summary["not_converged"]["whole"] == 0
    monkeypatch.setattr(fitting, "fit", lambda *a, **k: replace(fit(*a, **k), converged=False))
    found = fit_consensus(scores, **FEW)
    counts = {"whole": 1, "shuffled": 19, "left out": 5, "resampled": 20}
    assert found.summary["not_converged"] == counts
    assert "hadn't converged: whole 1, shuffled 19" in "\n".join(sentences(found))


def test_groups_are_drawn_and_shuffled_whole() -> None:
    groups = np.array([3, 1, 3, 0, 1, 3, 2])
    one = Together.of(groups)
    assert sorted(one.places.tolist()) == list(range(7)) and one.sizes.tolist() == [1, 2, 1, 3]
    rng = np.random.default_rng(0)
    for _ in range(50):
        some = groups[one.drawn(rng)]
        sizes = {0: 1, 1: 2, 2: 1, 3: 3}
        counts = {g: int((some == g).sum()) for g in sizes}
        assert all(counts[g] % n == 0 for g, n in sizes.items())
        assert sum(counts[g] // n for g, n in sizes.items()) == 4
        came = one.shuffled(rng)
        for g in range(4):
            source = came[groups[one.places] == g]
            assert len(set(groups[source].tolist())) == 1
            assert len(set(source.tolist())) == min(sizes[g], sizes[int(groups[source[0]])])
        assert set(groups[came].tolist()) == {0, 1, 2, 3}
    few = Together.of(groups, groups != 3)
    assert sorted(few.places.tolist()) == [1, 3, 4, 6] and len(few) == 3
    single = Together.of(np.arange(30))
    np.testing.assert_array_equal(
        single.drawn(np.random.default_rng(1)), np.random.default_rng(1).integers(30, size=30)
    )
    nobody = Together.of(groups, np.zeros(7, bool))
    assert len(nobody.shuffled(rng)) == len(nobody) == 0
