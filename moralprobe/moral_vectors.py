"""Human judgements as ten-dimensional moral vectors, in the paper's schema and in a factored one.

The unit of the table is a row-foundation pair: an annotated action once for every axis it is tagged
with. Both schemas' columns stand side by side, so that one table, and one store of hidden states
made from it, serve both modes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from moralprobe.data.findings import Finding, findings, refuse
from moralprobe.data.sampling import stratified_sample
from moralprobe.data.schema import (
    FREQUENCY_COLUMNS,
    VECTOR_COLUMNS,
    check_agreement,
    check_schema,
)
from moralprobe.data.social_chem import Rows, load_rows
from moralprobe.data.splits import split_groups, text_groups
from moralprobe.data.starter import NAME as STARTER
from moralprobe.data.starter import starter_path
from moralprobe.errors import DataError
from moralprobe.files import write_bytes
from moralprobe.foundations import AXES, AXIS_TAGS, POLES
from moralprobe.geometry.reliability import Reliability, reliability_of_annotation

FORMAT: Final = 1
_METADATA_KEY: Final = "moralprobe"

OFFICIAL_ROWS: Final = 355_922
"""Data rows of social-chem-101.v1.0.tsv."""
EXPECTED_PAIRS: Final = (251_279, 251_326)
"""Pairs that the paper's released bucket counts imply: 201,023 / 0.8 and 226,193 / 0.9."""
PUBLISHED_TRAIN_COUNTS: Final[dict[str, tuple[int, int, int]]] = {
    "care-harm": (25_464, 32_684, 34_163),
    "fairness-cheating": (5_491, 16_208, 13_777),
    "loyalty-betrayal": (8_863, 13_781, 15_311),
    "authority-subversion": (3_423, 8_034, 9_794),
    "sanctity-degradation": (1_722, 6_876, 5_432),
}
"""Virtue, vice and neutral pairs of the paper's train part, which is 80 % of the rows."""


