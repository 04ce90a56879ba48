"""What public datasets are, and where their authors put them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["zip", "tar", "file"]


@dataclass(frozen=True)
class Dataset:
    """What is published at one address, and what of it is kept.

    It is an archive (`zip`, `tar`) of which some members are kept, or the table itself (`file`).
    `table` is what a reader is given: a member, or the folder that holds the members `parts`.
    `bytes` is the size of what is published and `table_bytes` that of the table; 0: not known.
    """

    name: str
    url: str
    bytes: int
    licence: str
    table: str
    table_bytes: int
    readme: str = ""
    kind: Kind = "zip"
    parts: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[str, ...]:
        """The files that hold the data."""
        return self.parts or (self.table,)

    @property
    def members(self) -> tuple[str, ...]:
        """The members of the archive that are kept."""
        return (*((self.readme,) if self.readme else ()), *self.tables)


DATASETS: Final[dict[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="social-chem-101",
            url="https://storage.googleapis.com/ai2-mosaic-public"
            "/projects/social-chemistry/data/social-chem-101.zip",
            bytes=27_610_699,
            licence="CC BY-SA 4.0",
            table="social-chem-101/social-chem-101.v1.0.tsv",
            table_bytes=147_421_453,
            readme="social-chem-101/README.v1.0.md",
        ),
        Dataset(
            name="flames",
            url="https://raw.githubusercontent.com/AIFlames/Flames/main/Flames_1k_Chinese.jsonl",
            bytes=0,
            licence="Apache-2.0",
            table="flames/Flames_1k_Chinese.jsonl",
            table_bytes=0,
            kind="file",
        ),
        Dataset(
            name="moral-stories",
            url="https://huggingface.co/datasets/demelin/moral_stories"
            "/resolve/main/data/moral_stories_full.jsonl",
            bytes=0,
            licence="MIT",
            table="moral-stories/moral_stories_full.jsonl",
            table_bytes=0,
            kind="file",
        ),
        Dataset(
            name="ethics",
            url="https://people.eecs.berkeley.edu/~hendrycks/ethics.tar",
            bytes=0,
            licence="MIT",
            table="ethics",
            table_bytes=0,
            kind="tar",
            parts=(
                "ethics/commonsense/cm_test.csv",
                "ethics/deontology/deontology_test.csv",
                "ethics/justice/justice_test.csv",
                "ethics/utilitarianism/util_test.csv",
                "ethics/virtue/virtue_test.csv",
            ),
        ),
    )
}
"""Every dataset by its name."""
