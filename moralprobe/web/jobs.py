"""What the model is asked to do: write twice at once, and say what fires on a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from moralprobe.activations.distinct import Tokens
from moralprobe.activations.stream import read_tokens
from moralprobe.errors import UsageError, nearest
from moralprobe.evaluation.options import plain_logits, token_logprobs
from moralprobe.evaluation.side_effects import longest_loop, token_divergence, units
from moralprobe.foundations import POLES
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Batch, Encoded
from moralprobe.report.features import shown_of
from moralprobe.sae.directions import next_tokens
from moralprobe.sae.load import LoadedSAE, is_pooled
from moralprobe.steering.apply import steered_logits
from moralprobe.steering.generate import Generation, encoded_for, side_by_side
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.sampling import Sampling
from moralprobe.web import schemas
from moralprobe.web.loaded import Loaded
from moralprobe.web.place import place as where
from moralprobe.web.turns import Emit, Stopped, halt_if

_SIDES = ("default", "steered")
_LOOPS = 12  # units of a phrase that is repeated, from which a text is called a loop
_AT_ONCE = 256  # tokens
_BROKEN = 3.0  # times the perplexity of the text beside it


def steer(loaded: Loaded, asked: schemas.SteerRequest, emit: Emit, stopped: Stopped) -> None:
    """Write both texts, each piece as it comes, and then what steering did to them.

    Args:
        loaded: what the server holds.
        asked: the request.
        emit: sends an event: `piece`, and at the end `done`.
        stopped: when true the texts end within a token.
    """
    loaded.check_length(asked.prompt, asked.chat)
    intervention = loaded.intervention_of(asked.sources, stopped)
    sampling = Sampling(asked.max_tokens, asked.temperature, asked.top_p, seed=asked.seed)
    both = side_by_side(
        loaded.model,
        asked.prompt,
        intervention if intervention is not None else Intervention(()),
        sampling=sampling,
        positions=asked.positions,
        spans=None if asked.words is None else [asked.words],
        chat=asked.chat,
        on_text=lambda side, text: emit("piece", {"side": _SIDES[side], "text": text}),
        stop=stopped,
    )
    if not stopped():
        emit("done", effects(loaded, asked, intervention, *both).model_dump())


def effects(
    loaded: Loaded,
    asked: schemas.SteerRequest,
    intervention: Intervention | None,
    default: Generation,
    steered: Generation,
) -> schemas.Done:
    """Return how likely both texts are to the model as it is, and how far steering moved it."""
    model = loaded.model
    (prompt,) = encoded_for(model, [asked.prompt], chat=asked.chat)
    texts = [_followed(prompt, one.ids) for one in (default, steered)]
    written = [one for one in texts if any(one.action)]
    scores = iter(token_logprobs(model, plain_logits(model), written))
    perplexities = [
        float(np.exp(-next(scores).mean())) if any(one.action) else None for one in texts
    ]
    kl: list[float] = []
    if intervention is not None and steered.ids:
        moved = _moved_logits(loaded, asked, intervention)
        (found,) = token_divergence(model, plain_logits(model), moved, [texts[1]])
        kl = [round(float(value), 5) for value in found]
    loops = [longest_loop(units(one.text)) for one in (default, steered)]
    sides = [
        schemas.Written(
            text=one.text,
            tokens=len(one.ids),
            ended=one.ended,
            edits=one.edits,
            change=one.change,
            perplexity=None if perplexity is None else round(perplexity, 3),
            loop=loop,
        )
        for one, perplexity, loop in zip((default, steered), perplexities, loops, strict=True)
    ]
    return schemas.Done(
        default=sides[0],
        steered=sides[1],
        same=default.ids == steered.ids,
        kl=kl,
        kl_tokens=pieces(model.tokenizer, steered.ids[: len(kl)]),
        edited=_edited(loaded, asked),
        warnings=_warnings(*sides, steers=intervention is not None),
    )


def _moved_logits(
    loaded: Loaded, asked: schemas.SteerRequest, intervention: Intervention
) -> Callable[[Batch], torch.Tensor]:
    """Return what gives the steered logits of the prompt and the text after it."""
    logits_of = steered_logits(loaded.model, intervention, asked.positions)
    if asked.words is None:
        return logits_of
    # A batch marks what is written; what is edited are the span's tokens instead.
    (prompt,) = encoded_for(loaded.model, [asked.prompt], chat=asked.chat, spans=[asked.words])
    span = torch.tensor(prompt.action)

    def of_span(batch: Batch) -> torch.Tensor:
        edited = torch.zeros_like(batch.action)
        edited[:, : len(span)] = span.to(edited.device)
        return logits_of(replace(batch, action=edited))

    return of_span


def _edited(loaded: Loaded, asked: schemas.SteerRequest) -> str | None:
    """Return the text of the tokens that a span reaches: a word's are all edited, or none."""
    if asked.words is None:
        return None
    (prompt,) = encoded_for(loaded.model, [asked.prompt], chat=asked.chat, spans=[asked.words])
    ids = [token for token, inside in zip(prompt.ids, prompt.action, strict=True) if inside]
    text: str = loaded.model.tokenizer.decode(ids)
    return text.strip()


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text of each token where it stands; of one that ends within a character, none.

    By itself a token of half a character can't be read, and one of a word may lose its blank.
    """
    found: list[str] = []
    begun = read = 0
    for end in range(1, len(ids) + 1):
        before, now = (tokenizer.decode(ids[begun:to]) for to in (read, end))
        if now.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        begun, read = read, end
    return found


def _warnings(default: schemas.Written, steered: schemas.Written, *, steers: bool) -> list[str]:
    found = []
    if steers and steered.edits == 0:
        found.append("Nothing was edited: no token that is reached was changed by what steers.")
    if steered.loop >= _LOOPS > default.loop:
        found.append("The steered text repeats itself: steer less.")
    before, after = default.perplexity, steered.perplexity
    if before is not None and after is not None and after > _BROKEN * before:
        found.append(
            f"The steered text is {after / before:.1f} times as surprising to the model as it is: "
            "steering may have broken it."
        )
    return found


def _followed(prompt: Encoded, ids: tuple[int, ...]) -> Encoded:
    """Return a prompt with a text after it, whose tokens are marked as the action."""
    return replace(
        prompt,
        ids=[*prompt.ids, *ids],
        action=[False] * len(prompt.ids) + [True] * len(ids),
    )


def fires(loaded: Loaded, asked: schemas.FiresRequest, stopped: Stopped) -> schemas.Fires:
    """Return a text's tokens, and the features that are most active in it.

    Raises:
        UsageError: no autoencoder of tokens is loaded.
        DataError: a text without tokens, or with too many.
        StoppedError: nobody waits for it any longer.
    """
    halt_if(stopped)
    model, sae = loaded.model, loaded.autoencoder()
    if is_pooled(sae):
        raise UsageError(
            "what fires at a token isn't known here",
            f"{sae.folder.name} was trained on pooled vectors, and has seen no token",
            "start with an autoencoder of tokens",
        )
    text = loaded.check_length(asked.text, asked.chat)
    states, out = _states(model, sae, text)
    largest = torch.zeros(sae.sae.cfg.d_sae)
    for acts in _encoded(sae, states):
        largest = torch.maximum(largest, acts.amax(dim=0))
    order = torch.argsort(largest, descending=True)[: asked.most]
    active = torch.zeros(len(text), len(order))
    if len(states):
        active[~out] = torch.cat([acts[:, order] for acts in _encoded(sae, states)])
    return schemas.Fires(
        tokens=pieces(model.tokenizer, text.ids),
        left_out=out.tolist(),
        features=[
            schemas.Fired(
                feature=f,
                pole=loaded.pole_of(f),
                largest=float(largest[f]),
                activations=[round(float(value), 4) for value in active[:, i]],
            )
            for i, f in enumerate(order.tolist())
            if float(largest[f]) > 0
        ],
    )


def place(loaded: Loaded, asked: schemas.PlaceRequest, stopped: Stopped) -> schemas.Place:
    """Return where a sentence lies; the first time the table's texts are read for it.

    Raises:
        UsageError: no table is loaded.
        DataError: a sentence that can't be read.
        StoppedError: nobody waits for it any longer.
    """
    marks = loaded.landmarks(stopped)
    made = loaded.intervention_of(asked.sources, stopped)
    return where(loaded.model, marks, asked.sentence, made)


def _states(model: CausalModel, sae: LoadedSAE, text: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    """Return states [kept tokens, d_model], and which tokens are sinks and left out, [tokens]."""
    out = torch.arange(len(text)) == 0  # token 0 is the sink wherever there is one
    if len(text) == 1:
        return torch.empty(0, model.d_model), out
    tokens = Tokens([text], np.array([1]))
    states = read_tokens(model, tokens, [sae.layer], share=False)[sae.layer].float()
    out[1:] = states.norm(dim=-1).cpu() > sae.sink_norm
    return states[~out[1:].to(states.device)], out


@torch.no_grad()
def _encoded(sae: LoadedSAE, states: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield activations [some tokens, features] on the CPU; all at once may be gigabytes."""
    for some in torch.split(states, _AT_ONCE):
        found = sae.sae.encode(some.to(sae.sae.device)).cpu().float()
        yield found.to_dense() if found.is_sparse else found


