"""Moral features: planted ones are found, confounds and shuffles aren't, the paper's rules hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse
from scipy.stats import spearmanr

from moralprobe.activations.distinct import Tokens, token_paths
from moralprobe.activations.job import encode_texts
from moralprobe.activations.stream import read_tokens
from moralprobe.cli.main import app
from moralprobe.data.prompts import get_template
from moralprobe.data.splits import normalise
from moralprobe.errors import DataError, ModelError
from moralprobe.foundations import POLES
from moralprobe.geometry.association import associate
from moralprobe.models.load import load_model
from moralprobe.models.tiny import save_tiny
from moralprobe.sae.features import moral_features
from moralprobe.sae.load import load_sae
from moralprobe.sae.nulls import leading
from moralprobe.sae.published import published
from moralprobe.sae.selection import as_dense, choose
from moralprobe.sae.text_features import TextFeatures, read_features
from moralprobe.sae.tokens import judging_tokens
from tests.activations.test_extract import starter, tiny
from tests.activations.test_stream import alone

N, FEATURES = 4000, 300
LENGTH, MORAL, TWO, CONSTANT = 20, 21, 22, 23


def planted(seed: int = 0) -> TextFeatures:
    """Texts of ten poles; features 0 to 9 go with one each, some others with what confounds."""
    rng = np.random.default_rng(seed)
    pole = rng.integers(0, 14, N)
    moral = np.zeros((N, 10))
    tagged = pole < 10
    moral[tagged, pole[tagged]] = rng.choice([0.125, 0.375, 0.5, 1.0], tagged.sum())
    length = rng.poisson(8, N) + 3.0 + 2.0 * (pole % 2 == 1)
    Y = (rng.random((N, FEATURES)) < 0.06) * rng.exponential(1.0, (N, FEATURES))
    for k in range(10):
        Y[:, k] = moral[:, k] * rng.exponential(1.0, N) + (rng.random(N) < 0.02)
    Y[:, LENGTH] = length * (1 + rng.exponential(0.2, N))
    Y[:, MORAL] = (moral.sum(1) > 0) * rng.exponential(1.0, N)
    Y[:, TWO] = (moral[:, 2] + moral[:, 3]) * rng.exponential(1.0, N)
    Y[:, CONSTANT] = 1
    random = (rng.random((N, FEATURES)) < 0.06) * rng.exponential(1.0, (N, FEATURES))
    train = rng.random(N) < 0.7
    dev = np.flatnonzero(~train)[::2]
    return TextFeatures(
        texts=[f"text {i}" for i in range(N)],
        activations=sparse.csr_array(Y),
        random=sparse.csr_array(random),
        moral=moral,
        covariates=np.column_stack([length, 1 / length]),
        names=("length", "inverse length"),
        train=train,
        dev_text=dev,
        dev_moral=moral[dev],
        explained_variance=0.9,
        warnings=(),
    )


def test_planted_features_are_found_and_hold() -> None:
    found = moral_features(planted())
    frame = found.frame
    ten = frame.filter(pl.col("feature") < 10)
    assert ten["pole"].to_list() == list(POLES)
    assert ten["replicated"].all()
    assert ten["specificity"].min() > 0.8
    assert (ten["slope_low"] > 0).all()
    assert (ten["half_a"] > 3).all() and (ten["half_b"] > 3).all()
    rows = frame.filter("replicated").iter_rows(named=True)
    both = [min(row["half_a"] or 0, row["half_b"] or 0) > 1.645 for row in rows]
    assert 10 <= found.summary["in_both_halves"] == sum(both)
    # What goes with length, with moral text at all, or with nothing isn't chosen.
    others = frame.filter(pl.col("feature").is_in([LENGTH, MORAL, CONSTANT]))
    assert not others["chosen"].any()
    assert frame.filter(feature=LENGTH)["r_length"].item() > 0.5
    assert frame.filter(feature=TWO)["specificity"].item() < 0.4
    rest = frame.filter(pl.col("feature") > CONSTANT)
    assert rest["chosen"].sum() <= 2 and rest["replicated"].sum() <= 1
    summary = found.summary
    assert summary["replicated"] == frame["replicated"].sum()
    assert max(summary["null_shuffled_chosen"]) <= 2
    assert summary["null_random_dictionary"]["replicated"] <= 1
    matched = summary["others_as_dense"]
    assert matched["tested"] == summary["chosen"]
    # Moral text at all has the largest t of some poles, and isn't chosen.
    leaders = summary["strongest_of_poles"]
    assert leaders["poles"] == 10 and leaders["chosen"] >= leaders["features"] - 1 >= 8


def test_each_slope_stands_beside_that_of_another_as_dense() -> None:
    read = planted()
    found = moral_features(replace(read, random=read.activations))
    Y, held = read.activations.toarray(), ~read.train
    for row in found.frame.filter("chosen").iter_rows(named=True):
        scores = read.moral[:, POLES.index(row["pole"])]
        rows = held & (scores > 0)
        for feature, column in ((row["feature"], "slope"), (row["matched"], "slope_null")):
            if np.count_nonzero(Y[rows, feature]) < 20:
                assert row[column] is None
                continue
            naive = spearmanr(Y[rows, feature], scores[rows]).statistic
            assert row[column] == pytest.approx(naive), column
            assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]
        assert row["slope_n"] == rows.sum()
    told, others = found.summary["slope"], found.summary["others_as_dense"]["slope"]
    own = found.frame.filter("chosen")
    assert told == {
        "features": own["slope"].count(),
        "median": own["slope"].median(),
        "up": own.filter(pl.col("slope_low") > 0).height,
    }
    assert told["up"] >= 10 and others["up"] <= 1 and others["features"] < told["features"]
    # The same dictionary as the null has the same of everything.
    null = found.summary["null_random_dictionary"]
    assert null == {"features": FEATURES, **{k: found.summary[k] for k in null if k != "features"}}
    holding = found.frame.filter("replicated")["specificity"]
    assert null["specificity_median"] == holding.median()
    assert null["specific"] == (holding >= 0.5).sum() < len(holding)  # two poles' isn't
    assert summary_of_others(read, found.frame) == {
        k: v for k, v in found.summary["others_as_dense"].items() if k != "slope"
    }


def summary_of_others(read: TextFeatures, frame: pl.DataFrame) -> dict[str, Any]:
    """What others as dense are, on the poles of those chosen, row by row."""
    half = np.random.default_rng([0, 7]).random(N) < 0.5
    train, *parts = (
        associate(read.activations[rows], read.moral[rows], read.covariates[rows])
        for rows in (
            read.train,
            ~read.train,
            read.train & half,
            read.train & ~half,
        )
    )
    held, one, two = parts
    told: dict[str, Any] = {"tested": 0, "replicated": 0, "in_both_halves": 0}
    specific = []
    for row in frame.filter("chosen").iter_rows(named=True):
        f, k = row["matched"], POLES.index(row["pole"])
        told["tested"] += 1
        if max(held.p[k, f], held.contrast_p[k, f]) >= 0.05:
            continue
        told["replicated"] += 1
        told["in_both_halves"] += bool(min(one.t[k, f], two.t[k, f]) > 1.645)
        rivals = [train.effect[j, f] for j in range(10) if j != k]
        if train.effect[k, f] <= 0:
            continue
        specific.append(1 - max(0, *rivals) / train.effect[k, f])
    told["specificity_median"] = pytest.approx(np.median(specific)) if specific else None
    told["specific"] = sum(value >= 0.5 for value in specific)
    return told


def test_others_as_dense_are_counted_on_the_poles_of_those_chosen() -> None:
    read = planted()
    Y = read.activations.toarray()
    rng = np.random.default_rng(8)
    for k in range(10):  # twins of those chosen, which can stand in for them
        Y[:, 200 + k] = (Y[:, k] != 0) * rng.exponential(1.0, N)
        # And one that is what it is on held-out texts alone.
        Y[:, 210 + k] = np.where(read.train, rng.permutation(Y[:, k]), Y[:, k])
    read = replace(read, activations=sparse.csr_array(Y))
    found = moral_features(read)
    others = found.summary["others_as_dense"]
    assert others["tested"] > others["replicated"] >= 1
    told = summary_of_others(read, found.frame)
    assert np.isfinite(others["specificity_median"])
    assert told == {k: v for k, v in others.items() if k != "slope"}


def test_a_feature_that_cant_be_tested_in_a_half_isnt_in_both() -> None:
    read = planted()
    half = np.random.default_rng([0, 7]).random(N) < 0.5
    Y = read.activations.toarray()
    Y[read.train & half, 0] = 0
    found = moral_features(replace(read, activations=sparse.csr_array(Y)))
    row = found.frame.row(0, named=True)
    assert row["half_a"] is None and row["half_b"] > 5
    assert found.summary["in_both_halves"] == found.frame.filter("replicated")["half_a"].count()
    assert row["replicated"] and found.summary["in_both_halves"] < found.summary["replicated"]


def test_one_feature_that_leads_for_every_pole_is_told() -> None:
    """What the paper's rule takes for one pole's may be moral text at all."""
    read = planted()
    rng = np.random.default_rng(2)
    Y = rng.random((N, FEATURES))
    Y[:, MORAL] = read.moral.max(axis=1) + 0.01 * rng.random(N)
    found = moral_features(replace(read, activations=sparse.csr_array(Y)))
    assert found.summary["strongest_of_poles"] == {"poles": 10, "features": 1, "chosen": 0}
    leaders = found.summary["li2026"]["strongest_of_poles"]
    assert (leaders["poles"], leaders["features"]) == (10, 1)
    assert found.frame.filter(feature=MORAL)["r_any_pole"].item() > 0.99
    r = np.corrcoef(Y[:, 3], read.moral.max(axis=1))[0, 1]
    assert found.frame.filter(feature=3)["r_any_pole"].item() == pytest.approx(r)
    strength = np.array([[3.0, 1, 0], [2, 1, 0], [0, np.nan, 1], [-1, -2, 0]])
    chosen = np.array([True, False, False])
    assert leading(strength, chosen) == {"poles": 3, "features": 2, "chosen": 1}


def test_the_papers_counts_stand_beside_nulls() -> None:
    read = planted()
    summary = moral_features(replace(read, random=read.activations)).summary["li2026"]
    r = [
        np.corrcoef(column, read.dev_moral[:, k])[0, 1] if np.ptp(column) else 0
        for column in read.activations.toarray()[read.dev_text].T
        for k in range(10)
    ]
    size = np.abs(r).reshape(-1, 10)
    tied = size > 0.1
    mono = [
        row.sum() == 1 or (row.sum() == 2 and row.nonzero()[0][0] // 2 == row.nonzero()[0][1] // 2)
        for row in tied
    ]
    mono = np.array(mono) & (size.max(1) >= 0.05)
    assert summary["mono"] == mono.sum()
    own = {name: summary[name] for name in ("weak", "mono", "poly", "strict", "tuned")}
    assert summary["null_random_dictionary"] == own
    assert summary["null_shuffled_activations"] is None
    shuffled = summary["null_shuffled_texts"]
    assert len(shuffled) == 5 and len({tuple(twin.values()) for twin in shuffled}) > 1
    others = summary["others_as_dense"]
    assert others["features"] == own["mono"]
    # Each is another of about the density that it has in the rows that are read.
    density = (read.activations.toarray()[read.dev_text] != 0).sum(0)
    wanted = mono & (density > 0)
    chance = [
        as_dense(wanted, density > 0, density, np.random.default_rng(seed)) for seed in range(20)
    ]
    counts = [mono[some[some >= 0]].sum() for some in chance]
    assert min(counts) <= others["mono"] <= max(counts)
    assert others["strict"] <= others["mono"]
    assert len(set(read.dev_text)) == len(read.dev_text)
    # Each null is counted by its own features, as they would be if they were the autoencoder's.
    few = read.random[:, :50]
    beside = moral_features(replace(read, untaught=few)).summary["li2026"]
    for name, null in (("random_dictionary", read.random), ("shuffled_activations", few)):
        alone = moral_features(replace(read, activations=null)).summary["li2026"]
        assert beside[f"null_{name}"] == {kind: alone[kind] for kind in own}
        assert beside[f"null_{name}"] != own


def test_each_chosen_feature_is_matched_by_another_of_its_density() -> None:
    density = np.array([10, 11, 50, 52, 90, 10])
    chosen = np.array([True, False, True, False, False, False])
    tested = np.array([True, True, True, True, True, False])
    matched = as_dense(chosen, tested, density, np.random.default_rng(0))
    assert matched.tolist() == [1, -1, 3, -1, -1, -1]


def test_a_random_dictionary_holds_where_it_does_on_its_own_held_out_texts() -> None:
    read = planted()
    random = read.random.toarray()
    rows = read.train
    random[rows, 0] += read.moral[rows, 0] * 3  # feature 0 of it goes with care while choosing only
    random[:, 1] += read.moral[:, 1] * 3  # and feature 1 with harm everywhere
    other = sparse.csr_array(random)
    null = moral_features(replace(read, random=other, untaught=other[:, :200])).summary
    chosen = choose(other[rows], read.moral[rows], read.covariates[rows]).chosen
    assert chosen[:2].all() and chosen.sum() < null["chosen"]
    random = null["null_random_dictionary"]
    assert (random["features"], random["chosen"]) == (FEATURES, chosen.sum())
    assert random["replicated"] == 1
    untaught = null["null_shuffled_activations"]
    assert untaught["features"] == 200 and untaught["replicated"] == 1
    assert 2 <= untaught["chosen"] < null["chosen"]
    assert moral_features(read).summary["null_shuffled_activations"] is None


def test_the_shuffled_twin_finds_none() -> None:
    read = planted()
    order = np.random.default_rng(5).permutation(N)
    found = moral_features(replace(read, moral=read.moral[order]))
    assert found.summary["chosen"] <= 3 and found.summary["replicated"] == 0


def test_the_same_seed_gives_the_same_table() -> None:
    one, two = (moral_features(planted(), seed=3) for _ in range(2))
    assert one.frame.equals(two.frame) and one.summary == two.summary


def test_too_few_texts_are_refused() -> None:
    read = planted()
    with pytest.raises(DataError, match="not enough texts"):
        moral_features(replace(read, train=np.ones(N, bool)))


def test_the_papers_rules_as_they_are_written() -> None:
    rng = np.random.default_rng(0)
    r = rng.normal(0, 0.08, (500, 10))
    r[0] = 0
    r[1] = [0.3, -0.2, *[0.01] * 8]  # two poles of one axis
    r[2] = [0.01, 0.3, 0.2, *[0.01] * 7]  # two poles of two axes
    r[3] = [0.11, *[0.09] * 9]  # one, and not 1.5 times the second
    found = published(r)
    for f, row in enumerate(np.abs(r)):
        above = [k for k in range(10) if row[k] > 0.1]
        pair = len(above) == 2 and above[0] // 2 == above[1] // 2
        kind = "weak" if row.max() < 0.05 else "mono" if len(above) == 1 or pair else "poly"
        assert found["li_class"][f] == kind
        second = sorted(row)[-2]
        assert found["li_strict"][f] == (row.max() > 0.1 and row.max() > 1.5 * second)
    assert [found["li_class"][f] for f in range(4)] == ["weak", "mono", "poly", "mono"]
    assert not found["li_strict"][3]
    expected = set(np.flatnonzero(found["li_strict"]))
    for k in range(10):
        ranked = sorted(range(500), key=lambda f: -r[f, k])
        expected |= {f for f in ranked[:50] if r[f, k] > 0.1}
        expected |= {f for f in ranked[:20] if r[f, k] > 0}
    assert set(np.flatnonzero(found["li_tuned"])) == expected


def test_texts_are_shuffled_whole_for_the_papers_null() -> None:
    """A text stands in many rows with like vectors: shuffled row by row, chance would seem less."""
    read = planted()
    rng = np.random.default_rng(0)
    few = read.dev_text[:60]
    rows = np.repeat(few, 20)
    judged = np.clip(read.moral[rows] + 0.05 * rng.random((len(rows), 10)), 0, 1)
    Y = rng.random((N, FEATURES))  # goes with nothing
    nothing = replace(read, activations=sparse.csr_array(Y), dev_text=rows, dev_moral=judged)
    summary = moral_features(nothing).summary["li2026"]
    tied = [twin["weak"] for twin in summary["null_shuffled_texts"]]
    # Of 60 texts hardly a feature has ten |r| below 0.05; of 1,200 rows half would have.
    assert summary["weak"] < 0.02 * FEATURES and max(tied) < 0.02 * FEATURES
    alone = [
        np.corrcoef(Y[rows, f], rng.permutation(judged)[:, k])[0, 1]
        for f in range(50)
        for k in range(10)
    ]
    assert np.mean(np.abs(np.reshape(alone, (50, 10))).max(1) < 0.05) > 0.2


def test_published_features_are_chosen_by_the_rows_of_the_dev_split() -> None:
    """Row by row, with each one's own judgement: what the test texts show isn't looked at."""
    read = planted()
    # Some texts stand in more rows, of which something else was judged.
    rows = np.concatenate([read.dev_text, read.dev_text[:150]])
    judged = np.concatenate([read.dev_moral, np.roll(read.dev_moral[:150], 2, axis=1)])
    read = replace(read, dev_text=rows, dev_moral=judged)
    frame = moral_features(read).frame
    Y = read.activations.toarray()
    for f in (0, 3, MORAL, TWO, 200):
        r = [np.corrcoef([Y[t, f] for t in rows], judged[:, k])[0, 1] for k in range(10)]
        row = frame.row(f, named=True)
        assert row["li_r"] == pytest.approx(r[int(np.argmax(np.abs(r)))], abs=1e-9)
        assert row["li_pole"] == POLES[int(np.argmax(np.abs(r)))]
    # Held-out texts of other splits say nothing of them, and training texts neither.
    other = np.setdiff1d(np.arange(N), rows)
    Y[other] = np.random.default_rng(3).permutation(Y[other], axis=1)
    again = moral_features(replace(read, activations=sparse.csr_array(Y))).frame
    published_columns = [c for c in frame.columns if c.startswith("li_")]
    assert frame.select(published_columns).equals(again.select(published_columns))
    assert not frame["chosen"].equals(again["chosen"])
    without = replace(read, dev_text=rows[:0], dev_moral=judged[:0])
    assert not moral_features(without).frame["li_tuned"].any()


def test_paths_give_each_texts_own_mean() -> None:
    model = tiny()
    encoded = encode_texts(model.tokenizer, starter(40), get_template("action"), 128)[1]
    encoded = [*encoded, encoded[3]]  # a text that is there twice
    tokens = Tokens.distinct(encoded)
    states = read_tokens(model, tokens, [1])[1]
    sums = token_paths(encoded, tokens) @ states.numpy()
    for i, text in enumerate(encoded):
        one = Tokens([text], np.array([1]))
        expected = alone(model, one, 1).sum(0)
        torch.testing.assert_close(torch.from_numpy(sums[i]), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, an autoencoder of its layer 1, and the starter table, in one folder."""
    folder = tmp_path_factory.mktemp("trained")
    save_tiny("llama", folder / "model", bos=True)
    run("vectors", "build", "starter", "--out", folder / "starter.parquet")
    run(
        *("sae", "train", folder / "model", folder / "starter.parquet", "--layer", 1),
        *("--expansion", 4, "--k", 4, "--steps", 200, "--batch", 512, "--dtype", "fp32"),
        *("--precision", "fp32", "--lr", 2e-3, "--out", folder / "sae", "--quiet"),
    )
    return folder


