"""The control against planted typicality, against shuffles and confounds, against naive formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from moralprobe import control as module
from moralprobe.activations.store import ActivationStore
from moralprobe.control import (
    NO_CEILING,
    NO_FREQUENCY,
    beside,
    is_moral,
    options_of,
    probe_control,
    prototypes_of,
)
from moralprobe.data import lexicon
from moralprobe.data.ratings import Ratings, load_ratings
from moralprobe.errors import DataError, UsageError
from moralprobe.moral_vectors import build_vectors
from moralprobe.probing import probe
from moralprobe.report.control import beside_sentences, control_findings
from moralprobe.report.words import CONFOUND, confounded_layers
from moralprobe.study import Study, finished
from moralprobe.table import COLUMNS, MEASURES
from tests import planted
from tests.conftest import shared_file

KINDS = ("bird", "fruit", "tool")
EACH = 40
EMPTY, TYPICAL = 0, 1  # layers
DRAWS = 150
States = NDArray[np.float32]


@pytest.fixture(autouse=True)
def without_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed here shall not decide what these tests see."""
    monkeypatch.setattr(lexicon, "find_spec", lambda name: None)


def table(folder: Path, rating: Callable[[int], float] = lambda i: 1 + 6 * i / EACH) -> Ratings:
    """Three categories of forty items; the first is the most typical."""
    lines = [f"{kind} {i},{kind},{rating(i):.3f}" for kind in KINDS for i in range(EACH)]
    path = folder / "things.csv"
    path.write_text("\n".join(["item,category,rating", *lines]))
    return load_ratings(path, scale="1:7")


def typical(ratings: Ratings, seed: int = 0) -> States:
    """States that lie the further along their category's direction the more typical they are."""
    rng = np.random.default_rng(seed)
    texts, _ = planted.texts_of(ratings)
    place = {text: i for i, text in enumerate(texts)}
    names = ratings.frame["category"].unique().sort().to_list()
    directions = np.linalg.qr(rng.standard_normal((planted.D, len(names))))[0].T
    X = 0.5 * rng.standard_normal((len(texts), planted.D))
    for item, category, score in ratings.frame.select("action", "category", "score").iter_rows():
        X[place[item]] += 3 * score * directions[names.index(category)]
    return X.astype(np.float32)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Ratings:
    return table(tmp_path_factory.mktemp("ratings"))


@pytest.fixture(scope="module")
def store(ratings: Ratings, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    texts, _ = planted.texts_of(ratings)
    states = {EMPTY: planted.noise(texts, 1), TYPICAL: typical(ratings)}
    return planted.store(tmp_path_factory.mktemp("planted") / "s", ratings, states)


@pytest.fixture(scope="module")
def study(store: ActivationStore) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexicon, "find_spec", lambda name: None)
        return probe_control(store, draws=DRAWS)


def one(study: Study, **where: object) -> dict:
    rows = study.frame.filter(**where)
    assert rows.height == 1, (where, rows)
    return rows.row(0, named=True)


# -- the table ------------------------------------------------------------------------------------


def test_it_is_a_long_table_that_can_stand_beside_a_moral_one(study: Study, tmp_path: Path) -> None:
    assert study.frame.schema == pl.Schema(COLUMNS) and set(study.frame["analysis"]) == {"control"}
    assert set(study.frame["measure"]) <= {*MEASURES, *module.FREQUENCY_MEASURES.values()}
    keys = ["mode", "pooling", "layer", "analysis", "measure", "category"]
    assert study.frame.select(keys).is_duplicated().sum() == 0
    study.save(tmp_path)
    loaded = Study.load(tmp_path)
    assert loaded.frame.equals(study.frame) and loaded.meta == study.meta


