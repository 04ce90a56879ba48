from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.data.schema import VECTOR_COLUMNS
from moralprobe.errors import DataError, UsageError
from moralprobe.foundations import AXES, AXIS_TAGS, POLES
from moralprobe.moral_vectors import MoralVectors, build_vectors, vectors_li2026

TAG_SETS = [c for k in range(1, 6) for c in itertools.combinations(range(5), k)]


def naive_vector(judgment: float, agreement: float, tags: set[str]) -> list[float]:
    """The formula of the method, spelled out: spec 1.2."""
    v, w = judgment / 2, agreement / 4
    h = []
    for tag in (
        "care-harm",
        "fairness-cheating",
        "loyalty-betrayal",
        "authority-subversion",
        "sanctity-degradation",
    ):
        h.append(max(0, v) * w if tag in tags else 0)
        h.append(max(0, -v) * w if tag in tags else 0)
    return h


def write_table(path: Path, rows: list[dict[str, object]], separator: str = "\t") -> Path:
    pl.DataFrame(rows).write_csv(path, separator=separator)
    return path


def row(
    action: str,
    tags: str = "care-harm",
    judgment: object = 1,
    agreement: object = 3,
    **more: object,
) -> dict[str, object]:
    return {
        "action": action,
        "rot-moral-foundations": tags,
        "action-moral-judgment": judgment,
        "action-agree": agreement,
        **more,
    }


def test_every_combination_equals_the_formula_written_naively(tmp_path: Path) -> None:
    cells = list(itertools.product(range(-2, 3), range(5), TAG_SETS))
    assert len(cells) == 5 * 5 * 31
    tags = np.array([[k in chosen for k in range(5)] for _, _, chosen in cells])
    J = np.array([j for j, _, _ in cells])
    A = np.array([a for _, a, _ in cells])
    expected = [naive_vector(j, a, {AXIS_TAGS[k] for k in chosen}) for j, a, chosen in cells]
    np.testing.assert_array_equal(vectors_li2026(J, A, tags), np.array(expected, np.float32))

    # and through a file: every pair of the table carries its row's whole vector
    path = write_table(
        tmp_path / "all.tsv",
        [
            row(f"action {i}", "|".join(AXIS_TAGS[k] for k in chosen), j, a)
            for i, (j, a, chosen) in enumerate(cells)
        ],
    )
    table = build_vectors(path)
    assert len(table) == sum(len(chosen) for _, _, chosen in cells)
    np.testing.assert_array_equal(
        table.vectors(), np.array(expected, np.float32)[table.frame["row"].to_numpy()]
    )


def test_published_examples() -> None:
    tags = np.array([[False, False, True, False, False], [True, False, True, False, False]])
    h = vectors_li2026(np.array([-1, -2]), np.array([3, 4]), tags)
    assert dict(zip(POLES, h[0], strict=True))["betrayal"] == 0.375
    assert np.count_nonzero(h[0]) == 1
    assert {p for p, x in zip(POLES, h[1], strict=True) if x == 1.0} == {"harm", "betrayal"}


def test_permissible_file_equals_naive_on_the_rows_the_paper_keeps(permissible: Path) -> None:
    source = pl.read_csv(permissible, separator="\t", infer_schema=False).with_row_index("row")
    kept = [
        r
        for r in source.iter_rows(named=True)
        if r["rot-bad"] == "0"
        and r["m"] == "1"
        and all(
            r[c] not in (None, "")
            for c in ("action", "rot-moral-foundations", "action-moral-judgment", "action-agree")
        )
    ]
    assert len(kept) == 10_639
    expected = {
        r["row"]: naive_vector(
            float(r["action-moral-judgment"]),
            float(r["action-agree"]),
            set(r["rot-moral-foundations"].split("|")),
        )
        for r in kept
    }
    table = build_vectors(permissible)
    assert set(table.frame["row"]) == set(expected)
    assert len(table) == sum(len(r["rot-moral-foundations"].split("|")) for r in kept)
    for r, vector in zip(table.frame["row"], table.vectors(), strict=True):
        assert vector.tolist() == expected[r]


