"""The API's description: checked in, and what the server says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from moralprobe import __version__
from moralprobe.web.loaded import Loaded
from moralprobe.web.server import serving
from tests.activations.test_extract import tiny
from tests.web.test_api import loaded, model

__all__ = ["loaded", "model"]  # fixtures

CHECKED_IN = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"


def test_what_is_checked_in_is_what_is_served() -> None:
    """Made anew by: python -m tests.web.test_description."""
    assert json.loads(CHECKED_IN.read_text()) == described()


def test_every_field_of_a_request_is_bounded() -> None:
    """Texts have a longest, lists a longest, numbers both ends."""
    schemas = described()["components"]["schemas"]
    sent = ("SteerRequest", "FiresRequest", "Direction", "Features", "Fitted", "FeatureChange")
    for name in sent:
        assert schemas[name]["additionalProperties"] is False, name
        for field, said in schemas[name]["properties"].items():
            for one in said.get("anyOf", [said]):
                where = f"{name}.{field}"
                if one.get("type") == "string" and not {"enum", "const"} & one.keys():
                    assert "maxLength" in one, where
                elif one.get("type") == "array":
                    assert "maxItems" in one, where
                elif one.get("type") in ("number", "integer"):
                    assert {"minimum", "exclusiveMinimum"} & one.keys(), where
                    assert "maximum" in one, where


@pytest.mark.slow
def test_whatever_is_sent_is_answered_as_described(loaded: Loaded) -> None:
    """Requests made by schemathesis from the description: no 5xx, and no answer of another form."""
    with serving(loaded) as url:
        said = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json"),
                *("--phases", "coverage,fuzzing", "--max-examples", "10"),
                *("--checks", "not_a_server_error,status_code_conformance"),
                *("--checks", "content_type_conformance,response_schema_conformance"),
                *("--generation-deterministic", "--no-color"),
            ],
            capture_output=True,
            text=True,
        )
    assert said.returncode == 0, said.stdout + said.stderr
    assert "6 selected / 6 total" in said.stdout


def described() -> dict[str, Any]:
    """Ask a server for its description."""
    with serving(Loaded(tiny())) as url:
        found: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    assert found["info"]["version"] == __version__
    return found


if __name__ == "__main__":
    CHECKED_IN.write_text(json.dumps(described(), indent=1, sort_keys=True) + "\n")
