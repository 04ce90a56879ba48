"""A place in a network has one spelling, and a choice of layers a few that are read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moralprobe.errors import UsageError
from moralprobe.sites import EMBED, KINDS, Site, parse_layers

SITES = st.builds(Site, st.sampled_from(KINDS), st.integers(0, 200)) | st.just(EMBED)


@given(site=SITES)
def test_every_site_is_read_back_from_its_spelling(site: Site) -> None:
    assert Site.parse(str(site)) == site


@given(one=SITES, two=SITES)
def test_two_sites_never_share_a_spelling(one: Site, two: Site) -> None:
    assert (str(one) == str(two)) == (one == two)


@given(text=st.text(alphabet="resid_potmb.0123456789 -+٣", max_size=16))
def test_what_is_read_at_all_was_the_one_spelling(text: str) -> None:
    try:
        site = Site.parse(text)
    except UsageError:
        return
    assert str(site) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resid_post",
        "resid_post.",
        ".12",
        "resid_post.012",
        "resid_post.-1",
        "resid_post.+1",
        "resid_post.1.0",
        "resid_post.1e2",
        "resid_post.٣",
        "resid_post. 1",
        " resid_post.1",
        "resid_post.1\n",
        "Resid_Post.1",
        "mlp_in.3",
        "embed.0",
        "embed.",
        "Embed",
        "blocks.3.hook_resid_post",
        "resid_post." + "9" * 5000,
    ],
)
def test_another_spelling_is_refused_and_the_right_one_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Site.parse(text)
    error = caught.value
    assert repr(text) in error.what
    assert "resid_post.12" in error.instead and all(kind in error.instead for kind in KINDS)


def test_sites_are_values_in_the_order_of_layers() -> None:
    assert {Site("resid_post", 3), Site("resid_post", 3)} == {Site("resid_post", 3)}
    # As numbers: the spelling resid_post.10 comes before resid_post.9.
    assert sorted([Site("resid_post", 10), Site("resid_post", 9)])[0].layer == 9
    with pytest.raises(AttributeError):
        Site("resid_post", 3).layer = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", tuple(range(30))),
        ("12", (12,)),
        ("8-11", (8, 9, 10, 11)),
        ("8-13:2", (8, 10, 12)),
        ("0-29:29", (0, 29)),
        ("7-7", (7,)),
        ("5, 3,3-4", (3, 4, 5)),
        ("29", (29,)),
    ],
)
def test_a_choice_of_layers_is_sorted_and_each_stands_once(
    text: str, layers: tuple[int, ...]
) -> None:
    assert parse_layers(text, 30) == layers


@given(n=st.integers(1, 60), data=st.data())
def test_any_set_of_layers_can_be_written_and_is_read_back(n: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, n - 1), min_size=1))
    assert parse_layers(",".join(map(str, chosen)), n) == tuple(sorted(set(chosen)))


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1-", "1:2", "1-5:0", "1..5", "1,,2", "ALL", "٣", "1.0", "9" * 5000]
)
def test_another_choice_is_refused_and_the_forms_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no choice of layers.*8-20:2") as caught:
        parse_layers(text, 30)
    assert caught.value.instead and caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["30", "0-30", "29,30", "30-35"])
def test_a_layer_that_the_model_lacks_is_named_with_the_range_that_it_has(text: str) -> None:
    with pytest.raises(UsageError, match=r"layer (30|35) is out of range.*30 layers, 0 to 29"):
        parse_layers(text, 30)


def test_a_range_that_runs_backwards_is_said_to() -> None:
    with pytest.raises(UsageError, match="'12-8' runs backwards"):
        parse_layers("12-8", 30)