def run(*arguments: object) -> None:
    app([str(a) for a in arguments], standalone_mode=False)


def test_from_a_model_to_pages(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    features = ("sae", "features", trained / "sae", trained / "starter.parquet", "--causal", 3)
    run(*features, "--out", out)
    said = capsys.readouterr().out
    frame = pl.read_parquet(out / "FEATURES.parquet")
    examples = pl.read_parquet(out / "examples.parquet")
    assert set(examples["feature"]) == set(frame.filter(pl.col("density") > 0)["feature"])
    assert examples.group_by("feature").len()["len"].max() == 10
    assert all(
        some["activation"].is_sorted(descending=True) for _, some in examples.group_by("feature")
    )
    summary = json.loads((out / "features.json").read_bytes())
    assert frame.height == summary["features"] == 4 * 32
    assert f"{summary['chosen']} of" in said and "poles shuffled" in said
    random, others = summary["null_random_dictionary"], summary["others_as_dense"]
    assert f"null, a random dictionary: {random['chosen']} of {random['tested']} features" in said
    assert f"on the same poles: {others['replicated']} hold" in said
    assert f"of {others['tested']}\n" in said and "typicality slopes: these, " in said
    leading = summary["strongest_of_poles"]
    assert f"strongest of {leading['poles']} poles: {leading['features']} different" in said
    li = summary["li2026"]
    assert f"of a random dictionary {li['null_random_dictionary']['mono']} and " in said
    assert "causal" in frame.columns and "ablated" in said
    pages = sorted(p.name for p in out.glob("feature-*.html"))
    wanted = frame.filter(pl.col("chosen") | pl.col("li_strict"))["feature"].to_list()
    assert pages == sorted(f"feature-{n}.html" for n in wanted)
    index = (out / "index.html").read_text("utf-8")
    assert "may be offensive" in index and "Content-Security-Policy" in index
    for name in pages:
        assert f'href="{name}"' in index
        page = (out / name).read_text("utf-8")
        assert "Promoted" in page and "may be offensive" in page
    # The same command gives the same table.
    run(*features, "--out", tmp_path / "b")
    assert frame.equals(pl.read_parquet(tmp_path / "b" / "FEATURES.parquet"))


def test_activations_are_the_means_of_each_text_alone(trained: Path) -> None:
    loaded = load_sae(trained / "sae")
    model = load_model(trained / "model", dtype="fp32")
    read = read_features(loaded, model, starter(60))
    assert read.explained_variance > 0
    # What is ablated of the null are the tokens that it was read from.
    assert read.random_sae.cfg.metadata.sink_norm == loaded.sink_norm < np.inf
    splits = {normalise(a): s for a, s in starter(60).frame.select("action", "split").iter_rows()}
    assert [splits[normalise(text)] == "train" for text in read.texts] == read.train.tolist()
    dev = starter(60).frame.filter(split="dev")
    assert [normalise(read.texts[i]) for i in read.dev_text] == list(map(normalise, dev["action"]))
    np.testing.assert_array_equal(read.dev_moral, dev.select(POLES).to_numpy())
    template = get_template("action-is-morally")
    for i in (0, 17, len(read.texts) - 1):
        ids = model.tokenizer(template.render(read.texts[i]), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = model.model(ids, output_hidden_states=True).hidden_states[2][0, 1:]
            acts = loaded.sae.encode(states[states.norm(dim=-1) <= loaded.sink_norm]).mean(0)
        found = read.activations[[i]].toarray()[0]
        np.testing.assert_allclose(found, acts.numpy(), rtol=1e-3, atol=1e-4)


def test_a_null_is_read_in_the_same_texts_by_its_own_weights(trained: Path) -> None:
    loaded, null = load_sae(trained / "sae"), load_sae(trained / "sae")
    null.sae.cfg.metadata.shuffled = True
    turn = torch.randperm(loaded.sae.cfg.d_sae, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, axis in (("W_enc", 1), ("b_enc", 0), ("W_dec", 0)):
            weight = getattr(null.sae, name)
            weight.copy_(weight.index_select(axis, turn))
    read = read_features(
        loaded, load_model(trained / "model", dtype="fp32"), starter(60), null=null
    )
    assert read.untaught is not None
    expected = read.activations.toarray()[:, turn.numpy()]
    np.testing.assert_allclose(read.untaught.toarray(), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected, read.activations.toarray())


def test_texts_are_shown_as_text(trained: Path, tmp_path: Path) -> None:
    from moralprobe.report.features import Examples, write_feature_pages

    row = moral_features(planted()).frame.row(0, named=True)
    texts = ["<script>alert(1)</script>", "a & b", *(f"text {i}" for i in range(60))]
    activations = sparse.csc_array(np.linspace(2, 0.1, len(texts))[:, None])
    examples = Examples(texts, activations, {0: ["<b>"]}, {0: ["&"]})
    summary = moral_features(planted()).summary
    index = write_feature_pages([row], summary, examples, tmp_path, model="<m>", site="s")
    page = (tmp_path / "feature-0.html").read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>&lt;" not in page
    assert "&lt;m&gt;" in index.read_text("utf-8")
    at = [page.index(f"Texts: {n}") for n in ("largest", "upper quarter", "median", "smallest")]
    assert at == sorted(at)
    # The texts stand in the order of their activations.
    assert at[0] < page.index("&lt;script&gt;") < page.index("text 0<") < at[1]
    assert at[3] < page.index("text 59<")


def test_another_model_is_refused_with_both_names(trained: Path, tmp_path: Path) -> None:
    loaded = load_sae(trained / "sae")
    save_tiny("llama", tmp_path / "other", bos=True, seed=5)
    with pytest.raises(ModelError, match=r"of another model.*weights"):
        read_features(loaded, load_model(tmp_path / "other", dtype="fp32"), starter(60))
    save_tiny("llama", tmp_path / "wide", bos=True, d_model=64)
    with pytest.raises(ModelError, match=r"another width.*32 dimensions.*64"):
        read_features(loaded, load_model(tmp_path / "wide", dtype="fp32"), starter(60))


def test_states_that_it_doesnt_fit_are_refused(trained: Path) -> None:
    loaded = load_sae(trained / "sae")
    with torch.no_grad():
        loaded.sae.W_dec.mul_(-3)
    with pytest.raises(ModelError, match=r"doesn't fit.*where it was trained"):
        read_features(loaded, load_model(trained / "model", dtype="fp32"), starter(60))


def test_its_own_texts_are_judged_by_what_was_held_out_wherever_they_lie(
    trained: Path, tmp_path: Path
) -> None:
    loaded = load_sae(trained / "sae")
    model = load_model(trained / "model", dtype="fp32")
    held = judging_tokens(model, loaded, None).digest()
    copy = tmp_path / "renamed.parquet"
    copy.write_bytes((trained / "starter.parquet").read_bytes())
    assert judging_tokens(model, loaded, [str(copy)]).digest() == held
    (tmp_path / "other.txt").write_text("Somebody helps a stranger.\nSomebody lies to a friend.\n")
    other = judging_tokens(model, loaded, [str(tmp_path / "other.txt")])
    assert len(other.encoded) == 2