def test_columns_polarity_and_stance(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "t.tsv",
        [
            row("helping", judgment=2, agreement=4),
            row("hurting", judgment=-2, agreement=4),
            row("walking", judgment=0, agreement=4),
            row("doubted", judgment=-1, agreement=0),
        ],
    )
    table = build_vectors(path).frame
    assert table.columns == list(VECTOR_COLUMNS)
    assert table["polarity"].to_list() == ["virtue", "vice", "neutral", "neutral"]
    assert table["stance"].to_list() == ["virtue", "vice", "expected", "contested"]
    assert table["category"].to_list() == ["care", "harm", None, None]
    assert table["score"].to_list() == [1, 1, 0, 0]


def test_merge_by_normalised_text(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "t.tsv",
        [
            row("Being  Rude ", "care-harm|loyalty-betrayal", -2, 4),
            row("being rude", "care-harm", 0, 2),
            row("something else", "care-harm", 1, 1),
        ],
    )
    frame = build_vectors(path).frame
    rude = frame.filter(pl.col("merged_n") == 2)
    assert rude.height == 3 and rude["group"].n_unique() == 1
    assert set(rude["merged_judgment"]) == {-1.0} and set(rude["merged_agreement"]) == {3.0}
    assert rude["merged_judgment_sd"][0] == pytest.approx(np.std([-2, 0], ddof=1))
    assert set(rude["frequency_care-harm"]) == {1.0} and set(
        rude["frequency_loyalty-betrayal"]
    ) == {0.5}
    assert set(rude["action"]) == {"Being  Rude ", "being rude"}, "texts are kept verbatim"


def test_rules_count_what_they_drop_and_say_what_does_not_apply(tmp_path: Path) -> None:
    full = write_table(
        tmp_path / "full.tsv",
        [
            row("a b", m=1, **{"rot-bad": 0}),
            row("bad one", m=1, **{"rot-bad": 1}),
            row("five workers", m=5, **{"rot-bad": 0}),
            row("bad and five", m=5, **{"rot-bad": 1}),
            row("", m=1, **{"rot-bad": 0}),
            row("   ", m=1, **{"rot-bad": 0}),
            row("no tags", "", m=1, **{"rot-bad": 0}),
        ],
    )
    rules = {r["name"]: r["dropped"] for r in build_vectors(full).meta["rules"]}
    assert rules == {
        "rot-bad is not 0": 2,
        "m is not 1": 1,
        "no action": 2,
        "no moral foundation": 1,
        "no judgment": 0,
        "no action-agree": 0,
    }
    both = build_vectors(full, schema="factored")
    assert {r["name"]: r["dropped"] for r in both.meta["rules"]}["m is not 1"] is None
    assert dict(both.frame.select("action", "paper").iter_rows()) == {
        "a b": True,
        "five workers": False,
    }
    bare = write_table(tmp_path / "bare.tsv", [row("a b")])
    rules = {r["name"]: r["dropped"] for r in build_vectors(bare).meta["rules"]}
    assert rules["rot-bad is not 0"] is None and rules["m is not 1"] is None


def test_agreement_from_the_other_column_is_asked_for_never_assumed(tmp_path: Path) -> None:
    only_rot = [{**row("a b"), "rot-agree": 4}]
    for r in only_rot:
        del r["action-agree"]
    path = write_table(tmp_path / "t.tsv", only_rot)
    with pytest.raises(DataError, match=r"no column 'action-agree'.*--agreement rot-agree"):
        build_vectors(path)
    table = build_vectors(path, agreement="rot-agree")
    assert table.frame["score"].to_list() == [0.5]
    assert table.frame["rot_agree"].to_list() == [4]


def test_groups_never_straddle_splits(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "t.tsv",
        [
            row("same text", split="test"),
            row("Same  text", split="train"),
            row("other", split="dev"),
            row("third", split="test"),
        ],
    )
    frame = build_vectors(path).frame
    assert frame.group_by("group").agg(pl.col("split").n_unique())["split"].to_list() == [1, 1, 1]
    assert dict(frame.select("action", "split").iter_rows()) == {
        "same text": "train",
        "Same  text": "train",
        "other": "dev",
        "third": "test",
    }
    hashed = build_vectors(
        write_table(tmp_path / "h.tsv", [row(f"text {i}") for i in range(2000)])
    ).frame
    shares = dict(hashed["split"].value_counts(normalize=True).iter_rows())
    assert shares["train"] == pytest.approx(0.8, abs=0.04) and shares["test"] == pytest.approx(
        0.1, abs=0.03
    )


