"""Scorers that read inside a model: a linear one on hidden states, and entailment (NLI)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from moralprobe.behavior.elicitation.calibration import parts_of
from moralprobe.behavior.elicitation.principles import Cases
from moralprobe.behavior.elicitation.scorers import Judge, Pair, Scorer, Step, digest_of, fit_words
from moralprobe.behavior.options import Readout
from moralprobe.bridges.last_states import last_states
from moralprobe.bridges.word_rows import weights_hash
from moralprobe.cache import Cache
from moralprobe.errors import DataError, ModelError, UsageError, nearest
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import choose_device, load_model
from moralprobe.models.quiet import quiet_transformers
from moralprobe.models.safety import refuse_unsafe
from moralprobe.steering.text import LOCAL, text_model

Floats = NDArray[np.float64]
PROMPT: Final = "What happened: {text}\nThe rule: {principle}\nThe rule is"
HYPOTHESIS: Final = "This breaks the rule: {principle}"
KINDS: Final = ("judge", "linear", "nli")
_LAYERS: Final = 8  # evenly spread, of which the folds choose one
_PRICES: Final = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the logistic regression
_FOLDS: Final = 5
_MAX_TOKENS: Final = 512
_BATCH: Final = 32
_MOST: Final = 30.0  # of log-odds, in either direction


@dataclass(frozen=True)
class LinearScorer:
    """Logistic regression on a model's last-token state of a rule and what happened.

    It is fitted on the part `train` of cases (`calibration.parts_of`); layer and penalty are those
    with the least log-loss in folds of principles. The last token alone is read: pooled over
    tokens, states of most models carry length and punctuation.
    """

    model: CausalModel
    layer: int
    fitted: Pipeline = field(repr=False)
    about: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The model's name, and the layer."""
        return f"linear {self.model.name} resid_post.{self.layer}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model, the layer, and what was learnt from."""
        return {"linear": self.model.identity, "layer": self.layer, **self.about}

    def log_odds(self, pairs: Sequence[Pair], step: Step = lambda n: None) -> Floats:
        """Return the log-odds that each text breaks its principle, [n]; NaN of an empty text."""
        found = np.full(len(pairs), np.nan)
        there = [i for i, (_, text) in enumerate(pairs) if text.strip()]
        if there:
            states = _states(self.model, [pairs[i] for i in there], [self.layer], step)
            found[there] = self.fitted.decision_function(states[self.layer])
        return found


def fit_linear(model: CausalModel, cases: Cases, *, seed: int = 0) -> LinearScorer:
    """Fit a linear scorer on the part `train` of cases.

    Args:
        model: from `load_model`; any of a few layers is read.
        cases: whose truth is known.
        seed: of the parts, as in `calibrate`.

    Raises:
        DataError: too few principles, or a part without texts that break and that keep one.
    """
    train = np.flatnonzero(parts_of(cases, seed)["train"])
    pairs, y, groups = cases.pairs(), cases.breaks[train], cases.groups()[train]
    if len(np.unique(groups)) < _FOLDS or len(np.unique(y)) < 2:
        raise DataError(
            "there is too little to fit a linear scorer on",
            f"{len(np.unique(groups))} principles, {int(y.sum())} of {len(y)} texts break one",
            "give more, as Moral Stories",
        )
    layers = np.unique(np.linspace(0, model.n_layers - 1, _LAYERS).round().astype(int)).tolist()
    states = _states(model, [pairs[i] for i in train], layers)
    folds = list(GroupKFold(_FOLDS).split(train, y, groups))
    losses = {}
    for layer in layers:
        for price in _PRICES:
            p = np.empty(len(train))
            for fit, held in folds:
                fitted = _regression(price).fit(states[layer][fit], y[fit])
                p[held] = fitted.predict_proba(states[layer][held])[:, 1]
            losses[layer, price] = float(log_loss(y, p))
    layer, price = min(losses, key=lambda key: losses[key])
    read = digest_of([pairs[i] for i in train], y)
    return LinearScorer(
        model,
        layer,
        _regression(price).fit(states[layer], y),
        {"prompt": PROMPT, "C": price, "learnt_from": read, "n": len(train)},
    )


