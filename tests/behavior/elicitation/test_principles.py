"""Principles and known texts, wherever they come from."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moralprobe.behavior.consensus.agreement import auroc
from moralprobe.behavior.elicitation.principles import (
    Principle,
    evenly,
    load_cases,
    load_principles,
)
from moralprobe.behavior.elicitation.proposers import Limits, open_end
from moralprobe.behavior.elicitation.scorers import fit_words
from moralprobe.errors import DataError
from moralprobe.foundations import AXIS_TAGS
from tests.conftest import shared_file


def test_the_starter_set_is_what_its_card_says() -> None:
    found = load_principles("starter")
    assert len(found) == 110 and len({one.text for one in found}) == 110
    kinds = Counter((one.foundation, one.pole) for one in found)
    assert set(kinds) == {(tag, pole) for tag in AXIS_TAGS for pole in ("virtue", "vice")}
    assert set(kinds.values()) == {11}
    for one in found:
        assert one.text.startswith("One should not " if one.pole == "vice" else "One should ")
        assert one.prompt is not None and open_end(one.prompt, 60) == one.prompt
        assert Limits().why_not(one.prompt, one.text) is None
    known = load_cases("starter")
    assert len(known) == 220 and known.breaks.sum() == 110
    words = {
        b: [len(t.split()) for t, x in zip(known.texts, known.breaks, strict=True) if x == b]
        for b in (True, False)
    }
    assert abs(sum(words[True]) - sum(words[False])) / 110 < 0.3
    assert set(Counter(known.groups().tolist()).values()) == {2}


def test_the_starters_words_hardly_tell_and_hold_no_negation() -> None:
    known = load_cases("starter")
    no = re.compile(r"\b(?:not|never|without|refused|no|nothing|nobody)\b|n't\b", re.I)
    assert not [text for text in known.texts if no.search(text)]
    pairs, found = known.pairs(), []
    for seed in range(5):
        folds = np.random.default_rng(seed).permutation(110)[known.groups()] % 5
        said = np.empty(len(known))
        for fold in range(5):
            learnt, held = (np.flatnonzero(some) for some in (folds != fold, folds == fold))
            words = fit_words([pairs[i] for i in learnt], known.breaks[learnt])
            said[held] = words.log_odds([pairs[i] for i in held])
        found.append(auroc(said, known.breaks.astype(float)))
    assert 0.4 < np.mean(found) < 0.65


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "principle,foundation,pole,keeps,breaks\nDo a.,care,harm,kept,\n\nDo b.,,,x,y\n"
        "Do a.,care,vice,,broke\n"
    )
    assert load_principles(path) == [
        Principle("1", "Do a.", "care-harm", "vice"),
        Principle("2", "Do b."),
    ]
    found = load_cases(path)
    assert list(found.texts) == ["kept", "x", "y", "broke"]
    assert found.breaks.tolist() == [False, False, True, True]
    assert found.groups().tolist() == [0, 1, 1, 0]


def test_rules_of_thumb_and_stories(tmp_path: Path) -> None:
    rules = pl.DataFrame(
        {
            "rot": [
                "It's bad to lie.",
                "It's good to share.",
                "It's okay to nap.",
                "It's bad to lie.",
            ],
            "rot-moral-foundations": ["fairness-cheating", "care-harm|loyalty-betrayal", "", "x"],
            "action-moral-judgment": [-1.0, 2.0, 0.0, -1.0],
        }
    )
    rules.write_csv(tmp_path / "r.tsv", separator="\t")
    lie, share = load_principles(tmp_path / "r.tsv")
    assert (lie.foundation, lie.pole) == ("fairness-cheating", "vice")
    assert (share.foundation, share.pole) == (None, "virtue")
    with pytest.raises(DataError, match="no texts that are known"):
        load_cases(tmp_path / "r.tsv")
    lines = [
        {"norm": "N.", "moral_action": "m", "immoral_action": "i"},
        {"norm": "O.", "moral_action": "k"},
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = load_cases(tmp_path / "s.jsonl")
    assert list(found.pairs()) == [("N.", "m"), ("N.", "i"), ("O.", "k")]
    assert found.breaks.tolist() == [False, True, False]


def test_moral_stories_are_read_as_they_are() -> None:
    found = load_cases(shared_file("moral_stories", "original_dev.jsonl"))
    assert len(found) == 2000 and found.breaks.sum() == 1000
    assert found.groups().max() + 1 == len(
        load_principles(shared_file("moral_stories", "original_dev.jsonl"))
    )


def test_several_sources_are_one(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("principle,keeps,breaks\nDo a.,kept,broke\n")
    both = load_cases(f"starter,{tmp_path / 'p.csv'}")
    assert len(both) == 222 and both.texts[-2:] == ("kept", "broke")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("principle\n\n", "holds no principles"),
        ("rule\nx\n", "holds no principles.*no column 'principle'"),
        ("principle,foundation\na,honour\n", "unknown foundation.*'honour'"),
        ("principle,pole\na,north\n", "unknown pole"),
        ("principle,id\na,1\nb,1\n", "an id twice"),
        ("rot\nx\n", "no table of rules"),
    ],
)
def test_what_is_no_table_of_principles_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_principles(tmp_path / "p.csv")


def test_what_is_no_story_is_refused(tmp_path: Path) -> None:
    for text in ("{", '{"a": 1}', "[3]", "3"):
        (tmp_path / "s.jsonl").write_text(text)
        with pytest.raises(DataError, match="isn't Moral Stories"):
            load_cases(tmp_path / "s.jsonl")
    with pytest.raises(DataError, match="can't read"):
        load_principles(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="can't read"):
        load_principles(tmp_path / "none.csv")


def test_a_few_are_of_all_kinds() -> None:
    every = load_principles("starter")
    some = evenly(every, 25)
    assert len(some) == 25 and len({one.id for one in some}) == 25
    assert sorted(Counter((p.foundation, p.pole) for p in some).values()) == [2] * 5 + [3] * 5
    assert evenly(every, 0) == every == evenly(every, 200)
    assert len(evenly(every[:11] + every[50:52], 12)) == 12
