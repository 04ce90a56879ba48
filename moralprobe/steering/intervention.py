"""An intervention: edits of a model's residual stream that add, scale, and are kept as a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
import xxhash

from moralprobe.errors import IntegrityError, ModelError, StoreError, UsageError, nearest
from moralprobe.files import canonical_json, hash_file, write_bytes, write_json
from moralprobe.models.causal import CausalModel, differing
from moralprobe.sae.load import CONFIG, WEIGHTS, load_sae
from moralprobe.sites import Site
from moralprobe.steering.rules import RULES, Gate, Rule

FILE: Final = "intervention.json"
TENSORS: Final = "edits.safetensors"
MOST: Final = 1000.0
"""The largest multiple of an intervention: what is more is a slip of the pen."""
_LARGEST: Final = 1e6  # strength of an edit; controls are matched, and may need more than MOST
_FORMAT: Final = 1
_SMALL: Final = 1 << 20
_NAMES: Final = {rule: name for name, rule in RULES.items()}


@dataclass(frozen=True)
class Edit:
    """One change of the states that leave decoder block `layer`: x becomes x + strength rule(x).

    `sink_norm` is the norm above which a token is an attention sink: it and every text's token 0
    stay as they are. Without one all tokens are edited, as published. `gate` lets some states
    through.
    """

    layer: int
    rule: Rule
    strength: float = 1.0
    sink_norm: float | None = math.inf
    gate: Gate | None = None

    def __post_init__(self) -> None:
        _check_strength(self.strength, _LARGEST)

    @property
    def site(self) -> Site:
        """The place that is edited."""
        return Site("resid_post", self.layer)

    @property
    def width(self) -> int:
        """The width of the states that it edits."""
        values = {f.name: getattr(self.rule, f.name) for f in fields(self.rule)}
        if "sae" in values:
            return int(values["sae"].cfg.d_in)
        return int(next(v for v in values.values() if isinstance(v, torch.Tensor)).shape[-1])


@dataclass(frozen=True)
class Intervention:
    """Edits that are made at once, each of the states as they come: their order doesn't matter.

    `model` names what they were made for (`name` and `identity`), `about` what from; `controls`
    are interventions that stand beside it, by the names of `arms.ARMS`. Sums and multiples of
    interventions of one model are interventions; a sum has no controls.
    """

    edits: tuple[Edit, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    controls: Mapping[str, Intervention] = field(default_factory=dict)

    def __mul__(self, strength: float) -> Intervention:
        """Return it at so many times its strength, and its controls with it.

        Raises:
            UsageError: a strength that is no number, or above `MOST`.
        """
        _check_strength(strength, MOST)
        edits = tuple(replace(edit, strength=edit.strength * strength) for edit in self.edits)
        controls = {name: control * strength for name, control in self.controls.items()}
        return replace(self, edits=edits, controls=controls)

    __rmul__ = __mul__

    def __add__(self, other: Intervention) -> Intervention:
        """Return both at once.

        Raises:
            ModelError: they were made for different models.
        """
        mine, theirs = self.model.get("identity"), other.model.get("identity")
        if mine is not None and theirs is not None and differing(mine, theirs):
            raise ModelError(
                "these interventions are of different models",
                f"{self.model.get('name')} and {other.model.get('name')}",
                "make both for one model",
            )
        model = self.model if mine is not None else other.model
        about = {"sum_of": [dict(self.about), dict(other.about)]}
        return Intervention((*self.edits, *other.edits), model, about)

    @property
    def active(self) -> tuple[Edit, ...]:
        """The edits whose strength isn't 0: at 0 nothing is touched, to the bit."""
        return tuple(edit for edit in self.edits if edit.strength != 0)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are edited, ascending."""
        return tuple(sorted({edit.layer for edit in self.edits}))

    def digest(self) -> str:
        """Return a hash of everything that changes a state: edits, strengths, gates, weights."""
        tensors: dict[str, torch.Tensor] = {}
        saes: list[Any] = []
        said = _all_described("", self, tensors, saes)["edits"]
        found = xxhash.xxh3_128(canonical_json(said))
        for sae in saes:
            config = {k: v for k, v in sae.cfg.to_dict().items() if k != "metadata"}
            found.update(canonical_json({k: str(v) for k, v in config.items()}))
            weights = sae.state_dict()
            tensors |= {f"{name} of {saes.index(sae)}": weights[name] for name in sorted(weights)}
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            found.update(name.encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def save(self, folder: Path) -> Path:
        """Write the folder; the file that makes it one comes last.

        Raises:
            StoreError: it holds another intervention, or can't be written.
        """
        folder = Path(folder)
        check_empty(folder)
        from safetensors.torch import save

        tensors: dict[str, torch.Tensor] = {}
        saes: list[Any] = []
        own = _all_described("", self, tensors, saes)
        controls = {
            name: _all_described(f"{name}.", control, tensors, saes)
            for name, control in self.controls.items()
        }
        files = []
        if tensors:
            write_bytes(folder / TENSORS, save(tensors))
            files.append(TENSORS)
        for i, sae in enumerate(saes):
            sae.save_model(folder / f"sae-{i}")
            files += [f"sae-{i}/{CONFIG}", f"sae-{i}/{WEIGHTS}"]
        described = {
            "format": _FORMAT,
            "model": dict(self.model),
            **own,
            "controls": controls,
            "files": {name: hash_file(folder / name) for name in files},
        }
        described["checksum"] = xxhash.xxh3_128_hexdigest(canonical_json(described))
        write_json(folder / FILE, described)
        return folder

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Intervention:
        """Read a folder that `save` wrote.

        Raises:
            StoreError: there is none.
            IntegrityError: bytes that aren't those that were written, or that describe no edit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise StoreError(
                f"{folder} holds no intervention",
                f"there is no {FILE} in it",
                "make one by: moralprobe topology fit, or moralprobe intervention",
            )
        try:
            if (folder / FILE).stat().st_size > _SMALL:
                raise ValueError("it is too large")
            said = json.loads((folder / FILE).read_bytes())
            checksum = said.pop("checksum")
            if checksum != xxhash.xxh3_128_hexdigest(canonical_json(said)):
                raise ValueError("its checksum doesn't match")
            files, controls = dict(said["files"]), dict(said["controls"])
            if said["format"] != _FORMAT:
                raise ValueError(f"its format is {said['format']}")
            for name, digest in files.items():
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ValueError(f"it names {name!r}")
                if hash_file(folder / name) != digest:
                    raise ValueError(f"{name} isn't what was written")
            tensors = load_file(folder / TENSORS, device=device) if TENSORS in files else {}
            n_saes = len({Path(name).parent for name in files if "/" in name})
            saes = [load_sae(folder / f"sae-{i}", device=device).sae for i in range(n_saes)]
            model = dict(said["model"])

            def made(one: dict[str, Any], beside: Mapping[str, Intervention]) -> Intervention:
                edits = tuple(_edit(edit, tensors, saes) for edit in one["edits"])
                return cls(edits, model, dict(one["about"]), beside)

            return made(said, {name: made(one, {}) for name, one in controls.items()})
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            OSError,
            RecursionError,
            SafetensorError,
        ) as error:
            raise IntegrityError(
                f"{folder} is damaged", f"it describes no intervention: {error}", "make it again"
            ) from error


