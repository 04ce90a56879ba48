"""A local model put behind an OpenAI-compatible server tells what it tells at home."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moralprobe.behavior import server as servers
from moralprobe.behavior.options import VARIANTS, Readout, choose, rate
from moralprobe.behavior.orientation.asking import Settings
from moralprobe.behavior.orientation.run import orient
from moralprobe.behavior.server import Server, parse_server
from moralprobe.behavior.text_model import NoLogprobsError, Question, UnansweredError
from moralprobe.cache import open_cache
from moralprobe.errors import DataError, UsageError
from moralprobe.models.load import load_model
from moralprobe.models.packaged import packaged_folder
from moralprobe.steering.text import LocalText
from tests.evaluation.test_judge_backends import CHAT, Chat, chat
from tests.steering.test_generate import tiny

__all__ = ["chat"]
OPTIONS = [variant.format(letter) for letter in "AB" for variant in VARIANTS]


def at_home() -> LocalText:
    model = tiny()
    model.tokenizer.chat_template = CHAT
    model.model.config.max_position_embeddings = 4096
    return LocalText(model)


def behind(local: LocalText, chat: Chat, *, told: int = 400) -> Server:
    """Let a server answer as a local model would; of its vocabulary the likeliest are told."""
    tokens = [local.model.tokenizer.decode([i]) for i in range(200)]
    tokens = [token for token in dict.fromkeys(tokens) if token.strip("\ufffd")]

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        system, said = None, [(one["role"], one["content"]) for one in body["messages"]]
        if said[0][0] == "system":
            (_, system), *said = said
        *before, (_, text) = said
        turns = tuple((before[i][1], before[i + 1][1]) for i in range(0, len(before), 2))
        question = Question(text, system, body.get("seed", 0), turns)
        if body.get("logprobs"):
            ((_, row),) = local.score_options([question], tokens)
            order = sorted(range(len(row)), key=lambda k: -row[k])[
                : min(told, body["top_logprobs"])
            ]
            top = [{"token": tokens[k], "logprob": row[k]} for k in order]
            return {"logprobs": {"content": [{"token": tokens[0], "top_logprobs": top}]}}
        temperature = body["temperature"]
        ((_, said),) = local.complete(
            [question], max_tokens=body["max_tokens"], temperature=temperature
        )
        return {"message": {"role": "assistant", "content": said}}

    chat.choice = answer
    return Server(chat.url, "m")


def test_probabilities_over_http_are_those_at_home(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "TOLD", 400)
    local = at_home()
    remote = behind(local, chat)
    asked = [Question("q" * n) for n in (1, 2, 3)]
    one_token = ["A", "B", "z"]
    here, there = (
        [row for _, row in sorted(model.score_options(asked, one_token))]
        for model in (local, remote)
    )
    assert np.isfinite(here).all()
    np.testing.assert_allclose(there, here, rtol=1e-5)
    body = chat.asked[0]
    assert body["max_tokens"] == 1 and body["logprobs"] is True and body["temperature"] == 0


def test_what_is_not_among_the_likeliest_is_missing(chat: Chat) -> None:
    remote = behind(at_home(), chat, told=3)
    ((_, row),) = remote.score_options([Question("q")], ["A", "B"])
    assert any(map(math.isnan, row))
    (found,) = choose(remote, [("q", ("yes", "no"))])
    assert found.status == "not told" and found.shares == ()


def test_a_server_that_tells_none_is_refused_with_what_to_do(chat: Chat) -> None:
    with pytest.raises(NoLogprobsError, match=r"its answers carry none.*--readout sampled"):
        choose(Server(chat.url, "m"), [("q", ("yes", "no"))])


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "You are not allowed to request logprobs from this model"),
        (400, "'logprobs' is not supported with this model"),
    ],
)
def test_a_server_that_forbids_them_is_told_so(status: int, said: str, chat: Chat) -> None:
    chat.always = (status, {"error": {"message": said}})
    with pytest.raises(NoLogprobsError, match="--readout sampled"):
        choose(Server(chat.url, "m"), [("q", ("yes", "no"))])
    with pytest.raises(UnansweredError):  # of words it says nothing
        rate(Server(chat.url, "m"), ["q"])


def told(*rows: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": value} for token, value in rows]
    return {"logprobs": {"content": [{"token": "A", "top_logprobs": top}]}}


def test_tokens_that_are_spelled_alike_count_together(chat: Chat) -> None:
    chat.choice = lambda body: told(("A", -0.2), ("B", -2.0), ("A", -6.0))
    ((_, row),) = Server(chat.url, "m").score_options([Question("q")], ["A", "B"])
    assert row[0] == pytest.approx(np.logaddexp(-0.2, -6.0)) and row[1] == pytest.approx(-2.0)


def test_a_server_that_tells_of_no_token_is_refused(chat: Chat) -> None:
    chat.choice = lambda body: told()
    with pytest.raises(NoLogprobsError):
        choose(Server(chat.url, "m"), [("q", ("yes", "no"))])


def test_one_filtered_answer_leaves_the_others(chat: Chat) -> None:
    def choice(body: dict[str, Any]) -> dict[str, Any]:
        if "bad" in body["messages"][0]["content"]:
            message = {"role": "assistant", "content": None, "refusal": "I can't help"}
            return {"finish_reason": "content_filter", "logprobs": None, "message": message}
        return {**told(("A", -0.5), ("B", -1.0)), "message": {"content": "7"}}

    chat.choice = choice
    asked = [("good", ("yes", "no")), ("bad", ("yes", "no"))]
    found = choose(Server(chat.url, "m"), asked)
    assert [one.status for one in found] == ["ok", "refused"]
    statuses = [status for _, status, _ in rate(Server(chat.url, "m"), ["good", "bad"])]
    assert statuses == ["ok", "refused"]


@pytest.mark.parametrize("address", ["http://[h/v1", "http://h:port/v1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no server's address"):
        Server(address, "m")
    with pytest.raises(UsageError, match="a model's name"):
        Server("http://h/v1", "")


def test_words_and_samples_are_those_at_home(chat: Chat) -> None:
    local = at_home()
    remote = behind(local, chat)
    dialogue = Question("q", turns=(("a?", "b."),))
    asked = [Question("q"), Question("q", "Be a nurse."), Question("q", seed=3), dialogue]
    here, there = (dict(model.complete(asked, max_tokens=4)) for model in (local, remote))
    assert here == there
    # Each question has draws of its own, and another model others: they don't err alike.
    assert len(dict(remote.complete(asked, max_tokens=4, temperature=1.0))) == 4
    seeds = [body.get("seed") for body in chat.asked]
    assert seeds[:4] == [None] * 4 and len(set(seeds[4:])) == 4
    other = dict(Server(chat.url, "n").complete(asked[:1], max_tokens=1, temperature=1.0))
    assert other and chat.asked[-1]["seed"] not in seeds
    roles = [[message["role"] for message in body["messages"]] for body in chat.asked]
    assert roles.count(["system", "user"]) == 2
    assert roles.count(["user", "assistant", "user"]) == 2


def test_a_filtered_question_is_counted_as_refused(chat: Chat) -> None:
    chat.always = (400, {"error": {"code": "content_filter", "message": "no"}})
    remote = Server(chat.url, "m")
    (found,) = choose(remote, [("q", ("yes", "no"))])
    assert found.status == "refused" and found.shares == () and "content_filter" in found.said
    ((value, status, said),) = rate(remote, ["q"])
    assert math.isnan(value) and status == "refused" and "content_filter" in said


def test_a_question_that_is_too_long_for_a_server_is_counted(chat: Chat) -> None:
    error = {"code": "context_length_exceeded", "message": "This model's maximum context length is"}
    chat.always = (400, {"error": error})
    (found,) = choose(Server(chat.url, "m"), [("q", ("yes", "no"))])
    assert found.status == "too long" and found.said.startswith("[not asked: ")
    ((_, status, _),) = rate(Server(chat.url, "m"), ["q"])
    assert status == "too long"
    chat.always = (400, {"error": {"message": "no such field"}})
    with pytest.raises(UnansweredError, match=r"the request was refused.*no such field"):
        rate(Server(chat.url, "m"), ["q"])


def test_a_server_that_is_gone_is_said(chat: Chat) -> None:
    with pytest.raises(UnansweredError, match=r"no model is reachable: m at .*:9/v1.*continues"):
        rate(Server("http://127.0.0.1:9/v1", "m", retries=0), ["q"])
    with pytest.raises(UsageError, match="no request may be under way"):
        Server(chat.url, "m", at_once=0)


@pytest.mark.parametrize(
    "number", [b'{"choices": [{"logprobs": {"content": [{"top_logprobs": [3]}]}}]}', b"{"]
)
def test_garbage_is_no_probability(number: bytes, chat: Chat) -> None:
    chat.always = number
    with pytest.raises(UnansweredError, match="no chat completion"):
        choose(Server(chat.url, "m", retries=0), [("q", ("yes", "no"))])


def test_a_server_is_named_by_its_address_and_model() -> None:
    assert parse_server("http://localhost:8000/v1=a/b=c") == ("http://localhost:8000/v1=a/b", "c")
    assert parse_server("https://h/v1=m") == ("https://h/v1", "m")
    assert parse_server("smollm2-135m") is None and parse_server("http://h/v1") is None
    assert Server("http://h/v1", "/models/tiny").name == "tiny"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Path]]:
    """`transformers serve` with SmolLM2, as a user would start it."""
    folder = packaged_folder("smollm2-135m")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    process = subprocess.Popen(
        [str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_real_server_says_words_and_tells_no_probabilities(served: tuple[str, Path]) -> None:
    url, folder = served
    remote = Server(url, str(folder), timeout=300)
    ((_, said),) = remote.complete([Question("What is the capital of France?")], max_tokens=12)
    local = LocalText(load_model("smollm2-135m"))
    ((_, here),) = local.complete([Question("What is the capital of France?")], max_tokens=12)
    assert "Paris" in said and "Paris" in here
    with pytest.raises(NoLogprobsError, match="--readout sampled"):
        choose(remote, [("Is it kind to help?", ("yes", "no"))])
    (found,) = choose(
        remote, [("Is it kind to help?", ("yes", "no"))], readout=Readout("sampled", 2)
    )
    assert found.said, "what was sampled is kept, read or not"


@pytest.mark.slow
def test_a_value_is_assigned_through_a_real_server(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    """Every item is put within its dialogue; what so small a model says is another matter."""
    url, folder = served
    settings = Settings(("altruistic",), ("no-goal",), 1, protocol="hvae")
    with (
        open_cache(tmp_path / "a.jsonl") as cache,
        contextlib.suppress(DataError),  # it may never say a letter
    ):
        orient(Server(url, str(folder), timeout=300), settings, draws=20, cache=cache)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    said = [json.loads(line)["answer"] for line in lines]
    assert len(said) == 7 and "[" not in {one[:1] for one in said}


def test_a_dialogue_goes_to_a_server_turn_by_turn(chat: Chat) -> None:
    chat.always = (200, {"choices": [{"message": {"content": "C"}}]})
    settings = Settings(("altruistic",), ("goal",), 1, protocol="hvae")
    found = orient(Server(chat.url, "m"), settings, draws=20)
    assert found.choices["letter"].to_list() == ["C"] * 6
    assert found.sessions["angle"].is_not_null().all()
    asked = [[one["role"] for one in body["messages"]] for body in chat.asked]
    assert [len(roles) for roles in asked] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert all(roles == (["user", "assistant"] * 8)[: len(roles)] for roles in asked)
    last = [one["content"] for one in chat.asked[-1]["messages"]]
    assert "altruistic" in last[0] and last[1] == "C" and "Divide coins" in last[-1]
