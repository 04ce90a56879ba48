"""Models side by side: planted differences are found, what can't be compared is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm, skew

from moralprobe.comparison import (
    COMPARISON_COLUMNS,
    DIFFERENCE_COLUMNS,
    compare,
    kind_of,
)
from moralprobe.errors import DataError, UsageError
from moralprobe.models.about import About, about, read_about
from moralprobe.moral_vectors import MoralVectors, build_vectors
from moralprobe.probing import probe
from moralprobe.report.comparison import RULE, answers, caveats, write_comparison
from moralprobe.study import Study
from tests import planted

DRAWS = 200
MODELS = [
    About("small", "A", "base", 1.0),
    About("middle", "A", "base", 3.0),
    About("large", "A", "base", 10.0),
    About("tuned", "A", "instruct", 10.0),
    About("other", "B", "base", 12.0),
]
# How much of what is planted each model shows: size helps, tuning and architecture don't matter.
STRENGTH = {"small": 0.15, "middle": 0.3, "large": 0.6, "tuned": 0.6, "other": 0.6}
Made = Callable[..., Study]


@pytest.fixture(scope="module")
def vectors() -> MoralVectors:
    return build_vectors("starter")


@pytest.fixture(scope="module")
def made(vectors: MoralVectors, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a study of a planted model; the same arguments give the same study."""
    known: dict[tuple, Study] = {}
    texts, _ = planted.texts_of(vectors)
    signal = planted.moral(texts, vectors, 1)

    def make(
        name: str,
        strength: float | None = None,
        template: str = "action-is-morally",
        seed: int = 42,
    ) -> Study:
        share = STRENGTH[name] if strength is None else strength
        key = (name, share, template, seed)
        if key not in known:
            # `other` sees the texts with noise of its own, all else with the same.
            noise = [planted.noise(texts, layer + 20 * (name == "other")) for layer in range(2)]
            states = {k: share * signal * (k + 1) / 2 + noise[k] for k in range(2)}
            folder = tmp_path_factory.mktemp("s") / "store"
            store = planted.store(folder, vectors, states, poolings=["mean_unit"])
            store.key["model"] = {"id": name}
            store.key["template"] = store.template = template
            store.model_name = name
            known[key] = probe(
                store, analyses="separation,gradient", mode="audited", draws=DRAWS, seed=seed
            )
        return known[key]

    return make


@pytest.fixture(scope="module")
def studies(made: Made) -> list[Study]:
    return [made(name) for name in STRENGTH]


def one(frame: pl.DataFrame, **where: str) -> dict:
    rows = frame.filter(**where)
    assert rows.height == 1, (where, rows)
    return rows.row(0, named=True)


def test_what_was_planted_is_the_answer_and_nothing_else(studies: list[Study]) -> None:
    found = compare(studies, MODELS)
    asked = {"measure": "auroc", "statistic": "mean over layers"}
    scale = one(found.differences, kind="scale", model="large", than="small", **asked)
    assert scale["paired"] and scale["ci_low"] > 0.03
    same = one(found.differences, kind="alignment", model="tuned", than="large", **asked)
    assert same["value"] == same["ci_low"] == same["ci_high"] == 0, "the same states"
    alike = one(found.differences, kind="architecture", than="large", **asked)
    assert alike["ci_low"] < 0 < alike["ci_high"] and alike["ci_high"] - alike["ci_low"] < 0.2
    trend = one(found.trends, family="A", role="base", **asked)
    assert trend["models"] == 3 and trend["ci_low"] > 0.03
    assert set(found.differences["kind"]) == {"scale", "alignment", "architecture", "other"}
    spoken = dict(answers(found))
    assert any(
        "in 3 of 3 pairs the larger model lies higher" in s for s in spoken["Does size change it?"]
    )
    (auroc, _) = spoken["Does alignment change it?"]
    assert "in 0 of 1 pairs the later role lies higher, in 0 lower" in auroc


def test_equal_strengths_are_no_trend(made: Made) -> None:
    states = [made(name, 0.3) for name in ("small", "middle", "large")]
    found = compare(states, MODELS)
    trend = one(found.trends, measure="auroc", statistic="mean over layers")
    assert [trend["value"], trend["ci_low"], trend["ci_high"]] == pytest.approx([0, 0, 0], abs=1e-9)


