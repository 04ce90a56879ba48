"""A recipe is run, continued and refused as it should be, on a tiny model."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from moralprobe import Study, autoencoders, build_vectors
from moralprobe.cli.run import run_command
from moralprobe.data.starter import starter_path
from moralprobe.errors import DataError, IntegrityError, StoreError, UsageError
from moralprobe.evaluation import judge_backends
from moralprobe.evaluation.judge_backends import ScriptedJudge
from moralprobe.evaluation.judge_check import known_pairs
from moralprobe.evaluation.judges import Asked, Rating
from moralprobe.foundations import POLES
from moralprobe.models.tiny import save_tiny
from moralprobe.recipes import run as running
from moralprobe.recipes.run import Done, load_recipe, run_recipe
from moralprobe.steering.survival import over_best_control
from tests.recipes.small import small


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen3", tmp_path_factory.mktemp("tiny") / "my model")


@pytest.fixture(scope="module")
def begun(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to the study; not to be changed."""
    out = tmp_path_factory.mktemp("begun") / "run"
    done = run_recipe(load_recipe("qwen3-8b", small(model)), out, until="probe")
    assert done == Done(("vectors", "extract", "probe"), (), None)
    return out


@pytest.fixture
def out(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def again(model: Path, out: Path, *, until: str | None = "probe", **others: str) -> Done:
    return run_recipe(load_recipe("qwen3-8b", small(model, **others)), out, until=until)


def test_what_is_done_is_not_done_again(model: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert again(model, out) == Done((), ("vectors", "extract", "probe"), None)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_the_results_are_those_of_the_functions(model: Path, out: Path) -> None:
    from moralprobe import extract, load_model, probe

    vectors = build_vectors("starter")
    store = extract(
        load_model(model, dtype="fp32"), vectors, out / "apart", poolings="mean,mean_unit"
    )
    study = probe(store, analyses="separation", hdbscan="none", draws=100)
    assert Study.load(out / "study").frame.equals(study.frame)


def test_a_result_that_is_gone_is_made_again_and_nothing_else(model: Path, out: Path) -> None:
    table = (out / "study" / "measures.parquet").read_bytes()
    shutil.rmtree(out / "study")
    assert again(model, out).made == ("probe",)
    assert (out / "study" / "measures.parquet").read_bytes() == table
    (out / "vectors.parquet").unlink()
    assert again(model, out).made == ("vectors",)


def test_changed_options_are_refused_with_both_values_and_what_to_delete(
    model: Path, out: Path
) -> None:
    with pytest.raises(StoreError) as caught:
        again(model, out, probe__draws="200")
    assert caught.value.what == "probe was done otherwise here"
    assert caught.value.why == "draws: there 100, asked for 200"
    assert f"delete {out / 'study'} and repeat" in caught.value.instead
    kept = (out / "run.yaml").read_text()
    with pytest.raises(StoreError) as caught:
        again(model, out, extract__layers="0-1", template="stripped")
    assert caught.value.why == (
        "layers: there all, asked for 0-1; template: there action-is-morally, asked for stripped"
    )
    # All that was made from it has to go at once, so that nobody deletes three times.
    assert f"delete {out / 'store'} {out / 'study'} and" in caught.value.instead
    assert (out / "run.yaml").read_text() == kept
    shutil.rmtree(out / "store")
    with pytest.raises(StoreError, match="made from another result of extract"):
        again(model, out, extract__layers="0-1")
    shutil.rmtree(out / "study")
    assert again(model, out, extract__layers="0-1").made == ("extract", "probe")
    assert "layers: 0-1" in (out / "run.yaml").read_text()


def test_vectors_of_another_file_under_the_same_name_are_refused(
    model: Path, begun: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.tsv"
    header, *rows = starter_path().read_text("utf-8").splitlines()
    table.write_text("\n".join([header, *rows[::4]]) + "\n", "utf-8")
    run = tmp_path / "run"
    options = {"vectors": str(table), "extract__layers": "1", "until": "extract"}
    assert again(model, run, **options).made == ("vectors", "extract")
    assert pl.read_parquet(run / "vectors.parquet").height == len(build_vectors(table))
    table.write_text("\n".join([header, *rows[::5]]) + "\n", "utf-8")
    with pytest.raises(StoreError, match=r"hash of table.tsv: there"):
        again(model, run, **options)
    (run / "vectors.parquet").unlink()
    with pytest.raises(StoreError, match=r"extract was done otherwise.*another result of vectors"):
        again(model, run, **options)
    built = Path(shutil.copy(begun / "vectors.parquet", tmp_path / "built.parquet"))
    other = tmp_path / "other"
    assert again(model, other, vectors=str(built), until="vectors").made == ("vectors",)
    assert pl.read_parquet(other / "vectors.parquet").equals(pl.read_parquet(built))


def test_the_bytes_of_prompts_are_part_of_an_evaluation(model: Path, tmp_path: Path) -> None:
    from moralprobe.recipes.check import with_facts
    from moralprobe.recipes.jobs import jobs_of

    prompts, ethics = tmp_path / "prompts.txt", tmp_path / "ethics"
    ethics.mkdir()
    options = small(model, evaluate__data=str(prompts), evaluate__ethics=str(ethics))
    recipe = load_recipe("qwen3-8b", options)
    found = []
    for text in ("Should I lie?", "Should I lie?", "Should I steal?"):
        prompts.write_text(text)
        job = jobs_of(recipe, lambda: 3)[-1]
        found.append(with_facts(job, recipe).options)
    assert found[0] == found[1] != found[2] and "hash of prompts.txt" in found[0]
    (ethics / "commonsense").mkdir()  # as it is downloaded
    (ethics / "commonsense" / "cm_test.csv").write_text("label,input\n")
    assert "hash of cm_test.csv" in with_facts(jobs_of(recipe, lambda: 3)[-1], recipe).options


def test_results_of_something_else_are_refused(model: Path, out: Path, tmp_path: Path) -> None:
    shutil.rmtree(out / "study")
    record = json.loads((out / "steps.json").read_bytes())
    del record["jobs"]["probe"]
    (out / "steps.json").write_text(json.dumps(record))
    (out / "study").mkdir()
    with pytest.raises(StoreError, match=r"study is there already. steps.json doesn't say"):
        again(model, out)
    (out / "steps.json").write_text("{}")
    with pytest.raises(IntegrityError, match="damaged"):
        again(model, out)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_result_is_refused_and_a_damaged_shard_is_mended(model: Path, out: Path) -> None:
    shard = out / "store" / "shard-00000.safetensors"
    whole = shard.read_bytes()
    flip(shard)
    assert again(model, out).made == ()  # nobody has to read it
    shutil.rmtree(out / "study")
    assert again(model, out).made == ("extract", "probe")
    assert shard.read_bytes() == whole
    flip(out / "study" / "measures.parquet")
    with pytest.raises(IntegrityError, match="isn't what probe wrote") as caught:
        again(model, out)
    assert f"delete {out / 'study'} and repeat" in caught.value.instead


def test_other_weights_under_the_same_name_are_refused(
    model: Path, out: Path, tmp_path: Path
) -> None:
    record = json.loads((out / "steps.json").read_bytes())
    assert record["model"]["weights"]
    record["model"]["weights"] = {"model.safetensors": "of yesterday"}
    (out / "steps.json").write_text(json.dumps(record))
    assert again(model, out).made == ()
    shutil.rmtree(out / "store")
    with pytest.raises(StoreError, match=r"another model.*weights: there .*of yesterday"):
        again(model, out)


def test_a_kill_in_the_middle_is_continued(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (out / "study" / "measures.parquet").read_bytes()
    shutil.rmtree(out / "study")

    def killed(run: object, job: object) -> list[Path]:
        (out / "study").mkdir()
        (out / "study" / "measures.parquet").write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setitem(running.WORK, "probe", killed)
        with pytest.raises(KeyboardInterrupt):
            again(model, out)
    with pytest.raises(StoreError, match="draws: there 100, asked for 300"):
        again(model, out, probe__draws="300")
    assert again(model, out).made == ("probe",)
    assert (out / "study" / "measures.parquet").read_bytes() == whole


def test_run_yaml_does_all_of_it_again(model: Path, out: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    written = out / "run.yaml"
    assert run_recipe(load_recipe(written), twin, until="probe").made[-1] == "probe"
    assert (twin / "run.yaml").read_text() == written.read_text()
    for name in ("vectors.parquet", "store/shard-00000.safetensors", "study/measures.parquet"):
        assert (twin / name).read_bytes() == (out / name).read_bytes()
    assert run_recipe(load_recipe(written), out, until="probe").made == ()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"evaluate.judge": "somebody"}, "'somebody' is no judge"),
        ({"evaluate.suite": "flmes"}, "unknown suite 'flmes'. did you mean flames"),
        ({"evaluate.strengths": "0,high"}, "evaluate.strengths isn't numbers"),
        ({"evaluate.data": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"evaluate.mfq": "nowhere.json"}, "there is nothing at nowhere.json"),
        ({"evaluate.geometry.protocol": "ours"}, "unknown protocol"),
        ({"template": "stripd"}, "did you mean stripped"),
        ({"dtype": "fp16"}, "unknown dtype"),
        ({"extract.layers": "0-9"}, "layer 9 is out of range"),
        ({"extract.pooling": "men"}, "unknown pooling 'men'"),
        ({"extract.pooling": "mean"}, "mode audited would have nothing to read"),
        ({"probe.hdbscan": "some"}, "unknown choice"),
        ({"probe.twin": "nowhere"}, "there is no folder nowhere"),
        ({"sae.train.layer": "3"}, "layer 3 is out of range"),
        ({"sae.train.audited.arch": "topkk"}, "unknown architecture"),
        ({"sae.train.audited.arch": "li2026"}, "mode: li2026"),
        ({"sae.train.audited.k": "1000"}, "more features would be active"),
        ({"sae.train.seed": "0,x"}, "seed takes whole numbers"),
        ({"sae.train.seed": "1,1"}, "each once"),
        ({"sae.train.audited.source": "pooled"}, "shuffled for a null are token states"),
        ({"sae.train.audited.held-out": "1.5"}, "between 0 and 1"),
        ({"sae.train.li2026.pooling": "mean,last"}, "takes one pooling"),
        ({"topology.survive.layers": "0,2"}, "nothing changes at layer 0"),
        ({"vectors": "nowhere.tsv"}, "there are no vectors at nowhere.tsv"),
        ({"vectors": "flames"}, "holds no judgements"),
        ({"vectors": "false"}, "names no vectors"),
        ({"model": "smollm2-135n"}, "did you mean smollm2-135m"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_can_not_be_done_is_refused_before_anything_starts(
    others: dict[str, str], said: str, model: Path, tmp_path: Path
) -> None:
    from moralprobe.errors import MoralprobeError

    with pytest.raises(MoralprobeError, match=said) as caught:
        run_recipe(load_recipe("qwen3-8b", {**small(model), **others}), tmp_path / "run")
    assert caught.value.exit_code == 2 and caught.value.instead
    assert not (tmp_path / "run").exists()


def test_built_vectors_are_not_built_again(model: Path, begun: Path, tmp_path: Path) -> None:
    text = "model: smollm2-135m\nvectors: {source: V, schema: factored}\n"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text.replace("V", str(begun / "vectors.parquet")))
    with pytest.raises(UsageError, match="is built already"):
        run_recipe(load_recipe(recipe), tmp_path / "run")
    recipe.write_text("model: smollm2-135m\nvectors: {source: starter, url: http://a.b/c}\n")
    with pytest.raises(UsageError, match="mirror of the dataset"):
        run_recipe(load_recipe(recipe), tmp_path / "run")


def test_too_few_rows_for_a_batch_are_refused_before_the_model_is_read(
    model: Path, tmp_path: Path
) -> None:
    options = small(model, sae__train__li2026__batch="4096", sae__train__li2026__steps="0")
    with pytest.raises(DataError, match="don't fill a batch of 4,096"):
        run_recipe(load_recipe("qwen3-8b", options), tmp_path / "run")
    assert not (tmp_path / "run" / "store").exists()


app = typer.Typer()


@app.callback()
def _main() -> None:
    pass


app.command("run")(run_command)


def test_what_is_fetched_is_fetched_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moralprobe.data import download
    from moralprobe.errors import DownloadError

    asked: list[str] = []

    def broken(name: str, **_options: object) -> Path:
        asked.append(name)
        raise DownloadError("the download stopped", "no network", "try again")

    monkeypatch.setattr(download, "download", broken)
    options = small(model, evaluate__data="flames")
    with pytest.raises(DownloadError):
        run_recipe(load_recipe("qwen3-8b", options), tmp_path / "run")
    assert asked == ["flames"] and not (tmp_path / "run" / "store").exists()
    options = small(model, vectors="social-chem-101")
    with pytest.raises(DownloadError):
        run_recipe(load_recipe("qwen3-8b", options), tmp_path / "run2")
    assert asked == ["flames", "social-chem-101"]


def test_the_layer_in_the_middle_is_written_by_its_number(model: Path, tmp_path: Path) -> None:
    options = small(model, sae__train__layer="middle")
    run_recipe(load_recipe("qwen3-8b", options), tmp_path / "run", until="vectors")
    assert (tmp_path / "run" / "run.yaml").read_text().count("layer: '1'") == 2


def test_the_command_says_what_it_did(model: Path, tmp_path: Path) -> None:
    arguments = ["run", "qwen3-8b", "--out", str(tmp_path / "run"), "--until", "extract"]
    for key, value in small(model).items():
        arguments += ["--set", f"{key}={value}"]
    first = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert (first.exit_code, first.stdout) == (0, "vectors: done\nextract: done\n"), first.output
    assert "loading" not in first.stderr
    second = CliRunner().invoke(app, arguments)
    assert second.stdout == f"{tmp_path / 'run'}: all of it was done before\n"
    assert "extract: done before" in second.stderr
    refused = CliRunner().invoke(app, [*arguments, "--set", "extract.layers=0"])
    assert isinstance(refused.exception, StoreError)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Done]]:
    """The paper's recipe to its end."""
    handler = signal.getsignal(signal.SIGTERM)
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run_recipe(load_recipe("qwen3-8b", small(model)), out)
    yield out, done
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.slow
def test_the_papers_recipe_runs_to_its_end(whole: tuple[Path, Done]) -> None:
    out, done = whole
    assert len(done.made) == 16 and done.page == out / "README.md"
    features = pl.read_parquet(out / "features" / "audited-layer-1" / "FEATURES.parquet")
    assert features.height == 128
    said = json.loads((out / "features" / "audited-layer-1" / "features.json").read_bytes())
    assert said["null_shuffled_activations"]["features"] == 128
    (judged,) = json.loads((out / "sae" / "eval-audited.json").read_bytes())
    assert judged["l0"] == pytest.approx(4) and judged["sae"] == "sae/audited"
    survival = pl.read_parquet(out / "survival-li2026-layer-1.parquet")
    assert {"unsteered", "steered", "shuffled", "untuned"} <= set(survival["arm"])
    assert set(survival["layer"]) == {2}


@pytest.mark.slow
def test_the_steered_model_is_evaluated_by_each_protocol(whole: tuple[Path, Done]) -> None:
    out, _ = whole
    folder = out / "evaluation" / "li2026"
    said = json.loads((folder / "evaluation.json").read_bytes())
    assert said["protocol"] == "li2026" and said["prompts"]["n"] == 4
    assert set(pl.read_parquet(folder / "texts.parquet")["arm"]) == {"steered", "unsteered"}
    assert not (out / "evaluation" / "geometry").exists()


def test_a_judge_that_isnt_there_is_told_before_the_work(model: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        """Before anything takes long."""

    def stop(what: str) -> None:
        if what.startswith("extract"):
            raise StoppedError

    said: list[str] = []
    judge = "http://127.0.0.1:9/v1=nobody, local:smollm2-135m, none"
    recipe = load_recipe("qwen3-8b", small(model, evaluate__judge=judge, evaluate__prompts="2"))
    with pytest.raises(StoppedError):
        run_recipe(recipe, tmp_path / "run", say=said.append, begins=stop)
    (told,) = [one for one in said if "no judge is reachable: nobody" in one]
    assert "see to it by then" in told
    # Where all is evaluated nobody is asked any more.
    for mode in ("geometry", "li2026"):
        (tmp_path / "run" / "evaluation" / mode).mkdir(parents=True)
        (tmp_path / "run" / "evaluation" / mode / "evaluation.json").write_text("{}")
    said.clear()
    with pytest.raises(StoreError, match="is there already"):
        run_recipe(recipe, tmp_path / "run", say=said.append, begins=stop)
    assert not [one for one in said if "no judge is reachable" in one]


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layers' evaluation by both protocols, of features that are said to be moral ones."""
    found = autoencoders.moral_features

    def some(read: Any, **options: Any) -> Any:
        features = found(read, **options)
        busy = pl.col("feature").is_in(np.argsort(-read.activations.sum(0))[:20].tolist())
        frame = features.frame.with_columns(
            chosen=busy,
            replicated=busy,
            t=pl.lit(3.0),
            pole=pl.Series([POLES[i % 10] for i in range(features.frame.height)]),
        )
        return replace(features, frame=frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoders, "moral_features", some)
        patch.setattr(judge_backends, "judges_of", lambda *_: [ScriptedJudge("longer", longer)])
        out = tmp_path_factory.mktemp("tuned") / "run"
        options = small(model, sae__train__layer="0,1", evaluate__judge="local:x", probe="false")
        options |= {"evaluate.geometry.seeds": "0,1", "evaluate.suite": "all"}
        run_recipe(load_recipe("qwen3-8b", options), out)
    return out


def longer(asked: Asked) -> str:
    """Known pairs by their better answer, others by their length."""
    if isinstance(asked, Rating):
        return "3"
    better = {pair.question: pair.better for pair in known_pairs()}.get(asked.question)
    if better is not None:
        return "A" if asked.first == better else "B"
    return "A" if len(asked.first) > len(asked.second) else "B"


@pytest.mark.slow
def test_what_is_tuned_is_evaluated_over_layers_and_strengths(tuned: Path) -> None:
    folder = tuned / "evaluation" / "geometry"
    said = json.loads((folder / "evaluation.json").read_bytes())
    assert [one["layers"] for one in said["interventions"]] == [[0], [1]]
    assert set(said["arms"]) >= {"steered", "shuffled", "random_features", "means", "unsteered"}
    assert said["judges"][0]["fails"] == []
    texts = pl.read_parquet(folder / "texts.parquet")
    chosen = texts.filter(pl.col("half") == "choose", pl.col("arm") == "steered")
    assert set(chosen["layers"]) == {"0", "1"} and set(chosen["seed"]) == {0}
    reported = texts.filter(pl.col("half") == "report")
    assert set(reported["seed"]) == {0, 1}
    assert not set(reported["id"]) & set(chosen["id"])
    assert said["verdict"]["kind"] != "" and said["differences"]["longer"]
    assert (folder / "report" / "index.html").is_file()
    survival = pl.read_parquet(tuned / "survival-geometry-layer-1.parquet")
    assert {"steered", "shuffled", "untuned"} <= set(survival["arm"])
    best = over_best_control(survival).filter(name="category_rdm").row(0, named=True)
    gain = f"{best['gain']:+.3f} [{best['gain_low']:+.3f}, {best['gain_high']:+.3f}]"
    surely = "surely" if best["surely"] else "not surely"
    assert f"{gain} ({best['control']}; {surely} over all)" in (tuned / "README.md").read_text()


@pytest.mark.slow
def test_another_judge_asks_about_texts_that_are_there(
    whole: tuple[Path, Done], model: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole[0], tmp_path / "run"))
    with pytest.raises(StoreError, match="items: there 200, asked for 100") as caught:
        again(model, out, until=None, evaluate__items="100")
    said = out / "evaluation" / "li2026" / "evaluation.json"
    assert f"delete {said} and" in caught.value.instead
    said.unlink()
    written = (said.parent / "written.jsonl").read_bytes()
    done = again(model, out, until=None, evaluate__items="100")
    # Nothing was tuned by geometry, so that nothing is done there at once.
    assert done.made == ("evaluate geometry", "evaluate li2026")
    assert (said.parent / "written.jsonl").read_bytes() == written


@pytest.mark.slow
def test_nothing_to_tune_is_a_finding_and_not_the_end(whole: tuple[Path, Done]) -> None:
    out, _ = whole
    assert not pl.read_parquet(out / "features/audited-layer-1/FEATURES.parquet")["chosen"].any()
    said = json.loads((out / "topology-geometry" / "layer-1" / "nothing.json").read_bytes())
    assert "no moral feature" in said["what"]
    assert not (out / "survival-geometry-layer-1.parquet").exists()
    page = (out / "README.md").read_text()
    assert "Nothing was tuned: there is no moral feature to tune" in page


@pytest.mark.slow
def test_the_page_leads_to_all_and_says_what_the_files_say(whole: tuple[Path, Done]) -> None:
    import re

    out, _ = whole
    page = (out / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (out / target).is_file(), target
    geometry = pl.read_parquet(out / "topology-li2026" / "layer-1" / "geometry.parquet")
    row = geometry.filter(arm="steered", name="category_rdm", category="all").row(0, named=True)
    interval = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}], null "
    assert f"| steered | {interval}{row['null_low']:.3f} to" in page
    later = pl.read_parquet(out / "survival-li2026-layer-1.parquet")
    row = later.filter(arm="untuned", name="category_rdm", layer=2).row(0, named=True)
    assert "Layer 2." in page and f"| untuned | {row['value']:.3f} [{row['ci_low']:.3f}" in page
    said = json.loads((out / "evaluation" / "li2026" / "evaluation.json").read_bytes())
    assert f"{said['verdict']['said']} Protocol li2026: [" in page
    assert "Nothing was tuned, so there is nothing to evaluate." in page


