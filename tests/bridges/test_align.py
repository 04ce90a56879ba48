"""A judgement that a word's rows can change is planted and found; a head learns what it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit

from moralprobe.behavior.consensus import agreement
from moralprobe.behavior.consensus.fitting import fit_consensus
from moralprobe.behavior.consensus.rating import ACCEPTABLE
from moralprobe.behavior.consensus.scores import load_scores
from moralprobe.behavior.options import lettered
from moralprobe.behavior.siblings import siblings
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.bridges.align import ARMS, align
from moralprobe.bridges.alignment_task import Task, split, task_of
from moralprobe.bridges.judgement_head import Head, divergence, fit_head, shifted
from moralprobe.bridges.row_training import Options, train_rows
from moralprobe.bridges.with_rows import with_rows
from moralprobe.bridges.word_rows import (
    QUESTION,
    Reader,
    Rows,
    changed_rows,
    marked_ids,
    prompts_of,
    weights_hash,
)
from moralprobe.errors import DataError, ModelError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.tiny import save_tiny
from moralprobe.report.consensus import of_alignment
from moralprobe.steering.text import LocalText
from tests.cli.commands import moralprobe
from tests.steering.test_generate import tiny

N = 160
WORD = "QXZ"
SIZE = 3.0
QUICK = Options(lambdas=(0.0, 1.0), epochs=4, lr=0.01, draws=200, most_drift=2.0)


def texts() -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    letters = list("abcdefgh ")
    return tuple("".join(rng.choice(letters, size=rng.integers(6, 14))) + "." for _ in range(N))


def random_head(model: CausalModel, states: torch.Tensor) -> Head:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = Head(states.mean(0), states.std(0))
        with torch.no_grad():
            head.outer.weight.mul_(6)
    return head.requires_grad_(False)


def planted(model: CausalModel, size: float) -> Task:
    """What the model would judge if the word's rows were elsewhere is what the others judge."""
    encoded = prompts_of(model, texts(), WORD)
    ids = marked_ids(encoded)
    reader = Reader(model, encoded, ids)
    head = random_head(model, reader.all_states(None))
    delta = torch.randn(len(ids), 32, generator=torch.Generator().manual_seed(2))
    rows = Rows(torch.tensor(ids), size * delta)
    own, target = (head.read(reader.all_states(some)) for some in (None, rows))
    virtue = np.where(np.arange(N) % 3, 1 - own, np.nan)
    return Task(texts(), own, target, "justice", WORD, f"by {WORD}", {"virtue": virtue})


@pytest.fixture(scope="module")
def found() -> tuple[CausalModel, Task, object, str]:
    model = tiny("llama")
    model.model.config.max_position_embeddings = 4096
    before = weights_hash(model.model)
    task = planted(model, SIZE)
    aligned = align(model, task, QUICK, others=["kindness", "virtue", "Qvirtue", "deontology"])
    return model, task, aligned, before


def value(arms: pl.DataFrame, arm: str, measure: str, name: str = "value") -> float:
    return float(arms.filter((pl.col("arm") == arm) & (pl.col("measure") == measure))[name][0])


def test_rows_that_were_planted_bring_the_model_nearer(found) -> None:  # type: ignore[no-untyped-def]
    model, _, aligned, before = found
    assert weights_hash(model.model) == before == aligned.summary["weights"]
    assert aligned.helps
    assert value(aligned.arms, "rows", "js") < 0.7 * value(aligned.arms, "before", "js")
    assert set(aligned.arms["arm"]) == set(ARMS) and set(aligned.arms["measure"]) == set(
        agreement.MEASURES
    )
    assert sum(aligned.summary["items"].values()) == N
    assert max(aligned.summary["drift"]) <= QUICK.most_drift + 1e-5
    assert aligned.elsewhere["moved"][0] > 0.01 and aligned.summary["too_long"] == 0
    assert set(aligned.summary["tokens"]) == set(WORD)
    assert not set(aligned.summary["random_tokens"]) & set(WORD)
    assert (
        "nearer to the consensus"
        in of_alignment(aligned.arms, aligned.elsewhere, aligned.summary)[-1]
    )


