"""Run the analyses over a store's layers and poolings into one long table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from moralprobe.activations.store import ActivationStore
from moralprobe.analyses.confounds import length_offsets, sink
from moralprobe.analyses.layer import measure_states, rows_of
from moralprobe.baselines import Source, check_twin, folder_digest, sentence_reading, sources
from moralprobe.data import lexicon
from moralprobe.design import Design, Mode, TextFacts, make_design
from moralprobe.geometry.baselines import BAG_OF_WORDS, bag_of_words
from moralprobe.geometry.baselines import topics as topics_of
from moralprobe.geometry.confounds import words_of
from moralprobe.geometry.measure import Measure
from moralprobe.geometry.reliability import Reliability
from moralprobe.moral_vectors import reliability_from_meta
from moralprobe.options import (
    POOLINGS_OF,
    parse_analyses,
    parse_hdbscan,
    parse_modes,
    parse_quota,
    poolings_of,
)
from moralprobe.provenance import cores
from moralprobe.study import Study, request_of
from moralprobe.table import (
    BASELINE_COLUMNS,
    COLUMNS,
    DRAW_COLUMNS,
    HEADLINES,
    over_ceiling,
    row,
    with_q,
)

_WIDE: Final = ("structure", "recoverability")
"""Analyses of all texts at once; in `audited` mode by default under the headline pooling only."""
_BYTES_AT_ONCE: Final = 5 << 29  # that measuring several layers at the same time may take


class ProbeOptions(TypedDict):
    """The options of `probe` that can change a study's numbers."""

    analyses: str | Sequence[str]
    mode: str
    quota: str
    hdbscan: str
    everywhere: bool
    draws: int
    seed: int
    twin: ActivationStore | None
    sentence: str | Path | None


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
    twin: ActivationStore | None = None,
    sentence: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Run the analyses at every layer of a store, and on the baselines of its texts.

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
        draws: bootstrap resamples and permutations; where each repetition takes long, fewer are
            taken (docs: what stands beside each number).
        seed: of the sample, the folds and the draws.
        twin: the same texts read by a model of random weights (`load_model(untrained=True)`).
        sentence: folder of a sentence-transformers model to read the texts with.
        progress: called with steps done and steps in all.

    Raises:
        UsageError: an unknown analysis, mode, quota or choice, a store without a pooling that the
            mode reads, or a twin that isn't one of this store.
        ModelError: a sentence model that can't be read.
        IntegrityError: bytes that aren't those that were written.
        NumericError: NaN or infinity in the stored states.
    """
    modes, chosen_analyses = parse_modes(mode), parse_analyses(analyses)
    parse_hdbscan(hdbscan)
    parse_quota(quota)
    chosen = poolings_of(store, modes)
    if twin is not None:
        check_twin(store, twin)
    texts = store.texts["text"].to_list()
    embedded = sentence_reading(texts, sentence) if sentence is not None else None
    prepared = _prepare(store, modes, quota=quota, analyses=chosen_analyses, draws=draws, seed=seed)
    valence = prepared.facts.valence
    beside = {
        m: list(sources(store, chosen[m][0], twin=twin, sentence=embedded, valence=valence))
        for m in modes
    }
    steps = len(store.layers) * sum(map(len, chosen.values())) + sum(map(len, beside.values()))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    rows: list[dict[str, Any]] = []
    baselines: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    resamples = None
    for m in modes:
        part = prepared.of_mode[m]
        rows += _of_texts(store, part.design)
        words: _Measures = {}
        design = None
        for pooling in chosen[m]:
            headline = pooling == chosen[m][0]
            wide = m == "li2026" or headline or everywhere
            reading = _Reading(
                store,
                part.under(store, pooling),
                tuple(name for name in chosen_analyses if wide or name not in _WIDE),
                prepared.reliability,
            )
            if design is not reading.design:  # the words are measured on the same rows
                design = reading.design
                ((_, found),) = reading.of([prepared.words])
                words = {(x.name, x.category): x for x in found}
            layers = [_source(store, pooling, layer) for layer in store.layers]
            density = hdbscan == "all" or (
                hdbscan == "paper" and m == "li2026" and pooling == POOLINGS_OF[m][0]
            )
            for source, measures in reading.of(layers, density=density):
                rows += reading.rows(source, measures, words)
                if headline and m == "audited":
                    drawn += _draws(source, measures)
                    resamples = reading.design.digest()
                step()
            if headline:
                baselines += reading.rows(prepared.words, words.values(), {})
                for source, measures in reading.of(beside[m]):
                    baselines += reading.rows(source, measures, words)
                    step()
    request = request_of(
        store,
        **options_of(
            analyses=chosen_analyses,
            mode=mode,
            quota=quota,
            hdbscan=hdbscan,
            everywhere=everywhere,
            draws=draws,
            seed=seed,
            twin=twin,
            sentence=sentence,
        ),
    )
    return Study(
        with_q(pl.DataFrame(rows, schema=COLUMNS)),
        {**_meta(store, prepared, chosen, request), "resamples": resamples},
        with_q(pl.DataFrame(baselines, schema=BASELINE_COLUMNS)),
        pl.DataFrame(drawn, schema=DRAW_COLUMNS),
    )


_Measures = Mapping[tuple[str, str], Measure]


def options_of(**options: Unpack[ProbeOptions]) -> dict[str, str | int]:
    """Return what, beside the store, can change a study's numbers: for `study.finished`."""
    twin, sentence = options["twin"], options["sentence"]
    return {
        "analyses": ",".join(parse_analyses(options["analyses"])),
        "mode": options["mode"],
        "quota": options["quota"],
        "hdbscan": options["hdbscan"],
        "everywhere": options["everywhere"],
        "draws": options["draws"],
        "seed": options["seed"],
        "twin": twin.digest() if twin is not None else "none",
        "sentence": folder_digest(sentence) if sentence is not None else "none",
        "lexicon": ", ".join(f"{name} {v}" for name, v in lexicon.versions().items()) or "none",
    }


