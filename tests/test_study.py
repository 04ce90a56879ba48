"""A study against planted truths, against the formulas written naively, and against itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from moralprobe.activations.store import ActivationStore
from moralprobe.data import lexicon
from moralprobe.errors import DataError, IntegrityError, NumericError, UsageError
from moralprobe.foundations import AXES, POLES
from moralprobe.moral_vectors import MoralVectors, build_vectors
from moralprobe.options import POOLINGS_OF, parse_modes
from moralprobe.probing import ProbeOptions, options_of, probe
from moralprobe.study import TABLES, Study, finished
from moralprobe.table import COLUMNS, HEADLINES, MEASURES
from tests import planted

EMPTY, MORAL = 0, 1  # layers
DRAWS = 150
CATEGORIES = "separation,gradient"  # where the others would only take time


@pytest.fixture(scope="module")
def vectors() -> MoralVectors:
    return build_vectors("starter")


@pytest.fixture(scope="module")
def store(vectors: MoralVectors, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    texts, _ = planted.texts_of(vectors)
    states = {EMPTY: planted.grouped(texts, 1), MORAL: planted.moral(texts, vectors, 2)}
    return planted.store(tmp_path_factory.mktemp("planted") / "s", vectors, states)


@pytest.fixture(scope="module")
def study(store: ActivationStore) -> Study:
    return probe(store, draws=DRAWS)


def one(study: Study, **where: object) -> dict:
    rows = study.frame.filter(**where)
    assert rows.height == 1, (where, rows)
    return rows.row(0, named=True)


# -- the table ------------------------------------------------------------------------------------


def test_every_measure_listed_comes_out_and_no_other(study: Study) -> None:
    assert dict(study.frame.select("measure", "analysis").unique().iter_rows()) == MEASURES
    assert study.frame.schema == pl.Schema(COLUMNS)
    keys = ["mode", "pooling", "layer", "analysis", "measure", "category"]
    assert study.frame.select(keys).is_duplicated().sum() == 0


def test_every_mode_pooling_and_layer_is_there(study: Study, store: ActivationStore) -> None:
    for mode, poolings in POOLINGS_OF.items():
        for pooling in set(poolings) & set(store.poolings):
            rows = study.select(mode=mode, pooling=pooling, measure="opposed_cosine")
            assert set(rows["layer"]) == {EMPTY, MORAL}
            assert set(rows["category"]) == {*(axis.tag for axis in AXES), "mean"}


def test_no_number_stands_without_its_interval_null_and_n(study: Study) -> None:
    numbers = study.frame.filter(pl.col("value").is_finite())
    assert numbers.height > 200
    assert (numbers["n"] > 0).all()
    estimates = numbers.filter(pl.col("measure") != "clusters")  # which is a count
    assert estimates["ci_low"].is_finite().all()
    assert (estimates["ci_low"] <= estimates["value"]).all()
    assert (estimates["ci_high"] >= estimates["value"]).all()
    described = ["sink_ratio", "left_out_share", "coverage", "clusters", "participation_ratio"]
    with_null = numbers.filter(~pl.col("measure").is_in(described))
    assert with_null["null_low"].is_finite().all() and with_null["p"].is_between(0, 1).all()
    without_baseline = numbers.filter(pl.col("baseline").is_null())["measure"].unique()
    density = {"ari", "nmi", "homogeneity", "completeness", "v_measure", "ari_with_noise"}
    counted = {
        "sink_ratio",
        "left_out_share",
        "length_share",
        "length_offset",
        "coverage",
        "clusters",
    }
    assert set(without_baseline) == density | counted


def test_q_controls_false_discoveries_over_layers(vectors: MoralVectors, tmp_path: Path) -> None:
    texts, _ = planted.texts_of(vectors)
    states = {layer: planted.noise(texts, layer) for layer in range(5)}
    states[3] = planted.moral(texts, vectors, 3)
    found = probe(
        planted.store(tmp_path / "s", vectors, states, poolings=["mean_unit"]),
        analyses=CATEGORIES,
        mode="audited",
        draws=400,
    )
    for name in ("auroc", "spearman"):
        rows = found.select(measure=name, category="mean")
        p, m = rows["p"].to_numpy(), rows.height
        naive = [
            min(min(p[j] * m / (np.sum(p <= p[j])) for j in range(m) if p[j] >= x), 1) for x in p
        ]
        assert m == 5 and rows["q"].to_list() == pytest.approx(naive)
        assert (rows["q"] < 0.05).to_list() == [False, False, False, True, False]


def test_a_study_survives_saving(study: Study, tmp_path: Path) -> None:
    study.save(tmp_path)
    loaded = Study.load(tmp_path)
    assert loaded.frame.equals(study.frame) and loaded.meta == study.meta
    import json

    twin = json.loads((tmp_path / "measures.json").read_text())
    assert len(twin) == study.frame.height and set(twin[0]) == set(COLUMNS)
    assert loaded.baselines.equals(study.baselines) and loaded.draws.equals(study.draws)
    assert set(study.draws.select("measure", "category").iter_rows()) == set(HEADLINES)
    assert set(study.draws["boot"].list.len()) == {DRAWS}
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(DataError, match=r"can't read .* as a study.*moralprobe probe"):
        Study.load(tmp_path)


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_table_is_no_study_and_is_made_again(
    study: Study, store: ActivationStore, tmp_path: Path, name: str
) -> None:
    study.save(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="checksum doesn't match"):
        Study.load(tmp_path)
    request = {k: v for k, v in study.meta["request"].items() if k not in ("store", "environment")}
    assert finished(tmp_path, store, **request) is None


def test_a_study_of_another_version_is_made_again(
    study: Study, store: ActivationStore, tmp_path: Path
) -> None:
    older = replace(study, draws=study.draws.drop("excess"))
    older.save(tmp_path)
    with pytest.raises(DataError, match="its columns differ"):
        Study.load(tmp_path)
    request = {k: v for k, v in study.meta["request"].items() if k not in ("store", "environment")}
    assert finished(tmp_path, store, **request) is None


def test_a_save_that_is_cut_off_leaves_no_study_of_two_requests(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save(tmp_path)

    def cut(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moralprobe.study.write_bytes", cut)
    with pytest.raises(KeyboardInterrupt):
        Study(study.frame.head(3), study.meta).save(tmp_path)
    with pytest.raises(DataError, match="can't read"):
        Study.load(tmp_path)


# -- what the model is held against ---------------------------------------------------------------


def test_inputs_valence_and_words_are_measured_on_the_same_rows(
    vectors: MoralVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = planted.texts_of(vectors)
    moral, empty = planted.moral(texts, vectors, 3), planted.noise(texts, 4)
    held = planted.store(
        tmp_path / "s", vectors, {0: moral}, inputs={"embed": moral, "resid_pre.0": empty}
    )
    monkeypatch.setattr(lexicon, "missing", lambda: ())
    monkeypatch.setattr(lexicon, "valence", lambda texts: empty[:, 0])
    monkeypatch.setattr(lexicon, "log_frequency", lambda texts: empty[:, 1])
    twin = planted.store(tmp_path / "t", vectors, {0: empty})
    twin.key["model"]["id"] = "planted (untrained)"
    found = probe(held, analyses=CATEGORIES, mode="audited", draws=DRAWS, twin=twin)
    assert set(found.baselines["source"]) == {
        "bag of words",
        "static embeddings",
        "first block's input",
        "random weights",
        "valence lexicon",
    }
    where = {"measure": "auroc", "category": "mean", "mode": "audited"}
    aurocs = {row["source"]: row for row in found.baselines.filter(**where).iter_rows(named=True)}
    (own,) = found.select(**where, pooling="mean_unit").iter_rows(named=True)
    static = aurocs["static embeddings"]
    keys = ("value", "ci_low", "ci_high", "null_low", "null_high", "p", "n", "gain_low")
    assert [static[key] for key in keys] == [own[key] for key in keys], "the same states"
    for name in ("first block's input", "random weights", "valence lexicon"):
        assert aurocs[name]["ci_low"] < 0.55 < own["ci_low"] and aurocs[name]["p"] > 0.01, name
    ranked = found.baselines.filter(source="valence lexicon", measure="spearman")
    assert set(ranked["status"]) == {"not enough data (dimensions: 1, needed 2)"}
    assert own["baseline"] == aurocs["bag of words"]["value"]
    assert own["gain_low"] > 0 > aurocs["random weights"]["gain_high"]


def test_another_models_twin_is_refused(
    vectors: MoralVectors, store: ActivationStore, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no untrained twin.*its weights are trained"):
        probe(store, draws=DRAWS, twin=store)
    texts, _ = planted.texts_of(vectors)
    other = planted.store(tmp_path / "o", vectors, {0: planted.noise(texts, 1)})
    other.key["model"] |= {"id": "other (untrained)", "config": "another"}
    with pytest.raises(UsageError, match=r"they differ in .*model"):
        probe(store, draws=DRAWS, twin=other)


def test_finished_knows_its_own_request_only(
    study: Study, store: ActivationStore, tmp_path: Path
) -> None:
    asked: ProbeOptions = {
        "analyses": "all",
        "mode": "both",
        "quota": "li2026",
        "hdbscan": "paper",
        "everywhere": False,
        "draws": DRAWS,
        "seed": 42,
        "twin": None,
        "sentence": None,
    }
    assert finished(tmp_path, store, **options_of(**asked)) is None
    study.save(tmp_path)
    same = finished(tmp_path, store, **options_of(**asked))
    assert same is not None and same.frame.equals(study.frame)
    for change in (
        {"analyses": "gradient"},
        {"hdbscan": "all"},
        {"mode": "audited"},
        {"draws": 10},
        {"seed": 1},
        {"quota": "none"},
    ):
        assert finished(tmp_path, store, **options_of(**{**asked, **change})) is None


# -- what was planted -----------------------------------------------------------------------------


def test_planted_separation_is_found_in_its_layer_and_not_in_the_other(study: Study) -> None:
    for axis in AXES:
        where = {"mode": "audited", "pooling": "mean_unit", "category": axis.tag}
        there = one(study, **where, measure="auroc", layer=MORAL)
        assert there["ci_low"] > 0.85 and there["q"] < 0.05 and there["value"] > there["null_high"]
        cosine = one(study, **where, measure="opposed_cosine", layer=MORAL)
        assert cosine["ci_high"] < -0.8 and cosine["q"] < 0.05
        assert one(study, **where, measure="crossnobis", layer=MORAL)["ci_low"] > 0
        nothing = one(study, **where, measure="auroc", layer=EMPTY)
        assert nothing["ci_low"] < 0.5 < nothing["ci_high"]
    for measure in ("auroc", "crossnobis", "opposed_cosine"):
        where = {"mode": "audited", "pooling": "mean_unit", "category": "mean", "layer": EMPTY}
        mean = one(study, **where, measure=measure)
        assert mean["null_low"] < mean["value"] < mean["null_high"] and mean["q"] > 0.05


def test_planted_gradient_is_found_in_its_layer_and_not_in_the_other(study: Study) -> None:
    for name in ("spearman", "spearman_given_length"):
        for mode, pooling in (("audited", "mean_unit"), ("li2026", "mean")):
            where = {"mode": mode, "pooling": pooling, "category": "mean", "measure": name}
            there = one(study, **where, layer=MORAL)
            assert there["ci_low"] > 0.5 and there["q"] < 0.05
            nothing = one(study, **where, layer=EMPTY)
            assert nothing["null_low"] < nothing["value"] < nothing["null_high"]
            assert nothing["q"] > 0.05


def test_states_given_to_other_texts_lose_what_was_planted(
    vectors: MoralVectors, tmp_path: Path
) -> None:
    texts, _ = planted.texts_of(vectors)
    X = planted.moral(texts, vectors, 2)
    X = X[np.random.default_rng(0).permutation(len(X))]
    found = probe(
        planted.store(tmp_path / "s", vectors, {0: X}),
        analyses=CATEGORIES,
        mode="audited",
        draws=DRAWS,
    )
    for measure in ("auroc", "crossnobis", "spearman", "opposed_cosine"):
        mean = one(found, pooling="mean_unit", category="mean", measure=measure)
        assert mean["null_low"] < mean["value"] < mean["null_high"]


def test_a_planted_sink_is_named_in_its_layer_and_nowhere_else(
    vectors: MoralVectors, tmp_path: Path
) -> None:
    from moralprobe.report.words import CONFOUND, confounded_layers, findings

    texts, lengths = planted.texts_of(vectors)
    sink = np.zeros(planted.D, np.float32)
    sink[0] = 1000
    clean = planted.moral(texts, vectors, 2)
    # A mean over tokens of which one is huge: the sink's share is one over the length.
    pooled = clean + sink / lengths[:, None].astype(np.float32)
    states = {
        0: dict.fromkeys(planted.POOLINGS, clean),
        1: {**dict.fromkeys(planted.POOLINGS, clean), "mean": pooled},
    }
    found = probe(planted.store(tmp_path / "s", vectors, states), analyses=CATEGORIES, draws=DRAWS)
    assert confounded_layers(found, "mean") == [1] and confounded_layers(found, "last") == []
    assert [CONFOUND in s for s in findings(found)].count(True) == 1
    assert findings(found)[0].startswith("In layer 1 the li2026 numbers under mean pooling")
    where = {"category": "mean_abs", "measure": "length_correlation", "mode": "li2026"}
    assert one(found, **where, pooling="mean", layer=1)["value"] > 0.7
    assert one(found, **where, pooling="mean", layer=0)["value"] < 0.2

    same = np.full(len(texts), 9)
    level = {1: clean + sink / 9}
    found = probe(
        planted.store(tmp_path / "t", vectors, level, lengths=same), analyses=CATEGORIES, draws=20
    )
    assert not any(CONFOUND in s for s in findings(found))
    share = one(found, measure="length_share", mode="li2026", pooling="mean")
    assert share["status"] == "not enough data (lengths of text: 1, needed 2)"


def test_words_that_give_the_answer_away_show_in_the_baseline(
    vectors: MoralVectors, tmp_path: Path
) -> None:
    told = vectors.frame.with_columns(action=pl.format("{} {}", "action", "polarity"))
    given_away = MoralVectors(told, vectors.meta)
    texts, _ = planted.texts_of(given_away)
    for name, table in (("told", given_away), ("plain", vectors)):
        texts, _ = planted.texts_of(table)
        found = probe(
            planted.store(tmp_path / name, table, {0: planted.noise(texts, 0)}),
            analyses=CATEGORIES,
            mode="audited",
            draws=20,
        )
        row = one(found, pooling="mean_unit", category="mean", measure="auroc")
        assert row["baseline_name"] == "bag of words"
        assert row["baseline"] > 0.95 if name == "told" else row["baseline"] < 0.8


# -- the formulas, written naively ------------------------------------------------------------------


def naive_pairs(
    store: ActivationStore, layer: int, pooling: str
) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    frame = store.vectors().frame
    X = store.layer(pooling, layer).astype(np.float64)
    place = {text: i for i, text in enumerate(store.texts["text"])}
    X = X[[place[t] for t in frame["action"]]]
    return frame, X - X.mean(0)


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("layer", [EMPTY, MORAL])
def test_li2026_equals_the_formulas_written_naively(store: ActivationStore, layer: int) -> None:
    found = probe(store, analyses=CATEGORIES, mode="li2026", quota="none", draws=10)
    frame, X = naive_pairs(store, layer, "mean")
    where = {"mode": "li2026", "pooling": "mean", "layer": layer}
    centres, opposed, rhos, everything = {}, [], [], []
    for axis in AXES:
        for pole in (axis.virtue, axis.vice):
            prototypes = ((frame["category"] == pole) & (frame["score"] == 1.0)).fill_null(False)
            centres[pole] = X[prototypes.to_numpy()].mean(0)
        opposed.append(cosine(centres[axis.virtue], centres[axis.vice]))
        got = one(found, **where, measure="opposed_cosine", category=axis.tag)
        assert got["value"] == pytest.approx(opposed[-1], abs=1e-4)
        for pole in (axis.virtue, axis.vice):
            rows = [
                i
                for i, r in enumerate(frame.iter_rows(named=True))
                if r["axis"] == axis.tag and (r["category"] == pole or r["polarity"] == "neutral")
            ]
            score = [frame["score"][i] if frame["category"][i] == pole else 0.0 for i in rows]
            like = [cosine(X[i], centres[pole]) for i in rows]
            everything += zip(like, score, strict=True)
            rhos.append(stats.spearmanr(like, score)[0])
            got = one(found, **where, measure="spearman", category=pole)
            assert got["value"] == pytest.approx(rhos[-1], abs=1e-3)
            r = stats.pearsonr(like, score)
            got = one(found, **where, measure="pearson", category=pole)
            assert got["value"] == pytest.approx(r[0], abs=1e-4)
    mean = one(found, **where, measure="opposed_cosine", category="mean")
    assert mean["value"] == pytest.approx(np.mean(opposed), abs=1e-4)
    mean = one(found, **where, measure="spearman", category="mean")
    assert mean["value"] == pytest.approx(np.mean(rhos), abs=1e-3)
    overall = stats.spearmanr(*zip(*everything, strict=True))[0]
    got = one(found, **where, measure="spearman", category="overall")
    assert got["value"] == pytest.approx(overall, abs=1e-3)
    all45 = [cosine(centres[a], centres[b]) for i, a in enumerate(POLES) for b in POLES[:i]]
    for name, value in (("mean", np.mean), ("sd", np.std), ("min", np.min), ("max", np.max)):
        got = one(found, **where, measure=f"centre_cosine_{name}", category="all")
        assert got["value"] == pytest.approx(value(all45), abs=1e-4)


@pytest.mark.parametrize("layer", [EMPTY, MORAL])
def test_audited_gradient_leaves_a_texts_own_prototypes_out(
    store: ActivationStore, layer: int
) -> None:
    found = probe(store, analyses=CATEGORIES, mode="audited", draws=10)
    frame, X = naive_pairs(store, layer, "mean_unit")
    lengths = dict(store.texts.select("text", "n_tokens").iter_rows())
    where = {"mode": "audited", "pooling": "mean_unit", "layer": layer}
    for pole in POLES:
        rows = np.flatnonzero((frame["category"] == pole).fill_null(False).to_numpy())
        group, score = frame["group"].to_numpy()[rows], frame["score"].to_numpy()[rows]
        like = []
        for i in rows:
            others = rows[(score == 1.0) & (group != frame["group"][int(i)])]
            like.append(cosine(X[i], X[others].mean(0)))
        tokens = [lengths[frame["action"][int(i)]] for i in rows]
        rho = stats.spearmanr(like, score)[0]
        got = one(found, **where, measure="spearman", category=pole)
        assert got["value"] == pytest.approx(rho, abs=1e-3)
        # Partial correlation: what is left of the ranks after regressing each on the length's.
        ranks = [stats.rankdata(v) for v in (like, score, tokens)]
        left = [v - np.polyval(np.polyfit(ranks[2], v, 1), ranks[2]) for v in ranks[:2]]
        got = one(found, **where, measure="spearman_given_length", category=pole)
        assert got["value"] == pytest.approx(stats.pearsonr(*left)[0], abs=2e-3)
        got = one(found, **where, measure="length_correlation", category=pole)
        assert got["value"] == pytest.approx(stats.spearmanr(like, tokens)[0], abs=1e-3)


def test_sink_ratio_and_length_share_equal_their_definitions(
    study: Study, store: ActivationStore
) -> None:
    for mode in POOLINGS_OF:
        rows = study.select(measure="sink_ratio", mode=mode)
        assert rows["value"].to_list() == pytest.approx([10.0, 10.0])
    X = store.layer("mean_unit", MORAL).astype(np.float64)
    inverse = 1 / store.texts["n_tokens"].to_numpy()
    fitted = [np.polyval(np.polyfit(inverse, column, 1), inverse) - column.mean() for column in X.T]
    share = np.square(fitted).sum() / np.square(X - X.mean(0)).sum()
    got = one(study, measure="length_share", mode="audited", pooling="mean_unit", layer=MORAL)
    assert got["value"] == pytest.approx(share, rel=1e-3)


# -- what must change nothing, and what must ------------------------------------------------------


def test_the_same_seed_gives_the_same_study_and_another_seed_other_draws(
    study: Study, store: ActivationStore
) -> None:
    assert probe(store, draws=DRAWS).frame.equals(study.frame)
    other = probe(store, analyses=CATEGORIES, draws=DRAWS, seed=7)
    where = {"mode": "audited", "measure": "opposed_cosine", "category": "mean"}
    a, b = (s.select(**where, pooling="mean_unit") for s in (study, other))
    assert a["value"].to_list() == b["value"].to_list()
    assert a["ci_low"].to_list() != b["ci_low"].to_list()


def test_the_order_of_the_rows_changes_nothing(
    store: ActivationStore, vectors: MoralVectors, study: Study, tmp_path: Path
) -> None:
    shuffled = MoralVectors(vectors.frame.sample(fraction=1, shuffle=True, seed=5), vectors.meta)
    texts, _ = planted.texts_of(shuffled)
    states = {EMPTY: planted.grouped(texts, 1), MORAL: store.layer("mean", MORAL)}
    found = probe(planted.store(tmp_path / "s", shuffled, states), draws=DRAWS)
    assert found.frame.equals(study.frame)


# Those that aren't: similarity takes the mean over dimensions out, read-outs scale each dimension.
TURNING = {"rsa", "rsa_unique"} | {
    name for name, analysis in MEASURES.items() if analysis == "recoverability"
}


def test_a_rotation_of_the_hidden_space_changes_no_measure_that_it_should_not(
    store: ActivationStore, vectors: MoralVectors, study: Study, tmp_path: Path
) -> None:
    Q = np.linalg.qr(np.random.default_rng(3).standard_normal((planted.D, planted.D)))[0]
    states = {MORAL: (store.layer("mean", MORAL) @ Q).astype(np.float32)}
    turned = probe(
        planted.store(tmp_path / "s", vectors, states),
        analyses="separation,gradient,structure",
        draws=DRAWS,
    )
    keys = ["mode", "pooling", "measure", "category"]
    both = turned.frame.filter(layer=MORAL).join(
        study.frame.filter(layer=MORAL), on=keys, suffix="_before"
    )
    both = both.filter(~pl.col("measure").is_in(list(TURNING)))
    assert both["measure"].n_unique() > 20
    for name in ("value", "ci_low", "ci_high", "null_low", "null_high"):
        now, before = both[name].to_numpy(), both[f"{name}_before"].to_numpy()
        np.testing.assert_allclose(now, before, rtol=1e-3, atol=2e-3, err_msg=name)


def test_one_layer_gives_what_it_gives_among_many_except_q(
    store: ActivationStore, vectors: MoralVectors, study: Study, tmp_path: Path
) -> None:
    states = {MORAL: store.layer("mean", MORAL)}
    found = probe(planted.store(tmp_path / "s", vectors, states), draws=DRAWS)
    among = study.frame.filter((pl.col("layer") == MORAL) | pl.col("layer").is_null())
    assert found.frame.drop("q").equals(among.drop("q"))


# -- too little, or not there ---------------------------------------------------------------------


def test_fewer_than_five_prototypes_are_not_enough_and_the_rest_stands(
    vectors: MoralVectors, tmp_path: Path
) -> None:
    purity = vectors.frame.with_row_index().filter(
        (pl.col("category") == POLES[8]) & (pl.col("score") == 1)
    )
    kept = vectors.frame.with_row_index().join(purity[4:], on="index", how="anti").drop("index")
    few = MoralVectors(kept, vectors.meta)
    texts, _ = planted.texts_of(few)
    found = probe(
        planted.store(tmp_path / "s", few, {0: planted.moral(texts, few, 1)}),
        analyses=CATEGORIES,
        draws=20,
    )
    status = "not enough data (prototypes: 4, needed 5)"
    for mode, pooling in (("li2026", "mean"), ("audited", "mean_unit")):
        where = {"mode": mode, "pooling": pooling}
        for measure, category in (
            ("opposed_cosine", AXES[4].tag),
            ("spearman", POLES[8]),
            ("spearman_given_length", POLES[8]),
            ("length_correlation", POLES[8]),
        ):
            row = one(found, **where, measure=measure, category=category)
            assert row["status"] == status and row["n"] == 4
            assert np.isnan([row["value"], row["ci_low"], row["null_low"], row["p"]]).all()
        rest = [one(found, **where, measure="opposed_cosine", category=a.tag) for a in AXES[:4]]
        mean = one(found, **where, measure="opposed_cosine", category="mean")
        assert mean["value"] == pytest.approx(np.mean([row["value"] for row in rest]))
        assert np.isfinite(one(found, **where, measure="spearman", category=POLES[9])["value"])
    moments = found.frame.filter(pl.col("measure").str.starts_with("centre_cosine"))
    assert set(moments["status"]) == {status}
    # Prototypes are only needed where there is a centre of prototypes.
    row = one(found, mode="audited", pooling="mean_unit", measure="auroc", category=AXES[4].tag)
    assert np.isfinite(row["value"])


def test_too_few_texts_of_a_pole_have_no_held_out_number(
    vectors: MoralVectors, tmp_path: Path
) -> None:
    virtue = (pl.col("axis") == AXES[0].tag) & (pl.col("polarity") == "virtue")
    kept = pl.concat([vectors.frame.filter(~virtue), vectors.frame.filter(virtue).head(9)])
    few = MoralVectors(kept, vectors.meta)
    texts, _ = planted.texts_of(few)
    found = probe(
        planted.store(tmp_path / "s", few, {0: planted.noise(texts, 1)}),
        analyses=CATEGORIES,
        mode="audited",
        draws=20,
    )
    for measure in ("auroc", "crossnobis"):
        row = one(found, pooling="mean_unit", measure=measure, category=AXES[0].tag)
        assert row["status"] == "not enough data (texts of a pole: 9, needed 10)"


def test_without_repeated_annotation_there_is_no_ceiling_and_it_is_said(study: Study) -> None:
    ceiled = ["spearman", "pearson", "spearman_given_length", "auroc", "r2", "r2_over_ceiling"]
    ceiled.append("spearman_given_surface")
    enough = study.frame.filter(~pl.col("status").str.starts_with("not enough data"))
    has = pl.col("measure").is_in(ceiled) & ~pl.col("category").is_in(["judgment", "agreement"])
    rows = enough.filter(has)
    assert set(rows["status"]) == {"one annotator"} and rows["ceiling"].is_null().all()
    assert rows.filter(measure="r2_over_ceiling")["value"].is_nan().all()
    assert set(enough.filter(~has)["status"]) == {"ok"}


def test_a_planted_reliability_is_the_ceiling(
    vectors: MoralVectors, store: ActivationStore, tmp_path: Path
) -> None:
    from moralprobe.geometry.reliability import auroc_ceiling

    names = ["all", *(axis.tag for axis in AXES)]
    iccs = dict(zip(names, (0.5, 0.3, 0.4, 0.5, 0.6, 0.81), strict=True))
    example = {"icc": 0.0, "alpha": 0.0, "items": 40, "ratings": 90, "ceiling": 0.0}
    from moralprobe.geometry.reliability import Reliability

    example = dict.fromkeys(Reliability.__dataclass_fields__, 0)
    reliability = {name: {**example, "icc": icc} for name, icc in iccs.items()}
    rated = MoralVectors(vectors.frame, {**vectors.meta, "reliability": reliability})
    states = {0: store.layer("mean", MORAL)}
    found = probe(planted.store(tmp_path / "s", rated, states), draws=20)
    where = {"mode": "audited", "pooling": "mean_unit"}
    for axis in AXES:
        row = one(found, **where, measure="auroc", category=axis.tag)
        assert row["ceiling"] == pytest.approx(auroc_ceiling(iccs[axis.tag]))
        for pole in (axis.virtue, axis.vice):
            row = one(found, **where, measure="spearman", category=pole)
            assert row["ceiling"] == pytest.approx(np.sqrt(iccs[axis.tag]))
            assert row["status"] == "ok"
    row = one(found, **where, measure="spearman", category="mean")
    assert row["ceiling"] == pytest.approx(np.sqrt(0.5))
    assert one(found, **where, measure="opposed_cosine", category="mean")["ceiling"] is None


@pytest.mark.parametrize(
    ("mode", "poolings"), [("li2026", ["mean_unit"]), ("audited", ["mean"]), ("both", ["mean"])]
)
def test_a_mode_without_a_pooling_to_read_is_refused(
    vectors: MoralVectors, tmp_path: Path, mode: str, poolings: list[str]
) -> None:
    texts, _ = planted.texts_of(vectors)
    made = planted.store(tmp_path / "s", vectors, {0: planted.noise(texts, 0)}, poolings=poolings)
    with pytest.raises(UsageError, match=r"has nothing to read.*the store holds.*--pooling"):
        probe(made, mode=mode)


def test_unknown_modes_and_quotas_are_refused_with_the_nearest(store: ActivationStore) -> None:
    assert parse_modes("both") == ("li2026", "audited")
    with pytest.raises(UsageError, match=r"unknown mode 'audit'.*audited"):
        probe(store, mode="audit")
    with pytest.raises(UsageError, match="unknown quota"):
        probe(store, quota="half")


def test_states_that_are_no_numbers_are_refused(vectors: MoralVectors, tmp_path: Path) -> None:
    texts, _ = planted.texts_of(vectors)
    X = planted.noise(texts, 0)
    X[3, 5] = np.inf
    with pytest.raises(NumericError, match=r"layer 0 holds NaN or infinity.*verify"):
        probe(planted.store(tmp_path / "s", vectors, {0: X}), draws=10)


def test_a_study_says_what_it_was_made_from(study: Study, store: ActivationStore) -> None:
    meta = study.meta
    assert meta["modes"] == {
        "li2026": ["mean", "last"],
        "audited": ["mean_unit", "mean_no_sink", "last"],
    }
    assert meta["store"] == store.key and meta["vectors"]["source"]["name"] == "starter"
    assert meta["pairs"]["audited"] == store.vectors().frame.height
    assert meta["request"]["seed"] == 42 and meta["sample"]["quota"] == "li2026"
    assert replace(study, meta={}).frame is study.frame


def test_an_unknown_quota_is_refused_for_a_sample_too(
    vectors: MoralVectors, tmp_path: Path
) -> None:
    drawn = vectors.sample(seed=1)
    texts, _ = planted.texts_of(drawn)
    held = planted.store(tmp_path / "s", drawn, {0: planted.noise(texts, 1)})
    with pytest.raises(UsageError, match=r"unknown quota .li2O26.*did you mean li2026"):
        probe(held, quota="li2O26", draws=DRAWS)