def test_each_arm_is_held_against_the_consensus_by_hand(found) -> None:  # type: ignore[no-untyped-def]
    model, task, aligned, _ = found
    encoded = prompts_of(model, task.texts, WORD)
    reader = Reader(model, encoded, aligned.rows.ids.tolist())
    rng = np.random.default_rng(QUICK.seed)
    groups = siblings(task.texts)
    chosen = rng.permutation(groups.max() + 1)[: round(0.25 * (groups.max() + 1))]
    test = np.flatnonzero(np.isin(groups, chosen))
    p, after = (aligned.head.read(reader.all_states(some))[test] for some in (None, aligned.rows))
    target = task.target[test]
    for arm, scores in (("before", p), ("rows", after), ("own scores", task.own[test])):
        for measure, function in agreement.MEASURES.items():
            assert value(aligned.arms, arm, measure) == pytest.approx(
                function(scores, target), rel=1e-3, abs=1e-5
            )
    gain = value(aligned.arms, "rows", "brier", "gain")
    assert gain == pytest.approx(
        agreement.brier(after, target) - agreement.brier(p, target), abs=1e-5
    )
    assert value(aligned.arms, "before", "js", "gain_high") == 0


def test_every_arm_is_made_of_what_it_says_and_never_of_the_test_items(found) -> None:  # type: ignore[no-untyped-def]
    model, task, aligned, _ = found
    said = aligned.predictions
    assert said["text"].to_list() == list(task.texts)
    parts = {
        n: np.flatnonzero((said["part"] == n).to_numpy()) for n in ("train", "validation", "test")
    }
    assert {n: len(some) for n, some in parts.items()} == aligned.summary["items"]
    encoded = prompts_of(model, task.texts, WORD)
    plain = Reader(model, encoded, aligned.rows.ids.tolist()).all_states(None)
    onto = fit_head(plain, task.target, parts["train"], parts["validation"], seed=QUICK.seed)
    np.testing.assert_allclose(said["head"], onto.read(plain), atol=1e-3)
    before = said["before"].to_numpy()
    np.testing.assert_allclose(before, aligned.head.read(plain), atol=1e-4)
    np.testing.assert_allclose(
        said["shift"], shifted(before, task.target, parts["train"]), atol=1e-6
    )
    assert np.abs(said["random rows"] - before).max() > 1e-3, "no random row was trained"
    # What the test items' consensus is changes nothing that is said of them.
    rng, target = np.random.default_rng(5), task.target.copy()
    target[parts["test"]] = rng.permutation(target[parts["test"]])
    again = align(model, replace(task, target=target), QUICK, others=[])
    for arm in ARMS:
        np.testing.assert_array_equal(again.predictions[arm], said[arm])
    for arm in ARMS:
        scores = said[arm].to_numpy()[parts["test"]]
        js = agreement.divergence(scores, task.target[parts["test"]])
        assert value(aligned.arms, arm, "js") == pytest.approx(js, abs=1e-9)


def test_the_model_itself_is_asked_with_its_rows_and_without(found) -> None:  # type: ignore[no-untyped-def]
    model, task, aligned, _ = found
    groups = siblings(task.texts)
    chosen = np.random.default_rng(QUICK.seed).permutation(groups.max() + 1)
    test = np.flatnonzero(np.isin(groups, chosen[: round(0.25 * (groups.max() + 1))]))
    asked = aligned.summary["asked"]

    def naive(one: str) -> float:
        logits = []
        for options in (ACCEPTABLE, ACCEPTABLE[::-1]):
            text = lettered(f"{one}\n\nJudge this by {WORD}. Is it morally acceptable?", options)
            ids = model.tokenizer(f"{text}\n\nAnswer:")["input_ids"]
            p = {}
            for letter in "AB":
                total = 0.0
                for variant in (letter, f" {letter}"):
                    own = model.tokenizer(variant, add_special_tokens=False)["input_ids"]
                    with torch.no_grad():
                        out = model.model(torch.tensor([[*ids, *own]])).logits[0].log_softmax(-1)
                    at = range(len(ids) - 1, len(ids) + len(own) - 1)
                    total += np.exp(sum(float(out[i, t]) for i, t in zip(at, own, strict=True)))
                p[letter] = total
            odds = np.log(p["A"]) - np.log(p["B"])
            logits.append(odds if options is ACCEPTABLE else -odds)
        return float(expit(np.mean(logits)))

    before = np.array([naive(task.texts[i]) for i in test])
    with changed_rows(model, aligned.rows):
        after = np.array([naive(task.texts[i]) for i in test])
    js = [agreement.divergence(p, task.target[test]) for p in (before, after)]
    assert asked["n"] == len(test) and asked["js"] == pytest.approx(js[0], rel=1e-3)
    assert asked["gain"] == pytest.approx(js[1] - js[0], rel=2e-2, abs=1e-6)
    assert asked["moved"] == pytest.approx(np.abs(after - before).mean(), rel=1e-3)
    assert asked["moved"] > 1e-4 and asked["holds"] == 1
    still = {**aligned.summary, "asked": {**asked, "holds": 0.0}, "neutral_tokens_trained": 0}
    lines = "\n".join(of_alignment(aligned.arms, aligned.elsewhere, still))
    assert lines.count("no change") == 2
    assert "asked again" in "\n".join(
        of_alignment(aligned.arms, aligned.elsewhere, aligned.summary)
    )