def test_no_number_stands_without_its_interval_null_n_and_baseline(study: Study) -> None:
    numbers = study.frame.filter(pl.col("value").is_finite())
    assert numbers.height > 100 and (numbers["n"] > 0).all()
    assert (numbers["ci_low"] <= numbers["value"]).all()
    assert (numbers["ci_high"] >= numbers["value"]).all()
    assert (
        numbers.filter(~pl.col("measure").is_in(["sink_ratio", "left_out_share"]))["null_low"]
        .is_finite()
        .all()
    )
    bare = ["sink_ratio", "left_out_share", "length_share", "length_offset"]
    with_words = numbers.filter(~pl.col("measure").is_in(bare))
    assert set(with_words["baseline_name"]) == {"character n-grams"}
    assert with_words["baseline"].is_finite().all()
    assert numbers.filter(pl.col("measure").is_in(bare))["baseline"].is_null().all()
    rho = numbers.filter(pl.col("measure").is_in(["spearman", "spearman_given_length"]))
    assert set(rho["status"]) == {NO_CEILING} and rho["ceiling"].is_null().all()


def test_the_order_of_the_table_changes_nothing(
    store: ActivationStore, ratings: Ratings, study: Study, tmp_path: Path
) -> None:
    shuffled = Ratings(ratings.frame.sample(fraction=1, shuffle=True, seed=5), ratings.meta)
    states = {layer: store.layer("mean", layer) for layer in store.layers}
    found = probe_control(planted.store(tmp_path / "s", shuffled, states), draws=DRAWS)
    assert found.frame.equals(study.frame)


