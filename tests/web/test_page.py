"""The page in a real browser: Debian's chromium, driven from outside, on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from moralprobe.web.loaded import Loaded
from moralprobe.web.schemas import StudyFound
from moralprobe.web.server import serving
from tests.web.test_api import loaded, model

__all__ = ["loaded", "model"]  # fixtures

CHROMIUM = os.environ.get("MORALPROBE_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt install chromium)")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright.expect


@pytest.fixture(scope="module")
def url(loaded: Loaded) -> Iterator[str]:
    with serving(loaded) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """A page whose console must stay empty, and from which nothing may leave this machine."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(20_000)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: asked.append(one.url))
    page.goto(url)
    expect(page.locator("#about")).to_contain_text("3 layers")
    yield page
    context.close()
    assert not said
    assert all(one.startswith((url, "data:", "blob:")) for one in asked), asked


def run(page: Any) -> None:
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("KL")


def test_a_preset_steers_and_both_columns_stream(page: Any) -> None:
    page.locator("#prompt").fill("Is it fair")
    page.get_by_label("Direction to").select_option("care-harm")
    page.get_by_role("spinbutton", name="Layer").fill("1")
    slider = page.get_by_label("Strength", exact=True)
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    assert float(page.get_by_label("as a number").input_value()) == pytest.approx(0.15)
    page.get_by_text("How it is written").click()
    page.get_by_label("New tokens").fill("20")
    run(page)
    for side in ("default", "steered"):
        assert page.locator(f"#{side}").inner_text()
        expect(page.locator(f"#of-{side}")).to_contain_text("20 tokens")
    expect(page.locator("#of-steered")).to_contain_text("edits")
    page.get_by_text("How far each next token").click()
    assert page.locator("#moved-tokens span").count() == 20
    shades = page.locator("#moved-tokens span").evaluate_all(
        "(spans) => spans.map((span) => getComputedStyle(span).backgroundColor)"
    )
    assert len(set(shades)) > 1
    page.get_by_role("button", name="Reset to 0").click()
    run(page)
    expect(page.locator("#moved")).to_be_hidden()
    expect(page.locator("#said")).to_contain_text("the same to the token")
    assert page.locator("#default").inner_text() == page.locator("#steered").inner_text()
    page.get_by_text("History of this page").click()
    assert page.locator("#history li").count() == 2
    page.locator("#history button").last.click()
    expect(page.locator("#of-steered")).to_contain_text("edits")
    assert float(page.get_by_label("as a number").input_value()) == pytest.approx(0.15)


def test_a_prompt_is_picked(page: Any) -> None:
    assert page.locator("#pick option").count() == 11
    page.locator("#pick").select_option(index=3)
    picked = page.locator("#pick").input_value()
    assert picked and page.locator("#prompt").input_value() == picked


def test_a_link_restores_what_was_chosen(page: Any, url: str) -> None:
    page.locator("#prompt").fill('A <b>bold</b> "prompt" & more')
    page.get_by_role("button", name="Add a feature").click()
    page.get_by_label("Feature", exact=True).fill("7")
    page.get_by_label("plus").fill("3.5")
    page.locator("#seed").evaluate("(box) => { box.value = 5; }")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#said")).to_contain_text("Copied: link")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{url}/#state=")
    page.locator("#prompt").fill("another")
    page.goto(link)  # into a page that is open
    expect(page.locator(".source")).to_have_count(2)
    expect(page.locator("#prompt")).not_to_have_value("another")
    assert page.locator("#prompt").input_value() == 'A <b>bold</b> "prompt" & more'
    assert page.get_by_label("Feature", exact=True).input_value() == "7"
    assert page.get_by_label("plus").input_value() == "3.5"
    assert page.locator("#seed").input_value() == "5"
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#said")).to_contain_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    request = json.loads(re.search(r"-d '(.*)'$", command, re.S)[1])  # type: ignore[index]
    assert request["sources"][1]["changes"] == [{"feature": 7, "scale": 1, "offset": 3.5}]


def test_what_fires_is_shown_and_steers(page: Any) -> None:
    page.locator("#prompt").fill("<img src=x onerror=alert(1)> fair")
    page.get_by_role("button", name="What fires on it").click()
    expect(page.locator("#heat")).to_be_visible()
    assert page.locator("#tokens span").count() > 5
    assert page.locator("#tokens img").count() == 0, "shown literally"
    shades = page.locator("#tokens span").evaluate_all(
        "(spans) => spans.map((span) => getComputedStyle(span).backgroundColor)"
    )
    assert len(set(shades)) > 1
    before = page.locator(".source").count()
    page.get_by_role("button", name=re.compile("steer with feature")).first.click()
    assert page.locator(".source").count() == before + 1