def test_what_the_rows_do_elsewhere_is_held_against_the_consensus_there(found) -> None:  # type: ignore[no-untyped-def]
    model, task, aligned, _ = found
    said = {row["word"]: row for row in aligned.elsewhere.to_dicts()}
    own = said[WORD]
    assert own["js"] == pytest.approx(value(aligned.arms, "before", "js"), rel=1e-3)
    for name in ("gain", "gain_low", "gain_high"):
        assert own[name] == pytest.approx(value(aligned.arms, "rows", "js", name), abs=1e-4)
    # No token of theirs is trained, and so nothing changes.
    assert not said["kindness"]["shares_token"] and said["kindness"]["moved"] == 0
    assert said["kindness"]["gain"] == said["kindness"]["gain_high"] == 0
    assert said["deontology"]["js"] is None and said["deontology"]["n"] == 0
    groups = siblings(task.texts)
    chosen = np.random.default_rng(QUICK.seed).permutation(groups.max() + 1)
    test = np.flatnonzero(np.isin(groups, chosen[: round(0.25 * (groups.max() + 1))]))
    rows = aligned.rows
    reads = {}
    for word in ("virtue", "Qvirtue"):
        reader = Reader(
            model, prompts_of(model, [task.texts[i] for i in test], word), rows.ids.tolist()
        )
        reads[word] = [aligned.head.read(reader.all_states(some)) for some in (None, rows)]
    virtue = task.elsewhere["virtue"][test]
    there = np.isfinite(virtue)
    assert said["virtue"]["n"] == there.sum() < len(test)
    expected = agreement.divergence(reads["virtue"][0][there], virtue[there])
    assert said["virtue"]["js"] == pytest.approx(expected, rel=1e-3)
    # Another word for the theory is held against the theory's own.
    before, after = reads["Qvirtue"]
    row, target = said["Qvirtue"], task.target[test]
    assert row["shares_token"] and row["moved"] == pytest.approx(
        np.abs(after - before).mean(), rel=1e-3
    )
    gain = agreement.divergence(after, target) - agreement.divergence(before, target)
    assert (
        row["gain"] == pytest.approx(gain, abs=1e-5) and row["gain_low"] <= gain <= row["gain_high"]
    )
    lines = "\n".join(of_alignment(aligned.arms, aligned.elsewhere, aligned.summary))
    assert "no token is shared: kindness, virtue, deontology" in lines


def test_a_text_that_is_too_long_is_left_out_and_said() -> None:
    model = tiny("llama")
    task = planted(model, SIZE)
    long = replace(task, texts=("x" * 5000, *task.texts[1:]))
    model.model.config.max_position_embeddings = 4096
    short = replace(
        task, texts=task.texts[1:], own=task.own[1:], target=task.target[1:], elsewhere={}
    )
    quick = replace(QUICK, lambdas=(0.0,), epochs=1, draws=20)
    one, other = (align(model, some, quick, others=["fairness"]) for some in (long, short))
    assert one.summary["too_long"] == 1 and other.summary["too_long"] == 0
    assert one.arms.equals(other.arms)
    assert "1 texts left out" in "\n".join(of_alignment(one.arms, one.elsewhere, one.summary))
    model.model.config.max_position_embeddings = 8
    with pytest.raises(DataError, match="no text can be read whole"):
        align(model, task, quick)


def test_where_nothing_is_to_be_learnt_nothing_is_claimed() -> None:
    model = tiny("llama")
    task = planted(model, SIZE)
    same = Task(task.texts, task.own, task.own, task.theory, task.word)
    aligned = align(model, same, QUICK)
    words = ["virtue", "deontology", "utilitarianism", "commonsense", "fairness"]
    assert aligned.elsewhere["word"].to_list() == [WORD, *words]
    assert not aligned.helps
    assert "no surely nearer" in of_alignment(aligned.arms, aligned.elsewhere, aligned.summary)[-1]


