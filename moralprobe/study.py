"""Run the analyses over a store's layers and poolings into one long table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from moralprobe.activations.store import ActivationStore
from moralprobe.analyses.confounds import length_explains, length_offsets, sink
from moralprobe.analyses.gradient import gradient
from moralprobe.analyses.recoverability import recoverability
from moralprobe.analyses.separation import separation
from moralprobe.analyses.structure import structure
from moralprobe.artifacts import write_bytes, write_json
from moralprobe.design import Design, Mode, TextFacts, make_design
from moralprobe.errors import DataError, NumericError
from moralprobe.geometry.baselines import bag_of_words
from moralprobe.geometry.baselines import topics as topics_of
from moralprobe.geometry.confounds import sink_ratio, words_of
from moralprobe.geometry.measure import Measure
from moralprobe.geometry.reliability import Reliability
from moralprobe.moral_vectors import reliability_from_meta
from moralprobe.options import (
    POOLINGS_OF,
    parse_analyses,
    parse_hdbscan,
    parse_modes,
    poolings_of,
)
from moralprobe.provenance import cores, environment
from moralprobe.table import COLUMNS, over_ceiling, row, with_q

_WIDE: Final = ("structure", "recoverability")
"""Analyses of all texts at once; in `audited` mode by default under the headline pooling only."""
_BYTES_AT_ONCE: Final = 5 << 29  # that measuring several layers at the same time may take


@dataclass(frozen=True)
class Study:
    """One long table of measures (`COLUMNS`), and what it was made from."""

    frame: pl.DataFrame
    meta: dict[str, Any]

    def save(self, folder: Path) -> Path:
        """Write `measures.parquet`, its JSON twin and `study.json` into a folder."""
        import io

        folder = Path(folder)
        buffer = io.BytesIO()
        self.frame.write_parquet(buffer)
        write_bytes(folder / "measures.parquet", buffer.getvalue())
        rows = [
            {k: None if v != v else v for k, v in row.items()}
            for row in self.frame.iter_rows(named=True)
        ]
        write_bytes(folder / "measures.json", json.dumps(rows, indent=0).encode())
        write_json(folder / "study.json", self.meta)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Study:
        """Read what `save` wrote; anything else raises DataError."""
        folder = Path(folder)
        try:
            frame = pl.read_parquet(folder / "measures.parquet")
            meta = json.loads((folder / "study.json").read_bytes())
        except (OSError, pl.exceptions.PolarsError, ValueError) as error:
            raise DataError(
                f"can't read {folder} as a study",
                str(error).splitlines()[0],
                "make one with: moralprobe probe STORE --out STUDY",
            ) from error
        if frame.columns != list(COLUMNS):
            raise DataError(f"{folder} is no study", "its columns differ", "probe the store again")
        return cls(frame, meta)

    def select(self, **where: str | int) -> pl.DataFrame:
        """Return the rows with these column values, by layer."""
        return self.frame.filter(**where).sort("layer", nulls_last=False)


def finished(folder: Path, store: ActivationStore, **options: str | int) -> Study | None:
    """Return the study that a folder holds if it is of this store, with these options; else None.

    Args:
        folder: where a study may have been saved.
        store: the store that would be probed.
        options: of `probe`, all but `progress`.
    """
    if not (Path(folder) / "study.json").is_file():
        return None
    study = Study.load(folder)
    same = study.meta["request"] == request_of(store, **options)
    return study if same else None


def request_of(store: ActivationStore, **options: str | int) -> dict[str, Any]:
    """Return all that can change a study's numbers."""
    return {**options, "store": store.digest(), "environment": environment()}