def test_a_finished_control_is_known_again_and_word_frequency_makes_another(
    study: Study, store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save(tmp_path)
    asked = {"mode": "both", "draws": DRAWS, "seed": 42}
    assert finished(tmp_path, store, **options_of(**asked)) is not None
    assert finished(tmp_path, store, **options_of(**{**asked, "seed": 1})) is None
    monkeypatch.setattr(lexicon, "versions", lambda: {"wordfreq": "3.1.1"})
    assert finished(tmp_path, store, **options_of(**asked)) is None


# -- what was planted -----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "pooling"), [("audited", "mean_unit"), ("li2026", "mean")])
def test_planted_typicality_is_found_in_its_layer_and_not_in_the_other(
    study: Study, mode: str, pooling: str
) -> None:
    for name in ("spearman", "spearman_given_length"):
        where = {"mode": mode, "pooling": pooling, "measure": name}
        for category in (*KINDS, "mean"):
            there = one(study, **where, category=category, layer=TYPICAL)
            assert there["ci_low"] > (0.5 if category == "mean" else 0.2) and there["q"] < 0.05
        nothing = one(study, **where, category="mean", layer=EMPTY)
        assert nothing["null_low"] < nothing["value"] < nothing["null_high"]
        assert nothing["q"] > 0.05


def test_states_given_to_other_items_lose_it(ratings: Ratings, tmp_path: Path) -> None:
    X = typical(ratings)
    X = X[np.random.default_rng(0).permutation(len(X))]
    found = probe_control(planted.store(tmp_path / "s", ratings, {0: X}), draws=DRAWS)
    for mode, pooling in (("audited", "mean_unit"), ("li2026", "mean")):
        where = {"mode": mode, "pooling": pooling, "measure": "spearman", "category": "mean"}
        mean = one(found, **where)
        assert mean["null_low"] < mean["value"] < mean["null_high"]


def test_an_order_that_is_of_length_alone_is_caught(ratings: Ratings, tmp_path: Path) -> None:
    texts, _ = planted.texts_of(ratings)
    score = dict(ratings.frame.select("action", "score").iter_rows())
    rng = np.random.default_rng(3)
    # The less typical, the more tokens; and a mean over tokens of which one is huge.
    lengths = np.array([round(4 + 8 * (1 - score[t]) + rng.uniform(-1.5, 1.5)) for t in texts])
    sink = np.eye(planted.D, dtype=np.float32)[0] * 300
    pooled = planted.noise(texts, 4) + (sink / lengths[:, None]).astype(np.float32)
    found = probe_control(
        planted.store(tmp_path / "s", ratings, {0: pooled}, lengths=lengths), draws=400
    )
    where = {"mode": "audited", "pooling": "mean_unit", "category": "mean"}
    assert one(found, **where, measure="spearman")["value"] > 0.6
    # Whoever looks at that number alone is fooled. Its null isn't, nor is the partial correlation.
    assert one(found, **where, measure="spearman")["null_high"] > 0.5
    given = one(found, **where, measure="spearman_given_length")
    # Nothing is left: three standard errors of a mean correlation over 120 items are 0.27.
    assert given["value"] < given["null_high"] and abs(given["value"]) < 0.27
    assert confounded_layers(found, "mean") == [0]
    assert CONFOUND in control_findings(found)[0]


def test_an_order_that_is_of_word_frequency_alone_is_caught(
    ratings: Ratings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = planted.texts_of(ratings)
    score = dict(ratings.frame.select("action", "score").iter_rows())
    common = {t: s + n for (t, s), n in zip(score.items(), noises(len(score)), strict=True)}
    monkeypatch.setattr(lexicon, "missing", lambda: ())
    monkeypatch.setattr(
        lexicon, "log_frequency", lambda items: np.array([common[t] for t in items])
    )
    X = 0.2 * planted.noise(texts, 5)
    X[:, 0] += [4 * common[t] for t in texts]
    found = probe_control(planted.store(tmp_path / "s", ratings, {0: X}), draws=DRAWS)
    where = {"mode": "audited", "pooling": "mean_unit", "category": "mean"}
    assert one(found, **where, measure="spearman")["ci_low"] > 0.5
    assert one(found, **where, measure="spearman_given_length")["ci_low"] > 0.5
    given = one(found, **where, measure="spearman_given_frequency")
    assert abs(given["value"]) < 0.15 and given["n"] == len(texts)
    where["category"] = "mean_abs"
    assert one(found, **where, measure="frequency_correlation")["value"] > 0.9
    (sentence,) = [s for s in control_findings(found) if "frequency" in s]
    assert f"it is {given['value']:.2f} [" in sentence


def noises(n: int) -> NDArray[np.float64]:
    return np.random.default_rng(6).normal(0, 0.2, n)


def test_missing_frequencies_are_said_and_cost_nothing_else(study: Study) -> None:
    rows = study.frame.filter(pl.col("measure").str.contains("frequency"))
    assert set(rows["status"]) == {NO_FREQUENCY} and rows["value"].is_nan().all()
    assert rows.height == 2 * 2  # measures, modes
    assert any("wordfreq isn't installed" in sentence for sentence in control_findings(study))


def test_spelling_that_gives_the_answer_away_shows_in_the_baseline(tmp_path: Path) -> None:
    syllables = ["ba", "co", "di", "fu"]
    found = {}
    for name, told in (("told", True), ("plain", False)):
        rng = np.random.default_rng(0)
        lines = [
            f"{'very' * (4 - i // 10) if told else ''}{''.join(rng.choice(syllables, 5))}{i},x,{i}"
            for i in range(EACH)
        ]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["item,category,rating", *lines]))
        made = load_ratings(path, scale="0:40")
        texts, _ = planted.texts_of(made)
        states = {0: planted.noise(texts, 0)}
        study = probe_control(planted.store(tmp_path / name, made, states), draws=20)
        where = {"mode": "audited", "pooling": "mean_unit", "measure": "spearman"}
        found[name] = one(study, **where, category="x")["baseline"]
    assert found["told"] > 0.5 > 0.4 > found["plain"]


