"""Planted rules are found in a model's choices in dilemmas, and no other ones."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from moralprobe.behavior.options import LETTERS, Readout
from moralprobe.behavior.pluralism.moral_machine import (
    DIMENSIONS,
    LABELS,
    Countries,
    Dilemmas,
    Effects,
    compare,
    dilemmas,
    effects,
    load_effects,
    measure,
)
from moralprobe.behavior.text_model import Question, Scripted
from moralprobe.cache import open_cache
from moralprobe.cli.dilemmas import dilemmas_command
from moralprobe.errors import DataError
from moralprobe.report.moral_machine import LEVELS, SILENT, of_dilemmas, standing
from tests.conftest import shared_file

DRAWN = dilemmas()
AT = {label: i for i, label in enumerate(LABELS)}
OLD, YOUNG = ("elderly",), ("boy", "girl")
FEMALE = r"\b(?:woman|women|girls?|female)\b"


def groups(option: str) -> tuple[str, str]:
    """Who is unharmed and who is killed, by the words alone."""
    killed, unharmed = re.fullmatch(
        r"(?:Stay in its lane|Swerve)\. Killed: (.+)\. Unharmed: (.+)\.", option
    ).groups()  # type: ignore[union-attr]
    return unharmed, killed


def number(group: str) -> int:
    words = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}
    who = group.rsplit(", ", 1)[0]
    return sum(words[part.split()[0]] for part in re.split(r", | and ", who))


def rung(group: str, high: str, low: str) -> int:
    who = group.rsplit(", ", 1)[0]
    return bool(re.search(high, who)) - bool(re.search(low, who))


RULES: dict[str, Callable[[str, str], float]] = {
    # of who is unharmed, which is compared with the same of who is killed
    "Relation to AV": lambda g, option: "riding" not in g,
    "Law": lambda g, option: ("green" in g) - ("red" in g),
    "Gender": lambda g, option: bool(re.search(FEMALE, g)),
    "Fitness": lambda g, option: rung(g, "athlete", "large"),
    "Social Status": lambda g, option: rung(g, "executive", "homeless"),
    "Age": lambda g, option: rung(g, "boy|girl", "elderly"),
    "No. Characters": lambda g, option: number(g),
    "Species": lambda g, option: not re.search(r"\b(?:dog|cat)", g),
}
# What a rule reads is also told in dilemmas of other dimensions: there it says nothing.
DIMENSION = {option: one.dimension for one in DRAWN for option in one.options}


def prefers(label: str, option: str) -> float:
    """1 where an option does what a rule says, 0 where it does the opposite, else a half."""
    if label == "Intervention":
        return float(option.startswith("Stay"))
    if label in DIMENSIONS and DIMENSION[option] != label:
        return 0.5
    spared, killed = groups(option)
    value = RULES[label]
    return (np.sign(value(spared, option) - value(killed, option)) + 1) / 2


def chooses(rule: Callable[[str], float], name: str = "m") -> Scripted:
    """A model that finds each option as probable as a rule says, whatever letter it has."""

    def believes(question: Question) -> dict[str, float]:
        lines = question.text.split("\n\n")[1].splitlines()
        return {LETTERS[i]: rule(line.split(". ", 1)[1]) for i, line in enumerate(lines)}

    return Scripted(name, lambda q: "A", believes)


def some_countries(n: int = 6, spread: float = 0.05, seed: int = 0) -> Countries:
    rng = np.random.default_rng(seed)
    mean = np.array([0.06, 0.1, 0.35, 0.12, 0.16, 0.35, 0.48, 0.5, 0.6])
    values = mean + spread * rng.normal(size=(n, 9))
    return Countries(tuple(f"C{i}" for i in range(n)), values, np.full((n, 9), 0.02))


COUNTRIES = some_countries()


def exactly(values: np.ndarray, n: int = 192, draws: int = 1) -> Effects:
    return Effects(np.tile(values, (draws + 1, 1)), (n,) * 9)


def like(target: np.ndarray, noise: float = 0, seed: int = 0) -> list[tuple[float, float]]:
    """Shares by which every attribute that a dilemma tells of adds its effect."""
    rng, found = np.random.default_rng(seed), []
    for one in DRAWN:
        stay = sum(target[AT[label]] * (1 - 2 * at) for label, at in one.spares.items())
        p = float(np.clip((1 + stay) / 2 + noise * rng.normal(), 0, 1))
        found.append((p, 1 - p))
    return found


@pytest.mark.parametrize("label", LABELS)
def test_a_planted_rule_is_found_by_its_words_and_no_other(label: str) -> None:
    found = measure(chooses(lambda option: prefers(label, option)), COUNTRIES, draws=200)
    rows = {row["effect"]: row for row in found.effects.to_dicts()}
    assert rows[label]["value"] == pytest.approx(1) and rows[label]["low"] == pytest.approx(1)
    for other in set(LABELS) - {label}:
        low, value, high = (rows[other][name] for name in ("low", "value", "high"))
        assert value == pytest.approx(0, abs=1e-9) and low <= 1e-9 and high >= -1e-9
    assert found.summary["order gap"] == pytest.approx(0)
    assert found.summary["first option"] == pytest.approx(0.5)
    assert f"{label} ({LEVELS[label]})" in "\n".join(of_dilemmas(found))


def test_signs_are_the_studys() -> None:
    """By hand: a boy who walks on green dies if the car stays, an old man against red if not."""
    (one,) = [d for d in DRAWN if d.dimension == "Age" and "Law" in d.spares][:1]
    stay_spares, stay_kills = groups(one.options[0])
    assert groups(one.options[1]) == (stay_kills, stay_spares)
    assert one.options[0].startswith("Stay") and one.spares["Intervention"] == 0
    assert ("green" in stay_spares) == (one.spares["Law"] == 0)
    for d in DRAWN:
        for label, at in d.spares.items():
            assert prefers(label, d.options[at]) == 1, (label, d.options)
    assert set(LEVELS) == set(LABELS)


def test_effects_by_a_naive_loop() -> None:
    rng = np.random.default_rng(1)
    shares = [(p, 1 - p) if i % 7 else () for i, p in enumerate(rng.random(len(DRAWN)))]
    found = effects(DRAWN, shares, draws=50)
    for label in LABELS:
        with_level, with_contrast = [], []
        for one, p in zip(DRAWN, shares, strict=True):
            if p and label in one.spares:
                with_level.append(p[one.spares[label]])
                with_contrast.append(p[1 - one.spares[label]])
        expected = np.mean(with_level) - np.mean(with_contrast)
        assert found.draws[0, AT[label]] == pytest.approx(expected)
        assert found.n[AT[label]] == len(with_level)
    assert found.draws.shape == (51, 9)
    # Resamples vary as the mean of so many does.
    j = AT["Intervention"]
    x = np.array([p[0] - p[1] for p in shares if p])
    many = effects(DRAWN, shares, draws=4000).draws[1:, j]
    assert many.std() == pytest.approx(x.std() / np.sqrt(len(x)), rel=0.1)


def test_attributes_are_balanced_and_independent() -> None:
    assert Counter(d.dimension for d in DRAWN) == dict.fromkeys(DIMENSIONS, 32)
    for label, n in zip(LABELS, (192, 48, 48, *[32] * 6), strict=True):
        at = [d.spares[label] for d in DRAWN if label in d.spares]
        assert len(at) == n and np.mean(at) == (0 if label == "Intervention" else 0.5)
    for a, b in combinations(LABELS[1:], 2):
        both = Counter((d.spares[a], d.spares[b]) for d in DRAWN if a in d.spares and b in d.spares)
        assert len(set(both.values())) <= 1 and len(both) in (0, 4), (a, b)
    # Lights of who walks while others ride are no matter of law, and as often green as red.
    riding = [d.options[0] for d in DRAWN if "riding" in d.options[0]]
    assert len(riding) == 96
    assert sum("green" in o for o in riding) == sum("red light" in o for o in riding) == 24
    assert DRAWN == dilemmas() != dilemmas(seed=1)
    assert len({d.options for d in dilemmas(960)}) > 800


def test_characters_are_as_many_but_where_that_is_it() -> None:
    differences = []
    for one in dilemmas(960, seed=2):
        spared, killed = (number(group) for group in groups(one.options[0]))
        assert min(spared, killed) >= 1 and max(spared, killed) <= 5
        assert (spared == killed) == (one.dimension != "No. Characters")
        differences += [abs(spared - killed)] if spared != killed else []
    each = Counter(differences)  # 40 each, but for what is drawn
    assert set(each) == {1, 2, 3, 4} and min(each.values()) > 20


def test_words_are_english() -> None:
    text = " ".join(o for d in dilemmas(960) for o in d.options)
    for wrong in ("mans", "a elderly", "persons", "prams ", "womans", "two man ", ", ,", "  "):
        assert wrong not in text.replace("babies in prams", "")
    for right in ("women", "an elderly man", "homeless people", "babies in prams", "two dogs"):
        assert right in text


def test_who_always_says_a_has_no_effects() -> None:
    letter = Scripted("a", lambda q: "A", lambda q: {"A": 0.9, "B": 0.05})
    found = measure(letter, COUNTRIES, draws=100)
    assert found.effects["value"].abs().max() < 1e-12
    assert found.summary["first option"] == pytest.approx(0.9 / 0.95)
    assert found.summary["order gap"] == pytest.approx(0.85 / 0.95)
    assert found.countries["r"].is_null().all() and found.summary["r"]["value"] is None
    assert found.summary["shuffled p"] == 1
    assert found.summary["rms"]["value"] == pytest.approx(found.summary["zero rms"])
    said = measure(letter, COUNTRIES, draws=100, readout=Readout("sampled", 3))
    assert said.effects["value"].abs().max() == 0 and said.summary["order gap"] == 1
    assert "it doesn't vary" in "\n".join(of_dilemmas(said))


def test_intervals_of_who_draws_lots_cover_0() -> None:
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        stay = rng.integers(2, size=len(DRAWN))
        found = effects(DRAWN, [(p, 1 - p) for p in stay.astype(float)], draws=300, seed=seed)
        low, high = np.quantile(found.draws[1:], (0.025, 0.975), axis=0)
        covered += ((low <= 0) & (high >= 0)).tolist()
    assert 0.88 < np.mean(covered) < 0.99  # of 360: 0.95 within 3 errors, fewer for small n


def test_comparison_by_hand() -> None:
    m = np.linspace(-0.2, 0.6, 9)
    table, summary = compare(exactly(m), COUNTRIES)
    c = COUNTRIES.values
    for i, row in enumerate(table.to_dicts()):
        others = np.delete(c, i, axis=0).mean(0)
        own, guess = (np.sqrt(np.mean((x - c[i]) ** 2)) for x in (m, others))
        assert row["rms"] == pytest.approx(own) and row["others rms"] == pytest.approx(guess)
        assert row["skill"] == pytest.approx(1 - own / guess)
        assert row["r"] == pytest.approx(np.corrcoef(m, c[i])[0, 1])
        assert row["others r"] == pytest.approx(np.corrcoef(others, c[i])[0, 1])
        assert row["zero rms"] == pytest.approx(np.sqrt(np.mean(c[i] ** 2)))
        assert row["noise"] == pytest.approx(0.02)
        # Over all orders each effect meets each of the country's.
        each = np.sqrt(np.mean((m[:, None] - c[i]) ** 2))
        assert row["shuffled rms"] == pytest.approx(each, rel=0.03)
    assert summary["rms"]["value"] == pytest.approx(table["rms"].mean())
    assert summary["skill"]["value"] == pytest.approx(
        1 - table["rms"].mean() / table["others rms"].mean()
    )
    assert summary["shuffled p"] < 0.01


def test_who_is_a_country_is_near_it_and_the_null_is_not() -> None:
    target = COUNTRIES.values[2]
    found = effects(DRAWN, like(target), draws=200)
    assert found.draws[0] == pytest.approx(target)
    table, summary = compare(found, COUNTRIES)
    assert table.sort("rms")["country"][0] == "C2"
    assert table["rms"][2] == pytest.approx(0, abs=1e-9)
    assert summary["shuffled p"] < 0.01 and summary["shuffled rms"] > 4 * summary["rms"]["value"]
    # Shuffled, nothing is left.
    mixed = compare(exactly(np.roll(target, 4)), COUNTRIES)[1]
    assert mixed["shuffled p"] > 0.05


def test_skill_words() -> None:
    far = some_countries(12, 0.15)
    close = compare(effects(DRAWN, like(far.values.mean(0)), draws=300), far)[1]
    # With the country itself in it the mean is nearer: 11 / 12 of the distance.
    assert close["skill"]["value"] == pytest.approx(1 / 12, abs=0.02)
    sure = {"value": 0.1, "low": 0.02, "high": 0.2}
    assert standing(sure) == "improves on"
    assert standing({**sure, "low": -0.01}) == "can't be told from"
    assert standing({"value": -1, "low": -2, "high": -0.1}) == "is surely worse than"
    assert standing({"value": 0.1, "low": None, "high": None}) == "isn't known against"
    assert ("improves" in standing(close["skill"])) == (close["skill"]["low"] > 0)
    found = measure(chooses(lambda option: 0.5), COUNTRIES, draws=100)
    lines = "\n".join(of_dilemmas(found))
    assert "surely worse than the mean of the other countries" in lines and "improves" not in lines
    assert lines.endswith(SILENT)


def test_a_resample_does_not_add_its_noise_twice() -> None:
    """Of a model that is a country but for noise the interval holds the value."""
    shares = like(COUNTRIES.values[0], noise=0.3)
    found = effects(DRAWN, shares, draws=1000)
    table, summary = compare(found, COUNTRIES)
    for row in table.to_dicts():
        assert row["rms low"] < row["rms"] < row["rms high"]
    assert summary["noise of dilemmas"] == pytest.approx(
        np.sqrt(np.mean(found.draws[1:].std(0) ** 2)), rel=1e-6
    )
    assert summary["rms"]["low"] < summary["rms"]["value"] < summary["rms"]["high"]


def test_countries_that_are_not_sure_are_left_out_and_counted() -> None:
    se = COUNTRIES.se.copy()
    se[1] = 0.2
    some = Countries(COUNTRIES.names, COUNTRIES.values, se)
    table, summary = compare(exactly(np.zeros(9)), some, clusters={"C0": "0", "C2": "1", "X": "9"})
    assert "C1" not in table["country"] and (summary["countries"], summary["left out"]) == (5, 1)
    assert table["cluster"].to_list() == ["0", "1", None, None, None]
    assert {name: row["n"] for name, row in summary["clusters"].items()} == {"0": 1, "1": 1}
    assert summary["clusters"]["1"]["value"] == pytest.approx(table["rms"][1])
    assert compare(exactly(np.zeros(9)), some, max_se=1)[1]["left out"] == 0
    with pytest.raises(DataError, match="aren't two countries to compare"):
        compare(exactly(np.zeros(9)), some, max_se=0.01)


def test_few_dilemmas_have_no_interval() -> None:
    found = measure(chooses(lambda option: prefers("Age", option)), COUNTRIES, n=60, draws=50)
    rows = {row["effect"]: row for row in found.effects.to_dicts()}
    assert rows["Age"]["value"] == pytest.approx(1) and rows["Age"]["low"] is None
    assert rows["Intervention"]["low"] is not None
    assert found.summary["skill"]["low"] is None and found.countries["rms low"].is_null().all()
    assert "isn't known against" in "\n".join(of_dilemmas(found))
    with pytest.raises(DataError, match="answers no dilemma"):
        measure(chooses(lambda option: 0.5), COUNTRIES, n=0)
    with pytest.raises(DataError, match=r"no dilemma about .* is answered"):
        measure(chooses(lambda option: 0.5), COUNTRIES, n=3)


def test_what_cannot_be_read_is_counted() -> None:
    def says(question: Question) -> str:
        return "I can't choose who dies." if "dog" in question.text else "A"

    found = measure(Scripted("m", says), COUNTRIES, readout=Readout("sampled", 1), draws=50)
    refused = found.choices.filter(status="refused")
    assert found.summary["statuses"] == {"ok": 192 - refused.height, "refused": refused.height}
    assert refused.height > 5 and refused["staying"].is_null().all()
    assert f"; refused {refused.height}" in of_dilemmas(found)[0]
    for silent in (lambda q: "I can't choose.", lambda q: "Hm?"):
        with pytest.raises(DataError, match=r"answers no dilemma.*(refused|unparsable) 192"):
            measure(Scripted("s", silent), COUNTRIES, readout=Readout("sampled", 1))


def test_it_is_kept_and_saved(tmp_path: Path) -> None:
    asked: list[str] = []

    def says(question: Question) -> str:
        asked.append(question.text)
        return "B"

    seen: list[tuple[int, int]] = []
    results: list[Dilemmas] = []
    for _ in range(2):
        with open_cache(tmp_path / "answers.jsonl") as cache:
            results.append(
                measure(
                    Scripted("m", says),
                    COUNTRIES,
                    readout=Readout("sampled", 2),
                    draws=50,
                    cache=cache,
                    progress=lambda done, total, detail: seen.append((done, total)),
                )
            )
    first, again = results
    assert len(asked) == 2 * len(set(asked)) and seen[-1] == (768, 768)
    assert first.effects.equals(again.effects) and first.summary == again.summary
    first.save(tmp_path)
    for name in ("effects", "countries", "choices"):
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(getattr(first, name))
    summary = json.loads((tmp_path / "dilemmas.json").read_text())
    assert summary["dilemmas"] == 192 and summary["statuses"] == {"ok": 192}
    assert first.choices.height == 192 and first.choices["Age"].drop_nulls().len() == 32


def rows_of(country: str = "XXX", **changed: tuple[str, str]) -> list[str]:
    each = dict.fromkeys(LABELS, ("0.1", "0.01")) | changed
    return [f"{value},{se},{label},{country}" for label, (value, se) in each.items()]


def written(folder: Path, rows: list[str], head: str = "Estimates,se,Label,Country") -> Path:
    path = folder / "effects.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_effects_are_read(tmp_path: Path) -> None:
    rows = [*rows_of("AAA", Age=("0.5", "0.02")), "0.3,0.01,No. Characters_1,AAA", *rows_of("BBB")]
    found = load_effects(written(tmp_path, rows))
    assert found.names == ("AAA", "BBB") and found.values.shape == found.se.shape == (2, 9)
    assert found.values[0, AT["Age"]] == 0.5 and found.se[0, AT["Age"]] == 0.02


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (rows_of(Age=("x", "0.1")), "has no such effect.*XXX, Age: nan"),
        (rows_of(Age=("0.5", "")), "has no such effect.*error of nan"),
        (rows_of(Age=("0.5", "0")), "has no such effect.*error of 0"),
        (rows_of(Age=("0.5", "inf")), "has no such effect"),
        (rows_of(Age=("1.5", "0.1")), "has no such effect"),
        ([*rows_of(), "0.1,0.1,Age,XXX"], "label twice.*XXX: Age"),
        ([*rows_of(), "0.1,0.1,Wealth,XXX"], "unknown label.*'Wealth'"),
        ([*rows_of(), "0.1,0.1,Age,"], "or no country.*None, 'Age'"),
        (rows_of()[:-1], "lacks one.*XXX has no Species"),
        (["0.1,0.1,No. Characters_1,XXX"], "lacks one.*Intervention"),
        ([], "holds no effects"),
    ],
)
def test_what_is_no_effect_is_refused(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_effects(written(tmp_path, rows))


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no table of effects.*'se'"):
        load_effects(written(tmp_path, ["1,Age,AAA"], "Estimates,Label,Country"))
    with pytest.raises(DataError, match="can't read"):
        load_effects(tmp_path / "none.csv")


def app() -> typer.Typer:
    made = typer.Typer()
    made.command("dilemmas")(dilemmas_command)
    return made


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moralprobe.steering import text

    model = chooses(lambda option: 0.2 + 0.6 * prefers("Species", option))
    monkeypatch.setattr(text, "text_model", lambda name, device: model)
    effect_rows = [row for i in range(3) for row in rows_of(f"C{i}", Age=(f"0.{i}", "0.01"))]
    path = written(tmp_path, effect_rows)
    clusters = tmp_path / "clusters.csv"
    clusters.write_text("ISO3,Country,Cluster\nC0,One,0\nC1,Two,1\n")
    line = [str(path), "--out", str(tmp_path / "out"), "--clusters", str(clusters), "--quiet"]
    done = CliRunner().invoke(app(), [*line, "--draws", "50"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Species (humans)                 +0.6" in done.output and SILENT in done.output
    assert "cluster 1, 1 countries" in done.output
    assert (tmp_path / "out" / "countries.parquet").is_file()
    for text_, words in (
        ("ISO3,Country\nC0,One\n", "no column 'Cluster'"),
        ("ISO3,Cluster\nC0,1\nC0,2\n", "country twice"),
    ):
        clusters.write_text(text_)
        with pytest.raises(DataError, match=words):
            CliRunner().invoke(app(), line, catch_exceptions=False)


def test_the_published_effects() -> None:
    countries = load_effects(shared_file("moral_machine", "country_amce.csv"))
    assert len(countries.names) == 196
    us = countries.values[countries.names.index("USA")]
    assert us[AT["Species"]] == pytest.approx(0.584, abs=5e-4)
    assert us[AT["Intervention"]] == pytest.approx(0.067, abs=5e-4)
    table, summary = compare(effects(DRAWN, like(us), draws=100), countries)
    assert table.sort("rms")["country"][0] == "USA"
    assert summary["countries"] == 112 and summary["left out"] == 84
    assert summary["others rms"] < summary["zero rms"] / 3
    assert summary["shuffled p"] < 0.01