def _all_described(
    prefix: str, made: Intervention, tensors: dict[str, torch.Tensor], saes: list[Any]
) -> dict[str, Any]:
    edits = [_described(f"{prefix}{i}", edit, tensors, saes) for i, edit in enumerate(made.edits)]
    return {"edits": edits, "about": dict(made.about)}


def _described(
    i: str, edit: Edit, tensors: dict[str, torch.Tensor], saes: list[Any]
) -> dict[str, Any]:
    """Return an edit for JSON; its tensors and autoencoders are put aside and named."""
    said: dict[str, Any] = {
        "layer": edit.layer,
        "rule": _NAMES[type(edit.rule)],
        "strength": edit.strength,
        "sink_norm": None if edit.sink_norm is None else str(edit.sink_norm),
        "values": {},
        "gate": None,
    }
    for f in fields(edit.rule):
        value = getattr(edit.rule, f.name)
        if isinstance(value, torch.Tensor):
            tensors[f"{i}.{f.name}"] = value.detach().cpu().clone().contiguous()
            said["values"][f.name] = {"tensor": f"{i}.{f.name}"}
        elif isinstance(value, float | int):
            said["values"][f.name] = {"number": float(value)}
        else:
            at = next((n for n, known in enumerate(saes) if known is value), len(saes))
            saes[at:] = saes[at:] or [value]
            said["values"][f.name] = {"sae": at}
    if edit.gate is not None:
        tensors[f"{i}.gate"] = edit.gate.direction.detach().cpu().clone().contiguous()
        said["gate"] = {"direction": f"{i}.gate", "bias": edit.gate.bias}
    return said


