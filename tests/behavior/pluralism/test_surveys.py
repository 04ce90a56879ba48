"""Surveys are read as they are, and what is no survey is said to be none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moralprobe.behavior.pluralism.predictors import averaged, pooled, reference, similarities
from moralprobe.behavior.pluralism.surveys import Survey, load_survey, with_count
from moralprobe.errors import DataError
from tests.conftest import shared_file

TABLE = """question,option,community,count
Is it fair?,yes,A,30
Is it fair?,no,A,10
Is it fair?,no,B,5
Is it fair?,yes,B,15
Is it late?,yes,A,1
Is it late?,don't know,A,3
"""


def written(folder: Path, text: str, name: str = "survey.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_counts_are_shares_of_options_in_one_order(tmp_path: Path) -> None:
    survey = load_survey(written(tmp_path, TABLE))
    first, second, third = survey.answers
    assert first.item is not second.item and first.item == second.item
    assert first.shares.tolist() == [0.75, 0.25] == second.shares.tolist()
    assert (first.count, second.count, third.count) == (40, 20, 4)
    assert third.item.refusals == (1,) and not first.item.ordinal
    assert survey.communities == ("A", "B") and survey.fewest() == 1
    assert len(survey.best_covered(1)) == 2
    with pytest.raises(DataError, match="there aren't 3 communities"):
        survey.best_covered(3)


def test_shares_and_ordinal_options(tmp_path: Path) -> None:
    text = (
        "question\toption\tcommunity\tshare\tordinal\nq\tlow\tA\t0.5\tyes\nq\thigh\tA\t0.495\tyes\n"
    )
    (one,) = load_survey(written(tmp_path, text, "s.tsv")).answers
    assert one.item.ordinal and one.count is None and one.shares.sum() == pytest.approx(1)
    (assumed,) = with_count(Survey((one,)), 100).answers
    assert assumed.count == 100


def test_json_without_its_frame(tmp_path: Path) -> None:
    row = {
        "question": "Question: Is it so?\nOptions: A. Yes B. No\nAnswer:",
        "options": ["Yes", "No"],
        "attribute": "Spain",
        "gold_distribution": [0.4, 0.6],
    }
    (one,) = load_survey(written(tmp_path, json.dumps([row]), "s.json")).answers
    assert one.item.question == "Is it so?" and one.community == "Spain"
    for wrong, words in (
        ({**row, "gold_distribution": [0.4, 0.4]}, "isn't one.*sum to 0.8"),
        ({**row, "gold_distribution": [1.4, -0.4]}, "isn't one"),
        ({**row, "gold_distribution": [0.4]}, "options that don't match"),
        ({**row, "gold_distribution": [0.4, None]}, "no number"),
        ({"question": "q"}, "is no survey"),
    ):
        with pytest.raises(DataError, match=words):
            load_survey(written(tmp_path, json.dumps([wrong]), "s.json"))
    with pytest.raises(DataError, match="a question twice"):
        load_survey(written(tmp_path, json.dumps([row, row]), "s.json"))
    with pytest.raises(DataError, match="holds no answers"):
        load_survey(written(tmp_path, "[]", "s.json"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,option,community\nq,a,A\n", "'count or share'"),
        ("question,community,count\nq,A,1\n", "'option'"),
        ("question,option,community,count\nq,a,A,1\nq,b,A,2\nq,a,B,1\nq,c,B,1\n", "don't match"),
        ("question,option,community,count\nq,a,A,1\nq,a,A,2\n", "don't match"),
        ("question,option,community,count\nq,a,A,1.5\nq,b,A,2\n", "counts that are none"),
        ("question,option,community,count\nq,a,A,0\nq,b,A,0\n", "counts that are none"),
        ("question,option,community,share\nq,a,A,many\nq,b,A,0.5\n", "no number"),
        ("question,option,community,share\nq,a,A,0.9\nq,b,A,0.5\n", "isn't one"),
        ("question,option,community,count\nq,a,A,\nq,b,A,2\n", "no number"),
        ("question,option,community,count\nq,a,,3\nq,b,,2\n", "an empty cell"),
        ("question,option,community,count\nq,a,A,3\n", "a question of 1 option"),
        (
            "question,option,community,count\n" + "".join(f"q,{i},A,3\n" for i in range(27)),
            "a question of 27 options",
        ),
    ],
)
def test_what_is_no_survey(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_survey(written(tmp_path, text))


def test_the_pooled_guess_is_the_mean_of_the_others(tmp_path: Path) -> None:
    survey = load_survey(written(tmp_path, TABLE.replace("B,5", "B,15")))
    first, second, third = pooled(survey)
    assert first is not None and first.tolist() == [0.5, 0.5]
    assert second is not None and second.tolist() == [0.75, 0.25] and third is None
    scores = similarities(survey)
    assert np.isnan(scores["others"][2]) and scores["uniform"][1] == 1
    both = averaged(survey, np.array([1.0, 0.0, np.nan]))
    assert both == {"items": 0.5, "communities": 0.5}
    assert averaged(survey, np.array([1.0, 0.0, 0.0]))["communities"] == 0.25


def test_the_reference_numbers_of_32_countries() -> None:
    survey = load_survey(shared_file("global_opinions", "distributions.json")).best_covered(32)
    assert (len(survey), survey.fewest()) == (3587, 75)
    found = reference(survey, draws=10)
    for name, items, communities in (
        ("others", 0.807, 0.805),
        ("uniform", 0.669, 0.668),
        ("shuffled", 0.603, 0.601),
        ("modal", 0.506, 0.503),
    ):
        assert found[name]["items"] == pytest.approx(items, abs=0.001)
        assert found[name]["communities"] == pytest.approx(communities, abs=0.001)
    for n, floor in ((30, 0.115), (100, 0.061), (1000, 0.019)):
        assert found[f"noise at {n}"]["items"] == pytest.approx(floor, abs=0.001)
    assert sum(one is not None for one in pooled(survey)) == 3165


def test_refusals_order_and_batteries_are_as_they_are_marked(tmp_path: Path) -> None:
    text = (
        "question,option,community,count,refusal,ordinal,battery\n"
        "q,Refuse to fight,A,3,no,1.0,war\nq,Fight,A,4,no,1.0,war\nq,Silent,A,1,yes,1.0,war\n"
    )
    (one,) = load_survey(written(tmp_path, text)).answers
    assert one.item.refusals == (2,) and one.item.ordinal and one.item.unit == "war"
    lines = ["Is it so for all of us today?,a,A,3", "Is it so for all of us today?,b,A,3"]
    (plain,) = load_survey(written(tmp_path, "\n".join([TABLE.splitlines()[0], *lines]))).answers
    assert plain.item.unit == "is it so for all of"


def test_options_in_another_order_are_the_same_question(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "options": ["a", "b"], "attribute": "A", "gold_distribution": [0.2, 0.8]},
        {"question": "q", "options": ["b", "a"], "attribute": "B", "gold_distribution": [0.3, 0.7]},
    ]
    first, second = load_survey(written(tmp_path, json.dumps(rows), "s.json")).answers
    assert first.item == second.item and second.shares.tolist() == [0.7, 0.3]
