"""Tables of scores and votes: what is read, and what is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.consensus.scores import ONE_THEORY, load_scores, parse_families
from moralprobe.behavior.consensus.votes import load_votes
from moralprobe.errors import DataError, UsageError

HEAD = "model,theory,item,score,family"


def table(folder: Path, *lines: str, head: str = HEAD) -> Path:
    path = folder / "scores.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_a_table_is_read_whole(tmp_path: Path) -> None:
    lines = ["a,care,x,0.2,k", "b,care,x, 1 ,k", "a,care,y,,k", "b,care,y,0.5,k"]
    lines += ["c,harm,x,0,m", "a,care,nobody,,k"]
    found = load_scores(table(tmp_path, *lines))
    assert (found.models, found.theories, found.items) == (
        ("a", "b", "c"),
        ("care", "harm"),
        ("x", "y"),
    )
    assert found.families == ("k", "k", "m") and found.unscored == 1
    nan = np.nan
    expected = [[[0.2, nan], [nan, nan]], [[1, 0.5], [nan, nan]], [[nan, nan], [0, nan]]]
    np.testing.assert_array_equal(found.values, expected)


def test_parquet_and_a_table_without_theory_or_family(tmp_path: Path) -> None:
    frame = pl.DataFrame({"model": ["a", "b"], "item": ["x", "x"], "score": [0.5, float("nan")]})
    frame = frame.vstack(pl.DataFrame({"model": ["b"], "item": ["y"], "score": [0.25]}))
    frame.write_parquet(tmp_path / "s.parquet")
    found = load_scores(tmp_path / "s.parquet")
    assert found.theories == (ONE_THEORY,) and found.families == ("a", "b")
    np.testing.assert_array_equal(found.values, [[[0.5, np.nan]], [[np.nan, 0.25]]])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a,c,x,1.2,k", "b,c,x,0.5,m"], "between 0 and 1"),
        (["a,c,x,-0.1,k", "b,c,x,0.5,m"], "between 0 and 1"),
        (["a,c,x,inf,k", "b,c,x,0.5,m"], "between 0 and 1"),
        (["a,c,x,refused,k", "b,c,x,0.5,m"], "no numbers.*'refused'"),
        (["a,c,x,0.1,k", "a,c,x,0.2,k", "b,c,x,0.5,m"], "a score twice"),
        (["a,c,x,0.1,k", "a,c,y,0.2,k"], "two models"),
        (["a,c,x,0.1,k", "b,c,x,,m"], "no score at all"),
        (["a,c,x,,k", "b,c,x,,m"], "no score at all"),
        (["a,c,x,0.1,k", "a,c,y,0.1,m", "b,c,x,0.5,m"], "two families"),
        (["a,c,,0.1,k", "b,c,x,0.5,m"], "without a model, item or theory"),
        ([], "two models"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_scores(table(tmp_path, *lines))


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'score'"):
        load_scores(table(tmp_path, "a,x", head="model,item"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="can't read"):
        load_scores(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match="can't read"):
        load_scores(tmp_path / "nowhere.csv")


def test_names_are_stripped_and_who_has_no_family_is_alone(tmp_path: Path) -> None:
    lines = ["a,c,x,0.1,k", " a ,c, y,0.2,k", "b,c,x,0.5,", "d,c,x,0.5, ", "e,,x,0.5,k"]
    with pytest.raises(DataError, match="without a model, item or theory"):
        load_scores(table(tmp_path, *lines))
    found = load_scores(table(tmp_path, *lines[:4]))
    assert found.models == ("a", "b", "d") and found.families == ("k", "b", "d")
    assert found.items == ("x", "y")


def test_a_theory_that_nobody_scored_is_left_out(tmp_path: Path) -> None:
    lines = ["a,c,x,0.1,k", "b,c,x,0.5,m", "a,empty,x,,k", "b,empty,x,,m"]
    assert load_scores(table(tmp_path, *lines)).theories == ("c",)


def test_columns_that_stand_twice_or_hold_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'score' more than once"):
        load_scores(table(tmp_path, "a,x,0.1,0.2", head="model,item,score,score"))
    frame = pl.DataFrame({"model": ["a"], "item": ["x"], "score": [[0.5]]})
    frame.write_parquet(tmp_path / "lists.parquet")
    with pytest.raises(DataError, match="holds lists"):
        load_scores(tmp_path / "lists.parquet")


def test_votes_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text("item,share\nx,0.8\ny,0\n")
    assert load_votes(path) == {"x": 0.8, "y": 0.0}
    for text, said in (
        ("item,share\nx,80\n", "between 0 and 1"),
        ("item,share\nx,\n", "between 0 and 1"),
        ("item,share\nx,0.1\nx,0.2\n", "twice"),
        ("item,votes\nx,3\n", "no column 'share'"),
        ("item,share\n ,0.3\n", "on no item"),
        ("item,share,share\nx,0.3,0.4\n", "more than once"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            load_votes(path)


def test_several_tables_are_one_and_families_may_be_named(tmp_path: Path) -> None:
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_text("model,item,score\na,x,0.1\na,y,0.9\nb,x,0.2\n")
    two.write_text("model,item,score,family\nc,x,0.3,f\n")
    found = load_scores(one, two, families={"b": "f"})
    assert found.models == ("a", "b", "c") and found.families == ("a", "f", "f")
    with pytest.raises(DataError, match=r"there is no model 'z'"):
        load_scores(one, families={"z": "f"})
    with pytest.raises(DataError, match="a score twice"):
        load_scores(one, one)
    with pytest.raises(DataError, match="no table is given"):
        load_scores()
    assert parse_families(" a=x, b = x,") == {"a": "x", "b": "x"} and parse_families("") == {}
    assert parse_families("http://h/v1=m=x") == {"http://h/v1=m": "x"}
    for wrong in ("a", "a=", "=x", "a=x,a=y"):
        with pytest.raises(UsageError, match="names no families"):
            parse_families(wrong)