def test_a_price_on_drift_keeps_rows_nearer() -> None:
    model = tiny("llama")
    task = planted(model, SIZE)
    encoded = prompts_of(model, task.texts, WORD)
    ids = marked_ids(encoded)
    parts = {"train": list(range(100)), "validation": list(range(100, N))}
    reader = Reader(model, encoded, ids, parts)
    head = random_head(model, reader.all_states(None))
    drift = [
        float(train_rows(reader, ids, head, task.target, price, QUICK).rows.drift(model).mean())
        for price in (0.0, 5.0)
    ]
    assert drift[1] < 0.5 * drift[0]
    still = train_rows(reader, ids, head, task.own, 0.0, QUICK)
    assert still.loss < 1e-6 and not bool(still.rows.delta.any()), "no epoch was better than none"


def test_only_the_published_arm_trains_its_head() -> None:
    model = tiny("llama")
    task = planted(model, SIZE)
    encoded = prompts_of(model, task.texts, WORD)
    ids = marked_ids(encoded)
    reader = Reader(model, encoded, ids, {"train": range(100), "validation": range(100, N)})
    head = random_head(model, reader.all_states(None))
    kept = {name: values.clone() for name, values in head.state_dict().items()}
    alone = train_rows(reader, ids, head, task.target, 0.0, QUICK)
    both = train_rows(reader, ids, head, task.target, 0.0, QUICK, head_too=True)
    for name, values in kept.items():
        assert torch.equal(head.state_dict()[name], values)
        assert torch.equal(alone.head.state_dict()[name], values)
    assert any(not torch.equal(both.head.state_dict()[n], v) for n, v in kept.items())


def test_texts_that_begin_alike_are_on_one_side() -> None:
    alike = [f"I used to walk with my dog because {k}" for k in range(18)]
    assert siblings(alike).max() == 0, "the first six words are the same"
    groups = siblings([f"{k % 50} used to walk with it {k}" for k in range(200)])
    parts = split(groups, np.random.default_rng(0))
    assert sum(map(len, parts.values())) == 200
    seen = [set(groups[some].tolist()) for some in parts.values()]
    assert all(not a & b for i, a in enumerate(seen) for b in seen[i + 1 :])
    with pytest.raises(DataError, match="too much alike"):
        split(siblings(alike), np.random.default_rng(0))


def test_siblings_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.random(40), rng.random(40)
    how = {"draws": 400, "seed": 0}
    alone = agreement.beside({"a": p}, q, "a", **how)
    many = agreement.beside(
        {"a": np.repeat(p, 9)}, np.repeat(q, 9), "a", **how, groups=np.repeat(np.arange(40), 9)
    )
    for column in ("value", "value_low", "value_high"):
        np.testing.assert_allclose(alone[column], many[column], rtol=1e-9)


def test_a_control_that_is_as_near_is_named(found) -> None:  # type: ignore[no-untyped-def]
    _, _, aligned, _ = found
    arms = aligned.arms
    above = value(arms, "shift", "js", "above_rows")
    assert above == pytest.approx(value(arms, "shift", "js") - value(arms, "rows", "js"), abs=1e-12)
    said = of_alignment(arms, aligned.elsewhere, aligned.summary)[-1]
    for arm in ("shift", "head", "random rows"):
        sure = (value(arms, arm, "js", "above_rows_low") or 0) > 0
        assert sure or arm in said
    blind = {**aligned.summary, "head": {"r2": -1.0, "error": 0.1}}
    assert "nothing is said of the model" in of_alignment(arms, aligned.elsewhere, blind)[-1]


def test_a_head_learns_what_states_say_and_nothing_where_they_say_nothing() -> None:
    rng = np.random.default_rng(0)
    states = torch.tensor(rng.normal(size=(400, 16)), dtype=torch.float32) * 7 + 3
    truth = expit(np.asarray((states[:, 0] - 3) / 7 * 2))
    parts = np.split(np.arange(400), (250, 320))
    head = fit_head(states, truth, parts[0], parts[1], seed=0)
    assert head.fidelity(states, truth, parts[2])["r2"] > 0.9
    shuffled = rng.permutation(truth)
    nothing = fit_head(states, shuffled, parts[0], parts[1], seed=0)
    assert nothing.fidelity(states, shuffled, parts[2])["r2"] < 0.1
    flat = np.full(400, 0.4)
    found = fit_head(states, flat, parts[0], parts[1], seed=0).fidelity(states, flat, parts[2])
    assert found["r2"] is None and found["error"] < 0.05


