"""What tuning, measuring and evaluating interventions would take; arithmetic and sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from moralprobe.activations.cost import Cost
from moralprobe.evaluation.prompts import FLAMES, load_prompts
from moralprobe.recipes.evaluate_step import settings_of
from moralprobe.recipes.jobs import Trained
from moralprobe.recipes.options import Evaluate
from moralprobe.steering.arms import ARMS, PROMPT, UNSTEERED

HELD_OUT: Final = 0.1
"""Share of texts in the test split, on which every arm is measured."""
FLAMES_PROMPTS: Final = 1000
COPIES: Final = {"geometry": 2, "li2026": 5}
"""Autoencoders that an intervention keeps: the tuned one beside that whose rows the arms change;
as published, beside one of every arm that reconstructs."""
BANDWIDTH: Final = 3.35e12
"""Bytes a second that an H100 reads; writing a token reads all weights."""
_STEERED_ARMS: Final = len(ARMS.keys() - {UNSTEERED, PROMPT}) + 1
"""Arms with a strength: the controls and what is evaluated."""


@dataclass(frozen=True)
class Need:
    """FLOPs and bytes on disk of a job, and what they are of."""

    flops: float
    disk_bytes: int
    note: str


def fitting(sae: Trained, mode: str, whole: Cost, times: float, n_layers: int) -> Need:
    """Return what a fit takes: texts are read to its layer, held-out ones once more an arm.

    Args:
        sae: that is tuned.
        mode: of `COPIES`.
        whole: the cost of reading the table at all layers.
        times: how often the table that was counted stands in the real one.
        n_layers: of the model.
    """
    readings = (1 + HELD_OUT * _STEERED_ARMS) * (sae.layer + 1) / n_layers
    d_sae = whole.d_model * sae.size
    floats = 2 * whole.d_model * d_sae + whole.d_model + d_sae
    disk = COPIES[mode] * 4 * floats
    return Need(whole.flops * times * readings, disk, "hours: reading alone, not tuning")


def surviving(whole: Cost, times: float) -> Need:
    """Return what it takes to read held-out texts under every arm."""
    readings = HELD_OUT * (_STEERED_ARMS + 1)
    return Need(whole.flops * times * readings, 0, "hours: reading alone")


def evaluating(asked: Evaluate, whole: Cost, layers: int) -> Need:
    """Return what writing answers takes, at most: judges, prompts' tokens and suites aren't in it.

    Args:
        asked: the options of the step.
        whole: the cost of reading a table, by which a token's is known.
        layers: how many interventions are tried.
    """
    answered, _, options = settings_of(asked)
    if not answered:
        return Need(0.0, 0, "no answers; suites have no forecast")
    prompts = FLAMES_PROMPTS if asked.data == FLAMES else len(load_prompts(asked.data))
    n = min(prompts, asked.prompts or prompts)
    tried = len(set(options.strengths) - {0.0}) * layers
    every = len(ARMS) + 1  # what is evaluated, too
    if options.protocol == "li2026":
        answers = n * (1 + tried)
    elif asked.judge is None:
        answers = n * every * len(options.seeds)
    else:  # on one half the arms' strengths are chosen, if a judge can be believed
        choosing = n // 2 * (every - _STEERED_ARMS + _STEERED_ARMS * tried)
        reported = (n - n // 2) * every * len(options.seeds)
        answers = max(choosing + reported, n * every * len(options.seeds))
    longest = options.sampling.max_new_tokens
    flops = answers * longest * whole.flops / whole.tokens
    hours = answers / asked.batch * longest * whole.weights_bytes / BANDWIDTH / 3600
    return Need(
        flops,
        0,
        f"{answers:,} answers of {longest:,} tokens at most; weights alone are read in {hours:.1f} "
        f"hours at {BANDWIDTH / 1e12:g} TB/s; judges apart",
    )
