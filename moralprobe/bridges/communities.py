"""How telling a model of a community, or adapting it to one, moves its moral geometry.

The same held-out actions are read after "Answer as people of Japan would." and after other
sentences of that build: of people in general (`anybody`, which every arm is held against), and of
people of whom nothing follows for morals, since any sentence moves states. Measured is what the
core measures of hidden states: the four audited analyses, and how the ten categories lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.activations.job import prompt_of
from moralprobe.activations.text_states import TableTexts, table_texts
from moralprobe.behavior.pluralism.learning import OWN
from moralprobe.behavior.pluralism.steering import PERSONA
from moralprobe.bridges.adapters import Known
from moralprobe.bridges.lora import load_lora
from moralprobe.errors import DataError, UsageError
from moralprobe.files import write_result
from moralprobe.geometry.draws import Draws, combined, interval
from moralprobe.geometry.measure import Measure, summarise
from moralprobe.models.causal import CausalModel
from moralprobe.moral_vectors import MoralVectors
from moralprobe.steering.survival import (
    ANALYSES,
    as_row,
    design_of,
    held_out,
    measures_of,
    steered_states,
)

ANYBODY: Final = "anybody"
BASE: Final = "Answer as people in general would."
CONTROLS: Final = ("who live by the sea", "with green front doors", "born on a Tuesday")
"""Of whom nothing follows for morals."""
CONTROL_OF: Final = {"persona": "control", "adapter": "adapter's control"}
MOVED: Final = "moved"
_POOLING: Final = "mean_action"
_MOST: Final = 512  # tokens
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Moved:
    """The geometry of the same texts under every arm.

    `geometry` has a row an arm, layer and measure: its value and interval; `less`, what it is less
    that of `anybody`; and `beyond`, what it is less the mean of its controls: of a persona the
    people of whom nothing follows, of a community's adapter those of everybody and of shuffled
    options. Both have intervals by the same resampled texts. `moved` is 1 - the mean cosine of a
    text's state with its state under `anybody`, each less the mean of all texts.
    """

    geometry: pl.DataFrame
    summary: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write `geometry.parquet` and `geometry.json`."""
        write_result(folder, "geometry", self.summary, {"geometry": self.geometry})


def move(
    model: CausalModel,
    vectors: MoralVectors,
    communities: Sequence[str],
    layers: Sequence[int],
    *,
    adapters: Sequence[Known] = (),
    analyses: Sequence[str] = ANALYSES,
    draws: int = 200,
    seed: int = 0,
    progress: Progress = lambda done, total, detail: None,
) -> Moved:
    """Read held-out texts under every arm, and measure them.

    States are those of the action's own tokens, at unit norm, so that what stands before the action
    acts through what the model makes of it alone.

    Args:
        model: from `load_model`, for this alone where there are adapters.
        vectors: a table of moral vectors; texts of its test split are read.
        communities: as they are named in "people of ...".
        layers: decoder blocks, counted from 0.
        adapters: from `adapters_in`; read after the sentence of `anybody`.
        analyses: of the four.
        draws: resamples and permutations.
        seed: of them.
        progress: called with the arms that are done, their number, and what is read.

    Raises:
        UsageError: no community and no adapter, or a name twice.
        DataError: no text is held out, or a sentence that leaves no room for some.
        ModelError: an adapter of another model.
    """
    if not (communities or adapters) or len(set(communities)) < len(communities):
        raise UsageError(
            "communities are needed, each once",
            ", ".join(communities) or "none was named",
            "name some, or adapters",
        )
    arms = [("base", ANYBODY, BASE)]
    arms += [("control", f"people {who}", f"Answer as people {who} would.") for who in CONTROLS]
    arms += [("persona", name, PERSONA.format(community=name)) for name in communities]
    total = len(arms) + len(adapters)
    base = _texts(model, vectors, BASE)
    rows = held_out(base)
    design = design_of(vectors, base, rows, draws=draws, seed=seed, analyses=analyses)
    read: dict[tuple[str, str, int], list[Measure]] = {}
    plain: dict[int, NDArray[np.float32]] = {}

    def measure(kind: str, name: str, texts: TableTexts) -> None:
        progress(len({key[:2] for key in read}), total, name)
        cut = sum(one.truncated for one in texts.encoded)
        if cut or texts.texts != base.texts:
            raise DataError(
                f"texts can't be read after {name!r} as after the others",
                f"{cut} are cut at {_MOST} tokens, {len(texts.texts)} of {len(base.texts)} can be",
                "name the community more shortly",
            )
        states = steered_states(model, [texts.encoded[i] for i in rows], None, layers, (_POOLING,))
        for layer in layers:
            X = states[layer][:, 0]
            moved = _moved(X, plain.setdefault(layer, X), draws, seed)
            own = measures_of(
                X, base.moral[rows], design, analyses=analyses, draws=draws, seed=seed
            )
            read[kind, name, layer] = [moved, *own]

    for kind, name, sentence in arms:
        measure(kind, name, base if kind == "base" else _texts(model, vectors, sentence))
    for one in adapters:
        adapted = load_lora(one.folder, model, one.identity)
        try:
            measure("adapter" if one.arm == OWN else "adapter's control", one.name, base)
        finally:
            adapted.away()
    found = [row for key in read for row in _rows(key, read)]
    progress(total, total, "")
    summary = {
        "name": model.name,
        "model": dict(model.identity),
        "texts": len(rows),
        "layers": list(layers),
        "communities": list(communities),
        "adapters": [one.name for one in adapters],
        "sentences": {name: sentence for _, name, sentence in arms},
        "pooling": _POOLING,
        "draws": draws,
        "seed": seed,
    }
    return Moved(pl.DataFrame(found, schema=_SCHEMA).fill_nan(None), summary)


