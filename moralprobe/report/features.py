"""A page a feature, and one that lists them: static files that open from file://."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from moralprobe.files import write_bytes, write_json, write_table
from moralprobe.foundations import AXIS_OF_POLE
from moralprobe.report.page import render
from moralprobe.sae.directions import next_tokens

if TYPE_CHECKING:
    from moralprobe.autoencoders import Found
    from moralprobe.models.causal import CausalModel
    from moralprobe.sae.load import LoadedSAE

EXAMPLES: Final = "examples.parquet"
SHOWN: Final = 10
"""Texts of each quantile."""
_SHOWN_OF: Final = {"audited": "chosen", "li2026": "li_strict"}
_QUANTILES: Final = ((1.0, "largest"), (0.75, "upper quarter"), (0.5, "median"), (0.0, "smallest"))


@dataclass(frozen=True)
class Examples:
    """What features are shown by: texts, how active each feature is in each, and next tokens.

    `activations` are [texts, features]; `raised` and `lowered` say which next tokens a feature
    promotes and demotes, by its number.
    """

    texts: Sequence[str]
    activations: sparse.csc_array
    raised: Mapping[int, Sequence[str]]
    lowered: Mapping[int, Sequence[str]]


def write_features(
    found: Found,
    loaded: LoadedSAE,
    model: CausalModel,
    folder: Path,
    *,
    modes: Sequence[str],
    most: int,
    about: Mapping[str, Any],
) -> Path:
    """Write `FEATURES.parquet`, `features.json`, `examples.parquet`, and pages of the strongest.

    Args:
        found: from `find_features`.
        loaded: whose features they are.
        model: that it was trained on.
        folder: where all of it goes.
        modes: whose features get a page.
        most: so many pages at most.
        about: what `features.json` says beside the counts.

    Returns:
        The page that lists them.
    """
    write_table(folder / "FEATURES.parquet", found.frame)
    write_table(folder / EXAMPLES, top_texts(found.read.texts, found.read.activations))
    said = {"model": model.name, "site": str(loaded.site), **about, **found.summary}
    write_json(folder / "features.json", said)
    wanted = found.frame.select(_SHOWN_OF[mode] for mode in modes).max_horizontal()
    rows = found.frame.filter(wanted).sort("replicated", "t", descending=True, nulls_last=True)
    shown = rows.head(most).to_dicts()
    raised, lowered = next_tokens(loaded, model, [row["feature"] for row in shown])
    examples = Examples(found.read.texts, found.read.activations.tocsc(), raised, lowered)
    return write_feature_pages(
        shown, found.summary, examples, folder, model=model.name, site=str(loaded.site)
    )


def top_texts(texts: Sequence[str], activations: sparse.csr_array) -> pl.DataFrame:
    """Return the texts in which each feature is most active: feature, activation, text.

    Args:
        texts: [texts].
        activations: [texts, features].
    """
    columns = activations.tocsc()
    rows: list[tuple[int, float, str]] = []
    for feature, (start, stop) in enumerate(pairwise(columns.indptr)):
        values, at = columns.data[start:stop], columns.indices[start:stop]
        for i in np.lexsort((at, -values))[:SHOWN]:
            rows.append((feature, float(values[i]), texts[at[i]]))
    schema = {"feature": pl.Int64, "activation": pl.Float64, "text": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def write_feature_pages(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    examples: Examples,
    folder: Path,
    *,
    model: str,
    site: str,
) -> Path:
    """Write `index.html` and `feature-N.html`, and return the path of the first.

    Args:
        rows: of the features that get a page, as `moral_features` gives them.
        summary: of all features.
        examples: what they are shown by.
        folder: where the pages go.
        model: its name.
        site: what the autoencoder reconstructs.
    """
    folder = Path(folder)
    shown = [shown_of(row) for row in rows]
    common = {"model": model, "site": site}
    for row, page in zip(rows, shown, strict=True):
        n = int(row["feature"])
        active = examples.activations[:, [n]].toarray().ravel()
        html = render(
            "feature.html.j2",
            **common,
            row=page,
            groups=_groups(active, examples.texts),
            raised=examples.raised.get(n, ()),
            lowered=examples.lowered.get(n, ()),
        )
        write_bytes(folder / f"feature-{n}.html", html.encode("utf-8", "replace"))
    index = folder / "index.html"
    html = render("features.html.j2", **common, rows=shown, summary=summary)
    write_bytes(index, html.encode("utf-8", "replace"))
    return index


def shown_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a feature's numbers as they are shown: what is `said`, and `numbers` by their names.

    Args:
        row: of `FEATURES.parquet`.
    """

    def number(name: str, form: str = ".2f") -> str:
        value = row[name]
        return "not enough data" if value is None else format(value, form)

    slope = number("slope")
    if row["slope"] is not None:
        slope += f" [{number('slope_low')}, {number('slope_high')}], n {row['slope_n']}"
    if row["slope"] is not None and "slope_null" in row:
        slope += f"; another as dense: {number('slope_null')}"
        if row["slope_null"] is not None:
            slope += f" [{number('slope_null_low')}, {number('slope_null_high')}]"
    return {
        "feature": int(row["feature"]),
        "pole": row["pole"] or "no pole",
        "color": AXIS_OF_POLE[row["pole"]].color if row["pole"] else "transparent",
        "said": _said(row),
        "numbers": [
            ("effect, in standard deviations", number("effect")),
            (
                "t of the effect; of its contrast with other poles",
                f"{number('t')}; {number('contrast_t')}",
            ),
            ("q of both", number("q", ".1e")),
            ("specificity", number("specificity")),
            ("Spearman with typicality, held-out texts of the pole", slope),
            ("t in each half of the training texts", f"{number('half_a')}, {number('half_b')}"),
            ("density, share of texts", number("density", ".1%")),
            *_further(row, number),
            *(
                (f"r with {name.removeprefix('r_').replace('_', ' ')}", number(name))
                for name in row
                if name.startswith("r_")
            ),
            ("li2026: class, pole, r", f"{row['li_class']}, {row['li_pole']}, {row['li_r']:.2f}"),
        ],
    }