def test_features_are_searched_by_their_texts(page: Any) -> None:
    page.get_by_text("Search features").click()
    page.get_by_label("Words in their texts").fill("friend")
    expect(page.locator("#found li")).to_have_count(1)
    expect(page.locator("#found")).to_contain_text("<b>lying</b>")
    assert page.locator("#found b").count() == 0


def test_where_a_sentence_lies_is_drawn_and_told(page: Any) -> None:
    page.get_by_text("Where a sentence lies").click()
    page.locator("#sentence").fill("stealing from a <i>shop</i>.")
    page.get_by_role("button", name="Look").click()
    expect(page.locator("#placed")).to_be_visible()
    assert page.locator("#map text").count() == 10
    assert page.locator("#map .before").count() == page.locator("#map .after").count() == 1
    assert page.locator("#likeness tbody tr").count() == 10
    expect(page.locator("#likeness thead")).to_contain_text("li2026, after")
    first = page.locator("#likeness tbody").inner_text()
    page.get_by_label("Layer", exact=False).and_(page.locator("#layer")).press("Home")
    expect(page.locator("#layer-said")).to_have_text("0")
    assert page.locator("#likeness tbody").inner_text() != first
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Look").click()
    expect(page.locator("#map .after")).to_have_count(0)


def test_likeness_over_layers_is_drawn_in_both_modes(page: Any) -> None:
    page.get_by_text("Where a sentence lies").click()
    page.get_by_role("button", name="Look").click()
    expect(page.locator("#placed")).to_be_visible()
    curves = page.locator("#curves")
    assert curves.locator("path").count() == 2 * (9 + 2), "a panel a mode; one before and after"
    assert curves.locator(".after").count() == curves.locator(".before").count() == 2
    chosen = page.locator("#shown").input_value()
    expect(curves.locator("text").first).to_contain_text(f"audited: {chosen}")
    before = curves.locator(".before").first.get_attribute("d")
    other = next(one for one in page.locator("#shown option").all_inner_texts() if one != chosen)
    page.locator("#shown").select_option(other)
    expect(curves.locator("text").first).to_contain_text(other)
    assert curves.locator(".before").first.get_attribute("d") != before
    assert before is not None and before.count("L") == 2, "three layers"
    # Of the audited panel, at the middle layer: as the table says, and upwards where it is more.
    value = float(
        page.locator("#likeness tbody tr").filter(has_text=other).locator("td").first.inner_text()
    )
    y = float(curves.locator(".before").first.get_attribute("d").split("L")[1].split()[1])
    assert (y < 63) == (value > 0) or abs(value) < 0.02
    expect(page.locator("#place-said")).to_contain_text("helping a friend move")


def test_what_is_known_of_a_feature_is_shown_as_text(page: Any) -> None:
    page.get_by_text("Search features").click()
    page.get_by_role("button", name="about feature 3", exact=True).click()
    expect(page.locator("#feature-name")).to_have_text("Feature 3: care")
    expect(page.locator("#feature-name")).to_be_focused()
    expect(page.locator("#feature-said")).to_contain_text("holds on others")
    expect(page.locator("#feature-numbers")).to_contain_text("specificity")
    expect(page.locator("#feature-tokens")).to_contain_text("Promotes")
    expect(page.locator("#feature-texts")).to_contain_text("<b>lying</b>")
    assert page.locator("#feature b").count() == 0
    page.get_by_role("button", name="What fires on it").click()
    page.get_by_role("button", name=re.compile("about feature")).first.click()
    expect(page.locator("#feature-name")).not_to_have_text("Feature 3: care")
    page.get_by_role("button", name="Add a feature").click()
    page.get_by_label("Feature", exact=True).fill("4")
    page.get_by_role("button", name="About it", exact=True).last.click()
    expect(page.locator("#feature-name")).to_have_text(re.compile("Feature 4"))