def _texts(model: CausalModel, vectors: MoralVectors, sentence: str) -> TableTexts:
    prompt = prompt_of("action-is-morally", model.tokenizer).inside(f"{sentence} ", "")
    return table_texts(model, vectors, template=prompt, max_tokens=_MOST)


def _rows(
    key: tuple[str, str, int], read: Mapping[tuple[str, str, int], Sequence[Measure]]
) -> list[dict[str, Any]]:
    """Return an arm's measures at a layer, less those of `anybody` and of its controls."""
    kind, name, layer = key
    controls = [
        values
        for (other, _, where), values in read.items()
        if where == layer and other == CONTROL_OF.get(kind)
    ]
    base = read["base", ANYBODY, layer]
    return [
        {
            "kind": kind,
            "arm": name,
            "layer": layer,
            **as_row(one),
            **_less("less", one, [base[i]]),
            **_less("beyond", one, [some[i] for some in controls]),
        }
        for i, one in enumerate(read[key])
    ]


def _less(name: str, one: Measure, others: Sequence[Measure]) -> dict[str, float | None]:
    """Return a measure less the mean of others, by the same resamples; None without others."""
    if not others or any(len(other.boot) != len(one.boot) for other in others):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    weights = [1.0, *[-1 / len(others)] * len(others)]
    drawn = combined([one.draws, *(other.draws for other in others)], weights)
    low, high = interval(drawn)
    return {name: drawn.value, f"{name}_low": low, f"{name}_high": high}


def _moved(X: NDArray[np.float32], base: NDArray[np.float32], draws: int, seed: int) -> Measure:
    """Return how far states are from where they are under `anybody`, 0 to 2."""
    a, b = (np.asarray(x - x.mean(0), np.float64) for x in (X, base))
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    far = 1 - (a * b).sum(1) / np.where(norm > 0, norm, 1)
    n = len(far)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return summarise(
        MOVED, "all", Draws(float(far.mean()), drawn @ far / n, np.empty(0), n), "1 - cosine"
    )


_SCHEMA: Final[dict[str, Any]] = {
    **dict.fromkeys(("kind", "arm"), pl.String),
    "layer": pl.Int64,
    **dict.fromkeys(("name", "category"), pl.String),
    **dict.fromkeys(
        ("value", "ci_low", "ci_high", "null_low", "null_high", "p"),
        pl.Float64,
    ),
    **dict.fromkeys(("less", "less_low", "less_high"), pl.Float64),
    **dict.fromkeys(("beyond", "beyond_low", "beyond_high"), pl.Float64),
    "n": pl.Int64,
    **dict.fromkeys(("unit", "status"), pl.String),
}