# -- the formulas, written naively ------------------------------------------------------------------


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("layer", [EMPTY, TYPICAL])
def test_it_equals_the_formulas_written_naively(
    study: Study, store: ActivationStore, ratings: Ratings, layer: int
) -> None:
    X = store.layer("mean", layer).astype(np.float64)
    X -= X.mean(0)
    state = dict(zip(store.texts["text"].to_list(), X, strict=True))
    tokens = dict(store.texts.select("text", "n_tokens").iter_rows())
    for kind in KINDS:
        part = ratings.frame.filter(category=kind)
        items, rating = part["action"].to_list(), part["rating"].to_list()
        best = [item for _, item in sorted(zip(rating, items, strict=True))[:5]]
        lengths = [tokens[item] for item in items]
        for mode, pooling in (("li2026", "mean"), ("audited", "mean_unit")):
            like = []
            for item in items:
                others = [b for b in best if mode == "li2026" or b != item]
                like.append(cosine(state[item], np.mean([state[b] for b in others], axis=0)))
            where = {"mode": mode, "pooling": pooling, "layer": layer, "category": kind}
            typicality = [-r for r in rating]
            got = one(study, **where, measure="spearman")["value"]
            assert got == pytest.approx(stats.spearmanr(like, typicality)[0], abs=1e-3)
            ranks = [stats.rankdata(v) for v in (like, typicality, lengths)]
            left = [v - np.polyval(np.polyfit(ranks[2], v, 1), ranks[2]) for v in ranks[:2]]
            got = one(study, **where, measure="spearman_given_length")["value"]
            assert got == pytest.approx(stats.pearsonr(*left)[0], abs=2e-3)
            got = one(study, **where, measure="length_correlation")["value"]
            assert got == pytest.approx(stats.spearmanr(like, lengths)[0], abs=1e-3)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (np.arange(40.0), 5),
        (np.arange(51.0), 6),
        (np.arange(100.0), 10),
        (np.array([1.0] * 8 + [0.5] * 12), 8),
        (np.array([1.0] * 4 + [0.5] * 12), 16),
        (np.arange(3.0), 3),
    ],
)
def test_prototypes_are_the_top_tenth_five_at_least_and_ties(
    score: NDArray[np.float64], expected: int
) -> None:
    found = prototypes_of(np.random.default_rng(0).permutation(score))
    assert found.sum() == expected
    assert prototypes_of(score)[np.argmax(score)]


# -- ratings that several words share ---------------------------------------------------------------


