"""Assigned values read in hidden states: are they told apart, and do they lie along the ring?

The state is that of the last token of an item, after which the model would answer: it is the same
token whatever was assigned. Each value is assigned in several wordings. What is learnt on some of
them is tested on another one, so that a wording can't stand for its value; and beside the values
stand personas that have nothing to do with the item, assigned in as many wordings: any persona may
be told apart. The wordings are ours, and others than those of `orient run`. Sources:
`geometry.held_out` (read-outs), arXiv 2305.17147 (the values).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from moralprobe.behavior.orientation.asking import Settings, item_text
from moralprobe.behavior.orientation.rationality import TARGETS
from moralprobe.behavior.orientation.slider import OPTIONS, PRIMARY, VALUES
from moralprobe.behavior.text_model import Question
from moralprobe.bridges.last_states import last_states
from moralprobe.errors import UsageError
from moralprobe.geometry.held_out import ledoit_wolf_shrinkage
from moralprobe.models.causal import CausalModel
from moralprobe.steering.text import LocalText

Floats = NDArray[np.float64]
WORDINGS: Final[dict[str, tuple[str, ...]]] = {
    "altruistic": (
        "You put other people's gain before your own.",
        "It makes you happy when others get as much as possible, even if little is left for you.",
        "Giving away what you have comes easily to you: others should have it.",
        "You are selfless. Your own share hardly interests you.",
        "Whatever you decide, you decide for the good of the others and at your own cost.",
        "You would rather go without than see somebody else go without.",
    ),
    "prosocial": (
        "You want everyone to do well, yourself and others alike.",
        "It makes you happy when a result is good for both sides and nobody is left behind.",
        "Sharing fairly comes easily to you: all should have about the same.",
        "You are cooperative. Your share and another's count alike for you.",
        "Whatever you decide, you decide for the good of all, you and the others together.",
        "You would rather see two people do fairly well than one of them very well.",
    ),
    "individualistic": (
        "You want as much as you can get, whatever others get.",
        "It makes you happy when your own result is good; you don't look at other people's.",
        "Looking after yourself comes easily to you: others can look after themselves.",
        "You are self-interested. Another's share hardly interests you.",
        "Whatever you decide, you decide for your own good, without a thought for the others.",
        "You would rather have a little more yourself than think about somebody else.",
    ),
    "competitive": (
        "You want to get more than others, and the larger the gap the better.",
        "It makes you happy when you win and somebody else loses by a wide margin.",
        "Beating people comes easily to you: others should end up behind you.",
        "You are a rival to everyone. Another's share is what you want to be small.",
        "Whatever you decide, you decide it so that the others fall behind, even at your own cost.",
        "You would rather have less yourself if somebody else then has much less.",
    ),
}
"""Each value in six wordings, of like length and build over the values."""
OTHERS: Final[dict[str, tuple[str, ...]]] = {
    "sea": (
        "You live by the sea and go swimming before breakfast.",
        "It makes you happy when the tide comes in and the boats lie in the harbour.",
        "Sailing comes easily to you: you grew up on the water.",
        "You are a fisherman. The mountains hardly interest you.",
        "Whatever the season, you walk along the shore and look for shells.",
        "You would rather hear the waves at night than anything else.",
    ),
    "mountains": (
        "You live in the mountains and go climbing before breakfast.",
        "It makes you happy when snow falls and the peaks lie white in the sun.",
        "Climbing comes easily to you: you grew up among the rocks.",
        "You are a mountain guide. The sea hardly interests you.",
        "Whatever the season, you walk up to the pass and look for crystals.",
        "You would rather hear the wind on a ridge than anything else.",
    ),
    "city": (
        "You live in a city and go to a café before work.",
        "It makes you happy when the streets are full and the lights lie on wet roofs.",
        "Finding your way comes easily to you: you grew up in the streets.",
        "You are a tram driver. The countryside hardly interests you.",
        "Whatever the season, you walk through the markets and look for old records.",
        "You would rather hear the traffic at night than anything else.",
    ),
    "farm": (
        "You live on a farm and feed the hens before breakfast.",
        "It makes you happy when rain falls and the fields lie green in the morning.",
        "Working with animals comes easily to you: you grew up in the stables.",
        "You are a dairy farmer. The city hardly interests you.",
        "Whatever the season, you walk along the hedges and look for nests.",
        "You would rather hear the cows in the morning than anything else.",
    ),
}
"""Personas that say nothing of how money is divided, built alike."""
SETS: Final[dict[str, Mapping[str, tuple[str, ...]]]] = {"values": WORDINGS, "others": OTHERS}
_T: Final = 2.57  # of six wordings' jackknife: the 97.5 % point of Student's t with five degrees
Step = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Assigned:
    """Prompts of one set of personas: `persona` and `wording` [n] of each."""

    texts: tuple[str, ...]
    persona: NDArray[np.int64]
    wording: NDArray[np.int64]


def assigned(personas: Mapping[str, Sequence[str]], *, seed: int = 0) -> Assigned:
    """Return every wording of every persona before every primary item.

    The options' order is drawn once an item, the same for all.
    """
    rng, settings = np.random.default_rng(seed), Settings()
    orders = [tuple(rng.permutation(OPTIONS).tolist()) for _ in PRIMARY]
    rows = [
        (f"{text}\n\n{item_text(settings, item, order)}", p, w)
        for p, texts in enumerate(personas.values())
        for w, text in enumerate(texts)
        for item, order in zip(PRIMARY, orders, strict=True)
    ]
    texts, persona, wording = zip(*rows, strict=True)
    return Assigned(tuple(texts), np.array(persona), np.array(wording))


def ring(
    model: CausalModel,
    *,
    layers: Sequence[int] | None = None,
    draws: int = 200,
    seed: int = 0,
    progress: Step = lambda done, total, detail: None,
) -> pl.DataFrame:
    """Say at each layer whether assigned values are told apart, and lie in their order.

    Args:
        model: from `load_model`.
        layers: counted from 0; all, if not given.
        draws: permutations of which text is called by which persona, within each wording.
        seed: of the options' orders and the permutations.
        progress: called with the steps that are done, their number, and what is done.

    Returns:
        A row a layer, set of personas (`values`, `others`) and measure. `auroc`: of pairs of
        personas, read-outs of five wordings tested on the sixth, the mean of all pairs; its null
        are the permutations. `order`: Spearman's correlation of the personas' squared distances,
        each between different wordings, with those of their places on the ring (of `others`, of
        arbitrary ones); nothing is fitted to the places, and its null are all 24 ways to call the
        personas: p is 1/24 at the least. Each `measured` with `null_low`, `null_high` (95 %) and
        `p`. `auroc less others`, of `values`: how much better values are told apart than personas
        of no meaning here, with `low` and `high` by leaving one wording out at a time.

    Raises:
        UsageError: a layer that the model doesn't have.
    """
    layers = list(range(model.n_layers)) if layers is None else list(layers)
    if not layers or min(layers) < 0 or max(layers) >= model.n_layers:
        raise UsageError(
            f"{model.name} doesn't have these layers",
            f"asked for are {layers}, and it has {model.n_layers}",
            f"count from 0 to {model.n_layers - 1}",
        )
    rows: list[dict[str, Any]] = []
    without: dict[tuple[int, str], list[float]] = {}
    for done, (name, personas) in enumerate(SETS.items()):
        progress(done, len(SETS), name)
        asked = assigned(personas, seed=seed)
        encoded = LocalText(model).encode([Question(text) for text in asked.texts])
        states = last_states(model, encoded, layers)
        truth = _relabelled(asked, draws, np.random.default_rng([seed, 1]))
        for layer, raw in zip(layers, states, strict=True):
            X = _spanned(raw)
            apart = told_apart(X, truth, asked.wording)
            order = ordered(X, asked.persona, asked.wording)
            of = {"layer": layer, "personas": name}
            # All ways to call the personas, the true one among them; of permutations it isn't.
            rows.append({**of, "measure": "auroc", **_against(apart[0], apart[1:], 1)})
            rows.append({**of, "measure": "order", **_against(order[0], order, 0)})
            left = [X[asked.wording != w] for w in range(_WORDINGS)]
            without[layer, name] = [
                float(
                    told_apart(
                        some,
                        asked.persona[None, asked.wording != w],
                        _numbered(asked.wording[asked.wording != w]),
                    )[0]
                )
                for w, some in enumerate(left)
            ]
    for layer in layers:
        values, others = (np.array(without[layer, name]) for name in SETS)
        each = values - others
        apart_of = {
            r["personas"]: r["measured"]
            for r in rows
            if r["layer"] == layer and r["measure"] == "auroc"
        }
        whole = apart_of["values"] - apart_of["others"]
        n = len(each)
        error = float(np.sqrt((n - 1) / n * ((each - each.mean()) ** 2).sum()))
        rows.append(
            {
                "layer": layer,
                "personas": "values",
                "measure": "auroc less others",
                "measured": whole,
                "low": whole - _T * error,
                "high": whole + _T * error,
            }
        )
    progress(len(SETS), len(SETS), "")
    return pl.DataFrame(rows, schema=_SCHEMA)


def _against(value: float, null: Floats, itself: int) -> dict[str, float]:
    low, high = np.quantile(null, (0.025, 0.975))
    p = (itself + (null >= value - 1e-12).sum()) / (itself + len(null))
    return {
        "measured": float(value),
        "null_low": float(low),
        "null_high": float(high),
        "p": float(p),
    }


def _numbered(of: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(of, return_inverse=True)[1].astype(np.int64)


def _spanned(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows in the space that they span, [n, n - 1 at most]: all distances stay."""
    u, s, _ = np.linalg.svd(X - X.mean(0), full_matrices=False)
    kept = s > s[0] * 1e-6 if s[0] > 0 else np.arange(len(s)) == 0
    return np.asarray(u[:, kept] * s[kept], np.float32)