def typicality(
    judgment: NDArray[np.integer], agreement: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return the signed typicality m = (J / 2) (A / 4), in [-1, 1].

    Args:
        judgment: [n] J, -2 (very bad) to 2 (very good).
        agreement: [n] A, 0 (nobody) to 4 (everybody would agree).

    Source: arXiv 2603.15615, section "moral vectors"; |m| = 1 defines a prototype.
    """
    m: NDArray[np.float32] = np.float32(0.125) * (
        np.asarray(judgment, np.float32) * np.asarray(agreement, np.float32)
    )
    return m


def vectors_li2026(
    judgment: NDArray[np.integer], agreement: NDArray[np.integer], tags: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the paper's moral vectors, [n, 10], virtue in the even slots and vice in the odd ones.

    Args:
        judgment: [n] J, -2 to 2.
        agreement: [n] A, 0 to 4.
        tags: [n, 5] which axes the row is tagged with, in the order of `AXES`.

    Source: h[2k] = max(0, m) and h[2k + 1] = max(0, -m) for tagged axes k, else 0.
    """
    m = typicality(judgment, agreement)
    poles = np.stack([np.maximum(m, 0), np.maximum(-m, 0)], axis=1)
    vectors: NDArray[np.float32] = (tags[:, :, None] * poles[:, None, :]).reshape(len(m), 10)
    return vectors.astype(np.float32)


@dataclass(frozen=True)
class MoralVectors:
    """A table of row-foundation pairs with their moral vectors, and how it came about.

    `frame` has the columns `data.schema.VECTOR_COLUMNS`; `meta` is JSON: schema, agreement column,
    source with its SHA-256, what each rule dropped, findings, the reliability of the annotation,
    the sample.
    """

    frame: pl.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frame.height

    def vectors(self) -> NDArray[np.float32]:
        """Return the moral vectors, [n_pairs, 10]."""
        return self.frame.select(POLES).to_numpy().astype(np.float32)

    def counts(self) -> pl.DataFrame:
        """Return virtue, vice and neutral pairs and prototypes of every axis."""
        return (
            self.frame.group_by("axis")
            .agg(
                *(
                    (pl.col("polarity") == name).sum().alias(name)
                    for name in ("virtue", "vice", "neutral")
                ),
                *(
                    ((pl.col("polarity") == name) & (pl.col("score") == 1)).sum().alias(f"{name}_1")
                    for name in ("virtue", "vice")
                ),
            )
            .sort(pl.col("axis").replace_strict(list(AXIS_TAGS), list(range(5))))
        )

    def sample(self, *, quota: str = "li2026", seed: int = 42) -> MoralVectors:
        """Return the paper's stratified sample; `meta["sample"]` names the quotas not filled."""
        frame, unfilled = stratified_sample(self.frame, quota=quota, seed=seed)
        sample = {"quota": quota, "seed": seed, "unfilled": [asdict(u) for u in unfilled]}
        return MoralVectors(frame, {**self.meta, "sample": sample})

    def save(self, path: Path) -> Path:
        """Write one Parquet file with the provenance in its metadata, whole or not at all."""
        write_bytes(path, self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        """Return what `save` writes."""
        buffer = io.BytesIO()
        self.frame.write_parquet(buffer, metadata={_METADATA_KEY: json.dumps(self.meta)})
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> MoralVectors:
        """Read what `save` wrote; anything else raises DataError."""
        try:
            # Opened here: polars can't open a path that the locale can't spell.
            with Path(path).open("rb") as stream:
                metadata = pl.read_parquet_metadata(stream).get(_METADATA_KEY)
                stream.seek(0)
                frame = pl.read_parquet(stream)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"can't read {path} as a moral vectors table",
                str(error).splitlines()[0],
                "make one with: moralprobe vectors build SOURCE --out FILE.parquet",
            ) from error
        missing = [name for name in VECTOR_COLUMNS if name not in frame.columns]
        if metadata is None or missing:
            raise DataError(
                f"{path} is no moral vectors table",
                f"columns missing: {', '.join(missing)}" if missing else "it has no provenance",
                "make one with: moralprobe vectors build SOURCE --out FILE.parquet",
            )
        return cls(frame, json.loads(metadata))


def build_vectors(
    source: str | Path,
    *,
    schema: str = "li2026",
    agreement: str = "action-agree",
    strict: bool = False,
) -> MoralVectors:
    """Turn annotated actions into moral vectors.

    Args:
        source: `starter`, or the path of a table in Social-Chemistry-101's columns (a subset will
            do: action, rot-moral-foundations, action-moral-judgment and the agreement column).
        schema: `li2026` keeps the rows that the paper keeps; `factored` also keeps rows with
            several annotators. Either way the table has both schemas' columns.
        agreement: `action-agree` (the paper's) or `rot-agree`.
        strict: refuse what is otherwise counted in `meta["findings"]`: texts that stand in several
            rows or splits, or are judged good and bad.

    Raises:
        DataError: an unreadable file, a missing column, an unknown foundation, a value off scale,
            no row left, or a finding where none may be.
        UsageError: an unknown schema or agreement column.
    """
    path = starter_path() if str(source) == STARTER else Path(source)
    rows = load_rows(path, schema=check_schema(schema), agreement=check_agreement(agreement))
    if rows.kept.is_empty():
        raise DataError(
            f"no row of {rows.source} is left",
            "; ".join(f"{r.name}: {r.dropped}" for r in rows.rules if r.dropped)
            or "there is none below the header",
            "check the columns, or use --schema factored to keep repeated annotations",
        )
    found = findings(rows)
    if strict:
        refuse(rows, found)
    frame = _merge(_formula(rows)).select(VECTOR_COLUMNS)
    return MoralVectors(frame, _meta(rows, str(source), found))


def _formula(rows: Rows) -> pl.DataFrame:
    """One line a row-foundation pair, with the paper's columns."""
    kept = rows.kept.rename({"action-moral-judgment": "judgment", rows.agreement: "agreement"})
    optional = {"action-pressure": "pressure", "rot-agree": "rot_agree"}
    if rows.agreement == "rot-agree":
        kept = kept.with_columns(pl.col("agreement").alias("rot_agree"))
        del optional["rot-agree"]
    kept = kept.with_columns(
        (pl.col(old) if old in kept.columns else pl.lit(None, pl.Int16)).alias(new)
        for old, new in optional.items()
    )
    groups = text_groups(kept["action"])
    kept = kept.with_columns(
        group=groups, split=split_groups(groups, kept["split"] if "split" in kept.columns else None)
    )
    judgment, agreement = kept["judgment"].to_numpy(), kept["agreement"].to_numpy()
    vectors = vectors_li2026(judgment, agreement, tag_matrix(kept["axes"]))
    m = typicality(judgment, agreement)
    stance = (
        pl.when(pl.col("judgment") == 0)
        .then(pl.lit("expected"))
        .when(pl.col("agreement") == 0)
        .then(pl.lit("contested"))
        .when(pl.col("judgment") > 0)
        .then(pl.lit("virtue"))
        .otherwise(pl.lit("vice"))
    )
    kept = kept.with_columns(
        *(pl.Series(pole, vectors[:, k]) for k, pole in enumerate(POLES)),
        score=pl.Series(np.abs(m)),
        polarity=pl.Series(np.array(["vice", "neutral", "virtue"])[np.sign(m).astype(int) + 1]),
        stance=stance,
    )
    pairs = kept.with_columns(pl.col("axes").str.split("|").alias("axis")).explode("axis")
    category = pl.lit(None, pl.String)
    for axis in AXES:
        for polarity, pole in (("virtue", axis.virtue), ("vice", axis.vice)):
            here = (pl.col("axis") == axis.tag) & (pl.col("polarity") == polarity)
            category = pl.when(here).then(pl.lit(pole)).otherwise(category)
    return pairs.with_columns(category=category)


def tag_matrix(axes: pl.Series) -> NDArray[np.bool_]:
    """Return which axes each row is tagged with, [n, 5], from tags joined by |."""
    return np.stack([axes.str.contains(tag, literal=True).to_numpy() for tag in AXIS_TAGS], axis=1)


def _merge(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add what a text group's rows say together: means, spreads, tag frequencies, how many."""
    rows = pairs.unique("row", maintain_order=True)
    tags = tag_matrix(rows["axes"])
    merged = (
        rows.with_columns(pl.Series(name, tags[:, k]) for k, name in enumerate(FREQUENCY_COLUMNS))
        .group_by("group")
        .agg(
            pl.len().cast(pl.Int32).alias("merged_n"),
            pl.col("judgment").mean().cast(pl.Float32).alias("merged_judgment"),
            pl.col("judgment").std().cast(pl.Float32).alias("merged_judgment_sd"),
            pl.col("agreement").mean().cast(pl.Float32).alias("merged_agreement"),
            pl.col("agreement").std().cast(pl.Float32).alias("merged_agreement_sd"),
            *(pl.col(name).mean().cast(pl.Float32) for name in FREQUENCY_COLUMNS),
        )
    )
    return pairs.join(merged, on="group", how="left", maintain_order="left")


def _meta(rows: Rows, source: str, found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema": rows.schema,
        "agreement": rows.agreement,
        "source": {
            "name": source if source == STARTER else rows.source,
            "sha256": rows.sha256,
            "rows": rows.n_source,
        },
        "rules": [asdict(rule) for rule in rows.rules],
        "findings": [asdict(one) for one in found],
        "reliability": {k: asdict(v) for k, v in annotation_reliability(rows).items()},
        "sample": None,
    }


def annotation_reliability(rows: Rows) -> dict[str, Reliability]:
    """Estimate how far annotators agree, from rules that several workers broke down.

    Reads the rows that aren't marked bad and whose `rot-id` stands under at least two
    `breakdown-worker-id`s (dev-extra and test-extra of the official file). Their texts differ
    between workers, so that this is the agreement on a rule of thumb, wording included.

    Returns:
        One entry an axis, and `all` for the signed typicality whatever the tags; empty where the
        source doesn't repeat annotations.
    """
    frame = rows.frame
    needed = {"rot-id", "breakdown-worker-id"}
    if not needed <= set(frame.columns):
        return {}
    frame = frame.filter(
        pl.all_horizontal(
            pl.col(*needed, "action-moral-judgment", rows.agreement, "axes").is_not_null()
        )
    )
    if "rot-bad" in frame.columns:
        frame = frame.filter(pl.col("rot-bad") == 0)
    frame = frame.unique(["rot-id", "breakdown-worker-id"], maintain_order=True)
    frame = frame.filter(pl.len().over("rot-id") >= 2)
    if frame["rot-id"].n_unique() < 2:
        return {}
    m = typicality(
        frame["action-moral-judgment"].to_numpy(), frame[rows.agreement].to_numpy()
    ).astype(np.float64)
    tags = tag_matrix(frame["axes"])
    items = frame["rot-id"].rank("dense").to_numpy().astype(np.int64) - 1
    found = {"all": reliability_of_annotation(m, np.ones(len(m), np.bool_), items)}
    for k, tag in enumerate(AXIS_TAGS):
        found[tag] = reliability_of_annotation(m, tags[:, k], items)
    return found


def reliability_from_meta(meta: Mapping[str, Any]) -> dict[str, Reliability]:
    """Read back the reliabilities that a vectors table carries."""
    return {name: Reliability(**entry) for name, entry in meta.get("reliability", {}).items()}
