"""What is made of what a proposer writes, and what isn't used."""

from __future__ import annotations

import pytest

from moralprobe.behavior.elicitation.proposers import Limits, Wanted, Writer, open_end
from moralprobe.behavior.text_model import Question, Scripted


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Tom saw a purse and", "Tom saw a purse and"),
        ('"Tom saw a purse and"', "Tom saw a purse and"),
        ("Here is a beginning:\n\nTom saw a purse and", "Tom saw a purse and"),
        ("Tom saw a purse and\n\nThis leads to the ending.", "Tom saw a purse and"),
        ("Tom walked. He saw a purse on the bench.", "Tom walked. He saw a"),
        ("Tom saw a purse,", "Tom saw a purse"),
        ('Tom said "No." He saw a purse and took it.', 'Tom said "No." He saw a'),
        ("Tom saw\na purse\nand", "Tom saw a purse and"),
        ("  ", ""),
    ],
)
def test_a_beginning_ends_in_mid_sentence(written: str, kept: str) -> None:
    assert open_end(written, 50) == kept


def test_a_beginning_is_as_long_as_it_may_be() -> None:
    assert open_end(" ".join(["word"] * 100), 12).split() == ["word"] * 12
    assert open_end("A b c d. E f g h.", 4) == "A b"


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("", "empty"),
        ("He stood there", "too short"),
        ("A man stood at the door with two guns in his hands and", "a topic that is left out"),
        ("A man knew that one should not lie and stood at the door", "names the rule"),
        ("A man knew do not lie to a friend and stood there at last", "names the rule"),
        ("[refused: no] a b c d e f g h i", "refused"),
        ("There was 'murder' in her eyes as she opened the door and", "a topic that is left out"),
        ("The murderer stood at the door of the old shop and then", "a topic that is left out"),
        ("He thought of self-harm as he stood at the old door and", "a topic that is left out"),
        ("A man stood at the door of the old shop and", None),
        ("A gunnery officer stood at the door of the old shop and", None),
    ],
)
def test_limits(prompt: str, why: str | None) -> None:
    assert Limits().why_not(prompt, "Do not lie to a friend.") == why


def test_topics_may_be_others() -> None:
    prompt = "A man stood at the door with a gun in his hands and"
    assert Limits(topics=()).why_not(prompt, "x.") is None
    assert Limits(topics=("door",)).why_not(prompt, "x.") == "a topic that is left out"


def test_a_writer_is_told_the_rule_first_and_then_where_to_lead() -> None:
    heard: list[Question] = []

    def says(question: Question) -> str:
        heard.append(question)
        return f"text {question.seed}"

    writer = Writer(Scripted("w", says), words=30)
    found = writer.propose([Wanted("One should."), Wanted("One should.", ("He\nran.", "b"), 7)])
    assert found == ["text 0", "text 7"]
    assert "One should." in heard[0].text and "30 words" in heard[0].text
    assert "- He ran.\n- b" in heard[1].text and "One should." not in heard[1].text
    assert Writer(Scripted("w", says), words=31).identity != writer.identity