@pytest.mark.slow
def test_only_what_was_deleted_is_done_again(
    whole: tuple[Path, Done], model: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole[0], tmp_path / "run"))
    last = out / "survival-li2026-layer-1.parquet"
    table = pl.read_parquet(last)
    last.unlink()
    done = again(model, out, until=None)
    assert done.made == ("topology.survive li2026 layer-1",) and len(done.kept) == 15
    assert pl.read_parquet(last).equals(table)
    assert again(model, out, until=None).made == ()
    # A tuning that ended before it was recorded is kept; another one would be refused.
    record = json.loads((out / "steps.json").read_bytes())
    record["jobs"]["topology.fit li2026 layer-1"]["finished"] = False
    (out / "steps.json").write_text(json.dumps(record))
    assert again(model, out, until=None).made == ("topology.fit li2026 layer-1",)
    with pytest.raises(StoreError, match="epochs: there 2, asked for 3") as caught:
        again(model, out, until=None, topology__fit__epochs="3")
    assert f"{out / 'topology-geometry' / 'layer-1'}" in caught.value.instead
    assert f"{last}" in caught.value.instead


@pytest.mark.slow
def test_a_recipe_of_five_lines_runs(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "five.yaml"
    path.write_text(f"model: {model}\nvectors: starter\nextract:\nprobe:\nreport:\n")
    recipe = load_recipe(path, {"extract.layers": "1", "probe.draws": "100"})
    done = run_recipe(recipe, tmp_path / "run")
    assert done.made == ("vectors", "extract", "probe") and done.page is not None
    assert "sae.train, sae.eval" in done.page.read_text()
