"""The report: every number in it is one of the study's, and it needs nothing but its folder."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from moralprobe.moral_vectors import build_vectors
from moralprobe.probing import probe
from moralprobe.report.page import write_report
from moralprobe.report.words import caveats, findings
from moralprobe.study import Study
from tests import planted


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    vectors = build_vectors("starter")
    texts, lengths = planted.texts_of(vectors)
    clean = planted.moral(texts, vectors, 2)
    sink = 1000 / lengths[:, None] * ([1] + [0] * (planted.D - 1))
    states = {
        0: dict.fromkeys(planted.POOLINGS, planted.noise(texts, 1)),
        1: {**dict.fromkeys(planted.POOLINGS, clean), "mean": (clean + sink).astype("float32")},
    }
    store = planted.store(tmp_path_factory.mktemp("s") / "s", vectors, states)
    return probe(store, draws=60)


@pytest.fixture(scope="module")
def page(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study, tmp_path_factory.mktemp("report"))


class Reader(HTMLParser):
    """Collects what a page shows and what it points at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.stack: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href") and v]
        if tag == "img":
            self.images.append(fields)
        if tag not in ("img", "meta", "br", "link", "hr"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text.append(data)


def shown(page: Path) -> str:
    return re.sub(r"\s+", " ", " ".join(Reader(page.read_text()).text))


def test_the_page_is_whole_and_reaches_nothing_outside_its_folder(page: Path) -> None:
    html = page.read_text()
    reader = Reader(html)
    assert reader.stack == [] and html.startswith("<!doctype html>")
    assert "http://" not in html and "https://" not in html and "<script" not in html
    for link in reader.links:
        assert link.startswith("#") or (page.parent / link).is_file(), link
    assert len(reader.images) >= 4 and all(image.get("alt") for image in reader.images)


def test_every_figure_exists_as_png_and_svg(page: Path) -> None:
    figures = page.parent / "figures"
    stems = {p.stem for p in figures.iterdir()}
    shown = {"separation", "held_out", "gradient", "structure", "recoverability", "confound"}
    assert stems == shown
    for stem in stems:
        assert (figures / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(figures / f"{stem}.svg").getroot().tag.endswith("svg")


def test_findings_and_caveats_stand_in_the_page(page: Path, study: Study) -> None:
    text = shown(page)
    for sentence in [*findings(study), *caveats(study)]:
        assert re.sub(r"\s+", " ", sentence) in text
    assert "explained by text length" in text


def test_both_modes_stand_side_by_side_with_interval_null_and_n(page: Path, study: Study) -> None:
    text = shown(page)
    assert text.index("li2026") < text.index("audited")
    for mode, pooling in (("li2026", "mean"), ("audited", "mean_unit")):
        for layer in (0, 1):
            (row,) = study.select(
                mode=mode, pooling=pooling, measure="spearman", category="mean", layer=layer
            ).iter_rows(named=True)
            for key in ("value", "ci_low", "ci_high"):
                assert f"{row[key]:.2f}" in text, (mode, layer, key)


def test_provenance_stands_at_the_end(page: Path, study: Study) -> None:
    text = shown(page)
    provenance = text[text.rindex("Provenance") :]
    assert '"seed": 42' in provenance and '"mode": "both"' in provenance
    assert study.meta["request"]["store"] in provenance


def test_the_same_study_writes_the_same_bytes(page: Path, study: Study, tmp_path: Path) -> None:
    again = write_report(study, tmp_path)
    assert again.read_bytes() == page.read_bytes()
    for name in ("separation.svg", "gradient.svg"):
        mine, theirs = (p.parent / "figures" / name for p in (again, page))
        assert mine.read_bytes() == theirs.read_bytes()


def test_one_mode_alone_makes_a_page_too(study: Study, tmp_path: Path) -> None:
    for mode in ("li2026", "audited"):
        part = Study(
            study.frame.filter(mode=mode),
            {**study.meta, "modes": {mode: study.meta["modes"][mode]}},
        )
        Reader(write_report(part, tmp_path / mode).read_text())


def test_hostile_text_is_escaped(study: Study, tmp_path: Path) -> None:
    meta = {**study.meta, "store": {**study.meta["store"], "template": "<script>alert(1)</script>"}}
    html = write_report(Study(study.frame, meta), tmp_path).read_text()
    assert "<script" not in html and "&lt;script&gt;" in html


def test_a_known_ceiling_is_shown_and_an_unknown_one_is_said(
    page: Path, study: Study, tmp_path: Path
) -> None:
    assert "ceiling: one annotator" in shown(page)
    known = study.frame.with_columns(ceiling=pl.lit(0.8765), status=pl.lit("ok"))
    text = shown(write_report(Study(known, study.meta), tmp_path))
    assert "ceiling 0.88" in text and "one annotator" not in text