@dataclass(frozen=True)
class _Reading:
    """How sources are measured under one mode and pooling."""

    store: ActivationStore
    design: Design
    analyses: tuple[str, ...]
    reliability: dict[str, Reliability]

    def of(
        self, sources: Sequence[Source], *, density: bool = False
    ) -> Iterator[tuple[Source, list[Measure]]]:
        """Yield what each source gives, in order, several at a time.

        Each is computed by one thread of linear algebra, so that numbers don't depend on how many
        cores there are.
        """

        def unit(source: Source) -> list[Measure]:
            return measure_states(
                rows_of(source.states(), self.design.text, source.name),
                self.design,
                self.analyses,
                density=density,
            )

        with threadpool_limits(1), ThreadPoolExecutor(self._workers()) as pool:
            pending = [pool.submit(unit, source) for source in sources]
            try:
                for source, future in zip(sources, pending, strict=True):
                    yield source, future.result()
            finally:
                for future in pending:
                    future.cancel()

    def rows(
        self, source: Source, measures: Iterable[Measure], words: _Measures
    ) -> list[dict[str, Any]]:
        """Return the measures of a source as rows of the table, with `source` and `model`."""
        place = source.layer, source.pooling
        found = [
            row(
                self.store,
                self.design.mode,
                *place,
                x,
                self.reliability,
                words.get((x.name, x.category)),
            )
            for x in measures
        ]
        found += [scaled for x in found if (scaled := over_ceiling(x)) is not None]
        return [{"source": source.name, **x, "model": source.model} for x in found]

    def _workers(self) -> int:
        """Return how many to measure at once: one a core, fewer where a layer is large."""
        # The states, their copies by fold and by class, and each fold's products.
        n, d = len(self.design.text), self.store.d_model
        return max(1, min(cores(), _BYTES_AT_ONCE // (5 * 4 * n * d + 10 * 8 * d**2)))


def _draws(source: Source, measures: Iterable[Measure]) -> list[dict[str, Any]]:
    return [
        {"layer": source.layer, "measure": x.name, "category": x.category, **x.resamples()}
        for x in measures
        if (x.name, x.category) in HEADLINES and len(x.boot)
    ]


def _source(store: ActivationStore, pooling: str, layer: int) -> Source:
    states = partial(store.layer, pooling, layer)
    return Source(f"layer {layer}", store.model_name, layer, pooling, states)


def _of_texts(store: ActivationStore, design: Design) -> Iterator[dict[str, Any]]:
    """Yield the rows of what isn't of one pooling: text lengths and the sink."""
    for measure in length_offsets(design):
        yield row(store, design.mode, None, "none", measure)
    for layer in store.layers:
        for measure in sink(store.stats(layer), design):
            yield row(store, design.mode, layer, "none", measure)


# -- preparation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One mode: its pairs, their design, and what the design was made from."""

    mode: Mode
    pairs: pl.DataFrame
    design: Design
    facts: TextFacts
    analyses: tuple[str, ...]
    draws: int
    seed: int

    def under(self, store: ActivationStore, pooling: str) -> Design:
        """Return the design over the texts that have a vector under a pooling."""
        valid = store.valid(pooling)
        if valid[self.design.text].all():
            return self.design
        return make_design(
            self.pairs.filter(valid[self.pairs["text_index"].to_numpy()]),
            self.facts,
            self.mode,
            draws=self.draws,
            seed=self.seed,
            analyses=self.analyses,
        )


@dataclass(frozen=True)
class _Prepared:
    of_mode: dict[Mode, _Part]
    facts: TextFacts
    words: Source
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
    texts = store.texts["text"].to_list()
    facts, words = text_facts(texts), bag_of_words(texts)
    place = store.texts.select("text", "n_tokens", "status").with_row_index("text_index")
    parts: dict[Mode, _Part] = {}
    for m in modes:
        frame = (sample if m == "li2026" else vectors).frame
        pairs = frame.join(place, left_on="action", right_on="text", how="left")
        pairs = pairs.filter(pl.col("status") == "ok")
        design = make_design(pairs, facts, m, draws=draws, seed=seed, analyses=analyses)
        parts[m] = _Part(m, pairs, design, facts, analyses, draws, seed)
    return _Prepared(
        parts,
        facts,
        Source(BAG_OF_WORDS, "", None, "none", lambda: words),
        reliability_from_meta(vectors.meta),
        vectors.meta,
        sample.meta.get("sample"),
    )


def text_facts(texts: Sequence[str]) -> TextFacts:
    """Return what is known of texts without a model; of lexicons, where they are installed."""
    firsts = [text.split()[0].lower() if text.split() else "" for text in texts]
    _, first_words = np.unique(firsts, return_inverse=True)
    missing = lexicon.missing()
    return TextFacts(
        topics_of(texts),
        first_words,
        [words_of(text) for text in texts],
        valence=None if "vaderSentiment" in missing else lexicon.valence(texts),
        frequency=None if "wordfreq" in missing else lexicon.log_frequency(texts),
    )


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
