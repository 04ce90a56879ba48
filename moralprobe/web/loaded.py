"""What the server holds: a model, and what can steer it or look into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import polars as pl

from moralprobe import __version__
from moralprobe.errors import UsageError, nearest
from moralprobe.interventions import direction_intervention, feature_intervention
from moralprobe.models.causal import CausalModel
from moralprobe.models.chat import has_chat
from moralprobe.moral_vectors import MoralVectors
from moralprobe.report.features import EXAMPLES
from moralprobe.sae.load import LoadedSAE, check_belongs
from moralprobe.steering.directions import TARGETS
from moralprobe.steering.intervention import Intervention, check_intervention, check_layer
from moralprobe.steering.rules import ProjectOut
from moralprobe.web import schemas


@dataclass
class Loaded:
    """What was loaded when the server started.

    `vectors` is the table that directions are made of, a file; `features` an autoencoder's table;
    `examples` the texts that features are shown by, the most active first.
    """

    model: CausalModel
    vectors: Path | None = None
    sae: LoadedSAE | None = None
    features: pl.DataFrame | None = None
    examples: Mapping[int, Sequence[str]] = field(default_factory=dict)
    interventions: Mapping[str, Intervention] = field(default_factory=dict)
    _directions: dict[tuple[str, int], Intervention] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors is not None:
            MoralVectors.load(self.vectors)  # what can't be read is said now
        for intervention in self.interventions.values():
            check_intervention(intervention, self.model)
        if self.sae is not None:
            check_belongs(self.sae, self.model)

    def about(self) -> schemas.About:
        """Return what is loaded, what can steer, and what can't and why."""
        sae, model = self.sae, self.model
        absent = {
            "directions": (self.vectors, "no table was given: start with --vectors FILE"),
            "features": (sae, "no autoencoder was given: start with --sae DIR"),
            "search over features": (
                self.features,
                "no table of features was given: start with --features DIR",
            ),
            "fitted interventions": (
                self.interventions or None,
                "none was given: start with --intervention DIR",
            ),
            "chat": (
                has_chat(model.tokenizer) or None,
                f"{model.name} has no chat template: prompts are continued as text",
            ),
        }
        return schemas.About(
            version=__version__,
            model=model.name,
            layers=model.n_layers,
            d_model=model.d_model,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            chat=has_chat(model.tokenizer),
            targets=list(TARGETS) if self.vectors is not None else [],
            table=None if self.vectors is None else self.vectors.name,
            sae=None if sae is None else sae.folder.name,
            sae_layer=None if sae is None else sae.layer,
            features=None if sae is None else int(sae.sae.cfg.d_sae),
            interventions=sorted(self.interventions),
            absent=[
                schemas.Absent(what=what, why=why)
                for what, (there, why) in absent.items()
                if there is None
            ],
            limits={
                "characters": schemas.MOST_CHARACTERS,
                "tokens": schemas.MOST_TOKENS,
                "sources": schemas.MOST_SOURCES,
                "features": schemas.MOST_FEATURES,
                "strength": schemas.MOST_STRENGTH,
            },
        )

    def check(self, sources: Sequence[schemas.Source]) -> None:
        """Refuse sources that there aren't, before they wait for their turn.

        Raises:
            UsageError: an unknown target, layer, feature or name.
        """
        for source in sources:
            if isinstance(source, schemas.Direction):
                self._table()
                if source.target not in TARGETS:
                    raise _unknown("target", source.target, TARGETS)
                check_layer(self.model, source.layer)
            elif isinstance(source, schemas.Features):
                numbers = [change.feature for change in source.changes]
                most = int(self.autoencoder().sae.cfg.d_sae)
                if max(numbers) >= most or len(set(numbers)) < len(numbers):
                    raise UsageError(
                        "these features can't be changed",
                        f"{max(numbers)} of {most}" if max(numbers) >= most else "one stands twice",
                        f"name each once, from 0 to {most - 1}",
                    )
            elif source.name not in self.interventions:
                raise _unknown("intervention", source.name, self.interventions)

    def autoencoder(self) -> LoadedSAE:
        """Return the autoencoder.

        Raises:
            UsageError: none is loaded.
        """
        if self.sae is None:
            raise _absent("features", "no autoencoder", "--sae DIR")
        return self.sae

    def _table(self) -> Path:
        if self.vectors is None:
            raise _absent("directions", "no table", "--vectors FILE")
        return self.vectors

    def intervention_of(self, sources: Sequence[schemas.Source]) -> Intervention | None:
        """Return what sources do together; None of no source.

        Raises:
            UsageError: a source that isn't loaded.
            DataError: too few texts for a direction.
            NumericError: features that change no state.
        """
        made = [self._one(source) * source.strength for source in sources]
        return reduce(add, made) if made else None

    def _one(self, source: schemas.Source) -> Intervention:
        if isinstance(source, schemas.Fitted):
            return self.interventions[source.name]
        if isinstance(source, schemas.Features):
            changes = {c.feature: (c.scale, c.offset) for c in source.changes}
            return feature_intervention(self.autoencoder(), self.model, changes)
        found = self._direction(source.target, source.layer)
        if source.method == "add":
            return found
        return replace(found, edits=tuple(_projected(edit) for edit in found.edits))

    def _direction(self, target: str, layer: int) -> Intervention:
        """Return a direction; the first time the table's texts are read for it."""
        if (target, layer) not in self._directions:
            made = direction_intervention(self.model, self._table(), layer, target=target)
            self._directions[target, layer] = made
        return self._directions[target, layer]


def read_examples(folder: Path) -> dict[int, list[str]]:
    """Return the texts that features are shown by, of a folder that `sae features` wrote; or none.

    Args:
        folder: where they may be: older ones hold none.
    """
    path = Path(folder) / EXAMPLES
    if not path.is_file():
        return {}
    by = pl.read_parquet(path).group_by("feature", maintain_order=True).agg("text")
    return dict(by.iter_rows())


def _projected(edit: Any) -> Any:
    """Return what takes away what states have along the direction that an edit adds."""
    return replace(edit, rule=ProjectOut(edit.rule.direction[None]))


def _absent(what: str, why: str, instead: str) -> UsageError:
    return UsageError(f"{what} aren't offered here", f"{why} was given", f"start with {instead}")


def _unknown(what: str, value: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"unknown {what} {value!r}", nearest(value, known), "see /api/about")
