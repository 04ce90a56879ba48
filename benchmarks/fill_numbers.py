"""Put the measured figures into the README and the docs, from the results files.

    python benchmarks/fill_numbers.py [--check]

Replaces what stands between `<!-- numbers: NAME -->` and `<!-- /numbers -->`. With --check nothing
is written: it fails where the page says something else than the results.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "explanation" / "two-modes.md")


def _layers(found: dict[str, Any], mode: str, measure: str, category: str) -> list[float]:
    """Return a measure in the layers that the confound is named in."""
    return [
        row["value"]
        for row in found["measures"]
        if (row["mode"], row["measure"], row["category"]) == (mode, measure, category)
        and row["layer"] in found["confounded_layers"]
    ]


def confound() -> str:
    """Say what the published pooling and the audited one show in the confounded layers."""
    found = json.loads((RESULTS / "confound.json").read_text())
    layers = found["confounded_layers"]
    span = lambda values: f"{min(values):.2f} to {max(values):.2f}"  # noqa: E731
    axes = sorted({r["category"] for r in found["measures"] if r["measure"] == "opposed_cosine"})
    audited = [
        value
        for axis in axes
        if axis != "mean"
        for value in _layers(found, "audited", "opposed_cosine", axis)
    ]
    return (
        f"On {found['texts']:,} texts of Social-Chemistry-101 and {found['model']}, the published "
        f"pooling\nputs opposed categories at a mean cosine of "
        f"{span(_layers(found, 'li2026', 'opposed_cosine', 'mean'))} in layers "
        f"{layers[0]} to {layers[-1]},\nwhere likeness to a category goes with text length at a "
        f"rank correlation of\n"
        f"{span(_layers(found, 'li2026', 'length_correlation', 'mean_abs'))}. Without the sink the "
        f"five cosines there lie between {min(audited):.2f} and {max(audited):.2f}."
    )


def layers() -> str:
    """Return a table of layers: what both modes show, and how large the sink is."""
    found = json.loads((RESULTS / "confound.json").read_text())
    value = {
        (r["mode"], r["measure"], r["category"], r["layer"]): r["value"] for r in found["measures"]
    }
    columns = (
        ("audited", "sink_ratio", "all"),
        ("li2026", "length_share", "all"),
        ("li2026", "opposed_cosine", "mean"),
        ("li2026", "length_correlation", "mean_abs"),
        ("audited", "length_share", "all"),
        ("audited", "opposed_cosine", "mean"),
        ("audited", "length_correlation", "mean_abs"),
    )
    lines = [
        "| layer | sink ratio | li2026: share of variance | cosine | with length "
        "| audited: share of variance | cosine | with length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {layer} | " + " | ".join(f"{value[*column, layer]:.2f}" for column in columns) + " |"
        for layer in sorted({r["layer"] for r in found["measures"]})
    ]
    return "\n".join(lines)


def extraction() -> str:
    """Say how fast extraction is beside transformers alone."""
    found = json.loads((RESULTS / "extraction.json").read_text())
    speed = found["texts_per_second"]
    return (
        f"On {found['machine']['cores']} cores, {found['model']} in {found['dtype']}, all layers "
        f"and {len(found['poolings'])} poolings: {speed['ours']:.0f} texts a second,\n"
        f"{found['ratio']:.2f} times what transformers does with length-sorted batches of 64 "
        f"({speed['rival']:.0f}), at a peak of\n{found['peak_gb']['ours']:.1f} GB of memory "
        f"({found['peak_gb']['rival']:.1f} GB); {found['texts']:,} texts, medians of "
        f"{found['repeats']} alternating runs."
    )


def filled(page: str) -> str:
    """Return the page with every marked block made anew; an unknown name raises KeyError."""
    blocks = {"confound": confound, "extraction": extraction, "layers": layers}
    return re.sub(
        r"(<!-- numbers: (\w+) -->\n).*?(<!-- /numbers -->)",
        lambda match: f"{match[1]}{blocks[match[2]]()}\n{match[3]}",
        page,
        flags=re.DOTALL,
    )


def main() -> None:
    """Write the pages, or check them."""
    for path in PAGES:
        page = path.read_text()
        new = filled(page)
        if new == page:
            continue
        if "--check" in sys.argv[1:]:
            sys.exit(f"{path} isn't what benchmarks/results say: run this without --check")
        path.write_text(new)


if __name__ == "__main__":
    main()
