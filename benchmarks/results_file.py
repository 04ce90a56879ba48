"""Where results go, and what every result says of the machine that it comes from."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from moralprobe.provenance import cores, environment

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, and the versions."""
    name = platform.processor() or platform.machine()
    told, info = "", Path("/proc/cpuinfo")
    if info.is_file():
        told = info.read_text()
        models = [line for line in told.splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    bf16 = any(flag in told.split() for flag in ("avx512_bf16", "amx_bf16"))
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    processor = {"processor": name, "cores": cores(), "bf16_instructions": bf16}
    return {**processor, **gpu, **environment()}


def suffix() -> str:
    """Return what the name of a result ends in: a GPU's stand beside a processor's."""
    return "-cuda" if torch.cuda.is_available() else ""


def write(name: str, command: str, results: dict[str, Any]) -> Path:
    """Write `results/NAME.json` with the command that made it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"command": command, "machine": machine(), **results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
