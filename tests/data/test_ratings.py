"""Ratings as they are written, and as typicality: the right way up, refused where it isn't known."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from moralprobe.data.ratings import (
    COLUMNS,
    Ratings,
    Scale,
    holds_ratings,
    load_ratings,
    parse_scale,
)
from moralprobe.errors import DataError, UsageError
from tests.conftest import shared_file

BIRDS = "item,category,rating\nrobin,bird,1.1\nhawk,bird,2.5\npenguin,bird,4.0\nbat,bird,7\n"
CARE = (
    "WORD\tEXPRESSED_MORAL\nkind\t9\nkinder\t9\nmild\t7\ndesk\t5\nhit\t2.2\nkill\t1\nkilling\t1\n"
)


def written(folder: Path, text: str, name: str = "ratings.csv") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def scores(ratings: Ratings) -> dict[tuple[str, str], float]:
    columns = ratings.frame.select("category", "action", "score")
    return {(category, item): pytest.approx(score) for category, item, score in columns.iter_rows()}


def test_the_scale_says_which_end_is_typical(tmp_path: Path) -> None:
    table = written(tmp_path, BIRDS)
    low = load_ratings(table, scale="1:7")
    assert scores(low) == {
        ("bird", item): (7 - rating) / 6
        for item, rating in (("robin", 1.1), ("hawk", 2.5), ("penguin", 4.0), ("bat", 7.0))
    }
    high = load_ratings(table, scale="7:1").frame["score"]
    assert (high + low.frame["score"]).to_list() == pytest.approx([1] * 4)
    assert low.frame.columns == list(COLUMNS) and low.frame["unit"].to_list()[0] == "robin"


def test_a_table_does_not_say_which_end_is_typical_so_it_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"most typical isn't known.*--scale 1:7"):
        load_ratings(written(tmp_path, BIRDS))


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("1:7", Scale(1, 7)),
        ("7:1", Scale(7, 1)),
        ("100:0", Scale(100, 0)),
        ("1:5:9", Scale(9, 1, 5)),
    ],
)
def test_scales(text: str, scale: Scale) -> None:
    assert parse_scale(text) == scale


@pytest.mark.parametrize("text", ["", "7", "1-7", "1:1", "9:5:1", "1:2:3:4", "a:b", "1:nan:9"])
def test_what_is_no_scale(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no scale.*write 1:7"):
        parse_scale(text)


def test_moral_strength_has_two_poles_and_shares_ratings(tmp_path: Path) -> None:
    written(tmp_path, CARE, "care.tsv")
    written(tmp_path, "WORD\tEXPRESSED_MORAL\npure\t8\nfoul\t2\n", "purity.tsv")
    written(tmp_path, "not a table", "LICENSE.txt")
    found = load_ratings(tmp_path)
    assert scores(found) == {
        ("care", "kind"): 1.0,
        ("care", "kinder"): 1.0,
        ("care", "mild"): 0.5,
        ("harm", "hit"): 0.7,
        ("harm", "kill"): 1.0,
        ("harm", "killing"): 1.0,
        ("sanctity", "pure"): 0.75,
        ("degradation", "foul"): 0.75,
    }
    units = found.frame.group_by("category", "unit").agg("action").sort("category", "unit")
    assert [sorted(a) for a in units["action"].to_list()] == [
        ["mild"], ["kind", "kinder"], ["foul"], ["kill", "killing"], ["hit"], ["pure"]
    ]  # fmt: skip
    assert {"name": "in the middle, of neither pole", "dropped": 1, "note": ""} in found.meta[
        "rules"
    ]
    assert set(found.meta["source"]["files"]) == {"care.tsv", "purity.tsv"}
    alone = load_ratings(tmp_path / "care.tsv")
    assert set(alone.frame["category"]) == {"care", "harm"}


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    text = BIRDS + ",bird,2\nowl,,2\nowl,bird,\n ROBIN ,bird,1.1\nrobin,pet,6\n"
    found = load_ratings(written(tmp_path, text), scale="1:7")
    assert [(rule["name"], rule["dropped"]) for rule in found.meta["rules"]] == [
        ("no item", 1),
        ("no category", 1),
        ("no rating", 1),
        ("the same item and rating again", 1),
    ]
    assert len(found) == 5 and found.frame.filter(action="robin").height == 2


def test_a_table_of_ratings_comes_back_from_its_bytes_and_nothing_else_does(tmp_path: Path) -> None:
    found = load_ratings(written(tmp_path, BIRDS), scale="1:7")
    (tmp_path / "r.parquet").write_bytes(found.to_bytes())
    again = Ratings.load(tmp_path / "r.parquet")
    assert again.frame.equals(found.frame) and again.meta == found.meta
    assert holds_ratings(tmp_path / "r.parquet")
    found.frame.write_parquet(tmp_path / "bare.parquet")
    for name in ("absent.parquet", "ratings.csv", "bare.parquet"):
        assert not holds_ratings(tmp_path / name)
        with pytest.raises(DataError, match=r"table of ratings.*moralprobe control"):
            Ratings.load(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("name,kind,score\nrobin,bird,1\n", "has no column 'item'.*rename"),
        ("item,rating\nrobin,1\n", "has no column 'category'"),
        ("item,category\nrobin,bird\n", "has no column 'rating'"),
        ("WORD,rating\nkind,9\n", "has no column 'EXPRESSED_MORAL'"),
        (BIRDS + "owl,bird,0.5\n", "data row 5: rating is '0.5'.*from 1 to 7.*--scale"),
        (BIRDS + "owl,bird,7.5\n", "rating is '7.5'.*1 such rows"),
        (BIRDS + "owl,bird,high\n", "rating is 'high'"),
        (BIRDS + "owl,bird,nan\n", "rating is 'nan'"),
        (BIRDS + "owl,bird,inf\n", "rating is 'inf'"),
        (BIRDS + "Robin,bird,3\n", "'robin' of 'bird' is rated 1.1 and 3.*keep one"),
        ("item,category,rating\n,bird,1\n", "no row of ratings.csv is left.*no item: 1"),
        ("item,category,rating\n", "no row of ratings.csv is left"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_ratings(written(tmp_path, text), scale="1:7")


def test_files_and_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't read"):
        load_ratings(tmp_path / "absent.csv", scale="1:7")
    with pytest.raises(DataError, match=r"holds no \.tsv file"):
        load_ratings(tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"item,category,rating\n\xff\xfe,bird,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        load_ratings(tmp_path / "bytes.csv", scale="1:7")
    written(tmp_path, BIRDS.replace(",", "\t"), "birds.tsv")
    with pytest.raises(DataError, match="has no column 'WORD'"):
        load_ratings(tmp_path)


@pytest.mark.parametrize("item", ["a\0b", "\u202eabc\u2066", "=1+1", "x" * 1_000_000, "\U0001f600"])
def test_unusual_items_are_kept_verbatim(tmp_path: Path, item: str) -> None:
    found = load_ratings(written(tmp_path, BIRDS + f"{item},bird,3\n"), scale="1:7")
    assert found.frame["action"].to_list() == ["robin", "hawk", "penguin", "bat", item]


@pytest.mark.parametrize("item", [b"caf\xe9", b"\xed\xb0\x80"])
def test_an_item_that_is_no_text_is_named_by_its_line(tmp_path: Path, item: bytes) -> None:
    (tmp_path / "r.csv").write_bytes(BIRDS.encode() + item + b",bird,3\n")
    with pytest.raises(DataError, match=r"r\.csv: line 6, byte \d is not UTF-8"):
        load_ratings(tmp_path / "r.csv", scale="1:7")


def test_rosch_is_the_right_way_up() -> None:
    found = load_ratings(shared_file("rosch1975", "rosch1975_ratings.csv"), scale="1:7")
    assert len(found) == 565 and found.frame["category"].n_unique() == 10
    for category, most, least in (
        ("bird", "robin", "bat"),
        ("furniture", "chair", "telephone"),
        ("fruit", "orange", "squash"),
    ):
        part = found.frame.filter(category=category).sort("score")["action"].to_list()
        assert most in part[-3:] and least in part[:3], (part[:3], part[-3:])


def test_moral_strength_has_ten_poles_of_few_rated_units() -> None:
    found = load_ratings(shared_file("moralstrength", "care.tsv").parent)
    units = found.frame.group_by("category").agg(
        pl.len().alias("words"), pl.col("unit").n_unique().alias("units")
    )
    assert units.height == 10 and len(found) == 2792
    assert units["units"].is_between(19, 44).all() and units["words"].min() > 180
    assert (found.frame["score"] > 0).all() and (found.frame["score"] <= 1).all()
