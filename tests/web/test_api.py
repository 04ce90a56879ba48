"""The API over a real connection: what it writes, and that the page's texts are `generate`'s."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import torch

from moralprobe.errors import UsageError
from moralprobe.evaluation.side_effects import longest_loop, units
from moralprobe.interventions import direction_intervention, feature_intervention
from moralprobe.models.causal import CausalModel
from moralprobe.steering import generate as generating
from moralprobe.steering.generate import encoded_for, generate
from moralprobe.steering.intervention import Intervention
from moralprobe.steering.rules import ProjectOut
from moralprobe.steering.sampling import Sampling
from moralprobe.web import jobs
from moralprobe.web import loaded as loading
from moralprobe.web.loaded import Loaded
from moralprobe.web.schemas import Direction, FiresRequest
from moralprobe.web.server import serving
from moralprobe.web.turns import StoppedError, Turns
from tests.activations.test_extract import tiny
from tests.evaluation.test_judge_backends import CHAT
from tests.sae.test_causal import topk_of_tokens
from tests.steering.test_generate import some_edits
from tests.web.serving import events_of

LAYER = 1
ASKED = {"prompt": "Is it fair", "max_tokens": 12, "temperature": 0.9, "seed": 3}


@pytest.fixture(scope="module")
def model() -> CausalModel:
    return tiny()


@pytest.fixture(scope="module")
def loaded(model: CausalModel, starter_table: Path) -> Loaded:
    sae = topk_of_tokens(LAYER)
    at = np.arange(sae.sae.cfg.d_sae)
    features = pl.DataFrame(
        {
            "feature": at,
            "pole": ["care" if i % 2 else "harm" for i in at],
            "chosen": at < 10,
            "t": at.astype(float),
            "effect": at / 10,
            "specificity": [float("nan") if i == 9 else 0.5 for i in at],
            "density": [0.0 if i == 94 else 0.1 for i in at],
            "replicated": at < 5,
            **dict.fromkeys(("contrast_t", "q", "half_a", "half_b", "r_length", "li_r"), 0.25),
            **{"li_class": "mono", "li_pole": "care", "slope_n": 0},
            "li_strict": at == 95,
            # A table from before slopes stood beside those of others.
            "slope": [0.25 if i == 3 else None for i in at],
            "slope_low": 0.125,
            "slope_high": 0.375,
        }
    )
    return Loaded(
        model,
        vectors=starter_table,
        sae=sae,
        features=features,
        examples={3: ["Helping a Friend move", "<b>lying</b>"], 4: ["stealing"]},
        interventions={"fitted": Intervention(some_edits().edits)},
    )


@pytest.fixture(scope="module")
def client(loaded: Loaded) -> Iterator[httpx.Client]:
    with serving(loaded) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def written(client: httpx.Client, **asked: Any) -> tuple[list[dict[str, str]], dict[str, Any]]:
    with client.stream("POST", "/api/steer", json={**ASKED, **asked}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(response))
    *pieces, (last, done) = events
    assert last == "done" and all(name == "piece" for name, _ in pieces)
    return [value for _, value in pieces], done


FITTED = {"kind": "intervention", "name": "fitted", "strength": 0.5}


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_both_texts_are_those_of_generate_and_stream(
    client: httpx.Client, model: CausalModel, positions: str
) -> None:
    pieces, done = written(client, sources=[FITTED], positions=positions)
    sampling = Sampling(12, 0.9, 0.9, seed=3)
    for side, made in (("default", None), ("steered", some_edits() * 0.5)):
        (alone,) = generate(
            model, ["Is it fair"], made, sampling=sampling, positions=positions, chat=False
        )
        assert done[side]["text"] == alone.text
        assert "".join(p["text"] for p in pieces if p["side"] == side) == alone.text
        assert (done[side]["tokens"], done[side]["edits"]) == (len(alone.ids), alone.edits)
        assert done[side]["loop"] == longest_loop(units(alone.text))
    assert done["default"]["edits"] == 0 and not done["same"]
    assert len(done["kl"]) == done["steered"]["tokens"]


def test_perplexity_and_divergence_are_those_of_the_formula(
    client: httpx.Client, model: CausalModel
) -> None:
    """Read token by token, without a cache or hooks of the scorer's."""
    _, done = written(client, sources=[FITTED], positions="generated")
    (prompt,) = encoded_for(model, ["Is it fair"], chat=False)
    (steered,) = generate(
        model,
        ["Is it fair"],
        some_edits() * 0.5,
        sampling=Sampling(12, 0.9, 0.9, seed=3),
        positions="generated",
        chat=False,
    )
    ids = torch.tensor([[*prompt.ids, *steered.ids]])
    with torch.no_grad():
        logits = model.model(ids).logits[0].log_softmax(-1)
    n = len(prompt.ids)
    taken = [float(logits[n - 1 + i, token]) for i, token in enumerate(steered.ids)]
    assert done["steered"]["perplexity"] == pytest.approx(np.exp(-np.mean(taken)), abs=1e-3)
    # Where the first new token is predicted nothing that was generated has been edited yet.
    assert done["kl"][0] == 0.0 and max(done["kl"]) > 1e-4
    assert done["kl_tokens"] == jobs.pieces(model.tokenizer, steered.ids)
    assert "".join(done["kl_tokens"]) == model.tokenizer.decode(steered.ids)
    assert done["edited"] is None


