"""The command: it serves what it is given, and ends when it is told to."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from moralprobe import extract, load_model, probe
from moralprobe.models.tiny import save_tiny
from tests.activations.test_extract import starter


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
    return found


def test_it_serves_and_ends(tmp_path: Path, port: int) -> None:
    save_tiny("llama", tmp_path / "model", bos=True)
    starter(200).save(tmp_path / "starter.parquet")
    command = [sys.executable, "-m", "moralprobe", "serve", "--model", str(tmp_path / "model")]
    command += ["--vectors", str(tmp_path / "starter.parquet"), "--port", str(port)]
    model = load_model(tmp_path / "model")
    store = extract(model, starter(200), tmp_path / "store")
    probe(store, analyses="separation", draws=20).save(tmp_path / "study")
    command += ["--study", str(tmp_path / "study")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            url = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/\n", said)
            assert url is not None and url[1].endswith(str(port)), said
            with httpx.Client(base_url=url[1], transport=httpx.HTTPTransport(retries=20)) as client:
                about = client.get("/api/about", timeout=60).json()
            assert about["model"] == "model" and about["table"] == "starter.parquet"
            assert about["study"]["name"] == "study" and about["study"]["findings"]
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


def test_a_port_that_is_taken_is_not_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        save_tiny("llama", tmp_path / "model")
        command = [sys.executable, "-m", "moralprobe", "serve", "--model", str(tmp_path / "model")]
        command += ["--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "can't listen at 127.0.0.1" in done.stderr
    assert "http://" not in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sae", "nowhere"], "nowhere isn't there"),
        (["--study", "nowhere"], "nowhere isn't there"),
        (["--intervention", "nowhere"], "nowhere isn't there"),
        (["--vectors", "nowhere.parquet"], "nowhere.parquet isn't there"),
        (["--features", "nowhere"], "--sae DIR too"),
        (["--port", "0"], "--port"),
        (["--intervention", "a/x", "--intervention", "b/x"], "have the same name"),
    ],
)
def test_what_is_not_there_is_said_before_it_serves(
    tmp_path: Path, options: list[str], said: str
) -> None:
    save_tiny("llama", tmp_path / "model")
    command = [sys.executable, "-m", "moralprobe", "serve", "--model", str(tmp_path / "model")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