def test_a_head_of_many_dimensions_and_few_items_is_no_worse_than_the_mean() -> None:
    """A model's scores may hardly vary: what a head begins with must not be all that it says."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        states = torch.tensor(rng.normal(size=(160, 576)), dtype=torch.float32)
        own = 0.5 + 0.006 * rng.normal(size=160)
        parts = np.split(np.arange(160), (90, 120))
        found = fit_head(states, own, parts[0], parts[1], seed=0).fidelity(states, own, parts[2])
        assert found["r2"] > -0.5 and found["error"] < 0.01


def test_rows_are_asked_again_where_they_were_trained(tmp_path: Path) -> None:
    model = tiny("llama")
    ids = torch.tensor(model.tokenizer("fair", add_special_tokens=False)["input_ids"])
    rows = Rows(ids, torch.randn(len(ids), model.d_model))
    save_file({"ids": rows.ids, "delta": rows.delta}, tmp_path / "rows.safetensors")
    (tmp_path / "align.json").write_text(json.dumps({"model": dict(model.identity)}))
    plain = LocalText(model)
    other = with_rows(plain, tmp_path)
    asked = [Question("Is it fair?"), Question("Go?")]
    before, after = (dict(one.score_options(asked, ["A", "B"])) for one in (plain, other))
    with changed_rows(model, rows):
        held = dict(plain.score_options(asked, ["A", "B"]))
        said = dict(plain.complete(asked, max_tokens=4))
    assert after == held and after[0] != before[0]
    assert dict(other.complete(asked, max_tokens=4)) == said
    assert dict(plain.score_options(asked, ["A", "B"])) == before, "the rows stay behind"
    assert other.name != plain.name and other.family == plain.family
    assert other.identity != plain.identity
    with pytest.raises(ModelError, match="aren't of"):
        with_rows(LocalText(tiny("gpt2")), tmp_path)
    with pytest.raises(UsageError, match="can't be asked with other rows"):
        with_rows(Scripted("s", lambda q: ""), tmp_path)
    with pytest.raises(DataError, match="holds no trained rows"):
        with_rows(plain, tmp_path / "none")


def test_the_divergence_is_that_of_the_fit() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.random(50), rng.random(50)
    ours = divergence(torch.tensor(p), torch.tensor(q))
    assert float(ours.mean()) == pytest.approx(agreement.divergence(p, q), abs=1e-9)
    edge = divergence(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    assert edge[0] == pytest.approx(0, abs=1e-6) and edge[1] == pytest.approx(np.log(2), abs=1e-3)


def test_a_shift_finds_the_line_in_log_odds() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.3, 0.6, 200)
    target = expit(1.5 + 2.5 * logit(p))
    found = shifted(p, target, np.arange(100))
    np.testing.assert_allclose(found, target, atol=1e-3)


def scored(
    folder: Path, *, text: bool = True, n: int = 40, models: str = "abcm", noise: bool = False
) -> Path:
    rng = np.random.default_rng(0)
    rows = ["model,theory,item,score" + (",text" if text else "")]
    for m in models:
        for i in range(n):
            score = 0.1 + 0.5 * (i % 2) + 0.03 * ((7 * i + 3 * ord(m)) % 11)
            score = rng.normal(0.5, 0.1) if noise else score
            rows.append(f"{m},justice,{i},{score:.2f}" + (f",deed {i}" if text else ""))
    (folder / "s.csv").write_text("\n".join(rows))
    fit_consensus(load_scores(folder / "s.csv"), draws=20, shuffles=19).save(folder / "c")
    return folder / "c"


def test_a_task_is_the_consensus_without_the_model(tmp_path: Path) -> None:
    task = task_of(scored(tmp_path), "m", "justice")
    assert task.texts[:2] == ("deed 0", "deed 1") and len(task.texts) == 40
    left = pl.read_parquet(tmp_path / "c" / "left_out.parquet").filter(model="m")
    np.testing.assert_array_equal(task.target, left["consensus"].to_numpy())
    np.testing.assert_array_equal(task.own, left["score"].to_numpy())
    assert task.through is None and task.elsewhere == {}
    assert task.word == "justice" and task_of(tmp_path / "c", "m", "justice", "law").word == "law"


def test_a_task_knows_the_words_it_was_asked_by_and_the_other_theories(tmp_path: Path) -> None:
    folder = scored(tmp_path)
    rows = (tmp_path / "s.csv").read_text().splitlines()
    more = [
        row.replace(",justice,", ",care,") for row in rows[1:] if not row.startswith("m,justice,0,")
    ]
    (tmp_path / "judged").mkdir()
    table = pl.read_csv("\n".join([*rows, *more]).encode(), schema_overrides={"item": pl.String})
    table.write_parquet(tmp_path / "judged" / "scores.parquet")
    words = {"theories": {"care": "through care for those near", "justice": "by the law"}}
    (tmp_path / "judged" / "score.json").write_text(json.dumps(words))
    fit_consensus(load_scores(tmp_path / "judged"), draws=20, shuffles=19).save(folder)
    assert task_of(folder, "m", "care").through == "through care for those near"
    task = task_of(folder, "m", "justice")
    assert task.through == "by the law" and list(task.elsewhere) == ["care"]
    left = pl.read_parquet(folder / "left_out.parquet").filter(model="m", theory="care")
    np.testing.assert_array_equal(task.elsewhere["care"], left["consensus"].to_numpy())
    # Items are put together by name, whatever else is there.
    items = pl.read_parquet(folder / "left_out.parquet")
    items = items.filter(~((pl.col("theory") == "care") & (pl.col("item") == "3")))
    items.sample(fraction=1, shuffle=True, seed=0).write_parquet(folder / "left_out.parquet")
    mixed = task_of(folder, "m", "justice")
    order = [task.texts.index(text) for text in mixed.texts]
    expected = np.where(np.array(order) == 3, np.nan, task.elsewhere["care"][order])
    np.testing.assert_array_equal(mixed.elsewhere["care"], expected)


@pytest.mark.parametrize(
    ("make", "model", "theory", "said"),
    [
        (lambda f: f / "none", "m", "justice", "holds no consensus"),
        (lambda f: scored(f, text=False), "m", "justice", "doesn't say what was judged"),
        (scored, "z", "justice", "has no model 'z'"),
        (scored, "m", "virtue", "has no theory 'virtue'"),
        (lambda f: scored(f, n=20), "m", "justice", "too few items"),
        (lambda f: scored(f, models="am"), "m", "justice", "no consensus without m"),
        (lambda f: scored(f, noise=True), "m", "justice", "supports no consensus.*one class"),
    ],
)
def test_what_gives_no_task_is_refused(
    make: Callable[[Path], Path], model: str, theory: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        task_of(make(tmp_path), model, theory)


@pytest.mark.parametrize(
    "wrong",
    [{"lambdas": ()}, {"lambdas": (-1.0,)}, {"epochs": 0}, {"lr": 0.0}, {"most_drift": 0.0}],
)
def test_options_that_train_nothing_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match="can't train rows"):
        Options(**wrong)


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "m")
    consensus, out = scored(tmp_path), tmp_path / "out"
    quick = ["--epochs", "1", "--lambdas", "0", "--draws", "20", "--quiet", "--device", "cpu"]
    words = ["consensus", "align", str(folder), str(consensus), "--theory", "justice"]
    said = moralprobe(*words, "--out", str(out), *quick)
    assert said.code == 0, said.err
    assert "held out" in said.out and "Where the question names" in said.out
    about = json.loads((out / "align.json").read_text())
    assert about["question"] == QUESTION
    assert "fairness" in pl.read_parquet(out / "elsewhere.parquet")["word"].to_list()
    rows = load_file(out / "rows.safetensors")
    assert rows["delta"].shape == (len(about["tokens"]), 32)
    assert set(pl.read_parquet(out / "arms.parquet")["arm"]) == set(ARMS)
    assert (out / "head.safetensors").is_file()
    assert about["consensus"] == json.loads((consensus / "consensus.json").read_text())["scores"]
    (tmp_path / "d.txt").write_text("Lying\nGiving\n")
    words = ["consensus", "score", str(tmp_path / "d.txt"), "--models", str(folder)]
    words += ["--theories", "justice", "--rows", str(out), "--out", str(tmp_path / "again")]
    said = moralprobe(*words, "--quiet", "--device", "cpu")
    assert said.code == 0 and "m rows " in said.out, said.err


def test_a_closed_model_is_refused(tmp_path: Path) -> None:
    words = ["consensus", "align", "http://localhost:1/v1=m", "c", "--theory", "justice"]
    said = moralprobe(*words, "--out", str(tmp_path / "o"))
    assert said.code == 2 and "a model on a server can't be aligned" in said.err
    words[2] = "smollm2-135m"
    said = moralprobe(*words, "--out", str(tmp_path / "o"), "--lambdas", "a,b")
    assert said.code == 2 and "are no numbers" in said.err