def probe(
    store: ActivationStore,
    *,
    analyses: str | Sequence[str] = "all",
    mode: str = "both",
    quota: str = "li2026",
    hdbscan: str = "paper",
    everywhere: bool = False,
    draws: int = 1000,
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Run the analyses at every layer of a store.

    Args:
        store: from `extract` or `ActivationStore.open`.
        analyses: of `ANALYSES`, joined by commas or as a sequence; `all`.
        mode: `li2026` (faithful), `audited` (corrected), or `both`.
        quota: the sample that `li2026` is computed on: `li2026` draws the paper's, unless the
            vectors already are one; `none` takes all pairs.
        hdbscan: where structure finds density clusters, which takes up to a minute a layer: under
            the `paper`'s pooling in `li2026` mode, under `all`, or under `none`.
        everywhere: whether `audited` structure and recoverability are measured under every
            pooling, not only under the headline one, which triples the time.
        draws: bootstrap resamples and permutations behind every interval and null.
        seed: of the sample, the folds and the draws.
        progress: called with steps done and steps in all.

    Raises:
        UsageError: an unknown analysis, mode, quota or choice, or a store without a pooling that
            the mode reads.
        IntegrityError: bytes that aren't those that were written.
        NumericError: NaN or infinity in the stored states.
    """
    modes, chosen_analyses = parse_modes(mode), parse_analyses(analyses)
    parse_hdbscan(hdbscan)
    chosen = poolings_of(store, modes)
    prepared = _prepare(store, modes, quota=quota, analyses=chosen_analyses, draws=draws, seed=seed)
    rows: list[dict[str, Any]] = []
    steps = len(store.layers) * sum(len(p) for p in chosen.values())
    done = 0
    for m in modes:
        part = prepared.of_mode[m]
        rows += [row(store, m, None, "none", measure) for measure in length_offsets(part.design)]
        for layer in store.layers:
            stats = store.stats(layer)
            ratio = sink_ratio(stats["token0_norm"], stats["other_norm"])
            rows.append(row(store, m, layer, "none", sink(ratio, part.design)))
        for pooling in chosen[m]:
            design, baseline = part.under(store, pooling)
            density = hdbscan == "all" or (
                hdbscan == "paper" and m == "li2026" and pooling == POOLINGS_OF[m][0]
            )
            here = chosen_analyses
            if m == "audited" and pooling != chosen[m][0] and not everywhere:
                here = tuple(name for name in here if name not in _WIDE)
            unit = partial(_measure_layer, store, pooling, design, here, density)
            for layer, measures in zip(
                store.layers, _at_once(unit, store.layers, _workers(design, store)), strict=True
            ):
                found = [
                    row(store, m, layer, pooling, x, prepared.reliability, baseline)
                    for x in measures
                ]
                rows += found
                rows += [scaled for x in found if (scaled := over_ceiling(x)) is not None]
                done += 1
                if progress is not None:
                    progress(done, steps)
    frame = with_q(pl.DataFrame(rows, schema=COLUMNS, orient="row"))
    request = request_of(
        store,
        analyses=",".join(chosen_analyses),
        mode=mode,
        quota=quota,
        hdbscan=hdbscan,
        everywhere=everywhere,
        draws=draws,
        seed=seed,
    )
    return Study(frame, _meta(store, prepared, chosen, request))


def _measure_layer(
    store: ActivationStore,
    pooling: str,
    design: Design,
    analyses: Sequence[str],
    density: bool,
    layer: int,
) -> list[Measure]:
    states = rows_of(store.layer(pooling, layer), design.text, f"layer {layer}")
    return measure_states(states, design, analyses, density=density)


def measure_states(
    states: NDArray[np.float32], design: Design, analyses: Sequence[str], *, density: bool
) -> list[Measure]:
    """Run the analyses on the states of a design's rows."""
    X = centred(states)
    found = []
    if "separation" in analyses:
        found += [*separation(X, design), length_explains(X, design)]
    if "gradient" in analyses:
        found += gradient(X, design)
    if "structure" in analyses:
        found += structure(X, design, density=density)
    if "recoverability" in analyses:
        # The paper's probe reads the activations as they are.
        found += recoverability(states if design.mode == "li2026" else X, design)
    return found


def _workers(design: Design, store: ActivationStore) -> int:
    """Return how many layers to measure at once: one a core, fewer where a layer is large."""
    # The states, their copies by fold and by class, and each fold's products.
    needed = 5 * 4 * len(design.text) * store.d_model + 10 * 8 * store.d_model**2
    return max(1, min(cores(), _BYTES_AT_ONCE // needed))


def _at_once(
    unit: Callable[[int], list[Measure]], layers: Sequence[int], workers: int
) -> Iterator[list[Measure]]:
    """Yield what each layer gives, in order, several at a time.

    Each is computed by one thread of linear algebra, so that numbers don't depend on how many cores
    there are.
    """
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(unit, layer) for layer in layers]
        try:
            for future in pending:
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


# -- preparation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One mode: its pairs, its design, the words' features, and topics."""

    mode: Mode
    pairs: pl.DataFrame
    design: Design
    words: NDArray[np.float32]
    facts: TextFacts
    analyses: tuple[str, ...]
    draws: int
    seed: int

    def under(
        self, store: ActivationStore, pooling: str
    ) -> tuple[Design, dict[tuple[str, str], float]]:
        """Return the design over the texts that have a vector under a pooling, and the baseline."""
        valid = store.valid(pooling)[self.design.text]
        design = self.design
        if not valid.all():
            kept = store.valid(pooling)[self.pairs["text_index"].to_numpy()]
            design = make_design(
                self.pairs.filter(kept),
                self.facts,
                self.mode,
                draws=self.draws,
                seed=self.seed,
                analyses=self.analyses,
            )
        states = rows_of(self.words, design.text, "the bag of words")
        measures = measure_states(states, design.without_draws(), self.analyses, density=False)
        return design, {(m.name, m.category): m.value for m in measures}


@dataclass(frozen=True)
class _Prepared:
    of_mode: dict[Mode, _Part]
    reliability: dict[str, Reliability]
    vectors_meta: dict[str, Any]
    sample: dict[str, Any] | None


def _prepare(
    store: ActivationStore,
    modes: Sequence[Mode],
    *,
    quota: str,
    analyses: tuple[str, ...],
    draws: int,
    seed: int,
) -> _Prepared:
    vectors = store.vectors()
    sample = vectors
    if quota != "none" and vectors.meta.get("sample") is None:
        sample = vectors.sample(quota=quota, seed=seed)
    texts = store.texts.select("text", "n_tokens").with_row_index("text_index")
    words = bag_of_words(store.texts["text"].to_list())
    facts = text_facts(store.texts["text"].to_list())
    ok = store.valid(store.poolings[0]) if store.poolings != ("mean_action",) else None
    parts: dict[Mode, _Part] = {}
    for m in modes:
        frame = (sample if m == "li2026" else vectors).frame
        pairs = frame.join(texts, left_on="action", right_on="text", how="left")
        if ok is not None:
            pairs = pairs.filter(ok[pairs["text_index"].to_numpy()])
        design = make_design(pairs, facts, m, draws=draws, seed=seed, analyses=analyses)
        parts[m] = _Part(m, pairs, design, words, facts, analyses, draws, seed)
    return _Prepared(
        parts, reliability_from_meta(vectors.meta), vectors.meta, sample.meta.get("sample")
    )


def text_facts(texts: Sequence[str]) -> TextFacts:
    """Return what is known of texts without a model."""
    words = [words_of(text) for text in texts]
    firsts = [text.split()[0].lower() if text.split() else "" for text in texts]
    _, first_words = np.unique(firsts, return_inverse=True)
    return TextFacts(topics_of(texts), first_words, words)


def rows_of(values: NDArray[np.float32], text: NDArray[Any], what: str) -> NDArray[np.float32]:
    """Return the rows' states; refuse what isn't a number."""
    X: NDArray[np.float32] = values[text]
    if not np.isfinite(X).all():
        raise NumericError(
            f"{what} holds NaN or infinity",
            f"in {int((~np.isfinite(X).all(1)).sum())} rows",
            "run: moralprobe verify, and extract again",
        )
    return X


def centred(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return states less their mean over rows."""
    less: NDArray[np.float32] = X - X.mean(0, dtype=np.float64).astype(np.float32)
    return less


def _meta(
    store: ActivationStore,
    prepared: _Prepared,
    chosen: dict[Mode, tuple[str, ...]],
    request: dict[str, Any],
) -> dict[str, Any]:
    texts = store.texts
    return {
        "request": request,
        "store": store.key,
        "vectors": prepared.vectors_meta,
        "modes": {m: list(poolings) for m, poolings in chosen.items()},
        "pairs": {m: len(part.pairs) for m, part in prepared.of_mode.items()},
        "sample": prepared.sample,
        "texts": {
            "distinct": texts.height,
            "left out": int((texts["status"] != "ok").sum()),
            "truncated": int(texts["truncated"].sum()),
            "tokens": int(texts["n_tokens"].sum()),
            "token 0 is content": bool(store.key["token0_is_content"]),
        },
    }
