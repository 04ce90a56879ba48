"""What the model is asked to do: write twice at once, and say what fires on a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from moralprobe.activations.distinct import Tokens
from moralprobe.activations.stream import read_tokens
from moralprobe.errors import UsageError
from moralprobe.evaluation.options import plain_logits, token_logprobs
from moralprobe.evaluation.side_effects import longest_loop, token_divergence, units
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.sae.load import LoadedSAE
from moralprobe.steering.apply import steered_logits
from moralprobe.steering.generate import Generation, encoded_for, side_by_side
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.sampling import Sampling
from moralprobe.web import schemas
from moralprobe.web.loaded import Loaded
from moralprobe.web.turns import Emit, Stopped

_SIDES = ("default", "steered")
_LOOPS = 12  # units of a phrase that is repeated, from which a text is called a loop
_BROKEN = 3.0  # times the perplexity of the text beside it


def steer(loaded: Loaded, asked: schemas.SteerRequest, emit: Emit, stopped: Stopped) -> None:
    """Write both texts, each piece as it comes, and then what steering did to them.

    Args:
        loaded: what the server holds.
        asked: the request.
        emit: sends an event: `piece`, and at the end `done`.
        stopped: when true the texts end within a token.
    """
    intervention = loaded.intervention_of(asked.sources)
    sampling = Sampling(asked.max_tokens, asked.temperature, asked.top_p, seed=asked.seed)
    both = side_by_side(
        loaded.model,
        asked.prompt,
        intervention if intervention is not None else Intervention(()),
        sampling=sampling,
        positions=asked.positions,
        chat=asked.chat,
        system=asked.system,
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
    (prompt,) = encoded_for(model, [asked.prompt], chat=asked.chat, system=asked.system)
    texts = [_followed(prompt, one.ids) for one in (default, steered)]
    written = [one for one in texts if any(one.action)]
    scores = iter(token_logprobs(model, plain_logits(model), written))
    perplexities = [
        float(np.exp(-next(scores).mean())) if any(one.action) else None for one in texts
    ]
    kl: list[float] = []
    if intervention is not None and steered.ids:
        moved = steered_logits(model, intervention, asked.positions)
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
        warnings=_warnings(*sides),
    )


def _warnings(default: schemas.Written, steered: schemas.Written) -> list[str]:
    found = []
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


def fires(loaded: Loaded, asked: schemas.FiresRequest) -> schemas.Fires:
    """Return a text's tokens, and the features that are most active in it.

    Raises:
        UsageError: no autoencoder is loaded.
        DataError: a text without tokens.
    """
    model, sae = loaded.model, loaded.autoencoder()
    (text,) = encoded_for(model, [asked.text], chat=False)
    acts, out = _activations(model, sae, text)
    largest = acts.max(dim=0).values
    order = torch.argsort(largest, descending=True)[: asked.most].tolist()
    poles = {}
    if loaded.features is not None:
        rows = loaded.features.filter(loaded.features["feature"].is_in(order))
        poles = dict(rows.select("feature", "pole").iter_rows())
    return schemas.Fires(
        tokens=[model.tokenizer.decode([i]) for i in text.ids],
        left_out=out.tolist(),
        features=[
            schemas.Fired(
                feature=f,
                pole=poles.get(f),
                largest=float(largest[f]),
                activations=[round(float(value), 4) for value in acts[:, f]],
            )
            for f in order
            if float(largest[f]) > 0
        ],
    )


def _activations(
    model: CausalModel, sae: LoadedSAE, text: Encoded
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return activations [tokens, features], and which tokens are sinks and have none."""
    acts = torch.zeros(len(text), sae.sae.cfg.d_sae)
    out = torch.arange(len(text)) == 0
    if len(text) > 1:
        tokens = Tokens([text], np.array([1]))  # token 0 is the sink wherever there is one
        states = read_tokens(model, tokens, [sae.layer], share=False)[sae.layer].float()
        with torch.no_grad():
            found = sae.sae.encode(states.to(sae.sae.device)).cpu().float()
        out[1:] = states.norm(dim=-1).cpu() > sae.sink_norm
        acts[1:] = torch.where(out[1:, None], 0.0, found.to_dense() if found.is_sparse else found)
    return acts, out


def search(
    loaded: Loaded, *, query: str = "", pole: str | None = None, most: int = 50
) -> schemas.FeatureList:
    """Return features whose texts hold some words or that go with a pole, the strongest first.

    Raises:
        UsageError: no table of features is loaded.
    """
    if loaded.features is None:
        raise UsageError(
            "there is nothing to search",
            "no table of features was given",
            "start with --features DIR",
        )
    wanted = query.casefold().split()
    rows = loaded.features.sort("chosen", "t", descending=True, nulls_last=True)
    if pole is not None:
        rows = rows.filter(rows["pole"] == pole)
    found = [
        row
        for row in rows.iter_rows(named=True)
        if not wanted or _holds(loaded.examples.get(row["feature"], ()), wanted)
    ]
    return schemas.FeatureList(
        of=len(found),
        features=[
            schemas.Feature(
                feature=row["feature"],
                pole=row["pole"],
                effect=_number(row.get("effect")),
                specificity=_number(row.get("specificity")),
                density=_number(row.get("density")),
                holds=row.get("replicated"),
                texts=list(loaded.examples.get(row["feature"], ())),
            )
            for row in found[:most]
        ],
    )


def _holds(texts: Sequence[str], wanted: list[str]) -> bool:
    said = " ".join(texts).casefold()
    return all(word in said for word in wanted)


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