def test_at_strength_0_and_without_a_source_both_are_the_same(client: httpx.Client) -> None:
    for sources in ([], [{**FITTED, "strength": 0}]):
        _, done = written(client, sources=sources)
        assert done["same"] and done["steered"]["edits"] == 0
        assert done["default"] == done["steered"]
        assert max(done["kl"], default=0.0) == 0.0


def test_sources_add_up_to_what_python_makes(
    client: httpx.Client, model: CausalModel, loaded: Loaded
) -> None:
    assert loaded.vectors is not None and loaded.sae is not None
    direction = {"kind": "direction", "target": "care-harm", "layer": 1, "strength": 0.2}
    changes = [{"feature": 5, "scale": 0, "offset": 4}, {"feature": 7, "offset": 2}]
    made = direction_intervention(model, loaded.vectors, 1, target="care-harm")
    features = feature_intervention(loaded.sae, model, {5: (0.0, 4.0), 7: (1.0, 2.0)})
    both = made * 0.2 + features * 1.5
    _, done = written(
        client, sources=[direction, {"kind": "features", "changes": changes, "strength": 1.5}]
    )
    how = {"sampling": Sampling(12, 0.9, 0.9, seed=3), "chat": False}
    (alone,) = generate(model, ["Is it fair"], both, **how)
    assert done["steered"]["text"] == alone.text and alone.edits > 0
    _, out = written(client, sources=[{**direction, "method": "project-out", "strength": 1}])
    (edit,) = made.edits
    projected = Intervention((type(edit)(1, ProjectOut(edit.rule.direction[None]), 1.0),))  # type: ignore[union-attr]
    projected = Intervention(
        tuple(type(edit)(edit.layer, one.rule, 1.0, edit.sink_norm) for one in projected.edits)
    )
    (alone,) = generate(model, ["Is it fair"], projected, **how)
    assert out["steered"]["text"] == alone.text
    assert out["steered"]["change"] == pytest.approx(alone.change)


def test_what_is_loaded_and_what_is_not(client: httpx.Client, model: CausalModel) -> None:
    about = client.get("/api/about").json()
    assert about["layers"] == 3 and about["features"] == 96 and about["sae_layer"] == LAYER
    assert "care-harm" in about["targets"] and about["interventions"] == ["fitted"]
    assert [one["what"] for one in about["absent"]] == ["findings of a study", "chat"]
    bare = Loaded(model).about()
    assert {one.what for one in bare.absent} == {
        *(
            "directions, and where a sentence lies",
            "features",
            "search over features",
            "fitted interventions",
            "findings of a study",
            "chat",
        )
    }
    assert all("start with --" in one.why for one in bare.absent if one.what != "chat")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"kind": "direction", "target": "kindness", "layer": 1}, "unknown target 'kindness'"),
        ({"kind": "direction", "target": "care", "layer": 3}, "there is no layer 3"),
        ({"kind": "features", "changes": [{"feature": 96}]}, "96 of 96"),
        ({"kind": "features", "changes": [{"feature": 1}, {"feature": 1}]}, "one stands twice"),
        ({"kind": "intervention", "name": "../fitted"}, "unknown intervention"),
        ({"kind": "direction", "target": "care", "layer": -1}, "layer"),
        ({"kind": "magic"}, "sources"),
    ],
)
def test_what_cannot_steer_is_refused_with_the_reason(
    client: httpx.Client, source: dict[str, Any], said: str
) -> None:
    answer = client.post("/api/steer", json={**ASKED, "sources": [source]})
    assert answer.status_code == 422
    assert said in " ".join(answer.json().values())


def test_a_prompt_that_is_too_long_for_the_model_is_said_in_the_stream(
    client: httpx.Client,
) -> None:
    with client.stream("POST", "/api/steer", json={**ASKED, "prompt": "x" * 5000}) as response:
        ((name, value),) = events_of(response)
    assert name == "error" and "longer than the model can read" in value["what"]
    assert written(client)[1]["same"], "the server lives"