def search(
    loaded: Loaded, *, query: str = "", pole: str | None = None, most: int = 50
) -> schemas.FeatureList:
    """Return features whose texts hold some words or that go with a pole, the strongest first.

    Raises:
        UsageError: no table of features is loaded, or it has no texts to search; an unknown pole.
    """
    rows = loaded.ranked_features()
    wanted = query.casefold().split()
    if wanted and not loaded.examples:
        raise UsageError(
            "the features' texts aren't there",
            "the folder holds no examples.parquet",
            "make it again: moralprobe sae features",
        )
    if pole is not None:
        if pole not in POLES:
            raise UsageError(f"unknown pole {pole!r}", nearest(pole, POLES), "choose one of them")
        rows = [row for row in rows if row["pole"] == pole]
    if wanted:
        said = loaded.searched
        rows = [r for r in rows if all(word in said.get(r["feature"], "") for word in wanted)]
    return schemas.FeatureList(
        of=len(rows),
        features=[
            schemas.Feature(
                feature=row["feature"],
                chosen=row["chosen"],
                pole=row["pole"],
                effect=_number(row.get("effect")),
                specificity=_number(row.get("specificity")),
                density=_number(row.get("density")),
                holds=row.get("replicated") if row["chosen"] else None,
                texts=list(loaded.examples.get(row["feature"], ())),
            )
            for row in rows[:most]
        ],
    )


def feature_page(
    loaded: Loaded, asked: schemas.FeatureRequest, stopped: Stopped
) -> schemas.FeaturePage:
    """Return what is known of a feature, once `Loaded.check_feature` has seen it.

    Raises:
        StoppedError: nobody waits for it any longer.
    """
    halt_if(stopped)
    feature = asked.feature
    raised, lowered = next_tokens(loaded.autoencoder(), loaded.model, [feature])
    row = loaded.row_of(feature)
    shown = {} if row is None else shown_of(row)
    return schemas.FeaturePage(
        feature=feature,
        pole=None if row is None else row["pole"],
        said=shown.get("said"),
        numbers=[schemas.Measured(name=n, value=v) for n, v in shown.get("numbers", ())],
        texts=list(loaded.examples.get(feature, ())),
        raised=raised[feature],
        lowered=lowered[feature],
    )


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
