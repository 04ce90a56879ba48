"""Every bad input gets what failed, why, and what to do instead: on stderr, with its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moralprobe.models.tiny import save_tiny
from tests.cli.commands import moralprobe, refused, spoil
from tests.cli.conftest import RATINGS, extract

HEADER = "action\trot-moral-foundations\taction-moral-judgment\taction-agree\n"


# -- plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "Qwen/Qwen3-8b-Base"), ("unknown model", "did you mean Qwen/Qwen3-8B-Base")),
        (("--models", "no-such"), ("unknown model 'no-such'", "known: Qwen", "moralprobe models")),
        (("--models", ","), ("no model is named",)),
        (("--models", "paper", "--layers", "30"), ("Qwen3-0.6B-Base: layer 30", "28 layers")),
        (("--models", "paper", "--pooling", "means"), ("unknown pooling",)),
        (("--models", "paper", "--template", "actoin"), ("unknown template",)),
        (("--models", "paper", "--dtype", "fp16"), ("unknown dtype 'fp16'",)),
        (("--models", "paper", "--device-tflops", "0"), ("must be positive", "device_tflops=0")),
        (("--models", "paper", "--device-tflops", "nan"), ("must be positive",)),
        (("--models", "paper", "--max-tokens", "-1"), ("must be positive", "max_tokens=-1")),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_can_t_be_planned(
    made: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(moralprobe("plan", made / "vectors.parquet", *arguments), *words)


def test_a_plan_of_a_folder_without_a_config(made: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    said = moralprobe("plan", made / "vectors.parquet", "--models", "./hollow")
    refused(said, "holds no model", "no config.json")


def test_a_plan_of_a_model_with_code_of_its_own(made: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    config = json.loads((made / "model" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    refused(moralprobe("plan", made / "vectors.parquet", "--models", "./own"), "code of its own")


# -- vectors --------------------------------------------------------------------------------------


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    refused(moralprobe("vectors", "build", "absent.tsv", "--out", "v.parquet"), "can't read absent")
    refused(moralprobe("vectors", "build", tmp_path, "--out", "v.parquet"), "can't read")
    assert not Path("v.parquet").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty", "no header"]),
        ("a,b\n1,2\n", ["no column 'action'", "rename"]),
        (HEADER.replace("\taction-agree", "") + "x\tcare-harm\t1\n", ["no column 'action-agree'"]),
        (
            HEADER.replace("action-agree", "rot-agree") + "x\tcare-harm\t1\t4\n",
            ["no column 'action-agree'", "--agreement rot-agree"],
        ),
        (
            HEADER + "x\tcare-harm|liberty-oppression\t1\t4\n",
            ["data row 1", "unknown foundation 'liberty-oppression'"],
        ),
        (HEADER + "x\tcare-harm\t3\t4\n", ["data row 1", "judgment is '3'", "from -2 to 2"]),
        (HEADER + "x\tcare-harm\t1\t5\n", ["data row 1", "agree is '5'", "from 0 to 4"]),
        (HEADER + "x\tcare-harm\tbad\t4\n", ["judgment is 'bad'", "whole number"]),
        (HEADER + "x\tcare-harm\tnan\t4\n", ["judgment is 'nan'", "whole number"]),
        (HEADER, ["no row", "none below the header"]),
        (
            HEADER.replace("\n", "\taction\n") + "x\tcare-harm\t1\t4\ty\n",
            ["the column 'action' more than once", "rename"],
        ),
        (HEADER + "\tcare-harm\t1\t4\n   \tcare-harm\t1\t4\n", ["no row", "no action: 2"]),
    ],
)
def test_a_table_with_the_wrong_columns_or_values(text: str, words: list[str]) -> None:
    Path("bad.tsv").write_text(text)
    refused(moralprobe("vectors", "build", "bad.tsv", "--out", "v.parquet"), *words)
    assert not Path("v.parquet").exists()


def test_strict_leaves_with_one_where_texts_contradict_each_other() -> None:
    Path("twice.tsv").write_text(HEADER + "x y\tcare-harm\t1\t4\nX y\tcare-harm\t-1\t4\n")
    build = ("vectors", "build", "twice.tsv", "--out", "v.parquet")
    refused(moralprobe(*build, "--strict"), "judged good and bad", "one is 'x y'", code=1)
    assert not Path("v.parquet").exists()
    said = moralprobe(*build)
    assert said.code == 0 and "1 texts are judged good and bad" in said.out


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--schema", "li2025", ["unknown schema 'li2025'", "did you mean li2026"]),
        ("--agreement", "agree", ["unknown agreement column", "action-agree"]),
    ],
)
def test_an_unknown_option_of_build(option: str, value: str, words: list[str]) -> None:
    refused(moralprobe("vectors", "build", "starter", "--out", "v", option, value), *words)


def test_a_sample_of_what_is_no_vectors_table(made: Path) -> None:
    sample = ("vectors", "sample")
    refused(moralprobe(*sample, "absent.parquet", "--out", "s"), "can't read", "vectors build")
    refused(moralprobe(*sample, made / "table.tsv", "--out", "s"), "can't read", "vectors build")
    texts = made / "store" / "texts.parquet"
    refused(moralprobe(*sample, texts, "--out", "s"), "is no moral vectors table", "row, action")
    refused(moralprobe(*sample, made / "vectors.parquet", "--out", "s", "--quota", "x"), "li2026")


@pytest.mark.parametrize("out", [".", "folder", "/"])
def test_a_folder_where_a_file_is_to_be_written(out: str) -> None:
    Path("folder").mkdir()
    said = moralprobe("vectors", "build", "starter", "--out", out)
    refused(said, "can't write", "folder", code=1)


def test_a_file_where_a_folder_is_to_be_made(made: Path) -> None:
    Path("file").write_text("mine")
    refused(moralprobe(*extract(made), "--out", "file/store"), "can't write", code=1)
    assert Path("file").read_text() == "mine"


# -- extract --------------------------------------------------------------------------------------


def test_an_unknown_model(made: Path) -> None:
    rest = (made / "vectors.parquet", "--out", "s")
    refused(moralprobe("extract", "smollm", *rest), "unknown model 'smollm'", "moralprobe models")
    refused(moralprobe("extract", "owner/absent", *rest), "can't fetch", "hf download owner/absent")
    refused(moralprobe("extract", made, *rest), "holds no model", r"config\.json")
    assert not Path("s").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--layers", "2", ["layer 2 is out of range", "2 layers, 0 to 1"]),
        ("--layers", "0-7", ["layer 7 is out of range"]),
        ("--layers", "first", ["no choice of layers", "8-20:2"]),
        ("--pooling", "mena", ["unknown pooling 'mena'", "did you mean mean"]),
        ("--pooling", ",", ["no pooling is named", "mean_unit"]),
        ("--template", "morally", ["unknown template 'morally'", "action-is-morally"]),
        ("--template", "chat", ["no chat template", "another --template"]),
        ("--dtype", "fp16", ["unknown dtype 'fp16'", "bf16"]),
        ("--device", "gpu", ["unknown device 'gpu'", "cuda:1"]),
        ("--devices", "cpu,gpu", ["unknown device 'gpu'"]),
        ("--workers", "0", ["no process is left", "--workers 0"]),
        ("--engine", "rya", ["unknown engine 'rya'", "did you mean ray", "loop or ray"]),
        ("--layers-path", "model.blocks", [r"no list of modules at", r"model\.layers"]),
        ("--batch-tokens", "0", ["must be positive", "batch_tokens=0"]),
        ("--max-tokens", "-1", ["must be positive", "max_tokens=-1"]),
        ("--max-tokens", "1", ["no text can be read", "one token"]),
    ],
)
def test_an_unknown_option_of_extract(
    made: Path, option: str, value: str, words: list[str]
) -> None:
    refused(moralprobe(*extract(made), "--out", "s", option, value), *words)
    assert not Path("s").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--devices cpu,cpu --workers 2", ["don't go together", "cpu,cpu, --workers 2"]),
        ("--device spread --workers 2", ["takes all devices", "spread alone"]),
        ("--device spread --engine ray", ["takes all devices", "--engine ray"]),
        ("--devices cuda:0,cuda:1 --engine ray", ["Ray gives actors their devices"]),
    ],
)
def test_processes_that_can_t_be_had_are_refused_before_a_model_is_loaded(
    made: Path, options: str, words: list[str]
) -> None:
    command = ("extract", "no-such-model", made / "vectors.parquet", "--out", "s")
    refused(moralprobe(*command, *options.split()), *words)
    assert not Path("s").exists()


def test_the_store_of_another_model(made: Path, store: Path) -> None:
    save_tiny("llama", Path("model"), n_layers=2, seed=1)
    before = (store / "manifest.json").read_bytes()
    other = ("extract", "model", made / "vectors.parquet", "--dtype", "fp32", "--out", store)
    refused(
        moralprobe(*other, "--quiet"), "belongs to another run", r"model\.weights", "another folder"
    )
    refused(moralprobe(*extract(made), "--out", store, "--layers", "1"), r"layers: there \[0, 1\]")
    assert (store / "manifest.json").read_bytes() == before


def test_a_folder_with_other_files(made: Path) -> None:
    Path("mine").mkdir()
    Path("mine/precious.txt").write_text("mine")
    refused(moralprobe(*extract(made), "--out", "mine"), "not empty", "new or empty folder")


# -- verify, probe --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("verify",), ("probe", "--out", "study")])
def test_what_is_no_store(command: tuple[str, ...], made: Path) -> None:
    for path in ("absent", made, made / "model", made / "vectors.parquet"):
        refused(moralprobe(*command, path), "holds no activation store", "check the path")


def test_a_manifest_of_something_else(store: Path) -> None:
    manifest = store / "manifest.json"
    manifest.write_text("[]")
    refused(moralprobe("verify", store), "is damaged", code=1)
    manifest.write_text(json.dumps({"body": {"format": 1}, "xxh3_128": "0"}))
    refused(moralprobe("verify", store), "checksum doesn't match", code=1)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--mode", "published", ["unknown mode 'published'", "choose one"]),
        ("--quota", "all", ["unknown quota 'all'", "li2026"]),
        ("--analyses", "structur", ["unknown analysis 'structur'", "did you mean structure"]),
        ("--hdbscan", "yes", ["unknown choice 'yes'", "known: all, none, paper"]),
    ],
)
def test_an_unknown_option_of_probe(made: Path, option: str, value: str, words: list[str]) -> None:
    refused(moralprobe("probe", made / "store", "--out", "study", option, value), *words)
    assert not Path("study").exists()


def test_a_study_that_could_not_be_kept_is_refused_before_it_is_made(made: Path) -> None:
    Path("study").write_text("a file")
    said = moralprobe("probe", made / "store", "--out", "study")
    refused(said, "can't write study", code=1)
    assert "probing" not in said.err and Path("study").read_text() == "a file"


def test_a_mode_whose_poolings_the_store_lacks(made: Path) -> None:
    said = moralprobe(*extract(made), "--out", "s", "--pooling", "mean", "--layers", "0")
    assert said.code == 0
    refused(
        moralprobe("probe", "s", "--out", "study", "--mode", "audited"),
        "mode audited has nothing to read",
        "mean_unit",
        "--pooling",
    )


def test_a_damaged_store_is_never_probed(store: Path) -> None:
    shard = next(store.glob("shard-*"))
    spoil(shard, shard.stat().st_size // 2)
    refused(
        moralprobe("probe", store, "--out", "study", "--quiet", "--draws", "100"),
        "is damaged",
        shard.name,
        "repeat the command",
        code=1,
    )
    assert not Path("study").exists()


# -- control --------------------------------------------------------------------------------------


def control(made: Path, table: str = "ratings.csv") -> tuple[object, ...]:
    Path("ratings.csv").write_text(RATINGS)
    return ("control", made / "model", table, "--out", "c", "--quiet", "--dtype", "fp32")


def test_ratings_that_cannot_be_read_as_asked(made: Path) -> None:
    refused(moralprobe(*control(made, "absent.csv"), "--scale", "1:7"), "can't read absent")
    refused(moralprobe(*control(made)), "isn't known", "--scale 1:7")
    refused(moralprobe(*control(made), "--scale", "high"), "'high' is no scale")
    refused(moralprobe(*control(made), "--scale", "1:5"), "data row 18: rating", "from 1 to 5")
    Path("wrong.csv").write_text("thing,kind,score\nsaw,tool,1\n")
    refused(moralprobe(*control(made, "wrong.csv"), "--scale", "1:7"), "no column 'item'")
    assert not Path("c").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--template", "a-item", ["unknown template 'a-item'", "the-item"]),
        ("--mode", "published", ["unknown mode 'published'"]),
        ("--beside", "absent", ["can't read absent as a study", "moralprobe probe"]),
    ],
)
def test_a_slip_in_an_option_of_control_is_found_before_anything_is_read(
    made: Path, option: str, value: str, words: list[str]
) -> None:
    refused(moralprobe(*control(made), "--scale", "1:7", option, value), *words)
    assert not Path("c").exists()


def test_other_ratings_in_the_folder_of_a_control_and_a_control_as_a_moral_store(
    made: Path,
) -> None:
    asked = (*control(made), "--scale", "1:7", "--layers", "0", "--draws", "100")
    assert moralprobe(*asked).code == 0
    Path("ratings.csv").write_text(RATINGS.replace("hammer", "mallet"))
    said = moralprobe(*asked)
    assert said.code == 2 and "belongs to another run" in said.err
    refused(moralprobe("probe", "c/store", "--out", "study"), "is no moral vectors table")


# -- what the parser refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extrct"], "No such command 'extrct'"),
        (["extract"], "Missing argument 'MODEL'"),
        (["extract", "m", "v.parquet"], "Missing option '--out'"),
        (["extract", "m", "v", "--out", "s", "--batch-tokens", "many"], "Invalid value"),
        (["probe", "s", "--out", "t", "--draws", "5"], "greater than or equal to 100"),
        (["probe", "s", "--out", "t", "--seed", "-1"], "greater than or equal to 0"),
        (["vectors", "sample", "v", "--out", "s", "--seed", "-1"], "greater than or equal to 0"),
        (["probe", "s", "--out", "t", "--drawz", "500"], "No such option"),
        (["vectors", "build", "a", "b", "--out", "s"], "unexpected extra argument"),
    ],
)
def test_a_command_that_is_mistyped(arguments: list[str], words: str) -> None:
    said = moralprobe(*arguments)
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and words in said.err
    assert "  try: moralprobe COMMAND --help" in said.err and "Traceback" not in said.err


def test_a_dataset_or_a_mirror_that_does_not_exist() -> None:
    refused(moralprobe("data", "download", "social-chem"), "no dataset", "did you mean")
    said = moralprobe("data", "download", "social-chem-101", "--url", "file:///etc/passwd")
    refused(said, "can't download from", "http", "--url")


# -- orient and pluralism -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--values", "kind"), ("no value 'kind'", "altruistic")),
        (("--values", ""), ("nothing to ask",)),
        (("--conditions", "goals"), ("no condition 'goals'", "did you mean goal")),
        (("--items", "some"), ("no set of items 'some'", "primary")),
        (("--protocol", "ours"), ("no protocol 'ours'", "hvae")),
        (("--protocol", "hvae", "--novel"), ("as they are", "novel")),
        (("--readout", "verbal"), ("no readout of a choice 'verbal'",)),
        (("--scale", "nan"), ("multiplied by nan", "a million")),
        (("--scale", "0.01"), ("fall together",)),
        (("--currency", ""), ("nothing is divided",)),
        (("--model", "no-such"), ("no-such",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_values_that_cannot_be_assigned(
    made: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    model = () if "--model" in arguments else ("--model", made / "model")
    refused(moralprobe("orient", "run", *model, *arguments, "--out", "o", "--quiet"), *words)
    assert not Path("o").exists() or not list(Path("o").glob("*.parquet"))


def test_layers_of_a_ring_that_are_not_there(made: Path) -> None:
    for layers, words in (("7", "doesn't have these layers"), ("a", "names no layers")):
        said = moralprobe(
            "orient", "ring", "--model", made / "model", "--layers", layers, "--out", "o"
        )
        refused(said, words)


def test_a_writer_on_a_server_cannot_be_trained(made: Path) -> None:
    Path("prompts.csv").write_text(
        "principle,prompt\n" + "".join(f"One should {n}.,In town {n} he\n" for n in "abcd")
    )
    said = moralprobe(
        *("elicit", "repair", "train", "prompts.csv", "--model", made / "model"),
        *("--writer", "http://localhost:1/v1=m", "--scorer", "words", "--cases", "starter"),
        *("--force", "--out", "o", "--quiet"),
    )
    refused(said, "can't be trained", "--rounds 0")


def test_surveys_that_cannot_be_measured(made: Path) -> None:
    Path("s.csv").write_text("question,option,community,share\nq,a,A,0.9\nq,b,A,0.9\n")
    refused(moralprobe("pluralism", "reference", "s.csv", "--out", "o"), "sum to 1.8")
    Path("s.csv").write_text("question,option,community,share\nq,a,A,0.5\nq,b,A,0.5\n")
    refused(moralprobe("pluralism", "reference", "s.csv", "--out", "o"), "aren't 32 communities")
    refused(moralprobe("pluralism", "measure", "none.csv", "--out", "o"), "can't read none.csv")


def test_communities_that_cannot_be_learnt_told_or_moved(made: Path) -> None:
    few = "question,option,community,count\n" + "".join(
        f"Case {q}: is it so?,{x},A,3\n" for q in range(8) for x in ("yes", "no")
    )
    Path("s.csv").write_text(few)
    model = ("--model", made / "model")
    asked = ("pluralism", "measure", "s.csv", *model, "--communities", "0", "--out", "o")
    refused(moralprobe(*asked), "too few questions", "A answered 8", "give 20 questions")
    refused(moralprobe(*asked, "--adapter", "nowhere"), "no adapter of a community", "fit")
    learn = ("pluralism", "fit", "s.csv", *model, "--communities", "1", "--out", "o")
    refused(moralprobe(*learn), "too little to learn from", "take more questions")
    refused(moralprobe(*learn, "--arms", "persna"), "no arm 'persna'", "did you mean persona")
    refused(moralprobe("pluralism", "steerable", "a", "b", "--out", "o"), "no measured agreement")
    lines = [f"Case {q}: is it so?,{x},A,3" for q in range(24) for x in ("yes", "no")]
    Path("s.csv").write_text("\n".join(["question,option,community,count", *lines]) + "\n")
    refused(moralprobe(*asked, "--readout", "verbal"), "aren't chosen by the readout")
    move = ("pluralism", "geometry", made / "vectors.parquet", *model, "--out", "o")
    refused(moralprobe(*move), "communities are needed")
    refused(moralprobe(*move, "--adapters", "nowhere"), "holds no adapter")
    refused(moralprobe(*move, "--communities", "A", "--layers", "9"), "layer 9 is out of range")


def test_positions_and_effects_that_are_none(made: Path) -> None:
    Path("p.csv").write_text("question,position\nq,a\n")
    voiced = ("pluralism", "overton", "p.csv", "--model", made / "model", "--out", "o")
    refused(moralprobe(*voiced), "a question of one position")
    Path("p.csv").write_text("question,position\nq,a\nq,b\nr,c\nr,d\n")
    refused(moralprobe(*voiced, "--readout", "verbl"), "no readout 'verbl'")
    Path("e.csv").write_text("Estimates,se,Label\n0.1,0.1,Age\n")
    choose = ("pluralism", "dilemmas", "e.csv", "--model", made / "model", "--out", "o")
    refused(moralprobe(*choose), "'Country'")
    refused(moralprobe("pluralism", "dilemmas", "none.csv", "--out", "o"), "can't read none.csv")
