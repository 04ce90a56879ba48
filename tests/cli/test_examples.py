"""Every example in the help runs, in the order in which a reader would type them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moralprobe.activations.store import ActivationStore
from moralprobe.behavior.pluralism.moral_machine import LABELS
from moralprobe.data import download as downloading
from moralprobe.study import Study
from tests.cli.commands import leaves, moralprobe
from tests.cli.conftest import RATINGS

# What a later example reads is made by an earlier one.
SCORES = "model,theory,item,text,score\n" + "".join(
    f"{model},justice,{i},deed {i},{0.1 + 0.5 * (i % 2) + 0.03 * ((7 * i + 3 * n) % 11):.2f}\n"
    for n, model in enumerate(("a", "b", "c", "model"))
    for i in range(40)
)
ORDER = (
    "doctor",
    "models",
    "vectors build",
    "vectors sample",
    "bench",
    "plan",
    "extract",
    "verify",
    "probe",
    "control",
    "sae train",
    "sae eval",
    "sae features",
    "sae push",
    "sae load",
    "topology fit",
    "topology survive",
    "intervention direction",
    "intervention features",
    "intervention vector",
    "steer",
    "evaluate",
    "consensus score",
    "consensus fit",
    "consensus align",
    "elicit calibrate",
    "elicit search",
    "elicit measure",
    "elicit repair train",
    "elicit repair apply",
    "orient run",
    "orient ring",
    "pluralism reference",
    "pluralism measure",
    "pluralism steerable",
    "pluralism fit",
    "pluralism geometry",
    "pluralism overton",
    "pluralism dilemmas",
    "pluralism certify",
    "run",
    "compare",
    "data download",
    "serve",
    "demo",
)
# The same commands with a smaller model, fewer layers, poolings and draws. Those of
# ELSEWHERE are run below, in tests/recipes or in docs/howto/compare.md: one needs studies of two models, two would fetch
# from the network, one does all of the others again.
SMALLER: dict[str, list[str]] = {
    "bench": ["--seconds", "1"],
    "extract": ["--layers", "1", "--pooling", "mean,mean_unit", "--quiet"],
    "probe": ["--draws", "100", "--quiet"],
    "control": ["--draws", "100", "--layers", "1", "--quiet"],
    "consensus score": ["--quiet"],
    "consensus align": ["--epochs", "1", "--lambdas", "0", "--draws", "20", "--quiet"],
    "consensus fit": ["--draws", "20", "--shuffles", "19", "--quiet"],
    "elicit calibrate": ["--quiet"],
    "elicit search": ["--quiet"],
    "elicit measure": ["--draws", "20", "--quiet"],
    "elicit repair train": ["--quiet"],
    "elicit repair apply": ["--draws", "20", "--quiet"],
    "orient run": ["--draws", "20", "--quiet"],
    "orient ring": ["--quiet"],
    "pluralism measure": ["--draws", "20", "--quiet"],
    "pluralism steerable": ["--draws", "20"],
    "pluralism fit": ["--draws", "20", "--epochs", "1", "--quiet"],
    "pluralism geometry": ["--draws", "20", "--quiet"],
    "pluralism overton": ["--draws", "20", "--tokens", "8", "--quiet"],
    "pluralism dilemmas": ["--draws", "20", "--n", "48", "--quiet"],
    "sae train": [
        *("--layer", "1", "--expansion", "4", "--k", "4", "--lr", "0.002"),
        *("--steps", "200", "--batch", "512", "--quiet"),
    ],
    "sae features": ["--quiet", "--causal", "3"],
    # So small a model holds no feature that the audited rule chooses.
    "topology fit": ["--mode", "li2026", "--epochs", "2", "--draws", "20", "--quiet"],
    "topology survive": ["--draws", "20", "--analyses", "separation", "--quiet"],
    "intervention direction": ["--layer", "1", "--quiet"],
    "intervention features": ["--quiet"],
    "intervention vector": ["--layer", "1", "--quiet"],
    "steer": ["--max-tokens", "5", "--plain"],
    "evaluate": ["--max-tokens", "5", "--strengths", "0.5", "--quiet"],
}
SURVEY = "question,option,community,count\n" + "".join(
    f"Case {q}: is it so?,{option},{who},{1 + (q + 2 * k + who.count('o') + q * k * who.count('h')) % 5}\n"
    for q in range(44)
    for who in ("north", "south")
    for k, option in enumerate(("yes", "no"))
)
EFFECTS = "Estimates,se,Label,Country\n" + "".join(
    f"{0.1 + 0.01 * i + 0.02 * k},0.01,{label},{country}\n"
    for k, country in enumerate(("AAA", "BBB", "CCC"))
    for i, label in enumerate(LABELS)
)
ELSEWHERE = ("sae load", "run", "compare", "data download", "serve", "demo")


def examples(command: str) -> list[list[str]]:
    """The words of every example in a command's help, without the program's name."""
    said = moralprobe(*command.split(), "--help")
    text = re.sub(r"\s+", " ", said.out.partition("Example:")[0::2][1].partition("\n\n")[0])
    found = [shlex.split(line) for line in text.split("Example:") if line.strip()]
    assert all(words[0] == "moralprobe" for words in found)
    return [words[1:] for words in found]


def test_every_command_has_an_example_of_itself() -> None:
    assert sorted(leaves()) == sorted(ORDER)
    for command in leaves():
        assert examples(command), f"moralprobe {command} --help shows no example"
        for words in examples(command):
            assert " ".join(words).startswith(command)


def test_every_example_runs_after_the_ones_before_it(made: Path) -> None:
    # A reader's own table and vector.
    Path("ratings.csv").write_text(RATINGS)
    save_file({"v": torch.ones(32)}, "mine.safetensors")
    Path("scores.csv").write_text(SCORES)
    Path("survey.csv").write_text(SURVEY)
    Path("country_amce.csv").write_text(EFFECTS)
    Path("scope.yaml").write_text("decision: which bus line is kept\n")
    Path("dilemmas.txt").write_text("Keeping a promise\nBreaking one\n")
    for command in ORDER:
        for words in examples(command):
            if command in ELSEWHERE:
                continue
            smaller = [str(made / "model") if word == "smollm2-135m" else word for word in words]
            said = moralprobe(*smaller, *SMALLER.get(command, []))
            assert said.code == 0, f"{words}: {said.err}"
    # The files that the examples name are those that they made.
    assert Path("starter.parquet").is_file() and Path("sample.parquet").is_file()
    assert ActivationStore.open(Path("store")).layers == (1,)
    assert Study.load(Path("study")).frame.height > 0
    assert Path("study/report/index.html").is_file()
    assert set(Study.load(Path("control")).frame["analysis"]) == {"control"}
    assert Path("sae/cfg.json").is_file() and Path("features/index.html").is_file()
    assert Path("hub/resid_post.1/cfg.json").is_file()
    assert Path("rebuilt/tuned/cfg.json").is_file() and Path("survival.parquet").is_file()
    assert Path("care/intervention.json").is_file()
    assert Path("evaluation/report/index.html").is_file()
    assert Path("scores/scores.parquet").is_file() and Path("aligned/arms.parquet").is_file()
    assert Path("repaired/arms.parquet").is_file() and Path("ring/ring.parquet").is_file()
    assert Path("orientation/ring.svg").is_file() and Path("agreement/measures.parquet").is_file()
    assert Path("steered/measures.parquet").is_file() and Path("moved/geometry.parquet").is_file()
    assert len(list(Path("fitted/adapters").glob("*/learnt.json"))) == 5
    assert Path("coverage/scores.parquet").is_file()
    assert Path("dilemmas/countries.parquet").is_file()
    assert "uncertified" in Path("certificate/certificate.html").read_text().casefold()
    assert (
        Path("prompts/prompts.parquet").is_file() and Path("violations/measures.parquet").is_file()
    )


def test_the_example_of_a_download_asks_for_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def fetch(name: str, out: Path | None, *, url: str | None, **_: object) -> Path:
        asked.append((name, out, url))
        return Path("table.tsv")

    monkeypatch.setattr(downloading, "download", fetch)
    for words in examples("data download"):
        said = moralprobe(*words)
        assert said.code == 0 and said.out == "table.tsv\n"
    assert asked == [("social-chem-101", None, None)]
    assert "social-chem-101" in downloading.DATASETS


@pytest.mark.slow
def test_the_demo_runs_and_a_second_time_reuses_what_is_done() -> None:
    (words,) = examples("demo")
    smaller = [*words, "--layers", "12", "--draws", "100"]
    first = moralprobe(*smaller)
    assert first.code == 0, first.err
    out = Path("out/demo")
    assert str(out / "report" / "index.html") in first.out
    assert "all were read before" not in first.err and "already" not in first.out
    made = [*sorted((out / "store").iterdir()), out / "measures.parquet", out / "study.json"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in made}
    vectors = (out / "vectors.parquet").read_bytes()
    second = moralprobe(*smaller)
    assert second.code == 0, second.err
    assert "all were read before" in second.err and "holds this study already" in second.out
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in made} == before
    assert (out / "vectors.parquet").read_bytes() == vectors
    # What it proposes to try next is a command that runs.
    (proposed,) = re.findall(r"^  moralprobe (verify .*)$", second.out, re.M)
    assert moralprobe(*proposed.split()).code == 0
