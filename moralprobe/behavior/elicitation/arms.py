"""Every way of repair on the same prompts, beside none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moralprobe.behavior.elicitation.calibration import Calibrated
from moralprobe.behavior.elicitation.measuring import WARNING, measure
from moralprobe.behavior.elicitation.rates import against
from moralprobe.behavior.elicitation.repair import rewriter
from moralprobe.behavior.text_model import TextModel
from moralprobe.cache import Cache
from moralprobe.files import write_bytes, write_table

NONE, CRITIQUE, WRITTEN, TRAINED = "none", "critique", "written", "trained"


@dataclass(frozen=True)
class Arms:
    """What came of it.

    `rates` are those of every arm and less those of none (`rates.against`); `trained` the same of
    the trained writer against the writer as it was, None where there is none; `completions` every
    text with its arm and instruction.
    """

    rates: pl.DataFrame
    trained: pl.DataFrame | None
    completions: pl.DataFrame

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, and `READ-FIRST.md`, a warning."""
        write_bytes(folder / "READ-FIRST.md", WARNING.encode())
        write_table(folder / "arms.parquet", self.rates)
        write_table(folder / "completions.parquet", self.completions)


def measure_arms(
    model: TextModel,
    prompts: pl.DataFrame,
    told: Mapping[str, Sequence[str | None]],
    scorer: Calibrated,
    *,
    k: int = 10,
    tokens: int = 100,
    draws: int = 1000,
    seed: int = 0,
    cache: Cache | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Arms:
    """Draw fresh completions after each arm's instructions, by the same random numbers.

    Args:
        model: that goes on with the stories.
        prompts: of principles that nothing was learnt from.
        told: what each arm says before each prompt, from `repair.instructions`.
        scorer: who reports.
        k: completions of each prompt.
        tokens: of a completion.
        draws: resamples of principles.
        seed: of completions and resamples.
        cache: from `open_cache`.
        progress: called with the arms that are done, their number, and which one comes.

    Raises:
        UnansweredError: the model can't be reached; what it said is in the cache.
    """
    arms: dict[str, pl.DataFrame] = {}
    for arm, before in told.items():
        progress(len(arms), len(told), arm)
        found = measure(
            model,
            prompts,
            {"report": scorer},
            k=k,
            tokens=tokens,
            draws=draws,
            seed=seed,
            instructions=before,
            rewrite=rewriter(model, tokens, cache=cache) if arm == CRITIQUE else None,
            endorse=False,
            cache=cache,
        )
        said = pl.Series([one for one in before for _ in range(k)], dtype=pl.String)
        arms[arm] = found.completions.with_columns(arm=pl.lit(arm), instruction=said)
    progress(len(told), len(told), "")
    trained = None
    if TRAINED in arms:
        both = {arm: arms[arm] for arm in (WRITTEN, TRAINED)}
        trained = against(both, WRITTEN, "report", draws=draws, seed=seed).filter(
            pl.col("arm") == TRAINED
        )
    rates = against(arms, NONE, "report", draws=draws, seed=seed)
    return Arms(rates, trained, pl.concat(arms.values()))
