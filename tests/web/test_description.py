"""The API's description: checked in, and what the server says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from moralprobe import __version__
from moralprobe.web.loaded import Loaded
from moralprobe.web.server import serving
from tests.activations.test_extract import tiny

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


def described() -> dict[str, Any]:
    """Ask a server for its description."""
    with serving(Loaded(tiny())) as url:
        found: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    assert found["info"]["version"] == __version__
    return found


if __name__ == "__main__":
    CHECKED_IN.write_text(json.dumps(described(), indent=1, sort_keys=True) + "\n")
