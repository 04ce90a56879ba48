"""A panel whose judgements are planted gives the scores that were planted, and a bad one is told."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.consensus.dilemmas import Dilemmas, load_dilemmas
from moralprobe.behavior.consensus.fitting import fit_consensus
from moralprobe.behavior.consensus.panel import (
    PLAIN,
    ROLES,
    THEORIES,
    panel_of,
    parse_roles,
    parse_theories,
)
from moralprobe.behavior.consensus.rating import (
    asked_by,
    noisy,
    readouts_agree,
    save_scores,
    score_panel,
)
from moralprobe.behavior.consensus.scores import load_scores
from moralprobe.behavior.consensus.votes import load_votes
from moralprobe.behavior.options import Readout
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.errors import DataError, UsageError
from moralprobe.report.consensus import of_scores
from moralprobe.steering.text import LocalText
from tests.conftest import shared_file
from tests.steering.test_generate import tiny

THROUGH = {"justice": THEORIES["justice"], "virtue": THEORIES["virtue"]}


def judge(name: str = "judge", *, gap: float = 3.0, noise: float = 0.5) -> Scripted:
    """Finds `good` acceptable and `bad` not, in log-odds; says numbers to match."""

    def worth(text: str, question: Question) -> float:
        sign = 1 if "good" in text else -1
        if "virtue" in question.text:
            sign = -sign  # under this theory the judge finds the opposite
        shift = 1.0 if question.system else 0.0
        draw = np.random.default_rng([len(name), *map(ord, text)]).normal()
        return gap / 2 * sign + shift + noise * draw

    def believes(question: Question) -> dict[str, float]:
        lines = re.findall(r"^[AB]\. (.*)$", question.text, re.M)
        if lines[0].startswith("It is"):
            text = question.text.splitlines()[0]
            odds = worth(text, question) * (1 if lines[0] == "It is acceptable." else -1)
        else:
            odds = worth(lines[0], question) - worth(lines[1], question)
        p = 1 / (1 + math.exp(-odds - 1.5))  # drawn to A
        return {"A": p, "B": 1 - p}

    def says(question: Question) -> str:
        if "from 0" not in question.text:
            return "A" if believes(question)["A"] > 0.5 else "B"
        p = 1 / (1 + math.exp(-worth(question.text.splitlines()[0], question)))
        return f"{10 * p:.0f}"

    return Scripted(name, says, believes)


def texts(n: int = 40) -> Dilemmas:
    words = tuple(f"{'good' if i % 2 else 'bad'} deed {i}" for i in range(n))
    return Dilemmas(tuple(f"d{i}" for i in range(n)), words, None, tuple(i % 2 for i in range(n)))


def test_scores_are_the_probability_of_acceptable_whatever_letter_it_has() -> None:
    model = judge(noise=0.0)
    found = score_panel(panel_of([model]), texts(), THROUGH, [Readout(), Readout("verbal")])
    assert found.height == 2 * 40
    for row in found.iter_rows(named=True):
        good = (int(row["item"][1:]) % 2 == 1) == (row["theory"] == "justice")
        p = 1 / (1 + math.exp(-1.5 if good else 1.5))
        assert row["score"] == row["logprob"] == pytest.approx(p)
        assert row["verbal"] == pytest.approx(round(10 * p) / 10)
        assert row["logprob_letters"] > 0.3 and row["logprob_mass"] == pytest.approx(1)
        assert row["logprob_status"] == row["verbal_status"] == "ok"
    assert found["model"].unique().to_list() == found["family"].unique().to_list() == ["judge"]


def test_of_two_texts_the_score_is_that_of_the_first() -> None:
    pairs = Dilemmas(("x", "y"), ("good a", "bad b"), ("bad b", "good a"))
    found = score_panel(
        panel_of([judge(noise=0.0)]), pairs, {"justice": THROUGH["justice"]},
        [Readout(), Readout("verbal"), Readout("sampled", 3)],
    )  # fmt: skip
    first, second = found.to_dicts()
    assert first["logprob"] == pytest.approx(1 / (1 + math.exp(-3)))
    assert second["logprob"] == pytest.approx(1 / (1 + math.exp(3)))
    high, low = 0.8, 0.2  # 10 * 0.82, 10 * 0.18
    assert first["verbal"] == pytest.approx(0.5 + (high - low) / 2)
    assert second["verbal"] == pytest.approx(0.5 - (high - low) / 2)
    assert (first["sampled"], second["sampled"]) == (1.0, 0.0)


def test_roles_are_told_and_make_a_family() -> None:
    raters = panel_of([judge(noise=0.0)], parse_roles("plain,nurse"))
    assert [(r.name, r.family, r.role) for r in raters] == [
        ("judge", "judge", None),
        ("judge@nurse", "judge", ROLES["nurse"]),
    ]
    found = score_panel(raters, texts(4), {"justice": THROUGH["justice"]}, [Readout()])
    logits = np.log(found["score"] / (1 - found["score"])).to_numpy()
    np.testing.assert_allclose(logits[4:] - logits[:4], 1.0, atol=1e-6)


def test_a_panel_of_scores_is_fitted_and_met_by_people(tmp_path: Path) -> None:
    models = [judge("clear"), judge("other one", gap=2.0), judge("a third judge", gap=2.5)]
    frames = [score_panel(panel_of([m]), texts(120), THROUGH, [Readout()]) for m in models]
    of = (texts(120), THROUGH, {PLAIN: None}, [Readout()], [dict(m.identity) for m in models])
    save_scores(tmp_path / "s", frames, *of)
    scores = load_scores(tmp_path / "s")
    assert scores.families == ("clear", "other one", "a third judge")
    found = fit_consensus(scores, draws=20, shuffles=19)
    assert found.summary["supported"]
    items = found.items.filter(theory="justice")
    votes = load_votes(tmp_path / "s" / "people.parquet")
    right = [(p > 0.5) == (votes[i] > 0.5) for i, p in items.select("item", "consensus").rows()]
    assert np.mean(right) > 0.95
    with pytest.raises(UsageError, match="different names"):
        save_scores(tmp_path / "t", [frames[0], frames[0]], *of)


def test_what_cannot_be_read_is_null_and_counted() -> None:
    model = Scripted("shy", lambda q: "7" if q.text.startswith("bad") else "I can't say")
    found = score_panel(panel_of([model]), texts(4), THROUGH, [Readout("verbal")])
    assert found["score"].null_count() == 4 and found["score"].drop_nulls().to_list() == [0.7] * 4
    assert found["verbal_status"].to_list() == ["ok", "refused"] * 4
    assert found["verbal_said"][1] == "I can't say"
    lines = of_scores(found)
    assert "2 of 4 scored" in lines[0] and "verbal refused: 2" in lines[0]


def test_readouts_that_say_the_same_agree_and_others_do_not() -> None:
    found = score_panel(panel_of([judge()]), texts(60), THROUGH, [Readout(), Readout("verbal")])
    (row,) = readouts_agree(found).to_dicts()
    assert row["spearman"] > 0.9 and row["ci_low"] < row["spearman"] <= row["ci_high"]
    assert row["n"] == 120 and row["apart"] < 0.05
    mixed = found.with_columns(pl.col("verbal").shuffle(seed=0))
    (row,) = readouts_agree(mixed).to_dicts()
    assert row["ci_low"] < 0 < row["ci_high"]
    flat = found.with_columns(verbal=pl.lit(0.5))
    (row,) = readouts_agree(flat).to_dicts()
    assert row["spearman"] is None and row["apart"] > 0.1
    assert "Do the readouts agree" in "\n".join(of_scores(flat))
    assert "constant" in of_scores(flat)[-1]


def test_progress_counts_every_answer() -> None:
    readouts = [Readout(), Readout("sampled", 3), Readout("verbal")]
    pairs = Dilemmas(("x",), ("good a",), ("bad b",))
    assert [asked_by(texts(4), r) for r in readouts] == [8, 24, 4]
    assert [asked_by(pairs, r) for r in readouts] == [2, 6, 2]
    seen: list[tuple[int, int]] = []
    score_panel(
        panel_of([judge()]), texts(4), THROUGH, readouts,
        progress=lambda done, total, detail: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (72, 72)
    with pytest.raises(UsageError, match="named once"):
        score_panel(panel_of([judge()]), texts(4), THROUGH, [Readout(), Readout()])


def test_a_panel_is_of_models_with_names_of_their_own() -> None:
    for models in ([], [judge(), judge()]):
        with pytest.raises(UsageError, match="different names"):
            panel_of(models)


def test_theories_are_ours_or_spelled_out() -> None:
    assert parse_theories(" justice, care = through care ") == {
        "justice": THEORIES["justice"],
        "care": "through care",
    }
    with pytest.raises(UsageError, match=r"no theory 'deontolgy'.*deontology"):
        parse_theories("deontolgy")
    for text in ("", "care="):
        with pytest.raises(UsageError):
            parse_theories(text)


def test_roles_are_ours_or_of_a_file(tmp_path: Path) -> None:
    assert parse_roles("") == {PLAIN: None}
    with pytest.raises(UsageError, match=r"no role 'nurze'.*nurse"):
        parse_roles("nurze")
    path = tmp_path / "roles.csv"
    path.write_text("role,text\nsmith,You are a smith.\nnobody,\n")
    assert parse_roles(str(path)) == {"smith": "You are a smith.", "nobody": None}
    for text in ("a,b\n1,2\n", "role,text\n,x\n", "role,text\nx,a\nx,b\n", "role,text\n"):
        path.write_text(text)
        with pytest.raises(DataError):
            parse_roles(str(path))


def test_dilemmas_are_read_from_what_people_have(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_text("Lying to a friend\n\nHelping one\n")
    assert load_dilemmas(path) == Dilemmas(("1", "2"), ("Lying to a friend", "Helping one"))
    table = tmp_path / "d.csv"
    table.write_text('item,text,other,share\na,"x, y",z,0.2\nb,u,v,\n')
    found = load_dilemmas(table)
    assert found == Dilemmas(("a", "b"), ("x, y", "u"), ("z", "v"), (0.2, None))
    pl.read_csv(table).write_parquet(tmp_path / "d.parquet")
    assert load_dilemmas(tmp_path / "d.parquet") == found
    assert len(Dilemmas(tuple("abcdef"), tuple("uvwxyz")).first(3)) == 3
    assert Dilemmas(tuple("abcd"), tuple("wxyz")).first(2).items == ("a", "c")
    table.write_text("text,other\nx,y\nz,\n,w\n")
    assert load_dilemmas(table) == Dilemmas(("1",), ("x",), ("y",), None, left_out=2)
    assert found.first(0) is found.first(9) is found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column 'text'"),
        ("text\n", "nothing to judge"),
        ("item,text\na,x\na,y\n", "an item twice"),
        ("text,other\nx,\n,z\n", "nothing to judge"),
        ("text,share\nx,1.2\n", "between 0 and 1"),
        ("text,share\nx,80%\n", "no numbers.*80%"),
        ("item,text\na,x\n,y\n", "items without a name"),
        ("item,text\na,x\na ,y\n", "an item twice"),
        ("label,scenario\n1,She smiled. [SEP] kind\n", "whether a word is true"),
    ],
)
def test_what_is_no_table_of_dilemmas_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_dilemmas(path)
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="can't read"):
        load_dilemmas(tmp_path / "d.txt")


def test_a_table_of_other_kinds_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pl.DataFrame({"text": [["x"], ["y"]]}).write_parquet(path)
    with pytest.raises(DataError, match="holds lists"):
        load_dilemmas(path)
    pl.DataFrame({"text": ["x", "y"], "other": [1, 2], "item": [7, 8]}).write_parquet(path)
    assert load_dilemmas(path) == Dilemmas(("7", "8"), ("x", "y"), ("1", "2"))
    pl.DataFrame({"item": ["q"], "scenario": ["z"], "label": [1]}).write_parquet(path)
    assert load_dilemmas(path) == Dilemmas(("q",), ("z",), None, (1.0,))


def test_votes_of_other_dilemmas_are_taken_away(tmp_path: Path) -> None:
    raters, through = panel_of([judge()]), {"justice": THROUGH["justice"]}
    for voted in (texts(4), Dilemmas(("1",), ("good",))):
        scores = score_panel(raters, voted, through, [Readout()])
        save_scores(tmp_path, [scores], voted, through, {PLAIN: None}, [Readout()], [{}])
        assert (tmp_path / "people.parquet").exists() == (voted.shares is not None)


def test_an_item_of_two_texts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("model,item,text,score\na,1,cat,0.2\nb,1,dog,0.4\n")
    with pytest.raises(DataError, match="an item has two texts"):
        load_scores(path)
    path.write_text("model,item,text,score\na,1,,0.2\nb,1,dog,0.4\n")
    assert load_scores(path).texts == ("dog",)


def test_a_noisy_judge_scores_as_its_parameters_say() -> None:
    label = {f"deed {i}": i % 2 == 0 for i in range(2000)}
    judged = Dilemmas(tuple(label), tuple(label))
    model = noisy("known", label, (0.7, 0.1, 0.3, 0.15))
    through = {"justice": THROUGH["justice"]}
    found = score_panel(panel_of([model]), judged, through, [Readout(), Readout("verbal")])
    score, good = found["score"].to_numpy(), np.array(list(label.values()))
    for some, mean, width in ((good, 0.7, 0.1), (~good, 0.3, 0.15)):
        assert score[some].mean() == pytest.approx(mean, abs=0.02)
        assert score[some].std() == pytest.approx(width, abs=0.02)
    np.testing.assert_allclose(found["verbal"].to_numpy(), score, atol=0.0051)
    strange = Dilemmas(("x",), ("unheard of",))
    found = score_panel(panel_of([model]), strange, through, [Readout(), Readout("verbal")])
    assert found["score"].null_count() == found["verbal"].null_count() == 1
    listed = Scripted("listed", ["7", "no"])
    found = score_panel(panel_of([listed]), texts(2), through, [Readout("verbal")])
    assert found["score"].to_list() == [0.7, None]


def test_scruples_dilemmas_have_their_votes() -> None:
    path = shared_file("scruples", "dev_dilemmas_with_votes.csv")
    found = load_dilemmas(path)
    raw = pl.read_csv(path)
    assert len(found) + found.left_out == raw.height and found.left_out == 12
    assert found.others is not None and found.shares is not None
    for k in (0, 7, 1000):
        i = int(found.items[k]) - 1  # an item is known by its line
        one, two = raw["votes_1_less_ethical"][i], raw["votes_2_less_ethical"][i]
        assert found.texts[k] == raw["action_1"][i] and found.shares[k] == two / (one + two)


@pytest.mark.parametrize(
    ("name", "wrong"), [("cm_test", 1), ("justice_test", 0), ("deontology_test", 0)]
)
def test_ethics_files_say_what_is_acceptable(name: str, wrong: int) -> None:
    path = shared_file("ethics", f"{name}.csv")
    found, raw = load_dilemmas(path), pl.read_csv(path)
    assert len(found) == raw.height and found.shares is not None
    assert [bool(share) for share in found.shares] == [label != wrong for label in raw["label"]]
    if name == "deontology_test":
        assert found.texts[0] == f"{raw['scenario'][0]} {raw['excuse'][0]}"


def test_judges_that_are_drawn_err_apart() -> None:
    """By name, by theory and by seed; and each says of a text what it said of it before."""
    texts = {f"deed {i}": i % 2 == 0 for i in range(200)}
    judged = Dilemmas(tuple(map(str, range(200))), tuple(texts))
    theories = {"justice": "through justice", "virtue": "through virtue"}
    raters = panel_of([noisy(name, texts, (0.6, 0.15, 0.4, 0.15)) for name in "ab"])
    found = score_panel(raters, judged, theories, [Readout(), Readout("verbal")])
    by = {
        key: some.sort("item")
        for key, some in found.group_by("model", "theory", maintain_order=True)
    }
    label = np.array([one == "0" or int(one) % 2 == 0 for one in by["a", "justice"]["item"]])
    rest = {key: some["score"].to_numpy() - np.where(label, 0.6, 0.4) for key, some in by.items()}
    for one, other in (("a", "justice"), ("b", "justice")), (("a", "justice"), ("a", "virtue")):
        assert abs(np.corrcoef(rest[one], rest[other])[0, 1]) < 0.25
    same = by["a", "justice"]
    np.testing.assert_allclose(same["logprob"], same["verbal"], atol=0.006)


def test_models_without_an_opinion_do_not_agree_by_their_draws() -> None:
    """Of samples each model has its own: else what one errs in the others err in too."""
    found = {}
    for arch in ("llama", "gpt2"):
        where = LocalText(tiny(arch))
        asked = [Question(f"item {i}", seed=k) for i in range(12) for k in range(4)]
        said = dict(where.complete(asked, max_tokens=1, temperature=1.0))
        found[arch] = [said[i] for i in range(len(asked))]
    draws = [Question("x", None, 3).draw(name) for name in ("a", "b")]
    assert draws[0] != draws[1]
    assert Question("x", "role", 3).draw("a") != draws[0] != Question("x", None, 4).draw("a")
    assert Question("other", None, 3).draw("a") == draws[0]
    same = np.mean([a == b for a, b in zip(*found.values(), strict=True)])
    assert same < 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("action_1,action_2,votes_1_less_ethical,votes_2_less_ethical\na,b,x,3\n", "no numbers"),
        ("scenario,label\na,yes\n", "labels that are no numbers"),
    ],
)
def test_votes_and_labels_that_are_no_numbers_are_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_dilemmas(tmp_path / "d.csv")


def test_a_text_is_a_line_whatever_signs_are_in_it(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes("\ufeffLying\u2028to a friend\r\nGiving\n".encode())
    assert load_dilemmas(tmp_path / "d.txt").texts == ("Lying\u2028to a friend", "Giving")
