"""A recipe's tree as options: each value read as its option's type, and slips told apart."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from moralprobe.errors import UsageError, nearest
from moralprobe.recipes.options import (
    GROUPS,
    MODES,
    NEEDS,
    OURS,
    STEPS,
    General,
    OfModes,
    RunRecipe,
)
from moralprobe.recipes.text import Tree

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,12}")


def parse_recipe(tree: Mapping[str, Tree]) -> RunRecipe:
    """Read a recipe, every default filled in.

    Args:
        tree: from `read_tree`.

    Raises:
        UsageError: an unknown key, a value that isn't one of the option's, a step whose
            predecessor isn't there, or no model or vectors.
    """
    names = {f.name.replace("_", "-") for f in fields(General)}
    known = {*names, *GROUPS, *(step for step in STEPS if "." not in step)}
    for key in tree.keys() - known:
        raise _unknown(key, "a recipe", known)
    flat = _by_step(tree)
    vectors = flat.get("vectors")
    there = {
        "model": flat.get("model"),
        "vectors": isinstance(vectors, dict) and "source" in vectors,
    }
    for key, example in (("model", "model: smollm2-135m"), ("vectors", "vectors: starter")):
        if not there[key]:
            raise UsageError(
                f"the recipe names no {key}", "nothing runs without", f"add a line {example}"
            )
    general = _filled(General, {k: v for k, v in flat.items() if k in names}, "")
    if general.mode not in MODES:
        raise UsageError(
            f"unknown mode {general.mode!r}", nearest(general.mode, MODES), "choose one of these"
        )
    recipe = RunRecipe(general, {})
    steps: dict[str, Any] = {}
    for step, options in STEPS.items():
        if step not in flat or flat[step] == "false":
            continue
        given = _mapping(flat[step], step)
        if isinstance(options, dict):
            wanted = {OURS[step][mode] for mode in recipe.modes}
            made = _by_mode(options, given, step)
            steps[step] = {mode: one for mode, one in made.items() if mode in wanted}
        else:
            steps[step] = _filled(options, given, step)
        for need in NEEDS.get(step, ()):
            if need not in steps:
                raise UsageError(
                    f"{step} needs the step {need}",
                    "the recipe doesn't have it",
                    f"add {need}, or leave {step} out",
                )
    return RunRecipe(general, steps)


def _by_step(tree: Mapping[str, Tree]) -> dict[str, Any]:
    """Return options by the dotted names of steps; a group without any has all of its steps."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "vectors" and isinstance(value, str) and value != "false":
            value = {"source": value}
        if key not in GROUPS:
            flat[key] = value
            continue
        members = [step.split(".")[1] for step in STEPS if step.startswith(f"{key}.")]
        if value == "false":
            continue
        for name, inner in (_mapping(value, key) or dict.fromkeys(members)).items():
            if name not in members:
                raise _unknown(name, key, members)
            flat[f"{key}.{name}"] = inner
    return flat


def _by_mode(classes: OfModes, given: dict[str, Any], step: str) -> dict[str, Any]:
    """Return a mode's options each: those of its own, and of the common ones those it knows."""
    known = {mode: {f.name.replace("_", "-") for f in fields(c)} for mode, c in classes.items()}
    common = {key: value for key, value in given.items() if key not in classes}
    for key in common:
        if not any(key in names for names in known.values()):
            raise _unknown(key, step, {*classes, *set().union(*known.values())})
    made = {}
    for mode, options in classes.items():
        own = _mapping(given.get(mode), f"{step}.{mode}")
        mine = {key: value for key, value in common.items() if key in known[mode]}
        made[mode] = _filled(options, {**mine, **own}, f"{step}.{mode}")
    return made


def _filled(options: type[Any], given: Mapping[str, Any], where: str) -> Any:
    """Return an options class with what is given, each value read as its option's type."""
    hints = typing.get_type_hints(options)
    known = {f.name.replace("_", "-"): f for f in fields(options)}
    values = {}
    for key, value in given.items():
        if key not in known:
            raise _unknown(key, where, known)
        f = known[key]
        name = f"{where}.{key}" if where else key
        values[f.name] = _read(value, hints[f.name], name)
        least = f.metadata.get("least")
        if least is not None and values[f.name] is not None and values[f.name] < least:
            raise UsageError(
                f"{name} is too small", f"it is {values[f.name]}", f"give {least} or more"
            )
    return options(**values)


def _read(value: Tree, hint: Any, name: str) -> Any:
    """Return a value as the type that its option has."""
    may_be_none = isinstance(hint, types.UnionType)
    kind = next(k for k in typing.get_args(hint) if k is not type(None)) if may_be_none else hint
    if value is None and may_be_none:
        return None
    if kind is str and isinstance(value, list) and all(isinstance(x, str) for x in value):
        value = ",".join(str(x) for x in value)
    try:
        if isinstance(value, str) and value:
            if kind is str:
                return value
            if kind is bool:
                return {"true": True, "false": False}[value]
            if kind is int and _WHOLE.fullmatch(value):
                return int(value)
            if kind is float and math.isfinite(number := float(value)):
                return number
    except (KeyError, ValueError):
        pass
    wanted = {str: "a word or several with commas", bool: "true or false", int: "a whole number"}
    said = "nothing" if value is None else repr(value)
    raise UsageError(
        f"{name} takes {wanted.get(kind, 'a number')}", f"not {said}", f"write another {name}"
    )


def _mapping(value: Tree, where: str) -> dict[str, Any]:
    if value is None or value == "true":
        return {}
    if isinstance(value, dict):
        return value
    raise UsageError(
        f"{where} takes options",
        f"not {value!r}",
        f"write {where}: alone for its defaults, {where}: false to leave it out, or options below",
    )


def _unknown(key: str, where: str, known: Iterable[str]) -> UsageError:
    names = sorted(known)
    return UsageError(
        f"{where or 'a recipe'} has no {key!r}",
        nearest(key, names) if names else "it has no options",
        "write one of its options, or leave this one out",
    )
