"""Models and scorers whose truth is known."""

from __future__ import annotations

import numpy as np

from moralprobe.behavior.elicitation.calibration import Calibrated, Calibration, calibrate
from moralprobe.behavior.elicitation.principles import Cases, Principle
from moralprobe.behavior.elicitation.scorers import Rule
from moralprobe.behavior.text_model import Question, Scripted

BAD = "He broke it"
GOOD = "He kept it"


def principles(n: int) -> list[Principle]:
    axes = ["care-harm", "fairness-cheating", "loyalty-betrayal"]
    return [
        Principle(
            f"p{i}",
            f"One should not do thing {i}.",
            axes[i % 3],
            "vice" if i % 2 else "virtue",
            f"In town {i} a man called Tom stood at a door and wondered whether he",
        )
        for i in range(n)
    ]


def cases(n: int = 40, wrong: float = 0.0, seed: int = 0) -> Cases:
    """Texts that say what they are; a share of them says the opposite."""
    rng = np.random.default_rng(seed)
    every = [one for one in principles(n) for _ in range(2)]
    breaks = np.tile([False, True], n)
    turned = rng.random(2 * n) < wrong
    texts = [BAD if b != t else GOOD for b, t in zip(breaks, turned, strict=True)]
    return Cases(tuple(every), tuple(f"{t} {i}" for i, t in enumerate(texts)), breaks)


def reads_it(principle: str, text: str) -> float:
    """Say what a text says, with a little noise that is the text's own."""
    noise = np.random.default_rng(list(text.encode())).normal(0, 0.5)
    return (2.0 if BAD in text else -2.0) + float(noise)


def scorer(name: str = "reads it") -> Calibrated:
    rule = Rule(name, reads_it)
    return Calibrated(rule, calibrate(rule, cases(), draws=50))


def perfect() -> Calibrated:
    """A scorer that never errs, by a calibration that says so."""
    nothing = {"auroc": 1.0, "auroc_low": 1.0, "auroc_high": 1.0, "n": 9}
    calibration = Calibration(
        5.0,
        0.0,
        {**nothing, "hits": 1.0, "false_alarms": 0.0},
        {},
        {},
        (),
        np.tile([1.0, 0.0], (2, 1)),
    )
    return Calibrated(Rule("perfect", lambda _, text: 9.0 if BAD in text else -9.0), calibration)


def at_rate(rate: float, name: str = "at a rate") -> Scripted:
    """A model that breaks the principle with a probability, whatever the prompt."""

    def says(question: Question) -> str:
        rng = np.random.default_rng([question.seed, *question.text.encode()])
        return f"{BAD if rng.random() < rate else GOOD} {rng.integers(1 << 30)}"

    return Scripted(name, says)