def scorer_of(
    spec: str,
    cases: Cases,
    *,
    device: str = "auto",
    seed: int = 0,
    readout: str = "logprob",
    cache: Cache | None = None,
) -> Scorer:
    """Return the scorer that `KIND=MODEL`, or `words`, names.

    Args:
        spec: `judge=` with what `text_model` takes, `linear=` with a model on this machine,
            `nli=` with the folder of an MNLI model, or `words`, a bag of words.
        cases: what one that learns is fitted on, their part `train`.
        device: of a model on this machine.
        seed: of the parts.
        readout: of a judge: `logprob` or `sampled`.
        cache: where a judge's answers are kept.

    Raises:
        UsageError: anything else; and as the models are loaded.
    """
    kind, _, name = spec.partition("=")
    if spec == "words":
        train = np.flatnonzero(parts_of(cases, seed)["train"])
        pairs = cases.pairs()
        return fit_words([pairs[i] for i in train], cases.breaks[train])
    if kind not in KINDS or not name:
        raise UsageError(
            f"{spec!r} is no scorer",
            nearest(kind, KINDS) if name else "it names no model",
            "write judge=MODEL, linear=MODEL, nli=FOLDER or words",
        )
    if kind == "nli":
        return load_entailment(name, device=device)
    if kind == "judge":
        return Judge(text_model(name, device), Readout(readout), cache)
    return fit_linear(load_model(name.removeprefix(LOCAL), device=device), cases, seed=seed)


def _regression(price: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=price, max_iter=2000))


def _states(
    model: CausalModel, pairs: Sequence[Pair], layers: Sequence[int], step: Step = lambda n: None
) -> dict[int, NDArray[np.float32]]:
    """Return the last token's state after each layer, [n, d] fp32."""
    texts = [PROMPT.format(principle=principle, text=text) for principle, text in pairs]
    encoded = model.encode(texts, [(0, len(text)) for text in texts], max_tokens=_MAX_TOKENS)
    return dict(zip(layers, last_states(model, encoded, layers, step), strict=True))


@dataclass(frozen=True)
class Entailment:
    """Any MNLI model: what a text entails less what it contradicts, of a rule being broken."""

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    labels: tuple[int, int]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The folder's name, its weights' hash, and the hypothesis."""
        return {"nli": self.name, "weights": self._hash(), "hypothesis": HYPOTHESIS}

    def log_odds(self, pairs: Sequence[Pair], step: Step = lambda n: None) -> Floats:
        """Return the log-odds of entailment against contradiction, [n]; NaN of an empty text."""
        told = [(text, HYPOTHESIS.format(principle=principle)) for principle, text in pairs]
        logits = self._logits(told, step)
        found = logits[:, self.labels[0]] - logits[:, self.labels[1]]
        return np.asarray(np.clip(found, -_MOST, _MOST), np.float64)

    def entailed(self, pairs: Sequence[Pair], step: Step = lambda n: None) -> Floats:
        """Return the probability that a premise entails a hypothesis, [n]; NaN of an empty one."""
        return np.asarray(softmax(self._logits(pairs, step), axis=1)[:, self.labels[0]], np.float64)

    @torch.inference_mode()
    def _logits(self, pairs: Sequence[Pair], step: Step) -> Floats:
        """Return the logits of pairs of a premise and a hypothesis, [n, labels]."""
        found = np.full((len(pairs), self.model.config.num_labels), np.nan)
        there = [i for i, (premise, _) in enumerate(pairs) if premise.strip()]
        there.sort(key=lambda i: len(pairs[i][0]))
        device = next(self.model.parameters()).device
        for at in range(0, len(there), _BATCH):
            rows = there[at : at + _BATCH]
            batch = self.tokenizer(
                [pairs[i][0] for i in rows],
                [pairs[i][1] for i in rows],
                padding=True,
                truncation="only_first",
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            ).to(device)
            found[rows] = self.model(**batch).logits.double().cpu().numpy()
            step(len(rows))
        return found

    def _hash(self) -> str:
        return weights_hash(self.model)


def load_entailment(path: str | Path, *, device: str = "auto") -> Entailment:
    """Load an MNLI model from a local folder.

    Args:
        path: a folder with safetensors weights whose labels name entailment and contradiction.
        device: as for `load_model`.

    Raises:
        ModelError: no such folder, one that needs code or unsafe files, or other labels.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(path).expanduser()
    refuse_unsafe(folder)
    place = choose_device(device)
    with quiet_transformers():
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"transformers can't load {folder}",
                str(error).strip().splitlines()[0],
                "check that the folder holds a whole model",
            ) from error
    labels = {str(label).casefold(): int(i) for i, label in model.config.id2label.items()}
    try:
        pair = labels["entailment"], labels["contradiction"]
    except KeyError as error:
        raise ModelError(
            f"{folder} is no MNLI model",
            f"its labels are {', '.join(labels)}",
            "give one with entailment and contradiction",
        ) from error
    return Entailment(folder.name, model.eval().to(place), tokenizer, pair)