def test_words_of_the_prompt_are_chosen_and_go_into_the_link(page: Any) -> None:
    """Counted in characters: the browser counts a face twice."""
    page.get_by_text("How it is written").click()
    expect(page.locator("#span-line")).to_be_hidden()
    page.locator("#prompt").fill("\N{GRINNING FACE} is it fair")
    page.locator("#positions").select_option("spans")
    run_it = page.get_by_role("button", name="Run")
    run_it.click()
    expect(page.locator("#error")).to_contain_text("no words are chosen")
    page.locator("#prompt").evaluate("(box) => box.setSelectionRange(5, 9)")  # with its blanks
    page.get_by_role("button", name="Take what is selected").click()
    expect(page.locator("#span-said")).to_have_text('Edited: "it"')
    run(page)
    expect(page.locator("#said")).to_contain_text('Edited in the prompt: "it"')
    expect(page.locator("#of-steered")).to_contain_text("edits")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#said")).to_contain_text("Copied: link")
    link = page.evaluate("navigator.clipboard.readText()")
    assert "%22span%22%3A%5B5%2C7%5D" in link
    page.locator("#prompt").fill("another prompt")
    expect(page.locator("#span-said")).to_have_text("No words are chosen.")
    page.goto(link)
    expect(page.locator("#span-said")).to_have_text('Edited: "it"')


def test_a_cap_has_a_bound_and_what_has_none_shows_none(page: Any) -> None:
    bound, label = page.get_by_label("Bound"), page.get_by_text("Bound, in its lengths")
    expect(bound).to_be_hidden()
    expect(label).to_be_hidden()
    page.get_by_label("Method").select_option("cap")
    expect(bound).to_be_visible()
    expect(label).to_be_visible()
    bound.fill("-0.5")
    assert page.get_by_label("Strength", exact=True).input_value() == "1"
    run(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#said")).to_contain_text("Copied: link")
    bound.fill("99")  # wrong, and then out of sight
    page.get_by_label("Method").select_option("add")
    expect(label).to_be_hidden()
    page.get_by_label("Strength", exact=True).press("ArrowRight")
    run(page)
    page.goto(page.evaluate("navigator.clipboard.readText()"))
    expect(page.get_by_label("Bound")).to_have_value("-0.5")


def test_what_a_study_found_is_listed(browser: Any, loaded: Loaded) -> None:
    found = StudyFound(
        name="found",
        caveats=["Mind <u>this</u>."],
        findings=["One <i>thing</i>.", "Another."],
        confounded=[1],
    )
    with serving(dataclasses.replace(loaded, study=found)) as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_text("What the study found found").click()
        expect(page.locator("#findings li")).to_have_count(2)
        expect(page.locator("#findings")).to_contain_text("<i>thing</i>")
        expect(page.locator("#caveats")).to_contain_text("<u>this</u>")
        page.get_by_text("Where a sentence lies").click()
        page.get_by_role("button", name="Look").click()
        expect(page.locator("#placed")).to_be_visible()
        expect(page.locator("#layer")).to_have_value("1")
        expect(page.locator("#place-said")).to_contain_text("length explains what li2026 shows")
        page.locator("#layer").press("Home")
        expect(page.locator("#place-said")).not_to_contain_text("length explains")
        page.close()


def test_it_stops(page: Any) -> None:
    page.get_by_text("How it is written").click()
    page.get_by_label("New tokens").fill("200")
    page.get_by_label("Temperature").fill("5")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#default")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator("#said")).to_have_text("Stopped.")
    expect(page.locator("#moved")).to_be_hidden()
    expect(page.get_by_role("button", name="Run")).to_be_enabled()


def test_what_is_refused_is_said(page: Any) -> None:
    page.locator("#prompt").fill("x" * 600)
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#error")).to_contain_text("longer than the model can read")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_can_be_read(browser: Any, url: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 380, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#about")).to_contain_text("3 layers")
    page.get_by_role("button", name="Add a feature").click()
    page.get_by_text("How it is written").click()
    run(page)
    page.get_by_text("How far each next token").click()
    page.get_by_role("button", name="What fires on it").click()
    page.get_by_role("button", name=re.compile("about feature")).first.click()
    expect(page.locator("#feature")).to_be_visible()
    page.get_by_text("Where a sentence lies").click()
    page.get_by_role("button", name="Take the steered text").click()
    assert page.locator("#sentence").input_value()
    page.get_by_role("button", name="Look").click()
    expect(page.locator("#placed")).to_be_visible()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 380
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, textarea, button')]
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel))
        .map((one) => one.outerHTML)"""
    )
    assert not unnamed
    contrasts = page.evaluate(
        """() => {
        const number = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
        const light = (rgb) => {
          const [r, g, b] = rgb.map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const paper = number(getComputedStyle(document.body).backgroundColor);
        return [...document.querySelectorAll('p, label, button, h1, h2, summary, legend, li')]
          .map((one) => {
            const [a, b] = [number(getComputedStyle(one).color), paper].map(light);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          });
        }"""
    )
    assert min(contrasts) >= 4.5
    context.close()