def contradictory(folder: Path) -> Path:
    return write_table(
        folder / "t.tsv",
        [
            row("lying", judgment=-1, split="train"),
            row("Lying ", judgment=2, split="test"),
            row("helping", judgment=1, split="dev"),
            row("HELPING", judgment=2, split="dev"),
            row("other", judgment=0, split="test"),
        ],
    )


def test_texts_that_repeat_or_contradict_each_other_are_counted(tmp_path: Path) -> None:
    table = build_vectors(contradictory(tmp_path))
    assert table.meta["findings"] == [
        {"name": "stand in several rows", "texts": 2, "example": "lying"},
        {"name": "are judged good and bad", "texts": 1, "example": "lying"},
        {"name": "stand in several splits of the source", "texts": 1, "example": "lying"},
    ]
    assert len(table) == 5
    assert table.frame.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert build_vectors("starter", strict=True).meta["findings"] == []


def test_strict_refuses_them_with_their_number_and_one_of_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"2 texts stand in several rows, one is 'lying'; 1 texts are"
    ) as caught:
        build_vectors(contradictory(tmp_path), strict=True)
    assert caught.value.exit_code == 1 and "--strict" in caught.value.instead


def test_rows_that_a_rule_drops_contradict_nobody(tmp_path: Path) -> None:
    rows = [row("lying", judgment=-1, **{"rot-bad": 0}), row("lying", judgment=1, **{"rot-bad": 1})]
    assert len(build_vectors(write_table(tmp_path / "t.tsv", rows), strict=True)) == 1


def test_save_and_load_are_one_and_the_same(tmp_path: Path) -> None:
    table = build_vectors("starter")
    again = MoralVectors.load(table.save(tmp_path / "v.parquet"))
    assert again.frame.equals(table.frame) and again.meta == table.meta
    (tmp_path / "no.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="moral vectors table"):
        MoralVectors.load(tmp_path / "no.parquet")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(DataError, match="columns missing"):
        MoralVectors.load(tmp_path / "foreign.parquet")


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean li2026"):
        build_vectors("starter", schema="li2025")
    with pytest.raises(UsageError, match="action-agree"):
        build_vectors("starter", agreement="agree")


def planted_annotators(path: Path, *, icc: float, workers: int, rules: int) -> Path:
    """Rules broken down by several workers, whose signed scores agree to a known degree."""
    rng = np.random.default_rng(5)
    rows = []
    for rule in range(rules):
        truth = rng.normal(0, np.sqrt(icc))
        for worker in range(workers):
            score = truth + rng.normal(0, np.sqrt(1 - icc))
            judgment = int(np.clip(np.round(score), -2, 2))
            rows.append(
                row(
                    f"action {rule} by {worker}",
                    "care-harm",
                    judgment,
                    4,
                    m=workers,
                    **{"rot-bad": 0, "rot-id": f"r{rule}", "breakdown-worker-id": worker},
                )
            )
    return write_table(path, rows)


def test_noise_ceiling_of_planted_annotators(tmp_path: Path) -> None:
    path = planted_annotators(tmp_path / "p.tsv", icc=0.6, workers=5, rules=1500)
    found = build_vectors(path, schema="factored").meta["reliability"]
    # Rounding to whole judgments costs some agreement: the truth is the ICC of what was written.
    frame = pl.read_csv(path, separator="\t")
    by_rule = frame["action-moral-judgment"].to_numpy().reshape(1500, 5) / 2
    between, within = 5 * by_rule.mean(1).var(ddof=1), by_rule.var(1, ddof=1).mean()
    truth = (between - within) / (between + 4 * within)
    assert found["care-harm"]["icc"] == pytest.approx(truth, abs=1e-9)
    assert 0.5 < truth < 0.6
    assert found["care-harm"]["icc_low"] < truth < found["care-harm"]["icc_high"]
    assert found["care-harm"]["items"] == 1500 and found["care-harm"]["annotations"] == 7500
    assert np.isnan(found["sanctity-degradation"]["icc"])
    assert build_vectors("starter").meta["reliability"] == {}


def test_counts_are_by_axis_in_order() -> None:
    counts = build_vectors("starter").counts()
    assert counts["axis"].to_list() == [axis.tag for axis in AXES]
    assert (counts["virtue_1"] >= 5).all() and (counts["vice_1"] >= 5).all()