def test_differences_and_trends_equal_the_formula(studies: list[Study]) -> None:
    found = compare(studies, MODELS)
    names, sizes = ["small", "middle", "large"], np.log10([1.0, 3.0, 10.0])
    mine = dict(zip(STRENGTH, studies, strict=True))
    asked = {"measure": "spearman_given_length", "category": "mean"}

    def mean(name: str) -> tuple[float, np.ndarray]:
        """Value, resamples and their excess, averaged over layers, in one row each."""
        rows = mine[name].select(**asked, mode="audited")
        drawn = mine[name].draws.filter(**asked).sort("layer")
        boot, excess = (np.mean(drawn[x].to_list(), axis=0) for x in ("boot", "excess"))
        return rows["value"].mean(), np.array([*boot, *excess])

    def interval(value: float, drawn: np.ndarray) -> list[float]:
        boot, excess = np.split(drawn, [DRAWS])
        about = boot - boot.mean()
        about *= np.sqrt(max(1 - excess.var() / about.var(), 1 / 2.25))
        a = skew(about) / 6
        z = a + np.array([-1.959964, 1.959964])
        low, high = np.quantile(about, norm.cdf(a + z / (1 - a * z)), method="weibull")
        return [value, value + low, value + high]

    where = {**asked, "statistic": "mean over layers"}
    row = one(found.differences, model="large", than="middle", **where)
    (a, drawn), (b, other) = mean("large"), mean("middle")
    assert [row["value"], row["ci_low"], row["ci_high"]] == pytest.approx(
        interval(a - b, drawn - other), abs=1e-6
    )
    values, boots = zip(*(mean(name) for name in names), strict=True)
    slope = np.polyfit(sizes, values, 1)[0]
    slopes = np.polyfit(sizes, np.stack(boots), 1)[0]
    row = one(found.trends, family="A", **where)
    assert [row["value"], row["ci_low"], row["ci_high"]] == pytest.approx(
        interval(slope, slopes), abs=1e-6
    )


def test_what_both_owe_to_the_choice_of_texts_cancels(studies: list[Study], made: Made) -> None:
    where = {"measure": "auroc", "statistic": "mean over layers"}
    paired = one(compare([studies[1], studies[2]], MODELS).differences, **where)
    redrawn = made("large", seed=7)
    apart = one(compare([studies[1], redrawn], MODELS).differences, **where)
    assert paired["paired"] and not apart["paired"]
    assert apart["ci_high"] - apart["ci_low"] > paired["ci_high"] - paired["ci_low"]
    assert any("independent samples" in s for s in caveats(compare([studies[1], redrawn], MODELS)))


def test_the_table_holds_every_measure_with_its_place(studies: list[Study]) -> None:
    found = compare(studies, MODELS)
    assert found.frame.schema == pl.Schema(COMPARISON_COLUMNS)
    assert found.differences.schema == pl.Schema(DIFFERENCE_COLUMNS)
    assert found.frame.height == sum(study.frame.height for study in studies)
    layers = found.frame.filter(pl.col("layer").is_not_null())
    assert (layers["depth"] == layers["layer"].cast(float)).all(), "two layers: depth 0 and 1"
    assert set(found.frame.filter(model="tuned")["role"]) == {"instruct"}


def test_templates_of_one_model_have_a_spread_and_models_one_template(made: Made) -> None:
    small = [made("small", s, t) for s, t in ((0.15, "action"), (0.3, "action-is-morally"))]
    found = compare([*small, made("large", 0.6, "action")], MODELS)
    assert found.template == "action"
    row = one(found.spread, measure="auroc", statistic="best layer")
    values = [
        study.select(measure="auroc", category="mean", mode="audited")["value"].max()
        for study in small
    ]
    assert (row["model"], row["templates"]) == ("small", 2)
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert [row["lowest"], row["highest"]] == pytest.approx(sorted(values))


