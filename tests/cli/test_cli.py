"""What commands say and leave with when all is well, or when the work itself fails."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import moralprobe as package
from moralprobe import doctor, files
from moralprobe.activations import extract as extraction
from moralprobe.models.packaged import PACKAGED
from moralprobe.models.registry import RegisteredModel
from tests.cli.commands import leaves, moralprobe, spoil
from tests.cli.conftest import RATINGS, extract


def test_version() -> None:
    said = moralprobe("--version")
    assert (said.code, said.out, said.err) == (0, package.__version__ + "\n", "")


@pytest.mark.parametrize("arguments", [(), ("vectors",), ("data",)])
def test_without_a_command_the_help_is_the_answer_and_no_error(arguments: tuple[str, ...]) -> None:
    said = moralprobe(*arguments)
    asked = moralprobe(*arguments, "--help")
    assert (said.code, said.out) == (2, "") and asked.code == 0
    assert said.err.strip() == asked.out.strip()
    assert asked.out.startswith("Usage: moralprobe")


@pytest.mark.parametrize("command", sorted(leaves()))
def test_help_says_what_every_argument_and_option_is_for(command: str) -> None:
    said = moralprobe(*command.split(), "--help")
    assert said.code == 0 and said.err == ""
    for parameter in leaves()[command].params:
        assert parameter.help, f"{command}: {parameter.name}"
        name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
        assert name in said.out


# -- vectors --------------------------------------------------------------------------------------


def test_build_says_what_each_rule_dropped_and_writes_the_table(made: Path) -> None:
    said = moralprobe("vectors", "build", made / "table.tsv", "--out", "v.parquet")
    assert said.code == 0 and said.err == ""
    pairs = pl.read_parquet("v.parquet").height
    assert f"wrote v.parquet: {pairs:,} row-foundation pairs" in said.out
    for line in ("rot-bad is not 0", "no moral foundation", "no judgment", "care-harm"):
        assert line in said.out
    again = moralprobe("vectors", "build", made / "table.tsv", "--out", "w.parquet", "--json")
    counts = json.loads(again.out)
    assert again.err == "" and counts["pairs"] == pairs and counts["out"] == "w.parquet"
    assert counts["schema"] == "li2026"
    assert Path("v.parquet").read_bytes() == Path("w.parquet").read_bytes()


def test_sample_names_the_strata_that_fall_short_and_repeats_by_seed(made: Path) -> None:
    sample = ("vectors", "sample", made / "vectors.parquet")
    said = moralprobe(*sample, "--out", "a.parquet", "--seed", "3")
    assert said.code == 0 and "fall short of their quota" in said.out
    assert re.search(r"care-harm care 1 +\d+ of 150", said.out)
    moralprobe(*sample, "--out", "b.parquet", "--seed", "3")
    assert Path("a.parquet").read_bytes() == Path("b.parquet").read_bytes()


# -- extract, verify ------------------------------------------------------------------------------


def test_extract_says_what_it_read_and_again_that_all_was_there(made: Path) -> None:
    command = [word for word in extract(made) if word != "--quiet"]
    said = moralprobe(*command, "--out", "s", "--layers", "1", "--pooling", "last,mean")
    texts = pl.read_parquet("s/texts.parquet").height
    assert said.code == 0
    assert said.out == f"s: {texts} texts, 1 layer, poolings last, mean\n"
    assert f"loading {made / 'model'}" in said.err and f"{texts}/{texts} texts" in said.err
    manifest = Path("s/manifest.json").stat().st_mtime_ns
    again = moralprobe(*command, "--out", "s", "--layers", "1", "--pooling", "last,mean")
    assert again.code == 0 and again.out == said.out
    assert "all were read before" in again.err
    assert Path("s/manifest.json").stat().st_mtime_ns == manifest


def test_quiet_says_results_only(made: Path) -> None:
    said = moralprobe(*extract(made), "--out", "s", "--layers", "0")
    assert said.code == 0 and said.err == "" and said.out.startswith("s: ")


def test_extract_reads_an_untrained_twin_and_says_so(made: Path) -> None:
    command = [word for word in extract(made) if word != "--quiet"]
    said = moralprobe(*command, "--out", "s", "--layers", "1", "--untrained")
    assert said.code == 0 and "reading texts with model (untrained)" in said.err
    assert package.ActivationStore.open(Path("s")).model_name == "model (untrained)"


def test_extract_says_how_many_texts_were_cut(made: Path) -> None:
    said = moralprobe(*extract(made), "--out", "s", "--layers", "0", "--max-tokens", "20")
    cut = int(pl.read_parquet("s/texts.parquet")["truncated"].sum())
    assert cut > 0 and f"{cut:,} texts were cut at 20 tokens" in said.out


def test_verify_passes_a_whole_store(store: Path) -> None:
    assert moralprobe("verify", store).out == f"{store}: all bytes are right\n"
    said = moralprobe("verify", store, "--json")
    assert said.code == 0 and json.loads(said.out) == {"problems": {}, "foreign": []}


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "table"])
def test_verify_names_what_is_damaged_and_leaves_with_one(store: Path, fault: str) -> None:
    victim = next(store.glob("shard-*")) if fault != "table" else store / "texts.parquet"
    if fault == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif fault == "missing":
        victim.unlink()
    else:
        spoil(victim, len(victim.read_bytes()) // 2)
    said = moralprobe("verify", store)
    assert said.code == 1 and "Traceback" not in said.err
    assert f"{victim.name}: " in said.out and "repeat the extract command" in said.out
    as_json = moralprobe("verify", store, "--json")
    assert as_json.code == 1 and list(json.loads(as_json.out)["problems"]) == [victim.name]


def test_what_is_damaged_is_mended_by_the_same_command(made: Path, store: Path) -> None:
    shard = next(store.glob("shard-*"))
    whole = shard.read_bytes()
    spoil(shard)
    said = moralprobe(*extract(made), "--out", store)
    assert said.code == 0 and f"{shard.name}: " in said.err and "computed again" in said.err
    assert shard.read_bytes() == whole and moralprobe("verify", store).code == 0


def test_a_foreign_file_is_named_and_no_damage(store: Path) -> None:
    (store / "other.safetensors").write_bytes(b"")
    said = moralprobe("verify", store)
    assert said.code == 0 and "other.safetensors: not part of this store" in said.err
    assert json.loads(moralprobe("verify", store, "--json").out)["foreign"] == ["other.safetensors"]


# -- probe ----------------------------------------------------------------------------------------


def test_probe_writes_a_table_and_a_report_and_again_only_the_report(made: Path) -> None:
    command = ("probe", made / "store", "--out", "study", "--draws", "100", "--mode", "audited")
    said = moralprobe(*command)
    assert said.code == 0 and "probing" in said.err
    rows = pl.read_parquet("study/measures.parquet").height
    assert f"table:  study/measures.parquet ({rows:,} measures)" in said.out
    assert "report: study/report/index.html" in said.out
    assert Path("study/report/index.html").stat().st_size > 1000
    table = Path("study/measures.parquet").stat().st_mtime_ns
    again = moralprobe(*command, "--quiet")
    assert again.code == 0 and again.err == "" and "holds this study already" in again.out
    assert Path("study/measures.parquet").stat().st_mtime_ns == table
    assert set(pl.read_parquet("study/measures.parquet")["mode"]) == {"audited"}


# -- models, doctor -------------------------------------------------------------------------------


def test_models_lists_packaged_cached_and_registered_ones() -> None:
    said = moralprobe("models")
    assert said.code == 0 and said.err == ""
    found = json.loads(moralprobe("models", "--json").out)
    assert list(found) == ["packaged", "cached", "registry"]
    assert [row["id"] for row in found["packaged"]] == list(PACKAGED)
    for title, rows in found.items():
        assert f"{title}:" in said.out
        assert all(row["id"] in said.out for row in rows)
    assert all(row["about"] in said.out for row in [*found["packaged"], *found["cached"]])
    fields = {field.name for field in dataclasses.fields(RegisteredModel)}
    assert len(found["registry"]) == 23
    for row in found["registry"]:
        assert row.keys() == fields | {"size", "memory_gb", "about"}
        (line,) = [line for line in said.out.splitlines() if line.split()[:1] == [row["id"]]]
        shown = (row["family"], row["role"], row["size"], row["n_layers"], row["d_model"])
        for word in (*shown, f"{row['memory_gb']:.1f} GB", row["revision"] or "not pinned"):
            assert str(word) in line
        assert ("yes" in line) == row["moe"] and row["note"] in said.out


# -- plan -----------------------------------------------------------------------------------------


def test_plan_shows_what_each_model_costs_and_what_that_assumes(made: Path) -> None:
    models = f"{made / 'model'},meta-llama/Llama-3.1-8B,openai/gpt-oss-20b"
    command = ("plan", made / "vectors.parquet", "--models", models)
    said, found = moralprobe(*command), json.loads(moralprobe(*command, "--json").out)
    assert said.code == 0 and said.err == ""
    own, llama, oss = found["models"]
    assert [row["id"] for row in found["models"]] == [
        "model",
        "meta-llama/Llama-3.1-8B",
        "openai/gpt-oss-20b",
    ]
    # The folder's own tokenizer counts bytes; another one stands in for a model that isn't here.
    assert [row["estimated"] for row in found["models"]] == [False, True, True]
    assert own["tokens"] > 2 * llama["tokens"] == 2 * oss["tokens"]
    for name in ("tokens", "flops", "disk_bytes", "gpu_hours"):
        assert found["total"][name] == pytest.approx(sum(row[name] for row in found["models"]))
    assert found["assumed"]["device_tflops"] == pytest.approx(0.4 * 989)
    for word in (f" {own['tokens']:,} ", f" ~{llama['tokens']:,} ", "total", "its own tokenizer"):
        assert word in said.out
    for sentence in ("395.6 TFLOP/s (40% of the dense bf16 peak of an H100", "enough for all"):
        assert sentence in said.out
    faster = json.loads(moralprobe(*command, "--json", "--device-tflops", "791.2").out)
    assert faster["total"]["gpu_hours"] == pytest.approx(found["total"]["gpu_hours"] / 2)
    assert faster["assumed"]["from"] == "as given; moralprobe bench measures it"


def test_plan_says_when_the_disk_is_too_small_and_starts_nothing(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1_000_000)
    command = ("plan", made / "vectors.parquet", "--models", "paper", "--out", "deep/stores")
    said = moralprobe(*command)
    assert said.code == 0 and not Path("deep").exists()
    assert "deep/stores has not enough room, 1 MB free for" in said.out
    assert said.out.count("Qwen/") == 14 and said.out.count("\nopenai/") == 4


def test_doctor_finds_this_machine_fit() -> None:
    said = moralprobe("doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(said.out)}
    assert said.code == 0 and said.err == ""
    assert {"torch", "transformers", "device", "cache", *PACKAGED} <= found.keys()
    assert all(finding["ok"] for finding in found.values() if finding["needed"])


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_doctor_says_how_to_mend_and_fails_on_what_is_needed(
    needed: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [
        doctor.Finding("torch", True, "9.9", "never shown"),
        doctor.Finding("cache", False, "read-only", "set the folder", needed=needed),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    said = moralprobe("doctor")
    assert said.code == code and "never shown" not in said.out
    assert re.search(r"^MEND cache +read-only\n +set the folder$", said.out, re.M)
    assert moralprobe("doctor", "--json").code == code


def test_doctor_sees_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package"))
    monkeypatch.setattr(doctor, "_device", lambda: [])
    said = moralprobe("doctor")
    assert said.code == 1 and "pip install no-such-package" in said.out


# -- leaving --------------------------------------------------------------------------------------


def test_interrupted_it_leaves_with_130_and_says_that_the_same_command_continues(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "extract", interrupted)
    said = moralprobe(*extract(made), "--out", "s")
    assert said.code == 130 and said.out == ""
    assert said.err == "interrupted: what is complete is kept, and the same command continues\n"


@pytest.mark.parametrize("program", ["script", "module"])
def test_a_process_leaves_with_the_code_and_says_errors_on_stderr(program: str) -> None:
    start = [str(Path(sys.executable).with_name("moralprobe"))]
    if program == "module":
        start = [sys.executable, "-m", "moralprobe"]
    done = subprocess.run([*start, "verify", "absent"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: absent holds no activation store\n  why: ")


def test_paths_with_blanks_and_other_scripts_in_another_locale(made: Path) -> None:
    out = Path("für дом") / "v 1.parquet"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "moralprobe", "vectors", "build", made / "table.tsv", "--out", out],
        capture_output=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(out).height > 0


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "moralprobe", "models", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert b"Traceback" not in err


# -- control --------------------------------------------------------------------------------------


def test_control_shows_the_ends_of_each_category_its_numbers_and_what_they_say(made: Path) -> None:
    Path("ratings.csv").write_text(RATINGS)
    command = (
        *("control", made / "model", "ratings.csv", "--scale", "1:7", "--out", "c"),
        *("--layers", "0-1", "--draws", "100", "--dtype", "fp32", "--quiet"),
    )
    first = moralprobe(*command)
    assert first.code == 0, first.err
    assert "ratings.csv: 20 rated items, most to least typical" in first.out
    assert re.search(r"tool +20  hammer, saw, drill \.\.\. pencil", first.out)
    assert re.search(r"rho given length, layer \d, mean_unit, audited:\n  tool +-?\d", first.out)
    assert "typicality in non-moral categories (ratings.csv) at rho = " in first.out
    assert "measures.parquet (" in first.out
    assert Path("c/ratings.parquet").is_file() and Path("c/store/manifest.json").is_file()
    before = Path("c/measures.parquet").read_bytes()
    again = moralprobe(*command, "--beside", "c")
    assert again.code == 0 and "c holds this study already" in again.out
    assert "the two can't be told apart" in again.out
    assert Path("c/measures.parquet").read_bytes() == before
