"""A model that is asked with the rows that were trained for it: what brings a stray model back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file

from moralprobe.behavior.text_model import Question, TextModel
from moralprobe.bridges.word_rows import Rows, changed_rows
from moralprobe.errors import DataError, ModelError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.steering.text import LocalText

ROWS: Final = "rows.safetensors"
ABOUT: Final = "align.json"
"""The files of a folder that `consensus align` wrote."""


def load_rows(folder: Path, model: CausalModel) -> Rows:
    """Return the rows that `consensus align` wrote, for the model that they were trained on.

    Raises:
        DataError: no such folder, or one that can't be read.
        ModelError: rows of another model.
    """
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))["model"]
        held = load_file(folder / ROWS)
        ids, delta = held["ids"], held["delta"].float()
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds no trained rows", str(error), "train some: consensus align"
        ) from error
    if about != json.loads(json.dumps(dict(model.identity))) or delta.shape != (
        len(ids),
        model.d_model,
    ):
        raise ModelError(
            f"the rows in {folder} aren't of {model.name}",
            "they were trained on other weights, another tokenizer or config",
            "load the model that was aligned",
        )
    return Rows(ids, delta)


@dataclass(frozen=True)
class WithRows:
    """A model on this machine that is asked with its trained rows."""

    text: LocalText
    rows: Rows

    @property
    def name(self) -> str:
        """The model's name, and by which rows."""
        return f"{self.text.name} rows {self._digest()[:6]}"

    @property
    def family(self) -> str:
        """The model's: it is kin of itself."""
        return self.text.family

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's, and the rows."""
        return {**self.text.identity, "rows": self._digest()}

    def complete(
        self, questions: Sequence[Question], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, str]]:
        """Yield what the model says to each question; see `LocalText.complete`."""
        # Whole: the rows are changed while the model runs, and not while its words are read.
        with changed_rows(self.text.model, self.rows):
            found = list(
                self.text.complete(questions, max_tokens=max_tokens, temperature=temperature)
            )
        yield from found

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float] | str]]:
        """Yield the log-probability of each option; see `LocalText.score_options`."""
        with changed_rows(self.text.model, self.rows):
            found = list(self.text.score_options(questions, options))
        yield from found

    def _digest(self) -> str:
        held = xxhash.xxh3_128(self.rows.ids.numpy().tobytes())
        held.update(self.rows.delta.numpy().tobytes())
        return held.hexdigest()


def with_rows(text: TextModel, folder: Path) -> WithRows:
    """Return a model that is asked with the rows that `consensus align` wrote for it.

    Raises:
        UsageError: a model on a server.
        DataError, ModelError: as `load_rows`.
    """
    if not isinstance(text, LocalText):
        raise UsageError(
            f"{text.name} can't be asked with other rows",
            "its embedding rows can't be reached",
            "give a model whose weights are on this machine",
        )
    return WithRows(text, load_rows(folder, text.model))