def test_what_cannot_be_compared_is_refused(
    made: Made, studies: list[Study], vectors: MoralVectors, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(studies[:1])
    with pytest.raises(UsageError, match="small is there twice"):
        compare([studies[0], studies[0]])
    with pytest.raises(UsageError, match=r"different templates.*small: action;"):
        compare([made("small", 0.15, "action"), studies[1]])
    other = replace(studies[1], meta={**studies[1].meta, "store": dict(studies[1].meta["store"])})
    other.meta["store"]["tables"] = {"vectors.parquet": "another"}
    with pytest.raises(UsageError, match=r"different vectors.*middle \(another\)"):
        compare([studies[0], other])
    bare = replace(studies[1], draws=studies[1].draws.head(0))
    with pytest.raises(UsageError, match="has nothing to compare"):
        compare([studies[0], bare])


def test_unknown_models_enter_no_answer_and_it_is_said(studies: list[Study]) -> None:
    found = compare(studies[:2])
    assert set(found.differences["kind"]) == {"other"} and found.trends.is_empty()
    assert all("nothing can be said" in sentences[0] for _, sentences in answers(found))
    assert any("middle, small is not known" in s for s in caveats(found))


def test_layers_that_were_not_read_leave_the_best_one_only(studies: list[Study]) -> None:
    some = studies[0]
    meta = {**some.meta, "store": {**some.meta["store"], "layers": [1]}}
    part = Study(
        some.frame.filter(pl.col("layer").is_null() | (pl.col("layer") == 1)),
        meta,
        draws=some.draws.filter(layer=1),
    )
    found = compare([part, studies[1]], MODELS)
    assert set(found.differences["statistic"]) == {"best layer"}
    assert any("Not all layers were read of small" in s for s in caveats(found))


def test_the_page_shows_all_models_and_the_rule(studies: list[Study], tmp_path: Path) -> None:
    found = compare(studies, MODELS)
    page = write_comparison(found, tmp_path / "report").read_text()
    assert all(f"<td>{model.id}</td>" in page for model in MODELS)
    assert RULE.split(";")[0].replace("'", "&#39;") in page
    for kind in ("png", "svg"):
        assert (tmp_path / "report" / "figures" / f"models.{kind}").stat().st_size > 5000
    assert found.save(tmp_path) == tmp_path
    assert pl.read_parquet(tmp_path / "comparison.parquet").equals(found.frame)


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        (MODELS[0], MODELS[2], "scale"),
        (MODELS[2], MODELS[3], "alignment"),
        (MODELS[2], MODELS[4], "architecture"),
        (MODELS[0], MODELS[4], "other"),
        (MODELS[3], MODELS[4], "other"),
        (MODELS[0], About("x", "unknown", "base", 1.0), "other"),
        (MODELS[0], About("x", "A", "untrained", 1.0), "other"),
        (MODELS[0], About("x", "A", "instruct", None), "other"),
    ],
)
def test_kinds_of_difference(a: About, b: About, kind: str) -> None:
    assert kind_of(a, b) == kind_of(b, a) == kind


def test_what_the_registry_knows_of_a_model() -> None:
    assert about("Qwen/Qwen3-8B") == About("Qwen/Qwen3-8B", "Qwen3", "instruct", 8.2, False)
    assert about("smollm2-135m").parameters_b == 0.135
    assert about("smollm2-135m (untrained)").role == "untrained"
    assert about("/somewhere/mine") == About("/somewhere/mine", "unknown", "unknown", None)


def test_a_file_of_models(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text("id,family,role,parameters_b\nmine,Mine,base,0.5\nyours,,,\n")
    assert read_about(path) == [
        About("mine", "Mine", "base", 0.5),
        About("yours", "unknown", "unknown", None),
    ]
    for text, message in (
        ("id,family,role\nmine,Mine,base\n", "has no column 'parameters_b'"),
        ("id,family,role,parameters_b\nmine,Mine,chat,1\n", "line 2 describes no model"),
        ("id,family,role,parameters_b\nmine,Mine,base,big\n", "line 2 describes no model"),
        ("id,family,role,parameters_b\nmine,Mine,base,-1\n", "line 2 describes no model"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_about(path)
    with pytest.raises(DataError, match="can't read"):
        read_about(tmp_path / "nowhere.csv")
