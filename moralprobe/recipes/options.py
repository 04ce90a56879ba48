"""What a recipe may ask for: the steps with their options, under the names of the command line.

A class holds the options of one step and their defaults; `RunRecipe` holds those of the steps that
are asked for. Nothing is loaded here and nothing read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from moralprobe.errors import UsageError, nearest
from moralprobe.recipes.text import Tree

MIDDLE: Final = "middle"
"""The layer in the middle of a model."""
EVALUATE: Final = "evaluate"
MODES: Final = ("both", "audited", "li2026")


def _at_least(default: Any, least: float) -> Any:
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True)
class General:
    """What holds for all steps: the model, how it is read, and in which modes."""

    model: str
    mode: str = "both"
    template: str = "action-is-morally"
    max_tokens: int = _at_least(128, 1)
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    layers_path: str | None = None


@dataclass(frozen=True)
class Vectors:
    """`starter`, a dataset that is downloaded, a table to build from, or a built `.parquet`."""

    source: str
    schema: str = "li2026"
    agreement: str = "action-agree"
    strict: bool = False
    url: str | None = None


@dataclass(frozen=True)
class Extract:
    """Hidden states into a store."""

    layers: str = "all"
    pooling: str = "mean,mean_unit,mean_no_sink,last"
    batch_tokens: int | None = _at_least(None, 1)
    share: bool = True


@dataclass(frozen=True)
class Probe:
    """The analyses of the store."""

    analyses: str = "all"
    quota: str = "li2026"
    hdbscan: str = "paper"
    everywhere: bool = False
    draws: int = _at_least(1000, 100)
    seed: int = _at_least(42, 0)
    twin: str | None = None
    sentence: str | None = None


@dataclass(frozen=True)
class Train:
    """Autoencoders of our own kind; `shuffled` trains a null beside them."""

    layer: str = MIDDLE
    source: str = "tokens"
    arch: str = "topk"
    expansion: str = "16"
    k: int = _at_least(32, 1)
    sparsity: float = 1.0
    steps: int = _at_least(3000, 1)
    batch: int = _at_least(4096, 1)
    lr: float = 4e-4
    seed: str = "0"
    precision: str = "auto"
    pooling: str | None = None
    shuffled: bool = False
    held_out: float = 0.05


@dataclass(frozen=True)
class PublishedTrain:
    """Autoencoders as published; steps of 0 are a hundred epochs."""

    layer: str = MIDDLE
    expansion: str = "16"
    k: int = _at_least(50, 1)
    steps: int = _at_least(0, 0)
    batch: int = _at_least(4096, 1)
    lr: float = 1e-4
    seed: str = "0"
    precision: str = "auto"
    pooling: str = "mean"


@dataclass(frozen=True)
class Judge:
    """How good the autoencoders are on texts that were held out."""

    n_texts: int = _at_least(2000, 2)


@dataclass(frozen=True)
class Features:
    """The moral features of the autoencoders, a table and pages."""

    pages: int = _at_least(200, 0)
    causal: int = _at_least(50, 0)
    seed: int = _at_least(0, 0)


@dataclass(frozen=True)
class Fit:
    """Moral features tuned towards judgements."""

    epochs: int | None = _at_least(None, 1)
    draws: int = _at_least(200, 20)
    seed: int = _at_least(0, 0)


@dataclass(frozen=True)
class Survive:
    """What is left of that at later layers."""

    layers: str = "later"
    strength: float = 1.0
    analyses: str = "all"
    draws: int = _at_least(200, 20)
    seed: int = _at_least(0, 0)


@dataclass(frozen=True)
class Evaluate:
    """What the steered model says, and what else it does; `data` may be `flames`, downloaded."""

    protocol: str = "audited"
    suite: str = "all"
    data: str = "english"
    judge: str | None = None
    strengths: str = "0,0.25,0.5,1.0"
    seeds: str = "0,1"
    without: str | None = None
    prompts: int = _at_least(0, 0)
    positions: str = "all"
    max_tokens: int | None = _at_least(None, 1)
    temperature: float | None = None
    top_p: float | None = None
    thinking: bool | None = None
    ratings: bool = False
    moral_stories: str | None = None
    ethics: str | None = None
    mfq: str | None = None
    items: int = _at_least(200, 10)
    batch: int = _at_least(16, 1)
    seed: int = _at_least(0, 0)


@dataclass(frozen=True)
class PublishedEvaluate(Evaluate):
    """The same by the published protocol."""

    protocol: str = "li2026"


@dataclass(frozen=True)
class Report:
    """All results on one page."""


OURS: Final[dict[str, dict[str, str]]] = {
    "sae.train": {"audited": "audited", "li2026": "li2026"},
    "topology.fit": {"audited": "geometry", "li2026": "li2026"},
    EVALUATE: {"audited": "geometry", "li2026": "li2026"},
}
"""How steps that differ by mode call it, by the recipe's mode."""
OfModes = dict[str, type[Any]]
"""The classes of a step's options, by what the step calls its modes."""
STEPS: Final[dict[str, type[Any] | OfModes]] = {
    "vectors": Vectors,
    "extract": Extract,
    "probe": Probe,
    "sae.train": {"audited": Train, "li2026": PublishedTrain},
    "sae.eval": Judge,
    "sae.features": Features,
    "topology.fit": {"geometry": Fit, "li2026": Fit},
    "topology.survive": Survive,
    EVALUATE: {"geometry": Evaluate, "li2026": PublishedEvaluate},
    "report": Report,
}
"""The steps in their order; of those that differ by mode a class a mode."""
NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "probe": ("extract",),
    "sae.eval": ("sae.train",),
    "sae.features": ("sae.train",),
    "topology.fit": ("sae.features",),
    "topology.survive": ("topology.fit",),
    EVALUATE: ("topology.fit",),
}
GROUPS: Final = ("sae", "topology")


@dataclass(frozen=True)
class RunRecipe:
    """What is asked for: `steps` has the options of each step, by mode where they differ."""

    general: General
    steps: Mapping[str, Any]

    @property
    def modes(self) -> tuple[str, ...]:
        """`audited`, `li2026`, or both."""
        both = ("audited", "li2026")
        return both if self.general.mode == "both" else (self.general.mode,)

    def of(self, step: str) -> Any:
        """Return a step's options, of one that differs by mode by the recipe's own modes."""
        options = self.steps[step]
        if step not in OURS:
            return options
        return {mode: options[OURS[step][mode]] for mode in self.modes}

    def until(self, step: str) -> RunRecipe:
        """Return the recipe up to a step, or to the last of a group.

        Raises:
            UsageError: a step that the recipe doesn't have.
        """
        names = list(self.steps)
        last = [i for i, name in enumerate(names) if step in (name, name.split(".")[0])]
        if not last:
            known = {*names, *(name.split(".")[0] for name in names)}
            raise UsageError(
                f"the recipe has no step {step!r}", nearest(step, known), "choose one of its steps"
            )
        return replace(self, steps={name: self.steps[name] for name in names[: last[-1] + 1]})

    def tree(self) -> dict[str, Tree]:
        """Return all of it, every default written out, as `parse_recipe` reads it."""
        found: dict[str, Any] = _written(self.general)
        for step, options in self.steps.items():
            if isinstance(options, Mapping):
                value: Any = {mode: _written(one) for mode, one in options.items()}
            else:
                value = _written(options) or None
            group, _, name = step.partition(".")
            if name:
                found.setdefault(group, {})[name] = value
            else:
                found[step] = value
        return found


def _written(options: Any) -> dict[str, Any]:
    return {f.name.replace("_", "-"): getattr(options, f.name) for f in fields(options)}
