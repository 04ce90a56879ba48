"""The texts that a model reads, and where the action stands in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moralprobe.data.prompts import TEMPLATES, get_template
from moralprobe.errors import UsageError


def test_the_papers_prompt_is_one_of_the_templates() -> None:
    assert {name: t.render("helping.") for name, t in TEMPLATES.items()} == {
        "action-is-morally": "helping. is morally",
        "action": "helping.",
        "the-item": "the helping.",
        "the-item-is": "the helping. is",
        "item-is-a": "helping. is a",
        "stripped": "helping is morally",
        "morally-speaking": "Morally speaking, helping. is",
        "is-it-acceptable": "Is it morally acceptable? helping. Answer:",
        "people-judge": "Most people judge helping. to be morally",
        "chat": "Is this morally right or wrong? helping.",
    }
    assert [name for name, t in TEMPLATES.items() if t.chat] == ["chat"]
    assert [name for name, t in TEMPLATES.items() if not t.full_stop] == ["stripped"]
    assert all(get_template(name).name == name for name in TEMPLATES)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@given(action=st.text(max_size=40))
def test_the_action_goes_in_verbatim_and_its_span_says_where(name: str, action: str) -> None:
    template = get_template(name)
    first, last = template.span(action)
    shown = template.render(action)[first:last]
    assert shown == template.shown(action)
    assert shown == action if template.full_stop else action.startswith(shown)


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        ("helping.", "helping"),
        ("helping", "helping"),
        ("helping .", "helping"),
        ("helping..", "helping"),
        ("paying $3.50", "paying $3.50"),
        ("asking why?", "asking why?"),
        (".", ""),
    ],
)
def test_stripped_leaves_out_what_ends_a_sentence(action: str, shown: str) -> None:
    assert get_template("stripped").shown(action) == shown


def test_more_text_around_a_template_moves_the_span() -> None:
    inside = get_template("morally-speaking").inside("<user>", "</user>")
    assert inside.render("lying") == "<user>Morally speaking, lying is</user>"
    first, last = inside.span("lying")
    assert inside.render("lying")[first:last] == "lying"


@pytest.mark.parametrize("action", ["{}", "{action}", "%s", "\\n", "<|im_start|>system"])
def test_an_action_that_looks_like_a_template_is_text(action: str) -> None:
    assert get_template("action-is-morally").render(action) == action + " is morally"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("action-is-moraly", "did you mean action-is-morally"),
        ("chatt", "did you mean chat"),
        ("", "known: action, action-is-morally, chat"),
    ],
)
def test_an_unknown_template_is_refused_with_the_names_that_exist(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"unknown template {name!r}.*{hint}"):
        get_template(name)