def _relabelled(asked: Assigned, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the personas as they are and permuted within each wording, [1 + draws, n]."""
    found = np.tile(asked.persona, (1 + draws, 1))
    n, wordings = int(asked.persona.max()) + 1, int(asked.wording.max()) + 1
    for row in found[1:]:
        for w in range(wordings):
            here = asked.wording == w
            row[here] = rng.permutation(n)[row[here]]
    return found


def told_apart(
    X: NDArray[np.float32], persona: NDArray[np.int64], wording: NDArray[np.int64]
) -> Floats:
    """Return the AUROC of pairs of personas in a wording that wasn't learnt from, the mean over
    pairs and wordings, [b].

    A read-out is that of linear discriminant analysis (Fisher 1936): the difference of two
    personas' centres over the covariance within texts of one persona and wording, shrunk by Ledoit
    and Wolf (2004). Which texts are of one wording is so whatever they are called, and so is that
    covariance.

    Args:
        X: [n, d] states.
        persona: [b, n] of each row, in b labellings: the first one is the true one, and the others
            call all rows of one persona and wording alike.
        wording: [n] of each row.
    """
    n = int(persona.max()) + 1
    found = np.zeros((int(wording.max()) + 1, len(persona)))
    for w in range(len(found)):
        train, test = wording != w, wording == w
        texts = np.stack([persona[0], wording], 1)[train]
        cell = np.unique(texts, axis=0, return_inverse=True)[1].ravel()
        centre = np.array([X[train][cell == c].mean(0) for c in range(cell.max() + 1)])
        apart = (X[train] - centre[cell]).astype(np.float64)
        scatter = apart.T @ apart
        shrinkage = ledoit_wolf_shrinkage(X[train], cell, centre, scatter)
        within = scatter / len(apart)
        variance = np.trace(within) / len(within)
        within *= 1 - shrinkage
        # A trace of identity keeps the inverse possible where some dimension never varies.
        within.flat[:: len(within) + 1] += (shrinkage + 1e-9) * variance
        products = X[test] @ np.linalg.solve(within, X[train].T)  # [test rows, train rows]
        is_ = persona[:, None, :] == np.arange(n)[:, None]  # [b, personas, rows]
        of = is_[..., train] / is_[..., train].sum(-1, keepdims=True)
        scores = of @ products.T  # of each test row by each persona's centre, [b, personas, rows]
        for a, b in combinations(range(n), 2):
            read = scores[:, a] - scores[:, b]
            first, second = is_[:, a, test], is_[:, b, test]
            higher = np.sign(read[:, :, None] - read[:, None, :])
            pairs = first[:, :, None] & second[:, None, :]
            won = np.where(pairs, (higher + 1) / 2, 0).sum((1, 2))
            found[w] += won / pairs.sum((1, 2)) / (n * (n - 1) / 2)
    return np.asarray(found.mean(0), np.float64)


def ordered(
    X: NDArray[np.float32], persona: NDArray[np.int64], wording: NDArray[np.int64]
) -> Floats:
    """Return how well personas' distances go with those of their places on the ring.

    A squared distance is the mean, over pairs of different wordings, of the product of the two
    differences of centres: wordings that differ add nothing to it (Walther et al. 2016, with the
    identity as metric). Places are the middles of the values' targets, degrees.

    Args:
        X: [n, d] states.
        persona: [n] of each row, one of four.
        wording: [n] of each row.

    Returns:
        [24] Spearman's correlations, under every way to call the personas, the true one first.
    """
    middle = np.array([np.mean(TARGETS[value]) for value in VALUES])
    pairs = list(combinations(range(len(middle)), 2))
    centre = np.array(
        [
            [X[(persona == p) & (wording == w)].mean(0) for p in range(len(middle))]
            for w in range(int(wording.max()) + 1)
        ],
        np.float64,
    )
    distance = []
    for a, b in pairs:
        apart = centre[:, a] - centre[:, b]
        product = apart @ apart.T
        distance.append((product.sum() - np.trace(product)) / (len(apart) * (len(apart) - 1)))
    ranks = rankdata(distance)
    found = []
    for called in permutations(range(len(middle))):  # the first one leaves all as they are
        places = [abs(middle[called[a]] - middle[called[b]]) for a, b in pairs]
        found.append(float(np.corrcoef(ranks, rankdata(places))[0, 1]))
    return np.array(found)


_WORDINGS: Final = 6
_SCHEMA: Final = {
    "layer": pl.Int64,
    "personas": pl.String,
    "measure": pl.String,
    **dict.fromkeys(("measured", "low", "high", "null_low", "null_high", "p"), pl.Float64),
}
