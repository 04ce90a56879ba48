"""What the server holds: a model, and what can steer it or look into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any, Final

import polars as pl

from moralprobe import __version__
from moralprobe.activations.text_states import TableTexts, TextStates, table_texts, text_states
from moralprobe.errors import DataError, UsageError, nearest
from moralprobe.evaluation.prompts import load_prompts
from moralprobe.foundations import POLES
from moralprobe.interventions import feature_intervention
from moralprobe.models.causal import CausalModel, differing
from moralprobe.models.chat import has_chat
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import MoralVectors
from moralprobe.report.features import EXAMPLES
from moralprobe.report.words import caveats, confounded_layers, findings
from moralprobe.sae.load import LoadedSAE, check_belongs, is_pooled
from moralprobe.steering.directions import TARGETS, of_states
from moralprobe.steering.generate import encoded_for
from moralprobe.steering.intervention import Intervention, check_intervention, check_layer
from moralprobe.steering.rules import Cap, ProjectOut
from moralprobe.study import Study
from moralprobe.web import schemas
from moralprobe.web.place import POOLINGS, TEMPLATE, Landmarks, landmarks_of
from moralprobe.web.turns import Stopped, halt_if

MOST_READ: Final = 2048
"""Tokens of a text: of each the whole vocabulary's logits are looked at."""


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
    study: schemas.StudyFound | None = None
    _read: tuple[int, TableTexts, TextStates] | None = None
    _directions: dict[tuple[str, int], Intervention] = field(default_factory=dict)
    _landmarks: Landmarks | None = None
    _ranked: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.vectors is not None:
            MoralVectors.load(self.vectors)  # what can't be read is said now
        for intervention in self.interventions.values():
            check_intervention(intervention, self.model)
        if self.sae is not None:
            check_belongs(self.sae, self.model)
            self.sae.sae.to(self.model.device)  # once, and not for every text
        if self.features is not None and self.features.height != self.autoencoder().sae.cfg.d_sae:
            raise UsageError(
                "this table isn't one of the autoencoder's features",
                f"it has {self.features.height:,} rows",
                "make it by: moralprobe sae features",
            )

    def about(self) -> schemas.About:
        """Return what is loaded, what can steer, and what can't and why."""
        sae, model = self.sae, self.model
        absent = {
            "directions, and where a sentence lies": (
                self.vectors,
                "no table was given: start with --vectors FILE",
            ),
            "features": (sae, "no autoencoder was given: start with --sae DIR"),
            "search over features": (
                self.features,
                "no table of features was given: start with --features DIR",
            ),
            "fitted interventions": (
                self.interventions or None,
                "none was given: start with --intervention DIR",
            ),
            "what fires": (
                None if sae is not None and is_pooled(sae) else True,
                "the autoencoder was trained on pooled vectors, and has seen no token",
            ),
            "findings of a study": (self.study, "none was given: start with --study DIR"),
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
            poles=list(POLES),
            targets=list(TARGETS) if self.vectors is not None else [],
            table=None if self.vectors is None else self.vectors.name,
            sae=None if sae is None else sae.folder.name,
            sae_layer=None if sae is None else sae.layer,
            features=None if sae is None else int(sae.sae.cfg.d_sae),
            interventions=sorted(self.interventions),
            study=self.study,
            prompts=_prompts(),
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

    def check_feature(self, feature: int) -> None:
        """Refuse a feature that there isn't, before it waits for its turn.

        Raises:
            UsageError: no autoencoder is loaded, or it has fewer.
        """
        most = int(self.autoencoder().sae.cfg.d_sae)
        if feature >= most:
            raise UsageError(
                f"there is no feature {feature}",
                f"the autoencoder has {most:,}",
                f"ask for one from 0 to {most - 1}",
            )

    def _table(self) -> Path:
        if self.vectors is None:
            raise _absent("directions", "no table", "--vectors FILE")
        return self.vectors

    def check_length(self, text: str, chat: bool | None) -> Encoded:
        """Return a text as tokens, if it isn't too long to be looked into.

        Raises:
            DataError: it has more than `MOST_READ` tokens.
        """
        (encoded,) = encoded_for(self.model, [text], chat=chat)
        if len(encoded) > MOST_READ:
            raise DataError(
                "this is too long to be looked into here",
                f"it has {len(encoded):,} tokens, and {MOST_READ:,} are read",
                "shorten it, or write by moralprobe steer",
            )
        return encoded

    def intervention_of(
        self, sources: Sequence[schemas.Source], stopped: Stopped
    ) -> Intervention | None:
        """Return what sources do together; None of nothing.

        Args:
            sources: once `check` has seen them. One that changes nothing is left out.
            stopped: asked while texts are read for a direction.

        Raises:
            UsageError: a source that isn't loaded.
            DataError: too few texts for a direction.
            StoppedError: nobody waits for it any longer.
        """
        made = [self._one(source, stopped) * source.strength for source in sources if _acts(source)]
        return reduce(add, made) if made else None

    def _one(self, source: schemas.Source, stopped: Stopped) -> Intervention:
        if isinstance(source, schemas.Fitted):
            return self.interventions[source.name]
        if isinstance(source, schemas.Features):
            changes = {c.feature: (c.scale, c.offset) for c in source.changes}
            return feature_intervention(self.autoencoder(), self.model, changes)
        found = self._direction(source.target, source.layer, stopped)
        if source.method == "add":
            return found
        return replace(found, edits=tuple(_held(edit, source) for edit in found.edits))

    def _direction(self, target: str, layer: int, stopped: Stopped) -> Intervention:
        """Return a direction; the first time at a layer the table's texts are read for it."""
        if (target, layer) not in self._directions:
            if self._read is None or self._read[0] != layer:
                texts = table_texts(self.model, MoralVectors.load(self._table()))
                states = text_states(
                    self.model, texts, layer, reading=lambda done, total: halt_if(stopped)
                )
                self._read = layer, texts, states
            _, texts, states = self._read
            made = of_states(self.model, texts, states, layer, target, "means")
            self._directions[target, layer] = made
        return self._directions[target, layer]

    def ranked_features(self) -> list[dict[str, Any]]:
        """Return the table's rows, the strongest of those that were chosen first.

        Raises:
            UsageError: there is no table.
        """
        if self.features is None:
            raise _absent("features to search", "no table of features", "--features DIR")
        if not self._ranked:
            rows = self.features.sort("chosen", "t", descending=True, nulls_last=True)
            # What wasn't chosen goes with no pole: the largest of ten is always some.
            pole = pl.when("chosen").then("pole")
            self._ranked = rows.with_columns(pole=pole).to_dicts()
        return self._ranked

    def row_of(self, feature: int) -> dict[str, Any] | None:
        """Return the table's row of a feature; None without a table."""
        if self.features is None:
            return None
        return self.features.row(by_predicate=pl.col("feature") == feature, named=True)

    def pole_of(self, feature: int) -> str | None:
        """Return the pole of a feature that was chosen, or None."""
        row = self.row_of(feature)
        return row["pole"] if row is not None and row["chosen"] else None

    @cached_property
    def searched(self) -> dict[int, str]:
        """The features' texts in small letters."""
        return {f: " ".join(texts).casefold() for f, texts in self.examples.items()}

    def landmarks(self, stopped: Stopped) -> Landmarks:
        """Return where the table's categories lie; the first time its texts are read for it.

        Raises:
            UsageError: no table is loaded.
            StoppedError: nobody waits for it any longer.
        """
        if self._landmarks is None:
            vectors = MoralVectors.load(self._table())
            self._landmarks = landmarks_of(self.model, vectors, lambda n: halt_if(stopped))
        return self._landmarks


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


def read_study(folder: Path, model: CausalModel) -> schemas.StudyFound:
    """Return what a study found, if it is of this model.

    Raises:
        UsageError: it is of another.
    """
    study = Study.load(folder)
    theirs = study.meta["store"]["model"]
    if differ := differing(model.identity, theirs):
        raise UsageError(
            f"{folder} is a study of another model",
            f"{theirs.get('id')} and {model.name} differ in {', '.join(differ)}",
            "give a study of this one, or leave it out",
        )
    # Of what a place shows as li2026, and not of other poolings or templates.
    alike = study.meta["store"]["template"] == TEMPLATE
    return schemas.StudyFound(
        name=Path(folder).name,
        caveats=caveats(study),
        findings=findings(study),
        confounded=confounded_layers(study, POOLINGS["li2026"]) if alike else [],
    )


@cache
def _prompts() -> list[schemas.Example]:
    """Return two of the project's prompts of each foundation."""
    found: dict[str, list[schemas.Example]] = {}
    for prompt in load_prompts("english").prompts:
        some = found.setdefault(prompt.group, [])
        if len(some) < 2:
            some.append(schemas.Example(foundation=prompt.group, text=prompt.text))
    return [example for some in found.values() for example in some]


def _acts(source: schemas.Source) -> bool:
    """Say if a source changes anything: at strength 0 nothing is touched, to the token."""
    if source.strength == 0:
        return False
    if isinstance(source, schemas.Features):
        return any((c.scale, c.offset) != (1.0, 0.0) for c in source.changes)
    return True


def _held(edit: Any, source: schemas.Direction) -> Any:
    """Return what takes away what states have along the direction that an edit adds."""
    along = edit.rule.direction
    if source.method == "project-out":
        return replace(edit, rule=ProjectOut(along[None]))
    return replace(edit, rule=Cap(along, source.bound * float(along.norm())))


def _absent(what: str, why: str, instead: str) -> UsageError:
    return UsageError(f"{what} aren't offered here", f"{why} was given", f"start with {instead}")


def _unknown(what: str, value: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"unknown {what} {value!r}", nearest(value, known), "see /api/about")