def test_what_fires_on_a_text(client: httpx.Client, model: CausalModel, loaded: Loaded) -> None:
    assert loaded.sae is not None
    text = "Is it fair"
    found = client.post("/api/fires", json={"text": text, "most": 5}).json()
    (encoded,) = encoded_for(model, [text], chat=False)
    assert len(found["tokens"]) == len(encoded.ids) == len(found["left_out"])
    assert found["left_out"][0] and not any(found["left_out"][1:])
    with torch.no_grad():
        states = model.model(torch.tensor([encoded.ids]), output_hidden_states=True).hidden_states[
            LAYER + 1
        ][0]
        acts = loaded.sae.sae.encode(states)
    acts[0] = 0
    largest = acts.max(0).values
    assert [one["feature"] for one in found["features"]] == torch.argsort(largest, descending=True)[
        :5
    ].tolist()
    for one in found["features"]:
        assert one["activations"] == pytest.approx(acts[:, one["feature"]].tolist(), abs=1e-3)
        pole = "care" if one["feature"] % 2 else "harm"
        assert one["pole"] == (pole if one["feature"] < 10 else None), "of what was chosen alone"
    one_token = client.post("/api/fires", json={"text": "x"}).json()
    assert all(len(one["activations"]) == len(one_token["tokens"]) for one in one_token["features"])


def test_features_are_found_by_words_and_poles(client: httpx.Client) -> None:
    every = client.get("/api/features", params={"most": 12}).json()
    assert every["of"] == 96
    assert [one["feature"] for one in every["features"]] == [*range(9, -1, -1), 95, 94]
    assert every["features"][0]["specificity"] is None, "NaN is no JSON"
    assert [one["holds"] for one in every["features"]] == [*[False] * 5, *[True] * 5, None, None]
    assert [one["pole"] for one in every["features"]][-2:] == [None, None], "of those not chosen"
    by_word = client.get("/api/features", params={"query": "friend MOVE"}).json()
    assert [one["feature"] for one in by_word["features"]] == [3]
    assert by_word["features"][0]["texts"][1] == "<b>lying</b>", "as it is: the page shows text"
    by_pole = client.get("/api/features", params={"pole": "harm"}).json()
    assert by_pole["of"] == 5 and all(one["pole"] == "harm" for one in by_pole["features"])


def test_what_cannot_be_searched_is_said(client: httpx.Client, model: CausalModel) -> None:
    assert client.get("/api/features", params={"pole": "kindness"}).status_code == 422
    with serving(Loaded(model)) as url:
        assert "--features" in httpx.get(f"{url}/api/features").json()["instead"]


def test_a_text_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    """In the chat template where there is one: what fires belongs to the tokens that are steered."""
    chatty = tiny()
    chatty.tokenizer.chat_template = CHAT
    with serving(Loaded(chatty, sae=topk_of_tokens(LAYER))) as url:
        for chat in (None, True, False):
            for path, key in (("/api/fires", "text"), ("/api/steer", "prompt")):
                asked = {key: "a<eos>b", "chat": chat}
                answer = httpx.post(url + path, json=asked, timeout=60)
                assert answer.status_code == 200
                if path == "/api/fires":
                    tokens = answer.json()["tokens"]
            (encoded,) = encoded_for(chatty, ["a<eos>b"], chat=chat)
            assert "".join(tokens) == chatty.tokenizer.decode(encoded.ids)
            assert len(tokens) == len(encoded.ids)
            # W10: what a prompt spells is text; the template's own closes the user's turn.
            assert tokens.count("<eos>") == (0 if chat is False else 1)


def test_an_autoencoder_of_pooled_vectors_does_not_say_what_fires(
    model: CausalModel,
) -> None:
    with serving(Loaded(model, sae=topk_of_tokens(LAYER, source="pooled"))) as url:
        answer = httpx.post(f"{url}/api/fires", json={"text": "Is it fair"})
        about = httpx.get(f"{url}/api/about").json()
    assert answer.status_code == 422 and "pooled" in answer.json()["why"]
    assert "what fires" in [one["what"] for one in about["absent"]]


def test_features_of_another_autoencoder_are_refused(model: CausalModel, loaded: Loaded) -> None:
    assert loaded.features is not None
    with pytest.raises(UsageError, match="isn't one of the autoencoder's"):
        Loaded(model, sae=loaded.sae, features=loaded.features.head(20))
    with pytest.raises(UsageError, match="no autoencoder"):
        Loaded(model, features=loaded.features)


def test_sources_that_change_nothing_are_left_out(client: httpx.Client) -> None:
    idle = {"kind": "features", "changes": [{"feature": 3}]}
    off = {"kind": "features", "changes": [{"feature": 3, "offset": 4}], "strength": 0}
    _, done = written(client, sources=[idle, off])
    assert done["same"] and done["kl"] == []