def _further(row: Mapping[str, Any], number: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Yield what was asked for beside: other seeds, ablation."""
    if "found_again" in row:
        yield "cosine of the nearest direction of other seeds", number("found_again")
    if "causal" in row:
        change = number("causal")
        if row["causal"] is not None:
            change += f" [{number('causal_low')}, {number('causal_high')}]"
            change += f"; another as dense: {number('causal_null')}"
            if row["causal_null"] is not None:
                change += f" [{number('causal_null_low')}, {number('causal_null_high')}]"
        yield "change of the pole's read-out by ablation, in standard deviations", change


def _said(row: Mapping[str, Any]) -> str:
    if row["replicated"]:
        return "Chosen on training texts, and it holds on others."
    if row["chosen"]:
        return "Chosen on training texts; on others it doesn't hold."
    if not row["density"]:
        return "Never active in the table's texts."
    published = "strict by the published one" if row["li_strict"] else "nor by the published one"
    return f"Not chosen by the audited rule; {published}."


def _groups(
    active: NDArray[np.floating], texts: Sequence[str]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return texts by how active a feature is: the largest, around quantiles, the smallest."""
    order = np.flatnonzero(active)
    order = order[np.argsort(-active[order], kind="stable")]
    groups, taken = [], 0
    for quantile, name in _QUANTILES:
        first = round((1 - quantile) * len(order)) - SHOWN // 2
        at = max(taken, min(first, len(order) - SHOWN))
        some = order[at : at + SHOWN]
        taken = at + len(some)
        if len(some):
            groups.append((name, [(texts[i], f"{active[i]:.2f}") for i in some]))
    return groups
