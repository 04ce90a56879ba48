"""`moralprobe vectors`: human judgements to moral vectors, and the paper's sample of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moralprobe.cli.console import say, say_json

if TYPE_CHECKING:
    from moralprobe.moral_vectors import MoralVectors

app = typer.Typer(help="Turn human judgements into moral vectors.", no_args_is_help=True)


@app.command()
def build(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="'starter', or a table of annotated actions.")
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    schema: Annotated[
        str, typer.Option(help="li2026 keeps the paper's rows; factored also repeated annotations.")
    ] = "li2026",
    agreement: Annotated[
        str, typer.Option(help="Column with the agreement: action-agree or rot-agree.")
    ] = "action-agree",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse texts that repeat or contradict each other.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Build moral vectors from annotated actions.

    From Social-Chemistry-101 or any table with some of its columns.

    Example: moralprobe vectors build starter --out starter.parquet
    """
    from moralprobe.moral_vectors import build_vectors

    vectors = build_vectors(source, schema=schema, agreement=agreement, strict=strict)
    vectors.save(out)
    if as_json:
        say_json({"out": out, "pairs": len(vectors), **vectors.meta})
        return
    _show_rules(vectors)
    _show_counts(vectors)
    say(f"\nwrote {out}: {len(vectors):,} row-foundation pairs")


@app.command()
def sample(
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    quota: Annotated[str, typer.Option(help="Which quotas: li2026.")] = "li2026",
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0)] = 42,
) -> None:
    """Draw the paper's stratified sample.

    Example: moralprobe vectors sample starter.parquet --out sample.parquet
    """
    from moralprobe.moral_vectors import MoralVectors

    drawn = MoralVectors.load(vectors).sample(quota=quota, seed=seed)
    drawn.save(out)
    _show_counts(drawn)
    unfilled = drawn.meta["sample"]["unfilled"]
    if unfilled:
        say(f"\n{len(unfilled)} strata fall short of their quota:")
        for stratum in unfilled:
            say(f"  {stratum['stratum']:<38} {stratum['have']:>4} of {stratum['quota']}")
    say(f"\nwrote {out}: {len(drawn):,} row-foundation pairs")


def _show_rules(vectors: MoralVectors) -> None:
    source = vectors.meta["source"]
    kept = vectors.frame["row"].n_unique()
    say(f"{source['name']}: {source['rows']:,} rows, sha256 {source['sha256'][:16]}...")
    say(f"schema {vectors.meta['schema']}, agreement from {vectors.meta['agreement']}")
    for rule in vectors.meta["rules"]:
        done = "not applicable" if rule["dropped"] is None else f"dropped {rule['dropped']:,}"
        say(f"  {rule['name']:<24} {done:<16} {rule['note']}")
    say(f"  kept {kept:,} rows, {vectors.frame['group'].n_unique():,} distinct texts (normalised)")
    for found in vectors.meta["findings"]:
        say(f"  {found['texts']:,} texts {found['name']}")
    if not vectors.meta["reliability"]:
        say("  noise ceiling: none, every row has one annotator")
    for name, found in vectors.meta["reliability"].items():
        say(
            f"  ICC(1,1) {name:<22} {found['icc']:.2f} "
            f"[{found['icc_low']:.2f}, {found['icc_high']:.2f}], {found['items']:,} items"
        )


def _show_counts(vectors: MoralVectors) -> None:
    from moralprobe.moral_vectors import EXPECTED_PAIRS, OFFICIAL_ROWS, PUBLISHED_TRAIN_COUNTS

    official = vectors.meta["source"]["rows"] == OFFICIAL_ROWS and not vectors.meta["sample"]
    if official and not vectors.frame["paper"].all():
        # The published counts are of the rows that the paper keeps; `factored` keeps more.
        vectors = replace(vectors, frame=vectors.frame.filter("paper"))
        say(f"\nof the {len(vectors):,} pairs that the paper keeps:")
    head = f"\n{'axis':<22}{'virtue':>9}{'vice':>9}{'neutral':>9}{'prototypes':>14}"
    say(head + (f"{'published / 0.8':>30}" if official else ""))
    for row in vectors.counts().iter_rows(named=True):
        prototypes = f"{row['virtue_1']:,} + {row['vice_1']:,}"
        line = f"{row['axis']:<22}{row['virtue']:>9,}{row['vice']:>9,}{row['neutral']:>9,}"
        line += f"{prototypes:>14}"
        if official:
            # The paper's counts are of its train part, 80 % of the rows.
            scaled = (f"{round(n / 0.8):,}" for n in PUBLISHED_TRAIN_COUNTS[row["axis"]])
            line += f"{' / '.join(scaled):>30}"
        say(line)
    if official:
        low, high = EXPECTED_PAIRS
        say(f"pairs: {len(vectors):,}; the paper's bucket counts imply {low:,} to {high:,}")
