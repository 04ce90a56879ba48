"""A recipe's options are those of the command line, with its defaults; slips are told apart."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from moralprobe.errors import UsageError
from moralprobe.recipes.options import STEPS, PublishedTrain, RunRecipe, Train
from moralprobe.recipes.parse import parse_recipe
from moralprobe.recipes.run import HEAD
from moralprobe.recipes.text import parse_tree, read_tree, recipes_at, to_text
from moralprobe.sae.recipe import Recipe
from moralprobe.sae.tokens import HELD_OUT
from tests.cli.commands import leaves

FIVE = "model: smollm2-135m\nvectors: starter\nextract:\nprobe:\nreport:\n"


def parsed(text: str) -> RunRecipe:
    return parse_recipe(parse_tree(text.encode(), "recipe.yaml"))


def test_five_lines_have_every_default() -> None:
    recipe = parsed(FIVE)
    assert list(recipe.steps) == ["vectors", "extract", "probe", "report"]
    assert recipe.general.mode == "both" and recipe.steps["probe"].draws == 1000
    assert recipe.steps["vectors"].source == "starter"


COMMANDS = {
    "vectors": "vectors build",
    "extract": "extract",
    "probe": "probe",
    "sae.train": "sae train",
    "sae.eval": "sae eval",
    "sae.features": "sae features",
    "topology.fit": "topology fit",
    "topology.survive": "topology survive",
    "evaluate": "evaluate",
}
# What the command line has as an argument, of another command, or must be given.
ELSEWHERE = {"vectors": {"source", "url"}, "sae.train": {"layer"}, "evaluate": {"protocol"}}


@pytest.mark.parametrize("step", COMMANDS)
def test_options_are_called_and_preset_as_on_the_command_line(step: str) -> None:
    command: Any = leaves()[COMMANDS[step]]
    theirs = {option: p.default for p in command.params for option in p.opts}
    classes = STEPS[step]
    for options in classes.values() if isinstance(classes, dict) else [classes]:
        for f in fields(options):
            if f.name in ELSEWHERE.get(step, ()):
                continue
            name = f"--{f.name.replace('_', '-')}"
            assert name in theirs, f"{COMMANDS[step]} has no {name}"
            # None leaves it to the mode: the recipes of both say what that is, below.
            if theirs[name] is not None:
                assert f.default == theirs[name], name


def test_autoencoders_are_preset_as_each_mode_has_them() -> None:
    from moralprobe.recipes.jobs import sae_recipes

    assert sae_recipes(Train()) == [Recipe()]
    assert sae_recipes(PublishedTrain()) == [Recipe.published()]
    assert Train().held_out == HELD_OUT


@pytest.mark.parametrize("name", ["qwen3-8b", "smollm2"])
def test_with_every_default_written_out_it_is_the_same_recipe(name: str) -> None:
    recipe = parse_recipe(read_tree(recipes_at()[name]))
    text = to_text(recipe.tree(), HEAD)
    assert parsed(text) == recipe
    assert "held-out: 0.05" in text and "batch-tokens: null" in text


def test_options_of_a_mode_stand_under_its_name_and_common_ones_beside() -> None:
    text = FIVE + "sae:\n  train:\n    layer: [3, 5]\n    k: 7\n    arch: batchtopk\n"
    found = parsed(text + "    li2026: {k: 9}\n").of("sae.train")
    assert (found["audited"].k, found["li2026"].k) == (7, 9)
    assert found["audited"].layer == found["li2026"].layer == "3,5"
    assert found["audited"].arch == "batchtopk"
    one = parsed(text + "    li2026: {k: 9}\nmode: audited\n")
    assert list(one.steps["sae.train"]) == ["audited"] and one.modes == ("audited",)
    fitted = parsed(FIVE + "sae:\ntopology:\n  fit: {draws: 20, geometry: {epochs: 3}}\n")
    ours = fitted.steps["topology.fit"]
    assert (ours["geometry"].epochs, ours["li2026"].epochs) == (3, None)
    assert ours["geometry"].draws == ours["li2026"].draws == 20
    assert fitted.of("topology.fit").keys() == {"audited", "li2026"}


def test_a_group_without_options_has_all_of_its_steps() -> None:
    assert {"sae.train", "sae.eval", "sae.features"} <= parsed(FIVE + "sae:\n").steps.keys()
    some = parsed(FIVE + "sae:\n  train:\n").steps
    assert "sae.train" in some and "sae.eval" not in some
    assert "probe" not in parsed(FIVE.replace("probe:", "probe: false")).steps
    assert "sae.train" not in parsed(FIVE + "sae: false\n").steps


def test_until_ends_at_a_step_or_a_group() -> None:
    recipe = parsed(FIVE + "sae:\ntopology:\n")
    assert list(recipe.until("extract").steps) == ["vectors", "extract"]
    assert list(recipe.until("sae").steps)[-1] == "sae.features"
    assert list(recipe.until("sae.train").steps)[-1] == "sae.train"
    with pytest.raises(UsageError, match="did you mean extract"):
        recipe.until("extrct")
    with pytest.raises(UsageError, match="no step 'evaluate'"):
        recipe.until("evaluate")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mdel: x\n", "a recipe has no 'mdel'. did you mean mode"),
        ("evalute:\n", "did you mean evaluate"),
        ("probe: {drows: 1}\n", "probe has no 'drows'. did you mean draws"),
        ("extract: {max-tokens: 1}\n", "extract has no 'max-tokens'"),
        ("extract: {batch_tokens: 1}\n", "did you mean batch-tokens"),
        ("report: {x: 1}\n", "report has no 'x'. it has no options"),
        ("sae: {trian: }\n", "sae has no 'trian'. did you mean train"),
        ("sae.train:\n  k: 3\n", "a recipe has no 'sae.train'"),
        ("sae: {train: {step: 1}}\n", "sae.train has no 'step'. did you mean steps"),
        ("sae: {train: {li2026: {arch: topk}}}\n", "sae.train.li2026 has no 'arch'"),
        ("sae: {train: {audited: 3}}\n", "sae.train.audited takes options. not '3'"),
        ("probe: 3\n", "probe takes options. not '3'"),
        ("sae: [train]\n", "sae takes options"),
        ("probe: {draws: many}\n", "probe.draws takes a whole number. not 'many'"),
        ("probe: {draws: 1.5}\n", "takes a whole number"),
        ("probe: {draws: }\n", "takes a whole number. not nothing"),
        ("probe: {draws: 99}\n", "probe.draws is too small. it is 99. give 100"),
        ("probe: {everywhere: yes}\n", "probe.everywhere takes true or false. not 'yes'"),
        ("probe: {seed: -1}\n", "probe.seed is too small"),
        ("probe: {quota: {a: 1}}\n", "takes a word"),
        ("sae: {train: {lr: fast}}\n", "takes a number"),
        ("sae: {train: {lr: .inf}}\n", "takes a number"),
        ("sae: {train: {lr: nan}}\n", "takes a number"),
        ("sae: {train: {layer: [[1]]}}\n", "takes a word or several"),
        ("mode: bth\n", "unknown mode 'bth'. did you mean both"),
        ("topology:\n", "topology.fit needs the step sae.features"),
        ("sae: {eval: }\n", "sae.eval needs the step sae.train"),
        ("sae:\ntopology: {survive: }\n", "topology.survive needs the step topology.fit"),
        ("evaluate:\n", "evaluate needs the step topology.fit"),
    ],
)
def test_slips_are_named_with_what_was_meant(text: str, said: str) -> None:
    begin = "model: m\nvectors: starter\n"
    own = {line.split(":")[0] for line in text.splitlines()}
    rest = "".join(f"{step}:\n" for step in ("extract", "probe", "report") if step not in own)
    with pytest.raises(UsageError, match=said) as caught:
        parsed(begin + rest + text)
    assert caught.value.why and caught.value.instead


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vectors: starter\n", "names no model"),
        ("model: m\n", "names no vectors"),
        ("model: m\nvectors:\n", "names no vectors"),
        ("model: m\nvectors: {schema: li2026}\n", "names no vectors"),
        ("model:\nvectors: starter\n", "names no model"),
        ("model: m\nvectors: starter\nprobe:\n", "probe needs the step extract"),
    ],
)
def test_nothing_runs_without_a_model_and_vectors(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parsed(text)
