"""A recipe's YAML as a tree of plain text: nothing in it is executed, expanded or guessed.

PyYAML's safe loader composes it, and scalars stay as they were written: what one means is said by
the option that it is given for, so that `lr: 1e-3` is a number and `revision: 0123` none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from moralprobe.errors import DataError, UsageError, nearest

LIMIT: Final = 64 << 10
"""Bytes of a recipe at most."""
DEPTH: Final = 8
"""Mappings and lists in each other at most."""
SUFFIXES: Final = (".yaml", ".yml")

Tree = str | list[Any] | dict[str, Any] | None
"""A scalar as it was written, nothing, a list or a mapping."""

_KEY: Final = re.compile(r"[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)*")


def recipes_at() -> dict[str, Path]:
    """Return the recipes that come with moralprobe, by name."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_recipes", package.parent / "recipes"):
        if found := sorted(folder.glob("*.yaml")):
            return {path.stem: path for path in found}
    return {}


def find_recipe(name: str | Path) -> Path:
    """Return the path of a recipe: a file, or one that comes with moralprobe.

    Raises:
        UsageError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = recipes_at()
    if str(name) in known:
        return known[str(name)]
    raise UsageError(
        f"there is no recipe {str(name)!r}",
        f"it is no file, and no recipe that comes with moralprobe; {nearest(str(name), known)}",
        "give the path of a .yaml file",
    )


def read_tree(path: Path) -> dict[str, Tree]:
    """Read a recipe file.

    Raises:
        DataError: a file that can't be read, is too large, or isn't plain YAML.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMIT + 1)
    except OSError as error:
        raise DataError(f"can't read {path}", str(error.strerror or error), "check it") from error
    return parse_tree(data, path.name)


def parse_tree(data: bytes, name: str) -> dict[str, Tree]:
    """Read YAML without tags, anchors, aliases and repeated keys.

    Args:
        data: at most `LIMIT` bytes of UTF-8.
        name: what it is called in errors.

    Raises:
        DataError: what isn't that, and where.
    """
    if len(data) > LIMIT:
        raise DataError(
            f"{name} is too large for a recipe",
            f"it has more than {LIMIT:,} bytes",
            "write options only; tables and texts are files of their own",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise DataError(f"{name} isn't UTF-8", f"line {row}", "convert it to UTF-8") from error
    try:
        # Events come before nodes: what is refused is never composed.
        for event, depth in _with_depth(yaml.parse(text, Loader=yaml.SafeLoader)):
            _refuse(event, depth, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise DataError(
            f"{name} is no YAML",
            f"{where}{what or 'it has several documents'}",
            "write one mapping of names to options",
        ) from error
    if not isinstance(root, yaml.MappingNode):
        raise DataError(
            f"{name} holds no recipe",
            "its outermost part is no mapping of names to options",
            "begin with a line such as: model: smollm2-135m",
        )
    tree = _plain(root, name)
    if not isinstance(tree, dict):  # a mapping's is one
        raise TypeError(name)
    return tree


def with_overrides(tree: Mapping[str, Tree], overrides: Mapping[str, str]) -> dict[str, Tree]:
    """Return a tree in which dotted keys have other values.

    Args:
        tree: from `read_tree`.
        overrides: by key, `sae.train.steps`; an empty value stands for nothing.

    Raises:
        UsageError: a key that isn't spelled so, or leads through something that is no mapping.
    """
    found = _copied(tree)
    for key, value in overrides.items():
        if not _KEY.fullmatch(key):
            raise UsageError(
                f"{key!r} is no key of a recipe",
                "keys are small letters, digits and -, joined by dots",
                "write for example --set sae.train.steps=500",
            )
        *parents, last = key.split(".")
        here: dict[str, Tree] = found
        for depth, parent in enumerate(parents):
            inner = here.get(parent)
            if inner is None:
                inner = here[parent] = {}
            if not isinstance(inner, dict):
                raise UsageError(
                    f"--set {key} leads nowhere",
                    f"{'.'.join(parents[: depth + 1])} is {inner!r} in the recipe",
                    f"set {'.'.join(parents[: depth + 1])} itself, or write it as a mapping",
                )
            here = inner
        here[last] = None if value in ("", "null", "~") else value
    return found


def parse_overrides(texts: list[str]) -> dict[str, str]:
    """Read `KEY=VALUE`, several times.

    Raises:
        UsageError: something else, or a key that is set twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key in found:
            raise UsageError(
                f"--set {text} can't be followed",
                f"{key} is set twice" if equals else "there is no = in it",
                "write --set KEY=VALUE, once for a key",
            )
        found[key] = value
    return found


def to_text(tree: Mapping[str, Tree], head: str) -> str:
    """Return a tree as YAML below a line of comment; read again it gives the same tree."""
    body: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=1000)
    return f"# {head}\n{body}"


def _copied(tree: Mapping[str, Tree]) -> dict[str, Tree]:
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _with_depth(events: Any) -> Any:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        yield event, depth


def _refuse(event: Any, depth: int, name: str) -> None:
    row = event.start_mark.line + 1
    why, instead = "", ""
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        why = "anchors and aliases can make a small file a very large one"
        instead = "write the value out where it is needed"
    elif getattr(event, "tag", None) is not None:
        why, instead = f"the tag {event.tag} asks for more than text", "leave the tag out"
    elif depth > DEPTH:
        why = f"more than {DEPTH} mappings or lists stand in each other"
        instead = "write it flat: a step, and its options"
    if why:
        raise DataError(f"line {row} of {name} isn't allowed in a recipe", why, instead)


def _plain(node: Any, name: str) -> Tree:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(inner, name) for inner in node.value]
    found: dict[str, Tree] = {}
    for key, value in node.value:
        row = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise DataError(
                f"line {row} of {name} isn't allowed in a recipe",
                "a key is a name, and here it is something else",
                "write a name in front of the colon",
            )
        if key.value in found:
            raise DataError(
                f"{name} says {key.value!r} twice",
                f"the second time in line {row}",
                "leave one of them out",
            )
        found[str(key.value)] = _plain(value, name)
    return found