def families(folder: Path) -> tuple[Ratings, Ratings]:
    """Words of which six in a row share a rating: read as MoralStrength, and as if each was rated."""
    words = [f"word{f:02d}{'abcdef'[i]}" for f in range(60) for i in range(6)]
    rating = [1.1 + 7.8 * (i // 6) / 59 for i in range(len(words))]
    (folder / "care.tsv").write_text(
        "\n".join(
            ["WORD\tEXPRESSED_MORAL", *(f"{w}\t{r}" for w, r in zip(words, rating, strict=True))]
        )
    )
    lines = [f"{w},{'care' if r > 5 else 'harm'},{abs(r - 5)}" for w, r in zip(words, rating)]  # noqa: B905
    (folder / "plain.csv").write_text("\n".join(["item,category,rating", *lines]))
    return load_ratings(folder / "care.tsv"), load_ratings(folder / "plain.csv", scale="4:0")


def test_words_of_one_rating_are_one_row_the_mean_of_their_states(tmp_path: Path) -> None:
    shared, _ = families(tmp_path)
    texts, _ = planted.texts_of(shared)
    X = planted.noise(texts, 8)
    found = probe_control(planted.store(tmp_path / "s", shared, {0: X}), draws=20)
    assert one(found, mode="audited", pooling="last", measure="length_share")["n"] == 60
    units = X.astype(np.float64).reshape(60, 6, -1).mean(1)
    units -= units.mean(0)
    for name, rows in (("harm", range(30)), ("care", range(59, 29, -1))):
        best, like = list(rows)[:5], []
        for i in rows:
            like.append(cosine(units[i], units[[b for b in best if b != i]].mean(0)))
        rho = stats.spearmanr(like, range(30, 0, -1))[0]
        got = one(found, mode="audited", pooling="mean_unit", measure="spearman", category=name)
        assert got["value"] == pytest.approx(rho, abs=1e-3) and got["n"] == 30
    assert is_moral(found)


def test_likeness_of_a_family_to_itself_is_no_order(tmp_path: Path) -> None:
    shared, each = families(tmp_path)
    texts, _ = planted.texts_of(shared)
    kin = np.repeat(np.random.default_rng(9).standard_normal((60, planted.D)), 6, axis=0)
    X = (kin + 0.1 * planted.noise(texts, 10)).astype(np.float32)
    where = {"mode": "audited", "pooling": "mean_unit", "measure": "spearman", "category": "mean"}
    fooled = one(probe_control(planted.store(tmp_path / "e", each, {0: X}), draws=400), **where)
    assert fooled["p"] < 0.05
    mean = one(probe_control(planted.store(tmp_path / "s", shared, {0: X}), draws=400), **where)
    assert mean["null_low"] < mean["value"] < mean["null_high"] and mean["p"] > 0.05


def test_an_item_of_two_categories_is_one_text(ratings: Ratings, tmp_path: Path) -> None:
    both = ratings.frame.filter(category="bird").with_columns(category=pl.lit("pet"))
    twice = Ratings(pl.concat([ratings.frame, both]), ratings.meta)
    texts, _ = planted.texts_of(twice)
    found = probe_control(
        planted.store(tmp_path / "s", twice, {0: planted.noise(texts, 1)}), mode="audited", draws=50
    )
    where = {"pooling": "mean_unit", "measure": "spearman"}
    bird, pet = (one(found, **where, category=name) for name in ("bird", "pet"))
    assert {k: bird[k] for k in ("value", "ci_low", "n")} == {
        k: pet[k] for k in ("value", "ci_low", "n")
    }
    assert one(found, **where, category="mean")["n"] == len(KINDS) * EACH


# -- too little, or of something else -----------------------------------------------------------------


def test_a_category_of_few_items_has_no_number_and_the_rest_stands(
    ratings: Ratings, tmp_path: Path
) -> None:
    few = ratings.frame.filter(category="tool").head(14)
    level = ratings.frame.filter(category="fruit").with_columns(score=pl.lit(0.5))
    kept = pl.concat([ratings.frame.filter(category="bird"), few, level])
    table = Ratings(kept, ratings.meta)
    texts, _ = planted.texts_of(table)
    made = planted.store(tmp_path / "s", table, {0: planted.noise(texts, 1)})
    found = probe_control(made, draws=20)
    for mode, pooling in (("li2026", "mean"), ("audited", "mean_unit")):
        where = {"mode": mode, "pooling": pooling}
        for measure in ("spearman", "spearman_given_length", "length_correlation"):
            for category, have in (("tool", 9), ("fruit", 0)):
                row = one(found, **where, measure=measure, category=category)
                why = f"not enough data (items beside the prototypes: {have}, needed 10)"
                assert row["status"] == why and np.isnan(row["value"])
            assert np.isfinite(one(found, **where, measure=measure, category="bird")["value"])
        bird, mean = (
            one(found, **where, measure="spearman", category=name) for name in ("bird", "mean")
        )
        assert bird["value"] == mean["value"]
    assert "Not enough data for some measures of: fruit, tool." in control_findings(found)


def test_without_any_category_of_enough_items_the_table_says_so(
    ratings: Ratings, tmp_path: Path
) -> None:
    few = Ratings(ratings.frame.filter(category="tool").head(7), ratings.meta)
    texts, _ = planted.texts_of(few)
    found = probe_control(planted.store(tmp_path / "s", few, {0: planted.noise(texts, 1)}))
    assert found.frame.filter(measure="spearman")["value"].is_nan().all()
    assert any("No category has items enough" in sentence for sentence in control_findings(found))
    with pytest.raises(UsageError, match="nothing to compare"):
        beside(found, found)


def test_stores_of_something_else_are_refused(store: ActivationStore, tmp_path: Path) -> None:
    vectors = build_vectors("starter")
    texts, _ = planted.texts_of(vectors)
    moral = planted.store(tmp_path / "s", vectors, {0: planted.noise(texts, 1)})
    with pytest.raises(DataError, match=r"is no table of ratings.*moralprobe control"):
        probe_control(moral)
    with pytest.raises(DataError, match="is no moral vectors table"):
        probe(store)
    with pytest.raises(UsageError, match="unknown mode"):
        probe_control(store, mode="audit")


# -- beside a moral study -----------------------------------------------------------------------------


def moral_study(folder: Path, *, planted_there: bool) -> Study:
    vectors = build_vectors("starter")
    texts, _ = planted.texts_of(vectors)
    X = planted.moral(texts, vectors, 2) if planted_there else planted.noise(texts, 2)
    return probe(planted.store(folder, vectors, {1: X}), mode="audited", draws=DRAWS)


def test_what_only_the_control_has_is_said_in_words(study: Study, tmp_path: Path) -> None:
    moral = moral_study(tmp_path / "s", planted_there=False)
    found = beside(study, moral)
    a, b = found.control, found.moral
    assert (a["layer"], b["layer"]) == (TYPICAL, 1) and found.moral_there == b["value"]
    assert found.difference == pytest.approx(a["value"] - b["value"]) and found.low > 0
    said = beside_sentences(study, moral)
    for r in (a, b):
        assert f"{r['value']:.2f} [{r['ci_low']:.2f}, {r['ci_high']:.2f}]" in said[0]
    assert "orders non-moral categories (things.csv)" in said[0]
    assert "moral categories are ordered less well than non-moral ones" in said[0]
    assert "(moral ones: unknown)" in said[1]
    assert "moral categories are ordered better" not in said[0]


def test_what_both_have_is_not_told_apart_and_what_the_moral_one_has_is_better(
    study: Study, tmp_path: Path
) -> None:
    assert "the two can't be told apart" in beside_sentences(study, study)[0]
    empty = Study(study.frame.filter((pl.col("layer") == EMPTY).fill_null(True)), study.meta)
    moral = moral_study(tmp_path / "s", planted_there=True)
    said = beside_sentences(empty, moral)[0]
    assert "moral categories are ordered better than non-moral ones" in said
    assert np.isnan(beside(empty, moral).moral_there)


def test_studies_of_two_models_are_not_compared(study: Study) -> None:
    other = {**study.meta, "store": {**study.meta["store"], "model": {"id": "another"}}}
    with pytest.raises(UsageError, match=r"different models.*planted and another"):
        beside(study, Study(study.frame, other))
    published = Study(study.frame, {**study.meta, "modes": {"li2026": ["mean"]}})
    with pytest.raises(UsageError, match="nothing to compare"):
        beside(study, published)


# -- a real model on real ratings ---------------------------------------------------------------------


@pytest.mark.slow
def test_smollm2_orders_what_rosch_measured(tmp_path: Path) -> None:
    from moralprobe.activations.extract import extract
    from moralprobe.models.load import load_model

    path = shared_file("rosch1975", "rosch1975_ratings.csv")
    rosch = load_ratings(path, scale="1:7")
    model = load_model("smollm2-135m")
    made = extract(model, rosch, tmp_path / "s", layers="8", template="the-item")
    found = probe_control(made, draws=200)
    where = {"measure": "spearman_given_length", "category": "mean"}
    row = one(found, **where, mode="audited", pooling="mean_unit")
    # Another precision differs in the second decimal.
    assert row["value"] == pytest.approx(0.39, abs=0.03) and row["q"] < 0.05
    assert row["ci_low"] > row["baseline"] > 0.1 and row["n"] == 521
    # Length explains half of the published pooling's variance, a thirtieth of the other's.
    assert [
        one(found, measure="length_share", mode=mode, pooling=pooling)["value"]
        for mode, pooling in (("li2026", "mean"), ("audited", "mean_unit"))
    ] == pytest.approx([0.51, 0.03], abs=0.03)