def _edit(said: dict[str, Any], tensors: dict[str, torch.Tensor], saes: list[Any]) -> Edit:
    name = said["rule"]
    if name not in RULES:
        raise ValueError(f"unknown rule {name!r}, {nearest(str(name), RULES)}")
    values: dict[str, Any] = {}
    for key, value in said["values"].items():
        ((kind, what),) = value.items()
        if kind == "tensor":
            values[key] = tensors[what]
        else:
            values[key] = saes[int(what)] if kind == "sae" else float(what)
    gate = said["gate"]
    if gate is not None:
        gate = Gate(tensors[gate["direction"]], float(gate["bias"]))
    norm = said["sink_norm"]
    return Edit(
        int(said["layer"]),
        RULES[name](**values),
        float(said["strength"]),
        None if norm is None else float(norm),
        gate,
    )


def _check_strength(strength: float, most: float) -> None:
    if not abs(strength) <= most:
        raise UsageError(
            f"a strength of {strength} isn't steering",
            f"it must be a number of at most {most:g}",
            "give for example 0.5",
        )


def check_intervention(intervention: Intervention, model: CausalModel) -> None:
    """Hold an intervention against a model.

    Raises:
        ModelError: another width or layer, or other weights than it was made for; with both.
    """
    for edit in intervention.edits:
        if edit.width != model.d_model:
            raise ModelError(
                "this intervention is of another width",
                f"it edits {edit.width} dimensions, {model.name} has {model.d_model}",
                f"use it on {intervention.model.get('name', 'the model that it was made for')}",
            )
        if not 0 <= edit.layer < model.n_layers:
            raise ModelError(
                "this intervention is of another layer",
                f"it edits {edit.site}, {model.name} has layers 0 to {model.n_layers - 1}",
                "make one for a layer of this model",
            )
    theirs = intervention.model.get("identity")
    if theirs is not None and (differ := differing(model.identity, theirs)):
        raise ModelError(
            "this intervention is of another model",
            f"{intervention.model.get('name')} and {model.name} differ in {', '.join(differ)}",
            "load the model that it was made for",
        )


def usual_strengths(interventions: Sequence[Intervention]) -> tuple[float, ...]:
    """Return the strengths that are tried unless told.

    A direction is as long as a state usually is: a fifth of it changes much.
    """
    about = [one.about for one in interventions]
    parts = [part for one in about for part in one.get("sum_of", [one])]
    long = {part.get("made_by") for part in parts} & {"means", "ridge"}
    return (0.0, 0.05, 0.1, 0.2) if long else (0.0, 0.25, 0.5, 1.0)


def check_layer(model: CausalModel, layer: int) -> None:
    """Refuse a layer that a model doesn't have.

    Raises:
        UsageError: it doesn't.
    """
    if not 0 <= layer < model.n_layers:
        raise UsageError(
            f"there is no layer {layer}",
            f"{model.name} has layers 0 to {model.n_layers - 1}",
            "choose one of them",
        )


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds an intervention.

    Raises:
        StoreError: it does.
    """
    if (Path(folder) / FILE).exists():
        raise StoreError(
            f"{folder} holds an intervention already",
            f"there is a {FILE} in it",
            "give a new folder",
        )


def origin_of_model(intervention: Intervention, source: str | None = None) -> dict[str, Any]:
    """Return how `load_model` finds the model that an intervention was made for.

    Raises:
        UsageError: it doesn't say, and none is given.
    """
    origin = dict(intervention.model.get("origin") or {})
    name = source or origin.get("source") or intervention.model.get("name")
    if name is None:
        raise UsageError(
            "the intervention doesn't say which model it belongs to", "", "give --model"
        )
    return {**origin, "source": name}


def model_of(model: CausalModel) -> dict[str, Any]:
    """Return what an intervention says of the model that it is made for."""
    return {"name": model.name, "identity": model.identity, "origin": model.origin}