def test_a_layer_is_read_once_for_all_its_directions(
    model: CausalModel, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, read = Loaded(model, vectors=loaded.vectors), []
    real = loading.text_states

    def counted(*args: Any, **options: Any) -> Any:
        read.append(args[2])
        return real(*args, **options)

    monkeypatch.setattr(loading, "text_states", counted)
    for target, layer in (("care", 1), ("harm", 1), ("care", 1), ("care", 2)):
        source = Direction(kind="direction", target=target, layer=layer)
        fresh.intervention_of([source], lambda: False)
    assert read == [1, 2]
    with pytest.raises(StoppedError):
        fresh.intervention_of([Direction(kind="direction", target="care", layer=0)], lambda: True)
    with pytest.raises(StoppedError):
        fresh.landmarks(lambda: True)
    with pytest.raises(StoppedError):
        jobs.fires(loaded, FiresRequest(text="x"), lambda: True)


def test_a_text_that_is_too_long_to_be_looked_into_is_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MOST_READ", 5)
    answer = client.post("/api/fires", json={"text": "much longer than that"})
    assert answer.status_code == 422 and "too long to be looked into" in answer.json()["what"]


def test_what_nobody_foresaw_is_said_as_json(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(jobs, "fires", broken)
    monkeypatch.setattr(jobs, "steer", broken)
    with serving(loaded) as url:
        answer = httpx.post(f"{url}/api/fires", json={"text": "x"})
        assert answer.status_code == 500
        assert answer.json()["what"] == "the server failed" and "secret" not in answer.text
        with httpx.stream("POST", f"{url}/api/steer", json=ASKED) as stream:
            ((name, value),) = events_of(stream)
        assert name == "error" and value["what"] == "the server failed"


def test_a_hundred_at_once_are_served_or_told_to_come_again(loaded: Loaded) -> None:
    """Half of them leave in mid-stream; what is left in the queue afterwards is nothing."""
    turns = Turns()
    with serving(loaded, turns=turns) as url:

        def one(i: int) -> int:
            with httpx.Client(base_url=url, timeout=120) as client:
                long = {**ASKED, "max_tokens": 150 if i % 2 else 2}
                with client.stream("POST", "/api/steer", json=long) as response:
                    if response.status_code == 200 and i % 2:
                        next(events_of(response))  # and goes
                    else:
                        response.read()
                    return response.status_code

        with ThreadPoolExecutor(100) as pool:
            codes = list(pool.map(one, range(100)))
        assert set(codes) <= {200, 503} and 200 in codes and 503 in codes
        assert empty(turns)
        with httpx.Client(base_url=url, timeout=60) as client:
            assert written(client)[1]["same"]


def empty(turns: Turns) -> bool:
    """Wait until nobody has a place in the queue."""
    until = time.monotonic() + 30
    while len(turns) and time.monotonic() < until:
        time.sleep(0.02)
    return len(turns) == 0


def test_a_stream_that_nobody_reads_ends(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token takes its time, and nothing but the client's leaving ends the texts."""
    turns, passes = Turns(), []

    def slow(*_: Any) -> None:
        passes.append(1)
        time.sleep(0.01)

    counted = loaded.model.model.register_forward_hook(slow)
    monkeypatch.setattr(generating, "end_ids", lambda model: set())
    long = {**ASKED, "max_tokens": 200}
    try:
        with serving(loaded, turns=turns) as url, httpx.Client(base_url=url, timeout=60) as client:
            with client.stream("POST", "/api/steer", json=long) as response:
                assert next(events_of(response))[0] == "piece"
            assert empty(turns)
            assert 0 < len(passes) < 100, "it wrote on for nobody"
            before = len(passes)
            assert written(client)[1]["same"]
            assert len(passes) > before
    finally:
        counted.remove()


def test_a_queue_that_is_full_says_when_to_come_again(loaded: Loaded) -> None:
    turns, free = Turns(most=1), threading.Event()
    with serving(loaded, turns=turns) as url, httpx.Client(base_url=url, timeout=60) as client:
        turns.submit(free.wait)
        with client.stream("POST", "/api/steer", json=ASKED) as waiting:
            assert waiting.status_code == 200
            for path, asked in (("/api/steer", ASKED), ("/api/fires", {"text": "x"})):
                refused = client.post(path, json=asked)
                assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
                assert "too much is asked for" in refused.json()["what"]
            assert client.get("/api/about").status_code == 200
        free.set()
        assert empty(turns)
        assert written(client)[1]["same"], "who waited and left has made room"
